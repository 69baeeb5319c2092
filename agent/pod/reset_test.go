package pod_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/internal/spec"
)

// resetOn has the container web restart all containers when it exits with one of the codes.
func resetOn(codes ...int32) func(*spec.Pod, *spec.Container) {
	return func(_ *spec.Pod, c *spec.Container) {
		c.RestartPolicy = spec.RestartNever
		c.RestartRules = append(c.RestartRules, spec.RestartRule{Action: spec.ActionRestartAll, In: true, ExitCodes: codes})
	}
}

func withPreStopOn(name string) func(*spec.Pod, *spec.Container) {
	return func(p *spec.Pod, _ *spec.Container) {
		for _, c := range p.Spec.AllContainers() {
			if c.Name == name {
				withPreStop(p, c)
			}
		}
	}
}

// Rule 8.4, RestartAllContainers.
func TestAnExitThatRestartsAllContainersBeginsAtTheFirstInitContainerInTheSameSandbox(t *testing.T) {
	w := newWorld(t, onePod(withInit("a", "side+"), withContainer("b"), withPolicy(spec.RestartNever), resetOn(88), withPreStopOn("b")))
	w.step()
	w.exit("a", 0)
	w.step()
	w.wantActions(t, "ensure sandbox", "start container a", "start container side", "start container web", "start container b")
	w.hold[pod.StopContainer] = true
	w.exit("web", 88)
	w.step()
	w.wantActions(t, "stop container side", "stop container b")
	for _, a := range w.held {
		if a.Grace != pod.MinGrace || a.PreStop {
			t.Errorf("8.4 %s ends with grace %v, its hook %v; want the least and none", a.Container, a.Grace, a.PreStop)
		}
	}
	wantEvent(t, w, "Normal Killing b killing")
	restarting := condition(w.plan.Status, "AllContainersRestarting")
	if restarting.Status != spec.ConditionTrue || restarting.Reason != "RestartAllContainersStarted" || w.plan.Status.Phase.Final() {
		t.Errorf("phase %s, condition %+v", w.plan.Status.Phase, restarting)
	}
	if s := w.status("web"); s.State.Waiting == nil || s.State.Waiting.Reason != "RestartingAllContainers" || s.Last.Terminated.ExitCode != 88 {
		t.Errorf("web is told as %+v", s)
	}

	w.hold = map[pod.ActionKind]bool{}
	w.finish(w.held[0])
	w.step()
	w.wantActions(t) // nothing starts while anything of the old round runs
	w.finish(w.held[1])
	w.step()
	w.wantActions(t, "start container a")
	if c := condition(w.plan.Status, spec.ConditionInitialized); c.Status != spec.ConditionTrue {
		t.Errorf("what was initialized is not any more: %+v", c)
	}
	if c := condition(w.plan.Status, "AllContainersRestarting"); c.Status != spec.ConditionFalse {
		t.Errorf("it is over: %+v", c)
	}
	w.exit("a", 0)
	w.step()
	w.wantActions(t, "start container side", "start container web", "start container b")
	for _, name := range []string{"a", "side", "web", "b"} {
		if got := w.plan.Status.Container(name); got.Restarts != 1 {
			t.Errorf("%s has restarted %d times, want 1", name, got.Restarts)
		}
	}
	if b := w.status("b").Last.Terminated; b.Reason != "RestartingAllContainers" {
		t.Errorf("b ended as %+v", b)
	}
	if s := w.plan.Status; !s.Ready() || s.Phase != spec.PhaseRunning {
		t.Errorf("%s, ready %v", s.Phase, s.Ready())
	}
}

func TestOnlyTheContainerThatAskedWaitsOutABackOff(t *testing.T) {
	w := newWorld(t, onePod(withContainer("b"), withPolicy(spec.RestartNever), resetOn(88)))
	w.step()
	for range 2 {
		w.exit("web", 88)
		w.step()
	}
	w.wantActions(t, "ensure sandbox", "start container web", "start container b",
		"stop container b", "start container web", "start container b", "stop container b", "start container b")
	if s := w.status("web"); s.State.Waiting == nil || s.State.Waiting.Reason != "CrashLoopBackOff" {
		t.Errorf("web is told as %+v", s.State)
	}
	w.after(pod.BackoffFirst)
	w.wantActions(t, "start container web")
}

