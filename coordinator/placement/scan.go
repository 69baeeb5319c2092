package placement

import (
	"cmp"
	"slices"
)

// This file looks at every node, for pods whose rules or wishes may ease while others are placed.

// scanned is what a search keeps from one scan to the next.
type scanned struct {
	// order has the nodes that are not barred; nil before the first scan.
	*order
	// favourite is the most that may be wanted of one of them, whatever pods are near.
	favourite wanted
}

// order is nodes as they stand, the best first.
type order struct {
	owner int32
	nodes []int32
	// standings are the nodes', by index, as the order has them; logged is how much of the fleet's log is in it.
	standings []standing
	logged    int
}

func (o *order) compare(a, b int32) int {
	return cmp.Or(o.standings[a].compare(&o.standings[b]), cmp.Compare(a, b))
}

// follow brings the order up to date.
func (o *order) follow(f *fleet) {
	for ; o.logged < len(f.log); o.logged++ {
		i := f.log[o.logged]
		from, found := slices.BinarySearchFunc(o.nodes, i, o.compare)
		if !found {
			continue // it is barred
		}
		// How it stands only rises, so it comes further behind.
		o.standings[i] = f.nodes[i].stands(o.owner)
		behind, _ := slices.BinarySearchFunc(o.nodes[from+1:], i, o.compare)
		copy(o.nodes[from:], o.nodes[from+1:from+1+behind])
		o.nodes[from+behind] = i
	}
}

// scans tells whether the search has to look at every node.
func (s *search) scans() bool {
	return len(s.affinity)+len(s.hard)+len(s.soft)+len(s.wishes)+len(s.pulled) > 0
}

// scan finds the best node by looking at each, in the order in which they stand: so one that is wanted no more than the
// best so far can be passed over, and once one is wanted as much as any can be, the rest is not looked at.
func (f *fleet) scan(s *search, p *Pod) int {
	f.arrange(s, p)
	s.look()
	best, most, ideal := none, wanted{}, s.ideal()
	for _, i := range s.nodes {
		w := s.desires(i, f.lasts && f.nodes[i].last)
		if best != none && w.compare(&most) >= 0 || s.refuses(i) != fits || f.nodes[i].lacksRoom(p) != fits {
			continue
		}
		if best, most = int(i), w; w.compare(&ideal) <= 0 {
			break
		}
	}
	return best
}

// arrange brings the search's order up to date.
func (f *fleet) arrange(s *search, p *Pod) {
	if s.order != nil {
		s.follow(f)
		return
	}
	if f.all == nil {
		f.all = &order{owner: none, standings: make([]standing, len(f.nodes)), logged: len(f.log)}
		for i, n := range f.nodes {
			f.all.nodes, f.all.standings[i] = append(f.all.nodes, int32(i)), n.stands(none)
		}
		slices.SortFunc(f.all.nodes, f.all.compare)
	}
	f.all.follow(f)
	// The order for nobody's pods is that for the owner's, but for the nodes that have some: they come behind.
	o := &order{owner: s.owner, nodes: make([]int32, 0, len(f.nodes)), standings: make([]standing, len(f.nodes)), logged: len(f.log)}
	var behind []int32
	for _, i := range f.all.nodes {
		n := f.nodes[i]
		if n.bars(p) != fits {
			continue
		}
		o.standings[i] = n.stands(s.owner)
		if o.standings[i].owned > 0 {
			behind = append(behind, i)
		} else {
			o.nodes = append(o.nodes, i)
		}
		if w := s.prefers(i, n.last); len(o.nodes)+len(behind) == 1 || w.compare(&s.favourite) < 0 {
			s.favourite = w
		}
	}
	slices.SortFunc(behind, o.compare)
	o.nodes = append(o.nodes, behind...)
	s.order = o
}

// outside is the skew of a node that is in no domain: more than any has.
const outside = 1 << 40

// ideal is what no node can be wanted more than: the best domain of each wish, whether or not they have a node in common.
func (s *search) ideal() wanted {
	w := s.favourite
	for i := range s.wishes {
		c := s.wishes[i].counter
		most := int64(0)
		if len(c.pods) > 0 {
			if s.wishes[i].weight < 0 {
				most = s.wishes[i].weight * int64(slices.Min(c.pods))
			} else {
				most = s.wishes[i].weight * int64(slices.Max(c.pods))
			}
		}
		w.wish -= c.topology.orNone(most)
	}
	for _, t := range s.pulled {
		most := int64(0)
		if len(t.pull) > 0 {
			most = slices.Max(t.pull)
		}
		w.wish -= t.topology.orNone(most)
	}
	for _, c := range s.soft {
		if len(c.pods) > 0 {
			w.skew += int64(slices.Min(c.pods))
		}
	}
	return w
}

// orNone is the most of what domains give and of the 0 that nodes outside get.
func (t *topology) orNone(most int64) int64 {
	if t.outside {
		return max(most, 0)
	}
	return most
}

// desires is what is wanted of a node with the pods near it.
func (s *search) desires(node int32, last bool) wanted {
	w := s.prefers(node, last)
	for i := range s.wishes {
		if d := s.wishes[i].counter.topology.domains[node]; d != none {
			w.wish -= s.wishes[i].weight * int64(s.wishes[i].counter.pods[d])
		}
	}
	for _, t := range s.pulled {
		if d := t.topology.domains[node]; d != none {
			w.wish -= t.pull[d]
		}
	}
	for _, c := range s.soft {
		if d := c.topology.domains[node]; d != none {
			w.skew += int64(c.pods[d])
		} else {
			w.skew += outside
		}
	}
	return w
}
