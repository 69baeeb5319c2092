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
	Pods  []*Pod
	Nodes []*Node
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
		var bound, owned []moved
		s.Pods = merge(s.Pods, pods, (*Pod).Key, func(n spec.ObjectName) (Pod, bool) { return LookupPod(v, n) }, func(was, is *Pod) {
			s.touch(was)
			s.touch(is)
			p := cmp.Or(is, was)
			if from, to := was.on(), is.on(); from != to {
				bound = append(bound, moved{p, from, to})
			}
			if from, to := was.ownerUID(), is.ownerUID(); from != to {
				owned = append(owned, moved{p, from, to})
			}
		})
		if len(bound)+len(owned) > len(s.Pods)/8 {
			s.group()
		} else {
			regroup(s.OnNode, bound)
			regroup(s.OfOwner, owned)
		}
	}
	if len(nodes) > 0 {
		s.Nodes = merge(s.Nodes, nodes, func(n *Node) spec.ObjectName { return spec.ObjectName{Name: n.Name} },
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
	if node := p.on(); node != "" {
		s.TouchedNodes[node] = true
	}
}

// Pod returns one pod, nil when there is none of that name.
func (s *Sight) Pod(name spec.ObjectName) *Pod {
	i, ok := find(s.Pods, name)
	if !ok {
		return nil
	}
	return s.Pods[i]
}

// find tells where among pods, which are in order of their names, the one of that name is, or would be.
func find(pods []*Pod, name spec.ObjectName) (int, bool) {
	return slices.BinarySearchFunc(pods, name, func(p *Pod, n spec.ObjectName) int { return byName(p.Key(), n) })
}

// ownerUID is empty for a pod without an owner, and for nil.
func (p *Pod) ownerUID() string {
	if p == nil || p.Owner == nil {
		return ""
	}
	return p.Owner.UID
}

// on is its node, empty for none and for nil.
func (p *Pod) on() string {
	if p == nil {
		return ""
	}
	return p.Node()
}

// group puts the pods where they belong.
func (s *Sight) group() {
	for _, of := range []map[string][]*Pod{s.OnNode, s.OfOwner} {
		for k := range of {
			of[k] = of[k][:0]
		}
	}
	for _, p := range s.Pods {
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

// moved is a pod that is in another group than before; empty for none.
type moved struct {
	pod      *Pod
	from, to string
}

// regroup puts single pods where they belong now.
func regroup(groups map[string][]*Pod, pods []moved) {
	for _, m := range pods {
		if m.from != "" {
			i, _ := find(groups[m.from], m.pod.Key())
			if groups[m.from] = slices.Delete(groups[m.from], i, i+1); len(groups[m.from]) == 0 {
				delete(groups, m.from)
			}
		}
		if m.to != "" {
			i, _ := find(groups[m.to], m.pod.Key())
			groups[m.to] = slices.Insert(groups[m.to], i, m.pod)
		}
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

// together is how many that came at once lie beside each other in memory, where those who look at all find them sooner. One that
// stays keeps the room of the others.
const together = 64

// merge looks up what has changed among all, which are in order of their names as changed are, and returns all as they are
// now. What there was and is stays where it was, and has the new value. It tells each of what was and is, nil for nothing.
func merge[T any](all []*T, changed []spec.ObjectName, nameOf func(*T) spec.ObjectName, lookup func(spec.ObjectName) (T, bool), tell func(was, is *T)) []*T {
	var fresh []*T
	var room []T
	var gone []int
	for n, name := range changed {
		i := sort.Search(len(all), func(i int) bool { return byName(nameOf(all[i]), name) >= 0 })
		known := i < len(all) && nameOf(all[i]) == name
		is, there := lookup(name)
		switch {
		case there && known:
			was := *all[i]
			*all[i] = is
			tell(&was, all[i])
		case there:
			if len(room) == 0 {
				room = make([]T, min(together, len(changed)-n))
			}
			one := &room[0]
			*one, room = is, room[1:]
			tell(nil, one)
			fresh = append(fresh, one)
		case known:
			tell(all[i], nil)
			gone = append(gone, i)
		}
	}
	for _, i := range gone {
		all[i] = nil
	}
	if len(gone) > 0 {
		all = slices.DeleteFunc(all, func(p *T) bool { return p == nil })
	}
	// What is fresh comes in from behind, each moving what is after it once.
	end := len(all)
	all = append(all, fresh...)
	for n, one := range slices.Backward(fresh) {
		i := sort.Search(end, func(i int) bool { return byName(nameOf(all[i]), nameOf(one)) > 0 })
		copy(all[i+n+1:], all[i:end])
		all[i+n], end = one, i
	}
	return all
}
