package workload

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/musterhq/muster/internal/spec"
)

var now = time.Unix(1000, 0)

func deployment(replicas int32, command string) *spec.Deployment {
	return &spec.Deployment{
		Meta: spec.Meta{Namespace: "default", Name: "web", UID: "d1", Generation: 1},
		Spec: spec.DeploymentSpec{Replicas: replicas, Template: spec.PodTemplate{
			Labels: map[string]string{"app": "web"},
			Spec:   spec.PodSpec{Containers: []spec.Container{{Name: "c", Command: []string{command}}}},
		}},
	}
}

// world applies decisions: what was created is there and what was deleted is deleting, until it goes.
type world struct {
	d       *spec.Deployment
	pods    []Pod
	history []*spec.DeploymentRevision
	next    int
}

func (w *world) decide(at time.Time) Decision {
	return Decide(Input{Deployment: w.d, Pods: w.pods, History: w.history, Suffix: w.suffix, Now: at})
}

func (w *world) suffix() string { w.next++; return fmt.Sprintf("%05d", w.next) }

func (w *world) step() Decision {
	out := w.decide(now)
	for i, p := range out.Create {
		p.UID, p.CreateTime = p.Name, now.Add(time.Duration(w.next+i)-time.Minute)
		w.pods = append(w.pods, Pod{Pod: p, Phase: spec.PhasePending})
	}
	for _, del := range out.Delete {
		for i := range w.pods {
			if w.pods[i].Name == del.Name {
				c := *w.pods[i].Pod
				c.DeleteTime = now
				w.pods[i].Pod = &c
			}
		}
	}
	if rec := out.Record; rec != nil {
		w.history = slices.DeleteFunc(slices.Clone(w.history), func(h *spec.DeploymentRevision) bool { return h.Hash == rec.Hash })
		w.history = append(w.history, rec)
	}
	for _, f := range out.Forget {
		w.history = slices.DeleteFunc(slices.Clone(w.history), func(h *spec.DeploymentRevision) bool { return h == f })
	}
	w.d.Status = out.Status
	return out
}

func (w *world) live() (n, ready int) {
	for _, p := range w.pods {
		if !p.Deleting() && !p.Phase.Final() {
			n++
			if p.Ready {
				ready++
			}
		}
	}
	return n, ready
}

func (w *world) allReady() {
	w.pods = slices.DeleteFunc(w.pods, func(p Pod) bool { return p.Deleting() })
	for i := range w.pods {
		w.pods[i].Ready, w.pods[i].Bound, w.pods[i].Phase = true, true, spec.PhaseRunning
	}
}

func TestADeploymentKeepsItsReplicas(t *testing.T) {
	w := &world{d: deployment(3, "a")}
	if out := w.step(); len(out.Create) != 3 || len(out.Delete) != 0 {
		t.Fatalf("first: %d created, %d deleted; want 3, 0", len(out.Create), len(out.Delete))
	}
	p := w.pods[0]
	if p.Labels["app"] != "web" || p.Labels[spec.LabelTemplateHash] == "" || p.Owner == nil || p.Owner.UID != "d1" || !strings.HasPrefix(p.Name, "web-") {
		t.Errorf("pod %+v lacks name, labels or owner", p.Meta)
	}
	w.allReady()
	if out := w.step(); len(out.Create)+len(out.Delete) != 0 || out.Status.Ready != 3 || out.Status.Conditions[0].Status != spec.ConditionTrue {
		t.Errorf("steady: %+v, want nothing to do and 3 ready", out)
	}
	w.pods = w.pods[1:]
	if out := w.step(); len(out.Create) != 1 {
		t.Errorf("after one has gone: %d created, want 1", len(out.Create))
	}
	w.pods[0].Phase = spec.PhaseFailed
	if out := w.step(); len(out.Create) != 1 || len(out.Delete) != 1 {
		t.Errorf("after one has failed: %d created, %d deleted; want 1, 1", len(out.Create), len(out.Delete))
	}
}

