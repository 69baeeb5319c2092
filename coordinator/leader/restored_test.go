package leader

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/musterhq/muster/coordinator/restored"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/spec"
)

func TestAfterARestoreNothingIsBoundOrSealedBeforeTheWaitIsOverAndThenWhatNobodyHoldsGetsANewEpoch(t *testing.T) {
	lead(t, 2, func(w *world) {
		w.pod("held", spec.Fenced)
		w.pod("lost", spec.Fenced)
		held, lost := w.look("held"), w.look("lost")
		state := restored.State{Generation: w.cache.View().Revision() + 1, Longest: time.Minute, Pending: true}
		text, err := json.Marshal(state)
		if err != nil {
			t.Fatal(err)
		}
		w.put(restored.Key, &spec.Blob{Data: text})
		time.Sleep(time.Millisecond) // until it is in the view
		w.window.Take(w.cache.View(), held.Node(), []spec.Holding{{UID: "held", Epoch: held.Epoch, Live: true}})
		w.pod("new", spec.Fast)
		left, pending := w.window.Pending(w.cache.View())
		if !pending || left < 2*time.Minute {
			t.Fatalf("left %v, pending %v", left, pending)
		}
		time.Sleep(left - time.Second)
		if p := w.look("new"); p.Binding != nil {
			t.Error("a new pod is bound before the wait is over")
		}
		if w.look("lost").Epoch != lost.Epoch {
			t.Error("a binding is written anew before the wait is over")
		}
		time.Sleep(15 * time.Second)
		if got := w.look("held"); got.Epoch != held.Epoch {
			t.Errorf("what is held is at epoch %d, was %d", got.Epoch, held.Epoch)
		}
		if got := w.look("lost"); got.Epoch <= lost.Epoch || got.Node() != lost.Node() || got.Binding.Cause != "restored" {
			t.Errorf("what nobody holds is %+v at epoch %d, was %d", got.Binding, got.Epoch, lost.Epoch)
		}
		if p := w.look("new"); p.Binding == nil {
			t.Error("a new pod is not bound after the wait")
		}
		if s, _, _, err := restored.Load(w.cache.View()); err != nil || s.Pending || s.Generation != state.Generation {
			t.Errorf("the record is %+v, %v", s, err)
		}
		if l, _, _ := store.Get[*spec.NodeLease](w.cache.View(), store.Key{Family: store.NodeLeases, Name: lost.Node()}); l.State != spec.LeaseOpen {
			t.Errorf("a lease is %s", l.State)
		}
	})
}
