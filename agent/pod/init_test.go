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

// withInit adds init containers; a name that ends in + is a sidecar.
func withInit(names ...string) func(*spec.Pod, *spec.Container) {
	return func(p *spec.Pod, _ *spec.Container) {
		for _, name := range names {
			c := spec.Container{Name: strings.TrimSuffix(name, "+"), Command: []string{"x"}}
			if c.Name != name {
				c.RestartPolicy = spec.RestartAlways
			}
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		}
	}
}

// sidecarProbe gives the init container at i a probe.
func sidecarProbe(i int, kind spec.ProbeKind) func(*spec.Pod, *spec.Container) {
	return func(p *spec.Pod, _ *spec.Container) {
		donor := onePod(withProbes(kind)).Spec.Containers[0]
		c := &p.Spec.InitContainers[i]
		c.Liveness, c.Readiness, c.Startup = donor.Liveness, donor.Readiness, donor.Startup
	}
}

func (w *world) wantActions(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(w.actions, want) {
		t.Errorf("actions\n%q, want\n%q", w.actions, want)
	}
	w.actions = nil
}

// Rules 9.1, 7.3 and 7.7 row 2.
func TestInitContainersRunOneAfterTheOtherBeforeTheRest(t *testing.T) {
	w := newWorld(t, onePod(withInit("a", "b"), withContainer("log")))
	w.step()
	w.wantActions(t, "ensure sandbox", "start container a")
	initialized := condition(w.plan.Status, spec.ConditionInitialized)
	if w.plan.Status.Phase != spec.PhasePending || initialized.Status != spec.ConditionFalse || initialized.Reason != "ContainersNotInitialized" ||
		initialized.Message != "containers with incomplete status: [a b]" {
		t.Errorf("phase %s, Initialized %+v", w.plan.Status.Phase, initialized)
	}
	if s := w.status("web"); s.State.Waiting == nil || s.State.Waiting.Reason != "PodInitializing" {
		t.Errorf("web waits as %+v", s.State)
	}
	w.exit("a", 0)
	w.step()
	w.wantActions(t, "start container b")
	if got := condition(w.plan.Status, spec.ConditionInitialized).Message; got != "containers with incomplete status: [b]" {
		t.Errorf("message %q", got)
	}
	if a := w.plan.Status.Container("a"); !a.Ready || a.State.Terminated == nil {
		t.Errorf("a completed, and is told as %+v", a)
	}
	w.exit("b", 0)
	w.step()
	w.wantActions(t, "start container web", "start container log")
	if s := w.plan.Status; s.Phase != spec.PhaseRunning || !s.Ready() || condition(s, spec.ConditionInitialized).Status != spec.ConditionTrue {
		t.Errorf("status %+v", s)
	}
	w.exit("web", 1) // a restart of a regular container initializes nothing anew
	w.step()
	w.wantActions(t, "start container web")
}

// Rules 9.4, 7.7 row 1 and 7.8.
func TestFailedInitContainerIsTriedAgainUnlessThePolicyIsNever(t *testing.T) {
	w := newWorld(t, onePod(withInit("a"), withPolicy(spec.RestartOnFailure)))
	w.step()
	w.exit("a", 7)
	w.step()
	w.exit("a", 7)
	w.step()
	a := w.plan.Status.Container("a")
	if w.plan.Status.Phase != spec.PhasePending || a.State.Waiting == nil || a.State.Waiting.Reason != "CrashLoopBackOff" || a.Restarts != 1 {
		t.Errorf("phase %s, a %+v", w.plan.Status.Phase, a)
	}
	w.after(11 * time.Second)
	if got := w.starts[2].Sub(w.ends[idOf(w, "a", 1)]); got < pod.BackoffFirst {
		t.Errorf("third start after %v, want %v at least", got, pod.BackoffFirst)
	}
	w.exit("a", 0)
	w.step()
	if w.plan.Status.Phase != spec.PhaseRunning {
		t.Errorf("phase %s after the init container completed", w.plan.Status.Phase)
	}

	w = newWorld(t, onePod(withInit("s+", "a"), withPolicy(spec.RestartNever)))
	w.step()
	w.exit("a", 7)
	w.actions = nil
	w.hold[pod.StopContainer] = true
	w.step()
	if w.plan.Status.Phase != spec.PhasePending {
		t.Errorf("phase %s while the sidecar still runs, want Pending", w.plan.Status.Phase)
	}
	w.finish(w.held[0])
	w.step()
	w.wantActions(t, "stop container s")
	if w.plan.Status.Phase != spec.PhaseFailed || w.instance("web") != nil {
		t.Errorf("phase %s, web %+v", w.plan.Status.Phase, w.instance("web"))
	}
}