func TestAPodThatFailsAtOnceIsNotReplacedAtOnce(t *testing.T) {
	d := deployment(1, "a")
	w := &world{d: d}
	w.step()
	w.pods[0].Phase = spec.PhaseFailed
	for _, c := range []struct {
		age  time.Duration
		made int
	}{{0, 0}, {9999 * time.Millisecond, 0}, {10 * time.Second, 1}} {
		out := w.decide(w.pods[0].CreateTime.Add(c.age))
		if len(out.Create) != c.made || len(out.Delete) != c.made || out.Status.Ready != 0 {
			t.Errorf("at %v: %d created, %d deleted, %d ready; want %d, %d, 0", c.age, len(out.Create), len(out.Delete), out.Status.Ready, c.made, c.made)
		}
	}
}

func TestScalingDownTakesThoseThatAreMissedLeast(t *testing.T) {
	w := &world{d: deployment(3, "a")}
	w.step()
	w.allReady()
	w.pods[1].Ready = false
	w.d.Spec.Replicas = 1
	out := w.step()
	var names []string
	for _, p := range out.Delete {
		names = append(names, p.Name)
	}
	if diff := cmp.Diff([]string{w.pods[1].Name, w.pods[2].Name}, names); diff != "" {
		t.Errorf("want the one that is not ready, then the newest:\n%s", diff)
	}
}

func TestScalingDownTakesAPodWithoutANodeBeforeOneThatIsNotReadyYet(t *testing.T) {
	w := &world{d: deployment(3, "a")}
	w.step()
	w.allReady()
	w.pods[0].Ready, w.pods[0].Bound = false, false
	w.pods[2].Ready = false
	w.d.Spec.Replicas = 2
	if out := w.step(); len(out.Delete) != 1 || out.Delete[0].Name != w.pods[0].Name {
		t.Errorf("deleted %v, want the oldest one, which has no node", out.Delete)
	}
}

func TestANewTemplateReplacesPodsStepByStep(t *testing.T) {
	for _, tc := range []struct {
		replicas           int32
		created, deleted   int // at the first step, while all are ready
		created2, deleted2 int // at the next, when the new ones have become ready and the deleted ones have gone
		availableThrough   bool
	}{
		{replicas: 1, created: 1, deleted: 0, created2: 0, deleted2: 1, availableThrough: true},
		{replicas: 3, created: 1, deleted: 0, created2: 1, deleted2: 1, availableThrough: true},
		{replicas: 4, created: 2, deleted: 1, created2: 2, deleted2: 2, availableThrough: true},
		{replicas: 10, created: 5, deleted: 2, created2: 5, deleted2: 5, availableThrough: true},
	} {
		t.Run(fmt.Sprint(tc.replicas), func(t *testing.T) {
			w := &world{d: deployment(tc.replicas, "a")}
			w.step()
			w.allReady()
			w.step()
			w.d.Spec.Template.Spec.Containers = []spec.Container{{Name: "c", Command: []string{"b"}}}
			out := w.step()
			if len(out.Create) != tc.created || len(out.Delete) != tc.deleted {
				t.Errorf("first: %d created, %d deleted; want %d, %d", len(out.Create), len(out.Delete), tc.created, tc.deleted)
			}
			if got := condition(out.Status, "Available").Status == spec.ConditionTrue; got != tc.availableThrough {
				t.Errorf("available is %v while it rolls", got)
			}
			w.allReady()
			out = w.step()
			if len(out.Create) != tc.created2 || len(out.Delete) != tc.deleted2 {
				t.Errorf("second: %d created, %d deleted; want %d, %d", len(out.Create), len(out.Delete), tc.created2, tc.deleted2)
			}
		})
	}
}

