package placement

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/musterhq/muster/internal/spec"
)

const (
	host = "kubernetes.io/hostname"
	zone = "topology.kubernetes.io/zone"
)

// in is a ready node of a zone.
func in(z, name string, bound ...Bound) Node {
	return with(ready(name), func(n *Node) { n.Labels, n.Bound = map[string]string{host: name, zone: z}, bound })
}

// app is a bound pod with that label.
func app(name string, change ...func(*Bound)) Bound {
	b := Bound{Namespace: "default", Labels: map[string]string{"app": name}}
	for _, c := range change {
		c(&b)
	}
	return b
}

func of(app string) *spec.Selector { return &spec.Selector{Labels: map[string]string{"app": app}} }

// nearTo means pods with that label, by a label of nodes.
func nearTo(key, app string) spec.PodTerm { return spec.PodTerm{TopologyKey: key, Selector: of(app)} }

func apartFrom(terms ...spec.PodTerm) *spec.Affinity {
	return &spec.Affinity{PodAnti: spec.PodAffinity{Required: terms}}
}

func together(terms ...spec.PodTerm) *spec.Affinity {
	return &spec.Affinity{Pod: spec.PodAffinity{Required: terms}}
}

func evenly(key string, change ...func(*spec.SpreadConstraint)) []spec.SpreadConstraint {
	c := spec.SpreadConstraint{MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: spec.DoNotSchedule, Selector: of("web")}
	for _, f := range change {
		f(&c)
	}
	return []spec.SpreadConstraint{c}
}

func exists(key string) spec.NodeTerm {
	return spec.NodeTerm{Labels: []spec.NodeRequirement{{Key: key, Operator: spec.NodeExists}}}
}

