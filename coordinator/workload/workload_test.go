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
	d    *spec.Deployment
	pods []Pod
	next int
}

func (w *world) suffix() string { w.next++; return fmt.Sprintf("%05d", w.next) }

func (w *world) step() Decision {
	out := Decide(w.d, w.pods, w.suffix, now)
	for i, p := range out.Create {
		p.UID, p.CreateTime = p.Name, now.Add(time.Duration(w.next+i))
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
				if again := Decide(w.d, w.pods, w.suffix, now); len(again.Create)+len(again.Delete) != 0 {
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
