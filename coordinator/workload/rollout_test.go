package workload

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/musterhq/muster/internal/spec"
)

func number(n int32) *spec.IntOrPercent  { return &spec.IntOrPercent{Value: n} }
func percent(n int32) *spec.IntOrPercent { return &spec.IntOrPercent{Value: n, Percent: true} }

// rolled is a world of so many ready pods whose template has just changed.
func rolled(replicas int32, s spec.Strategy) *world {
	w := &world{d: deployment(replicas, "a")}
	w.d.Spec.Strategy = s
	w.step()
	w.allReady()
	w.step()
	w.command("b")
	return w
}

func (w *world) command(c string) {
	w.d.Spec.Template.Spec.Containers = []spec.Container{{Name: "c", Command: []string{c}}}
}

// goes removes the pods that are being deleted.
func (w *world) goes() {
	w.pods = slices.DeleteFunc(w.pods, func(p Pod) bool { return p.Deleting() })
}

func (w *world) commands() map[string]int {
	n := map[string]int{}
	for _, p := range w.pods {
		if !p.Deleting() {
			n[p.Spec.Containers[0].Command[0]]++
		}
	}
	return n
}

func TestTheStrategySaysHowManyPodsRollAtATime(t *testing.T) {
	for _, c := range []struct {
		replicas         int32
		surge, least     *spec.IntOrPercent
		created, deleted int
	}{
		{4, nil, nil, 2, 1},
		{10, nil, nil, 5, 2},
		{10, number(0), number(1), 1, 1},
		{10, number(1), number(0), 1, 0},
		{10, percent(100), percent(0), 10, 0},
		{10, percent(0), percent(100), 10, 10},
		{3, percent(34), percent(34), 3, 1},
		{3, percent(1), percent(1), 1, 0},    // 1 above: rounded up; 0 below: rounded down
		{3, percent(0), percent(1), 1, 1},    // both come to 0
		{10, number(50), number(50), 10, 10}, // no more than all
	} {
		t.Run(fmt.Sprint(c.replicas, c.surge, c.least), func(t *testing.T) {
			out := rolled(c.replicas, spec.Strategy{Type: spec.RollingUpdate, MaxSurge: c.surge, MaxUnavailable: c.least}).step()
			if len(out.Create) != c.created || len(out.Delete) != c.deleted {
				t.Errorf("%d created, %d deleted; want %d, %d", len(out.Create), len(out.Delete), c.created, c.deleted)
			}
		})
	}
}

func TestOldPodsThatAreNotAvailableGoFirstButNotAllOfThem(t *testing.T) {
	w := rolled(10, spec.Strategy{MaxSurge: number(0), MaxUnavailable: number(3)})
	for i := range 2 {
		w.pods[i].Ready = false
	}
	out := w.step()
	var gone []string
	for _, p := range out.Delete {
		gone = append(gone, p.Name)
	}
	slices.Sort(gone)
	if len(gone) != 3 || gone[0] != w.pods[0].Name || gone[1] != w.pods[1].Name {
		t.Errorf("%v deleted, want the two that are not ready and one more", gone)
	}
	w = rolled(10, spec.Strategy{MaxSurge: number(0), MaxUnavailable: number(3)})
	for i := range w.pods {
		w.pods[i].Ready = false
	}
	if out := w.step(); len(out.Delete) != 3 {
		t.Errorf("none is ready: %d deleted, want 3: the others may come back", len(out.Delete))
	}
}