func TestTaintsAffinityAndSpreadDecideWhereAPodGoes(t *testing.T) {
	gpu := spec.Taint{Key: "gpu", Value: "yes", Effect: spec.NoSchedule}
	gone := spec.Taint{Key: "gone", Effect: spec.NoExecute}
	rather := spec.Taint{Key: "old", Effect: spec.PreferNoSchedule}
	tainted := func(name string, taints ...spec.Taint) Node {
		return with(ready(name), func(n *Node) { n.Taints = taints })
	}
	labelled := func(name string, labels ...string) Node {
		return with(ready(name), func(n *Node) {
			n.Labels = map[string]string{}
			for _, l := range labels {
				n.Labels[l] = ""
			}
		})
	}
	two := int32(2)
	other := func(b *Bound) { b.Namespace = "other" }
	leaving := func(b *Bound) { b.Leaving = true }
	wants := func(a *spec.Affinity) func(*Bound) { return func(b *Bound) { b.Affinity = a } }
	for name, tc := range map[string]struct {
		nodes []Node
		pod   func(*Pod)
		node  string
		why   string
	}{
		"a taint": {nodes: []Node{tainted("a", gpu)}, why: "0/1 nodes fit: 1 untolerated taint {gpu=yes:NoSchedule}"},
		"a taint that is tolerated": {
			nodes: []Node{tainted("a", gpu)}, pod: func(p *Pod) { p.Tolerations = []spec.Toleration{{Key: "gpu", Value: "yes"}} }, node: "a",
		},
		"a taint that makes pods leave": {nodes: []Node{tainted("a", gone)}, why: "0/1 nodes fit: 1 untolerated taint {gone:NoExecute}"},
		"a taint that is tolerated for a while": {
			nodes: []Node{tainted("a", gone)}, node: "a",
			pod: func(p *Pod) {
				p.Tolerations = []spec.Toleration{{Key: "gone", Operator: spec.TolerationExists, Seconds: new(int64(1))}}
			},
		},
		"the first taint that is not tolerated is told": {
			nodes: []Node{tainted("a", gpu, gone)}, pod: func(p *Pod) { p.Tolerations = []spec.Toleration{{Key: "gpu", Value: "yes"}} },
			why: "0/1 nodes fit: 1 untolerated taint {gone:NoExecute}",
		},
		"rather not there":             {nodes: []Node{tainted("a", rather), ready("b")}, node: "b"},
		"rather not there, but needed": {nodes: []Node{tainted("a", rather), tainted("b", gpu)}, node: "a"},
		"a last choice after a taint": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.LastChoice = true }), tainted("b", rather)}, node: "b",
		},
		"two taints against one": {
			nodes: []Node{tainted("a", rather, spec.Taint{Key: "x", Effect: spec.PreferNoSchedule}), tainted("b", rather)}, node: "b",
		},
		"cordoned is a taint that can be tolerated": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.Cordoned = true })},
			pod: func(p *Pod) {
				p.Tolerations = []spec.Toleration{{Key: "node.kubernetes.io/unschedulable", Operator: spec.TolerationExists}}
			}, node: "a",
		},
		"the dearest reason first": {
			nodes: []Node{
				with(ready("a"), func(n *Node) { n.Cordoned = true }), tainted("b", gpu), ready("c"), ready("d"), ready("e"),
			},
			pod: func(p *Pod) { p.Requests.MemoryBytes = 2000 },
			why: "0/5 nodes fit: 3 insufficient memory, 1 cordoned, 1 untolerated taint {gpu=yes:NoSchedule}",
		},
		"required node affinity": {
			nodes: []Node{ready("a"), labelled("b", "disk")}, node: "b",
			pod: func(p *Pod) {
				p.Affinity = &spec.Affinity{Node: spec.NodeAffinity{Required: &spec.NodeSelector{Terms: []spec.NodeTerm{exists("disk")}}}}
			},
		},
		"required node affinity that no node has": {
			nodes: []Node{ready("a")}, why: "0/1 nodes fit: 1 not matched by node affinity",
			pod: func(p *Pod) {
				p.Affinity = &spec.Affinity{Node: spec.NodeAffinity{Required: &spec.NodeSelector{Terms: []spec.NodeTerm{exists("disk")}}}}
			},
		},
		"preferred node affinity, by weight": {
			nodes: []Node{labelled("a", "x"), labelled("b", "y"), labelled("c", "x", "z")}, node: "b",
			pod: func(p *Pod) {
				p.Affinity = &spec.Affinity{Node: spec.NodeAffinity{Preferred: []spec.PreferredNodeTerm{
					{Weight: 10, Term: exists("x")}, {Weight: 30, Term: exists("y")}, {Weight: 15, Term: exists("z")},
				}}}
			},
		},
		"not on the node of another": {
			nodes: []Node{in("1", "a", app("db")), in("1", "b")}, pod: func(p *Pod) { p.Affinity = apartFrom(nearTo(host, "db")) }, node: "b",
		},
		"not in the zone of another": {
			nodes: []Node{in("1", "a", app("db")), in("1", "b")}, pod: func(p *Pod) { p.Affinity = apartFrom(nearTo(zone, "db")) },
			why: "0/2 nodes fit: 2 near pods of its anti-affinity",
		},
		"a node without the label is near nothing": {
			nodes: []Node{in("1", "a", app("db")), ready("b")}, pod: func(p *Pod) { p.Affinity = apartFrom(nearTo(zone, "db")) }, node: "b",
		},
		"pods of another namespace are not meant": {
			nodes: []Node{in("1", "a", app("db", other))}, pod: func(p *Pod) { p.Affinity = apartFrom(nearTo(host, "db")) }, node: "a",
		},
		"pods of every namespace are meant": {
			nodes: []Node{in("1", "a", app("db", other))},
			pod: func(p *Pod) {
				p.Affinity = apartFrom(spec.PodTerm{TopologyKey: host, AllNamespaces: true, Selector: of("db")})
			},
			why: "0/1 nodes fit: 1 near pods of its anti-affinity",
		},
		"pods that are leaving are still there": {
			nodes: []Node{in("1", "a", app("db", leaving))}, pod: func(p *Pod) { p.Affinity = apartFrom(nearTo(host, "db")) },
			why: "0/1 nodes fit: 1 near pods of its anti-affinity",
		},
		"others may want to be apart from it": {
			nodes: []Node{in("1", "a", app("db", wants(apartFrom(nearTo(zone, "web"))))), in("1", "b"), in("2", "c")}, node: "c",
		},
		"where others want to be apart from it": {
			nodes: []Node{in("1", "a", app("db", wants(apartFrom(nearTo(zone, "web")))))},
			why:   "0/1 nodes fit: 1 near pods whose anti-affinity means it",
		},
		"near the pods of its affinity": {
			nodes: []Node{in("1", "a"), in("2", "b", app("db"))}, pod: func(p *Pod) { p.Affinity = together(nearTo(zone, "db")) }, node: "b",
		},
		"no pods of its affinity": {
			nodes: []Node{in("1", "a")}, pod: func(p *Pod) { p.Affinity = together(nearTo(zone, "db")) },
			why: "0/1 nodes fit: 1 not near pods of its affinity",
		},
		"the first of a group": {
			nodes: []Node{ready("a"), in("1", "b")}, pod: func(p *Pod) { p.Affinity = together(nearTo(zone, "web")) }, node: "b",
		},
		"the second of a group": {
			nodes: []Node{in("1", "a"), in("2", "b", app("web"))}, pod: func(p *Pod) { p.Affinity = together(nearTo(zone, "web")) }, node: "b",
		},
		"pods count for affinity if all terms mean them": {
			nodes: []Node{in("1", "a", app("db")), in("2", "b", app("db", func(b *Bound) { b.Labels["disk"] = "ssd" }))}, node: "b",
			pod: func(p *Pod) {
				p.Affinity = together(nearTo(zone, "db"), spec.PodTerm{TopologyKey: host, Selector: &spec.Selector{Labels: map[string]string{"disk": "ssd"}}})
			},
		},
		"rather apart": {
			nodes: []Node{in("1", "a", app("db")), in("2", "b", app("x"), app("x"))}, node: "b",
			pod: func(p *Pod) {
				p.Affinity = &spec.Affinity{PodAnti: spec.PodAffinity{Preferred: []spec.WeightedPodTerm{{Weight: 1, Term: nearTo(zone, "db")}}}}
			},
		},
		"rather together": {
			nodes: []Node{in("1", "a"), in("2", "b", app("db"), app("x"))}, node: "b",
			pod: func(p *Pod) {
				p.Affinity = &spec.Affinity{Pod: spec.PodAffinity{Preferred: []spec.WeightedPodTerm{{Weight: 1, Term: nearTo(zone, "db")}}}}
			},
		},
		"others may rather be apart from it": {
			nodes: []Node{in("1", "a", app("db", wants(&spec.Affinity{PodAnti: spec.PodAffinity{Preferred: []spec.WeightedPodTerm{{Weight: 1, Term: nearTo(zone, "web")}}}}))),
				in("2", "b", app("x"), app("x"))}, node: "b",
		},
		"spread over zones": {
			nodes: []Node{in("1", "a", app("web")), in("1", "b"), in("2", "c", app("x"), app("x"))}, pod: func(p *Pod) { p.Spread = evenly(zone) }, node: "c",
		},
		"beyond the skew": {
			nodes: []Node{in("1", "a", app("web")), with(in("2", "b"), func(n *Node) { n.MaxPods = 0 })}, pod: func(p *Pod) { p.Spread = evenly(zone) },
			why: "0/2 nodes fit: 1 full of pods, 1 beyond maxSkew of topologySpreadConstraints",
		},
		"within a larger skew": {
			nodes: []Node{in("1", "a", app("web")), with(in("2", "b"), func(n *Node) { n.MaxPods = 0 })},
			pod:   func(p *Pod) { p.Spread = evenly(zone, func(c *spec.SpreadConstraint) { c.MaxSkew = 2 }) }, node: "a",
		},
		"a pod that is not counted itself": {
			nodes: []Node{in("1", "a", app("db")), with(in("2", "b"), func(n *Node) { n.MaxPods = 0 })},
			pod:   func(p *Pod) { p.Spread = evenly(zone, func(c *spec.SpreadConstraint) { c.Selector = of("db") }) }, node: "a",
		},
		"no zone at all": {
			nodes: []Node{ready("a")}, pod: func(p *Pod) { p.Spread = evenly(zone) }, why: "0/1 nodes fit: 1 without the labels of topologySpreadConstraints",
		},
		"a zone of nodes that are not Ready does not count": {
			nodes: []Node{in("1", "a", app("web")), with(in("2", "b"), func(n *Node) { n.Ready = false })}, pod: func(p *Pod) { p.Spread = evenly(zone) }, node: "a",
		},
		"a node outside one of the domains does not count for the others": {
			nodes: []Node{with(in("1", "a", app("web")), func(n *Node) { n.Labels["rack"] = "1" }), in("2", "b")}, node: "a",
			pod: func(p *Pod) {
				p.Spread = append(evenly(zone), evenly("rack", func(c *spec.SpreadConstraint) { c.MaxSkew = 9 })...)
			},
		},
		"but it does where the other constraint is only a wish": {
			nodes: []Node{with(in("1", "a", app("web")), func(n *Node) { n.Labels["rack"] = "1" }), in("2", "b")}, node: "b",
			pod: func(p *Pod) {
				p.Spread = append(evenly(zone), evenly("rack", func(c *spec.SpreadConstraint) { c.WhenUnsatisfiable = spec.ScheduleAnyway })...)
			},
		},
		"pods that are leaving are not spread": {
			nodes: []Node{in("1", "a", app("web", leaving)), with(in("2", "b"), func(n *Node) { n.MaxPods = 0 })}, pod: func(p *Pod) { p.Spread = evenly(zone) }, node: "a",
		},
		"too few domains": {
			nodes: []Node{in("1", "a", app("web"))}, why: "0/1 nodes fit: 1 beyond maxSkew of topologySpreadConstraints",
			pod: func(p *Pod) { p.Spread = evenly(zone, func(c *spec.SpreadConstraint) { c.MinDomains = &two }) },
		},
		"nodes that its selector leaves out do not count": {
			nodes: []Node{in("1", "a", app("web")), in("2", "b")}, node: "a",
			pod: func(p *Pod) { p.Spread, p.Selector = evenly(zone), map[string]string{host: "a"} },
		},
		"nodes that its selector leaves out count": {
			nodes: []Node{in("1", "a", app("web")), in("2", "b")}, why: "0/2 nodes fit: 1 without the labels of nodeSelector, 1 beyond maxSkew of topologySpreadConstraints",
			pod: func(p *Pod) {
				p.Spread = evenly(zone, func(c *spec.SpreadConstraint) { c.NodeAffinityPolicy = spec.PolicyIgnore })
				p.Selector = map[string]string{host: "a"}
			},
		},
		"tainted nodes count": {
			nodes: []Node{in("1", "a", app("web")), with(in("2", "b"), func(n *Node) { n.Taints = []spec.Taint{gpu} })},
			pod:   func(p *Pod) { p.Spread = evenly(zone) },
			why:   "0/2 nodes fit: 1 untolerated taint {gpu=yes:NoSchedule}, 1 beyond maxSkew of topologySpreadConstraints",
		},
		"tainted nodes do not count": {
			nodes: []Node{in("1", "a", app("web")), with(in("2", "b"), func(n *Node) { n.Taints = []spec.Taint{gpu} }), with(in("3", "c"), func(n *Node) { n.Cordoned = true })},
			pod: func(p *Pod) {
				p.Spread = evenly(zone, func(c *spec.SpreadConstraint) { c.NodeTaintsPolicy = spec.PolicyHonor })
			}, node: "a",
		},
		"only pods of the same template": {
			nodes: []Node{in("1", "a", app("web", func(b *Bound) { b.Labels["hash"] = "old" })), in("2", "b", app("x"), app("x"))}, node: "a",
			pod: func(p *Pod) {
				p.Labels["hash"] = "new"
				p.Spread = evenly(zone, func(c *spec.SpreadConstraint) { c.MatchLabelKeys = []string{"hash"} })
			},
		},
		"spread where that can be": {
			nodes: []Node{in("1", "a", app("web")), in("2", "b", app("x"), app("x"))}, node: "b",
			pod: func(p *Pod) {
				p.Spread = evenly(zone, func(c *spec.SpreadConstraint) { c.WhenUnsatisfiable = spec.ScheduleAnyway })
			},
		},
		"anyway": {
			nodes: []Node{in("1", "a", app("web")), with(in("2", "b"), func(n *Node) { n.MaxPods = 0 })}, node: "a",
			pod: func(p *Pod) {
				p.Spread = evenly(zone, func(c *spec.SpreadConstraint) { c.WhenUnsatisfiable = spec.ScheduleAnyway })
			},
		},
		"anyway, outside the domains last": {
			nodes: []Node{ready("a"), in("1", "b", app("web"))}, node: "b",
			pod: func(p *Pod) {
				p.Spread = evenly(zone, func(c *spec.SpreadConstraint) { c.WhenUnsatisfiable = spec.ScheduleAnyway })
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := pod("p")
			p.Labels = map[string]string{"app": "web"}
			if tc.pod != nil {
				tc.pod(&p)
			}
			want := Result{Pod: p.Name, Node: tc.node, Why: tc.why}
			if got := Place(tc.nodes, []Pod{p})[0]; got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestAReplicaANodeAndNoMore(t *testing.T) {
	var pods []Pod
	for i := range 4 {
		p := pod(fmt.Sprint(i))
		p.Labels, p.Affinity = map[string]string{"app": "web"}, apartFrom(nearTo(host, "web"))
		pods = append(pods, p)
	}
	got := ""
	for _, r := range Place([]Node{in("1", "a"), in("1", "b"), in("2", "c")}, pods) {
		got += r.Node + r.Why + " "
	}
	if got != "a b c 0/3 nodes fit: 3 near pods of its anti-affinity " {
		t.Error(got)
	}
}

func TestAnExplanationIsBounded(t *testing.T) {
	var nodes []Node
	for i := range 20 {
		nodes = append(nodes, with(ready(fmt.Sprintf("n%02d", i)), func(n *Node) {
			n.Taints = []spec.Taint{{Key: fmt.Sprintf("%s.example/%02d", strings.Repeat("x", 200), i), Effect: spec.NoSchedule}}
		}))
		nodes = append(nodes, with(ready(fmt.Sprintf("m%02d", i)), func(n *Node) {
			n.Taints = []spec.Taint{{Key: fmt.Sprintf("k%02d", i), Effect: spec.NoSchedule}}
		}))
	}
	why := Place(nodes, []Pod{pod("p")})[0].Why
	if len(why) > 600 || !strings.HasPrefix(why, "0/40 nodes fit: 20 untolerated taint {xxx") || !strings.HasSuffix(why, "…}, 1 untolerated taint {k00:NoSchedule}, 1 untolerated taint {k01:NoSchedule}, "+
		"1 untolerated taint {k02:NoSchedule}, 1 untolerated taint {k03:NoSchedule}, 1 untolerated taint {k04:NoSchedule}, 15 for other reasons") {
		t.Error(why)
	}
}

func TestEachNodeIsExplained(t *testing.T) {
	p := pod("p")
	p.Labels, p.Requests.MilliCPU, p.Spread = map[string]string{"app": "web"}, 500, evenly(zone)
	got := Explain([]Node{
		in("2", "e", app("web")), in("1", "d"), with(ready("c"), func(n *Node) { n.Cordoned = true }), ready("b"),
		with(in("1", "a"), func(n *Node) { n.Allocatable.MilliCPU = 100 }),
	}, p)
	want := []Refusal{
		{"a", "insufficient cpu"}, {"b", "without the labels of topologySpreadConstraints"}, {"c", "cordoned"}, {"d", ""},
		{"e", "beyond maxSkew of topologySpreadConstraints"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// resides is a pod that has its place, for the naive rules.
type resides struct {
	node      *Node
	namespace string
	labels    map[string]string
	affinity  *spec.Affinity
	leaving   bool
}

// breaks is the rules written down once more, naively and from Kubernetes' words: what keeps p off n while the others are
// where they are. Empty when it may go there.
func breaks(nodes []Node, there []resides, p *Pod, n *Node) string {
	taints := n.Taints
	if n.Cordoned {
		taints = append([]spec.Taint{{Key: "node.kubernetes.io/unschedulable", Effect: spec.NoSchedule}}, taints...)
	}
	tolerated := func(taints []spec.Taint) bool {
		for _, taint := range taints {
			ok := taint.Effect == spec.PreferNoSchedule
			for _, t := range p.Tolerations {
				ok = ok || t.Tolerates(&taint)
			}
			if !ok {
				return false
			}
		}
		return true
	}
	chosen := func(n *Node) bool {
		for k, v := range p.Selector {
			if have, ok := n.Labels[k]; !ok || have != v {
				return false
			}
		}
		return p.Affinity == nil || p.Affinity.Node.Required == nil || p.Affinity.Node.Required.Matches(n.Name, n.Labels)
	}
	same := func(a, b *Node, key string) bool {
		x, ok := a.Labels[key]
		y, there := b.Labels[key]
		return ok && there && x == y
	}
	home, pods := p.Name.Namespace, 0
	for _, q := range there {
		if q.node.Name == n.Name {
			pods++
		}
	}
	switch {
	case !n.Ready, n.Name == p.Not, !tolerated(taints), !chosen(n), pods >= n.MaxPods:
		return "the node"
	}
	own := p.Affinity
	if own == nil {
		own = &spec.Affinity{}
	}
	for _, q := range there {
		for _, term := range own.PodAnti.Required {
			if same(n, q.node, term.TopologyKey) && term.Matches(home, q.namespace, q.labels) {
				return "anti-affinity"
			}
		}
		if q.affinity != nil {
			for _, term := range q.affinity.PodAnti.Required {
				if same(n, q.node, term.TopologyKey) && term.Matches(q.namespace, home, p.Labels) {
					return "anti-affinity of another"
				}
			}
		}
	}
	all := func(namespace string, labels map[string]string) bool {
		for _, term := range own.Pod.Required {
			if !term.Matches(home, namespace, labels) {
				return false
			}
		}
		return true
	}
	met, nobody := true, true
	for _, term := range own.Pod.Required {
		if _, ok := n.Labels[term.TopologyKey]; !ok {
			return "affinity: no label"
		}
		found := false
		for _, q := range there {
			if _, ok := q.node.Labels[term.TopologyKey]; ok && all(q.namespace, q.labels) {
				nobody = false
				found = found || same(n, q.node, term.TopologyKey)
			}
		}
		met = met && found
	}
	if !met && (!nobody || !all(home, p.Labels)) {
		return "affinity"
	}
	for _, c := range p.Spread {
		if c.WhenUnsatisfiable != spec.DoNotSchedule {
			continue
		}
		value, ok := n.Labels[c.TopologyKey]
		if !ok {
			return "spread: no label"
		}
		counts := map[string]int32{}
		for i := range nodes {
			m := &nodes[i]
			eligible := m.Ready
			for _, k := range p.Spread {
				_, ok := m.Labels[k.TopologyKey]
				eligible = eligible && (ok || k.WhenUnsatisfiable != spec.DoNotSchedule)
			}
			if c.NodeAffinityPolicy != spec.PolicyIgnore {
				eligible = eligible && chosen(m)
			}
			if c.NodeTaintsPolicy == spec.PolicyHonor {
				all := m.Taints
				if m.Cordoned {
					all = append([]spec.Taint{{Key: "node.kubernetes.io/unschedulable", Effect: spec.NoSchedule}}, all...)
				}
				eligible = eligible && tolerated(all)
			}
			if !eligible {
				continue
			}
			counts[m.Labels[c.TopologyKey]] += 0
			for _, q := range there {
				if q.node.Name == m.Name && !q.leaving && counted(p, &c, q.namespace, q.labels) {
					counts[m.Labels[c.TopologyKey]]++
				}
			}
		}
		least := int32(1 << 30)
		for _, n := range counts {
			least = min(least, n)
		}
		if c.MinDomains != nil && int32(len(counts)) < *c.MinDomains {
			least = 0
		}
		after := counts[value]
		if counted(p, &c, home, p.Labels) {
			after++
		}
		if after-least > c.MaxSkew {
			return "spread"
		}
	}
	return ""
}

func counted(p *Pod, c *spec.SpreadConstraint, namespace string, labels map[string]string) bool {
	if c.Selector == nil || namespace != p.Name.Namespace || !c.Selector.Matches(labels) {
		return false
	}
	for _, key := range c.MatchLabelKeys {
		if want, ok := p.Labels[key]; ok {
			if have, ok := labels[key]; !ok || have != want {
				return false
			}
		}
	}
	return true
}

// drawNear draws a small fleet and pods with rules about each other.
func drawNear(t *rapid.T, eases bool) ([]Node, []Pod) {
	namespaces := rapid.SampledFrom([]string{"x", "x", "y"})
	labels := rapid.SampledFrom([]map[string]string{{"app": "a"}, {"app": "b"}, {"app": "a", "v": "1"}, {"app": "b", "v": "2"}, nil})
	keys := rapid.SampledFrom([]string{host, zone, zone, "rack"})
	selectors := rapid.SampledFrom([]*spec.Selector{of("a"), of("b"), {}, nil, {Expressions: []spec.SelectorExpression{{Key: "v", Operator: spec.Exists}}}})
	term := rapid.Custom(func(t *rapid.T) spec.PodTerm {
		return spec.PodTerm{
			TopologyKey: keys.Draw(t, "key"), Selector: selectors.Draw(t, "selector"), AllNamespaces: rapid.IntRange(0, 4).Draw(t, "all") == 0,
			Namespaces: rapid.SampledFrom([][]string{nil, nil, {"y"}, {"x", "y"}}).Draw(t, "namespaces"),
		}
	})
	weighted := rapid.Custom(func(t *rapid.T) spec.WeightedPodTerm {
		return spec.WeightedPodTerm{Weight: rapid.Int32Range(1, 100).Draw(t, "weight"), Term: term.Draw(t, "term")}
	})
	nodeTerms := rapid.SampledFrom([]spec.NodeTerm{exists("rack"), {Labels: []spec.NodeRequirement{{Key: zone, Operator: spec.NodeNotIn, Values: []string{"0"}}}},
		{Fields: []spec.NodeRequirement{{Key: "metadata.name", Operator: spec.NodeIn, Values: []string{"n1"}}}}, {}})
	affinity := rapid.Custom(func(t *rapid.T) *spec.Affinity {
		a := &spec.Affinity{}
		if rapid.Bool().Draw(t, "apart") {
			a.PodAnti.Required = rapid.SliceOfN(term, 0, 2).Draw(t, "apart")
		}
		if !eases {
			return a
		}
		switch rapid.IntRange(0, 5).Draw(t, "more") {
		case 0:
			a.Pod.Required = rapid.SliceOfN(term, 1, 2).Draw(t, "near")
		case 1:
			a.Pod.Preferred = rapid.SliceOfN(weighted, 1, 2).Draw(t, "rather near")
		case 2:
			a.PodAnti.Preferred = rapid.SliceOfN(weighted, 1, 2).Draw(t, "rather apart")
		case 3:
			a.Node.Required = &spec.NodeSelector{Terms: rapid.SliceOfN(nodeTerms, 1, 2).Draw(t, "required")}
		case 4:
			a.Node.Preferred = []spec.PreferredNodeTerm{{Weight: rapid.Int32Range(1, 100).Draw(t, "weight"), Term: nodeTerms.Draw(t, "preferred")}}
		}
		return a
	})
	policies := rapid.SampledFrom([]spec.NodePolicy{"", spec.PolicyHonor, spec.PolicyIgnore})
	spreads := rapid.Custom(func(t *rapid.T) spec.SpreadConstraint {
		c := spec.SpreadConstraint{
			MaxSkew: rapid.Int32Range(1, 3).Draw(t, "skew"), TopologyKey: keys.Draw(t, "key"), WhenUnsatisfiable: spec.DoNotSchedule,
			Selector: selectors.Draw(t, "selector"), NodeAffinityPolicy: policies.Draw(t, "affinity policy"), NodeTaintsPolicy: policies.Draw(t, "taints policy"),
		}
		if rapid.IntRange(0, 2).Draw(t, "anyway") == 0 {
			c.WhenUnsatisfiable = spec.ScheduleAnyway
		} else if rapid.IntRange(0, 2).Draw(t, "min") == 0 {
			c.MinDomains = new(rapid.Int32Range(1, 4).Draw(t, "domains"))
		}
		if c.Selector != nil && rapid.IntRange(0, 3).Draw(t, "keys") == 0 {
			c.MatchLabelKeys = []string{"v"}
		}
		return c
	})
	some := func(t *rapid.T, what string) *spec.Affinity {
		if rapid.Bool().Draw(t, what) {
			return affinity.Draw(t, what)
		}
		return nil
	}
	taints := rapid.SampledFrom([][]spec.Taint{nil, nil, nil, {{Key: "t", Value: "1", Effect: spec.NoSchedule}}, {{Key: "t", Effect: spec.PreferNoSchedule}}, {{Key: "u", Effect: spec.NoExecute}}})
	tolerations := rapid.SampledFrom([][]spec.Toleration{nil, nil, {{Key: "t", Operator: spec.TolerationExists}}, {{Operator: spec.TolerationExists}}})
	nodes := make([]Node, rapid.IntRange(1, 7).Draw(t, "nodes"))
	for i := range nodes {
		name := fmt.Sprint("n", i)
		n := Node{
			Name: name, Labels: map[string]string{host: name}, Ready: rapid.IntRange(0, 6).Draw(t, "ready") > 0, Cordoned: rapid.IntRange(0, 6).Draw(t, "cordoned") == 0,
			Taints: taints.Draw(t, "taints"), MaxPods: rapid.IntRange(0, 12).Draw(t, "max"), LastChoice: rapid.IntRange(0, 4).Draw(t, "last") == 0,
		}
		if rapid.IntRange(0, 4).Draw(t, "zoned") > 0 {
			n.Labels[zone] = fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "zone"))
		}
		if rapid.Bool().Draw(t, "racked") {
			n.Labels["rack"] = fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "rack"))
		}
		for range rapid.IntRange(0, 2).Draw(t, "bound") {
			n.Bound = append(n.Bound, Bound{
				Namespace: namespaces.Draw(t, "namespace"), Labels: labels.Draw(t, "labels"), Affinity: some(t, "bound affinity"),
				Leaving: rapid.IntRange(0, 4).Draw(t, "leaving") == 0,
			})
		}
		nodes[i] = n
	}
	kinds := make([]Pod, rapid.IntRange(1, 4).Draw(t, "kinds"))
	for i := range kinds {
		k := Pod{Labels: labels.Draw(t, "labels"), Owner: rapid.SampledFrom([]string{"", "o", "p"}).Draw(t, "owner"), Affinity: some(t, "affinity"), Tolerations: tolerations.Draw(t, "tolerations")}
		k.Name.Namespace = namespaces.Draw(t, "namespace")
		if eases && rapid.Bool().Draw(t, "spread") {
			k.Spread = rapid.SliceOfN(spreads, 1, 2).Draw(t, "spread")
		}
		kinds[i] = k
	}
	pods := make([]Pod, rapid.IntRange(1, 25).Draw(t, "pods"))
	for i := range pods {
		pods[i] = rapid.SampledFrom(kinds[:1+i*len(kinds)/len(pods)]).Draw(t, "kind") // some come late
		pods[i].Name.Name = fmt.Sprint(i)
		pods[i].Not = rapid.SampledFrom([]string{"", "", "", "n0"}).Draw(t, "not")
	}
	return nodes, pods
}

func TestTheRulesAboutOtherPodsHoldForEachPodAndNode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, pods := drawNear(t, true)
		order := rapid.Permutation(nodes).Draw(t, "order")
		before := fmt.Sprint(nodes, pods)
		results := Place(nodes, pods)
		if diff := cmp.Diff(results, Place(order, pods)); diff != "" {
			t.Fatalf("another order gives other results:\n%s", diff)
		}
		if diff := cmp.Diff(plainly(nodes, pods), results); diff != "" {
			t.Fatalf("with the index:\n%s", diff)
		}
		if fmt.Sprint(nodes, pods) != before {
			t.Fatal("the input was changed")
		}
		var there []resides
		byName := map[string]*Node{}
		for i := range nodes {
			byName[nodes[i].Name] = &nodes[i]
			for _, b := range nodes[i].Bound {
				there = append(there, resides{&nodes[i], b.Namespace, b.Labels, b.Affinity, b.Leaving})
			}
		}
		for i := range pods {
			p, r := &pods[i], results[i]
			if r.Node == "" {
				for j := range nodes {
					if breaks(nodes, there, p, &nodes[j]) == "" {
						t.Fatalf("pod %+v is refused (%s), but fits %+v", p, r.Why, nodes[j])
					}
				}
				continue
			}
			if why := breaks(nodes, there, p, byName[r.Node]); why != "" {
				t.Fatalf("pod %+v on node %+v breaks a rule: %s", p, byName[r.Node], why)
			}
			there = append(there, resides{byName[r.Node], p.Name.Namespace, p.Labels, p.Affinity, false})
		}
	})
}

