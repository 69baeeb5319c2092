package leader

import (
	"log/slog"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/memory"
	"github.com/musterhq/muster/internal/spec"
)

func TestASceneIsWhatWouldBeSeenWithoutAnEarlierOne(t *testing.T) {
	kv := memory.New()
	cache := store.NewCache(kv, slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() { done <- cache.Run(t.Context()) }()
	t.Cleanup(func() { _ = kv.Close(); <-done })
	<-cache.Ready()
	rapid.Check(t, func(r *rapid.T) {
		var sight fleet.Sight
		var kept scene
		name := rapid.Custom(func(r *rapid.T) spec.ObjectName {
			return spec.ObjectName{Namespace: "default", Name: rapid.SampledFrom([]string{"x", "y", "z"}).Draw(r, "pod")}
		})
		nodes := rapid.SampledFrom([]string{"n1", "n2"})
		for range rapid.IntRange(1, 12).Draw(r, "looks") {
			var revision int64
			for range rapid.IntRange(0, 4).Draw(r, "changes") {
				pod, node := name.Draw(r, "of"), nodes.Draw(r, "on")
				_, epoch, _ := store.Get[*spec.Binding](cache.View(), store.BindingKey(pod))
				meta := spec.Meta{Namespace: pod.Namespace, Name: pod.Name, UID: "uid"}
				owner := spec.Meta{Namespace: pod.Namespace, Name: pod.Name, UID: "uid", Owner: &spec.OwnerRef{UID: "owner"}}
				facts := store.Key{Family: store.NodeFacts, Name: node}
				write := rapid.SampledFrom([]store.Write{
					{Key: store.PodKey(pod), Value: &spec.Pod{Meta: meta}}, {Key: store.PodKey(pod), Value: &spec.Pod{Meta: owner}}, {Key: store.PodKey(pod)},
					{Key: store.BindingKey(pod), Value: &spec.Binding{UID: "uid", Node: node}}, {Key: store.BindingKey(pod)},
					{Key: store.StatusKey(pod), Value: &spec.HeldStatus{UID: "uid", Epoch: epoch, Status: spec.PodStatus{Phase: spec.PhaseSucceeded}}},
					{Key: store.StatusKey(pod), Value: &spec.HeldStatus{UID: "uid", Epoch: epoch, Status: spec.PodStatus{Phase: spec.PhaseRunning}}},
					{Key: store.Key{Family: store.Nodes, Name: node}, Value: &spec.Node{Meta: spec.Meta{Name: node, Labels: map[string]string{"a": "b"}}, Unschedulable: true}},
					{Key: store.Key{Family: store.Nodes, Name: node}}, {Key: facts, Value: &spec.NodeFacts{MaxPods: 7}}, {Key: facts},
					{Key: store.Key{Family: store.NodeStatus, Name: node}, Value: &spec.NodeStatus{Verdict: spec.VerdictReady}},
				}).Draw(r, "write")
				rev, err := kv.Commit(t.Context(), store.Txn{Then: []store.Write{write}})
				if err != nil {
					r.Fatal(err)
				}
				revision = rev
			}
			if err := cache.Wait(t.Context(), revision); err != nil {
				r.Fatal(err)
			}
			leave := rapid.SliceOfNDistinct(name, 0, 2, rapid.ID).Draw(r, "leave")
			sight.See(cache.View())
			got := kept.nodes(&sight, leave)
			var fresh fleet.Sight
			fresh.See(cache.View())
			if want := (&scene{}).nodes(&fresh, leave); !reflect.DeepEqual(got, want) {
				r.Fatalf("kept:\n%+v\nfresh:\n%+v", got, want)
			}
			onNodes := 0
			for _, p := range fresh.Pods {
				n, _ := fleet.LookupNode(cache.View(), p.Node())
				if h := p.Current(); n.Facts != nil && (h == nil || h.Status.Phase == spec.PhaseRunning) && !slices.Contains(leave, p.Key()) {
					onNodes++
				}
			}
			for _, n := range got {
				onNodes -= len(n.Bound)
			}
			if onNodes != 0 {
				r.Fatalf("%d pods that hold a place more than the scene has", onNodes)
			}
		}
	})
}
