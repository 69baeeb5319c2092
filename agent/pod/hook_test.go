package pod_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/internal/spec"
)

func withPostStart(_ *spec.Pod, c *spec.Container) {
	c.PostStart = &spec.Hook{Sleep: &spec.SleepAction{}}
}

func withPreStop(_ *spec.Pod, c *spec.Container) { c.PreStop = &spec.Hook{Sleep: &spec.SleepAction{}} }

// stops are the actions that stop containers, as they are held.
func (w *world) stops() (all []pod.Action) {
	for _, a := range w.held {
		if a.Kind == pod.StopContainer {
			all = append(all, a)
		}
	}
	return all
}

// Rule 5.3.4.
func TestUntilItsPostStartHookHasEndedAContainerHasNotStarted(t *testing.T) {
	w := newWorld(t, onePod(withPostStart, withProbes(spec.Liveness, spec.Readiness, spec.Startup), withContainer("log")))
	w.hold[pod.RunPostStart] = true
	w.step()
	if want := []string{"ensure sandbox", "start container web", "run postStart hook web"}; !slices.Equal(w.actions, want) {
		t.Fatalf("actions %q, want %q", w.actions, want)
	}
	if s := w.status("web"); s.Started || s.Ready || s.State.Running == nil || len(w.plan.Probes) != 0 {
		t.Errorf("meanwhile: %+v, probes %v", s, w.plan.Probes)
	}
	if w.after(time.Hour); len(w.held) != 1 {
		t.Errorf("%d hooks under way", len(w.held))
	}
	w.finish(w.held[0])
	w.step()
	if !slices.Contains(w.actions, "start container log") || len(w.plan.Probes) != 3 {
		t.Errorf("actions %q, probes %v", w.actions, w.plan.Probes)
	}
	if row := w.plan.Probes[0]; !row.StartedAt.Equal(epoch) {
		t.Errorf("the initial delay counts from %v, want the start of the container", row.StartedAt)
	}
	for _, kind := range []spec.ProbeKind{spec.Startup, spec.Readiness} {
		w.verdict("web", kind, spec.ResultSuccess)
	}
	if w.step(); !w.plan.Status.Ready() {
		t.Error("never ready")
	}
	w.exit("web", 1)
	w.after(time.Minute)
	if n := len(w.held); n != 2 {
		t.Errorf("%d hooks, want one for each instance", n)
	}
}

func TestAContainerWhosePostStartHookFailsIsKilledAndRestartedByItsPolicy(t *testing.T) {
	for policy, restarted := range map[spec.RestartPolicy]bool{spec.RestartAlways: true, spec.RestartOnFailure: true, spec.RestartNever: false} {
		t.Run(string(policy), func(t *testing.T) {
			w := newWorld(t, onePod(withPostStart, withPolicy(policy), withContainer("log")))
			w.fail[pod.RunPostStart] = pod.Result{Failure: pod.Other, Text: "a secret"}
			w.step()
			wantEvent(t, w, "Warning FailedPostStartHook web PostStartHook failed")
			wantEvent(t, w, "Normal Killing web FailedPostStartHook")
			if w.hasEvent("a secret") || w.grace[0] != 30*time.Second {
				t.Errorf("events %q, grace %v", w.events, w.grace)
			}
			if w.instance("log") == nil || !slices.Contains(w.actions, "stop container web") {
				t.Errorf("the next one waits, or the failed one goes on: %q", w.actions)
			}
			w.after(time.Minute)
			if got := w.instance("web").Running; got != restarted {
				t.Errorf("runs again: %v, want %v", got, restarted)
			}
			if restarted && !w.status("web").Started {
				t.Error("the next instance's hook did not count")
			}
		})
	}
}

