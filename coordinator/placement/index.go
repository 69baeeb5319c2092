package placement

import (
	"cmp"
	"math"
	"slices"

	"github.com/musterhq/muster/internal/spec"
)

// none is the number of no owner.
const none = -1

// rank is how good a place a node is; the least is the best: what is wanted of it first, then how it stands, then the first
// by name. Without wishes about pods near it only rises while pods are placed.
type rank struct {
	wanted
	standing
	index int32
}

// wanted is, of a rank, what is preferred: nobody's last choice, then what the user prefers: no taints, the labels of nodes
// and the pods near, an even spread.
type wanted struct {
	last    bool
	against int32 // taints that are not tolerated but in need
	wish    int64 // weights of what is preferred, negative
	skew    int64 // like pods in the same domains
}

// standing is, of a rank, how a node stands: the fewest pods of the same owner, then the least loaded, then the fewest pods.
type standing struct {
	load        int64
	owned, pods int32
}

func (f *fleet) rank(s *search, n *node) rank {
	return rank{wanted: s.prefers(n.index, n.last), standing: n.stands(s.owner), index: n.index}
}

// prefers is what is wanted of a node whatever pods are near.
func (s *search) prefers(node int32, last bool) wanted {
	w := wanted{last: last}
	if s.preferences != nil {
		p := s.preferences[node]
		w.against, w.wish = p.against, -int64(p.wish)
	}
	return w
}

func (n *node) stands(owner int32) standing {
	s := standing{load: n.load, pods: n.pods}
	if owner != none {
		s.owned = n.podsOf(owner)
	}
	return s
}

func compare(a, b *rank) int {
	if c := a.wanted.compare(&b.wanted); c != 0 {
		return c
	}
	if c := a.standing.compare(&b.standing); c != 0 {
		return c
	}
	return cmp.Compare(a.index, b.index)
}

func (a *wanted) compare(b *wanted) int {
	switch {
	case a.last != b.last:
		if b.last {
			return -1
		}
		return 1
	case a.against != b.against:
		return cmp.Compare(a.against, b.against)
	case a.wish != b.wish:
		return cmp.Compare(a.wish, b.wish)
	}
	return cmp.Compare(a.skew, b.skew)
}

func (a *standing) compare(b *standing) int {
	switch {
	case a.owned != b.owned:
		return cmp.Compare(a.owned, b.owned)
	case a.load != b.load:
		return cmp.Compare(a.load, b.load)
	}
	return cmp.Compare(a.pods, b.pods)
}

// fleet is the nodes while pods are placed.
type fleet struct {
	nodes  []*node
	owners map[string]int32 // numbers of the owners of the pods to place
	shapes map[string]*search
	starts map[string]*start // by what pods prefer of nodes
	placed int
	log    []int32 // the nodes that were given pods, one after the other
	all    *order  // of all nodes, for nobody's pods; nil before the first scan
	writer writer
	// avoidable is whether any node has a PreferNoSchedule taint, lasts whether any is a last choice.
	avoidable, lasts bool
	neighbourhood
}

// start has the ranks, for nobody's pods, of the nodes that took pods at all when at pods had been placed, best first.
// Searches that begin share it.
type start struct {
	ranks []rank
	at    int
	// preferences are the nodes' by index; nil where nothing is preferred.
	preferences     []preference
	toleratesCordon bool
}

// stale is how many pods are placed before the next search begins with ranks of its own time.
const stale = 64

// search is where the search for pods of one shape stands. A rank that was noted is never better than now: so what
// is the best of the notes, and has its rank still, is the best of all; and what did not fit never will.
type search struct {
	owner       int32
	preferences []preference
	start       []rank // what has not been looked at
	seen        []rank // a heap of what has been, and fits as far as is known
	why         string // why the shape fitted nowhere
	whyAt       int    // when as many pods had been placed
	near
	scanned
}

func newFleet(nodes []Node, pods []Pod) *fleet {
	f := &fleet{nodes: make([]*node, len(nodes)), owners: map[string]int32{}, shapes: map[string]*search{}, starts: map[string]*start{}}
	for i := range pods {
		p := &pods[i]
		if _, ok := f.owners[p.Owner]; !ok && p.Owner != "" {
			f.owners[p.Owner] = int32(len(f.owners))
		}
		f.asked = f.asked || len(p.Spread) > 0 || neighbourly(p.Affinity)
	}
	all := make([]node, len(nodes))
	for i := range nodes {
		n := &all[i]
		n.Node, n.free, n.room, n.last = nodes[i], nodes[i].Allocatable, int32(min(nodes[i].MaxPods, math.MaxInt32)), nodes[i].LastChoice
		for j := range n.Bound {
			b := &n.Bound[j]
			n.take(b.Requests, f.owner(b.Owner), b.HostPorts)
			f.asked = f.asked || neighbourly(b.Affinity)
		}
		n.weigh()
		f.lasts = f.lasts || n.last
		f.avoidable = f.avoidable || slices.ContainsFunc(n.Taints, func(t spec.Taint) bool { return t.Effect == spec.PreferNoSchedule })
		f.nodes[i] = n
	}
	slices.SortFunc(f.nodes, func(a, b *node) int { return cmp.Compare(a.Name, b.Name) })
	for i, n := range f.nodes {
		n.index = int32(i)
	}
	if f.asked {
		f.meet()
	}
	return f
}

