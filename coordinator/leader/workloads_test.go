package leader

import (
	"cmp"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/spec"
)

// deployment is one of a container that runs command.
func (w *world) deployment(replicas int32, command string) *spec.Deployment {
	return &spec.Deployment{Meta: spec.Meta{Namespace: "default", Name: "web", UID: "d"}, Spec: spec.DeploymentSpec{
		Replicas: replicas, Template: spec.PodTemplate{
			Labels: map[string]string{"app": "web"}, Spec: spec.PodSpec{Containers: []spec.Container{{Name: "c", Command: []string{command}}}},
		},
	}}
}

// keepUp has every holder say what is asked of it for a while: ready, or stopped where the pod is being deleted.
func (w *world) keepUp(rounds int) {
	for range rounds {
		for _, p := range fleet.Pods(w.cache.View()) {
			if p.Binding != nil && (p.Current() == nil || p.Deleting()) {
				w.say(p.Name, p.Deleting())
			}
		}
		time.Sleep(time.Second)
	}
}

func (w *world) revisions() []*spec.DeploymentRevision {
	all := slices.Collect(store.AllOf[*spec.DeploymentRevision](w.cache.View(), store.DeployRevisions))
	slices.SortFunc(all, func(a, b *spec.DeploymentRevision) int { return cmp.Compare(a.Revision, b.Revision) })
	return all
}

func TestARolloutLeavesARevisionForEachTemplateAndThenWritesNothing(t *testing.T) {
	lead(t, 3, func(w *world) {
		key := store.Key{Family: store.Deployments, Namespace: "default", Name: "web"}
		for _, command := range []string{"a", "b", "a"} {
			w.put(key, w.deployment(4, command))
			w.keepUp(10)
		}
		pods := fleet.Pods(w.cache.View())
		for _, p := range pods {
			if p.Spec.Containers[0].Command[0] != "a" {
				t.Errorf("pod %s runs %v", p.Name, p.Spec.Containers[0].Command)
			}
		}
		got := w.revisions()
		if len(pods) != 4 || len(got) != 2 || got[0].Revision != 2 || got[1].Revision != 3 || got[1].Template.Spec.Containers[0].Command[0] != "a" {
			t.Errorf("%d pods, revisions %+v; want 4, and b as number 2 and a as number 3", len(pods), got)
		}
		st, _, _ := store.Get[*spec.DeploymentStatus](w.cache.View(), store.Key{Family: store.DeployState, Namespace: "default", Name: "web"})
		if st == nil || st.Revision != 3 || st.UpdatedReplicas != 4 {
			t.Errorf("status %+v, want revision 3 with 4 updated", st)
		}
		before := w.cache.View().Revision()
		time.Sleep(time.Minute)
		if after := w.cache.View().Revision(); after != before {
			t.Errorf("revision went from %d to %d in a minute of steady state", before, after)
		}
	})
}

func TestADeadlineIsToldWhenItIsOverAndOnce(t *testing.T) {
	lead(t, 1, func(w *world) {
		d := w.deployment(1, "a")
		d.Spec.ProgressDeadline = 30 * time.Second
		w.put(store.Key{Family: store.Deployments, Namespace: "default", Name: "web"}, d)
		progressing := func() (spec.Condition, int64) {
			st, rev, _ := store.Get[*spec.DeploymentStatus](w.cache.View(), store.Key{Family: store.DeployState, Namespace: "default", Name: "web"})
			return st.Conditions[1], rev
		}
		time.Sleep(29 * time.Second)
		if c, _ := progressing(); c.Status != spec.ConditionTrue {
			t.Errorf("after 29 s: %+v", c)
		}
		time.Sleep(3 * time.Second)
		c, rev := progressing()
		if c.Status != spec.ConditionFalse || c.Reason != "ProgressDeadlineExceeded" {
			t.Errorf("after 32 s: %+v", c)
		}
		time.Sleep(time.Minute)
		if _, now := progressing(); now != rev {
			t.Error("told again")
		}
	})
}

func TestALeaderThatSeesLateMakesNoPodTwiceAndFillsNoNodeBeyondItsRoom(t *testing.T) {
	leadLate(t, 2, 300*time.Millisecond, func(w *world) {
		made := map[string]bool{}
		// Something else changes all the time, so that the leader looks again before it sees what it has done.
		pass := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
				w.put(store.Key{Family: store.Config, Name: "other"}, &spec.Blob{})
				for rec := range w.list(store.Pods) {
					made[rec.Key.Name] = true
				}
			}
		}
		for name, replicas := range map[string]int32{"a": 7, "b": 8, "c": 9} { // two nodes have room for 20
			d := &spec.Deployment{Meta: spec.Meta{Namespace: "default", Name: name, UID: name, Generation: 1}}
			d.Spec.Replicas = replicas
			d.Spec.Template.Spec.Containers = []spec.Container{{Name: "c", Command: []string{"x"}}}
			w.put(store.Key{Family: store.Deployments, Namespace: "default", Name: name}, d)
			pass(400 * time.Millisecond)
		}
		pass(10 * time.Second)
		if len(made) != 7+8+9 {
			t.Errorf("%d pods were made, want 24", len(made))
		}
		on := map[string]int{}
		for rec := range w.list(store.Bindings) {
			on[rec.Value.(*spec.Binding).Node]++
		}
		if on["n0"] != 10 || on["n1"] != 10 {
			t.Errorf("pods on nodes: %v, want 10 on each", on)
		}
	})
}

// list is what the store has now, whatever is seen of it.
func (w *world) list(f store.Family) iter.Seq[store.Record] {
	w.t.Helper()
	recs, _, err := w.store.List(w.t.Context(), f)
	if err != nil {
		w.t.Fatal(err)
	}
	return slices.Values(recs)
}
