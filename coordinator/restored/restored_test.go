package restored

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"errors"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/snapshot"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/etcd"
	"github.com/musterhq/muster/coordinator/store/memory"
	"github.com/musterhq/muster/coordinator/trust"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

var quiet = slog.New(slog.DiscardHandler)

func TestARestoredStoreBeginsAboveAllThatTheLostOneCanHaveReached(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		revision := rapid.Int64Range(1, 1<<40).Draw(t, "revision")
		taken := time.Unix(1_700_000_000, 0)
		first := rapid.Int64Range(0, 1<<31).Draw(t, "seconds to the first restore")
		again := rapid.Int64Range(0, 1<<31).Draw(t, "seconds from there to the second")
		writes := min(100_000, rapid.Int64Range(0, 100_000).Draw(t, "writes a second"))
		// Of one snapshot, twice.
		one := base(revision, taken, taken.Add(time.Duration(first)*time.Second))
		two := base(revision, taken, taken.Add(time.Duration(first)*time.Second).Add(time.Duration(again)*time.Second))
		if one <= revision+writes*first || two < one+writes*again {
			t.Fatalf("restores at %d and %d, from %d", one, two, revision)
		}
		if base(revision, taken, taken.Add(-time.Hour)) <= revision {
			t.Fatal("a clock that went back")
		}
	})
}

// a restored store in memory with one pod, bound to n1, and its view.
func restoredStore(t *testing.T, status *spec.HeldStatus) (*store.Cache, *memory.Store, int64) {
	t.Helper()
	db := memory.New()
	cache := store.NewCache(db, quiet)
	put := func(k store.Key, v store.Value) int64 {
		rev, err := db.Commit(t.Context(), store.Txn{Then: []store.Write{{Key: k, Value: v}}})
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	name := spec.ObjectName{Namespace: "default", Name: "web"}
	put(store.PodKey(name), &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: "web", UID: "u"}})
	epoch := put(store.BindingKey(name), &spec.Binding{UID: "u", Node: "n1", Class: spec.Fenced})
	if status != nil {
		status.UID, status.Epoch = "u", epoch
		put(store.StatusKey(name), status)
	}
	value, err := encode(State{Generation: 10, Longest: 2 * time.Minute, Pending: true})
	if err != nil {
		t.Fatal(err)
	}
	put(Key, value)
	return cache, db, epoch
}

func inWindow(t *testing.T, status *spec.HeldStatus, test func(w *Window, cache *store.Cache, db *memory.Store, epoch int64)) {
	synctest.Test(t, func(t *testing.T) {
		cache, db, epoch := restoredStore(t, status)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- cache.Run(ctx) }()
		<-cache.Ready()
		start := time.Now()
		w, err := New(cache.View(), 10*time.Second, func() time.Duration { return time.Since(start) + time.Second })
		if err != nil {
			t.Fatal(err)
		}
		test(w, cache, db, epoch)
		cancel()
		<-done
	})
}

func TestOnlyWhatItsOwnNodeHoldsAtThatEpochGoesOn(t *testing.T) {
	for name, c := range map[string]struct {
		node  string
		holds spec.Holding
		later int64 // added to the epoch
		may   bool
	}{
		"live":                 {"n1", spec.Holding{Live: true}, 0, true},
		"finished":             {"n1", spec.Holding{Final: true}, 0, true},
		"its lease has ended":  {"n1", spec.Holding{}, 0, false},
		"another node":         {"n2", spec.Holding{Live: true}, 0, false},
		"a later epoch":        {"n1", spec.Holding{Live: true}, 5, false},
		"an earlier epoch":     {"n1", spec.Holding{Live: true}, -1, false},
		"a pod of another uid": {"n1", spec.Holding{UID: "v", Live: true}, 0, false},
	} {
		inWindow(t, nil, func(w *Window, cache *store.Cache, _ *memory.Store, epoch int64) {
			p := pods(cache.View())[0]
			if w.May(cache.View(), p) {
				t.Errorf("%s: it goes on before anybody has spoken", name)
			}
			if c.holds.UID == "" {
				c.holds.UID = "u"
			}
			c.holds.Epoch = epoch + c.later
			w.Take(cache.View(), c.node, []spec.Holding{c.holds})
			if got := w.May(cache.View(), p); got != c.may {
				t.Errorf("%s: goes on: %v, want %v", name, got, c.may)
			}
			if got := len(w.Rewrites(cache.View(), pods(cache.View()))) == 0; got != c.may {
				t.Errorf("%s: stays as it is: %v, want %v", name, got, c.may)
			}
		})
	}
}

