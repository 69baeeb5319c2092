package election

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/memory"
	"github.com/musterhq/muster/coordinator/store/storetest"
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

// stand runs one candidate in the background until the test ends, and returns a function that stops it and waits.
func stand(t *testing.T, s store.Store, cfg Config, lead func(context.Context, Term) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- New(cfg, s, quiet).Run(ctx, lead) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run of %s: %v", cfg.Owner, err)
		}
	})
}

func TestALeaderThatIsCutOffFromTheStoreStopsLeading(t *testing.T) {
	const ttl = 6 * time.Second
	for name, fault := range map[string]storetest.Fault{
		"refused": {Refuse: errors.New("no")}, "no answer": {Delay: time.Hour}, "answers are lost": {Unanswered: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := storetest.NewFaults(memory.New())
				defer s.Close()
				begun, terms, ended := time.Now(), 0, time.Duration(0)
				var over atomic.Bool
				stop := stand(t, s, Config{Owner: "c", TTL: ttl}, func(lead context.Context, _ Term) error {
					terms++
					<-lead.Done()
					if ended == 0 {
						ended = time.Since(begun)
						over.Store(true)
					}
					if err := context.Cause(lead); terms == 1 && !errors.Is(err, ErrNotLeader) {
						t.Errorf("the leadership ended with %v, want ErrNotLeader", err)
					}
					return nil
				})
				s.HoldWatches() // that the key has gone is not seen, either
				s.On(func(c storetest.Call) storetest.Fault {
					if c.Op == storetest.KeepAlive {
						return fault
					}
					return storetest.Fault{}
				})
				time.Sleep(ttl + time.Second)
				if !over.Load() {
					t.Errorf("it leads still %v after the store fell silent", ttl+time.Second)
				}
				s.On(nil)
				s.ReleaseWatches()
				time.Sleep(time.Minute)
				stop()
				if ended < ttl/3 || ended > ttl+time.Second || terms < 2 {
					t.Errorf("led on for %v without the store, %d terms; want at most %v, and another term after", ended, terms, ttl)
				}
			})
		})
	}
}

func TestALeaderThatIsSlowToStopStopsInItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		defer s.Close()
		begun := time.Now()
		stop := stand(t, s, Config{Owner: "c"}, func(lead context.Context, _ Term) error {
			<-lead.Done()
			time.Sleep(time.Minute)
			return nil
		})
		time.Sleep(time.Second)
		stop()
		if took := time.Since(begun); took != time.Minute+time.Second {
			t.Errorf("stopped after %v, want 61 s", took)
		}
	})
}

func TestWhoResignsLetsTheNextOneLeadAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		defer s.Close()
		wait := func(lead context.Context, _ Term) error { <-lead.Done(); return nil }
		first := stand(t, s, Config{Owner: "first", TTL: time.Hour}, wait)
		time.Sleep(time.Second)
		elected := make(chan time.Time, 1)
		second := stand(t, s, Config{Owner: "second", TTL: time.Hour}, func(lead context.Context, term Term) error {
			elected <- time.Now()
			return wait(lead, term)
		})
		defer second()
		time.Sleep(10 * time.Hour) // both leases are kept alive meanwhile
		select {
		case <-elected:
			t.Fatal("two lead at once")
		default:
		}
		stopped := time.Now()
		first()
		if took := (<-elected).Sub(stopped); took != 0 {
			t.Errorf("the next one led after %v, want at once", took)
		}
	})
}

func TestWhoDiesIsReplacedWhenItsLeaseIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		defer s.Close()
		id, err := s.Grant(t.Context(), 7*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(t.Context(), store.Txn{Then: []store.Write{{Key: Key, Value: &spec.Leadership{Owner: "dead"}, Lease: id}}}); err != nil {
			t.Fatal(err)
		}
		begun, took := time.Now(), time.Duration(-1)
		stop := stand(t, s, Config{Owner: "c"}, func(lead context.Context, _ Term) error {
			took = time.Since(begun)
			<-lead.Done()
			return nil
		})
		time.Sleep(time.Minute)
		stop()
		if took != 7*time.Second {
			t.Errorf("elected after %v, want 7 s", took)
		}
	})
}

func TestAKeyOfOnesOwnIsWrittenAnewUnderTheNewLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		defer s.Close()
		old, err := s.Grant(t.Context(), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		rev, err := s.Commit(t.Context(), store.Txn{Then: []store.Write{{Key: Key, Value: &spec.Leadership{Owner: "c"}, Lease: old}}})
		if err != nil {
			t.Fatal(err)
		}
		terms := 0
		stop := stand(t, s, Config{Owner: "c"}, func(lead context.Context, term Term) error {
			if terms++; term.Revision == rev {
				t.Error("a new term has the key of the old one")
			}
			<-lead.Done()
			return nil
		})
		time.Sleep(time.Minute)
		stop()
		if terms != 1 {
			t.Errorf("%d terms, want 1: the old lease has nothing to do with it", terms)
		}
	})
}

