package failover

import (
	"slices"

	"github.com/musterhq/muster/internal/spec"
)

// Shown is the status that everyone who reads a pod is given: what its holder says, if that is of the present binding,
// with what the verdict on its node does to it. Nobody writes a pod's status in its holder's place. held and binding may
// be nil, and node where the leader has said nothing yet.
func Shown(p *spec.Pod, binding *spec.Binding, epoch int64, held *spec.HeldStatus, node *spec.NodeStatus) spec.PodStatus {
	if binding == nil || held == nil || held.Epoch != epoch || held.UID != p.UID {
		return pending(p, binding, held)
	}
	s := held.Status
	if node == nil || !node.PodsNotReady || s.Phase.Final() {
		return s
	}
	s.Conditions = slices.Clone(s.Conditions)
	for i := range s.Conditions {
		c := &s.Conditions[i]
		if (c.Type == spec.ConditionReady || c.Type == spec.ConditionContainersReady) && c.Status == spec.ConditionTrue {
			c.Status, c.Reason, c.Message = spec.ConditionFalse, "NodeUnreachable", "node "+binding.Node+": "+node.Cause
			c.TransitionTime = node.Since
		}
	}
	s.Containers = slices.Clone(s.Containers)
	for i := range s.Containers {
		s.Containers[i].Ready = false
	}
	return s
}

// pending is a pod that nobody speaks for yet. Restart counts of an earlier holder go on.
func pending(p *spec.Pod, binding *spec.Binding, held *spec.HeldStatus) spec.PodStatus {
	scheduled := spec.Condition{Type: spec.ConditionPodScheduled, Status: spec.ConditionFalse, Reason: "Unschedulable", TransitionTime: p.CreateTime}
	if binding != nil {
		scheduled.Status, scheduled.Reason = spec.ConditionTrue, ""
	}
	s := spec.PodStatus{Phase: spec.PhasePending, Conditions: []spec.Condition{scheduled}}
	for i := range p.Spec.Containers {
		c := spec.ContainerStatus{
			Name: p.Spec.Containers[i].Name, Image: p.Spec.Containers[i].Image,
			State: spec.ContainerState{Waiting: &spec.Waiting{Reason: "ContainerCreating"}},
		}
		if held != nil && held.UID == p.UID {
			for _, old := range held.Status.Containers {
				if old.Name == c.Name {
					c.Restarts = old.Restarts
				}
			}
		}
		s.Containers = append(s.Containers, c)
	}
	return s
}
