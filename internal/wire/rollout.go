package wire

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

var (
	strategyTypes = newEnum("strategy type", map[spec.StrategyType]musterv1.DeploymentStrategy_Type{
		"":                 musterv1.DeploymentStrategy_TYPE_UNSPECIFIED,
		spec.RollingUpdate: musterv1.DeploymentStrategy_TYPE_ROLLING_UPDATE,
		spec.Recreate:      musterv1.DeploymentStrategy_TYPE_RECREATE,
	})
	unhealthyPolicies = newEnum("unhealthy pod eviction policy", map[spec.UnhealthyPodPolicy]musterv1.UnhealthyPodEvictionPolicy{
		"":                   musterv1.UnhealthyPodEvictionPolicy_UNHEALTHY_POD_EVICTION_POLICY_UNSPECIFIED,
		spec.IfHealthyBudget: musterv1.UnhealthyPodEvictionPolicy_UNHEALTHY_POD_EVICTION_POLICY_IF_HEALTHY_BUDGET,
		spec.AlwaysAllow:     musterv1.UnhealthyPodEvictionPolicy_UNHEALTHY_POD_EVICTION_POLICY_ALWAYS_ALLOW,
	})
)

// some leaves a duration of 0 unset.
func some(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func intOrPercentToProto(v *spec.IntOrPercent) *musterv1.IntOrPercent {
	switch {
	case v == nil:
		return nil
	case v.Percent:
		return &musterv1.IntOrPercent{Kind: &musterv1.IntOrPercent_Percent{Percent: v.Value}}
	}
	return &musterv1.IntOrPercent{Kind: &musterv1.IntOrPercent_Value{Value: v.Value}}
}

func intOrPercentFromProto(pb *musterv1.IntOrPercent) *spec.IntOrPercent {
	switch k := pb.GetKind().(type) {
	case *musterv1.IntOrPercent_Percent:
		return &spec.IntOrPercent{Value: k.Percent, Percent: true}
	case *musterv1.IntOrPercent_Value:
		return &spec.IntOrPercent{Value: k.Value}
	}
	return nil
}

func strategyToProto(s *spec.Strategy) *musterv1.DeploymentStrategy {
	return &musterv1.DeploymentStrategy{
		Type: strategyTypes.to[s.Type], MaxSurge: intOrPercentToProto(s.MaxSurge), MaxUnavailable: intOrPercentToProto(s.MaxUnavailable),
	}
}

func (p *parser) strategy(field string, pb *musterv1.DeploymentStrategy) spec.Strategy {
	return spec.Strategy{
		Type:     in(p, field+".type", strategyTypes, pb.GetType()),
		MaxSurge: intOrPercentFromProto(pb.GetMaxSurge()), MaxUnavailable: intOrPercentFromProto(pb.GetMaxUnavailable()),
	}
}

func templateToProto(t *spec.PodTemplate) *musterv1.PodTemplate {
	return &musterv1.PodTemplate{Labels: t.Labels, Annotations: t.Annotations, Spec: podSpecToProto(&t.Spec)}
}

func (p *parser) template(field string, pb *musterv1.PodTemplate) spec.PodTemplate {
	return spec.PodTemplate{Labels: pb.GetLabels(), Annotations: pb.GetAnnotations(), Spec: p.podSpec(field+".spec", pb.GetSpec())}
}

// DeploymentRevisionToProto converts a revision.
func DeploymentRevisionToProto(r *spec.DeploymentRevision) *musterv1.DeploymentRevision {
	return &musterv1.DeploymentRevision{
		DeploymentUid: r.Deployment, Revision: r.Revision, TemplateHash: r.Hash, Template: templateToProto(&r.Template),
		CreateTime: stamp(r.CreateTime), ChangeCause: r.ChangeCause,
	}
}

func deploymentRevisionFromProto(pb *musterv1.DeploymentRevision) (*spec.DeploymentRevision, error) {
	p := &parser{}
	r := &spec.DeploymentRevision{
		Deployment: pb.GetDeploymentUid(), Revision: pb.GetRevision(), Hash: pb.GetTemplateHash(), Template: p.template("template", pb.GetTemplate()),
		CreateTime: p.time("create_time", pb.GetCreateTime()), ChangeCause: pb.GetChangeCause(),
	}
	return r, p.err
}

// PodDisruptionBudgetToProto converts a budget and how it stands, which may be nil.
func PodDisruptionBudgetToProto(b *spec.PodDisruptionBudget, st *spec.PodDisruptionBudgetStatus) *musterv1.PodDisruptionBudget {
	pb := &musterv1.PodDisruptionBudget{
		Meta: MetaToProto(b.Meta),
		Spec: &musterv1.PodDisruptionBudgetSpec{
			MinAvailable: intOrPercentToProto(b.Spec.MinAvailable), MaxUnavailable: intOrPercentToProto(b.Spec.MaxUnavailable),
			UnhealthyPodEvictionPolicy: unhealthyPolicies.to[b.Spec.UnhealthyPodPolicy],
		},
	}
	if s := b.Spec.Selector; s != nil {
		pb.Spec.Selector = selectorToProto(*s)
	}
	if st != nil {
		pb.Status = &musterv1.PodDisruptionBudgetStatus{
			CurrentHealthy: st.CurrentHealthy, DesiredHealthy: st.DesiredHealthy,
			DisruptionsAllowed: st.DisruptionsAllowed, ExpectedPods: st.ExpectedPods,
		}
	}
	return pb
}

// PodDisruptionBudgetFromProto is the inverse of PodDisruptionBudgetToProto; the status is left out.
func PodDisruptionBudgetFromProto(pb *musterv1.PodDisruptionBudget) (*spec.PodDisruptionBudget, error) {
	p := &parser{}
	b := &spec.PodDisruptionBudget{Meta: p.meta(pb.GetMeta()), Spec: spec.PodDisruptionBudgetSpec{
		MinAvailable:   intOrPercentFromProto(pb.GetSpec().GetMinAvailable()),
		MaxUnavailable: intOrPercentFromProto(pb.GetSpec().GetMaxUnavailable()),
		UnhealthyPodPolicy: in(p, "spec.unhealthy_pod_eviction_policy", unhealthyPolicies,
			pb.GetSpec().GetUnhealthyPodEvictionPolicy()),
	}}
	if s := pb.GetSpec().GetSelector(); s != nil {
		selector := p.selector("spec.selector", s)
		b.Spec.Selector = &selector
	}
	return b, p.err
}
