package manifest

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/internal/spec"
)

const (
	requiredTerms  = "requiredDuringSchedulingIgnoredDuringExecution"
	preferredTerms = "preferredDuringSchedulingIgnoredDuringExecution"
)

// placementConverted are the fields that say where a pod may be and wants to be. Of a namespaceSelector only the empty one is
// built, which podTerm sees to.
var placementConverted = func() string {
	var all []string
	add := func(at string, names ...string) {
		for _, name := range names {
			all = append(all, at+name)
		}
	}
	expressions := func(at string) { add(at, "key", "operator", "values") }
	selector := func(at string) {
		add(at, "matchLabels")
		expressions(at + "matchExpressions.")
	}
	add("tolerations.", "key", "operator", "value", "effect", "tolerationSeconds")
	for _, term := range []string{requiredTerms + ".nodeSelectorTerms.", preferredTerms + ".preference."} {
		expressions("affinity.nodeAffinity." + term + "matchExpressions.")
		expressions("affinity.nodeAffinity." + term + "matchFields.")
	}
	add("affinity.nodeAffinity."+preferredTerms, ".weight")
	for _, kind := range []string{"affinity.podAffinity.", "affinity.podAntiAffinity."} {
		for _, term := range []string{requiredTerms + ".", preferredTerms + ".podAffinityTerm."} {
			add(kind+term, "namespaces", "namespaceSelector", "topologyKey")
			selector(kind + term + "labelSelector.")
		}
		add(kind+preferredTerms, ".weight")
	}
	const spread = "topologySpreadConstraints."
	add(spread, "maxSkew", "topologyKey", "whenUnsatisfiable", "minDomains", "nodeAffinityPolicy", "nodeTaintsPolicy", "matchLabelKeys")
	selector(spread + "labelSelector.")
	return strings.Join(all, " ")
}()

func selector(s *metav1.LabelSelector) spec.Selector {
	out := spec.Selector{Labels: s.MatchLabels}
	for _, e := range s.MatchExpressions {
		out.Expressions = append(out.Expressions, spec.SelectorExpression{Key: e.Key, Operator: spec.SelectorOperator(e.Operator), Values: e.Values})
	}
	return out
}

// chosen is a selector that may be missing, which is not the same as an empty one.
func chosen(s *metav1.LabelSelector) *spec.Selector {
	if s == nil {
		return nil
	}
	out := selector(s)
	return &out
}

// placement fills in where a pod may be and wants to be.
func (d *decoder) placement(at string, out *spec.PodSpec, k *corev1.PodSpec) {
	for _, t := range k.Tolerations {
		out.Tolerations = append(out.Tolerations, spec.Toleration{
			Key: t.Key, Operator: spec.TolerationOperator(t.Operator), Value: t.Value, Effect: spec.TaintEffect(t.Effect), Seconds: t.TolerationSeconds,
		})
	}
	if a := k.Affinity; a != nil {
		if n := a.NodeAffinity; n != nil {
			out.Affinity.Node = nodeAffinity(n)
		}
		if p := a.PodAffinity; p != nil {
			out.Affinity.Pod = d.podAffinity(at+".affinity.podAffinity", p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if p := a.PodAntiAffinity; p != nil {
			out.Affinity.PodAnti = d.podAffinity(at+".affinity.podAntiAffinity", p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
		}
	}
	policy := func(p *corev1.NodeInclusionPolicy) spec.NodePolicy {
		if p == nil {
			return ""
		}
		return spec.NodePolicy(*p)
	}
	for _, c := range k.TopologySpreadConstraints {
		out.TopologySpreadConstraints = append(out.TopologySpreadConstraints, spec.SpreadConstraint{
			MaxSkew: c.MaxSkew, TopologyKey: c.TopologyKey, WhenUnsatisfiable: spec.WhenUnsatisfiable(c.WhenUnsatisfiable),
			Selector: chosen(c.LabelSelector), MinDomains: c.MinDomains, MatchLabelKeys: c.MatchLabelKeys,
			NodeAffinityPolicy: policy(c.NodeAffinityPolicy), NodeTaintsPolicy: policy(c.NodeTaintsPolicy),
		})
	}
}

func nodeAffinity(k *corev1.NodeAffinity) (out spec.NodeAffinity) {
	if r := k.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
		out.Required = &spec.NodeSelector{}
		for i := range r.NodeSelectorTerms {
			out.Required.Terms = append(out.Required.Terms, nodeTerm(&r.NodeSelectorTerms[i]))
		}
	}
	for _, p := range k.PreferredDuringSchedulingIgnoredDuringExecution {
		out.Preferred = append(out.Preferred, spec.PreferredNodeTerm{Weight: p.Weight, Term: nodeTerm(&p.Preference)})
	}
	return out
}

func nodeTerm(k *corev1.NodeSelectorTerm) spec.NodeTerm {
	requirements := func(all []corev1.NodeSelectorRequirement) (out []spec.NodeRequirement) {
		for _, r := range all {
			out = append(out, spec.NodeRequirement{Key: r.Key, Operator: spec.NodeOperator(r.Operator), Values: r.Values})
		}
		return out
	}
	return spec.NodeTerm{Labels: requirements(k.MatchExpressions), Fields: requirements(k.MatchFields)}
}

func (d *decoder) podAffinity(at string, required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) (out spec.PodAffinity) {
	for i := range required {
		out.Required = append(out.Required, d.podTerm(fmt.Sprintf("%s.%s[%d]", at, requiredTerms, i), &required[i]))
	}
	for i := range preferred {
		term := d.podTerm(fmt.Sprintf("%s.%s[%d].podAffinityTerm", at, preferredTerms, i), &preferred[i].PodAffinityTerm)
		out.Preferred = append(out.Preferred, spec.WeightedPodTerm{Weight: preferred[i].Weight, Term: term})
	}
	return out
}

func (d *decoder) podTerm(at string, k *corev1.PodAffinityTerm) spec.PodTerm {
	out := spec.PodTerm{Selector: chosen(k.LabelSelector), Namespaces: k.Namespaces, TopologyKey: k.TopologyKey}
	if n := k.NamespaceSelector; n != nil {
		if len(n.MatchLabels)+len(n.MatchExpressions) > 0 {
			// Namespaces have no labels here. Left out it would choose other pods than were meant, so it stays an error.
			d.add(at+".namespaceSelector", spec.NotBuilt, nil, "only the empty one, which chooses every namespace")
		}
		out.AllNamespaces = true
	}
	return out
}
