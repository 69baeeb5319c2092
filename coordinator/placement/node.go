package placement

import (
	"math/bits"
	"slices"
	"strings"

	"github.com/musterhq/muster/internal/spec"
)

// node is a Node with what is left of it. What it has only grows while pods are placed. What a scan reads comes first, so
// that it is close together in memory.
type node struct {
	load  int64
	free  spec.ResourceList
	pods  int32
	index int32 // by name
	room  int32 // MaxPods
	last  bool  // LastChoice
	owned []owned
	ports map[spec.HostPort]bool
	Node
}

// owned is how many pods of an owner, by its number, are on a node.
type owned struct{ owner, pods int32 }

// take counts a pod in. Owner is the number of its owner, or none.
func (n *node) take(requests spec.ResourceList, owner int32, ports []spec.HostPort) {
	n.free.MilliCPU -= requests.MilliCPU
	n.free.MemoryBytes -= requests.MemoryBytes
	n.pods++
	for _, p := range ports {
		if n.ports == nil {
			n.ports = map[spec.HostPort]bool{}
		}
		n.ports[p] = true
	}
	if owner == none {
		return
	}
	for i := range n.owned {
		if n.owned[i].owner == owner {
			n.owned[i].pods++
			return
		}
	}
	n.owned = append(n.owned, owned{owner, 1})
}

func (n *node) podsOf(owner int32) int32 {
	for _, o := range n.owned {
		if o.owner == owner {
			return o.pods
		}
	}
	return 0
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

// bars says why a pod does not fit, of what does not change while pods are placed.
func (n *node) bars(p *Pod) reason {
	switch {
	case !n.Ready:
		return notReady
	case n.Cordoned && !tolerates(p.Tolerations, &spec.TaintUnschedulable):
		return cordoned
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
	case !p.accepts(n):
		return notMatched
	case n.untolerated(p) != nil:
		return tainted
	}
	return fits
}

// lacksRoom says why a pod does not fit, of what pods take from each other. A pod that asks for nothing of a resource fits
// where it is overcommitted.
func (n *node) lacksRoom(p *Pod) reason {
	switch {
	case p.Not != "" && p.Not == n.Name:
		return leftBy
	case n.pods >= n.room:
		return full
	case len(p.HostPorts) > 0 && n.holds(p.HostPorts):
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

// accepts tells whether the pod's required node affinity matches the node.
func (p *Pod) accepts(n *node) bool {
	return p.Affinity == nil || p.Affinity.Node.Required == nil || p.Affinity.Node.Required.Matches(n.Name, n.Labels)
}

// shuts tells whether pods may not mount a path of the node, as far as names go: the node itself follows links.
func (n *node) shuts(mounted string) bool {
	return !slices.ContainsFunc(n.HostPaths, func(dir string) bool {
		return mounted == dir || dir == "/" || strings.HasPrefix(mounted, dir+"/")
	})
}

func tolerates(all []spec.Toleration, taint *spec.Taint) bool {
	for i := range all {
		if all[i].Tolerates(taint) {
			return true
		}
	}
	return false
}

// untolerated is the first taint that keeps the pod off, nil for none.
func (n *node) untolerated(p *Pod) *spec.Taint {
	for i := range n.Taints {
		if t := &n.Taints[i]; t.Effect != spec.PreferNoSchedule && !tolerates(p.Tolerations, t) {
			return t
		}
	}
	return nil
}

// preference is how much of what is preferred about a node is so, whatever pods are near.
type preference struct {
	// against are its PreferNoSchedule taints that the pod does not tolerate.
	against int32
	// wish has the weights of the preferred node affinity that matches.
	wish int32
}

func (n *node) preference(p *Pod) (out preference) {
	for i := range n.Taints {
		if t := &n.Taints[i]; t.Effect == spec.PreferNoSchedule && !tolerates(p.Tolerations, t) {
			out.against++
		}
	}
	if p.Affinity != nil {
		for i := range p.Affinity.Node.Preferred {
			if t := &p.Affinity.Node.Preferred[i]; t.Term.Matches(n.Name, n.Labels) {
				out.wish += t.Weight
			}
		}
	}
	return out
}