func TestATemplateThatNeverGetsReadyStopsWithinTheBounds(t *testing.T) {
	w := &world{d: deployment(4, "a")}
	w.step()
	w.allReady()
	w.d.Spec.Template.Spec.Containers = []spec.Container{{Name: "c", Command: []string{"broken"}}}
	for range 10 {
		w.step()
		w.pods = slices.DeleteFunc(w.pods, func(p Pod) bool { return p.Deleting() })
	}
	if n, ready := w.live(); n != 5 || ready != 3 {
		t.Errorf("%d pods, %d ready; want 5 and 3 of the old ones", n, ready)
	}
}

func condition(s spec.DeploymentStatus, kind string) spec.Condition {
	for _, c := range s.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return spec.Condition{}
}

func TestTheStatusSaysHowADeploymentStands(t *testing.T) {
	w := &world{d: deployment(4, "a")}
	w.d.Generation = 7
	out := w.step()
	if out.Status.ObservedGeneration != 7 {
		t.Errorf("observed generation %d, want 7", out.Status.ObservedGeneration)
	}
	check := func(what string, wantStatus [4]int32, available spec.Truth, message, progressing string, at time.Time) {
		t.Helper()
		out := w.decide(at)
		w.d.Status = out.Status
		st := out.Status
		if got := [4]int32{st.Replicas, st.UpdatedReplicas, st.Ready, st.Available}; got != wantStatus {
			t.Errorf("%s: replicas, updated, ready, available are %v, want %v", what, got, wantStatus)
		}
		if c := condition(st, "Available"); c.Status != available || c.Message != message {
			t.Errorf("%s: available %+v, want %s: %s", what, c, available, message)
		}
		if c := condition(st, "Progressing"); c.Reason != progressing {
			t.Errorf("%s: progressing %+v, want %s", what, c, progressing)
		}
	}
	check("just made", [4]int32{4, 4, 0, 0}, spec.ConditionFalse, "0 of 4 pods are available", "ReplicaSetUpdated", now)
	w.allReady()
	check("ready", [4]int32{4, 4, 4, 4}, spec.ConditionTrue, "4 of 4 pods are available", "NewReplicaSetAvailable", now.Add(time.Minute))
	since := condition(w.d.Status, "Available").TransitionTime
	if !since.Equal(now.Add(time.Minute)) {
		t.Errorf("available since %v, want a minute later: it changed", since)
	}
	w.pods[0].Ready = false
	check("one is not ready", [4]int32{4, 4, 3, 3}, spec.ConditionTrue, "3 of 4 pods are available", "NewReplicaSetAvailable", now.Add(time.Hour))
	if got := condition(w.d.Status, "Available").TransitionTime; !got.Equal(since) {
		t.Errorf("available since %v, want %v still", got, since)
	}
	w.pods[1].Ready = false
	check("two are not ready", [4]int32{4, 4, 2, 2}, spec.ConditionFalse, "2 of 4 pods are available", "NewReplicaSetAvailable", now.Add(time.Hour))
	w.allReady()
	w.d.Spec.Template.Spec.Containers = []spec.Container{{Name: "c", Command: []string{"b"}}}
	check("all are of the old template", [4]int32{4, 0, 4, 4}, spec.ConditionTrue, "4 of 4 pods are available", "ReplicaSetUpdated", now)
	w.d.Spec.Template.Spec.Containers = []spec.Container{{Name: "c", Command: []string{"a"}}}
	w.d.Spec.Replicas = 5
	check("one is missing", [4]int32{4, 4, 4, 4}, spec.ConditionTrue, "4 of 5 pods are available", "ReplicaSetUpdated", now)
}

func TestARolloutIsOverOnlyWhenTheOldPodsHaveGone(t *testing.T) {
	w := &world{d: deployment(1, "a")}
	w.step()
	w.allReady()
	w.d.Spec.Template.Spec.Containers = []spec.Container{{Name: "c", Command: []string{"b"}}}
	w.step()
	// One of the new template that is not ready, one of the old that is: each number but that of all pods is right.
	if c := condition(w.step().Status, "Progressing"); c.Reason != "ReplicaSetUpdated" {
		t.Errorf("progressing %+v, want ReplicaSetUpdated", c)
	}
	w.allReady()
	w.step()
	w.allReady()
	if c := condition(w.step().Status, "Progressing"); c.Reason != "NewReplicaSetAvailable" {
		t.Errorf("progressing %+v, want NewReplicaSetAvailable", c)
	}
}