func TestABindingOfWhichSomebodyHoldsALaterEpochIsWrittenAnewThoughItIsHeld(t *testing.T) {
	inWindow(t, nil, func(w *Window, cache *store.Cache, _ *memory.Store, epoch int64) {
		w.Take(cache.View(), "n1", []spec.Holding{{UID: "u", Epoch: epoch, Live: true}})
		w.Take(cache.View(), "n2", []spec.Holding{{UID: "u", Epoch: epoch + 3, Live: true}})
		if len(w.Rewrites(cache.View(), pods(cache.View()))) != 1 {
			t.Error("it stays at the older epoch")
		}
	})
}

func TestWhatHadFinishedStaysUnlessItsNodeKnowsNothingOfIt(t *testing.T) {
	inWindow(t, &spec.HeldStatus{Status: spec.PodStatus{Phase: spec.PhaseSucceeded}}, func(w *Window, cache *store.Cache, _ *memory.Store, _ int64) {
		if n := len(w.Rewrites(cache.View(), pods(cache.View()))); n != 0 {
			t.Errorf("%d rewrites while its node is away", n)
		}
		w.Take(cache.View(), "n1", nil)
		if n := len(w.Rewrites(cache.View(), pods(cache.View()))); n != 1 {
			t.Errorf("%d rewrites when its node knows nothing of it, want 1", n)
		}
	})
}

func TestTheWaitIsTheLongestLeaseWithItsMarginAndBeginsAnewWithEachRun(t *testing.T) {
	inWindow(t, nil, func(w *Window, cache *store.Cache, db *memory.Store, _ int64) {
		if left, pending := w.Pending(cache.View()); !pending || left != 144*time.Second {
			t.Errorf("left %v, pending %v, want 2m24s", left, pending)
		}
		time.Sleep(145 * time.Second)
		if left, pending := w.Pending(cache.View()); !pending || left != 0 {
			t.Errorf("after the time: left %v, pending %v; it ends when everything is written", left, pending)
		}
		start := time.Now()
		again, err := New(cache.View(), 10*time.Minute, func() time.Duration { return time.Since(start) + time.Second })
		if err != nil {
			t.Fatal(err)
		}
		if left, _ := again.Pending(cache.View()); left != 12*time.Minute {
			t.Errorf("another run with a longer lease waits %v, want 12m", left)
		}
		end, err := w.End(cache.View())
		if err != nil {
			t.Fatal(err)
		}
		rev, err := db.Commit(context.Background(), end)
		if err != nil {
			t.Fatal(err)
		}
		if err := cache.Wait(context.Background(), rev); err != nil {
			t.Fatal(err)
		}
		p := pods(cache.View())[0]
		if _, pending := w.Pending(cache.View()); pending || !w.May(cache.View(), p) {
			t.Error("the window does not end")
		}
	})
}

