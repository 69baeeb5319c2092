package pod_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/internal/spec"
)

// guarded is a running pod of a Deployment whose restart guard stands so.
func guarded(t fataler, g pod.Guard, kinds ...spec.ProbeKind) *world {
	w := newWorld(t, onePod(withProbes(kinds...), withContainer("other"), func(p *spec.Pod, _ *spec.Container) {
		p.Owner = &spec.OwnerRef{Kind: "Deployment", Name: "site", UID: "d"}
	}))
	w.w.Guard = g
	w.step()
	w.starts = w.starts[1:] // the other container's
	return w
}

func heldCondition(w *world) string {
	if c := w.plan.Status.Condition(spec.ConditionRestartHeld); c != nil {
		return string(c.Status) + " " + c.Reason
	}
	return ""
}

func TestALivenessThatFailsRestartsAtOnceWhereItIsAllowedOrNotGuarded(t *testing.T) {
	for name, g := range map[string]pod.Guard{"not guarded": {}, "allowed": {On: true, Allowed: true}, "allowed while others are held": {On: true, Allowed: true, Holding: true}} {
		w := guarded(t, g, spec.Liveness)
		w.verdict("web", spec.Liveness, spec.ResultFailure)
		w.step()
		if len(w.starts) != 2 || heldCondition(w) != "" || !w.m.Restarts().Held.IsZero() {
			t.Errorf("%s: %d starts, condition %q", name, len(w.starts), heldCondition(w))
		}
		if r := w.m.Restarts(); r.Last.IsZero() == g.On || g.On && (!r.Last.Equal(w.now) || r.Live) {
			t.Errorf("%s: %+v is what is said of it", name, r)
		}
	}
}

func TestALivenessThatFailsWhereItIsNotAllowedIsHeldAndProbedOn(t *testing.T) {
	w := guarded(t, pod.Guard{On: true}, spec.Liveness, spec.Readiness)
	w.verdict("web", spec.Readiness, spec.ResultSuccess)
	w.verdict("web", spec.Liveness, spec.ResultFailure)
	w.step()
	if len(w.starts) != 1 || !w.m.Restarts().Held.Equal(w.now) || heldCondition(w) != "" || w.hasEvent("RestartHeld") {
		t.Errorf("at first: %d starts, %+v, condition %q; want it held, and nobody told", len(w.starts), w.m.Restarts(), heldCondition(w))
	}
	row := w.plan.Probes[0]
	if row.Kind != spec.Liveness || !row.Held || !row.Guarded || w.plan.Probes[1].Held || w.plan.Probes[1].Guarded {
		t.Errorf("rows %+v, want liveness to be asked on", w.plan.Probes)
	}
	if !w.plan.Status.Ready() {
		t.Error("not ready though its readiness succeeds")
	}
	w.after(time.Second)
	wantEvent(t, w, "Warning RestartHeld web Container web failed liveness probe, its restart is held: the coordinator has not allowed it")
	if heldCondition(w) != "True NotAllowed" {
		t.Errorf("after a second the condition is %q", heldCondition(w))
	}
	w.w.Guard.Holding = true
	w.after(time.Hour)
	if n := len(slices.DeleteFunc(slices.Clone(w.events), func(e string) bool { return !strings.Contains(e, "RestartHeld") })); n != 1 || heldCondition(w) != "True TooManyFail" {
		t.Errorf("%d events, condition %q", n, heldCondition(w))
	}
	w.verdict("web", spec.Readiness, spec.ResultFailure)
	w.step()
	if w.plan.Status.Ready() {
		t.Error("ready though its readiness fails: it acts all the same")
	}
	w.verdict("web", spec.Liveness, spec.ResultSuccess)
	w.step()
	if len(w.starts) != 1 || !w.m.Restarts().Held.IsZero() || heldCondition(w) != "False " || w.plan.Probes[0].Held {
		t.Errorf("after a success: %d starts, %+v, condition %q", len(w.starts), w.m.Restarts(), heldCondition(w))
	}
}

func TestAHeldRestartIsDoneOnceItIsAllowed(t *testing.T) {
	w := guarded(t, pod.Guard{On: true}, spec.Liveness)
	w.verdict("web", spec.Liveness, spec.ResultFailure)
	w.step()
	w.after(time.Minute)
	w.w.Guard.Allowed = true
	w.step()
	if len(w.starts) != 2 || heldCondition(w) != "False " || w.m.Restarts().Live {
		t.Errorf("%d starts, condition %q, %+v", len(w.starts), heldCondition(w), w.m.Restarts())
	}
	at := w.now
	w.after(time.Second)
	w.verdict("web", spec.Liveness, spec.ResultSuccess)
	w.step()
	if r := w.m.Restarts(); !r.Last.Equal(at) || !r.Live {
		t.Errorf("%+v, want it live since", r)
	}
	w.restart()
	w.step()
	if r := w.m.Restarts(); !r.Last.Equal(at) || !r.Live {
		t.Errorf("after the agent's restart: %+v", r)
	}
	w.w.Guard.Allowed = false
	w.verdict("web", spec.Liveness, spec.ResultFailure)
	w.step()
	if r := w.m.Restarts(); r.Held.IsZero() || !r.Live || len(w.starts) != 2 {
		t.Errorf("failing again: %+v, want it held; it was live since its restart", r)
	}
	w.w.Guard.Allowed = true
	w.step()
	if r := w.m.Restarts(); r.Live || !r.Last.Equal(w.now) {
		t.Errorf("restarted once more: %+v, want that it was not live since", r)
	}
}

