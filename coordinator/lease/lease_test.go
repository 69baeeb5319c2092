package lease

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/memory"
	"github.com/musterhq/muster/internal/fence"
	"github.com/musterhq/muster/internal/spec"
)

const ttl = 10 * time.Second

// faulty is a store whose next commits end as the test says.
type faulty struct {
	store.Store
	fail []func(commit func() (int64, error)) (int64, error)
}

func (f *faulty) Commit(ctx context.Context, t store.Txn) (int64, error) {
	commit := func() (int64, error) { return f.Store.Commit(ctx, t) }
	if len(f.fail) == 0 {
		return commit()
	}
	next := f.fail[0]
	f.fail = f.fail[1:]
	return next(commit)
}

// bench is a run of a coordinator in fake time.
type bench struct {
	*Leases
	t     *testing.T
	ctx   context.Context
	store *faulty
	stop  context.CancelFunc
	done  chan struct{}
	runs  int
	begun time.Time
}

// bubble runs f with a coordinator that has just started on an empty store.
func bubble(t *testing.T, f func(b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, ctx: t.Context(), store: &faulty{Store: memory.New()}, begun: time.Now()}
		b.restart()
		f(b)
		b.kill()
		b.store.Close()
	})
}

func (b *bench) kill() {
	if b.stop != nil {
		b.stop()
		<-b.done
	}
}

// restart is the next run on the same store.
func (b *bench) restart() {
	b.t.Helper()
	b.kill()
	b.runs++
	ctx, stop := context.WithCancel(b.ctx)
	b.stop, b.done = stop, make(chan struct{})
	cache := store.NewCache(b.store, slog.New(slog.DiscardHandler))
	var err error
	ready := make(chan struct{})
	go func() {
		defer close(b.done)
		ended := make(chan struct{})
		go func() { defer close(ended); cache.Run(ctx) }()
		<-cache.Ready()
		b.Leases, err = New(Config{
			Owner: string(rune('A' + b.runs)), TTL: ttl, Now: func() time.Duration { return time.Since(b.begun) + time.Second },
		}, b.store, cache, slog.New(slog.DiscardHandler))
		close(ready)
		b.Run(ctx)
		<-ended
	}()
	<-ready
	if err != nil {
		b.t.Fatal(err)
	}
	synctest.Wait()
}

func hello(session int64) Hello { return Hello{Node: "n1", Instance: "i", Boot: "b", Session: session} }

func (b *bench) open(h Hello) Opened {
	b.t.Helper()
	o, err := b.Open(b.ctx, h)
	if err != nil {
		b.t.Fatal(err)
	}
	return o
}

func (b *bench) stored() (*spec.NodeLease, int64) {
	b.t.Helper()
	rec, err := b.store.Get(b.ctx, key("n1"))
	if err != nil {
		b.t.Fatal(err)
	}
	return rec.Value.(*spec.NodeLease), rec.Revision
}

// seal is what a leader writes.
func (b *bench) seal() {
	b.t.Helper()
	l, revision := b.stored()
	next := *l
	next.State = spec.LeaseSealing
	if _, err := b.store.Store.Commit(b.ctx, store.Txn{
		If: []store.Cond{{Key: key("n1"), Revision: revision}}, Then: []store.Write{{Key: key("n1"), Value: &next}},
	}); err != nil {
		b.t.Fatal(err)
	}
	synctest.Wait()
}

func (b *bench) renew(session int64, longest time.Duration) time.Duration {
	b.t.Helper()
	ack, err := b.Renew("n1", session, 1, true, longest)
	if err != nil {
		b.t.Fatal(err)
	}
	synctest.Wait()
	return ack.TTL
}