func TestAnUnansweredClaimIsReadAgain(t *testing.T) {
	for name, fault := range map[string]storetest.Fault{
		"written": {Unanswered: true}, "written late": {Unanswered: true, Late: 10 * time.Second}, "not written": {Refuse: store.ErrUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := storetest.NewFaults(memory.New())
				defer s.Close()
				left := 2
				s.On(func(c storetest.Call) storetest.Fault {
					if c.Op == storetest.Commit && left > 0 {
						left--
						return fault
					}
					return storetest.Fault{}
				})
				begun, terms := time.Now(), 0
				stop := stand(t, s, Config{Owner: "c"}, func(lead context.Context, term Term) error {
					if took := time.Since(begun); took != 2*retry {
						t.Errorf("elected after %v, want %v", took, 2*retry)
					}
					terms++
					time.Sleep(30 * time.Second) // what was late has come
					if _, err := s.Commit(lead, store.Txn{If: []store.Cond{term.Cond()}, Then: []store.Write{{Key: store.Key{Family: store.Config, Name: "x"}, Value: &spec.Blob{}}}}); err != nil {
						t.Errorf("write of the leader: %v", err)
					}
					<-lead.Done()
					return nil
				})
				time.Sleep(time.Minute)
				stop()
				if terms != 1 {
					t.Errorf("%d terms, want 1", terms)
				}
				if _, err := s.Get(t.Context(), Key); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("the key after the end: %v, want ErrNotFound", err)
				}
			})
		})
	}
}

func TestABrokenWatchDeposesNobodyUnlessTheKeyHasChanged(t *testing.T) {
	for _, tc := range []struct {
		name           string
		broken         error
		usurped, other bool
	}{
		{"lost", errors.New("lost"), false, true}, {"compacted", store.ErrCompacted, false, true},
		{"lost, and the key changed", errors.New("lost"), true, false}, {"compacted, and the key changed", store.ErrCompacted, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := memory.New()
				s := storetest.NewFaults(m)
				defer s.Close()
				var deposed atomic.Bool
				stop := stand(t, s, Config{Owner: "c"}, func(lead context.Context, _ Term) error {
					<-lead.Done()
					if errors.Is(context.Cause(lead), ErrNotLeader) {
						deposed.Store(true)
					}
					return nil
				})
				synctest.Wait()
				s.HoldWatches()
				k, v := Key, store.Value(&spec.Leadership{Owner: "usurper"})
				if tc.other {
					k, v = store.Key{Family: store.Config, Name: "x"}, &spec.Blob{}
				}
				rev, err := m.Commit(t.Context(), store.Txn{Then: []store.Write{{Key: k, Value: v}}})
				if err != nil {
					t.Fatal(err)
				}
				if errors.Is(tc.broken, store.ErrCompacted) {
					m.Compact(rev)
				}
				s.BreakWatches(tc.broken)
				s.ReleaseWatches()
				time.Sleep(2 * time.Second)
				if deposed.Load() != tc.usurped {
					t.Errorf("deposed %v, want %v", deposed.Load(), tc.usurped)
				}
				stop()
			})
		})
	}
}

func TestOneUnansweredKeepAliveDeposesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := storetest.NewFaults(memory.New())
		defer s.Close()
		terms, asked := 0, 0
		s.On(func(c storetest.Call) storetest.Fault {
			if c.Op == storetest.KeepAlive {
				if asked++; asked%3 == 0 {
					return storetest.Fault{Refuse: errors.New("no")}
				}
			}
			return storetest.Fault{}
		})
		stop := stand(t, s, Config{Owner: "c"}, func(lead context.Context, _ Term) error {
			terms++
			<-lead.Done()
			return nil
		})
		time.Sleep(time.Hour)
		stop()
		if terms != 1 {
			t.Errorf("%d terms in an hour of single failures, want 1", terms)
		}
	})
}

func TestALeaseThatIsGoneEndsTheLeadershipThoughTheWatchIsStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory.New()
		s := storetest.NewFaults(m)
		defer s.Close()
		var mu sync.Mutex
		var id store.LeaseID
		s.On(func(c storetest.Call) storetest.Fault {
			if c.Op == storetest.KeepAlive {
				mu.Lock()
				id = c.Lease
				mu.Unlock()
			}
			return storetest.Fault{}
		})
		var ended time.Time
		stop := stand(t, s, Config{Owner: "c", TTL: time.Minute}, func(lead context.Context, _ Term) error {
			<-lead.Done()
			if ended.IsZero() {
				ended = time.Now()
			}
			return nil
		})
		time.Sleep(21 * time.Second) // it has been kept alive once
		s.HoldWatches()
		gone := time.Now()
		mu.Lock()
		kept := id
		mu.Unlock()
		if err := m.Revoke(t.Context(), kept); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		s.ReleaseWatches()
		stop()
		if took := ended.Sub(gone); took < 0 || took > 20*time.Second {
			t.Errorf("led on for %v, want until the next keep-alive, at most 20 s", took)
		}
	})
}

