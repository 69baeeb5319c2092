package fleet

import (
	"cmp"
	"maps"
	"slices"
	"sort"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/spec"
)

// Sight is the whole fleet for somebody who looks again and again: from one view to a later one only what has changed is joined
// anew. The zero value has seen nothing. It belongs to one goroutine, and what it shows changes with the next See.
type Sight struct {
	// View is what was seen last.
	View *store.View
	// Pods are by namespace and name, Nodes by name.
	Pods  []Pod
	Nodes []Node
	// OnNode are the pods that are bound to each node, OfOwner those of each owner, by its uid.
	OnNode, OfOwner map[string][]*Pod
	// Touched are the uids of owners of whose pods anything may be shown otherwise than before. Whoever looks empties it.
	Touched map[string]bool
}

// See looks at a view that is no older than the last, and tells whether any pod or node is another now.
func (s *Sight) See(v *store.View) (changed bool) {
	if s.View == nil {
		s.View, s.OnNode, s.OfOwner, s.Touched = &store.View{}, map[string][]*Pod{}, map[string][]*Pod{}, map[string]bool{}
	}
	pods := changedNames(v, s.View, store.Pods, store.Bindings, store.Stops, store.PodStatuses)
	nodes := changedNames(v, s.View, store.Nodes, store.NodeFacts, store.NodeStatus, store.NodeLeases, store.NodeNetworks)
	s.View = v
	if len(pods) > 0 {
		s.Pods = merge(s.Pods, pods, func(p *Pod) spec.ObjectName { return p.Key() }, func(n spec.ObjectName) (Pod, bool) { return LookupPod(v, n) }, s.touch)
		s.group()
	}
	if len(nodes) > 0 {
		s.Nodes = merge(s.Nodes, nodes, func(n *Node) spec.ObjectName { return spec.ObjectName{Name: n.Name} },
			func(n spec.ObjectName) (Node, bool) { return LookupNode(v, n.Name) }, func(*Node) {})
		for _, n := range nodes {
			for _, p := range s.OnNode[n.Name] {
				s.touch(p)
			}
		}
	}
	return len(pods)+len(nodes) > 0
}

func (s *Sight) touch(p *Pod) {
	if p.Owner != nil {
		s.Touched[p.Owner.UID] = true
	}
}

// group puts the pods where they belong.
func (s *Sight) group() {
	for _, of := range []map[string][]*Pod{s.OnNode, s.OfOwner} {
		for k := range of {
			of[k] = of[k][:0]
		}
	}
	for i := range s.Pods {
		p := &s.Pods[i]
		if node := p.Node(); node != "" {
			s.OnNode[node] = append(s.OnNode[node], p)
		}
		if p.Owner != nil {
			s.OfOwner[p.Owner.UID] = append(s.OfOwner[p.Owner.UID], p)
		}
	}
	for _, of := range []map[string][]*Pod{s.OnNode, s.OfOwner} {
		maps.DeleteFunc(of, func(_ string, pods []*Pod) bool { return len(pods) == 0 })
	}
}

// changedNames are the names, in order, of the records of some families that have changed.
func changedNames(v, earlier *store.View, families ...store.Family) []spec.ObjectName {
	var names []spec.ObjectName
	for _, f := range families {
		for k := range v.Since(earlier, f) {
			names = append(names, spec.ObjectName{Namespace: k.Namespace, Name: k.Name})
		}
	}
	slices.SortFunc(names, byName)
	return slices.Compact(names)
}

func byName(a, b spec.ObjectName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// merge looks up what has changed among all, which are in order of their names as changed are. Touch is called with what was and
// with what is.
func merge[T any](all []T, changed []spec.ObjectName, nameOf func(*T) spec.ObjectName, lookup func(spec.ObjectName) (T, bool), touch func(*T)) []T {
	var fresh []T
	gone := map[int]bool{}
	for _, name := range changed {
		i := sort.Search(len(all), func(i int) bool { return byName(nameOf(&all[i]), name) >= 0 })
		known := i < len(all) && nameOf(&all[i]) == name
		is, there := lookup(name)
		if known {
			touch(&all[i])
		}
		if there {
			touch(&is)
		}
		switch {
		case there && known:
			all[i] = is
		case there:
			fresh = append(fresh, is)
		case known:
			gone[i] = true
		}
	}
	if len(fresh)+len(gone) == 0 {
		return all
	}
	out := make([]T, 0, len(all)+len(fresh)-len(gone))
	for i := range all {
		for len(fresh) > 0 && byName(nameOf(&fresh[0]), nameOf(&all[i])) < 0 {
			out, fresh = append(out, fresh[0]), fresh[1:]
		}
		if !gone[i] {
			out = append(out, all[i])
		}
	}
	return append(out, fresh...)
}
