package fleet

import (
	"context"
	"log/slog"
	"regexp"
	"testing"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/memory"
	"github.com/musterhq/muster/internal/spec"
)

// world is a store in memory, written step by step.
type world struct {
	t     testing.TB
	store *memory.Store
	cache *store.Cache
}

func begin(t testing.TB) *world {
	t.Helper()
	s := memory.New()
	w := &world{t: t, store: s, cache: store.NewCache(s, slog.New(slog.DiscardHandler))}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.cache.Run(ctx) }()
	<-w.cache.Ready()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = s.Close()
	})
	return w
}

func (w *world) put(k store.Key, v store.Value) int64 {
	w.t.Helper()
	rev, err := w.store.Commit(w.t.Context(), store.Txn{Then: []store.Write{{Key: k, Value: v}}})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.cache.Wait(w.t.Context(), rev); err != nil {
		w.t.Fatal(err)
	}
	return rev
}

var name = spec.ObjectName{Namespace: "default", Name: "a"}

func (w *world) pod() Pod {
	w.t.Helper()
	p, ok := LookupPod(w.cache.View(), name)
	if !ok {
		w.t.Fatal("there is no pod")
	}
	return p
}

func TestAPodIsJoinedFromWhatIsStoredOfIt(t *testing.T) {
	w := begin(t)
	if _, ok := LookupPod(w.cache.View(), name); ok {
		t.Error("a pod that nobody has made is found")
	}
	rev := w.put(store.PodKey(name), &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: "a", UID: "u"}})
	if p := w.pod(); p.PodRevision != rev || p.Revision != rev || p.Node() != "" || p.Stopped() || p.Epoch != 0 {
		t.Errorf("bound nowhere: %+v", p)
	}
	epoch := w.put(store.BindingKey(name), &spec.Binding{UID: "u", Node: "n1"})
	stop := w.put(store.StopKey(name), &spec.Stop{Epoch: epoch, Reason: "move"})
	if p := w.pod(); p.Node() != "n1" || p.Epoch != epoch || p.Stop == nil || p.Revision != stop || p.PodRevision != rev || p.Current() != nil {
		t.Errorf("bound: %+v", p)
	}
	held := w.put(store.StatusKey(name), &spec.HeldStatus{UID: "u", Epoch: epoch, Stopped: true})
	if p := w.pod(); !p.Stopped() || p.Current() == nil || p.HeldRevision != held || p.Revision != held {
		t.Errorf("stopped: %+v", p)
	}
}

func TestWhatIsOfAnotherBindingOrAnotherPodDoesNotCount(t *testing.T) {
	w := begin(t)
	w.put(store.PodKey(name), &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: "a", UID: "u"}})
	w.put(store.BindingKey(name), &spec.Binding{UID: "older", Node: "n1"})
	if p := w.pod(); p.Binding != nil || p.Epoch != 0 {
		t.Errorf("bound by an older pod's binding: %+v", p)
	}
	old := w.put(store.BindingKey(name), &spec.Binding{UID: "u", Node: "n1"})
	w.put(store.StopKey(name), &spec.Stop{Epoch: old})
	w.put(store.StatusKey(name), &spec.HeldStatus{UID: "u", Epoch: old, Stopped: true})
	w.put(store.BindingKey(name), &spec.Binding{UID: "u", Node: "n2"})
	if p := w.pod(); p.Stop != nil || p.Stopped() || p.Current() != nil || p.Held == nil {
		t.Errorf("an older binding's end ends this one: %+v", p)
	}
	w.put(store.StatusKey(name), &spec.HeldStatus{UID: "older", Epoch: old})
	if p := w.pod(); p.Held != nil {
		t.Errorf("an older pod speaks for this one: %+v", p)
	}
}

func TestPodsComeByNamespaceAndName(t *testing.T) {
	w := begin(t)
	for _, n := range []spec.ObjectName{{Namespace: "b", Name: "a"}, {Namespace: "a", Name: "z"}, {Namespace: "a", Name: "b"}} {
		w.put(store.PodKey(n), &spec.Pod{Meta: spec.Meta{Namespace: n.Namespace, Name: n.Name}})
	}
	var got string
	for _, p := range Pods(w.cache.View()) {
		got += p.Key().String() + " "
	}
	if got != "a/b a/z b/a " {
		t.Errorf("%q", got)
	}
}

func TestTheVerdictOnItsNodeIsShownOfAPod(t *testing.T) {
	w := begin(t)
	w.put(store.PodKey(name), &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: "a", UID: "u"}})
	epoch := w.put(store.BindingKey(name), &spec.Binding{UID: "u", Node: "n1"})
	w.put(store.StatusKey(name), &spec.HeldStatus{UID: "u", Epoch: epoch, Status: spec.PodStatus{
		Phase: spec.PhaseRunning, Conditions: []spec.Condition{{Type: spec.ConditionReady, Status: spec.ConditionTrue}},
	}})
	ready := func() bool {
		p := w.pod()
		st := Shown(w.cache.View(), &p)
		return st.Ready()
	}
	if !ready() {
		t.Error("it is not ready")
	}
	w.put(store.Key{Family: store.NodeStatus, Name: "n2"}, &spec.NodeStatus{PodsNotReady: true})
	if !ready() {
		t.Error("another node's verdict counts")
	}
	w.put(store.Key{Family: store.NodeStatus, Name: "n1"}, &spec.NodeStatus{PodsNotReady: true})
	if ready() {
		t.Error("it is ready on a node that cannot be reached")
	}
}

func TestANodeIsWhatAUserOrAnAgentHasSpokenFor(t *testing.T) {
	w := begin(t)
	key := func(f store.Family, n string) store.Key { return store.Key{Family: f, Name: n} }
	w.put(key(store.NodeStatus, "ghost"), &spec.NodeStatus{})
	lease := w.put(key(store.NodeLeases, "ghost"), &spec.NodeLease{})
	if n, ok := LookupNode(w.cache.View(), "ghost"); ok || n.LeaseRevision != lease {
		t.Errorf("%+v, %v: a lease alone is no node, and is still seen", n, ok)
	}
	w.put(key(store.NodeFacts, "n2"), &spec.NodeFacts{Labels: map[string]string{"os": "linux", "zone": "a"}})
	user := w.put(key(store.Nodes, "n2"), &spec.Node{Meta: spec.Meta{Name: "n2", Labels: map[string]string{"zone": "b"}}})
	w.put(key(store.Nodes, "n1"), &spec.Node{Meta: spec.Meta{Name: "n1"}})
	last := w.put(key(store.NodeStatus, "n2"), &spec.NodeStatus{Verdict: spec.VerdictLost})
	nodes := Nodes(w.cache.View())
	if len(nodes) != 2 || nodes[0].Name != "n1" || nodes[1].Name != "n2" || nodes[0].Verdict() != "" || nodes[1].Verdict() != spec.VerdictLost {
		t.Fatalf("%+v", nodes)
	}
	n := nodes[1]
	if m := n.Meta(); m.Labels["os"] != "linux" || m.Labels["zone"] != "b" || m.Revision != last || n.UserRevision != user {
		t.Errorf("%+v: the user's labels are above the agent's", m)
	}
	if n.Facts.Labels["zone"] != "a" || len(n.User.Labels) != 1 {
		t.Error("what is stored was changed")
	}
}

func TestAUIDIsARandomUUID(t *testing.T) {
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := map[string]bool{}
	for range 1000 {
		uid := NewUID()
		if !form.MatchString(uid) || seen[uid] {
			t.Fatalf("%q", uid)
		}
		seen[uid] = true
	}
}
