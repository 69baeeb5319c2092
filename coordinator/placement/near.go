package placement

import (
	"slices"

	"github.com/musterhq/muster/internal/spec"
)

// This file has the rules about the pods that are near: affinity, anti-affinity and topology spread. They count pods by
// domain: nodes with the same value of a label. A count is made when the first pod asks for it, and kept from then on.

// topology is how a label parts the nodes into domains.
type topology struct {
	// domains are the nodes' by index, none where a node has not got the label; size is how many there are.
	domains []int32
	size    int
	// outside is whether some node has not got it.
	outside bool
}

// counter counts, by domain, the pods that something means.
type counter struct {
	means    func(namespace string, labels map[string]string) bool
	topology *topology
	// eligible are the nodes that count, by index; nil for all.
	eligible []bool
	// stays leaves out pods that are being deleted.
	stays bool
	pods  []int32
	total int
}

func (c *counter) add(node int32) {
	d := c.topology.domains[node]
	if d == none || c.eligible != nil && !c.eligible[node] {
		return
	}
	c.pods[d]++
	c.total++
}

// term is a term of affinity or anti-affinity that pods carry, whoever carries it.
type term struct {
	means    func(namespace string, labels map[string]string) bool
	topology *topology
	// shut counts, by domain, the pods that require not to be near those that the term means; nil where none ever did.
	shut []int32
	// pull adds, by domain, the weights of the pods that prefer to be near those, negative for those that prefer not to;
	// nil where none ever did.
	pull []int64
}

// carried is what one pod adds to a term.
type carried struct {
	term   *term
	shuts  bool
	weight int64
}

func (c *carried) add(node int32) {
	d := c.term.topology.domains[node]
	switch {
	case d == none:
	case c.shuts:
		c.term.shut[d]++
	default:
		c.term.pull[d] += c.weight
	}
}

// crowd are the pods of a namespace that have the same labels and their place: counters look at them once.
type crowd struct {
	namespace string
	labels    map[string]string
	pods      []resident
}

type resident struct {
	node    int32
	leaving bool
}

// neighbourhood is what the fleet knows of the pods near.
type neighbourhood struct {
	// asked is whether anybody asks for the pods near at all.
	asked      bool
	topologies map[string]*topology
	terms      map[string]*term
	came       []*term // the terms, as they came
	carries    map[string][]carried
	counters   []*counter
	crowds     map[string]*crowd
}

// near is what a search knows of the pods near.
type near struct {
	// apart counts the pods that these pods must not be near; avoided are the terms of others that mean these pods.
	apart   []*counter
	avoided []*term
	// affinity counts the pods that these pods must be near, one for each term; first is whether they mean themselves, and so may be the first.
	affinity []*counter
	first    bool
	// hard are the constraints that refuse, soft those that only prefer.
	hard   []*spread
	soft   []*spread
	wishes []wish
	pulled []*term // of avoided, those with a pull
	// carries is what each of these pods adds to terms; counted are the counters that mean them.
	carries []carried
	counted []*counter
	crowd   *crowd
	// terms and counters are how many of the fleet's have been noticed.
	terms, counters int
}

// wish is a preference to be near the pods that are counted, or not to be.
type wish struct {
	counter *counter
	weight  int64
}

// spread is one constraint of topology spread.
type spread struct {
	*counter
	maxSkew int32
	// domains tells which have a node that counts; size is how many.
	domains []bool
	size    int32
	least   int32 // what the emptiest domain has, as of the last look
	min     int32 // minDomains
	self    int32 // 1 where the pods themselves are counted
}

// neighbourly tells whether an affinity is about pods.
func neighbourly(a *spec.Affinity) bool {
	return a != nil && len(a.Pod.Required)+len(a.Pod.Preferred)+len(a.PodAnti.Required)+len(a.PodAnti.Preferred) > 0
}

// meet takes in what the pods that have their place want of others.
func (f *fleet) meet() {
	f.topologies, f.terms, f.carries = map[string]*topology{}, map[string]*term{}, map[string][]carried{}
	f.crowds = map[string]*crowd{}
	for _, n := range f.nodes {
		for i := range n.Bound {
			b := &n.Bound[i]
			f.crowd(b.Namespace, b.Labels).add(n, b.Leaving)
			for _, c := range f.carriedBy(b.Namespace, b.Affinity) {
				c.add(n.index)
			}
		}
	}
}

func (f *fleet) crowd(namespace string, labels map[string]string) *crowd {
	f.writer.b = f.writer.b[:0]
	f.writer.text(namespace)
	f.writer.labels(labels)
	c := f.crowds[string(f.writer.b)]
	if c == nil {
		c = &crowd{namespace: namespace, labels: labels}
		f.crowds[string(f.writer.b)] = c
	}
	return c
}

func (c *crowd) add(n *node, leaving bool) {
	c.pods = append(c.pods, resident{n.index, leaving})
}

