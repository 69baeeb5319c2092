// Package disruption says how disruption budgets stand and whether a pod may be evicted under them. It is pure. That two
// evictions which were decided on the same counts are not both carried out is for the writer to hold: each rewrites the
// state of every budget that it counted on.
package disruption

import "github.com/musterhq/muster/internal/spec"

// Pod is a pod as budgets see it.
type Pod struct {
	*spec.Pod
	Phase spec.Phase
	// Ready is whether it is shown ready.
	Ready bool
	// Leaving is whether it is on its way off its node: being deleted, or asked to stop.
	Leaving bool
	// Replicas is how many pods its workload is to have; meaningless for a bare pod.
	Replicas int32
}

func (p *Pod) healthy() bool { return p.Ready && !p.Leaving && !p.Phase.Final() }

// Count says how a budget stands among the pods of its namespace.
func Count(b *spec.PodDisruptionBudget, pods []Pod) spec.PodDisruptionBudgetStatus {
	var st spec.PodDisruptionBudgetStatus
	there, workloads := int32(0), map[string]bool{}
	for i := range pods {
		p := &pods[i]
		if !b.Selects(p.Pod) || p.Deleting() || p.Phase.Final() {
			continue
		}
		there++
		if p.healthy() {
			st.CurrentHealthy++
		}
		switch {
		case p.Owner == nil:
			st.ExpectedPods++
		case !workloads[p.Owner.UID]:
			workloads[p.Owner.UID] = true
			st.ExpectedPods += p.Replicas
		}
	}
	switch least, most := b.Spec.MinAvailable, b.Spec.MaxUnavailable; {
	case most != nil:
		st.DesiredHealthy = max(0, st.ExpectedPods-most.Of(st.ExpectedPods, true))
	case least != nil && least.Percent:
		st.DesiredHealthy = least.Of(st.ExpectedPods, true)
	case least != nil:
		st.ExpectedPods, st.DesiredHealthy = there, least.Value
	}
	if st.ExpectedPods > 0 {
		st.DisruptionsAllowed = max(0, st.CurrentHealthy-st.DesiredHealthy)
	}
	return st
}

// Exempt tells whether no budget has a say about a pod: it has not run yet, runs no more, or is leaving already.
func Exempt(p *Pod) bool { return p.Leaving || p.Phase == spec.PhasePending || p.Phase.Final() }

// Allows tells whether a budget that stands so allows the eviction of a pod that it selects. A pod that is not ready may go
// while enough others are healthy, for that takes nothing away.
func Allows(b *spec.PodDisruptionBudget, st spec.PodDisruptionBudgetStatus, p *Pod) bool {
	switch {
	case Exempt(p):
		return true
	case p.healthy():
		return st.DisruptionsAllowed > 0
	}
	return b.Spec.UnhealthyPodPolicy == spec.AlwaysAllow || st.CurrentHealthy >= st.DesiredHealthy
}
