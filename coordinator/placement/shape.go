package placement

import (
	"encoding/binary"
	"slices"

	"github.com/musterhq/muster/internal/spec"
)

// writer writes values so that equal ones, and no others, have equal bytes.
type writer struct {
	b    []byte
	keys []string
}

func (w *writer) num(n int64) { w.b = binary.AppendVarint(w.b, n) }

func (w *writer) text(s string) {
	w.num(int64(len(s)))
	w.b = append(w.b, s...)
}

func (w *writer) bool(b bool) {
	n := int64(0)
	if b {
		n = 1
	}
	w.num(n)
}

func (w *writer) optional(there bool, n func() int64) {
	w.bool(there)
	if there {
		w.num(n())
	}
}

func (w *writer) list(all []string) {
	w.num(int64(len(all)))
	for _, s := range all {
		w.text(s)
	}
}

func (w *writer) labels(m map[string]string) {
	w.num(int64(len(m)))
	w.keys = w.keys[:0]
	for k := range m {
		w.keys = append(w.keys, k)
	}
	slices.Sort(w.keys)
	for _, k := range w.keys {
		w.text(k)
		w.text(m[k])
	}
}

func (w *writer) selector(s *spec.Selector) {
	w.bool(s != nil)
	if s == nil {
		return
	}
	w.labels(s.Labels)
	w.num(int64(len(s.Expressions)))
	for i := range s.Expressions {
		e := &s.Expressions[i]
		w.text(e.Key)
		w.text(string(e.Operator))
		w.list(e.Values)
	}
}

func (w *writer) podTerm(t *spec.PodTerm) {
	w.selector(t.Selector)
	w.bool(t.AllNamespaces)
	w.list(t.Namespaces)
	w.text(t.TopologyKey)
}

func (w *writer) podAffinity(a *spec.PodAffinity) {
	w.num(int64(len(a.Required)))
	for i := range a.Required {
		w.podTerm(&a.Required[i])
	}
	w.num(int64(len(a.Preferred)))
	for i := range a.Preferred {
		w.num(int64(a.Preferred[i].Weight))
		w.podTerm(&a.Preferred[i].Term)
	}
}

// neighbours writes what is wanted of the pods near.
func (w *writer) neighbours(a *spec.Affinity) {
	w.podAffinity(&a.Pod)
	w.podAffinity(&a.PodAnti)
}

func (w *writer) nodeTerm(t *spec.NodeTerm) {
	for _, all := range [...][]spec.NodeRequirement{t.Labels, t.Fields} {
		w.num(int64(len(all)))
		for i := range all {
			w.text(all[i].Key)
			w.text(string(all[i].Operator))
			w.list(all[i].Values)
		}
	}
}

func (w *writer) preferredNodes(a *spec.Affinity) {
	if a == nil {
		w.num(0)
		return
	}
	w.num(int64(len(a.Node.Preferred)))
	for i := range a.Node.Preferred {
		w.num(int64(a.Node.Preferred[i].Weight))
		w.nodeTerm(&a.Node.Preferred[i].Term)
	}
}

func (w *writer) affinity(a *spec.Affinity) {
	w.bool(a != nil)
	if a == nil {
		return
	}
	w.bool(a.Node.Required != nil)
	if r := a.Node.Required; r != nil {
		w.num(int64(len(r.Terms)))
		for i := range r.Terms {
			w.nodeTerm(&r.Terms[i])
		}
	}
	w.preferredNodes(a)
	w.neighbours(a)
}

func (w *writer) tolerations(all []spec.Toleration) {
	w.num(int64(len(all)))
	for i := range all {
		t := &all[i] // Seconds do not count: whoever tolerates for a while may go there
		w.text(t.Key)
		w.text(string(t.Operator))
		w.text(t.Value)
		w.text(string(t.Effect))
	}
}

func (w *writer) spread(all []spec.SpreadConstraint) {
	w.num(int64(len(all)))
	for i := range all {
		c := &all[i]
		w.num(int64(c.MaxSkew))
		w.text(c.TopologyKey)
		w.text(string(c.WhenUnsatisfiable))
		w.selector(c.Selector)
		w.optional(c.MinDomains != nil, func() int64 { return int64(*c.MinDomains) })
		w.text(string(c.NodeAffinityPolicy))
		w.text(string(c.NodeTaintsPolicy))
		w.list(c.MatchLabelKeys)
	}
}

// shape writes what makes pods alike to placement: all that the pod's place depends on but Name and Not, which are of one
// pod; its namespace and labels only where somebody asks for them.
func (w *writer) shape(p *Pod, neighbours bool) {
	w.b = w.b[:0]
	w.text(p.Owner)
	w.num(p.Requests.MilliCPU)
	w.num(p.Requests.MemoryBytes)
	w.num(int64(p.Needs))
	w.bool(p.HostNetwork)
	w.labels(p.Selector)
	w.num(int64(len(p.HostPorts)))
	for _, port := range p.HostPorts {
		w.text(port.Protocol)
		w.num(int64(port.Number))
	}
	w.list(p.HostPaths)
	w.affinity(p.Affinity)
	w.tolerations(p.Tolerations)
	w.spread(p.Spread)
	if neighbours {
		w.text(p.Name.Namespace)
		w.labels(p.Labels)
	}
}

// preferences writes what the pod's preference of nodes depends on.
func (w *writer) preferences(p *Pod) {
	w.b = w.b[:0]
	if len(p.Tolerations) == 0 && (p.Affinity == nil || len(p.Affinity.Node.Preferred) == 0) {
		return
	}
	w.preferredNodes(p.Affinity)
	w.tolerations(p.Tolerations)
}
