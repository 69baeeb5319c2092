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
	// TouchedNodes are the names of nodes of which, or of whose pods, anything has changed. Whoever looks empties it.
	TouchedNodes map[string]bool
}

// See looks at a view that is no older than the last, and tells whether any pod or node is another now.
func (s *Sight) See(v *store.View) (changed bool) {
	if s.View == nil {
		s.View, s.OnNode, s.OfOwner = &store.View{}, map[string][]*Pod{}, map[string][]*Pod{}
		s.Touched, s.TouchedNodes = map[string]bool{}, map[string]bool{}
	}
	pods := changedNames(v, s.View, store.Pods, store.Bindings, store.Stops, store.PodStatuses)
	nodes := changedNames(v, s.View, store.Nodes, store.NodeFacts, store.NodeStatus, store.NodeLeases, store.NodeNetworks)
	s.View = v
	if len(pods) > 0 {
		var elsewhere []Pod // how those were that belong elsewhere now
		var rebuilt bool
		s.Pods, rebuilt = merge(s.Pods, pods, func(p *Pod) spec.ObjectName { return p.Key() }, func(n spec.ObjectName) (Pod, bool) { return LookupPod(v, n) }, func(was, is *Pod) {
			s.touch(was)
			s.touch(is)
			if was != nil && is != nil && (was.Node() != is.Node() || was.ownerUID() != is.ownerUID()) {
				elsewhere = append(elsewhere, *was)
			}
		})
		if rebuilt {
			s.group()
		} else {
			s.regroup(elsewhere)
		}
	}
	if len(nodes) > 0 {
		s.Nodes, _ = merge(s.Nodes, nodes, func(n *Node) spec.ObjectName { return spec.ObjectName{Name: n.Name} },
			func(n spec.ObjectName) (Node, bool) { return LookupNode(v, n.Name) }, func(_, _ *Node) {})
		for _, n := range nodes {
			s.TouchedNodes[n.Name] = true
			for _, p := range s.OnNode[n.Name] {
				s.touch(p)
			}
		}
	}
	return len(pods)+len(nodes) > 0
}

// touch notes that p, nil for none, was or is so.
func (s *Sight) touch(p *Pod) {
	if p == nil {
		return
	}
	if owner := p.ownerUID(); owner != "" {
		s.Touched[owner] = true
	}
	if node := p.Node(); node != "" {
		s.TouchedNodes[node] = true
	}
}

// Pod returns one pod, nil when there is none of that name.
func (s *Sight) Pod(name spec.ObjectName) *Pod {
	i, ok := slices.BinarySearchFunc(s.Pods, name, func(p Pod, n spec.ObjectName) int { return byName(p.Key(), n) })
	if !ok {
		return nil
	}
	return &s.Pods[i]
}

// ownerUID is empty for a pod without an owner.
func (p *Pod) ownerUID() string {
	if p.Owner == nil {
		return ""
	}
	return p.Owner.UID
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
		if owner := p.ownerUID(); owner != "" {
			s.OfOwner[owner] = append(s.OfOwner[owner], p)
		}
	}
	for _, of := range []map[string][]*Pod{s.OnNode, s.OfOwner} {
		maps.DeleteFunc(of, func(_ string, pods []*Pod) bool { return len(pods) == 0 })
	}
}

// regroup puts single pods where they belong now, by how they were before.
func (s *Sight) regroup(before []Pod) {
	for i := range before {
		was := &before[i]
		is := s.Pod(was.Key())
		regroup(s.OnNode, is, was.Node(), is.Node())
		regroup(s.OfOwner, is, was.ownerUID(), is.ownerUID())
	}
}

func regroup(groups map[string][]*Pod, p *Pod, from, to string) {
	if from == to {
		return
	}
	at := func(pods []*Pod) int {
		i, _ := slices.BinarySearchFunc(pods, p.Key(), func(q *Pod, n spec.ObjectName) int { return byName(q.Key(), n) })
		return i
	}
	if from != "" {
		if groups[from] = slices.Delete(groups[from], at(groups[from]), at(groups[from])+1); len(groups[from]) == 0 {
			delete(groups, from)
		}
	}
	if to != "" {
		groups[to] = slices.Insert(groups[to], at(groups[to]), p)
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

// merge looks up what has changed among all, which are in order of their names as changed are, and tells each of what was and is,
// nil for nothing. What it returns is all itself, unless it was rebuilt because some are new or gone.
func merge[T any](all []T, changed []spec.ObjectName, nameOf func(*T) spec.ObjectName, lookup func(spec.ObjectName) (T, bool), tell func(was, is *T)) (merged []T, rebuilt bool) {
	var fresh []T
	gone := map[int]bool{}
	for _, name := range changed {
		i := sort.Search(len(all), func(i int) bool { return byName(nameOf(&all[i]), name) >= 0 })
		known := i < len(all) && nameOf(&all[i]) == name
		is, there := lookup(name)
		switch {
		case there && known:
			tell(&all[i], &is)
			all[i] = is
		case there:
			tell(nil, &is)
			fresh = append(fresh, is)
		case known:
			tell(&all[i], nil)
			gone[i] = true
		}
	}
	if len(fresh)+len(gone) == 0 {
		return all, false
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
	return append(out, fresh...), true
}