func open(t *testing.T, dir string) *etcd.Store {
	t.Helper()
	key, err := trust.LoadSecretKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	db, err := etcd.Open(t.Context(), etcd.Config{Dir: filepath.Join(dir, "etcd"), Codec: wire.Codec{Secrets: key}, UnsafeNoSync: true, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func save(t *testing.T, db *etcd.Store, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	var w *snapshot.Writer
	err = db.Copy(t.Context(), func(revision int64) (err error) {
		w, err = snapshot.NewWriter(io.Writer(f), snapshot.Header{Muster: "x", Cluster: "c", Generation: 1, Revision: revision, Time: time.Now(), LeaseTTL: 10 * time.Second})
		return err
	}, func(r etcd.Raw) error { return w.Add(snapshot.Record(r)) })
	if err := errors.Join(err, w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestARestoredStoreIsAsTheSnapshotWithTheSameEpochsAndLaterRevisions(t *testing.T) {
	dir := t.TempDir()
	old, file, restored := filepath.Join(dir, "old"), filepath.Join(dir, "file"), filepath.Join(dir, "new")
	if err := os.Mkdir(old, 0o700); err != nil {
		t.Fatal(err)
	}
	db := open(t, old)
	put := func(db *etcd.Store, writes ...store.Write) int64 {
		rev, err := db.Commit(t.Context(), store.Txn{Then: writes})
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	name := func(i int) spec.ObjectName { return spec.ObjectName{Namespace: "default", Name: fmt.Sprint("p", i)} }
	epochs := map[string]int64{}
	for i := range 20 { // two bindings a transaction: they share a revision
		rev := put(db, store.Write{Key: store.BindingKey(name(2 * i)), Value: &spec.Binding{UID: "u", Node: "n1", Class: spec.Fenced}},
			store.Write{Key: store.BindingKey(name(2*i + 1)), Value: &spec.Binding{UID: "v", Node: "n2", Class: spec.Fast}})
		epochs[store.BindingKey(name(2*i)).String()], epochs[store.BindingKey(name(2*i+1)).String()] = rev, rev
	}
	put(db, store.Write{Key: store.Key{Family: store.NodeLeases, Name: "n1"}, Value: &spec.NodeLease{State: spec.LeaseSealed, Owner: "o", Session: 3, TTL: 5 * time.Minute, Barred: true}})
	put(db, store.Write{Key: store.Key{Family: store.Secrets, Namespace: "default", Name: "s"}, Value: &spec.Secret{Meta: spec.Meta{Namespace: "default", Name: "s"}, Type: "Opaque", Data: map[string][]byte{"a": []byte("b")}}})
	put(db, store.Write{Key: store.Key{Family: store.Leader, Name: "leader"}, Value: &spec.Leadership{Owner: "o"}})
	save(t, db, file)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	now := time.Now()
	opts := Options{Now: now, Log: quiet}
	if _, _, err := Make(t.Context(), file, restored, opts); !errors.Is(err, ErrSecretsKey) {
		t.Errorf("without the key: got %v, want %v", err, ErrSecretsKey)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("a restore that failed left something: %v", entries)
	}
	opts.SecretsKey = filepath.Join(old, trust.SecretKeyFile)
	sum, state, err := Make(t.Context(), file, restored, opts)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Make(t.Context(), file, restored, opts); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("a second time: got %v, want %v", err, ErrNotEmpty)
	}
	if state.Longest != 5*time.Minute || !state.Pending || state.Generation <= sum.Revision {
		t.Errorf("state %+v", state)
	}
	db = open(t, restored)
	defer db.Close()
	recs, revision, err := db.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if revision != state.Generation || len(recs) != 40+1+1+1 {
		t.Errorf("%d records at %d, want 43 at %d", len(recs), revision, state.Generation)
	}
	for _, r := range recs {
		switch v := r.Value.(type) {
		case *spec.Binding:
			if r.Revision != epochs[r.Key.String()] {
				t.Errorf("%s is of epoch %d, was %d", r.Key, r.Revision, epochs[r.Key.String()])
			}
		case *spec.NodeLease:
			if v.State != spec.LeaseOpen || v.TTL != 5*time.Minute || v.Barred || v.Session != 3 || r.Revision != revision {
				t.Errorf("the lease is %+v at %d", v, r.Revision)
			}
		case *spec.Secret:
			if string(v.Data["a"]) != "b" {
				t.Errorf("the secret is %+v", v)
			}
		}
	}
	w := db.Watch(t.Context(), sum.Revision)
	for range w.C() {
	}
	if err := w.Err(); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("a watch from before: got %v, want %v", err, store.ErrCompacted)
	}
	// It takes writes, conditioned on the old epochs, and gives new ones above.
	key := store.BindingKey(name(7))
	rev, err := db.Commit(t.Context(), store.Txn{If: []store.Cond{{Key: key, Revision: epochs[key.String()]}}, Then: []store.Write{{Key: key, Value: &spec.Binding{UID: "v", Node: "n2", Class: spec.Fast}}}})
	if err != nil || rev <= state.Generation {
		t.Errorf("written at %d, %v", rev, err)
	}
}

func pods(v *store.View) []*fleet.Pod {
	var s fleet.Sight
	s.See(v)
	return s.Pods
}
