// Package placement says where a pod fits, and why not elsewhere. It is pure: nodes and pods in, bindings and
// explanations out, the same ones for the same input, in whatever order the nodes came. Whether a pod may move is failover's
// question, and writing the binding the leader's work.
package placement

import (
	"cmp"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"

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
	// Ready is the verdict; Cordoned the user's word.
	Ready, Cordoned bool
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
}

// Pod is a pod that needs a place.
type Pod struct {
	Name     spec.ObjectName
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
	// Not is a node that it must not go to; empty for none.
	Not string
}

// PodOf is what placement needs to know of a pod.
func PodOf(p *spec.Pod) Pod {
	s := &p.Spec
	out := Pod{Name: p.Key(), Requests: s.Requests(), Selector: s.NodeSelector, HostNetwork: s.HostNetwork, HostPorts: s.HostPorts(), HostPaths: s.HostPaths()}
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

// Result is where a pod goes: Node is empty when it fits nowhere, and Why then says why.
type Result struct {
	Pod  spec.ObjectName
	Node string
	Why  string
}

// node is a Node with what is left of it. What it has only grows while pods are placed.
type node struct {
	Node
	free   spec.ResourceList
	pods   int
	load   int64
	owners map[string]int
	ports  map[spec.HostPort]bool
	index  int // by name
}

func (n *node) take(requests spec.ResourceList, owner string, ports []spec.HostPort) {
	n.free.MilliCPU -= requests.MilliCPU
	n.free.MemoryBytes -= requests.MemoryBytes
	n.pods++
	if owner != "" {
		if n.owners == nil {
			n.owners = map[string]int{}
		}
		n.owners[owner]++
	}
	for _, p := range ports {
		if n.ports == nil {
			n.ports = map[spec.HostPort]bool{}
		}
		n.ports[p] = true
	}
}

// holds tells whether a pod here has one of the ports.
func (n *node) holds(ports []spec.HostPort) bool {
	return slices.ContainsFunc(ports, func(p spec.HostPort) bool { return n.ports[p] })
}

// weigh notes the load: the share of the node that is asked for, in thousandths, of its dearest resource.
func (n *node) weigh() {
	share := func(free, all int64) int64 {
		if all <= 0 {
			return 0
		}
		return (all - free) * 1000 / all
	}
	n.load = max(share(n.free.MilliCPU, n.Allocatable.MilliCPU), share(n.free.MemoryBytes, n.Allocatable.MemoryBytes))
}

// reason is why a pod does not fit a node.
type reason int

// The reasons, in the order in which they are looked at and told: what lasts before what may pass.
const (
	fits reason = iota
	notReady
	cordoned
	leftBy
	noNetwork
	noImages
	noMounts
	notRoot
	noPrivilege
	noHostPath
	noHostPorts
	notSelected
	full
	portTaken
	noCPU
	noMemory
	reasons
)

var texts = [reasons]string{
	notReady: "not ready", cordoned: "cordoned", leftBy: "left by this pod", noNetwork: "without a pod CIDR yet", noImages: "runs no images (--images=refuse)",
	noMounts: "without mount namespaces", notRoot: "whose agent is not root", noPrivilege: "without --allow-privileged-pods",
	noHostPath: "without --host-path-allow for what is mounted", noHostPorts: "without a pod network, so without host ports",
	portTaken: "host port taken", notSelected: "without the labels of nodeSelector", full: "full of pods", noCPU: "insufficient cpu", noMemory: "insufficient memory",
}

// missing are the reasons for a need that a node lacks, in the order of the needs.
var missing = [...]reason{noImages, noMounts, notRoot, noPrivilege}

// refuses says why a pod does not fit; what has been refused for anything but leftBy is refused for good. A pod that asks
// for nothing of a resource fits where it is overcommitted.
func (n *node) refuses(p *Pod) reason {
	switch {
	case !n.Ready:
		return notReady
	case n.Cordoned:
		return cordoned
	case p.Not == n.Name:
		return leftBy
	case n.LacksNetwork && !p.HostNetwork:
		return noNetwork
	case p.Needs&n.Lacks != 0:
		return missing[bits.TrailingZeros8(uint8(p.Needs&n.Lacks))]
	case !n.AnyHostPath && slices.ContainsFunc(p.HostPaths, n.shuts):
		return noHostPath
	case len(p.HostPorts) > 0 && n.SharesNetwork && !p.HostNetwork:
		return noHostPorts
	case !selected(n.Labels, p.Selector):
		return notSelected
	case n.pods >= n.MaxPods:
		return full
	case n.holds(p.HostPorts):
		return portTaken
	case p.Requests.MilliCPU > 0 && n.free.MilliCPU < p.Requests.MilliCPU:
		return noCPU
	case p.Requests.MemoryBytes > 0 && n.free.MemoryBytes < p.Requests.MemoryBytes:
		return noMemory
	}
	return fits
}

func selected(labels, selector map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// shuts tells whether pods may not mount a path of the node, as far as names go: the node itself follows links.
func (n *node) shuts(mounted string) bool {
	return !slices.ContainsFunc(n.HostPaths, func(dir string) bool {
		return mounted == dir || dir == "/" || strings.HasPrefix(mounted, dir+"/")
	})
}

// rank is how good a place a node is; the least is the best: nobody's last choice first, then the fewest pods of the same
// owner, then the least loaded, then the fewest pods, then the first by name. It only rises while pods are placed.
type rank struct {
	last  bool
	owned int
	load  int64
	pods  int
	index int
}

func (n *node) rank(owner string) rank {
	r := rank{last: n.LastChoice, load: n.load, pods: n.pods, index: n.index}
	if owner != "" {
		r.owned = n.owners[owner]
	}
	return r
}

func compare(a, b rank) int {
	if a.last != b.last {
		if b.last {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.owned, b.owned), cmp.Compare(a.load, b.load), cmp.Compare(a.pods, b.pods), cmp.Compare(a.index, b.index))
}

// Place gives each pod its place, one after the other in the order given, each counted against what the next ones find.
// Names of nodes must differ.
func Place(nodes []Node, pods []Pod) []Result {
	f := newFleet(nodes)
	results := make([]Result, 0, len(pods))
	for i := range pods {
		results = append(results, f.place(&pods[i]))
	}
	return results
}

// fleet is the nodes while pods are placed.
type fleet struct {
	nodes  []*node
	shapes map[shape]*search
	placed int
	// start has the ranks, for nobody's pods, of the nodes that took pods at all when startAt pods had been placed, best
	// first. Searches that begin share it.
	start   []rank
	startAt int
}

// stale is how many pods are placed before the next search begins with ranks of its own time.
const stale = 64

// shape is what makes pods alike to placement. Not is left out: it is of one pod.
type shape struct {
	owner       string
	requests    spec.ResourceList
	needs       Need
	hostNetwork bool
	selector    string
	hostPorts   string
	hostPaths   string
}

// search is where the search for pods of one shape stands. A rank that was noted is never better than now: so what
// is the best of the notes, and has its rank still, is the best of all; and what did not fit never will.
type search struct {
	start []rank // what has not been looked at
	seen  []rank // a heap of what has been, and fits as far as is known
	why   string // why the shape fitted nowhere
	whyAt int    // when as many pods had been placed
}

func newFleet(nodes []Node) *fleet {
	f := &fleet{nodes: make([]*node, 0, len(nodes)), shapes: map[shape]*search{}}
	for _, n := range nodes {
		with := &node{Node: n, free: n.Allocatable}
		for _, b := range n.Bound {
			with.take(b.Requests, b.Owner, b.HostPorts)
		}
		with.weigh()
		f.nodes = append(f.nodes, with)
	}
	slices.SortFunc(f.nodes, func(a, b *node) int { return cmp.Compare(a.Name, b.Name) })
	for i, n := range f.nodes {
		n.index = i
	}
	f.rank()
	return f
}

// rank notes how the nodes stand now.
func (f *fleet) rank() {
	f.start, f.startAt = make([]rank, 0, len(f.nodes)), f.placed
	for _, n := range f.nodes {
		if n.Ready && !n.Cordoned && n.pods < n.MaxPods {
			f.start = append(f.start, n.rank(""))
		}
	}
	slices.SortFunc(f.start, compare)
}

func (p *Pod) shape() shape {
	s := shape{owner: p.Owner, requests: p.Requests, needs: p.Needs, hostNetwork: p.HostNetwork, hostPaths: strings.Join(p.HostPaths, "\x00")}
	for _, k := range slices.Sorted(maps.Keys(p.Selector)) {
		s.selector += k + "\x00" + p.Selector[k] + "\x00"
	}
	for _, port := range p.HostPorts {
		s.hostPorts += fmt.Sprintf("%s/%d ", port.Protocol, port.Number)
	}
	return s
}

func (f *fleet) place(p *Pod) Result {
	shape := p.shape()
	s := f.shapes[shape]
	if s == nil {
		if f.placed-f.startAt >= stale {
			f.rank()
		}
		s = &search{start: f.start, whyAt: -1}
		f.shapes[shape] = s
	}
	var left []rank // what this pod must not go to, and others may
	best := -1
	for best < 0 {
		r, ok := s.pop()
		if !ok {
			break
		}
		n := f.nodes[r.index]
		switch why := n.refuses(p); {
		case why == leftBy:
			left = append(left, r)
		case why != fits:
		case n.rank(p.Owner) != r:
			s.push(n.rank(p.Owner))
		default:
			best = r.index
		}
	}
	for _, r := range left {
		s.push(r)
	}
	if best < 0 {
		return Result{Pod: p.Name, Why: f.why(s, p)}
	}
	n := f.nodes[best]
	n.take(p.Requests, p.Owner, p.HostPorts)
	n.weigh()
	s.push(n.rank(p.Owner))
	f.placed++
	return Result{Pod: p.Name, Node: n.Name}
}

// why explains that a pod fits nowhere. Pods of one shape are told the same until another one has been placed.
func (f *fleet) why(s *search, p *Pod) string {
	if p.Not == "" && s.whyAt == f.placed {
		return s.why
	}
	var counts [reasons]int
	for _, n := range f.nodes {
		counts[n.refuses(p)]++
	}
	why := explain(len(f.nodes), counts)
	if p.Not == "" {
		s.why, s.whyAt = why, f.placed
	}
	return why
}

func explain(nodes int, counts [reasons]int) string {
	if nodes == 0 {
		return "0/0 nodes fit: there are no nodes"
	}
	var parts []string
	for r, n := range counts {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, texts[r]))
		}
	}
	return fmt.Sprintf("0/%d nodes fit: %s", nodes, strings.Join(parts, ", "))
}

// pop takes the least rank that is known.
func (s *search) pop() (rank, bool) {
	if len(s.start) > 0 && (len(s.seen) == 0 || compare(s.start[0], s.seen[0]) < 0) {
		first := s.start[0]
		s.start = s.start[1:]
		return first, true
	}
	if len(s.seen) == 0 {
		return rank{}, false
	}
	top := s.seen[0]
	last := len(s.seen) - 1
	s.seen[0] = s.seen[last]
	s.seen = s.seen[:last]
	for i := 0; ; {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < last; child++ {
			if compare(s.seen[child], s.seen[least]) < 0 {
				least = child
			}
		}
		if least == i {
			return top, true
		}
		s.seen[i], s.seen[least] = s.seen[least], s.seen[i]
		i = least
	}
}

// push notes a rank.
func (s *search) push(r rank) {
	s.seen = append(s.seen, r)
	for i := len(s.seen) - 1; i > 0; {
		parent := (i - 1) / 2
		if compare(s.seen[parent], s.seen[i]) <= 0 {
			return
		}
		s.seen[parent], s.seen[i] = s.seen[i], s.seen[parent]
		i = parent
	}
}
