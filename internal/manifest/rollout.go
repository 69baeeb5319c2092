package manifest

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/musterhq/muster/internal/spec"
)

const (
	rolloutConverted = "strategy.type strategy.rollingUpdate.maxSurge strategy.rollingUpdate.maxUnavailable " +
		"minReadySeconds progressDeadlineSeconds revisionHistoryLimit paused"
	budgetConverted = "minAvailable maxUnavailable unhealthyPodEvictionPolicy " +
		"selector.matchLabels selector.matchExpressions.key selector.matchExpressions.operator selector.matchExpressions.values"
)

var budgetFields = func() fieldUses {
	f := fieldUses{}
	f.set("", "apiVersion kind", converted)
	f.set("", "status", harmless)
	f.set("metadata", metaConverted, converted)
	f.set("metadata", metaHarmless, harmless)
	f.set("spec", budgetConverted, converted)
	return f
}()

// rollout fills in how a Deployment rolls.
func (d *decoder) rollout(out *spec.DeploymentSpec, k *appsv1.DeploymentSpec) {
	out.Strategy.Type = spec.StrategyType(k.Strategy.Type)
	if r := k.Strategy.RollingUpdate; r != nil {
		out.Strategy.MaxSurge = d.intOrPercent("spec.strategy.rollingUpdate.maxSurge", r.MaxSurge)
		out.Strategy.MaxUnavailable = d.intOrPercent("spec.strategy.rollingUpdate.maxUnavailable", r.MaxUnavailable)
	}
	out.MinReady = time.Duration(k.MinReadySeconds) * time.Second
	out.RevisionHistoryLimit, out.Paused = k.RevisionHistoryLimit, k.Paused
	if s := k.ProgressDeadlineSeconds; s != nil {
		if out.ProgressDeadline = time.Duration(*s) * time.Second; *s == 0 { // which would stand for the default
			d.add("spec.progressDeadlineSeconds", spec.Invalid, 0, "must be greater than minReadySeconds")
		}
	}
}

func (d *decoder) intOrPercent(at string, v *intstr.IntOrString) *spec.IntOrPercent {
	switch {
	case v == nil:
		return nil
	case v.Type == intstr.Int:
		return &spec.IntOrPercent{Value: v.IntVal}
	}
	out, err := spec.ParsePercent(v.StrVal)
	if err != nil {
		d.add(at, spec.Invalid, v.StrVal, err.Error())
	}
	return &out
}

func (d *decoder) budget(k *policyv1.PodDisruptionBudget) *spec.PodDisruptionBudget {
	out := &spec.PodDisruptionBudget{Meta: meta(&k.ObjectMeta), Spec: spec.PodDisruptionBudgetSpec{
		MinAvailable:   d.intOrPercent("spec.minAvailable", k.Spec.MinAvailable),
		MaxUnavailable: d.intOrPercent("spec.maxUnavailable", k.Spec.MaxUnavailable),
	}}
	if p := k.Spec.UnhealthyPodEvictionPolicy; p != nil {
		out.Spec.UnhealthyPodPolicy = spec.UnhealthyPodPolicy(*p)
	}
	out.Spec.Selector = chosen(k.Spec.Selector)
	return out
}
