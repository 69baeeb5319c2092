package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/memory"
	"github.com/musterhq/muster/internal/spec"
)

// counted is a store whose commits are counted, and may fail.
type counted struct {
	*memory.Store
	sizes  []int
	grants int
	fail   error
}

func (c *counted) Commit(ctx context.Context, t store.Txn) (int64, error) {
	c.sizes = append(c.sizes, len(t.Then))
	if c.fail != nil {
		return 0, c.fail
	}
	return c.Store.Commit(ctx, t)
}

func (c *counted) Grant(ctx context.Context, ttl time.Duration) (store.LeaseID, error) {
	c.grants++
	return c.Store.Grant(ctx, ttl)
}

// bubble runs f with a writer in fake time; run starts it.
func bubble(t *testing.T, f func(w *Writer, s *counted, run func())) {
	synctest.Test(t, func(t *testing.T) {
		s := &counted{Store: memory.New()}
		w := New(s, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		running := false
		f(w, s, func() {
			running = true
			go func() { done <- w.Run(ctx) }()
			synctest.Wait()
		})
		cancel()
		if running {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		_ = s.Close()
	})
}

func event(name string, count int32) spec.Event {
	return spec.Event{Meta: spec.Meta{Namespace: "default", Name: name}, Count: count}
}

func stored(t *testing.T, s *counted, name string) (int32, bool) {
	t.Helper()
	rec, err := s.Get(t.Context(), store.Key{Family: store.Events, Namespace: "default", Name: name})
	if errors.Is(err, store.ErrNotFound) {
		return 0, false
	}
	if err != nil {
		t.Fatal(err)
	}
	return rec.Value.(*spec.Event).Count, true
}

func TestEventsAreWrittenInBatchesTheLastOfANameCounts(t *testing.T) {
	bubble(t, func(w *Writer, s *counted, run func()) {
		for i := range store.MaxOps + 1 {
			w.Write(event(fmt.Sprint("e", i), 1))
		}
		w.Write(event("e0", 2), event("last", 1), event("last", 2), event("last", 3))
		run()
		if len(s.sizes) != 2 || s.sizes[0] != store.MaxOps || s.sizes[1] != 3 {
			t.Errorf("commits of %v", s.sizes)
		}
		for name, want := range map[string]int32{"e0": 2, "e1": 1, "last": 3} {
			if got, ok := stored(t, s, name); got != want {
				t.Errorf("%s: count %d, %v, want %d", name, got, ok, want)
			}
		}
	})
}

func TestAnEventLivesOneToTwoHoursWithoutAnythingBeingKeptAlive(t *testing.T) {
	bubble(t, func(w *Writer, s *counted, run func()) {
		run()
		write := func(name string) {
			w.Write(event(name, 1))
			synctest.Wait()
		}
		write("first")
		time.Sleep(59 * time.Minute)
		write("later")
		if s.grants != 1 {
			t.Errorf("%d leases within an hour", s.grants)
		}
		time.Sleep(2 * time.Minute)
		write("next")
		if s.grants != 2 {
			t.Errorf("%d leases after an hour", s.grants)
		}
		time.Sleep(58*time.Minute + 30*time.Second) // 1 h 59.5 min after the first, 1 h 0.5 min after "later"
		for _, name := range []string{"first", "later", "next"} {
			if _, ok := stored(t, s, name); !ok {
				t.Errorf("%s is gone too early", name)
			}
		}
		time.Sleep(time.Minute)
		for name, want := range map[string]bool{"first": false, "later": false, "next": true} {
			if _, ok := stored(t, s, name); ok != want {
				t.Errorf("%s: kept %v, want %v", name, ok, want)
			}
		}
	})
}

func TestALeaseThatIsGoneIsMadeAnew(t *testing.T) {
	bubble(t, func(w *Writer, s *counted, run func()) {
		run()
		w.Write(event("a", 1))
		synctest.Wait()
		if err := s.Revoke(t.Context(), w.lease); err != nil {
			t.Fatal(err)
		}
		w.Write(event("b", 1))
		synctest.Wait()
		if _, ok := stored(t, s, "b"); !ok || s.grants != 2 {
			t.Errorf("written %v, %d leases", ok, s.grants)
		}
	})
}

func TestAFullQueueDropsTheNewestAndCountsThem(t *testing.T) {
	bubble(t, func(w *Writer, s *counted, run func()) {
		all := make([]spec.Event, queue+7)
		for i := range all {
			all[i] = event(fmt.Sprint("e", i), 1)
		}
		if got := w.Write(all...); got != 7 {
			t.Errorf("%d dropped", got)
		}
		run()
		_, first := stored(t, s, "e0")
		_, last := stored(t, s, fmt.Sprint("e", queue-1))
		_, over := stored(t, s, fmt.Sprint("e", queue))
		if !first || !last || over {
			t.Errorf("kept: first %v, last %v, beyond the bound %v", first, last, over)
		}
		if got := w.Write(event("x", 1)); got != 0 {
			t.Error("dropped with room in the queue")
		}
	})
}

func TestEventsThatCannotBeWrittenHoldNoOther(t *testing.T) {
	bubble(t, func(w *Writer, s *counted, run func()) {
		run()
		s.fail = store.ErrFull
		w.Write(event("a", 1))
		synctest.Wait()
		s.fail = nil
		w.Write(event("b", 1))
		synctest.Wait()
		if _, ok := stored(t, s, "b"); !ok {
			t.Error("the next event is not written")
		}
	})
}
