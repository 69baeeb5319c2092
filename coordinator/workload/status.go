package workload

import (
	"fmt"

	"github.com/musterhq/muster/internal/spec"
)

// The conditions of a Deployment, and the reasons of Progressing: Kubernetes' words.
const (
	available   = "Available"
	progressing = "Progressing"
	// restartsHeld is muster's own; see coordinator/restarts.
	restartsHeld = "RestartsHeld"

	reasonUpdated  = "ReplicaSetUpdated"
	reasonComplete = "NewReplicaSetAvailable"
	reasonDeadline = "ProgressDeadlineExceeded"
	reasonPaused   = "DeploymentPaused"
	reasonResumed  = "DeploymentResumed"
)

// status says how the Deployment stands with the pods that count.
func (r *rollout) status() {
	live, old := r.live, &r.Deployment.Status
	st := spec.DeploymentStatus{
		ObservedGeneration: r.Generation,
		Replicas:           int32(len(live)),
		UpdatedReplicas:    int32(count(live, r.fresh)),
		Ready:              int32(count(live, func(p Pod) bool { return p.Ready })),
		Available:          int32(count(live, r.available)),
		Revision:           old.Revision,
		ProgressTime:       old.ProgressTime,
	}
	if r.newest != nil {
		st.Revision = r.newest.Revision
	}
	enough := spec.Condition{
		Type: available, Status: spec.ConditionFalse, Reason: "MinimumReplicasUnavailable",
		Message: fmt.Sprintf("%d of %d pods are available", st.Available, r.want()),
	}
	if int(st.Available) >= r.want()-r.unavailable {
		enough.Status, enough.Reason = spec.ConditionTrue, "MinimumReplicasAvailable"
	}
	st.Conditions = []spec.Condition{enough, r.progress(&st)}
	switch was := conditionOf(old, restartsHeld); {
	case r.HeldUnknown && was.Type != "":
		st.Conditions = append(st.Conditions, was)
	case r.Held != "":
		st.Conditions = append(st.Conditions, spec.Condition{Type: restartsHeld, Status: spec.ConditionTrue, Reason: "TooManyFail", Message: r.Held})
	case was.Type != "":
		st.Conditions = append(st.Conditions, spec.Condition{Type: restartsHeld, Status: spec.ConditionFalse, Reason: "Released"})
	}
	for i := range st.Conditions {
		c := &st.Conditions[i]
		c.TransitionTime = r.Now
		if was := conditionOf(old, c.Type); was.Status == c.Status {
			c.TransitionTime = was.TransitionTime
		}
	}
	r.out.Status = st
}

func conditionOf(s *spec.DeploymentStatus, kind string) spec.Condition {
	for _, c := range s.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return spec.Condition{}
}

// progress says how the rollout comes on, and notes in st when it last did. As in Kubernetes one that is complete stays so
// until there is another template, whatever becomes of its pods.
func (r *rollout) progress(st *spec.DeploymentStatus) spec.Condition {
	old := &r.Deployment.Status
	was := conditionOf(old, progressing)
	if r.Spec.Paused {
		return spec.Condition{Type: progressing, Status: spec.ConditionUnknown, Reason: reasonPaused, Message: "Deployment is paused"}
	}
	want := r.Spec.Replicas
	if st.UpdatedReplicas == want && st.Replicas == want && st.Available == want ||
		was.Reason == reasonComplete && st.Replicas == st.UpdatedReplicas && st.Revision == old.Revision {
		return spec.Condition{
			Type: progressing, Status: spec.ConditionTrue, Reason: reasonComplete,
			Message: fmt.Sprintf("Deployment %q has successfully progressed.", r.Name),
		}
	}
	on := spec.Condition{
		Type: progressing, Status: spec.ConditionTrue, Reason: reasonUpdated, Message: fmt.Sprintf("Deployment %q is progressing.", r.Name),
	}
	if was.Reason == reasonResumed {
		on.Reason, on.Message = was.Reason, was.Message
	}
	switch {
	case was.Reason == reasonPaused:
		on.Reason, on.Message = reasonResumed, "Deployment is resumed"
		st.ProgressTime = r.Now
	case old.ProgressTime.IsZero(), st.Revision != old.Revision, was.Reason == reasonComplete,
		st.UpdatedReplicas > old.UpdatedReplicas, st.Replicas-st.UpdatedReplicas < old.Replicas-old.UpdatedReplicas,
		st.Ready > old.Ready, st.Available > old.Available:
		on.Reason, on.Message = reasonUpdated, fmt.Sprintf("Deployment %q is progressing.", r.Name)
		st.ProgressTime = r.Now
	}
	due := st.ProgressTime.Add(r.Spec.Deadline())
	if due.After(r.Now) {
		r.recheck(due)
		return on
	}
	return spec.Condition{
		Type: progressing, Status: spec.ConditionFalse, Reason: reasonDeadline, Message: fmt.Sprintf("Deployment %q has timed out progressing.", r.Name),
	}
}
