package storetest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/memory"
)

func TestWithoutAFaultEverythingPasses(t *testing.T) {
	RunInBubbles(t, func(t *testing.T) Harness {
		s := memory.New()
		f := NewFaults(s)
		t.Cleanup(func() { _ = f.Close() })
		return Harness{Store: f, Compact: func(_ *testing.T, revision int64) { s.Compact(revision) }}
	})
}

func TestFaultsDoWhatTheyAreOrderedTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFaults(memory.New())
		defer f.Close()
		write := func(ctx context.Context, name string) error {
			_, err := f.Commit(ctx, store.Txn{Then: []store.Write{put(name, "n1")}})
			return err
		}
		order := func(fault Fault) {
			f.On(func(c Call) Fault {
				if c.Op != Commit || len(c.Txns) != 1 {
					return Fault{}
				}
				return fault
			})
		}

		order(Fault{Refuse: store.ErrFull})
		if err := write(t.Context(), "refused"); !errors.Is(err, store.ErrFull) || node(t, f, "refused") != "" {
			t.Errorf("refused: %v, on %q; want ErrFull and nothing written", err, node(t, f, "refused"))
		}
		order(Fault{Unanswered: true})
		if err := write(t.Context(), "unanswered"); !errors.Is(err, store.ErrUnknown) || node(t, f, "unanswered") != "n1" {
			t.Errorf("unanswered: %v, on %q; want ErrUnknown and n1", err, node(t, f, "unanswered"))
		}
		order(Fault{Unanswered: true, Late: time.Second})
		if err := write(t.Context(), "late"); !errors.Is(err, store.ErrUnknown) || node(t, f, "late") != "" {
			t.Errorf("late: %v, on %q; want ErrUnknown and nothing yet", err, node(t, f, "late"))
		}
		time.Sleep(2 * time.Second)
		if n := node(t, f, "late"); n != "n1" {
			t.Errorf("late: on %q after two seconds, want n1", n)
		}
		order(Fault{Delay: time.Second})
		begun := time.Now()
		if err := write(t.Context(), "delayed"); err != nil || time.Since(begun) != time.Second {
			t.Errorf("delayed: %v after %v, want nil after 1 s", err, time.Since(begun))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := write(ctx, "given up"); !errors.Is(err, context.DeadlineExceeded) || node(t, f, "given up") != "" {
			t.Errorf("given up: %v, on %q; want DeadlineExceeded and nothing written", err, node(t, f, "given up"))
		}
		f.On(nil)
		if err := write(t.Context(), "well"); err != nil {
			t.Errorf("after the faults: %v", err)
		}
	})
}

func TestWatchesAreHeldAndBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFaults(memory.New())
		defer f.Close()
		w := f.Watch(t.Context(), 0)
		f.HoldWatches()
		commit(t, f, nil, put("a", "n1"))
		synctest.Wait()
		select {
		case c := <-w.C():
			t.Errorf("a held watch delivered %+v", c)
		default:
		}
		f.ReleaseWatches()
		next(t, w, 1)
		f.BreakWatches(store.ErrCompacted)
		for range w.C() {
		}
		if err := w.Err(); !errors.Is(err, store.ErrCompacted) {
			t.Errorf("broken watch: %v, want ErrCompacted", err)
		}
		again := f.Watch(t.Context(), 0)
		next(t, again, 1)
	})
}
