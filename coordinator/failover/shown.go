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
	s.Containers, s.InitContainers = slices.Clone(s.Containers), slices.Clone(s.InitContainers)
	for i := range s.Containers {
		s.Containers[i].Ready = false
	}
	for i := range s.InitContainers { // one that has completed stays so
		s.InitContainers[i].Ready = s.InitContainers[i].Ready && s.InitContainers[i].State.Running == nil
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
	waiting := "ContainerCreating"
	if len(p.Spec.InitContainers) > 0 {
		waiting = "PodInitializing"
	}
	for i, sc := range p.Spec.AllContainers() {
		c := spec.ContainerStatus{Name: sc.Name, Image: sc.Image, State: spec.ContainerState{Waiting: &spec.Waiting{Reason: waiting}}}
		if held != nil && held.UID == p.UID {
			if old := held.Status.Container(c.Name); old != nil {
				c.Restarts = old.Restarts
			}
		}
		if i < len(p.Spec.InitContainers) {
			s.InitContainers = append(s.InitContainers, c)
		} else {
			s.Containers = append(s.Containers, c)
		}
	}
	return s
}