func TestACampaignThatFailsLeavesNoLeaseAndIsSpokenOfOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := storetest.NewFaults(memory.New())
		defer s.Close()
		granted, revoked := 0, 0
		fail := func(c storetest.Call) storetest.Fault {
			switch {
			case c.Op == storetest.Grant:
				granted++
			case c.Op == storetest.Revoke:
				revoked++
			case c.Op == storetest.Commit:
				return storetest.Fault{Refuse: store.ErrFull}
			}
			return storetest.Fault{}
		}
		s.On(fail)
		var log strings.Builder
		e := New(Config{Owner: "c", TTL: -1}, s, slog.New(slog.NewTextHandler(&log, nil))) // a TTL that is too short is 2 s
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute+retry/2, func() { s.On(nil) })
		time.AfterFunc(3*time.Minute+retry/2, cancel)
		led := false
		if err := e.Run(ctx, func(lead context.Context, _ Term) error {
			led = true
			time.Sleep(time.Minute)
			s.On(fail)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		granted++ // the term's own, which was not counted
		if granted < 100 || granted != revoked || !led {
			t.Errorf("%d leases granted, %d revoked, led %v", granted, revoked, led)
		}
		if n := strings.Count(log.String(), "campaign failed"); n != 2 {
			t.Errorf("%d warnings of two outages", n)
		}
	})
}

func TestALeaderThatFailsEndsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		defer s.Close()
		broken := errors.New("broken")
		if err := New(Config{Owner: "c"}, s, quiet).Run(t.Context(), func(context.Context, Term) error { return broken }); !errors.Is(err, broken) {
			t.Errorf("run: %v, want what lead returned", err)
		}
		if _, err := s.Get(t.Context(), Key); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the key after the end: %v, want ErrNotFound", err)
		}
	})
}

func TestTheRunEndsWithTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		done := make(chan error, 1)
		go func() {
			done <- New(Config{Owner: "c"}, s, quiet).Run(t.Context(), func(lead context.Context, _ Term) error { <-lead.Done(); return nil })
		}()
		synctest.Wait()
		begun := time.Now()
		s.Close()
		if err := <-done; !errors.Is(err, store.ErrClosed) || time.Since(begun) > 0 {
			t.Errorf("run: %v after %v, want ErrClosed at once", err, time.Since(begun))
		}
	})
}

// TestTermsNeverOverlapInTheStore lets three candidates lead on a store whose answers are lost, late or refused: what is
// written under one term is never after anything of a later one, and once the store is well, somebody leads.
func TestTermsNeverOverlapInTheStore(t *testing.T) {
	mark := store.Key{Family: store.Config, Name: "mark"}
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		rapid.SyncTest(rt, func(rt *rapid.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			m := memory.New()
			s := storetest.NewFaults(m)
			s.On(func(storetest.Call) storetest.Fault {
				switch rnd.IntN(12) {
				case 0:
					return storetest.Fault{Unanswered: true}
				case 1:
					return storetest.Fault{Unanswered: true, Late: time.Duration(rnd.IntN(8000)) * time.Millisecond}
				case 2:
					return storetest.Fault{Refuse: errors.New("no")}
				case 3, 4:
					return storetest.Fault{Delay: time.Duration(rnd.IntN(8000)) * time.Millisecond}
				}
				return storetest.Fault{}
			})
			ctx, cancel := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			for i := range 3 {
				e := New(Config{Owner: fmt.Sprint("c", i), TTL: 3 * time.Second}, s, quiet)
				wg.Go(func() {
					_ = e.Run(ctx, func(lead context.Context, term Term) error {
						for n := 0; lead.Err() == nil && n < 20; n++ {
							// On purpose not with the context of the leadership: the write of one that was deposed is on its way.
							_, _ = s.Commit(ctx, store.Txn{If: []store.Cond{term.Cond()}, Then: []store.Write{{Key: mark, Value: &spec.Blob{Data: fmt.Append(nil, term.Revision)}}}})
							time.Sleep(500 * time.Millisecond)
						}
						return nil
					})
				})
			}
			w := m.Watch(ctx, 0)
			var mu sync.Mutex
			var terms []string
			wg.Go(func() {
				for changes := range w.C() {
					for _, c := range changes.Changes {
						if c.Key == mark {
							mu.Lock()
							terms = append(terms, string(c.Record.Value.(*spec.Blob).Data))
							mu.Unlock()
						}
					}
				}
			})
			time.Sleep(2 * time.Minute)
			s.On(nil)
			time.Sleep(20 * time.Second)
			synctest.Wait()
			mu.Lock()
			before := len(terms)
			mu.Unlock()
			time.Sleep(20 * time.Second)
			cancel()
			wg.Wait()
			s.Close()
			if len(terms) == before {
				rt.Fatalf("nobody leads though the store is well")
			}
			last := 0
			for _, term := range terms {
				rev, err := strconv.Atoi(term)
				if err != nil || rev < last {
					rt.Fatalf("a write of term %s after one of term %d", term, last)
				}
				last = rev
			}
		})
	})
}