func TestAPodCountsAsAvailableOnceItHasBeenReadyForLongEnough(t *testing.T) {
	w := &world{d: deployment(2, "a")}
	w.d.Spec.MinReady = 10 * time.Second
	w.step()
	w.allReady()
	w.pods[0].ReadySince, w.pods[1].ReadySince = now.Add(-10*time.Second), now.Add(-4*time.Second)
	out := w.step()
	if st := out.Status; st.Ready != 2 || st.Available != 1 {
		t.Errorf("%d ready, %d available; want 2, 1", st.Ready, st.Available)
	}
	if want := now.Add(6 * time.Second); !out.Recheck.Equal(want) {
		t.Errorf("look again at %v, want %v", out.Recheck, want)
	}
	// A rollout waits for it too.
	w.d.Spec.Strategy = spec.Strategy{MaxSurge: number(1), MaxUnavailable: number(0)}
	w.command("b")
	w.step()
	w.allReady()
	for i := range w.pods {
		w.pods[i].ReadySince = now.Add(-time.Minute)
	}
	w.pods[2].ReadySince = now
	if out := w.step(); len(out.Delete) != 0 {
		t.Error("an old pod is deleted though the new one is not available yet")
	}
	if out := w.decide(now.Add(10 * time.Second)); len(out.Delete) != 1 {
		t.Errorf("%d deleted once the new one is available, want 1", len(out.Delete))
	}
}

func TestRecreateMakesTheFirstNewPodWhenTheLastOldOneHasGone(t *testing.T) {
	w := rolled(3, spec.Strategy{Type: spec.Recreate})
	if out := w.step(); len(out.Delete) != 3 || len(out.Create) != 0 {
		t.Fatalf("%d deleted, %d created; want 3, 0", len(out.Delete), len(out.Create))
	}
	w.pods = w.pods[1:]
	if out := w.step(); len(out.Create) != 0 {
		t.Fatalf("%d created while two are stopping", len(out.Create))
	}
	w.pods[0].Phase, w.pods[1].Phase = spec.PhaseSucceeded, spec.PhaseFailed // they run no more
	if out := w.step(); len(out.Create) != 3 {
		t.Errorf("%d created, want 3", len(out.Create))
	}
}

func TestAPausedDeploymentKeepsItsPodsAndItsNumber(t *testing.T) {
	w := rolled(4, spec.Strategy{})
	w.d.Spec.Paused = true
	if out := w.step(); len(out.Create)+len(out.Delete) != 0 || out.Record != nil || condition(out.Status, "Progressing").Reason != "DeploymentPaused" {
		t.Fatalf("%+v, want nothing but the reason", out)
	}
	w.pods = w.pods[1:]
	w.d.Spec.Replicas = 6
	if w.step(); w.commands()["a"] != 6 {
		t.Errorf("scaled up: pods by template are %v, want 6 of the old one", w.commands())
	}
	w.d.Spec.Replicas = 2
	w.allReady()
	if w.step(); w.commands()["a"] != 2 {
		t.Errorf("scaled down: pods by template are %v, want 2 of the old one", w.commands())
	}
	w.d.Spec.Paused = false
	out := w.step()
	if len(out.Create) != 1 || out.Record == nil || condition(out.Status, "Progressing").Reason != "DeploymentResumed" {
		t.Errorf("resumed: %+v, want a new pod, a revision and the reason", out)
	}
	// Half way both templates stay as they are.
	w.goes()
	w.d.Spec.Paused = true
	w.allReady()
	if out := w.step(); len(out.Create)+len(out.Delete) != 0 {
		t.Errorf("paused half way: %d created, %d deleted", len(out.Create), len(out.Delete))
	}
	if w := (&world{d: deployment(2, "a")}); true {
		w.d.Spec.Paused = true
		if out := w.step(); len(out.Create) != 0 {
			t.Errorf("made while it is paused: %d pods", len(out.Create))
		}
	}
}

func (w *world) numbers() map[int64]string {
	n := map[int64]string{}
	for _, h := range w.history {
		n[h.Revision] = h.Template.Spec.Containers[0].Command[0] + h.ChangeCause
	}
	return n
}

