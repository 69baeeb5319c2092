package leader

import (
	"maps"
	"sync"
	"time"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/placement"
	"github.com/musterhq/muster/internal/spec"
)

// scene is the fleet as placement sees it, kept from one look to the next: only nodes of which something has changed are
// described anew. The zero value has described none.
type scene struct {
	of     *fleet.Sight
	byName map[string]placement.Node
}

// nodes are those of a sight that pods may be placed on, without what the pods hold that leave where they are. They are the
// caller's, but for what they refer to, which nobody changes.
func (s *scene) nodes(sight *fleet.Sight, leave []spec.ObjectName) []placement.Node {
	if s.of != sight {
		s.of, s.byName = sight, map[string]placement.Node{}
	}
	if len(sight.TouchedNodes) > 0 {
		for _, n := range sight.Nodes {
			if sight.TouchedNodes[n.Name] && n.Facts != nil {
				s.byName[n.Name] = placeNode(n, sight.OnNode[n.Name])
				delete(sight.TouchedNodes, n.Name)
			}
		}
		maps.DeleteFunc(s.byName, func(name string, _ placement.Node) bool { return sight.TouchedNodes[name] }) // there no more
		clear(sight.TouchedNodes)
	}
	leaving := map[string]map[spec.ObjectName]bool{}
	for _, name := range leave {
		p := sight.Pod(name)
		if p == nil || p.Node() == "" {
			continue
		}
		if leaving[p.Node()] == nil {
			leaving[p.Node()] = map[spec.ObjectName]bool{}
		}
		leaving[p.Node()][name] = true
	}
	out := make([]placement.Node, 0, len(s.byName))
	for _, n := range sight.Nodes {
		node, ok := s.byName[n.Name]
		if !ok {
			continue
		}
		if without := leaving[n.Name]; without != nil {
			node.Bound = boundTo(sight.OnNode[n.Name], without)
		}
		out = append(out, node)
	}
	return out
}

// placeNode is one node with what the pods on it hold.
func placeNode(n *fleet.Node, pods []*fleet.Pod) placement.Node {
	node := placement.Node{
		Name: n.Name, Labels: n.Meta().Labels, Ready: n.Verdict() == spec.VerdictReady,
		Lacks: lacks(n.Facts), AnyHostPath: n.Facts.PrivilegedPods, HostPaths: n.Facts.HostPathAllow,
		LacksNetwork: n.InNetwork() && n.Network == nil, SharesNetwork: !n.InNetwork(),
		Allocatable: n.Facts.Allocatable, MaxPods: int(n.Facts.MaxPods), Bound: boundTo(pods, nil),
	}
	if n.User != nil {
		node.Cordoned, node.Taints = n.User.Unschedulable, n.User.Taints
	}
	return node
}

// boundTo is what pods hold, but those that are not to count.
func boundTo(pods []*fleet.Pod, without map[spec.ObjectName]bool) (bound []placement.Bound) {
	for _, p := range pods {
		if h := p.Current(); (h == nil || !h.Status.Phase.Final()) && !without[p.Key()] {
			bound = append(bound, placement.BoundOf(p.Pod))
		}
	}
	return bound
}

// lacks is what pods may need and do not get on a node.
func lacks(f *spec.NodeFacts) (lacks placement.Need) {
	for need, has := range map[placement.Need]bool{
		placement.Images: f.Images == "ignore", placement.Mounts: f.Isolation != "none", placement.Root: f.Isolation == "full",
		placement.Privilege: f.PrivilegedPods,
	} {
		if !has {
			lacks |= need
		}
	}
	return lacks
}

// outlook answers where pods would go, whether this coordinator leads or not. Its methods may be called from any goroutine.
type outlook struct {
	fleet *fleet.Shared
	now   func() time.Duration
	scene scene // under fleet's lock

	mu     sync.Mutex
	survey *placement.Survey
	until  time.Duration
}

// surveyFor is how much longer than it took to make a survey is used: making them takes a tenth of the time at most.
const surveyFor = 10

// nodes is the fleet as it is now, without what these pods hold.
func (o *outlook) nodes(leave ...spec.ObjectName) (nodes []placement.Node) {
	o.fleet.Look(func(f *fleet.Sight) { nodes = o.scene.nodes(f, leave) })
	return nodes
}

// fits tells whether a pod surely fitted somewhere a moment ago.
func (o *outlook) fits(p *placement.Pod) bool {
	o.mu.Lock()
	if now := o.now(); o.survey == nil || now >= o.until {
		o.survey = placement.NewSurvey(o.nodes())
		done := o.now()
		o.until = done + surveyFor*(done-now)
	}
	survey := o.survey
	o.mu.Unlock()
	return survey.Fits(p)
}

// Explain says why a pod fits nowhere now; empty when it fits.
func (l *Leader) Explain(p *spec.Pod) string {
	ask := placement.PodOf(p)
	if l.outlook.fits(&ask) {
		return ""
	}
	_, why := l.Where(p)
	return why
}

// ExplainNodes says of each node why a pod does not fit it now.
func (l *Leader) ExplainNodes(p *spec.Pod) []placement.Refusal {
	return placement.Explain(l.outlook.nodes(p.Key()), placement.PodOf(p))
}

// Where says to which node a pod would go now, or why to none. Nothing is kept for it there.
func (l *Leader) Where(p *spec.Pod) (node, why string) {
	d := placement.Place(l.outlook.nodes(p.Key()), []placement.Pod{placement.PodOf(p)})[0]
	return d.Node, d.Why
}

// Elsewhere says why a pod fits on no node but the one it is on; empty when it does.
func (l *Leader) Elsewhere(p *fleet.Pod) string {
	ask := placement.PodOf(p.Pod)
	ask.Not = p.Node()
	return placement.Place(l.outlook.nodes(p.Key()), []placement.Pod{ask})[0].Why
}
