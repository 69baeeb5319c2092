// Package workload says which pods a Deployment needs: how many to make, which to delete, and how it stands. It is pure.
// A Deployment's pods carry the hash of the template they were made from; a new template replaces them step by step, at
// most a quarter above and a quarter below the wanted number at a time.
package workload

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// minLife is how long after its making a pod that has finished is replaced at the earliest.
const minLife = 10 * time.Second

// Pod is a pod of a Deployment as it stands.
type Pod struct {
	*spec.Pod
	// Ready is whether it is shown ready, Bound whether it has a node.
	Ready, Bound bool
	// Phase is what is shown.
	Phase spec.Phase
}

// Decision is what a Deployment needs next.
type Decision struct {
	// Create has new pods, without uid and creation time.
	Create []*spec.Pod
	// Delete has the pods to delete.
	Delete []*spec.Pod
	// Remove is set when the Deployment is being deleted and its last pod has gone.
	Remove bool
	Status spec.DeploymentStatus
}

// Decide says what d needs next. pods are those whose owner is d. suffix returns a new random suffix for each call; now
// is for transition times.
func Decide(d *spec.Deployment, pods []Pod, suffix func() string, now time.Time) Decision {
	hash := spec.TemplateHash(&d.Spec.Template)
	var live, fresh, stale []Pod
	for _, p := range pods {
		if p.Deleting() {
			continue
		}
		live = append(live, p)
		if p.Labels[spec.LabelTemplateHash] == hash {
			fresh = append(fresh, p)
		} else {
			stale = append(stale, p)
		}
	}
	out := Decision{}
	if d.Deleting() {
		for _, p := range live {
			out.Delete = append(out.Delete, p.Pod)
		}
		out.Remove = len(pods) == 0
		out.Status = status(d, fresh, live, now)
		return out
	}
	// A finished pod counts for nothing: it is replaced and taken away. One that was made a moment ago keeps its place for a
	// while, so that pods that can't live are not made by the hundred.
	finished := func(p Pod) bool { return p.Phase.Final() && now.Sub(p.CreateTime) >= minLife }
	for _, p := range live {
		if finished(p) {
			out.Delete = append(out.Delete, p.Pod)
		}
	}
	live, fresh, stale = drop(live, finished), drop(fresh, finished), drop(stale, finished)

	want := int(d.Spec.Replicas)
	surge, floor := want+(want+3)/4, want-want/4 // a quarter, rounded up above and down below
	// Take away what is too much: of the fresh ones what is over the number, then stale ones as far as enough stay ready.
	slices.SortFunc(fresh, expendable)
	slices.SortFunc(stale, expendable)
	for _, p := range fresh[:max(0, len(fresh)-want)] {
		out.Delete = append(out.Delete, p.Pod)
	}
	kept := fresh[max(0, len(fresh)-want):]
	ready := count(kept, func(p Pod) bool { return p.Ready }) + count(stale, func(p Pod) bool { return p.Ready })
	left := len(kept) + len(stale)
	for _, p := range stale {
		if p.Ready {
			if ready <= floor && want > 0 {
				continue
			}
			ready--
		}
		left--
		out.Delete = append(out.Delete, p.Pod)
	}
	// Make what is missing, within the surge.
	for range min(want-len(fresh), surge-left) {
		out.Create = append(out.Create, make1(d, hash, suffix()))
	}
	out.Status = status(d, fresh, live, now)
	return out
}

func drop(pods []Pod, which func(Pod) bool) []Pod {
	return slices.DeleteFunc(slices.Clone(pods), which)
}

func count(pods []Pod, which func(Pod) bool) int {
	n := 0
	for _, p := range pods {
		if which(p) {
			n++
		}
	}
	return n
}

// expendable orders pods by whom to miss least: unbound before bound, not ready before ready, newest first.
func expendable(a, b Pod) int {
	bit := func(v bool) int {
		if v {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(bit(a.Bound), bit(b.Bound)), cmp.Compare(bit(a.Ready), bit(b.Ready)),
		b.CreateTime.Compare(a.CreateTime), cmp.Compare(a.Name, b.Name),
	)
}

// make1 makes one pod from the template.
func make1(d *spec.Deployment, hash, suffix string) *spec.Pod {
	labels := maps.Clone(d.Spec.Template.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[spec.LabelTemplateHash] = hash
	p := &spec.Pod{
		Meta: spec.Meta{
			Namespace: d.Namespace, Name: podName(d.Name, hash, suffix),
			Labels: labels, Annotations: maps.Clone(d.Spec.Template.Annotations),
			Owner: &spec.OwnerRef{Kind: "Deployment", Name: d.Name, UID: d.UID}, Generation: 1,
		},
		Spec: d.Spec.Template.Spec.Clone(),
	}
	return p
}

// maxPodName keeps a pod's name within what a hostname may have.
const maxPodName = 63

func podName(deployment, hash, suffix string) string {
	tail := "-" + hash + "-" + suffix
	if room := maxPodName - len(tail); len(deployment) > room {
		deployment = strings.TrimRight(deployment[:room], "-.")
	}
	return deployment + tail
}

func status(d *spec.Deployment, fresh, live []Pod, now time.Time) spec.DeploymentStatus {
	st := spec.DeploymentStatus{
		ObservedGeneration: d.Generation,
		Replicas:           int32(len(live)),
		UpdatedReplicas:    int32(len(fresh)),
		Ready:              int32(count(live, func(p Pod) bool { return p.Ready })),
	}
	st.Available = st.Ready
	want := d.Spec.Replicas
	available := spec.Condition{Type: "Available", Status: spec.ConditionFalse, Reason: "MinimumReplicasUnavailable"}
	if st.Available >= want-want/4 {
		available.Status, available.Reason = spec.ConditionTrue, "MinimumReplicasAvailable"
	}
	available.Message = fmt.Sprintf("%d of %d pods are ready", st.Available, want)
	progressing := spec.Condition{Type: "Progressing", Status: spec.ConditionTrue, Reason: "ReplicaSetUpdated"}
	if st.UpdatedReplicas == want && st.Replicas == want && st.Available == want {
		progressing.Reason = "NewReplicaSetAvailable"
	}
	for _, c := range []spec.Condition{available, progressing} {
		c.TransitionTime = now
		for _, old := range d.Status.Conditions {
			if old.Type == c.Type && old.Status == c.Status {
				c.TransitionTime = old.TransitionTime
			}
		}
		st.Conditions = append(st.Conditions, c)
	}
	return st
}
