package serving

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/memory"
)

// flaky answers nothing while it is cut.
type flaky struct {
	store.Store
	mu  sync.Mutex
	cut bool
}

func (f *flaky) KeepAlive(ctx context.Context, id store.LeaseID) error {
	f.mu.Lock()
	cut := f.cut
	f.mu.Unlock()
	if cut {
		<-ctx.Done()
		return ctx.Err()
	}
	return f.Store.KeepAlive(ctx, id)
}

func config(owner, home string, began time.Time) Config {
	return Config{Owner: owner, Home: home, Name: owner, Now: func() time.Duration { return time.Since(began) + time.Second }}
}

func bubble(t *testing.T, f func(ctx context.Context, s store.Store, began time.Time)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		ctx, cancel := context.WithCancel(t.Context())
		defer func() { cancel(); synctest.Wait(); _ = s.Close() }()
		f(ctx, s, time.Now())
	})
}

func TestTheNextServesOnceTheLastHasCertainlyStopped(t *testing.T) {
	bubble(t, func(ctx context.Context, s store.Store, began time.Time) {
		f := &flaky{Store: s}
		first, err := Wait(ctx, config("a", "home-a", began), f, slog.New(slog.DiscardHandler))
		if err != nil || !first.Valid() {
			t.Fatalf("the first: %v", err)
		}
		lost := make(chan error, 1)
		go func() { lost <- first.Run(ctx) }()
		claimed := make(chan *Claim, 1)
		go func() {
			c, _ := Wait(ctx, config("b", "home-b", began), s, slog.New(slog.DiscardHandler))
			claimed <- c
		}()
		time.Sleep(time.Hour)
		synctest.Wait()
		if !first.Valid() || len(claimed) != 0 {
			t.Fatalf("after an hour: valid %v, another serves %v", first.Valid(), len(claimed) != 0)
		}
		f.mu.Lock()
		f.cut = true // from the first's side the store is gone
		f.mu.Unlock()
		cut := time.Now()
		if err := <-lost; !errors.Is(err, ErrLost) {
			t.Errorf("it ended with %v", err)
		}
		if took := time.Since(cut); took > TTL || first.Valid() {
			t.Errorf("it stopped after %v, want before %v; valid %v", took, TTL, first.Valid())
		}
		stopped := time.Now()
		second := <-claimed
		if waited := time.Since(stopped); waited < lead || time.Since(cut) > 3*TTL {
			t.Errorf("the next served %v after the last had stopped, %v after the cut", waited, time.Since(cut))
		}
		if !second.Valid() {
			t.Error("the next does not count as serving")
		}
	})
}

func TestAnEarlyEndOfTheLeaseLetsNobodyServeTooEarly(t *testing.T) {
	bubble(t, func(ctx context.Context, s store.Store, began time.Time) {
		first, err := Wait(ctx, config("a", "home-a", began), s, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Revoke(ctx, first.lease); err != nil { // as a clock of the store that jumps does
			t.Fatal(err)
		}
		if _, err := Wait(ctx, config("b", "home-b", began), s, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		if first.Valid() {
			t.Error("two serve at once")
		}
		if err := first.Run(ctx); !errors.Is(err, ErrLost) {
			t.Errorf("the first goes on: %v", err)
		}
	})
}

func TestAnOrderlyEndAndARestartOnTheSameDirectoryCostNoWait(t *testing.T) {
	bubble(t, func(ctx context.Context, s store.Store, began time.Time) {
		log := slog.New(slog.DiscardHandler)
		if _, err := Wait(ctx, config("a", "home-a", began), s, log); err != nil {
			t.Fatal(err)
		}
		again, err := Wait(ctx, config("a2", "home-a", began), s, log) // after kill -9
		if err != nil {
			t.Fatal(err)
		}
		again.Release(ctx)
		if _, err := Wait(ctx, config("b", "home-b", began), s, log); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("they waited %v", took)
		}
	})
}

func TestOfTwoThatStartAtOnceOneServes(t *testing.T) {
	bubble(t, func(ctx context.Context, s store.Store, began time.Time) {
		claimed := make(chan *Claim, 2)
		for _, name := range []string{"a", "b"} {
			go func() {
				c, _ := Wait(ctx, config(name, "home-"+name, began), s, slog.New(slog.DiscardHandler))
				claimed <- c
			}()
		}
		first := <-claimed
		go func() { _ = first.Run(ctx) }()
		time.Sleep(time.Hour)
		if synctest.Wait(); len(claimed) != 0 {
			t.Error("both serve")
		}
	})
}