func (f *fleet) topology(label string) *topology {
	t := f.topologies[label]
	if t != nil {
		return t
	}
	t = &topology{domains: make([]int32, len(f.nodes))}
	numbers := map[string]int32{}
	for i, n := range f.nodes {
		value, ok := n.Labels[label]
		if !ok {
			t.domains[i], t.outside = none, true
			continue
		}
		number, ok := numbers[value]
		if !ok {
			number = int32(len(numbers))
			numbers[value] = number
		}
		t.domains[i] = number
	}
	t.size = len(numbers)
	f.topologies[label] = t
	return t
}

// carriedBy is what a pod of the namespace adds to terms.
func (f *fleet) carriedBy(namespace string, a *spec.Affinity) []carried {
	if !neighbourly(a) {
		return nil
	}
	f.writer.b = f.writer.b[:0]
	f.writer.text(namespace)
	f.writer.neighbours(a)
	key := string(f.writer.b)
	out, ok := f.carries[key]
	if ok {
		return out
	}
	for i := range a.PodAnti.Required {
		out = append(out, f.carry(namespace, &a.PodAnti.Required[i], 0))
	}
	for i := range a.PodAnti.Preferred {
		out = append(out, f.carry(namespace, &a.PodAnti.Preferred[i].Term, -int64(a.PodAnti.Preferred[i].Weight)))
	}
	for i := range a.Pod.Preferred {
		out = append(out, f.carry(namespace, &a.Pod.Preferred[i].Term, int64(a.Pod.Preferred[i].Weight)))
	}
	f.carries[key] = out
	return out
}

// carry is one term that a pod carries: required anti-affinity where the weight is 0.
func (f *fleet) carry(namespace string, t *spec.PodTerm, weight int64) carried {
	f.writer.b = f.writer.b[:0]
	f.writer.text(namespace)
	f.writer.podTerm(t)
	key := string(f.writer.b)
	known := f.terms[key]
	if known == nil {
		known = &term{topology: f.topology(t.TopologyKey), means: meaning(namespace, t)}
		f.terms[key] = known
		f.came = append(f.came, known)
	}
	if weight == 0 && known.shut == nil {
		known.shut = make([]int32, known.topology.size)
	}
	if weight != 0 && known.pull == nil {
		known.pull = make([]int64, known.topology.size)
	}
	return carried{known, weight == 0, weight}
}

func meaning(home string, t *spec.PodTerm) func(string, map[string]string) bool {
	return func(namespace string, labels map[string]string) bool { return t.Matches(home, namespace, labels) }
}

// count begins to count.
func (f *fleet) count(c *counter) *counter {
	c.pods = make([]int32, c.topology.size)
	for _, crowd := range f.crowds {
		if !c.means(crowd.namespace, crowd.labels) {
			continue
		}
		for _, r := range crowd.pods {
			if !c.stays || !r.leaving {
				c.add(r.node)
			}
		}
	}
	f.counters = append(f.counters, c)
	return c
}

// acquaint gives a new search for pods like p what it has to know of the pods near.
func (f *fleet) acquaint(s *search, p *Pod) {
	if !f.asked {
		return
	}
	home := p.Name.Namespace
	s.carries, s.crowd = f.carriedBy(home, p.Affinity), f.crowd(home, p.Labels)
	counted := func(t *spec.PodTerm) *counter {
		return f.count(&counter{means: meaning(home, t), topology: f.topology(t.TopologyKey)})
	}
	if a := p.Affinity; a != nil {
		for i := range a.PodAnti.Required {
			s.apart = append(s.apart, counted(&a.PodAnti.Required[i]))
		}
		for i := range a.PodAnti.Preferred {
			s.wishes = append(s.wishes, wish{counted(&a.PodAnti.Preferred[i].Term), -int64(a.PodAnti.Preferred[i].Weight)})
		}
		for i := range a.Pod.Preferred {
			s.wishes = append(s.wishes, wish{counted(&a.Pod.Preferred[i].Term), int64(a.Pod.Preferred[i].Weight)})
		}
		// As in Kubernetes a pod counts for affinity if all of the terms mean it.
		means := func(namespace string, labels map[string]string) bool {
			return !slices.ContainsFunc(a.Pod.Required, func(t spec.PodTerm) bool { return !t.Matches(home, namespace, labels) })
		}
		s.first = means(home, p.Labels)
		for i := range a.Pod.Required {
			s.affinity = append(s.affinity, f.count(&counter{means: means, topology: f.topology(a.Pod.Required[i].TopologyKey)}))
		}
	}
	for i := range p.Spread {
		if c := &p.Spread[i]; c.WhenUnsatisfiable == spec.DoNotSchedule {
			s.hard = append(s.hard, f.spread(p, c))
		} else {
			s.soft = append(s.soft, f.spread(p, c))
		}
	}
}

