package leader

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/musterhq/muster/coordinator/failover"
	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/memory"
	"github.com/musterhq/muster/internal/spec"
)

// BenchmarkPass is what a leader's look at 5,000 nodes with 150,000 pods of 500 Deployments takes: when nothing has changed, and when
// one pod's status has.
func BenchmarkPass(b *testing.B) {
	const nodes, pods, deployments = 5000, 150_000, 500
	log := slog.New(slog.DiscardHandler)
	w := &world{store: memory.New(), start: time.Now(), dead: map[string]time.Duration{}, guard: map[string]failover.Guard{}}
	defer w.store.Close()
	w.cache = store.NewCache(w.store, log)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- w.cache.Run(ctx) }()
	defer func() { cancel(); <-done }()
	var writes []store.Write
	put := func(k store.Key, v store.Value) {
		if writes = append(writes, store.Write{Key: k, Value: v}); len(writes) == 100 {
			if _, err := w.store.Commit(ctx, store.Txn{Then: writes}); err != nil {
				b.Fatal(err)
			}
			writes = nil
		}
	}
	settle := func() {
		rev, err := w.store.Commit(ctx, store.Txn{Then: writes})
		if writes = nil; err != nil || w.cache.Wait(ctx, rev) != nil {
			b.Fatal(err)
		}
	}
	for i := range nodes {
		name := fmt.Sprint("n", i)
		put(store.Key{Family: store.NodeFacts, Name: name}, &spec.NodeFacts{MaxPods: 100, Images: "ignore"})
		put(store.Key{Family: store.NodeStatus, Name: name}, &spec.NodeStatus{Verdict: spec.VerdictReady})
		put(store.Key{Family: store.NodeLeases, Name: name}, &spec.NodeLease{State: spec.LeaseOpen, Owner: "me", Session: 1, TTL: 5 * time.Second})
	}
	for i := range deployments {
		d := &spec.Deployment{Meta: spec.Meta{Namespace: "default", Name: fmt.Sprint("d", i), UID: fmt.Sprint("d", i), Generation: 1}}
		d.Spec.Replicas = pods / deployments
		d.Spec.Template.Spec.Containers = []spec.Container{{Name: "c", Command: []string{"x"}}}
		put(store.Key{Family: store.Deployments, Namespace: "default", Name: d.Name}, d)
	}
	settle()
	n := 0
	l := New(Config{AgentGrace: 5 * time.Second, PodCIDR: netip.MustParsePrefix("10.77.0.0/16"), Now: w.now}, Deps{
		Store: w.store, Cache: w.cache, Fleet: fleet.Share(w.cache), Leases: w, Events: w, Metrics: w, Traces: w, Log: log,
		Members: func() map[string]string { return nil }, Suffix: func() string { n++; return strconv.Itoa(n) },
	})
	l.leading = true
	t := l.newTerm(ctx)
	began := time.Now()
	for passes := 1; w.cache.View().Len(store.Bindings) < pods; passes++ {
		before := w.cache.View().Revision()
		t.pass(w.now(), 0, true)
		b.Logf("pass %d: %v, %d pods, %d bound", passes, time.Since(began), w.cache.View().Len(store.Pods), w.cache.View().Len(store.Bindings))
		for w.cache.View().Revision() == before {
			time.Sleep(time.Millisecond)
		}
	}
	status := spec.PodStatus{Phase: spec.PhaseRunning, Conditions: []spec.Condition{{Type: spec.ConditionReady, Status: spec.ConditionTrue}}}
	for rec := range w.cache.View().All(store.Bindings) {
		name := spec.ObjectName{Namespace: rec.Key.Namespace, Name: rec.Key.Name}
		put(store.StatusKey(name), &spec.HeldStatus{UID: rec.Value.(*spec.Binding).UID, Epoch: rec.Revision, Status: status})
	}
	for t.acted == nil || t.acted != w.cache.View() {
		put(store.Key{Family: store.Nodes, Name: "n2"}, &spec.Node{Meta: spec.Meta{Name: "n2"}})
		settle()
		t.pass(w.now(), 0, true)
		time.Sleep(10 * time.Millisecond)
	}
	b.Run("calm", func(b *testing.B) {
		for b.Loop() {
			t.acted, t.due = w.cache.View(), w.now()+time.Hour
			t.pass(w.now(), 0, false)
		}
	})
	b.Run("change", func(b *testing.B) {
		h := t.sight.Pods[7].Held
		for b.Loop() {
			put(store.StatusKey(t.sight.Pods[7].Key()), h)
			settle()
			t.pass(w.now(), 0, true)
		}
	})
}
