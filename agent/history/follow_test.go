package history

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// told is what a follower was told, a call at a time.
type told struct {
	attempts []spec.ProbeAttempt
	dropped  uint64
}

// followed runs f while somebody follows the probes of pod u, who waits at the gate before each call but the first.
func followed(t *testing.T, f func(h *History, gate chan struct{})) (calls []told, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h, gate := New(nil), make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- h.Follow(ctx, func(id spec.ProbeID) bool { return id.PodUID == "u" }, func(as []spec.ProbeAttempt, dropped uint64) error {
				if len(calls) > 0 {
					<-gate
				}
				calls = append(calls, told{as, dropped})
				return nil
			})
		}()
		synctest.Wait()
		f(h, gate)
		synctest.Wait()
		cancel()
		err = <-done
		if len(h.followers) != 0 {
			t.Error("it is told of attempts for ever")
		}
	})
	return calls, err
}

func at(second int) spec.Attempt { return spec.Attempt{Start: time.Unix(int64(second), 0)} }

func TestWhoFollowsIsToldOfWhatIsAnsweredFromThenOn(t *testing.T) {
	calls, err := followed(t, func(h *History, gate chan struct{}) {
		close(gate)
		h.Add(id, at(1))
		h.Add(spec.ProbeID{PodUID: "other", Container: "c", Kind: spec.Liveness}, at(2))
		h.Forget(id) // as when its container is replaced
		synctest.Wait()
		h.Add(id, at(3))
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("ended by %v", err)
	}
	if len(calls) != 3 || len(calls[0].attempts) != 0 {
		t.Fatalf("%d calls: %v", len(calls), calls)
	}
	for i, second := range []int64{1, 3} {
		c := calls[i+1]
		if len(c.attempts) != 1 || c.dropped != 0 || c.attempts[0].Start.Unix() != second || c.attempts[0].ID != id {
			t.Errorf("call %d: %+v", i+1, c)
		}
	}
}

func TestWhoIsTooSlowLosesTheOldestAndIsToldHowMany(t *testing.T) {
	calls, _ := followed(t, func(h *History, gate chan struct{}) {
		h.Add(id, at(0)) // the one that holds it up
		synctest.Wait()
		for i := range Queue + 7 {
			h.Add(id, at(1+i))
		}
		close(gate)
	})
	if len(calls) != 3 {
		t.Fatalf("%d calls", len(calls))
	}
	last := calls[2]
	if last.dropped != 7 || len(last.attempts) != Queue || last.attempts[0].Start.Unix() != 8 || last.attempts[Queue-1].Start.Unix() != Queue+7 {
		t.Errorf("%d dropped, then %d from %v", last.dropped, len(last.attempts), last.attempts[0].Start.Unix())
	}
}

func TestFollowingEndsWithTheErrorOfWhoFollows(t *testing.T) {
	enough := errors.New("enough")
	if err := New(nil).Follow(t.Context(), nil, func([]spec.ProbeAttempt, uint64) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("ended by %v", err)
	}
}