func TestAnOpenedSessionIsStoredAndAcknowledged(t *testing.T) {
	bubble(t, func(b *bench) {
		o := b.open(hello(1))
		l, revision := b.stored()
		want := spec.NodeLease{State: spec.LeaseOpen, Owner: "B", Session: 1, Instance: "i", Boot: "b", TTL: ttl}
		if *l != want || o.Revision != revision || o.TTL != ttl || o.RenewEvery != time.Second {
			t.Errorf("stored %+v at %d, opened %+v", l, revision, o)
		}
		if got := b.renew(1, 0); got != ttl {
			t.Errorf("acknowledged with %v", got)
		}
		if _, after := b.stored(); after != revision {
			t.Error("a renewal was written")
		}
	})
}

func TestSessionsAreRefusedByReason(t *testing.T) {
	bubble(t, func(b *bench) {
		b.open(hello(3))
		for _, c := range []struct {
			h    Hello
			want error
		}{
			{hello(3), ErrSessionStale},
			{Hello{Node: "n1", Instance: "other", Boot: "b", Session: 1}, ErrNodeNameTaken},
			{Hello{Node: "n1", Instance: "i", Boot: "rebooted", Session: 4}, ErrNodeNameTaken},
		} {
			if _, err := b.Open(b.ctx, c.h); !errors.Is(err, c.want) {
				t.Errorf("%+v: %v, want %v", c.h, err, c.want)
			}
		}
		if _, err := b.Renew("n1", 2, 1, true, 0); !errors.Is(err, ErrSealed) {
			t.Errorf("an older session renewed: %v", err)
		}
		time.Sleep(ttl + fence.Margin(ttl))
		b.open(Hello{Node: "n1", Instance: "i", Boot: "rebooted", Session: 4})
	})
}

func TestTheOwnerAnswersASealAndAcknowledgesNoMore(t *testing.T) {
	bubble(t, func(b *bench) {
		b.open(hello(1))
		b.renew(1, 0)
		time.Sleep(5 * time.Second)
		b.seal()
		l, _ := b.stored()
		if want := ttl + fence.Margin(ttl) - 5*time.Second; l.State != spec.LeaseSealed || l.Remaining != want {
			t.Errorf("stored %+v, want %v left", l, want)
		}
		if _, err := b.Renew("n1", 1, 2, true, 0); !errors.Is(err, ErrSealed) {
			t.Errorf("renewed: %v", err)
		}
		if _, ok := b.Revision("n1", 1); ok {
			t.Error("its session still counts")
		}
	})
}

func TestARunAnswersForTheOneBeforeIt(t *testing.T) {
	bubble(t, func(b *bench) {
		b.open(hello(1))
		b.restart()
		time.Sleep(2 * time.Second)
		b.seal()
		if l, _ := b.stored(); l.State != spec.LeaseSealed || l.Remaining != 10*time.Second {
			t.Errorf("stored %+v: the wait is counted from this run's start", l)
		}
	})
}

func TestASealThatWasWaitingIsAnsweredAtTheStart(t *testing.T) {
	bubble(t, func(b *bench) {
		b.open(hello(1))
		b.kill()
		b.stop = nil
		b.seal()
		b.restart()
		if l, _ := b.stored(); l.State != spec.LeaseSealed || l.Remaining != 12*time.Second {
			t.Errorf("stored %+v", l)
		}
	})
}

func TestAnUnansweredOpenThatWasWrittenIsOpen(t *testing.T) {
	bubble(t, func(b *bench) {
		b.store.fail = append(b.store.fail, func(commit func() (int64, error)) (int64, error) {
			commit()
			return 0, store.ErrUnknown
		})
		o := b.open(hello(1))
		if _, revision := b.stored(); o.Revision != revision {
			t.Errorf("opened at %d, stored at %d", o.Revision, revision)
		}
		b.renew(1, 0)
	})
}

func TestAnUnansweredOpenThatWasNotWrittenIsRefused(t *testing.T) {
	bubble(t, func(b *bench) {
		b.store.fail = append(b.store.fail, func(func() (int64, error)) (int64, error) { return 0, store.ErrUnknown })
		if _, err := b.Open(b.ctx, hello(1)); !errors.Is(err, store.ErrUnknown) {
			t.Errorf("%v", err)
		}
		if b.Sign("n1").Up {
			t.Error("up")
		}
		b.open(hello(2))
	})
}