func TestEachTemplateIsARevisionAndOneThatComesBackGetsANewNumber(t *testing.T) {
	w := &world{d: deployment(1, "a")}
	limit := int32(2)
	w.d.Spec.RevisionHistoryLimit = &limit
	settle := func() {
		for range 5 {
			w.step()
			w.allReady()
		}
		w.step()
	}
	settle()
	for _, c := range []struct {
		command, cause string
		want           map[int64]string
	}{
		{"b", " because", map[int64]string{1: "a", 2: "b because"}},
		{"b", " for another reason", map[int64]string{1: "a", 2: "b for another reason"}},
		{"a", "", map[int64]string{2: "b for another reason", 3: "a"}},
		{"c", "", map[int64]string{2: "b for another reason", 3: "a", 4: "c"}},
		{"d", "", map[int64]string{3: "a", 4: "c", 5: "d"}},
	} {
		w.command(c.command)
		w.d.Annotations = map[string]string{spec.AnnotationChangeCause: c.cause}
		settle()
		if diff := cmp.Diff(c.want, w.numbers()); diff != "" {
			t.Errorf("after %s%s:\n%s", c.command, c.cause, diff)
		}
		if out := w.step(); out.Record != nil || out.Forget != nil {
			t.Errorf("deciding again: %+v", out)
		}
	}
	if w.d.Status.Revision != 5 {
		t.Errorf("status has revision %d, want 5", w.d.Status.Revision)
	}
}

func TestATemplateWithPodsIsNotForgotten(t *testing.T) {
	limit := int32(0)
	w := rolled(4, spec.Strategy{})
	w.d.Spec.RevisionHistoryLimit = &limit
	w.step()
	if w.step(); len(w.numbers()) != 2 {
		t.Errorf("while it rolls: %v, want both", w.numbers())
	}
	for range 10 {
		w.allReady()
		w.step()
	}
	if diff := cmp.Diff(map[int64]string{2: "b"}, w.numbers()); diff != "" {
		t.Errorf("at its end:\n%s", diff)
	}
}

func TestATemplateThatWasHashedOtherwiseKeepsItsPods(t *testing.T) {
	w := rolled(2, spec.Strategy{})
	w.command("a")
	for i := range w.pods {
		w.pods[i].Labels[spec.LabelTemplateHash] = "another"
	}
	w.history[0].Hash = "another"
	if out := w.step(); len(out.Create)+len(out.Delete) != 0 || out.Record != nil {
		t.Errorf("%d created, %d deleted, record %v", len(out.Create), len(out.Delete), out.Record)
	}
}

func TestARolloutThatDoesNotProgressIsTold(t *testing.T) {
	w := rolled(4, spec.Strategy{})
	w.d.Spec.ProgressDeadline = time.Minute
	out := w.step()
	at := now.Add(time.Minute)
	if !out.Recheck.Equal(at) {
		t.Errorf("look again at %v, want %v", out.Recheck, at)
	}
	progress := func(at time.Time) spec.Condition {
		out := w.decide(at)
		w.d.Status = out.Status
		return condition(out.Status, "Progressing")
	}
	w.goes()
	if c := progress(now.Add(30 * time.Second)); c.Reason != "ReplicaSetUpdated" { // the pods that were made are progress
		t.Fatalf("after 30 s: %+v", c)
	}
	if c := progress(now.Add(89 * time.Second)); c.Status != spec.ConditionTrue {
		t.Errorf("59 s after the last progress: %+v", c)
	}
	late := progress(now.Add(90 * time.Second))
	if late.Status != spec.ConditionFalse || late.Reason != "ProgressDeadlineExceeded" || !late.TransitionTime.Equal(now.Add(90*time.Second)) {
		t.Errorf("a minute after the last progress: %+v", late)
	}
	if c := progress(now.Add(2 * time.Hour)); c != late {
		t.Errorf("later: %+v, want it unchanged", c)
	}
	w.pods[len(w.pods)-1].Ready = true
	if c := progress(now.Add(3 * time.Hour)); c.Status != spec.ConditionTrue || c.Reason != "ReplicaSetUpdated" {
		t.Errorf("one became ready: %+v", c)
	}
	for range 10 {
		w.allReady()
		w.step()
	}
	w.pods[0].Ready = false
	if c := progress(now.Add(48 * time.Hour)); c.Reason != "NewReplicaSetAvailable" {
		t.Errorf("a pod is not ready long after the end: %+v", c)
	}
}