// spread begins to count for a constraint of p.
func (f *fleet) spread(p *Pod, c *spec.SpreadConstraint) *spread {
	home, chosen := p.Name.Namespace, spec.Selector{}
	if c.Selector != nil {
		chosen = spec.Selector{Labels: c.Selector.Labels, Expressions: slices.Clone(c.Selector.Expressions)}
		for _, key := range c.MatchLabelKeys {
			if value, ok := p.Labels[key]; ok {
				chosen.Expressions = append(chosen.Expressions, spec.SelectorExpression{Key: key, Operator: spec.In, Values: []string{value}})
			}
		}
	}
	out := &spread{maxSkew: c.MaxSkew, min: 1}
	if c.MinDomains != nil {
		out.min = *c.MinDomains
	}
	count := &counter{topology: f.topology(c.TopologyKey), stays: true, eligible: make([]bool, len(f.nodes))}
	count.means = func(namespace string, labels map[string]string) bool {
		return c.Selector != nil && namespace == home && chosen.Matches(labels)
	}
	if count.means(home, p.Labels) {
		out.self = 1
	}
	out.domains = make([]bool, count.topology.size)
	var labels []*topology // as in Kubernetes a node must be in a domain of each constraint of this kind
	for i := range p.Spread {
		if k := &p.Spread[i]; k.WhenUnsatisfiable == c.WhenUnsatisfiable {
			labels = append(labels, f.topology(k.TopologyKey))
		}
	}
	for i, n := range f.nodes {
		if slices.ContainsFunc(labels, func(t *topology) bool { return t.domains[i] == none }) || !n.counts(p, c) {
			continue
		}
		count.eligible[i] = true
		if d := count.topology.domains[i]; d != none && !out.domains[d] {
			out.domains[d] = true
			out.size++
		}
	}
	out.counter = f.count(count)
	return out
}

// counts tells whether a node counts for a constraint of p. One that is not Ready counts for nothing, so that a lost domain
// does not hold up those that come off it.
func (n *node) counts(p *Pod, c *spec.SpreadConstraint) bool {
	if !n.Ready {
		return false
	}
	if c.NodeAffinityPolicy != spec.PolicyIgnore && !(selected(n.Labels, p.Selector) && p.accepts(n)) {
		return false
	}
	return c.NodeTaintsPolicy != spec.PolicyHonor || n.untolerated(p) == nil && (!n.Cordoned || tolerates(p.Tolerations, &spec.TaintUnschedulable))
}

// notice takes in the terms and counters that have come since the search looked last.
func (f *fleet) notice(s *search, p *Pod) {
	for ; s.terms < len(f.came); s.terms++ {
		if t := f.came[s.terms]; t.means(p.Name.Namespace, p.Labels) {
			s.avoided = append(s.avoided, t)
		}
	}
	for ; s.counters < len(f.neighbourhood.counters); s.counters++ {
		if c := f.neighbourhood.counters[s.counters]; c.means(p.Name.Namespace, p.Labels) {
			s.counted = append(s.counted, c)
		}
	}
	s.pulled = s.pulled[:0]
	for _, t := range s.avoided {
		if t.pull != nil {
			s.pulled = append(s.pulled, t)
		}
	}
}

// enter counts a pod that has been given its place.
func (f *fleet) enter(s *search, p *Pod, n *node) {
	if !f.asked {
		return
	}
	s.crowd.add(n, false)
	for i := range s.carries {
		s.carries[i].add(n.index)
	}
	for _, c := range s.counted {
		c.add(n.index)
	}
}

// refuses says why these pods do not fit a node, by the pods near it; the spreads must have been looked at.
func (s *near) refuses(node int32) reason {
	for _, c := range s.apart {
		if d := c.topology.domains[node]; d != none && c.pods[d] > 0 {
			return apart
		}
	}
	for _, t := range s.avoided {
		if d := t.topology.domains[node]; t.shut != nil && d != none && t.shut[d] > 0 {
			return avoided
		}
	}
	if len(s.affinity) > 0 && !s.together(node) {
		return alone
	}
	for _, c := range s.hard {
		d := c.topology.domains[node]
		if d == none {
			return noDomain
		}
		if c.pods[d]+c.self-c.least > c.maxSkew {
			return skewed
		}
	}
	return fits
}

// together tells whether the pods that these pods must be near are near a node; the first of a group that means itself may go
// anywhere.
func (s *near) together(node int32) bool {
	some, all := false, true
	for _, c := range s.affinity {
		d := c.topology.domains[node]
		if d == none {
			return false
		}
		some = some || c.total > 0
		all = all && c.pods[d] > 0
	}
	return all || !some && s.first
}

// look notes what the emptiest domain of each hard constraint has now.
func (s *near) look() {
	for _, c := range s.hard {
		c.least = -1
		for d, counts := range c.domains {
			if counts && (c.least < 0 || c.pods[d] < c.least) {
				c.least = c.pods[d]
			}
		}
		if c.least < 0 || c.size < c.min {
			c.least = 0
		}
	}
}
