package election

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/memory"
	"github.com/musterhq/muster/internal/spec"
)

var quiet = slog.New(slog.DiscardHandler)

func TestOfThreeCandidatesOneLeadsAtATimeAndEachInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		defer s.Close()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var mu sync.Mutex
		leading, turns := 0, map[string]int{}
		for i := range 3 {
			owner := fmt.Sprint("c", i)
			wg.Go(func() {
				for ctx.Err() == nil {
					runCtx, stop := context.WithCancel(ctx)
					_ = New(Config{Owner: owner}, s, quiet).Run(runCtx, func(ctx context.Context, term Term) error {
						mu.Lock()
						leading++
						turns[owner]++
						if leading > 1 {
							t.Errorf("%d lead at once", leading)
						}
						mu.Unlock()
						select {
						case <-ctx.Done():
						case <-time.After(10 * time.Second):
						}
						mu.Lock()
						leading--
						mu.Unlock()
						stop()
						return nil
					})
					select {
					case <-ctx.Done():
					case <-time.After(time.Second): // let another one in
					}
				}
			})
		}
		time.Sleep(5 * time.Minute)
		cancel()
		wg.Wait()
		for i := range 3 {
			if turns[fmt.Sprint("c", i)] == 0 {
				t.Errorf("candidate c%d never led: %v", i, turns)
			}
		}
	})
}

func TestADeposedLeadersLateWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		defer s.Close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var deposed atomic.Bool
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = New(Config{Owner: "old"}, s, quiet).Run(ctx, func(lead context.Context, term Term) error {
				if deposed.Load() {
					<-lead.Done()
					return nil
				}
				if _, err := s.Commit(ctx, store.Txn{Then: []store.Write{{Key: Key, Value: &spec.Leadership{Owner: "new"}}}}); err != nil {
					t.Error(err)
				}
				_, err := s.Commit(ctx, store.Txn{
					If:   []store.Cond{term.Cond()},
					Then: []store.Write{{Key: store.Key{Family: store.Config, Name: "x"}, Value: &spec.Blob{}}},
				})
				if !errors.Is(err, store.ErrConflict) {
					t.Errorf("write of a deposed leader: %v, want ErrConflict", err)
				}
				<-lead.Done()
				if err := context.Cause(lead); !errors.Is(err, ErrNotLeader) {
					t.Errorf("the leadership ended with %v, want ErrNotLeader", err)
				}
				deposed.Store(true)
				return nil
			})
		}()
		time.Sleep(time.Minute)
		if !deposed.Load() {
			t.Error("the leader was not deposed")
		}
		cancel()
		<-done
	})
}

func TestALoneCandidateTakesOverItsEarlierRunAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		defer s.Close()
		id, err := s.Grant(t.Context(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(t.Context(), store.Txn{Then: []store.Write{{Key: Key, Value: &spec.Leadership{Owner: "earlier"}, Lease: id}}}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		start, took := time.Now(), time.Duration(-1)
		_ = New(Config{Owner: "now", Exclusive: true}, s, quiet).Run(ctx, func(context.Context, Term) error {
			took = time.Since(start)
			cancel()
			return nil
		})
		if took != 0 {
			t.Errorf("elected after %v, want at once", took)
		}
	})
}

func TestALeaderThatIsCutOffFromTheStoreStopsLeading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &cutStore{Store: memory.New()}
		defer s.Close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var ended time.Duration
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = New(Config{Owner: "c", TTL: 6 * time.Second}, s, quiet).Run(ctx, func(lead context.Context, _ Term) error {
				s.cut.Store(true)
				start := time.Now()
				<-lead.Done()
				if ended == 0 {
					ended = time.Since(start)
				}
				cancel()
				return nil
			})
		}()
		<-done
		if ended < 6*time.Second || ended > 12*time.Second {
			t.Errorf("led on for %v without the store, want 6 s to 12 s", ended)
		}
	})
}

// cutStore answers no keep-alive once it is cut.
type cutStore struct {
	*memory.Store
	cut atomic.Bool
}

func (s *cutStore) KeepAlive(ctx context.Context, id store.LeaseID) error {
	if s.cut.Load() {
		return errors.New("no answer")
	}
	return s.Store.KeepAlive(ctx, id)
}