// bound is the fleet once the results are written.
func bound(nodes []Node, pods []Pod, results []Result) (after []Node, left []Pod) {
	at := map[string][]Bound{}
	for i, r := range results {
		p := &pods[i]
		if r.Node == "" {
			left = append(left, *p)
			continue
		}
		at[r.Node] = append(at[r.Node], Bound{Requests: p.Requests, Owner: p.Owner, HostPorts: p.HostPorts, Namespace: p.Name.Namespace, Labels: p.Labels, Affinity: p.Affinity})
	}
	for _, n := range nodes {
		n.Bound = append(slices.Clip(n.Bound), at[n.Name]...)
		after = append(after, n)
	}
	return after, left
}

func TestDecidingAgainPlacesNothingThatOnlyGetsHarder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, pods := drawNear(t, false)
		results := Place(nodes, pods)
		after, left := bound(nodes, pods, results)
		for _, r := range Place(after, left) {
			if r.Node != "" {
				t.Fatalf("deciding again places %+v", r)
			}
		}
	})
}

func TestDecidingAgainComesToRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, pods := drawNear(t, true)
		for range len(pods) + 1 {
			var n int
			results := Place(nodes, pods)
			if n = len(pods); n == 0 {
				return
			}
			if nodes, pods = bound(nodes, pods, results); len(pods) == n {
				return
			}
		}
		t.Fatalf("%d pods still move", len(pods))
	})
}

