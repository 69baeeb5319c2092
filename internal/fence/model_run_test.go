package fence

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// histories is how many seeds a test plays: n, or what MUSTER_MODEL_HISTORIES says.
func histories(t *testing.T, n int) uint64 {
	if s := os.Getenv("MUSTER_MODEL_HISTORIES"); s != "" {
		v, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("MUSTER_MODEL_HISTORIES: %v", err)
		}
		n = v
	}
	if testing.Short() {
		n = min(n, 2000)
	}
	return uint64(n)
}

func TestAFencedNameNeverExecutesTwiceAndComesToRun(t *testing.T) {
	const parts = 4
	n := histories(t, 20_000)
	for part := range uint64(parts) {
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			t.Parallel()
			played, steps := 0, 0
			for seed := part; seed < n; seed += parts {
				verdict, _, s := play(seed, noBug, false)
				if played, steps = played+1, steps+s; verdict != "" {
					_, trace, _ := play(seed, noBug, true)
					t.Fatalf("seed %d: %s\n%s", seed, verdict, trail(trace, 60))
				}
			}
			t.Logf("%d histories, %d steps", played, steps)
		})
	}
}

// foundBefore spares the search for the rarest: a seed that no longer finds its bug costs time and nothing else.
var foundBefore = map[bug]uint64{bugSealByState: 15341, bugPublishLate: 9244, bugEarlyHold: 2973}

func TestEverySeededBugIsCaught(t *testing.T) {
	for _, b := range []bug{
		bugMargin, bugAckTime, bugNoSeal, bugAckAfterSeal, bugMoveUnchecked, bugOldSet, bugAckBeforeSet, bugInherited,
		bugNoRestartWait, bugMonotonic, bugLocalRestart, bugStartUnarmed, bugEpochUnchecked, bugRebound, bugStoppedForgot,
		bugStartInFlight, bugSealByState, bugLeftUnarmed, bugPublishLate, bugOldSessionSet, bugEarlyHold,
	} {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			// Only a second instance counts: every one of these is an error of safety.
			caught := func(seed uint64) bool {
				verdict, _, _ := play(seed, b, false)
				if !strings.HasSuffix(verdict, "execute") {
					return false
				}
				t.Logf("caught by history %d: %s", seed, verdict)
				return true
			}
			if caught(foundBefore[b]) {
				return
			}
			for seed := range uint64(60_000) {
				if caught(seed) {
					return
				}
			}
			t.Error("not caught by 60000 histories")
		})
	}
}

func TestAHistoryIsRepeatable(t *testing.T) {
	for seed := range uint64(20) {
		_, first, n := play(seed, noBug, true)
		_, second, m := play(seed, noBug, true)
		if n != m || fmt.Sprint(first) != fmt.Sprint(second) {
			t.Fatalf("seed %d: %d steps, then %d", seed, n, m)
		}
	}
}