// idOf is the id of an earlier instance, by its end.
func idOf(w *world, name string, attempt int) string {
	for id := range w.ends {
		if strings.Contains(id, "/"+name+"/"+string(rune('0'+attempt))+"-") {
			return id
		}
	}
	w.t.Fatalf("no end of %s/%d", name, attempt)
	return ""
}

// Rule 9.1 for sidecars: running is enough, unless there is a startup probe; readiness holds nothing back.
func TestSidecarLetsTheNextStartOnceItHasStarted(t *testing.T) {
	w := newWorld(t, onePod(withInit("s+", "a"), sidecarProbe(0, spec.Startup)))
	w.step()
	w.wantActions(t, "ensure sandbox", "start container s")
	w.verdict("s", spec.Startup, spec.ResultSuccess)
	w.step()
	w.wantActions(t, "start container a")
	w.exit("a", 0)
	w.step()
	w.wantActions(t, "start container web")

	w = newWorld(t, onePod(withInit("s+"), sidecarProbe(0, spec.Readiness)))
	w.step()
	w.wantActions(t, "ensure sandbox", "start container s", "start container web")
	// Rule 9.3: its readiness counts for the pod's.
	ready := condition(w.plan.Status, spec.ConditionContainersReady)
	if ready.Status != spec.ConditionFalse || ready.Message != "containers with unready status: [s]" {
		t.Errorf("ContainersReady %+v", ready)
	}
	w.verdict("s", spec.Readiness, spec.ResultSuccess)
	if w.step(); !w.plan.Status.Ready() {
		t.Errorf("not ready: %+v", w.plan.Status.Conditions)
	}
}

// Rule 9.2.
func TestSidecarIsRestartedWhateverThePolicy(t *testing.T) {
	w := newWorld(t, onePod(withInit("s+"), sidecarProbe(0, spec.Liveness), withPolicy(spec.RestartNever)))
	w.step()
	w.actions = nil
	w.exit("s", 0)
	w.step()
	w.wantActions(t, "start container s")
	if c := condition(w.plan.Status, spec.ConditionInitialized); c.Status != spec.ConditionTrue {
		t.Errorf("a restarting sidecar has undone Initialized: %+v", c)
	}
	w.verdict("s", spec.Liveness, spec.ResultFailure)
	w.step()
	wantEvent(t, w, "Normal Killing s Init container s failed liveness probe")
	w.after(time.Minute)
	w.wantActions(t, "stop container s", "start container s")
	if w.plan.Status.Phase != spec.PhaseRunning {
		t.Errorf("phase %s", w.plan.Status.Phase)
	}
}

// Rules 9.3 and 10.4.
func TestSidecarsEndInReverseOnceTheRegularContainersHave(t *testing.T) {
	w := newWorld(t, onePod(withInit("s+", "z+"), withPolicy(spec.RestartNever)))
	w.step()
	w.actions = nil
	w.exit("web", 0)
	w.step()
	w.wantActions(t, "stop container z", "stop container s")
	if w.plan.Status.Phase != spec.PhaseSucceeded {
		t.Errorf("phase %s", w.plan.Status.Phase)
	}
	w.after(time.Hour)
	w.wantActions(t)

	w = newWorld(t, onePod(withInit("s+", "z+")))
	w.step()
	w.actions, w.term = nil, -1 // nothing heeds SIGTERM
	w.w.Pod = w.w.Pod.Clone()
	w.w.Pod.DeleteTime, w.w.Pod.DeleteGrace = w.now, 10*time.Second
	w.after(time.Minute)
	w.wantActions(t, "stop container web", "stop container z", "stop container s", "remove sandbox")
	if want := []time.Duration{10 * time.Second, pod.MinGrace, pod.MinGrace}; !slices.Equal(w.grace, want) || !w.plan.Stopped {
		t.Errorf("graces %v, want %v; stopped %v", w.grace, want, w.plan.Stopped)
	}
}