func TestARestartOfTheAgentNeitherForgetsNorRepeatsAPostStartHook(t *testing.T) {
	w := newWorld(t, onePod(withPostStart))
	w.step()
	w.restart()
	w.step()
	if n := strings.Count(strings.Join(w.actions, "\n"), "postStart"); n != 1 || !w.status("web").Started {
		t.Errorf("%d hooks, started %v", n, w.status("web").Started)
	}
	w = newWorld(t, onePod(withPostStart))
	w.hold[pod.RunPostStart] = true
	w.step()
	w.restart()
	w.hold[pod.RunPostStart] = false
	if w.step(); !w.status("web").Started || strings.Count(strings.Join(w.actions, "\n"), "postStart") != 2 {
		t.Errorf("one that was under way was not done again: %q", w.actions)
	}
	w = newWorld(t, onePod(withPostStart))
	w.fail[pod.RunPostStart] = pod.Result{Failure: pod.Other}
	w.hold[pod.StopContainer] = true
	w.step()
	w.restart()
	if w.step(); len(w.stops()) != 1 {
		t.Errorf("one that failed before it kills nothing after it: %q", w.actions)
	}
}

func TestAPostStartHookOfAnInstanceThatHasGoneSaysNothing(t *testing.T) {
	w := newWorld(t, onePod(withPostStart))
	w.hold[pod.RunPostStart] = true
	w.step()
	w.exit("web", 1)
	w.after(time.Minute) // the next instance waits for the hook's action to end
	w.m.Done(w.now, w.w, w.held[0].Seq, pod.Result{Failure: pod.Other})
	w.step()
	if w.hasEvent("FailedPostStartHook") || len(w.held) != 2 || !w.instance("web").Running {
		t.Errorf("events %q, held %v", w.events, w.held)
	}
	w.w.Stop = true
	w.step()
	w.m.Done(w.now, w.w, w.held[1].Seq, pod.Result{Failure: pod.Other})
	if w.step(); w.hasEvent("FailedPostStartHook") || !w.plan.Stopped {
		t.Errorf("stopped %v, events %q", w.plan.Stopped, w.events)
	}
}

// Rule 8.2.
func TestAPreStopHookIsDoneOnceForEachInstanceThatIsStopped(t *testing.T) {
	deleted := func(grace time.Duration) func(*world) {
		return func(w *world) { w.w.Pod.DeleteTime, w.w.Pod.DeleteGrace = w.now, grace }
	}
	for name, tt := range map[string]struct {
		do   func(*world)
		hook bool
	}{
		"deleted":             {deleted(30 * time.Second), true},
		"deleted at once":     {deleted(0), false},
		"moved":               {func(w *world) { w.w.Stop = true }, true},
		"killed by liveness":  {func(w *world) { w.verdict("web", spec.Liveness, spec.ResultFailure) }, true},
		"evicted":             {func(w *world) { w.m.Evict("too much") }, true},
		"ended by itself":     {func(w *world) { w.exit("web", 1) }, false},
		"without such a hook": {func(w *world) { w.w.Pod.Spec.Containers[0].PreStop = nil; w.w.Stop = true }, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, onePod(withPreStop, withProbes(spec.Liveness)))
			w.step()
			w.hold[pod.StopContainer] = true
			tt.do(w)
			w.step()
			if got := slices.ContainsFunc(w.stops(), func(a pod.Action) bool { return a.PreStop }); got != tt.hook {
				t.Errorf("hook %v, want %v: %+v", got, tt.hook, w.stops())
			}
		})
	}

	w := newWorld(t, onePod(withPreStop))
	w.step()
	w.hold[pod.StopContainer] = true
	deleted(time.Minute)(w)
	w.step()
	w.w.Pod.DeleteGrace = time.Second // the deletion is shortened
	w.step()
	if s := w.stops(); len(s) != 2 || !s[0].PreStop || s[1].PreStop || s[1].Grace != pod.MinGrace {
		t.Errorf("%+v", s)
	}
	w.m.Done(w.now, w.w, w.stops()[1].Seq, pod.Result{})
	w.m.Done(w.now, w.w, w.stops()[0].Seq, pod.Result{HookFailed: true})
	w.step()
	wantEvent(t, w, "Warning FailedPreStopHook web PreStopHook failed")
}
