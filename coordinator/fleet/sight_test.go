package fleet

import (
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/spec"
)

func TestASightIsWhatWouldBeSeenWithoutAnEarlierOne(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := begin(t)
		var s Sight
		if s.See(w.cache.View()) {
			r.Fatal("something has changed where nothing is")
		}
		for i := range rapid.SampledFrom([]int{0, 40}).Draw(r, "others") { // few changes among many pods are seen in another way
			other := spec.Meta{Namespace: []string{"a", "b", "c"}[i%3], Name: fmt.Sprint("w", i), UID: fmt.Sprint(i), Owner: &spec.OwnerRef{UID: "d1"}}
			w.put(store.PodKey(other.Key()), &spec.Pod{Meta: other})
		}
		names := rapid.SampledFrom([]spec.ObjectName{{Namespace: "a", Name: "x"}, {Namespace: "a", Name: "y"}, {Namespace: "b", Name: "x"}})
		nodes, owners := rapid.SampledFrom([]string{"n1", "n2", "n3"}), rapid.SampledFrom([]string{"d1", "d2"})
		for range rapid.IntRange(1, 15).Draw(r, "looks") {
			before := w.cache.View()
			for range rapid.IntRange(0, 4).Draw(r, "changes") {
				name, node := names.Draw(r, "pod"), nodes.Draw(r, "node")
				uid := fmt.Sprint("uid-", rapid.IntRange(0, 1).Draw(r, "uid"))
				_, epoch, _ := store.Get[*spec.Binding](w.cache.View(), store.BindingKey(name))
				put := rapid.SampledFrom([]store.Write{
					{Key: store.PodKey(name), Value: &spec.Pod{Meta: spec.Meta{Namespace: name.Namespace, Name: name.Name, UID: uid, Owner: &spec.OwnerRef{UID: owners.Draw(r, "owner")}}}}, {Key: store.PodKey(name)},
					{Key: store.BindingKey(name), Value: &spec.Binding{UID: uid, Node: node}}, {Key: store.BindingKey(name)},
					{Key: store.StopKey(name), Value: &spec.Stop{Epoch: epoch}}, {Key: store.StatusKey(name), Value: &spec.HeldStatus{UID: uid, Epoch: epoch}},
					{Key: store.Key{Family: store.Nodes, Name: node}, Value: &spec.Node{Meta: spec.Meta{Name: node}}}, {Key: store.Key{Family: store.Nodes, Name: node}},
					{Key: store.Key{Family: store.NodeFacts, Name: node}, Value: &spec.NodeFacts{}}, {Key: store.Key{Family: store.NodeFacts, Name: node}},
					{Key: store.Key{Family: store.NodeStatus, Name: node}, Value: &spec.NodeStatus{PodsNotReady: true}},
					{Key: store.Key{Family: store.NodeLeases, Name: node}, Value: &spec.NodeLease{}},
				}).Draw(r, "write")
				w.put(put.Key, put.Value)
			}
			v := w.cache.View()
			wasPods, wasNodes := Pods(before), Nodes(before)
			pods, all := Pods(v), Nodes(v)
			changed := s.See(v)
			if want := !reflect.DeepEqual(pods, wasPods) || !reflect.DeepEqual(all, wasNodes); want && !changed {
				r.Fatal("it has not noticed that something has changed")
			}
			if seen := values(s.Pods); !reflect.DeepEqual(seen, pods) {
				r.Fatalf("seen:\n%+v\nthere:\n%+v", seen, pods)
			}
			if seen := values(s.Nodes); !reflect.DeepEqual(seen, all) {
				r.Fatalf("seen:\n%+v\nthere:\n%+v", seen, all)
			}
			on, of := map[string][]*Pod{}, map[string][]*Pod{}
			for i := range pods {
				if n := pods[i].Node(); n != "" {
					on[n] = append(on[n], &pods[i])
				}
				of[pods[i].Owner.UID] = append(of[pods[i].Owner.UID], &pods[i])
			}
			for node, held := range s.OnNode {
				for _, p := range held {
					if s.Pod(p.Key()) != p {
						r.Fatalf("%s on %s is not the pod that is shown", p.Key(), node)
					}
				}
			}
			if !reflect.DeepEqual(s.OnNode, on) || !reflect.DeepEqual(s.OfOwner, of) {
				r.Fatalf("on nodes %v, of owners %v, want %v and %v", s.OnNode, s.OfOwner, on, of)
			}
			for _, uid := range []string{"d1", "d2"} {
				if was, is := shownOf(before, uid), shownOf(v, uid); !reflect.DeepEqual(was, is) && !s.Touched[uid] {
					r.Fatalf("%s is not said to be touched: from %+v to %+v", uid, was, is)
				}
			}
			for _, node := range []string{"n1", "n2", "n3"} {
				if was, is := there(before, node), there(v, node); !reflect.DeepEqual(was, is) && !s.TouchedNodes[node] {
					r.Fatalf("%s is not said to be touched: from %+v to %+v", node, was, is)
				}
			}
			for i := range pods {
				if got := s.Pod(pods[i].Key()); got == nil || !reflect.DeepEqual(*got, pods[i]) {
					r.Fatalf("pod %s is %+v, want %+v", pods[i].Key(), got, pods[i])
				}
			}
			if got := s.Pod(spec.ObjectName{Namespace: "a", Name: "z"}); got != nil {
				r.Fatalf("a pod that is not there is %+v", got)
			}
			clear(s.Touched)
			clear(s.TouchedNodes)
			if s.See(v) {
				r.Fatal("the same view has changed")
			}
		}
	})
}