func TestAnOpenThatIsSealedBeforeItsAnswerIsNotUp(t *testing.T) {
	bubble(t, func(b *bench) {
		b.store.fail = append(b.store.fail, func(commit func() (int64, error)) (int64, error) {
			rev, err := commit()
			b.seal()
			return rev, err
		})
		if _, err := b.Open(b.ctx, hello(1)); !errors.Is(err, ErrSealed) {
			t.Errorf("%v", err)
		}
		if b.Sign("n1").Up {
			t.Error("up")
		}
	})
}

func TestASealIsAnsweredOnceTheStoreCan(t *testing.T) {
	bubble(t, func(b *bench) {
		b.open(hello(1))
		failing := func(func() (int64, error)) (int64, error) { return 0, store.ErrFull }
		b.store.fail = append(b.store.fail, failing, failing)
		b.seal()
		if l, _ := b.stored(); l.State != spec.LeaseSealing {
			t.Fatalf("stored %+v", l)
		}
		if _, err := b.Renew("n1", 1, 1, true, 0); !errors.Is(err, ErrSealed) {
			t.Errorf("renewed meanwhile: %v", err)
		}
		time.Sleep(time.Second)
		if l, _ := b.stored(); l.State != spec.LeaseSealed {
			t.Errorf("stored %+v", l)
		}
	})
}

