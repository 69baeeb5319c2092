// Package fleet joins the families of the store into the objects that people and the leader speak of: a pod with its
// binding and the status that may be shown, a node with its facts, its verdict and its lease. It only reads, from one
// view of the store at a time.
package fleet

import (
	"cmp"
	"maps"
	"slices"

	"github.com/musterhq/muster/coordinator/failover"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/spec"
)

// Pod is a pod with all that is stored of it.
type Pod struct {
	*spec.Pod
	// PodRevision is the revision of the pod's own record.
	PodRevision int64
	// Binding is nil while the pod is bound nowhere; Epoch is its revision.
	Binding *spec.Binding
	Epoch   int64
	// Stop is set while the holder of this binding is asked to stop it.
	Stop *spec.Stop
	// Held is what a holder said last, of whatever epoch; HeldRevision is its revision. Nil before.
	Held         *spec.HeldStatus
	HeldRevision int64
	// Revision is the newest of all of these.
	Revision int64
}

// Current is what the holder of the present binding said, nil before it has said anything.
func (p *Pod) Current() *spec.HeldStatus {
	if p.Held == nil || p.Binding == nil || p.Held.Epoch != p.Epoch || p.Held.UID != p.UID {
		return nil
	}
	return p.Held
}

// Stopped tells whether the holder of the present binding has ended it for good.
func (p *Pod) Stopped() bool {
	h := p.Current()
	return h != nil && h.Stopped
}

// Node is the name of the node the pod is bound to, empty without a binding.
func (p *Pod) Node() string {
	if p.Binding == nil {
		return ""
	}
	return p.Binding.Node
}

// LookupPod returns one pod.
func LookupPod(v *store.View, name spec.ObjectName) (Pod, bool) {
	pod, rev, ok := store.Get[*spec.Pod](v, store.PodKey(name))
	if !ok {
		return Pod{}, false
	}
	return join(v, name, pod, rev), true
}

func join(v *store.View, name spec.ObjectName, pod *spec.Pod, rev int64) Pod {
	p := Pod{Pod: pod, PodRevision: rev, Revision: rev}
	if b, r, ok := store.Get[*spec.Binding](v, store.BindingKey(name)); ok && b.UID == pod.UID {
		p.Binding, p.Epoch, p.Revision = b, r, max(p.Revision, r)
	}
	if s, r, ok := store.Get[*spec.Stop](v, store.StopKey(name)); ok && p.Binding != nil && s.Epoch == p.Epoch {
		p.Stop, p.Revision = s, max(p.Revision, r)
	}
	if h, r, ok := store.Get[*spec.HeldStatus](v, store.StatusKey(name)); ok && h.UID == pod.UID {
		p.Held, p.HeldRevision, p.Revision = h, r, max(p.Revision, r)
	}
	return p
}

// Pods returns every pod, by namespace and name.
func Pods(v *store.View) []Pod {
	var pods []Pod
	for rec := range v.All(store.Pods) {
		pod := rec.Value.(*spec.Pod)
		pods = append(pods, join(v, pod.Key(), pod, rec.Revision))
	}
	slices.SortFunc(pods, func(a, b Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return pods
}

// Shown is the status to show of a pod, with what the verdict on its node does to it.
func Shown(v *store.View, p *Pod) spec.PodStatus {
	var node *spec.NodeStatus
	if p.Binding != nil {
		node, _, _ = store.Get[*spec.NodeStatus](v, store.Key{Family: store.NodeStatus, Name: p.Binding.Node})
	}
	return failover.Shown(p.Pod, p.Binding, p.Epoch, p.Held, node)
}

// Node is a node with all that is stored of it. Parts that are not there are nil.
type Node struct {
	Name   string
	User   *spec.Node
	Facts  *spec.NodeFacts
	Status *spec.NodeStatus
	Lease  *spec.NodeLease
	// Network is what its pods have addresses of.
	Network *spec.NodeNetwork
	// UserRevision, FactsRevision and LeaseRevision are those of the records, 0 where there is none; Revision is the
	// newest of all.
	UserRevision, FactsRevision, LeaseRevision, Revision int64
}

// Meta is the node's name with its labels: those of its facts, and above them the user's.
func (n *Node) Meta() spec.Meta {
	m := spec.Meta{Name: n.Name}
	if n.User != nil {
		m = n.User.Meta
	}
	labels := map[string]string{}
	if n.Facts != nil {
		maps.Copy(labels, n.Facts.Labels)
	}
	maps.Copy(labels, m.Labels)
	m.Labels, m.Revision = labels, n.Revision
	return m
}

// Label is one of the node's labels, empty where it has none of that name.
func (n *Node) Label(name string) string {
	if n.User != nil {
		if v, ok := n.User.Labels[name]; ok {
			return v
		}
	}
	if n.Facts != nil {
		return n.Facts.Labels[name]
	}
	return ""
}

// InNetwork tells whether the node takes part in the flat pod network.
func (n *Node) InNetwork() bool { return n.Facts != nil && n.Facts.Network == spec.NetworkHostGW }

// Verdict is what the leader believes of the node, empty before it has said.
func (n *Node) Verdict() spec.Verdict {
	if n.Status == nil {
		return ""
	}
	return n.Status.Verdict
}

// LookupNode returns one node: a name that a user or an agent has spoken for.
func LookupNode(v *store.View, name string) (Node, bool) {
	n := Node{Name: name}
	see := func(rev int64, ok bool) int64 {
		if !ok {
			return 0
		}
		n.Revision = max(n.Revision, rev)
		return rev
	}
	var rev int64
	var user, facts, ok bool
	n.User, rev, user = store.Get[*spec.Node](v, store.Key{Family: store.Nodes, Name: name})
	n.UserRevision = see(rev, user)
	n.Facts, rev, facts = store.Get[*spec.NodeFacts](v, store.Key{Family: store.NodeFacts, Name: name})
	n.FactsRevision = see(rev, facts)
	n.Status, rev, ok = store.Get[*spec.NodeStatus](v, store.Key{Family: store.NodeStatus, Name: name})
	see(rev, ok)
	n.Lease, rev, ok = store.Get[*spec.NodeLease](v, store.Key{Family: store.NodeLeases, Name: name})
	n.LeaseRevision = see(rev, ok)
	n.Network, rev, ok = store.Get[*spec.NodeNetwork](v, store.Key{Family: store.NodeNetworks, Name: name})
	see(rev, ok)
	return n, user || facts
}

// Nodes returns every node, by name.
func Nodes(v *store.View) []Node {
	seen := map[string]bool{}
	var nodes []Node
	for _, family := range []store.Family{store.Nodes, store.NodeFacts} {
		for rec := range v.All(family) {
			if name := rec.Key.Name; !seen[name] {
				seen[name] = true
				n, _ := LookupNode(v, name)
				nodes = append(nodes, n)
			}
		}
	}
	slices.SortFunc(nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	return nodes
}