func TestTheFirstRuleThatMatchesAnExitDecides(t *testing.T) {
	first := func(_ *spec.Pod, c *spec.Container) {
		c.RestartRules = append(c.RestartRules, spec.RestartRule{Action: spec.ActionRestart, In: true, ExitCodes: []int32{88}})
	}
	w := newWorld(t, onePod(withContainer("b"), withPolicy(spec.RestartNever), first, resetOn(88, 89)))
	w.step()
	w.actions = nil
	w.exit("web", 88)
	w.step()
	w.wantActions(t, "start container web")
	w.exit("web", 89)
	w.step()
	w.wantActions(t, "stop container b", "start container b")
	w.after(pod.BackoffFirst)
	w.actions = nil
	w.exit("web", 1) // none matches, and the policy is Never
	w.exit("b", 0)
	w.after(time.Minute)
	w.wantActions(t)
	if w.plan.Status.Phase != spec.PhaseFailed {
		t.Errorf("phase %s", w.plan.Status.Phase)
	}
}

func TestAnExitWhileAContainerIsBeingStartedEndsThatOne(t *testing.T) {
	w := newWorld(t, onePod(withContainer("b"), withPolicy(spec.RestartNever), resetOn(88)))
	w.step()
	w.exit("b", 0)
	w.step()
	w.w.Pod.Spec.Containers[1].RestartPolicy = spec.RestartAlways
	w.hold[pod.StartContainer] = true
	w.step()
	w.exit("web", 88)
	w.step()
	w.hold = map[pod.ActionKind]bool{}
	w.actions = nil
	w.finish(w.held[0])
	w.step()
	w.wantActions(t, "stop container b", "start container web", "start container b")
}

func TestARestartOfAllContainersSurvivesTheAgentsAndYieldsToDeletion(t *testing.T) {
	w := newWorld(t, onePod(withInit("a"), withContainer("b"), withPolicy(spec.RestartNever), resetOn(88)))
	w.step()
	w.exit("a", 0)
	w.step()
	w.hold[pod.StopContainer] = true
	w.exit("web", 88)
	w.step()
	w.restart()
	w.hold, w.actions = map[pod.ActionKind]bool{}, nil
	w.step()
	w.wantActions(t, "stop container b", "start container a")
	w.w.Pod.DeleteTime, w.w.Pod.DeleteGrace = w.now, time.Second
	w.after(time.Minute)
	if !w.plan.Stopped || slices.Contains(w.actions, "start container web") {
		t.Errorf("stopped %v after %v", w.plan.Stopped, w.actions)
	}
}

// Whatever exits when, a regular container starts only after the init container of the same round has completed.
func TestNoRoundOfAPodsContainersOvertakesItsInitContainer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, onePod(withInit("a"), withContainer("b"), withPolicy(spec.RestartOnFailure), resetOn(88)))
		reset := w.w.Pod.Spec.Containers[0]
		w.w.Pod.Spec.InitContainers[0].RestartPolicy, w.w.Pod.Spec.InitContainers[0].RestartRules = spec.RestartNever, reset.RestartRules
		completed, rounds := false, 0
		for range rapid.IntRange(1, 30).Draw(t, "events") {
			before := len(w.actions)
			w.after(time.Duration(rapid.IntRange(0, 400).Draw(t, "seconds")) * time.Second)
			for _, a := range w.actions[before:] {
				if (a == "start container web" || a == "start container b") && !completed {
					t.Fatalf("%s, and the init container has not completed: %v", a, w.actions)
				}
			}
			name := rapid.SampledFrom([]string{"a", "web", "b"}).Draw(t, "container")
			if in := w.instance(name); in == nil || !in.Running {
				continue
			}
			code := rapid.SampledFrom([]int32{0, 88}).Draw(t, "code")
			w.exit(name, code)
			switch {
			case code == 88 && name != "b":
				completed = false
				rounds++
			case name == "a":
				completed = true
			}
			if rapid.Bool().Draw(t, "agent") {
				w.restart()
			}
		}
		w.after(20 * time.Minute)
		if a := w.instance("a"); rounds > 0 && !w.plan.Status.Phase.Final() && a.Attempt == 0 {
			t.Fatalf("%d times all were to restart, the init container ran once", rounds)
		}
	})
}