// TestAnyRolloutStaysWithinItsBounds draws strategies, and pods that come and go and change their minds, while the template and
// the number change half way.
func TestAnyRolloutStaysWithinItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bound := func(name string) *spec.IntOrPercent {
			if rapid.Bool().Draw(t, name+" is a share") {
				return percent(rapid.Int32Range(0, 100).Draw(t, name))
			}
			return number(rapid.Int32Range(0, 5).Draw(t, name))
		}
		w := &world{d: deployment(rapid.Int32Range(0, 12).Draw(t, "replicas"), "a")}
		w.d.Spec.Strategy = spec.Strategy{Type: spec.RollingUpdate, MaxSurge: bound("surge"), MaxUnavailable: bound("unavailable")}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch rapid.IntRange(0, 12).Draw(t, "change") {
			case 0:
				w.command(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "command"))
			case 1:
				w.d.Spec.Replicas = rapid.Int32Range(0, 12).Draw(t, "replicas")
			case 2:
				w.d.Spec.Paused = rapid.Bool().Draw(t, "paused")
			}
			for i := range w.pods {
				switch rapid.IntRange(0, 5).Draw(t, "pod") {
				case 0, 1:
					w.pods[i].Ready, w.pods[i].Bound, w.pods[i].Phase = true, true, spec.PhaseRunning
				case 2:
					w.pods[i].Ready = false
				}
			}
			w.pods = slices.DeleteFunc(w.pods, func(p Pod) bool {
				return rapid.IntRange(0, 9).Draw(t, "gone") == 0 || p.Deleting() && rapid.Bool().Draw(t, "went")
			})
			_, before := w.live()
			old := w.pods
			out := w.step()
			n, after := w.live()
			s, u := w.d.Spec.Bounds()
			if most := int(w.d.Spec.Replicas + s); n > most {
				t.Fatalf("%d pods, at most %d", n, most)
			}
			if least := int(w.d.Spec.Replicas - u); after < before && after < least {
				t.Fatalf("%d available after %d were, at least %d", after, before, least)
			}
			checkOrder(t, w, old, out)
			if again := w.decide(now); len(again.Create)+len(again.Delete) != 0 || again.Record != nil || len(again.Forget) != 0 {
				t.Fatalf("deciding again gives %d to create, %d to delete, record %v, %d to forget", len(again.Create), len(again.Delete), again.Record, len(again.Forget))
			}
		}
		w.d.Spec.Paused = false
		for range 40 {
			w.step()
			w.allReady()
		}
		hash := spec.TemplateHash(&w.d.Spec.Template)
		for _, p := range w.pods {
			if p.Labels[spec.LabelTemplateHash] != hash {
				t.Fatalf("pod %s is still of an old template", p.Name)
			}
		}
		if len(w.pods) != int(w.d.Spec.Replicas) {
			t.Fatalf("%d pods for %d replicas", len(w.pods), w.d.Spec.Replicas)
		}
		if c := condition(w.d.Status, "Progressing"); c.Reason != "NewReplicaSetAvailable" {
			t.Fatalf("at the end: %+v", c)
		}
	})
}

// checkOrder holds that no old pod that was ready is deleted while one that was not stays.
func checkOrder(t *rapid.T, w *world, before []Pod, out Decision) {
	hash := spec.TemplateHash(&w.d.Spec.Template)
	gone := map[string]bool{}
	for _, p := range out.Delete {
		gone[p.Name] = true
	}
	tookReady, keptUnready := "", ""
	for _, p := range before {
		switch {
		case p.Labels[spec.LabelTemplateHash] == hash:
		case gone[p.Name] && p.Ready:
			tookReady = p.Name
		case !gone[p.Name] && !p.Ready && !p.Deleting():
			keptUnready = p.Name
		}
	}
	if tookReady != "" && keptUnready != "" {
		t.Fatalf("old pod %s, which was ready, is deleted, and %s, which was not, stays", tookReady, keptUnready)
	}
}
