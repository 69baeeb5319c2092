package wire

import (
	"fmt"
	"reflect"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

var (
	taintEffects = newEnum("taint effect", map[spec.TaintEffect]musterv1.TaintEffect{
		"":                    musterv1.TaintEffect_TAINT_EFFECT_UNSPECIFIED,
		spec.NoSchedule:       musterv1.TaintEffect_TAINT_EFFECT_NO_SCHEDULE,
		spec.PreferNoSchedule: musterv1.TaintEffect_TAINT_EFFECT_PREFER_NO_SCHEDULE,
		spec.NoExecute:        musterv1.TaintEffect_TAINT_EFFECT_NO_EXECUTE,
	})
	tolerationOperators = newEnum("operator", map[spec.TolerationOperator]musterv1.Toleration_Operator{
		"":                    musterv1.Toleration_OPERATOR_UNSPECIFIED,
		spec.TolerationEqual:  musterv1.Toleration_OPERATOR_EQUAL,
		spec.TolerationExists: musterv1.Toleration_OPERATOR_EXISTS,
	})
	// What is refused by validation, with the field's Kubernetes path, may be unspecified here.
	nodeOperators = newEnum("operator", map[spec.NodeOperator]musterv1.NodeRequirement_Operator{
		"":                    musterv1.NodeRequirement_OPERATOR_UNSPECIFIED,
		spec.NodeIn:           musterv1.NodeRequirement_OPERATOR_IN,
		spec.NodeNotIn:        musterv1.NodeRequirement_OPERATOR_NOT_IN,
		spec.NodeExists:       musterv1.NodeRequirement_OPERATOR_EXISTS,
		spec.NodeDoesNotExist: musterv1.NodeRequirement_OPERATOR_DOES_NOT_EXIST,
		spec.NodeGt:           musterv1.NodeRequirement_OPERATOR_GT,
		spec.NodeLt:           musterv1.NodeRequirement_OPERATOR_LT,
	})
	unsatisfiables = newEnum("when_unsatisfiable", map[spec.WhenUnsatisfiable]musterv1.TopologySpreadConstraint_WhenUnsatisfiable{
		"":                  musterv1.TopologySpreadConstraint_WHEN_UNSATISFIABLE_UNSPECIFIED,
		spec.DoNotSchedule:  musterv1.TopologySpreadConstraint_WHEN_UNSATISFIABLE_DO_NOT_SCHEDULE,
		spec.ScheduleAnyway: musterv1.TopologySpreadConstraint_WHEN_UNSATISFIABLE_SCHEDULE_ANYWAY,
	})
	nodePolicies = newEnum("node policy", map[spec.NodePolicy]musterv1.NodePolicy{
		"":                musterv1.NodePolicy_NODE_POLICY_UNSPECIFIED,
		spec.PolicyHonor:  musterv1.NodePolicy_NODE_POLICY_HONOR,
		spec.PolicyIgnore: musterv1.NodePolicy_NODE_POLICY_IGNORE,
	})
)

func taintsToProto(taints []spec.Taint) (pb []*musterv1.Taint) {
	for _, t := range taints {
		pb = append(pb, &musterv1.Taint{Key: t.Key, Value: t.Value, Effect: taintEffects.to[t.Effect]})
	}
	return pb
}

func (p *parser) taints(field string, pb []*musterv1.Taint) (taints []spec.Taint) {
	for i, t := range pb {
		effect := in(p, fmt.Sprintf("%s[%d].effect", field, i), taintEffects, t.GetEffect())
		taints = append(taints, spec.Taint{Key: t.GetKey(), Value: t.GetValue(), Effect: effect})
	}
	return taints
}

// TaintsToProto converts the taints of a node.
func TaintsToProto(taints []spec.Taint) []*musterv1.Taint { return taintsToProto(taints) }

// TaintsFromProto is the inverse of TaintsToProto.
func TaintsFromProto(pb []*musterv1.Taint) ([]spec.Taint, error) {
	p := &parser{}
	taints := p.taints("taints", pb)
	return taints, p.err
}

// placementToProto adds what a pod says of its place.
func placementToProto(pb *musterv1.PodSpec, s *spec.PodSpec) {
	if !reflect.ValueOf(s.Affinity).IsZero() {
		pb.Affinity = &musterv1.Affinity{Node: nodeAffinityToProto(&s.Affinity.Node), Pod: podAffinityToProto(&s.Affinity.Pod), PodAnti: podAffinityToProto(&s.Affinity.PodAnti)}
	}
	for _, t := range s.Tolerations {
		pb.Tolerations = append(pb.Tolerations, &musterv1.Toleration{
			Key: t.Key, Operator: tolerationOperators.to[t.Operator], Value: t.Value, Effect: taintEffects.to[t.Effect], TolerationSeconds: t.Seconds,
		})
	}
	for _, c := range s.TopologySpreadConstraints {
		pb.TopologySpreadConstraints = append(pb.TopologySpreadConstraints, &musterv1.TopologySpreadConstraint{
			MaxSkew: c.MaxSkew, TopologyKey: c.TopologyKey, WhenUnsatisfiable: unsatisfiables.to[c.WhenUnsatisfiable],
			LabelSelector: chosenToProto(c.Selector), MinDomains: c.MinDomains, MatchLabelKeys: c.MatchLabelKeys,
			NodeAffinityPolicy: nodePolicies.to[c.NodeAffinityPolicy], NodeTaintsPolicy: nodePolicies.to[c.NodeTaintsPolicy],
		})
	}
}

func (p *parser) placement(field string, s *spec.PodSpec, pb *musterv1.PodSpec) {
	s.Affinity = spec.Affinity{
		Node:    p.nodeAffinity(field+".affinity.node", pb.GetAffinity().GetNode()),
		Pod:     p.podAffinity(field+".affinity.pod", pb.GetAffinity().GetPod()),
		PodAnti: p.podAffinity(field+".affinity.pod_anti", pb.GetAffinity().GetPodAnti()),
	}
	for i, t := range pb.GetTolerations() {
		at := fmt.Sprintf("%s.tolerations[%d]", field, i)
		s.Tolerations = append(s.Tolerations, spec.Toleration{
			Key: t.GetKey(), Operator: in(p, at+".operator", tolerationOperators, t.GetOperator()), Value: t.GetValue(),
			Effect: in(p, at+".effect", taintEffects, t.GetEffect()), Seconds: t.TolerationSeconds,
		})
	}
	for i, c := range pb.GetTopologySpreadConstraints() {
		at := fmt.Sprintf("%s.topology_spread_constraints[%d]", field, i)
		s.TopologySpreadConstraints = append(s.TopologySpreadConstraints, spec.SpreadConstraint{
			MaxSkew: c.GetMaxSkew(), TopologyKey: c.GetTopologyKey(),
			WhenUnsatisfiable: in(p, at+".when_unsatisfiable", unsatisfiables, c.GetWhenUnsatisfiable()),
			Selector:          p.chosen(at+".label_selector", c.GetLabelSelector()), MinDomains: c.MinDomains, MatchLabelKeys: c.GetMatchLabelKeys(),
			NodeAffinityPolicy: in(p, at+".node_affinity_policy", nodePolicies, c.GetNodeAffinityPolicy()),
			NodeTaintsPolicy:   in(p, at+".node_taints_policy", nodePolicies, c.GetNodeTaintsPolicy()),
		})
	}
}

// chosenToProto converts a selector that may be missing, which is not the same as an empty one.
func chosenToProto(s *spec.Selector) *musterv1.LabelSelector {
	if s == nil {
		return nil
	}
	return selectorToProto(*s)
}

func (p *parser) chosen(field string, pb *musterv1.LabelSelector) *spec.Selector {
	if pb == nil {
		return nil
	}
	s := p.selector(field, pb)
	return &s
}

func nodeAffinityToProto(a *spec.NodeAffinity) *musterv1.NodeAffinity {
	if a.Required == nil && len(a.Preferred) == 0 {
		return nil
	}
	pb := &musterv1.NodeAffinity{}
	if r := a.Required; r != nil {
		pb.Required = &musterv1.NodeSelector{}
		for i := range r.Terms {
			pb.Required.Terms = append(pb.Required.Terms, nodeTermToProto(&r.Terms[i]))
		}
	}
	for i := range a.Preferred {
		pb.Preferred = append(pb.Preferred, &musterv1.PreferredNodeTerm{Weight: a.Preferred[i].Weight, Term: nodeTermToProto(&a.Preferred[i].Term)})
	}
	return pb
}

func (p *parser) nodeAffinity(field string, pb *musterv1.NodeAffinity) (a spec.NodeAffinity) {
	if r := pb.GetRequired(); r != nil {
		a.Required = &spec.NodeSelector{}
		for i, t := range r.GetTerms() {
			a.Required.Terms = append(a.Required.Terms, p.nodeTerm(fmt.Sprintf("%s.required.terms[%d]", field, i), t))
		}
	}
	for i, t := range pb.GetPreferred() {
		a.Preferred = append(a.Preferred, spec.PreferredNodeTerm{
			Weight: t.GetWeight(), Term: p.nodeTerm(fmt.Sprintf("%s.preferred[%d].term", field, i), t.GetTerm()),
		})
	}
	return a
}

func nodeTermToProto(t *spec.NodeTerm) *musterv1.NodeTerm {
	return &musterv1.NodeTerm{MatchExpressions: requirementsToProto(t.Labels), MatchFields: requirementsToProto(t.Fields)}
}

func (p *parser) nodeTerm(field string, pb *musterv1.NodeTerm) spec.NodeTerm {
	return spec.NodeTerm{
		Labels: p.requirements(field+".match_expressions", pb.GetMatchExpressions()), Fields: p.requirements(field+".match_fields", pb.GetMatchFields()),
	}
}

func requirementsToProto(all []spec.NodeRequirement) (pb []*musterv1.NodeRequirement) {
	for _, r := range all {
		pb = append(pb, &musterv1.NodeRequirement{Key: r.Key, Operator: nodeOperators.to[r.Operator], Values: r.Values})
	}
	return pb
}

func (p *parser) requirements(field string, pb []*musterv1.NodeRequirement) (all []spec.NodeRequirement) {
	for i, r := range pb {
		operator := in(p, fmt.Sprintf("%s[%d].operator", field, i), nodeOperators, r.GetOperator())
		all = append(all, spec.NodeRequirement{Key: r.GetKey(), Operator: operator, Values: r.GetValues()})
	}
	return all
}

func podAffinityToProto(a *spec.PodAffinity) *musterv1.PodAffinity {
	if len(a.Required)+len(a.Preferred) == 0 {
		return nil
	}
	pb := &musterv1.PodAffinity{}
	for i := range a.Required {
		pb.Required = append(pb.Required, podTermToProto(&a.Required[i]))
	}
	for i := range a.Preferred {
		pb.Preferred = append(pb.Preferred, &musterv1.WeightedPodTerm{Weight: a.Preferred[i].Weight, Term: podTermToProto(&a.Preferred[i].Term)})
	}
	return pb
}

func (p *parser) podAffinity(field string, pb *musterv1.PodAffinity) (a spec.PodAffinity) {
	for i, t := range pb.GetRequired() {
		a.Required = append(a.Required, p.podTerm(fmt.Sprintf("%s.required[%d]", field, i), t))
	}
	for i, t := range pb.GetPreferred() {
		a.Preferred = append(a.Preferred, spec.WeightedPodTerm{
			Weight: t.GetWeight(), Term: p.podTerm(fmt.Sprintf("%s.preferred[%d].term", field, i), t.GetTerm()),
		})
	}
	return a
}

func podTermToProto(t *spec.PodTerm) *musterv1.PodTerm {
	return &musterv1.PodTerm{LabelSelector: chosenToProto(t.Selector), AllNamespaces: t.AllNamespaces, Namespaces: t.Namespaces, TopologyKey: t.TopologyKey}
}

func (p *parser) podTerm(field string, pb *musterv1.PodTerm) spec.PodTerm {
	return spec.PodTerm{
		Selector: p.chosen(field+".label_selector", pb.GetLabelSelector()), AllNamespaces: pb.GetAllNamespaces(),
		Namespaces: pb.GetNamespaces(), TopologyKey: pb.GetTopologyKey(),
	}
}