// hold runs Hold while the node renews, and returns what the last renewal was acknowledged with.
func (b *bench) hold(session int64) (nodes int, last time.Duration) {
	ctx, cancel := context.WithTimeout(b.ctx, 3*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() { defer close(done); nodes = b.Hold(ctx) }()
	for {
		synctest.Wait()
		select {
		case <-done:
			return nodes, last
		default:
		}
		last = b.renew(session, 0)
		time.Sleep(500 * time.Millisecond)
	}
}

func TestAHoldOutlivesTheRunAndIsTakenBackWhenNothingStandsOnIt(t *testing.T) {
	bubble(t, func(b *bench) {
		b.open(hello(1))
		if n, last := b.hold(1); n != 1 || last != fence.HoldTTL {
			t.Fatalf("%d nodes hold, acknowledged with %v", n, last)
		}
		b.restart()
		if _, err := b.Open(b.ctx, Hello{Node: "n1", Instance: "other", Boot: "b", Session: 1}); !errors.Is(err, ErrNodeNameTaken) {
			t.Errorf("another instance during the hold: %v", err)
		}
		if o := b.open(hello(2)); o.TTL != fence.HoldTTL {
			t.Errorf("opened with %v", o.TTL)
		}
		if got := b.renew(2, time.Minute); got != ttl {
			t.Errorf("acknowledged with %v", got)
		}
		if l, _ := b.stored(); l.TTL != fence.HoldTTL {
			t.Errorf("taken back with a minute left: %+v", l)
		}
		b.renew(2, ttl)
		l, revision := b.stored()
		if l.TTL != ttl {
			t.Errorf("not taken back: %+v", l)
		}
		if now, ok := b.Revision("n1", 2); !ok || now != revision {
			t.Errorf("the session's revision is %d, stored %d", now, revision)
		}
	})
}

func TestALoweringThatWaitsDoesNotUndoAHold(t *testing.T) {
	bubble(t, func(b *bench) {
		b.open(hello(1))
		b.hold(1)
		b.restart()
		b.open(hello(2))
		// The renewal asks for it while its writer is busy; the hold is written first.
		s := b.slot("n1")
		s.mu.Lock()
		rec, ok := s.owner.Lower(0)
		_, revision := s.owner.Record()
		s.lower = &lowered{rec, revision}
		s.mu.Unlock()
		if !ok {
			t.Fatal("nothing to lower")
		}
		if !b.holdOne(b.ctx, "n1", s) {
			t.Fatal("not held")
		}
		b.lowerAll(b.ctx)
		if l, _ := b.stored(); l.TTL != fence.HoldTTL {
			t.Errorf("stored %+v", l)
		}
	})
}

func TestAHoldThatLosesARaceIsWrittenOverWhatWon(t *testing.T) {
	bubble(t, func(b *bench) {
		b.open(hello(1))
		b.store.fail = append(b.store.fail, func(commit func() (int64, error)) (int64, error) {
			l, _ := b.stored()
			same := *l // whoever wrote it: the revision is another
			if _, err := b.store.Store.Commit(b.ctx, store.Txn{Then: []store.Write{{Key: key("n1"), Value: &same}}}); err != nil {
				t.Error(err)
			}
			return commit()
		})
		if n, last := b.hold(1); n != 1 || last != fence.HoldTTL {
			t.Errorf("%d nodes hold, acknowledged with %v", n, last)
		}
	})
}

func TestASessionThatOpensDuringTheHoldIsHeldToo(t *testing.T) {
	bubble(t, func(b *bench) {
		b.open(hello(1))
		b.hold(1)
		b.open(hello(2))
		if got := b.renew(2, 0); got != fence.HoldTTL {
			t.Errorf("acknowledged with %v", got)
		}
	})
}

func TestANodeThatIsGoneDoesNotKeepTheStopWaiting(t *testing.T) {
	bubble(t, func(b *bench) {
		b.open(hello(1))
		b.Closed("n1", 1)
		begin := time.Now()
		if n := b.Hold(b.ctx); n != 0 || time.Since(begin) > time.Second {
			t.Errorf("%d nodes after %v", n, time.Since(begin))
		}
	})
}

func TestSignsOfLife(t *testing.T) {
	bubble(t, func(b *bench) {
		if s := b.Sign("n1"); s != (Sign{Expired: true}) {
			t.Errorf("before anything %+v", s)
		}
		b.open(hello(1))
		time.Sleep(2 * time.Second)
		if s := b.Sign("n1"); s != (Sign{Ago: 2 * time.Second, Heard: true, Up: true}) {
			t.Errorf("Hello counts as one: %+v", s)
		}
		if _, err := b.Renew("n1", 1, 1, false, 0); err != nil {
			t.Fatal(err)
		}
		if s := b.Sign("n1"); s.Ago != 2*time.Second {
			t.Errorf("a renewal without the full set is none: %+v", s)
		}
		b.renew(1, 0)
		b.Bye("n1", 1, 30*time.Second)
		b.Closed("n1", 1)
		time.Sleep(time.Second)
		if s := b.Sign("n1"); s != (Sign{Ago: time.Second, Heard: true, Comeback: 29 * time.Second}) {
			t.Errorf("after Bye %+v", s)
		}
		b.open(hello(2))
		b.Closed("n1", 1)
		if s := b.Sign("n1"); !s.Up || s.Comeback != 0 {
			t.Errorf("back, with an old stream's end: %+v", s)
		}
		time.Sleep(ttl + fence.Margin(ttl) - 1)
		if s := b.Sign("n1"); s.Expired {
			t.Error("expired too early")
		}
		b.restart()
		if s := b.Sign("n1"); s.Expired {
			t.Error("the next run believes that it expired before it began")
		}
		time.Sleep(ttl + fence.Margin(ttl))
		if s := b.Sign("n1"); !s.Expired || s.Heard {
			t.Errorf("never heard by this run: %+v", s)
		}
	})
}

func TestALeaseOfSeveralCoordinatorsIsRefusedByName(t *testing.T) {
	bubble(t, func(b *bench) {
		if _, err := b.store.Store.Commit(b.ctx, store.Txn{Then: []store.Write{{Key: key("n1"), Value: &spec.NodeLease{
			State: spec.LeaseOpen, Owner: "x", Session: 1, Instance: "i", Boot: "b", TTL: ttl, Certainty: 5 * time.Second,
		}}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Open(b.ctx, hello(2)); !errors.Is(err, ErrSeveral) {
			t.Errorf("%v", err)
		}
	})
}
