package restored

import (
	"context"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/memory"
	"github.com/musterhq/muster/internal/spec"
)

// instance is what a node holds of the name under one epoch.
type instance struct {
	deadline int
	stopped  bool
}

// history is what befell one fenced name on two nodes, as the fence lets it: a new epoch only once the one before has been stopped
// for good, or its deadline has passed.
type history struct {
	now   int
	node  int
	epoch int64
	held  [2]map[int64]*instance
	moves int
}

const modelTTL = 10

func (h *history) step(t *rapid.T) {
	h.now += rapid.IntRange(0, 4).Draw(t, "time")
	at := h.held[h.node][h.epoch]
	switch rapid.SampledFrom([]string{"renew", "renew", "stop", "move", "forget", "nothing"}).Draw(t, "step") {
	case "renew":
		if at == nil {
			at = &instance{}
			h.held[h.node][h.epoch] = at
		}
		if !at.stopped {
			at.deadline = h.now + modelTTL
		}
	case "stop":
		if at != nil {
			at.stopped = true
		}
	case "move":
		if at != nil && !at.stopped && at.deadline >= h.now {
			return
		}
		h.epoch += rapid.Int64Range(1, 5).Draw(t, "writes")
		h.node = rapid.IntRange(0, 1).Draw(t, "to")
		h.moves++
	case "forget": // what has stopped, once no set has it any more
		for _, held := range h.held {
			for e, i := range held {
				if i.stopped && e != h.epoch {
					delete(held, e)
				}
			}
		}
	}
}

func TestWhateverBefellAFencedNameAfterTheSnapshotOnlyItsNewestEpochGoesOnAndTheNextIsAbove(t *testing.T) {
	nodes := [2]string{"n0", "n1"}
	goesOn, moved := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		h := &history{epoch: rapid.Int64Range(2, 50).Draw(t, "first"), held: [2]map[int64]*instance{{}, {}}}
		for range rapid.IntRange(0, 10).Draw(t, "before") {
			h.step(t)
		}
		node, epoch := h.node, h.epoch // the snapshot
		for range rapid.IntRange(0, 25).Draw(t, "after") {
			h.step(t)
		}
		newest := h.epoch

		db := memory.New()
		defer db.Close()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		put := func(k store.Key, v store.Value) int64 {
			rev, err := db.Commit(ctx, store.Txn{Then: []store.Write{{Key: k, Value: v}}})
			if err != nil {
				t.Fatal(err)
			}
			return rev
		}
		// As in the snapshot: the binding with the revision it had. What is in front of it gives it that.
		name := spec.ObjectName{Namespace: "default", Name: "db"}
		for put(store.PodKey(name), &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: "db", UID: "u"}}) < epoch-1 {
		}
		if got := put(store.BindingKey(name), &spec.Binding{UID: "u", Node: nodes[node], Class: spec.Fenced}); got != epoch {
			t.Fatalf("the model's binding is of %d, want %d", got, epoch)
		}
		value, err := encode(State{Generation: base(epoch, time.Time{}, time.Time{}), Pending: true})
		if err != nil {
			t.Fatal(err)
		}
		rev := put(Key, value)
		cache := store.NewCache(db, quiet)
		go func() { _ = cache.Run(ctx) }()
		if err := cache.Wait(ctx, rev); err != nil {
			t.Fatal(err)
		}
		v, now := cache.View(), time.Duration(0)
		w, err := New(v, modelTTL*time.Second, func() time.Duration { return now })
		if err != nil {
			t.Fatal(err)
		}
		p := fleet.Pods(v)[0]
		for range rapid.IntRange(0, 3).Draw(t, "joins") {
			h.now += rapid.IntRange(0, 6).Draw(t, "late")
			n := rapid.IntRange(0, 1).Draw(t, "who")
			var all []spec.Holding
			for e, i := range h.held[n] {
				all = append(all, spec.Holding{UID: "u", Epoch: e, Live: !i.stopped && i.deadline > h.now})
			}
			w.Take(v, nodes[n], all)
			if w.May(v, &p) && epoch != newest {
				t.Fatalf("epoch %d on %s goes on, and %d was given out since", epoch, nodes[node], newest)
			}
		}
		rewritten := len(w.Rewrites(v, []*fleet.Pod{&p})) == 1
		switch {
		case rewritten && w.May(v, &p):
			t.Fatal("what goes on is written anew, with nobody at a later epoch")
		case !rewritten && epoch != newest:
			t.Fatalf("it stays at epoch %d, and %d was given out since", epoch, newest)
		case !rewritten:
			goesOn++
		case h.moves > 0:
			moved++
		}
	})
	if goesOn == 0 || moved == 0 {
		t.Errorf("the model shows nothing: %d went on, %d were written anew after moves", goesOn, moved)
	}
}
