package leader

import (
	"errors"
	"testing"
	"time"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/spec"
)

func TestAnEvictedPodIsStoppedInOneTransactionWithItsBudgetAndStartsElsewhere(t *testing.T) {
	lead(t, 2, func(w *world) {
		w.pod("web", spec.Fenced)
		w.say("web", false)
		p := w.look("web")
		if why := w.leader.Elsewhere(p); why != "" {
			t.Fatalf("fits nowhere else: %s", why)
		}
		key := store.Key{Family: store.BudgetStates, Namespace: "default", Name: "b"}
		state := func(n int64) store.Write { return store.Write{Key: key, Value: &spec.BudgetState{Evictions: n}} }
		err := w.leader.Evict(w.t.Context(), p, store.Txn{If: []store.Cond{{Key: key, Revision: 1}}, Then: []store.Write{state(1)}})
		if !errors.Is(err, store.ErrConflict) || w.look("web").Stop != nil {
			t.Fatalf("on a state that has changed: %v, stop %v", err, w.look("web").Stop)
		}
		if err := w.leader.Evict(w.t.Context(), p, store.Txn{If: []store.Cond{{Key: key}}, Then: []store.Write{state(1)}}); err != nil {
			t.Fatal(err)
		}
		if got := w.look("web").Stop; got == nil || got.Reason != "drain" || w.cache.View().Lookup(key) == nil {
			t.Fatalf("stop %v, state %v", got, w.cache.View().Lookup(key))
		}
		time.Sleep(20 * time.Second)
		w.say("web", true)
		time.Sleep(time.Second)
		if got := w.look("web"); got.Node() == p.Node() || got.Node() == "" {
			t.Errorf("on %q, was on %s", got.Node(), p.Node())
		}
	})
}

func TestAPodWithoutAnotherPlaceIsToldSo(t *testing.T) {
	lead(t, 1, func(w *world) {
		w.pod("web", spec.Fast)
		if why := w.leader.Elsewhere(w.look("web")); why == "" {
			t.Error("there is one node, and a place on another")
		}
	})
}
