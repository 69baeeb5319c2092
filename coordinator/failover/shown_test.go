package failover

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/internal/spec"
)

var wall = time.Unix(1_800_000_000, 0)

// aPod is a pod with one container, bound at epoch 7, and a holder that says that it is ready.
func aPod() (*spec.Pod, *spec.Binding, *spec.HeldStatus) {
	p := &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: "web", UID: "u", CreateTime: wall}}
	p.Spec.Containers = []spec.Container{{Name: "c", Image: "img"}}
	condition := func(kind string) spec.Condition {
		return spec.Condition{Type: kind, Status: spec.ConditionTrue, TransitionTime: wall}
	}
	return p, &spec.Binding{UID: "u", Node: "n1"}, &spec.HeldStatus{UID: "u", Epoch: 7, Status: spec.PodStatus{
		Phase: spec.PhaseRunning, PodIP: "10.0.0.1",
		Conditions: []spec.Condition{condition(spec.ConditionContainersReady), condition(spec.ConditionReady)},
		Containers: []spec.ContainerStatus{{Name: "c", Ready: true, Restarts: 4, State: spec.ContainerState{Running: &spec.Running{}}}},
	}}
}

func TestTheHoldersWordIsShown(t *testing.T) {
	p, b, h := aPod()
	for _, node := range []*spec.NodeStatus{nil, {Verdict: spec.VerdictUnreachable}, {Verdict: spec.VerdictAgentDown}} {
		if s := Shown(p, b, 7, h, node); s.Phase != spec.PhaseRunning || !s.Ready() || s.PodIP != "10.0.0.1" {
			t.Errorf("node %+v: %+v", node, s)
		}
	}
}

