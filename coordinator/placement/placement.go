// Package placement says where a pod fits, and why not elsewhere. It is pure: nodes and pods in, bindings and
// explanations out, the same ones for the same input, in whatever order the nodes came. Whether a pod may move is failover's
// question, and writing the binding the leader's work.
//
// Rules that only get stricter while pods are placed (resources, taints, anti-affinity) are looked up in an index of the
// nodes, best first; see index.go. Rules that also ease (affinity to pods, topology spread) and wishes that change are
// looked at on every node; see near.go.
package placement

import (
	"github.com/musterhq/muster/internal/spec"
)

// Need is a set of what only some nodes give.
type Need uint8

// What only some nodes give.
const (
	// Images: pods that name an image run there.
	Images Need = 1 << iota
	// Mounts: the kernel gives containers mount namespaces.
	Mounts
	// Root: the agent is root, and so keeps pods apart by namespaces of their own.
	Root
	// Privilege: pods may have user 0 or the node's namespaces.
	Privilege
)

// Node is a node as placement sees it.
type Node struct {
	Name   string
	Labels map[string]string
	// Ready is the verdict; Cordoned the user's word, which counts as the taint spec.TaintUnschedulable.
	Ready, Cordoned bool
	Taints          []spec.Taint
	// LastChoice is a node that takes pods only when no other fits: one that was lost too often of late, or was kept out.
	LastChoice bool
	// Lacks is what pods may need and do not get here.
	Lacks Need
	// AnyHostPath is a node on which pods may mount any path of it; else those at and below HostPaths.
	AnyHostPath bool
	HostPaths   []string
	// LacksNetwork is a node of the flat network that has not been given its part of it.
	LacksNetwork bool
	// SharesNetwork is a node whose pods have no network of their own, so that no port of it can be made to lead to theirs.
	SharesNetwork bool
	Allocatable   spec.ResourceList
	// MaxPods bounds the pods of the node.
	MaxPods int
	// Bound is what is bound here already.
	Bound []Bound
}

// Bound is a pod that has its place.
type Bound struct {
	Requests spec.ResourceList
	// Owner is the uid of its workload, empty for a bare pod.
	Owner string
	// HostPorts are the node's ports that it holds.
	HostPorts []spec.HostPort
	Namespace string
	Labels    map[string]string
	// Affinity is what it wants of the pods near it; nil for nothing.
	Affinity *spec.Affinity
	// Leaving is a pod that is being deleted: it is not counted where pods are spread.
	Leaving bool
}

// Pod is a pod that needs a place.
type Pod struct {
	Name     spec.ObjectName
	Labels   map[string]string
	Requests spec.ResourceList
	Owner    string
	Selector map[string]string
	Needs    Need
	// HostPaths are the paths of the node that it mounts.
	HostPaths []string
	// HostNetwork is whether it has the node's network.
	HostNetwork bool
	// HostPorts are the node's ports that it holds.
	HostPorts []spec.HostPort
	// Affinity is where it wants to be; nil for anywhere.
	Affinity    *spec.Affinity
	Tolerations []spec.Toleration
	Spread      []spec.SpreadConstraint
	// Not is a node that it must not go to; empty for none.
	Not string
}

// PodOf is what placement needs to know of a pod. It shares what it has with p.
func PodOf(p *spec.Pod) Pod {
	s := &p.Spec
	out := Pod{
		Name: p.Key(), Labels: p.Labels, Requests: s.Requests(), Selector: s.NodeSelector, HostNetwork: s.HostNetwork, HostPorts: s.HostPorts(),
		HostPaths: s.HostPaths(), Affinity: affinityOf(s), Tolerations: s.Tolerations, Spread: s.TopologySpreadConstraints,
	}
	for need, has := range map[Need]bool{
		Images: s.NamesImage(), Mounts: s.NeedsMounts(), Root: s.NeedsRoot() != "", Privilege: s.Privilege() != "",
	} {
		if has {
			out.Needs |= need
		}
	}
	if p.Owner != nil {
		out.Owner = p.Owner.UID
	}
	return out
}

// BoundOf is what placement needs to know of a pod that has its place. It shares what it has with p.
func BoundOf(p *spec.Pod) Bound {
	b := Bound{
		Requests: p.Spec.Requests(), HostPorts: p.Spec.HostPorts(), Namespace: p.Namespace, Labels: p.Labels, Affinity: affinityOf(&p.Spec),
		Leaving: p.Deleting(),
	}
	if p.Owner != nil {
		b.Owner = p.Owner.UID
	}
	return b
}

func affinityOf(s *spec.PodSpec) *spec.Affinity {
	a := &s.Affinity
	if a.Node.Required == nil && len(a.Node.Preferred)+len(a.Pod.Required)+len(a.Pod.Preferred)+len(a.PodAnti.Required)+len(a.PodAnti.Preferred) == 0 {
		return nil
	}
	return a
}

// Result is where a pod goes: Node is empty when it fits nowhere, and Why then says why.
type Result struct {
	Pod  spec.ObjectName
	Node string
	Why  string
}

// Place gives each pod its place, one after the other in the order given, each counted against what the next ones find.
// Names of nodes must differ.
func Place(nodes []Node, pods []Pod) []Result {
	f := newFleet(nodes, pods)
	results := make([]Result, 0, len(pods))
	for i := range pods {
		results = append(results, f.place(&pods[i]))
	}
	return results
}

// Refusal is why a pod does not fit a node; Why is empty where it fits.
type Refusal struct{ Node, Why string }

// Explain says of each node, by name, why a pod does not fit it now.
func Explain(nodes []Node, pod Pod) []Refusal {
	f := newFleet(nodes, []Pod{pod})
	s := f.search(&pod)
	s.look()
	out := make([]Refusal, 0, len(f.nodes))
	for _, n := range f.nodes {
		r := Refusal{Node: n.Name}
		if why := f.refuses(s, &pod, n); why != fits {
			r.Why = why.text(n, &pod)
		}
		out = append(out, r)
	}
	return out
}