// owner is the number of an owner of pods to place; none for the others, whom nobody asks for.
func (f *fleet) owner(uid string) int32 {
	if uid == "" {
		return none
	}
	if number, ok := f.owners[uid]; ok {
		return number
	}
	return none
}

// begin returns the ranks that a search for pods like p begins with.
func (f *fleet) begin(p *Pod) *start {
	f.writer.preferences(p)
	st := f.starts[string(f.writer.b)]
	if st == nil {
		st = &start{at: -1, toleratesCordon: tolerates(p.Tolerations, &spec.TaintUnschedulable)}
		if f.avoidable || p.Affinity != nil && len(p.Affinity.Node.Preferred) > 0 {
			st.preferences = make([]preference, len(f.nodes))
			for i, n := range f.nodes {
				st.preferences[i] = n.preference(p)
			}
		}
		f.starts[string(f.writer.b)] = st
	}
	if st.at < 0 || f.placed-st.at >= stale {
		f.renew(st)
	}
	return st
}

// renew notes how the nodes stand now.
func (f *fleet) renew(st *start) {
	st.ranks, st.at = make([]rank, 0, len(f.nodes)), f.placed
	nobody := &search{owner: none, preferences: st.preferences}
	for _, n := range f.nodes {
		if n.Ready && (!n.Cordoned || st.toleratesCordon) && n.pods < n.room {
			st.ranks = append(st.ranks, f.rank(nobody, n))
		}
	}
	slices.SortFunc(st.ranks, func(a, b rank) int { return compare(&a, &b) })
}

// search returns the search for pods like p.
func (f *fleet) search(p *Pod) *search {
	f.writer.shape(p, f.asked)
	s := f.shapes[string(f.writer.b)]
	if s == nil {
		s = &search{owner: f.owner(p.Owner), whyAt: -1}
		f.shapes[string(f.writer.b)] = s
		st := f.begin(p)
		s.start, s.preferences = st.ranks, st.preferences
		f.acquaint(s, p)
	}
	f.notice(s, p)
	return s
}

// refuses says why a pod does not fit a node. Unless the search is a scan, what has been refused for anything but leftBy is
// refused for good.
func (f *fleet) refuses(s *search, p *Pod, n *node) reason {
	if why := n.bars(p); why != fits {
		return why
	}
	if why := n.lacksRoom(p); why != fits {
		return why
	}
	return s.refuses(n.index)
}

func (f *fleet) place(p *Pod) Result {
	s := f.search(p)
	find := f.look
	if s.scans() {
		find = f.scan
	}
	best := find(s, p)
	if best == none {
		return Result{Pod: p.Name, Why: f.why(s, p)}
	}
	n := f.nodes[best]
	n.take(p.Requests, s.owner, p.HostPorts)
	n.weigh()
	f.log = append(f.log, n.index)
	f.enter(s, p, n)
	if !s.scans() {
		s.push(f.rank(s, n))
	}
	f.placed++
	return Result{Pod: p.Name, Node: n.Name}
}

// look finds the best node in the index.
func (f *fleet) look(s *search, p *Pod) int {
	var left []rank // what this pod must not go to, and others may
	best := none
	for best == none {
		r, ok := s.pop()
		if !ok {
			break
		}
		n := f.nodes[r.index]
		switch why := f.refuses(s, p, n); {
		case why == leftBy:
			left = append(left, r)
		case why != fits:
		default:
			if now := f.rank(s, n); now != r {
				s.push(now)
			} else {
				best = int(n.index)
			}
		}
	}
	for _, r := range left {
		s.push(r)
	}
	return best
}

// why explains that a pod fits nowhere. Pods of one shape are told the same until another one has been placed.
func (f *fleet) why(s *search, p *Pod) string {
	if p.Not == "" && s.whyAt == f.placed {
		return s.why
	}
	var t tally
	for _, n := range f.nodes {
		t.add(f.refuses(s, p, n), n, p)
	}
	why := t.explain(len(f.nodes))
	if p.Not == "" {
		s.why, s.whyAt = why, f.placed
	}
	return why
}

// pop takes the least rank that is known.
func (s *search) pop() (rank, bool) {
	if len(s.start) > 0 && (len(s.seen) == 0 || compare(&s.start[0], &s.seen[0]) < 0) {
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
			if compare(&s.seen[child], &s.seen[least]) < 0 {
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
		if compare(&s.seen[parent], &s.seen[i]) <= 0 {
			return
		}
		s.seen[parent], s.seen[i] = s.seen[i], s.seen[parent]
		i = parent
	}
}
