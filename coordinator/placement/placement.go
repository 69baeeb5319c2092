// Package placement says where a pod fits, and why not elsewhere. It is pure: nodes and pods in, bindings and
// explanations out, the same ones for the same input in whatever order it came.
package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/musterhq/muster/internal/spec"
)

// Node is a node as placement sees it.
type Node struct {
	Name   string
	Labels map[string]string
	// Ready is the verdict; Cordoned the user's word.
	Ready, Cordoned bool
	// LastChoice is a node that takes pods only when no other fits: one that was lost too often of late, or was kept out.
	LastChoice bool
	// RunsImages is whether pods that name an image run here.
	RunsImages  bool
	Allocatable spec.ResourceList
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
}

// Pod is a pod that needs a place.
type Pod struct {
	Name     spec.ObjectName
	Requests spec.ResourceList
	Owner    string
	Selector map[string]string
	// NamesImage is whether any container names an image.
	NamesImage bool
	// Not is a node that it must not go to; empty for none.
	Not string
}

// PodOf is what placement needs to know of a pod.
func PodOf(p *spec.Pod) Pod {
	out := Pod{Name: p.Key(), Requests: p.Spec.Requests(), Selector: p.Spec.NodeSelector, NamesImage: p.Spec.NamesImage()}
	if p.Owner != nil {
		out.Owner = p.Owner.UID
	}
	return out
}

// Result is where a pod goes: Node is empty when it fits nowhere, and Why then says why.
type Result struct {
	Pod  spec.ObjectName
	Node string
	Why  string
}

// node is a Node with what is left of it.
type node struct {
	Node
	free   spec.ResourceList
	pods   int
	owners map[string]int
}

func (n *node) take(requests spec.ResourceList, owner string) {
	n.free.MilliCPU -= requests.MilliCPU
	n.free.MemoryBytes -= requests.MemoryBytes
	n.pods++
	if owner != "" {
		if n.owners == nil {
			n.owners = map[string]int{}
		}
		n.owners[owner]++
	}
}

// The reasons why a pod does not fit a node, in the order in which they are looked at and told.
var reasons = []struct {
	text string
	bad  func(n *node, p *Pod) bool
}{
	{"not ready", func(n *node, _ *Pod) bool { return !n.Ready }},
	{"cordoned", func(n *node, _ *Pod) bool { return n.Cordoned }},
	{"left by this pod", func(n *node, p *Pod) bool { return p.Not == n.Name }},
	{"runs no images (--images=refuse)", func(n *node, p *Pod) bool { return p.NamesImage && !n.RunsImages }},
	{"without the labels of nodeSelector", func(n *node, p *Pod) bool { return !selected(n.Labels, p.Selector) }},
	{"full of pods", func(n *node, _ *Pod) bool { return n.pods >= n.MaxPods }},
	{"insufficient cpu", func(n *node, p *Pod) bool { return p.Requests.MilliCPU > 0 && n.free.MilliCPU < p.Requests.MilliCPU }},
	{"insufficient memory", func(n *node, p *Pod) bool {
		return p.Requests.MemoryBytes > 0 && n.free.MemoryBytes < p.Requests.MemoryBytes
	}},
}

func selected(labels, selector map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// Place gives each pod its place, one after the other by namespace and name, each counted against what the next ones
// find.
func Place(nodes []Node, pods []Pod) []Result {
	all := make([]*node, 0, len(nodes))
	for _, n := range nodes {
		with := &node{Node: n, free: n.Allocatable}
		for _, b := range n.Bound {
			with.take(b.Requests, b.Owner)
		}
		all = append(all, with)
	}
	slices.SortFunc(all, func(a, b *node) int { return cmp.Compare(a.Name, b.Name) })
	pods = slices.Clone(pods)
	slices.SortFunc(pods, func(a, b Pod) int {
		return cmp.Or(cmp.Compare(a.Name.Namespace, b.Name.Namespace), cmp.Compare(a.Name.Name, b.Name.Name))
	})
	results := make([]Result, 0, len(pods))
	for i := range pods {
		results = append(results, place(all, &pods[i]))
	}
	return results
}

func place(nodes []*node, p *Pod) Result {
	var best *node
	counts := make([]int, len(reasons))
next:
	for _, n := range nodes {
		for i := range reasons {
			if reasons[i].bad(n, p) {
				counts[i]++
				continue next
			}
		}
		if best == nil || better(n, best, p) {
			best = n
		}
	}
	if best == nil {
		return Result{Pod: p.Name, Why: explain(len(nodes), counts)}
	}
	best.take(p.Requests, p.Owner)
	return Result{Pod: p.Name, Node: best.Name}
}

// better tells whether a is a better place than b, which comes before it by name: first the nodes that are nobody's
// last choice, then the fewest pods of the same owner, then the least loaded.
func better(a, b *node, p *Pod) bool {
	if a.LastChoice != b.LastChoice {
		return b.LastChoice
	}
	if p.Owner != "" && a.owners[p.Owner] != b.owners[p.Owner] {
		return a.owners[p.Owner] < b.owners[p.Owner]
	}
	if la, lb := a.load(), b.load(); la != lb {
		return la < lb
	}
	return a.pods < b.pods
}

// load is the share of the node that is asked for, in thousandths: of its dearest resource.
func (n *node) load() int64 {
	share := func(free, all int64) int64 {
		if all <= 0 {
			return 0
		}
		return (all - free) * 1000 / all
	}
	return max(share(n.free.MilliCPU, n.Allocatable.MilliCPU), share(n.free.MemoryBytes, n.Allocatable.MemoryBytes))
}

func explain(nodes int, counts []int) string {
	var parts []string
	for i, n := range counts {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, reasons[i].text))
		}
	}
	if len(parts) == 0 {
		return "0/0 nodes fit: there are no nodes"
	}
	return fmt.Sprintf("0/%d nodes fit: %s", nodes, strings.Join(parts, ", "))
}