func TestAStatusOfAnotherBindingIsNotShown(t *testing.T) {
	p, b, h := aPod()
	other := *h
	other.UID = "of a pod that had the name before"
	for name, s := range map[string]spec.PodStatus{
		"an older epoch":     Shown(p, b, 9, h, nil),
		"another pod's":      Shown(p, b, 7, &other, nil),
		"nothing said yet":   Shown(p, b, 7, nil, nil),
		"not bound any more": Shown(p, nil, 0, h, nil),
	} {
		if s.Phase != spec.PhasePending || s.Ready() || s.PodIP != "" || s.Containers[0].State.Waiting == nil {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if s := Shown(p, b, 9, h, nil); s.Containers[0].Restarts != 4 {
		t.Errorf("restarts %d: they go on where it runs next", s.Containers[0].Restarts)
	}
	if s := Shown(p, b, 9, &other, nil); s.Containers[0].Restarts != 0 {
		t.Errorf("restarts %d of another pod", s.Containers[0].Restarts)
	}
	bound, unbound := Shown(p, b, 9, h, nil), Shown(p, nil, 0, nil, nil)
	if c := bound.Condition(spec.ConditionPodScheduled); c == nil || c.Status != spec.ConditionTrue {
		t.Errorf("bound: %+v", c)
	}
	if c := unbound.Condition(spec.ConditionPodScheduled); c == nil || c.Status != spec.ConditionFalse || c.Reason != "Unschedulable" {
		t.Errorf("not bound: %+v", c)
	}
}

func TestPodsOfANodeThatIsUnreachableAreShownNotReady(t *testing.T) {
	p, b, h := aPod()
	node := &spec.NodeStatus{Verdict: spec.VerdictLost, PodsNotReady: true, Cause: "silent", Since: wall.Add(time.Minute)}
	s := Shown(p, b, 7, h, node)
	for _, kind := range []string{spec.ConditionContainersReady, spec.ConditionReady} {
		c := s.Condition(kind)
		if c.Status != spec.ConditionFalse || c.Reason != "NodeUnreachable" || c.Message != "node n1: silent" || !c.TransitionTime.Equal(node.Since) {
			t.Errorf("%+v", c)
		}
	}
	if s.Phase != spec.PhaseRunning || s.Containers[0].Ready {
		t.Errorf("%+v", s)
	}
	if !h.Status.Ready() || !h.Status.Containers[0].Ready {
		t.Error("what is stored was changed")
	}
	h.Status.Phase = spec.PhaseSucceeded
	if s := Shown(p, b, 7, h, node); !s.Ready() {
		t.Error("a finished pod is touched by its node's loss")
	}
}

func TestAMoveIsRecordedByPhase(t *testing.T) {
	_, _, h := aPod()
	m := &Move{
		ID: "web-n1-5", Cause: "Lost", Class: spec.Fenced, UID: "u", From: "n1", To: "n2", Epoch: 7, Wall: wall,
		Heard: 100 * sec, Suspected: 102 * sec, Judged: 103 * sec, Free: 109 * sec, Bound: 110 * sec,
	}
	if got, want := m.Record().Phases, (spec.FailoverPhases{
		Detect: 2 * sec, Confirm: sec, Fence: 6 * sec, Place: sec, Deliver: -1, Start: -1, Ready: -1,
	}); got != want {
		t.Errorf("bound: %+v", got)
	}
	old := *h
	old.Epoch = 5
	if m.Observe(111*sec, &old) || m.Observe(111*sec, nil) {
		t.Error("the old instance's word counts")
	}
	m.Delivered = 111 * sec
	notReady := *h
	notReady.Status.Conditions = nil
	if !m.Observe(112*sec, &notReady) || m.Observe(113*sec, &notReady) {
		t.Error("running is seen once")
	}
	if !m.Observe(115*sec, h) {
		t.Error("ready is not seen")
	}
	r := m.Record()
	if got := r.Phases; got.Deliver != sec || got.Start != sec || got.Ready != 3*sec {
		t.Errorf("%+v", got)
	}
	if r.ID != "web-n1-5" || r.Cause != "Lost" || r.From != "n1" || r.To != "n2" || r.Epoch != 7 || r.PodUID != "u" || !r.Time.Equal(wall) {
		t.Errorf("%+v", r)
	}
}

func TestAPodThatIsSeenReadyAtOnceWasDeliveredAndRan(t *testing.T) {
	_, _, h := aPod()
	m := &Move{UID: "u", Epoch: 7, Bound: 110 * sec}
	if !m.Observe(112*sec, h) || m.Delivered != 112*sec || m.Running != 112*sec || m.Ready != 112*sec {
		t.Errorf("%+v", m)
	}
	if p := m.Record().Phases; p.Detect != -1 || p.Deliver != 2*sec || p.Start != 0 || p.Ready != 0 {
		t.Errorf("%+v", p)
	}
}

func TestTheSpansOfAMoveAreThePhasesThatItsRecordHas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &Move{}
		at := time.Duration(0)
		for i, moment := range []*time.Duration{&m.Heard, &m.Suspected, &m.Judged, &m.Free, &m.Bound, &m.Delivered, &m.Running, &m.Ready} {
			at += time.Duration(rapid.IntRange(0, 5).Draw(t, "after")) * sec
			if rapid.Bool().Draw(t, fmt.Sprint("known ", i)) {
				*moment = at + sec
			}
		}
		now := at + 2*sec
		p := m.Record().Phases
		want := map[string]time.Duration{
			"detect": p.Detect, "confirm": p.Confirm, "fence": p.Fence, "place": p.Place, "deliver": p.Deliver, "start": p.Start, "ready": p.Ready,
		}
		open := 0
		for _, s := range m.Spans(now, wall) {
			switch took := s.End.Sub(s.Start); {
			case !s.Reached:
				open++
				if want[s.Phase] != -1 || !s.End.Equal(wall) || open > 1 {
					t.Errorf("open: %+v, recorded %v", s, want[s.Phase])
				}
			case took != want[s.Phase] || s.End.After(wall):
				t.Errorf("%s took %v, recorded %v", s.Phase, took, want[s.Phase])
			}
			want[s.Phase] = -1
		}
		for phase, took := range want {
			if took != -1 {
				t.Errorf("no span of %s, recorded %v", phase, took)
			}
		}
	})
}
