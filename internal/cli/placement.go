package cli

import (
	"fmt"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// This file shows what pods say of their place, and nodes of who may come, in Kubernetes' shape and for people.

const (
	requiredTerms  = "requiredDuringSchedulingIgnoredDuringExecution"
	preferredTerms = "preferredDuringSchedulingIgnoredDuringExecution"
)

// placementOf reads what a pod says of its place.
func placementOf(s *musterv1.PodSpec) *spec.PodSpec {
	p, err := wire.PodFromProto(&musterv1.Pod{Spec: &musterv1.PodSpec{
		Affinity: s.GetAffinity(), Tolerations: s.GetTolerations(), TopologySpreadConstraints: s.GetTopologySpreadConstraints(),
	}})
	if err != nil {
		return &spec.PodSpec{} // of a coordinator that knows more
	}
	return &p.Spec
}

// placementFields adds what a pod says of its place.
func placementFields(f fields, pb *musterv1.PodSpec) fields {
	s := placementOf(pb)
	affinity := fields{}.
		put("nodeAffinity", nodeAffinityFields(&s.Affinity.Node)).
		put("podAffinity", podAffinityFields(&s.Affinity.Pod)).
		put("podAntiAffinity", podAffinityFields(&s.Affinity.PodAnti))
	return f.put("affinity", affinity).
		put("tolerations", each(s.Tolerations, tolerationFields)).
		put("topologySpreadConstraints", each(s.TopologySpreadConstraints, spreadFields))
}

func tolerationFields(t spec.Toleration) fields {
	f := fields{}.put("key", t.Key).put("operator", string(t.Operator)).put("value", t.Value).put("effect", string(t.Effect))
	setPtr(f, "tolerationSeconds", t.Seconds)
	return f
}

func nodeAffinityFields(a *spec.NodeAffinity) fields {
	f := fields{}.put(preferredTerms, each(a.Preferred, func(p spec.PreferredNodeTerm) fields {
		return fields{"weight": p.Weight, "preference": nodeTermFields(p.Term)}
	}))
	if a.Required != nil {
		f.set(requiredTerms, fields{"nodeSelectorTerms": each(a.Required.Terms, nodeTermFields)})
	}
	return f
}

func nodeTermFields(t spec.NodeTerm) fields {
	requirement := func(r spec.NodeRequirement) fields {
		return fields{"key": r.Key, "operator": string(r.Operator)}.put("values", r.Values)
	}
	return fields{}.put("matchExpressions", each(t.Labels, requirement)).put("matchFields", each(t.Fields, requirement))
}

func podAffinityFields(a *spec.PodAffinity) fields {
	return fields{}.put(requiredTerms, each(a.Required, podTermFields)).put(preferredTerms, each(a.Preferred, func(w spec.WeightedPodTerm) fields {
		return fields{"weight": w.Weight, "podAffinityTerm": podTermFields(w.Term)}
	}))
}

func podTermFields(t spec.PodTerm) fields {
	f := fields{"topologyKey": t.TopologyKey}.put("namespaces", t.Namespaces)
	if t.AllNamespaces {
		f.set("namespaceSelector", fields{})
	}
	return chosenFields(f, t.Selector)
}

// chosenFields adds a selector: an empty one, which chooses all, is not the same as none.
func chosenFields(f fields, s *spec.Selector) fields {
	if s == nil {
		return f
	}
	return f.set("labelSelector", fields{}.put("matchLabels", s.Labels).put("matchExpressions", each(s.Expressions, func(e spec.SelectorExpression) fields {
		return fields{"key": e.Key, "operator": string(e.Operator)}.put("values", e.Values)
	})))
}

func spreadFields(c spec.SpreadConstraint) fields {
	f := fields{"maxSkew": c.MaxSkew, "topologyKey": c.TopologyKey, "whenUnsatisfiable": string(c.WhenUnsatisfiable)}.
		put("nodeAffinityPolicy", string(c.NodeAffinityPolicy)).
		put("nodeTaintsPolicy", string(c.NodeTaintsPolicy)).
		put("matchLabelKeys", c.MatchLabelKeys)
	setPtr(f, "minDomains", c.MinDomains)
	return chosenFields(f, c.Selector)
}

// taintFields are a node's taints.
func taintFields(pb []*musterv1.Taint) []fields {
	taints, err := wire.TaintsFromProto(pb)
	if err != nil {
		return nil
	}
	return each(taints, func(t spec.Taint) fields {
		return fields{"key": t.Key, "effect": string(t.Effect)}.put("value", t.Value)
	})
}

// placement tells what a pod says of its place; the whole of its affinity is for "get -o yaml".
func (d *description) placement(pb *musterv1.PodSpec) {
	s := placementOf(pb)
	var tolerations, spread []string
	for _, t := range s.Tolerations {
		tolerations = append(tolerations, tolerationText(&t))
	}
	for _, c := range s.TopologySpreadConstraints {
		spread = append(spread, fmt.Sprintf("%s by at most %d, %s", c.TopologyKey, c.MaxSkew, c.WhenUnsatisfiable))
	}
	if len(tolerations) > 0 {
		d.line(0, "Tolerations", tolerations...)
	}
	if len(spread) > 0 {
		d.line(0, "Spread Over", spread...)
	}
	if affinity := affinityTexts(&s.Affinity); len(affinity) > 0 {
		d.line(0, "Affinity", affinity...)
	}
}

func tolerationText(t *spec.Toleration) string {
	text := t.Key
	switch {
	case t.Key == "":
		text = "every taint"
	case t.Operator != spec.TolerationExists:
		text += "=" + t.Value
	}
	if t.Effect != "" {
		text += ":" + string(t.Effect)
	}
	if t.Seconds != nil {
		text += fmt.Sprintf(" for %ds", *t.Seconds)
	}
	return text
}

// affinityTexts are an affinity in short: what is required, and how much is preferred.
func affinityTexts(a *spec.Affinity) (lines []string) {
	count := func(n int, what string) {
		if n > 0 {
			lines = append(lines, fmt.Sprintf("%s: %d", what, n))
		}
	}
	if a.Node.Required != nil {
		count(len(a.Node.Required.Terms), "required of nodes, one of")
	}
	count(len(a.Node.Preferred), "preferred of nodes")
	for _, x := range []struct {
		what string
		of   *spec.PodAffinity
	}{{"near pods", &a.Pod}, {"apart from pods", &a.PodAnti}} {
		for _, t := range x.of.Required {
			lines = append(lines, fmt.Sprintf("%s, by %s", x.what, t.TopologyKey))
		}
		for _, t := range x.of.Preferred {
			lines = append(lines, fmt.Sprintf("rather %s, by %s, weight %d", x.what, t.Term.TopologyKey, t.Weight))
		}
	}
	return lines
}