func TestAPodIsMadeFromTheTemplateAndSharesNothingWithIt(t *testing.T) {
	w := &world{d: deployment(1, "a")}
	w.d.Spec.Template.Annotations = map[string]string{"k": "v"}
	p := w.step().Create[0]
	hash := spec.TemplateHash(&w.d.Spec.Template)
	want := spec.Meta{
		Namespace: "default", Name: "web-" + hash + "-00001", Generation: 1, UID: p.UID, CreateTime: p.CreateTime,
		Labels:      map[string]string{"app": "web", spec.LabelTemplateHash: hash},
		Annotations: map[string]string{"k": "v"},
		Owner:       &spec.OwnerRef{Kind: "Deployment", Name: "web", UID: "d1"},
	}
	if diff := cmp.Diff(want, p.Meta); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(w.d.Spec.Template.Spec, p.Spec); diff != "" {
		t.Error(diff)
	}
	p.Labels["app"], p.Annotations["k"], p.Spec.Containers[0].Command[0] = "x", "x", "x"
	if spec.TemplateHash(&w.d.Spec.Template) != hash || w.d.Spec.Template.Annotations["k"] != "v" {
		t.Error("a change of the pod changed the template")
	}
}

func TestTheOrderOfThePodsDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := deployment(rapid.Int32Range(0, 5).Draw(t, "replicas"), "a")
		hash := spec.TemplateHash(&d.Spec.Template)
		pods := make([]Pod, rapid.IntRange(0, 8).Draw(t, "pods"))
		for i := range pods {
			pods[i] = Pod{
				Pod: &spec.Pod{Meta: spec.Meta{Name: fmt.Sprint(i), CreateTime: now.Add(time.Duration(rapid.IntRange(0, 2).Draw(t, "made"))), Labels: map[string]string{
					spec.LabelTemplateHash: rapid.SampledFrom([]string{hash, "old"}).Draw(t, "hash"),
				}}},
				Ready: rapid.Bool().Draw(t, "ready"), Bound: rapid.Bool().Draw(t, "bound"),
				Phase: rapid.SampledFrom([]spec.Phase{spec.PhasePending, spec.PhaseRunning, spec.PhaseFailed}).Draw(t, "phase"),
			}
			if rapid.IntRange(0, 4).Draw(t, "deleting") == 0 {
				pods[i].DeleteTime = now
			}
		}
		said := func(pods []Pod) string {
			out := Decide(Input{Deployment: d, Pods: pods, Suffix: func() string { return "x" }, Now: now})
			var deleted []string
			for _, p := range out.Delete {
				if p.Deleting() {
					t.Fatalf("pod %s is deleted again", p.Name)
				}
				deleted = append(deleted, p.Name)
			}
			slices.Sort(deleted)
			return fmt.Sprint(len(out.Create), deleted, out.Status)
		}
		if a, b := said(pods), said(rapid.Permutation(pods).Draw(t, "order")); a != b {
			t.Fatalf("%s, in another order %s", a, b)
		}
	})
}

func TestADeletedDeploymentGoesAfterItsPods(t *testing.T) {
	w := &world{d: deployment(2, "a")}
	w.step()
	w.allReady()
	w.d.DeleteTime = now
	if out := w.step(); len(out.Delete) != 2 || out.Remove {
		t.Fatalf("%d deleted, remove %v; want 2, false", len(out.Delete), out.Remove)
	}
	if out := w.step(); len(out.Delete) != 0 || out.Remove {
		t.Errorf("while they stop: %+v, want nothing", out)
	}
	w.pods = nil
	if out := w.step(); !out.Remove {
		t.Error("its pods have gone, but it is not to be removed")
	}
}