func TestNewSandboxIsInitializedAnewWithoutBackOff(t *testing.T) {
	w := newWorld(t, onePod(withInit("a", "s+")))
	w.step()
	w.exit("a", 0)
	w.step()
	w.restart() // of the agent: what is done stays done
	w.actions = nil
	w.after(time.Second)
	w.wantActions(t)
	for _, name := range []string{"s", "web"} {
		w.exit(name, 137)
		w.instance(name).Reason = pod.ReasonSupervisorDied
	}
	w.s.Dead, w.s.DeadReason = true, pod.ReasonSupervisorDied
	w.step()
	w.wantActions(t, "remove sandbox", "ensure sandbox", "start container a")
	if w.plan.Status.Phase != spec.PhasePending {
		t.Errorf("phase %s while the new sandbox is initialized", w.plan.Status.Phase)
	}
	w.exit("a", 0)
	w.step()
	w.wantActions(t, "start container s", "start container web")
}

// Whatever happens to it, a pod's regular containers never run in a sandbox in which the plain init containers have not
// completed, and nothing runs once its phase is final.
func TestNothingRunsBeforeItsTurn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy := rapid.SampledFrom([]spec.RestartPolicy{spec.RestartAlways, spec.RestartOnFailure, spec.RestartNever}).Draw(t, "policy")
		inits := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "s+", "z+"}), 1, 4, strings.Clone).Draw(t, "inits")
		w := newWorld(t, onePod(withInit(inits...), withContainer("log"), withPolicy(policy)))
		completed := map[string]bool{} // in this sandbox
		sandbox, begun := time.Time{}, false
		check := func() {
			if !w.s.CreatedAt.Equal(sandbox) {
				sandbox, begun = w.s.CreatedAt, false
				clear(completed)
			}
			held := ""
			for _, c := range w.w.Pod.Spec.InitContainers {
				in := w.instance(c.Name)
				if in != nil && held != "" && !begun {
					t.Fatalf("%s was started before %s let it", c.Name, held)
				}
				if in != nil && !in.Running && in.ExitCode == 0 {
					completed[c.Name] = true
				}
				if held == "" && (!c.Sidecar() && !completed[c.Name] || c.Sidecar() && in == nil) {
					held = c.Name
				}
			}
			for _, name := range []string{"web", "log"} {
				if w.instance(name) != nil {
					if begun = true; held != "" && !slices.Contains(inits, held+"+") {
						t.Fatalf("%s was started before %s completed", name, held)
					}
				}
			}
			if w.plan.Status.Phase.Final() {
				for _, in := range w.s.Instances {
					if in.Running {
						t.Fatalf("%s runs in a pod that is %s", in.Name, w.plan.Status.Phase)
					}
				}
			}
		}
		w.step()
		check()
		for range rapid.IntRange(1, 30).Draw(t, "events") {
			var running []string
			for _, in := range w.s.Instances {
				if in.Running {
					running = append(running, in.Name)
				}
			}
			switch what := rapid.SampledFrom([]string{"exit", "exit", "exit", "time", "agent", "supervisor"}).Draw(t, "what"); {
			case what == "exit" && len(running) > 0 && !w.s.Dead:
				w.exit(rapid.SampledFrom(running).Draw(t, "container"), rapid.SampledFrom([]int32{0, 0, 1}).Draw(t, "code"))
			case what == "agent":
				w.restart()
			case what == "supervisor" && w.s.Exists && !w.plan.Status.Phase.Final():
				for _, name := range running {
					w.exit(name, 137)
					w.instance(name).Reason = pod.ReasonSupervisorDied
				}
				w.s.Dead, w.s.DeadReason = true, pod.ReasonSupervisorDied
			}
			w.after(time.Duration(rapid.IntRange(0, 400).Draw(t, "seconds")) * time.Second)
			check()
		}
		w.w.Stop = true
		if w.after(10 * time.Minute); !w.plan.Stopped {
			t.Fatalf("not stopped in the end: %v", w.actions)
		}
	})
}