// The fleet of the benchmarks: 5,000 nodes in five zones with 30 pods each, of 300 Deployments.
func benchNodes() []Node {
	nodes := make([]Node, 5000)
	for i := range nodes {
		nodes[i] = with(in(fmt.Sprint(i%5), fmt.Sprintf("node-%04d", i)), func(n *Node) {
			n.MaxPods, n.Allocatable = 110, spec.ResourceList{MilliCPU: 16000, MemoryBytes: 64 << 30}
		})
		for j := range 30 {
			d := (i*30 + j) % 300
			nodes[i].Bound = append(nodes[i].Bound, Bound{
				Namespace: "default", Labels: map[string]string{"app": fmt.Sprint("old-", d), "pod-template-hash": "1"}, Owner: fmt.Sprint("old-", d),
				Requests: spec.ResourceList{MilliCPU: 250, MemoryBytes: 512 << 20},
			})
		}
	}
	return nodes
}

func BenchmarkPlace1000PodsOfTenDeploymentsOn5000Nodes(b *testing.B) {
	nodes := benchNodes()
	anyway := func(c *spec.SpreadConstraint) { c.WhenUnsatisfiable = spec.ScheduleAnyway }
	selects := func(app string) func(*spec.SpreadConstraint) {
		return func(c *spec.SpreadConstraint) { c.Selector = of(app) }
	}
	for _, kind := range []struct {
		name   string
		change func(p *Pod, app string)
	}{
		{"plain", func(*Pod, string) {}},
		{"anti-affinity by node", func(p *Pod, app string) { p.Affinity = apartFrom(nearTo(host, app)) }},
		{"preferred anti-affinity by node", func(p *Pod, app string) {
			p.Affinity = &spec.Affinity{PodAnti: spec.PodAffinity{Preferred: []spec.WeightedPodTerm{{Weight: 100, Term: nearTo(host, app)}}}}
		}},
		{"spread over zones", func(p *Pod, app string) { p.Spread = evenly(zone, selects(app)) }},
		{"spread over nodes", func(p *Pod, app string) { p.Spread = evenly(host, selects(app)) }},
		{"spread over zones, and nodes where it can be", func(p *Pod, app string) {
			p.Spread = append(evenly(zone, selects(app)), evenly(host, selects(app), anyway)...)
		}},
		{"affinity by zone", func(p *Pod, app string) { p.Affinity = together(nearTo(zone, app)) }},
	} {
		pods := make([]Pod, 1000)
		for i := range pods {
			app := fmt.Sprint("new-", i%10)
			pods[i] = pod(fmt.Sprint(i))
			pods[i].Owner, pods[i].Labels = app, map[string]string{"app": app, "pod-template-hash": "1"}
			pods[i].Requests = spec.ResourceList{MilliCPU: 250, MemoryBytes: 512 << 20}
			kind.change(&pods[i], app)
		}
		b.Run(kind.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				for _, r := range Place(nodes, pods) {
					if r.Node == "" {
						b.Fatal(r)
					}
				}
			}
		})
	}
}
