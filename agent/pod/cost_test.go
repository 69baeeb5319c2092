package pod

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/internal/spec"
)

// weighed is one look at an instance's probes: how long after the one before, and what each kind has spent in all.
type weighed struct {
	after               time.Duration
	instance            string
	liveness, readiness time.Duration
	attempts            int
}

func TestProbesThatTakeTooMuchOfALimitAreTold(t *testing.T) {
	const (
		s   = time.Second
		min = time.Minute
	)
	for name, tc := range map[string]struct {
		limit   int64
		percent int
		looks   []weighed
		// told are the looks that brought an event.
		told []int
	}{
		"over a tenth":                          {100, 10, []weighed{{0, "a", 0, 0, 0}, {min, "a", 601 * time.Millisecond, 0, 6}}, []int{1}},
		"just a tenth":                          {100, 10, []weighed{{0, "a", 0, 0, 0}, {min, "a", 600 * time.Millisecond, 0, 6}}, nil},
		"both kinds together":                   {100, 10, []weighed{{0, "a", 0, 0, 0}, {min, "a", 400 * time.Millisecond, 400 * time.Millisecond, 6}}, []int{1}},
		"what was spent before the first look":  {100, 10, []weighed{{0, "a", min, 0, 9}, {min, "a", min + 500*time.Millisecond, 0, 9}}, nil},
		"not yet a minute":                      {100, 10, []weighed{{0, "a", 0, 0, 0}, {59 * s, "a", 30 * s, 0, 9}, {s, "a", 30 * s, 0, 9}}, []int{2}},
		"a peak that is over":                   {100, 10, []weighed{{0, "a", 0, 0, 0}, {10 * min, "a", 5 * s, 0, 9}}, nil},
		"a new instance begins anew":            {100, 10, []weighed{{0, "a", 0, 0, 0}, {min, "b", 30 * s, 0, 9}, {min, "b", 31 * s, 0, 9}}, []int{2}},
		"counted anew meanwhile":                {100, 10, []weighed{{0, "a", 30 * s, 0, 9}, {min, "a", 3 * s, 0, 1}, {min, "a", 6 * s, 0, 2}}, []int{2}},
		"once, and again after an hour":         {100, 10, []weighed{{0, "a", 0, 0, 0}, {min, "a", 5 * s, 0, 9}, {min, "a", 10 * s, 0, 9}, {58 * min, "a", 600 * s, 0, 9}, {min, "a", 605 * s, 0, 9}}, []int{1, 4}},
		"of another instance at once":           {100, 10, []weighed{{0, "a", 0, 0, 0}, {min, "a", 5 * s, 0, 9}, {s, "b", 0, 0, 0}, {min, "b", 5 * s, 0, 9}}, []int{1, 3}},
		"without a limit":                       {0, 10, []weighed{{0, "a", 0, 0, 0}, {min, "a", 30 * s, 0, 9}}, nil},
		"where nobody wants to know":            {100, 0, []weighed{{0, "a", 0, 0, 0}, {min, "a", 30 * s, 0, 9}}, nil},
		"of a large limit":                      {8000, 10, []weighed{{0, "a", 0, 0, 0}, {min, "a", 48 * s, 0, 9}, {min, "a", 97 * s, 0, 9}}, []int{2}},
		"without an instance there is no event": {100, 10, []weighed{{0, "", 0, 0, 0}, {min, "", 30 * s, 0, 9}}, nil},
	} {
		var cost ProbeCost
		now := time.Unix(1_700_000_000, 0)
		var told []int
		for i, l := range tc.looks {
			now = now.Add(l.after)
			spent := map[spec.ProbeKind]Spent{spec.Liveness: {l.liveness, l.attempts}, spec.Readiness: {l.readiness, l.attempts}}
			if e, ok := cost.Weigh(now, l.instance, spent, tc.limit, tc.percent); ok {
				told = append(told, i)
				if e.Type != spec.EventWarning || e.Reason != "ProbesExpensive" {
					t.Errorf("%s: event %+v", name, e)
				}
			}
		}
		if len(told) != len(tc.told) || len(told) > 0 && (told[0] != tc.told[0] || told[len(told)-1] != tc.told[len(told)-1]) {
			t.Errorf("%s: told at %v, want %v", name, told, tc.told)
		}
	}
}

func TestTheEventHasTheFiguresAndTheDearestProbe(t *testing.T) {
	var cost ProbeCost
	now := time.Unix(1_700_000_000, 0)
	cost.Weigh(now, "a", map[spec.ProbeKind]Spent{spec.Readiness: {time.Second, 10}}, 100, 10)
	e, ok := cost.Weigh(now.Add(75*time.Second), "a", map[spec.ProbeKind]Spent{
		spec.Liveness: {500 * time.Millisecond, 5}, spec.Readiness: {2 * time.Second, 30},
	}, 100, 10)
	const want = "Probes take 20.0% of the CPU limit of 100m (more than 10%): 1.5s of processor time in 1m15s, of which the readiness probe took 1s in 20 attempts"
	if !ok || e.Message != want {
		t.Errorf("got %q, want %q", e.Message, want)
	}
}

func TestProbesWithinTheirShareAreNeverToldAndOthersWithinTwoMinutes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit, percent := rapid.Int64Range(1, 64_000).Draw(t, "limit"), rapid.IntRange(1, 100).Draw(t, "percent")
		allowed := float64(limit) / 1000 * float64(percent) / 100 // of a core
		share := rapid.Float64Range(0, 2).Draw(t, "share")
		if share > 0.99 && share < 1.01 {
			return // too near to tell
		}
		var cost ProbeCost
		start := time.Unix(1_700_000_000, 0)
		events := 0
		now := start
		for i := 0; now.Sub(start) < 40*time.Minute; i++ {
			spent := map[spec.ProbeKind]Spent{spec.Liveness: {time.Duration(share * allowed * float64(now.Sub(start))), i}}
			e, ok := cost.Weigh(now, "a", spent, limit, percent)
			if ok {
				events++
			}
			if ok && (share < 1 || !strings.Contains(e.Message, "liveness")) {
				t.Fatalf("%v of what is allowed gives %q", share, e.Message)
			}
			if share > 1 && events == 0 && now.Sub(start) > 2*time.Minute {
				t.Fatalf("%v of what is allowed is not told after %v", share, now.Sub(start))
			}
			now = now.Add(time.Duration(rapid.Int64Range(1, int64(CostWindow)).Draw(t, "pause")))
		}
		if events > 1 {
			t.Fatalf("told %d times within an hour", events)
		}
	})
}