func TestLongNamesStayWithinAHostname(t *testing.T) {
	w := &world{d: deployment(1, "a")}
	w.d.Name = strings.Repeat("long-", 20) + "x"
	if p := w.step().Create[0]; len(p.Name) > 63 || strings.Contains(p.Name, "--") {
		t.Errorf("name %q has %d characters", p.Name, len(p.Name))
	}
}

func TestAnyChangeConvergesAndRollsWithinItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{d: deployment(rapid.Int32Range(0, 9).Draw(t, "replicas"), "a")}
		for range rapid.IntRange(1, 4).Draw(t, "changes") {
			for range 40 {
				_, before := w.live()
				out := w.step()
				n, ready := w.live()
				want := int(w.d.Spec.Replicas)
				if len(out.Create) > 0 && n > want+(want+3)/4 {
					t.Fatalf("%d pods for %d replicas", n, want)
				}
				if floor := want - want/4; ready < before && ready < min(floor, before) {
					t.Fatalf("%d ready after %d were, below the floor of %d", ready, before, floor)
				}
				if again := w.decide(now); len(again.Create)+len(again.Delete) != 0 {
					t.Fatalf("deciding again gives %d to create, %d to delete", len(again.Create), len(again.Delete))
				}
				// Some of the pods become ready, some of those that are deleted go.
				for i := range w.pods {
					if rapid.Bool().Draw(t, "ready") {
						w.pods[i].Ready, w.pods[i].Bound, w.pods[i].Phase = true, true, spec.PhaseRunning
					}
				}
				w.pods = slices.DeleteFunc(w.pods, func(p Pod) bool { return p.Deleting() && rapid.Bool().Draw(t, "gone") })
			}
			for range 30 {
				w.allReady()
				w.step()
			}
			w.allReady()
			hash := spec.TemplateHash(&w.d.Spec.Template)
			for _, p := range w.pods {
				if p.Labels[spec.LabelTemplateHash] != hash {
					t.Fatalf("pod %s is still of the old template", p.Name)
				}
			}
			if len(w.pods) != int(w.d.Spec.Replicas) {
				t.Fatalf("%d pods for %d replicas", len(w.pods), w.d.Spec.Replicas)
			}
			if rapid.Bool().Draw(t, "template") {
				w.d.Spec.Template.Spec.Containers = []spec.Container{{Name: "c", Command: []string{rapid.StringMatching("[a-z]{3}").Draw(t, "command")}}}
			} else {
				w.d.Spec.Replicas = rapid.Int32Range(0, 9).Draw(t, "replicas")
			}
			w.d.Generation++
		}
	})
}

func TestHeldRestartsAreAConditionForAsLongAsTheyAre(t *testing.T) {
	w := &world{d: deployment(3, "a")}
	held := func(why string) *spec.Condition {
		out := Decide(Input{Deployment: w.d, Held: why, Suffix: w.suffix, Now: now})
		w.d.Status = out.Status
		for i := range out.Status.Conditions {
			if c := &out.Status.Conditions[i]; c.Type == "RestartsHeld" {
				return c
			}
		}
		return nil
	}
	if c := held(""); c != nil {
		t.Errorf("never held: %+v", c)
	}
	if c := held("too many fail"); c == nil || c.Status != spec.ConditionTrue || c.Reason != "TooManyFail" || c.Message != "too many fail" || !c.TransitionTime.Equal(now) {
		t.Errorf("held: %+v", c)
	}
	unknown := Decide(Input{Deployment: w.d, HeldUnknown: true, Suffix: w.suffix, Now: now.Add(time.Hour)})
	if c := condition(unknown.Status, "RestartsHeld"); c.Status != spec.ConditionTrue || !c.TransitionTime.Equal(now) {
		t.Errorf("not known: %+v, want it as it was", c)
	}
	if c := held(""); c == nil || c.Status != spec.ConditionFalse || c.Reason != "Released" || c.Message != "" {
		t.Errorf("held no more: %+v", c)
	}
}