// values are what pointers point to.
func values[T any](all []*T) (out []T) {
	for _, p := range all {
		out = append(out, *p)
	}
	return out
}

// shownOf is what is shown of an owner's pods.
func shownOf(v *store.View, uid string) (all []any) {
	for _, p := range Pods(v) {
		if p.Owner.UID == uid {
			all = append(all, p, Shown(v, &p))
		}
	}
	return all
}

// there is a node with the pods that are bound to it.
func there(v *store.View, node string) (all []any) {
	if n, ok := LookupNode(v, node); ok {
		all = append(all, n)
	}
	for _, p := range Pods(v) {
		if p.Node() == node {
			all = append(all, p)
		}
	}
	return all
}

// BenchmarkSee is what one pod costs somebody who looks again, among 150,000.
func BenchmarkSee(b *testing.B) {
	w := begin(b)
	var txn store.Txn
	name := func(i int) spec.ObjectName { return spec.ObjectName{Namespace: "default", Name: fmt.Sprint(i)} }
	for i := range 150_000 {
		txn.Then = append(txn.Then, store.Write{Key: store.PodKey(name(i)), Value: &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: fmt.Sprint(i), UID: fmt.Sprint(i)}}},
			store.Write{Key: store.BindingKey(name(i)), Value: &spec.Binding{UID: fmt.Sprint(i), Node: fmt.Sprint(i % 5000)}})
		if len(txn.Then) == 100 {
			if _, err := w.store.Commit(b.Context(), txn); err != nil {
				b.Fatal(err)
			}
			txn.Then = nil
		}
	}
	w.put(store.StatusKey(name(1)), &spec.HeldStatus{UID: "1"})
	before := w.cache.View()
	w.put(store.StatusKey(name(1)), &spec.HeldStatus{UID: "1"})
	after := w.cache.View()
	w.put(store.PodKey(name(-1)), &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: "-1", UID: "-1"}})
	more := w.cache.View()
	w.put(store.PodKey(name(-1)), nil)
	less := w.cache.View()
	var s Sight
	s.See(before)
	b.Run("change", func(b *testing.B) {
		for b.Loop() {
			s.View = before
			s.See(after)
		}
	})
	b.Run("come and gone", func(b *testing.B) {
		for b.Loop() {
			s.View = after
			s.See(more)
			s.See(less)
		}
	})
	b.Run("nothing", func(b *testing.B) {
		for b.Loop() {
			s.See(after)
		}
	})
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			Pods(after)
		}
	})
}