func TestARestartOfTheAgentLeavesWhatWasToldOfAHeldRestart(t *testing.T) {
	w := guarded(t, pod.Guard{On: true, Holding: true}, spec.Liveness)
	w.verdict("web", spec.Liveness, spec.ResultFailure)
	w.step()
	w.after(time.Minute)
	w.restart()
	statuses := w.statuses
	w.step()
	if w.statuses != statuses || heldCondition(w) != "True TooManyFail" {
		t.Errorf("%d changes of the status, condition %q", w.statuses-statuses, heldCondition(w))
	}
	w.verdict("web", spec.Liveness, spec.ResultSuccess)
	w.step()
	if heldCondition(w) != "False " {
		t.Errorf("when it succeeds the condition is %q", heldCondition(w))
	}
}

func TestTakingTheAllowanceBackEndsNoRestartThatHasBegun(t *testing.T) {
	w := guarded(t, pod.Guard{On: true, Allowed: true}, spec.Liveness)
	w.hold[pod.StopContainer] = true
	w.verdict("web", spec.Liveness, spec.ResultFailure)
	w.step()
	at := w.now
	w.w.Guard.Allowed = false
	w.now = w.now.Add(time.Second)
	w.step()
	if r := w.m.Restarts(); !r.Held.IsZero() || !r.Last.Equal(at) || len(w.held) != 1 {
		t.Errorf("%+v, stops %v", r, w.held)
	}
	w.hold = map[pod.ActionKind]bool{}
	w.finish(w.held[0])
	w.step()
	if len(w.starts) != 2 {
		t.Error("not started again")
	}
}

func TestTheGuardHoldsNoCrashNoStartupAndNoDeletion(t *testing.T) {
	for name, end := range map[string]func(w *world){
		"a crash":             func(w *world) { w.exit("web", 1) },
		"a failing startup":   func(w *world) { w.verdict("web", spec.Startup, spec.ResultFailure) },
		"a crash while held":  func(w *world) { w.verdict("web", spec.Liveness, spec.ResultFailure); w.step(); w.exit("web", 1) },
		"an end by a success": func(w *world) { w.exit("web", 0) },
	} {
		w := guarded(t, pod.Guard{On: true, Holding: true}, spec.Liveness, spec.Startup)
		end(w)
		w.step()
		if len(w.starts) != 2 || !w.m.Restarts().Last.IsZero() {
			t.Errorf("%s: %d starts, %+v", name, len(w.starts), w.m.Restarts())
		}
	}
	w := guarded(t, pod.Guard{On: true, Holding: true}, spec.Liveness)
	w.verdict("web", spec.Liveness, spec.ResultFailure)
	w.step()
	w.w.Pod.DeleteTime, w.w.Pod.DeleteGrace = w.now, time.Second
	w.step()
	if !w.plan.Stopped || !w.m.Restarts().Held.IsZero() {
		t.Errorf("deleted while held: stopped %v, %+v", w.plan.Stopped, w.m.Restarts())
	}
}

// Two machines see the same; one has a guard that allows, or is off with more said. Nothing else may differ.
func TestAGuardThatIsOffChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var worlds []*world
		for _, g := range []pod.Guard{{}, {Holding: true}, {Holding: true, Allowed: true}} {
			w := newWorld(t, onePod(withProbes(spec.Liveness, spec.Readiness), withContainer("other")))
			w.w.Guard = g
			w.step()
			worlds = append(worlds, w)
		}
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			kind := rapid.SampledFrom([]spec.ProbeKind{spec.Liveness, spec.Readiness}).Draw(t, "kind")
			verdict := rapid.SampledFrom([]spec.Result{spec.ResultSuccess, spec.ResultFailure}).Draw(t, "verdict")
			wait := time.Duration(rapid.Int64Range(0, int64(40*time.Second)).Draw(t, "wait"))
			for _, w := range worlds {
				if in := w.instance("web"); in != nil && in.Running {
					w.verdict("web", kind, verdict)
				}
				w.after(wait)
			}
		}
		for _, w := range worlds[1:] {
			if !slices.Equal(w.actions, worlds[0].actions) || !slices.Equal(w.events, worlds[0].events) || w.triggers != worlds[0].triggers ||
				!slices.EqualFunc(w.starts, worlds[0].starts, time.Time.Equal) || w.statuses != worlds[0].statuses {
				t.Fatalf("%v\nwithout a word of a guard %v", w.actions, worlds[0].actions)
			}
		}
	})
}
