package pod_test

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/internal/spec"
)

func condition(s spec.PodStatus, kind string) spec.Condition {
	if c := s.Condition(kind); c != nil {
		return *c
	}
	return spec.Condition{}
}

func TestPodComesUpInOrder(t *testing.T) {
	w := newWorld(t, onePod(withContainer("log")))
	w.step()
	if want := []string{"ensure sandbox", "start container web", "start container log"}; !slices.Equal(w.actions, want) {
		t.Errorf("actions %q, want %q", w.actions, want)
	}
	s := w.plan.Status
	if s.Phase != spec.PhaseRunning || !s.Ready() || s.PodIP != "127.77.1.1" || s.HostIP != "127.0.0.1" || !s.StartTime.Equal(epoch) {
		t.Errorf("status %+v", s)
	}
	var types []string
	for _, c := range s.Conditions {
		types = append(types, c.Type+"="+string(c.Status))
	}
	if want := []string{"PodScheduled=True", "PodReadyToStartContainers=True", "Initialized=True", "ContainersReady=True", "Ready=True"}; !slices.Equal(types, want) {
		t.Errorf("conditions %v, want %v", types, want)
	}
	wantEvent(t, w, "Normal Created web Container created")
	wantEvent(t, w, "Normal Started log Container started")
	n := w.statuses
	if w.after(time.Hour); w.statuses != n {
		t.Errorf("status changed %d times in a calm hour", w.statuses-n)
	}
}

// Rule 8.4, with 7.7 rows 5 to 7.
func TestExitIsAnsweredByPolicy(t *testing.T) {
	rules := func(in bool, codes ...int32) func(*spec.Pod, *spec.Container) {
		return func(_ *spec.Pod, c *spec.Container) {
			c.RestartPolicy, c.RestartRules = spec.RestartNever, []spec.RestartRule{{Action: "Restart", In: in, ExitCodes: codes}}
		}
	}
	own := func(r spec.RestartPolicy) func(*spec.Pod, *spec.Container) {
		return func(_ *spec.Pod, c *spec.Container) { c.RestartPolicy = r }
	}
	for name, tt := range map[string]struct {
		pod   *spec.Pod
		code  int32
		again bool
		phase spec.Phase
	}{
		"always, 0":                     {onePod(), 0, true, spec.PhaseRunning},
		"always, 1":                     {onePod(), 1, true, spec.PhaseRunning},
		"on failure, 0":                 {onePod(withPolicy(spec.RestartOnFailure)), 0, false, spec.PhaseSucceeded},
		"on failure, 1":                 {onePod(withPolicy(spec.RestartOnFailure)), 1, true, spec.PhaseRunning},
		"never, 0":                      {onePod(withPolicy(spec.RestartNever)), 0, false, spec.PhaseSucceeded},
		"never, 1":                      {onePod(withPolicy(spec.RestartNever)), 1, false, spec.PhaseFailed},
		"own always beats never":        {onePod(withPolicy(spec.RestartNever), own(spec.RestartAlways)), 0, true, spec.PhaseRunning},
		"own never beats always":        {onePod(own(spec.RestartNever)), 1, false, spec.PhaseFailed},
		"rule In matches":               {onePod(rules(true, 42)), 42, true, spec.PhaseRunning},
		"rule In does not match":        {onePod(rules(true, 42)), 41, false, spec.PhaseFailed},
		"rule NotIn matches":            {onePod(rules(false, 0)), 3, true, spec.PhaseRunning},
		"rules without policy are mute": {onePod(withPolicy(spec.RestartNever), rules(true, 42), own("")), 42, false, spec.PhaseFailed},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tt.pod)
			w.step()
			w.exit("web", tt.code)
			w.step()
			if again := len(w.starts) == 2; again != tt.again || w.plan.Status.Phase != tt.phase {
				t.Errorf("started again %v, phase %s; want %v, %s", again, w.plan.Status.Phase, tt.again, tt.phase)
			}
			c := w.status("web")
			if tt.again && (c.Restarts != 1 || c.Last.Terminated == nil || c.Last.Terminated.ExitCode != tt.code) {
				t.Errorf("status after the restart: %+v", c)
			}
			if !tt.again && (c.Restarts != 0 || c.State.Terminated == nil || len(w.plan.Probes) != 0) {
				t.Errorf("status after the end: %+v", c)
			}
			ready, want := condition(w.plan.Status, spec.ConditionReady), ""
			switch tt.phase {
			case spec.PhaseSucceeded:
				want = "PodCompleted"
			case spec.PhaseFailed:
				want = "PodFailed"
			}
			if ready.Reason != want {
				t.Errorf("Ready %+v, want reason %q", ready, want)
			}
		})
	}
}

// Rule 7.7 row 3, and 7.8.
func TestPhaseWithSeveralContainers(t *testing.T) {
	w := newWorld(t, onePod(withContainer("b"), withPolicy(spec.RestartNever)))
	w.hold[pod.StartContainer] = true
	w.step()
	first := w.held[0]
	w.finish(first)
	w.step()
	if w.plan.Status.Phase != spec.PhasePending {
		t.Errorf("phase %s while b has never run, want Pending", w.plan.Status.Phase)
	}
	w.finish(w.held[1])
	w.exit("web", 0)
	if w.step(); w.plan.Status.Phase != spec.PhaseRunning {
		t.Errorf("phase %s while b runs, want Running", w.plan.Status.Phase)
	}
	w.exit("b", 3)
	if w.step(); w.plan.Status.Phase != spec.PhaseFailed {
		t.Errorf("phase %s, want Failed: not all exited 0", w.plan.Status.Phase)
	}
	if w.removed != 0 {
		t.Error("the sandbox of a finished pod was removed: its logs are gone")
	}
}

// Rule 8.5.
func TestRestartDelaysDouble(t *testing.T) {
	w := newWorld(t, onePod())
	w.step()
	var delays []time.Duration
	for i := range 9 {
		w.now = w.now.Add(time.Second)
		w.exit("web", 1)
		at := w.now
		w.step()
		if i == 1 {
			c := w.status("web")
			if c.State.Waiting == nil || c.State.Waiting.Reason != "CrashLoopBackOff" ||
				c.State.Waiting.Message != "back-off 10s restarting failed container=web pod=web_default(u1)" ||
				c.Last.Terminated == nil || c.Last.Terminated.ExitCode != 1 || c.Restarts != 1 || w.plan.Status.Phase != spec.PhaseRunning {
				t.Errorf("status while waiting: %+v %+v phase %s", c, c.State.Waiting, w.plan.Status.Phase)
			}
			wantEvent(t, w, "Warning BackOff web Back-off restarting failed container web in pod web_default(u1)")
		}
		w.after(301 * time.Second)
		delays = append(delays, w.starts[len(w.starts)-1].Sub(at))
		w.now = w.starts[len(w.starts)-1]
	}
	want := []time.Duration{0, 10, 20, 40, 80, 160, 300, 300, 300}
	for i := range want {
		want[i] *= time.Second
	}
	if !slices.Equal(delays, want) {
		t.Errorf("delays %v, want %v", delays, want)
	}
	// An instance that ran for over 10 minutes since the last restart makes the delays begin anew.
	w.after(10*time.Minute + time.Second)
	w.exit("web", 1)
	at := w.now
	w.step()
	w.exit("web", 1)
	w.step()
	w.after(time.Minute)
	if n := len(w.starts); !w.starts[n-2].Equal(at) || w.starts[n-1].Sub(at) != 10*time.Second {
		t.Errorf("after a long run: restarts %v and %v after the exit, want 0s and 10s", w.starts[n-2].Sub(at), w.starts[n-1].Sub(at))
	}
}

func TestBackoffHoldsOverRestartOfAgentAndClockJump(t *testing.T) {
	w := newWorld(t, onePod())
	w.step()
	for range 3 {
		w.exit("web", 1)
		w.after(time.Minute)
	}
	w.exit("web", 1)
	w.step()
	n := len(w.starts)
	w.restart()
	w.after(39 * time.Second)
	if len(w.starts) != n {
		t.Errorf("restarted %d times within 39 s of a 40 s back-off", len(w.starts)-n)
	}
	if w.after(time.Second); len(w.starts) != n+1 {
		t.Error("not restarted after the back-off")
	}
	// An end that lies in the future of a clock that was set back delays no longer than the back-off.
	in := w.instance("web")
	in.Running, in.FinishedAt, in.ExitCode = false, w.now.Add(time.Hour), 1
	w.step()
	if w.after(81 * time.Second); len(w.starts) != n+2 {
		t.Error("the clock's jump stretched the back-off")
	}
}

// Rules 8.1, 8.2 and 8.3.1, with the texts of section 12.
func TestProbeKills(t *testing.T) {
	grace := func(kind spec.ProbeKind, d time.Duration) func(*spec.Pod, *spec.Container) {
		return func(_ *spec.Pod, c *spec.Container) { c.Probe(kind).TerminationGrace = &d }
	}
	live, start := withProbes(spec.Liveness), withProbes(spec.Startup)
	for name, tt := range map[string]struct {
		pod   *spec.Pod
		kind  spec.ProbeKind
		code  int32
		event string
		grace time.Duration
		again bool
	}{
		"liveness": {onePod(live), spec.Liveness, 143, "Normal Killing web Container web failed liveness probe, will be restarted", 30 * time.Second, true},
		"startup":  {onePod(start), spec.Startup, 143, "Normal Killing web Container web failed startup probe, will be restarted", 30 * time.Second, true},
		"liveness, grace of the probe": {onePod(live, grace(spec.Liveness, 60*time.Second)), spec.Liveness, 143,
			"Normal Killing web Container web failed liveness probe, will be restarted", 60 * time.Second, true},
		"startup, grace of the probe": {onePod(start, grace(spec.Startup, 5*time.Second)), spec.Startup, 143,
			"Normal Killing web Container web failed startup probe, will be restarted", 5 * time.Second, true},
		"grace has a floor": {onePod(live, grace(spec.Liveness, time.Second)), spec.Liveness, 143,
			"Normal Killing web Container web failed liveness probe, will be restarted", 2 * time.Second, true},
		"on failure, although it exits 0": {onePod(live, withPolicy(spec.RestartOnFailure)), spec.Liveness, 0,
			"Normal Killing web Container web failed liveness probe, will be restarted", 30 * time.Second, true},
		"never, another container stays": {onePod(live, withContainer("b"), withPolicy(spec.RestartNever)), spec.Liveness, 143,
			"Normal Killing web Container web failed liveness probe", 30 * time.Second, false},
		"never, nothing stays": {onePod(live, grace(spec.Liveness, 60*time.Second), withPolicy(spec.RestartNever)), spec.Liveness, 143,
			"Normal Killing web Stopping container web", 30 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tt.pod)
			w.term = tt.code
			w.step()
			before := len(w.starts)
			w.verdict("web", tt.kind, spec.ResultFailure)
			w.step()
			wantEvent(t, w, tt.event)
			if len(w.grace) != 1 || w.grace[0] != tt.grace {
				t.Errorf("grace %v, want %v", w.grace, tt.grace)
			}
			if again := len(w.starts) > before; again != tt.again {
				t.Errorf("restarted %v, want %v", again, tt.again)
			}
		})
	}
}

// Unlike with the kubelet, the back-off sees the instance that was just killed, and an owed restart is not forgotten
// while it waits, nor by a restart of the agent.
func TestSecondProbeKillWaitsAndIsNotForgotten(t *testing.T) {
	w := newWorld(t, onePod(withProbes(spec.Liveness), withPolicy(spec.RestartOnFailure)))
	w.term = 0
	w.step()
	w.verdict("web", spec.Liveness, spec.ResultFailure)
	if w.step(); len(w.starts) != 2 {
		t.Fatal("the first kill's restart waits")
	}
	w.verdict("web", spec.Liveness, spec.ResultFailure)
	if w.step(); len(w.starts) != 2 {
		t.Fatal("the second kill's restart does not wait")
	}
	w.restart()
	w.step()
	if w.plan.Status.Phase != spec.PhaseRunning {
		t.Errorf("phase %s while a restart is owed", w.plan.Status.Phase)
	}
	if w.after(10 * time.Second); len(w.starts) != 3 {
		t.Error("the restart that was owed was forgotten")
	}
}

func TestVerdictOfAnOlderInstanceIsDropped(t *testing.T) {
	w := newWorld(t, onePod(withProbes(spec.Liveness)))
	w.step()
	old := w.instance("web").ID
	w.exit("web", 1)
	w.step()
	w.m.Probe(pod.ProbeNews{Container: "web", Kind: spec.Liveness, Instance: old, Outcome: spec.OutcomeFailure, Verdict: spec.ResultFailure})
	if w.step(); len(w.grace) != 0 || w.hasEvent("Unhealthy") {
		t.Errorf("killed for its predecessor: %v", w.events)
	}
}

// Rules 7.1, 7.1.1, 7.2, 7.5 and 5.4.3.
func TestStandingFollowsVerdicts(t *testing.T) {
	w := newWorld(t, onePod(withProbes(spec.Liveness, spec.Readiness, spec.Startup)))
	check := func(when string, started, ready bool) {
		t.Helper()
		w.step()
		if c := w.status("web"); c.Started != started || c.Ready != ready || w.plan.Status.Ready() != ready {
			t.Errorf("%s: started %v, ready %v, pod ready %v; want %v, %v", when, c.Started, c.Ready, w.plan.Status.Ready(), started, ready)
		}
	}
	check("new", false, false)
	if w.triggers != 0 {
		t.Errorf("%d triggers before it is started", w.triggers)
	}
	w.verdict("web", spec.Readiness, spec.ResultSuccess)
	check("ready before started", false, false)
	w.verdict("web", spec.Startup, spec.ResultSuccess)
	check("started", true, true)
	w.verdict("web", spec.Liveness, spec.ResultFailure)
	w.hold[pod.StopContainer] = true
	check("failing liveness leaves readiness alone (7.5)", true, true)
	w.hold[pod.StopContainer] = false
	w.finish(w.held[0])
	check("a new instance inherits nothing (7.1.1)", false, false)
	if got := w.plan.Status.Condition(spec.ConditionContainersReady); got.Reason != "ContainersNotReady" || got.Message != "containers with unready status: [web]" {
		t.Errorf("ContainersReady %+v", got)
	}
	for _, row := range w.plan.Probes {
		if row.Started || row.Adopted || !row.Running || row.Instance != w.instance("web").ID {
			t.Errorf("row %+v", row)
		}
	}
}

// Rules 5.5, 5.5.1 and 5.5.2: readiness is triggered by news while it is not ready, and not by time alone more than once a minute.
func TestReadinessIsTriggeredByNews(t *testing.T) {
	w := newWorld(t, onePod(withProbes(spec.Readiness)))
	w.step()
	if w.triggers == 0 {
		t.Fatal("not triggered at the start")
	}
	n := w.triggers
	for range 30 {
		w.now = w.now.Add(time.Second)
		w.step()
	}
	if w.triggers != n {
		t.Errorf("%d triggers without news", w.triggers-n)
	}
	if w.after(31 * time.Second); w.triggers != n+1 {
		t.Errorf("%d triggers in a minute, want 1", w.triggers-n)
	}
	w.verdict("web", spec.Readiness, spec.ResultSuccess)
	if w.step(); w.triggers != n+1 {
		t.Error("triggered while ready")
	}
	w.verdict("web", spec.Readiness, spec.ResultFailure)
	if w.step(); w.triggers != n+2 {
		t.Error("the turn to Failure did not trigger (5.5.2)")
	}
}

// Rules 5.1.6, 5.2.7, 10.1, 10.2 and 10.5, and 8.3 row 1.
func TestDeletionStopsAllAtOnceAndForGood(t *testing.T) {
	w := newWorld(t, onePod(withContainer("b"), withProbes(spec.Liveness, spec.Readiness, spec.Startup)))
	w.step()
	w.verdict("web", spec.Startup, spec.ResultSuccess)
	w.verdict("web", spec.Readiness, spec.ResultSuccess)
	w.step()
	w.hold[pod.StopContainer] = true
	deleted := *w.w.Pod
	deleted.DeleteTime, deleted.DeleteGrace = w.now, 12*time.Second
	w.w.Pod = &deleted
	w.step()
	if len(w.held) != 2 || !slices.Equal(w.grace, []time.Duration{12 * time.Second, 12 * time.Second}) {
		t.Fatalf("held %v with grace %v, want both at once with 12s", w.held, w.grace)
	}
	wantEvent(t, w, "Normal Killing web Stopping container web")
	wantEvent(t, w, "Normal Killing b Stopping container b")
	if len(w.plan.Probes) != 1 || w.plan.Probes[0].Kind != spec.Readiness {
		t.Errorf("rows %+v, want readiness alone (10.1)", w.plan.Probes)
	}
	if !w.plan.Status.Ready() {
		t.Error("deletion set Ready to False (10.2)")
	}
	w.verdict("web", spec.Readiness, spec.ResultFailure)
	if w.step(); w.plan.Status.Ready() {
		t.Error("readiness is not followed during termination")
	}
	shorter := deleted
	shorter.DeleteGrace = 0
	w.w.Pod = &shorter
	if w.step(); len(w.grace) != 4 || w.grace[2] != pod.MinGrace {
		t.Errorf("grace %v, want two more of 2s", w.grace)
	}
	w.hold[pod.StopContainer] = false
	w.term = 0
	for _, a := range w.held {
		w.finish(a)
	}
	w.step()
	if !w.plan.Stopped || w.removed != 1 || w.plan.Status.Phase != spec.PhaseSucceeded || len(w.starts) != 2 || len(w.plan.Probes) != 0 {
		t.Errorf("stopped %v, removed %d, phase %s, starts %d, rows %v", w.plan.Stopped, w.removed, w.plan.Status.Phase, len(w.starts), w.plan.Probes)
	}
	// Stopped is final, whatever is asked for afterwards.
	w.w.Pod, w.w.Stop = onePod(), false
	w.m.AssignedAnew()
	if w.after(time.Hour); len(w.starts) != 2 || !w.plan.Stopped {
		t.Error("a stopped pod was started again")
	}
}

// Rule 7.8: a deleted pod is Failed unless all exited 0; one that is moved keeps its phase.
func TestPhaseAfterAStop(t *testing.T) {
	for name, tt := range map[string]struct {
		deleted bool
		term    int32
		want    spec.Phase
	}{
		"deleted, 0":   {true, 0, spec.PhaseSucceeded},
		"deleted, 143": {true, 143, spec.PhaseFailed},
		"drained, 0":   {false, 0, spec.PhaseRunning},
		"drained, 143": {false, 143, spec.PhaseRunning},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, onePod(withPolicy(spec.RestartNever)))
			w.term = tt.term
			w.step()
			p := *w.w.Pod
			if tt.deleted {
				p.DeleteTime = w.now
			}
			w.w.Pod, w.w.Stop = &p, true
			w.step()
			if !w.plan.Stopped || w.plan.Status.Phase != tt.want {
				t.Errorf("stopped %v, phase %s; want %s", w.plan.Stopped, w.plan.Status.Phase, tt.want)
			}
		})
	}
}

func TestStopWaitsForAStartInFlight(t *testing.T) {
	w := newWorld(t, onePod())
	w.hold[pod.StartContainer] = true
	w.step()
	w.w.Stop = true
	if w.step(); w.plan.Stopped || w.removed != 0 {
		t.Fatal("stopped although a start is in flight")
	}
	w.hold[pod.StartContainer] = false
	w.finish(w.held[0])
	if w.step(); !w.plan.Stopped || len(w.grace) != 1 {
		t.Errorf("stopped %v, stops %d; want the late instance stopped first", w.plan.Stopped, len(w.grace))
	}
}

func TestStopWaitsForASandboxInTheMaking(t *testing.T) {
	w := newWorld(t, onePod())
	w.hold[pod.EnsureSandbox] = true
	w.step()
	w.w.Stop = true
	if w.step(); w.plan.Stopped {
		t.Fatal("stopped although a sandbox is being made")
	}
	w.hold[pod.EnsureSandbox] = false
	w.finish(w.held[0])
	if w.step(); !w.plan.Stopped || w.removed != 1 || len(w.starts) != 0 {
		t.Errorf("stopped %v, removed %d, starts %d", w.plan.Stopped, w.removed, len(w.starts))
	}
}

func TestInstanceThatCouldNotStartIsNotMistakenForTheOneBefore(t *testing.T) {
	w := newWorld(t, onePod())
	w.step()
	w.exit("web", 7)
	w.fail[pod.StartContainer] = pod.Result{Failure: pod.CannotStart, Text: "gone"}
	w.step() // the runtime still lists the instance before
	for range 3 {
		w.now = w.now.Add(time.Second)
		w.step()
		if c := w.status("web"); c.Restarts != 1 || c.Last.Terminated == nil || c.Last.Terminated.ExitCode != 128 || len(w.starts) != 1 {
			t.Fatalf("status %+v %+v, starts %d", c, c.Last.Terminated, len(w.starts))
		}
	}
	if w.after(10 * time.Second); w.status("web").Restarts != 2 || len(w.starts) != 2 {
		t.Errorf("restarts %d, want 2", w.status("web").Restarts)
	}
}

func TestSandboxThatOutlivedItsLeaseIsNotUsedAgain(t *testing.T) {
	w := newWorld(t, onePod())
	w.step()
	w.exit("web", 143)
	w.instance("web").Reason = pod.ReasonLeaseExpired // SIGTERM came, then the lease was extended
	w.after(time.Minute)
	w.m.AssignedAnew()
	if w.after(0); w.removed != 1 || len(w.starts) != 2 || w.plan.Fenced {
		t.Errorf("removed %d, starts %d, fenced %v; want it made anew", w.removed, len(w.starts), w.plan.Fenced)
	}
}

func TestStopThatHangsEndsWithTheSandbox(t *testing.T) {
	w := newWorld(t, onePod())
	w.step()
	w.hold[pod.StopContainer] = true
	w.w.Stop = true
	w.step()
	if w.after(34 * time.Second); w.removed != 0 {
		t.Error("removed before the grace and its slack were over")
	}
	if w.after(2 * time.Second); w.removed != 1 {
		t.Error("a hanging stop was waited for without end")
	}
	w.finish(w.held[0])
	if w.step(); !w.plan.Stopped {
		t.Error("not stopped")
	}
}

func TestNothingIsDecidedFromUnknownFacts(t *testing.T) {
	w := newWorld(t, onePod())
	w.s.Known = false
	w.w.Stop = true
	if w.step(); len(w.actions) != 0 || w.plan.Stopped {
		t.Errorf("actions %v, stopped %v without facts", w.actions, w.plan.Stopped)
	}
}

func TestLeaseStopIsNoExit(t *testing.T) {
	for _, policy := range []spec.RestartPolicy{spec.RestartAlways, spec.RestartNever} {
		t.Run(string(policy), func(t *testing.T) {
			w := newWorld(t, onePod(withPolicy(policy)))
			w.step()
			first := w.instance("web").ID
			w.exit("web", 137)
			w.instance("web").Reason = pod.ReasonLeaseExpired
			w.s.Dead, w.s.DeadReason = true, pod.ReasonLeaseExpired
			w.after(time.Hour)
			w.restart()
			w.after(time.Hour)
			c := w.status("web")
			if len(w.starts) != 1 || !w.plan.Fenced || w.plan.Stopped || w.plan.Status.Phase != spec.PhaseRunning {
				t.Fatalf("starts %d, fenced %v, stopped %v, phase %s", len(w.starts), w.plan.Fenced, w.plan.Stopped, w.plan.Status.Phase)
			}
			if c.Last.Terminated == nil || c.Last.Terminated.Reason != "LeaseExpired" || c.Last.Terminated.ID != first || c.State.Waiting == nil || c.Ready {
				t.Errorf("status %+v", c)
			}
			w.m.AssignedAnew()
			w.after(0)
			if len(w.starts) != 2 || w.removed != 1 || w.plan.Fenced {
				t.Errorf("assigned anew: starts %d, sandboxes removed %d, fenced %v", len(w.starts), w.removed, w.plan.Fenced)
			}
			if c := w.status("web"); c.Restarts != 1 || c.Last.Terminated.Reason != "LeaseExpired" || w.hasEvent("BackOff") {
				t.Errorf("status %+v", c)
			}
		})
	}
}

func TestFencedPodFromDiskMakesNoSandboxUntilAssigned(t *testing.T) {
	w := newWorld(t, onePod())
	w.step()
	mem := w.m.Memory()
	w.m = pod.New(w.w.Pod, &mem, nil, false)
	w.s = pod.Seen{Known: true} // the machine was rebooted
	w.actions = nil
	if w.after(time.Hour); len(w.actions) != 0 || w.plan.Stopped {
		t.Fatalf("%v from disk", w.actions)
	}
	w.m.AssignedAnew()
	if w.after(time.Minute); len(w.starts) != 2 {
		t.Error("not started after an assignment")
	}
}

func TestDeadSupervisorRebuildsThePodOnce(t *testing.T) {
	w := newWorld(t, onePod(withContainer("b")))
	w.step()
	w.s.Dead, w.s.DeadReason = true, pod.ReasonSupervisorDied // its instances still say that they run
	w.after(time.Minute)
	if len(w.starts) != 4 || w.removed != 1 {
		t.Errorf("starts %d, sandboxes removed %d; want 4 and 1", len(w.starts), w.removed)
	}
	c := w.status("web")
	if c.Restarts != 1 || c.Last.Terminated == nil || c.Last.Terminated.Reason != "SupervisorDied" || c.Last.Terminated.ExitCode != 137 {
		t.Errorf("status %+v", c)
	}
	wantEvent(t, w, "Warning SupervisorDied  The pod's supervisor died and its containers with it: its sandbox is made anew")
	w2 := newWorld(t, onePod(withPolicy(spec.RestartNever)))
	w2.step()
	w2.s.Dead, w2.s.DeadReason = true, pod.ReasonSupervisorDied
	if w2.after(time.Minute); len(w2.starts) != 1 || w2.plan.Status.Phase != spec.PhaseFailed {
		t.Errorf("policy Never: starts %d, phase %s", len(w2.starts), w2.plan.Status.Phase)
	}
}

// Section 11, and: a restart of the agent changes nothing that can be seen.
// Rules 11.1, 11.3 and 11.4.
func TestAgentRestartChangesNothing(t *testing.T) {
	w := newWorld(t, onePod(withContainer("b"), withProbes(spec.Liveness, spec.Readiness, spec.Startup)))
	w.step()
	w.exit("web", 1)
	w.step()
	w.verdict("web", spec.Startup, spec.ResultSuccess)
	w.verdict("web", spec.Readiness, spec.ResultSuccess)
	w.step()
	before, actions := w.plan.Status, len(w.actions)
	w.now = w.now.Add(time.Minute)
	w.restart()
	known := w.s.Known
	w.s.Known = false
	if w.step(); !reflect.DeepEqual(before, w.plan.Status) {
		t.Errorf("before facts came:\n%+v\nwas\n%+v", w.plan.Status, before)
	}
	w.s.Known = known
	if w.after(time.Hour); !reflect.DeepEqual(before, w.plan.Status) || w.plan.StatusChanged || len(w.actions) != actions {
		t.Errorf("after the restart:\n%+v\nwas\n%+v", w.plan.Status, before)
	}
	for _, row := range w.plan.Probes {
		if !row.Adopted || !row.Started {
			t.Errorf("row %+v, want it adopted and started", row)
		}
	}
	w.verdict("web", spec.Readiness, spec.ResultFailure)
	if w.step(); w.plan.Status.Ready() {
		t.Error("a verdict after the restart is not believed")
	}
	w.exit("web", 1)
	w.after(time.Minute)
	if c := w.status("web"); c.Restarts != 2 || c.Started || c.Ready {
		t.Errorf("the next instance: %+v", c)
	}
}

func TestVanishedInstanceCountsAsEnded(t *testing.T) {
	w := newWorld(t, onePod())
	w.step()
	w.s = pod.Seen{Known: true}
	w.after(time.Minute)
	c := w.status("web")
	if len(w.starts) != 2 || c.Restarts != 1 || c.Last.Terminated.Reason != pod.ReasonUnknown || c.Last.Terminated.ExitCode != 137 {
		t.Errorf("starts %d, status %+v", len(w.starts), c)
	}
}

func TestStartFailures(t *testing.T) {
	for name, tt := range map[string]struct {
		failure  pod.Failure
		policy   spec.RestartPolicy
		event    string
		phase    spec.Phase
		restarts int32
		waiting  string
		within   time.Duration
	}{
		"cannot start":        {pod.CannotStart, spec.RestartAlways, "Warning Failed web Error: no such file", spec.PhaseRunning, 1, "", 0},
		"cannot start, never": {pod.CannotStart, spec.RestartNever, "Warning Failed web Error: no such file", spec.PhaseFailed, 0, "", -1},
		"misconfigured":       {pod.Misconfigured, spec.RestartNever, "Warning Failed web Error: no such file", spec.PhasePending, 0, "CreateContainerConfigError", time.Second},
		"other":               {pod.Other, spec.RestartNever, "Warning Failed web Error: no such file", spec.PhasePending, 0, "RunContainerError", time.Second},
		"fenced":              {pod.Fenced, spec.RestartNever, "", spec.PhasePending, 0, "LeaseExpired", 200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, onePod(withPolicy(tt.policy)))
			w.fail[pod.StartContainer] = pod.Result{Failure: tt.failure, Text: "no such file"}
			w.step()
			if tt.event != "" {
				wantEvent(t, w, tt.event)
			}
			c := w.status("web")
			if w.plan.Status.Phase != tt.phase || c.Restarts != tt.restarts || tt.waiting != "" && (c.State.Waiting == nil || c.State.Waiting.Reason != tt.waiting) {
				t.Errorf("phase %s, status %+v %+v", w.plan.Status.Phase, c, c.State.Waiting)
			}
			if tt.failure == pod.CannotStart && tt.within < 0 {
				if c.State.Terminated == nil || c.State.Terminated.ExitCode != 128 || c.State.Terminated.Reason != "StartError" || c.State.Terminated.Message != "no such file" {
					t.Errorf("status %+v", c.State.Terminated)
				}
				return
			}
			if w.after(tt.within); len(w.starts) != 1 {
				t.Errorf("not tried again within %v", tt.within)
			}
			if c := w.status("web"); c.State.Running == nil {
				t.Errorf("status after the new try: %+v", c)
			}
		})
	}
}

func TestSandboxFailureIsTriedAgainAtGrowingIntervals(t *testing.T) {
	w := newWorld(t, onePod())
	tries := 0
	for range 10 {
		w.fail[pod.EnsureSandbox] = pod.Result{Failure: pod.Other, Text: "disk full"}
		w.step()
		tries++
		if w.plan.Recheck.IsZero() {
			t.Fatal("no new try is planned")
		}
		w.now = w.plan.Recheck
	}
	if took := w.now.Sub(epoch); took < time.Minute {
		t.Errorf("%d tries within %v", tries, took)
	}
	wantEvent(t, w, "Warning FailedCreatePodSandBox  ensure sandbox: disk full")
	if w.after(30 * time.Second); len(w.starts) != 1 {
		t.Error("not made once it could be")
	}
}

// Rule 7.4, and 7.6.
func TestReadinessGates(t *testing.T) {
	p := onePod(func(p *spec.Pod, _ *spec.Container) { p.Spec.ReadinessGates = []string{"a.example/x", "b.example/y"} })
	w := newWorld(t, p)
	w.m = pod.New(p, &pod.Memory{Status: spec.PodStatus{Conditions: []spec.Condition{{Type: "b.example/y", Status: spec.ConditionFalse, TransitionTime: epoch}}}}, nil, true)
	w.step()
	ready := condition(w.plan.Status, spec.ConditionReady)
	if want := `corresponding condition of pod readiness gate "a.example/x" does not exist., the status of pod readiness gate "b.example/y" is not "True", but False`; ready.Status != spec.ConditionFalse ||
		ready.Reason != "ReadinessGatesNotReady" || ready.Message != want {
		t.Errorf("Ready %+v, want message %s", ready, want)
	}
	if c := condition(w.plan.Status, spec.ConditionContainersReady); c.Status != spec.ConditionTrue {
		t.Errorf("ContainersReady %+v", c)
	}
	if c := condition(w.plan.Status, "b.example/y"); c.Status != spec.ConditionFalse {
		t.Error("the condition of others was not kept")
	}
}

func TestTransitionTimeMovesWithTheStatusOnly(t *testing.T) {
	w := newWorld(t, onePod(withContainer("b"), withProbes(spec.Readiness)))
	w.step()
	w.now = w.now.Add(time.Minute)
	w.exit("b", 1)
	w.hold[pod.StartContainer] = true
	w.step() // still not ready, but for another reason
	if c := condition(w.plan.Status, spec.ConditionReady); !c.TransitionTime.Equal(epoch) || c.Message != "containers with unready status: [web b]" {
		t.Errorf("Ready %+v, want the old time", c)
	}
	w.verdict("web", spec.Readiness, spec.ResultSuccess)
	w.hold[pod.StartContainer] = false
	w.finish(w.held[0])
	w.step()
	if c := condition(w.plan.Status, spec.ConditionReady); !c.TransitionTime.Equal(w.now) || c.Status != spec.ConditionTrue {
		t.Errorf("Ready %+v, want it to change at %v", c, w.now)
	}
}

// The texts of section 12.
// Rules 4.2 and 12.1.
func TestProbeEvents(t *testing.T) {
	w := newWorld(t, onePod(withProbes(spec.Liveness, spec.Readiness)))
	w.step()
	w.news("web", spec.Liveness, spec.OutcomeFailure, spec.ResultSuccess, "HTTP probe failed with statuscode: 500")
	w.news("web", spec.Readiness, spec.OutcomeErrored, spec.ResultUnknown, `port "x" not found`)
	w.step()
	wantEvent(t, w, "Warning Unhealthy web Liveness probe failed: HTTP probe failed with statuscode: 500")
	wantEvent(t, w, `Warning Unhealthy web Readiness probe errored and resulted in unknown state: port "x" not found`)
	if c := condition(w.plan.Status, spec.ConditionProbeErrored); c.Status != spec.ConditionTrue || c.Message != `Readiness probe of container web: port "x" not found` {
		t.Errorf("ProbeErrored %+v", c)
	}
	n := w.statuses
	w.news("web", spec.Readiness, spec.OutcomeErrored, spec.ResultUnknown, "another text, attempt 2")
	if w.step(); w.statuses != n {
		t.Error("a second errored attempt changed the status")
	}
	w.news("web", spec.Readiness, spec.OutcomeWarning, spec.ResultSuccess, "Probe terminated redirects, Response body: ")
	w.step()
	wantEvent(t, w, "Warning ProbeWarning web Readiness probe warning: Probe terminated redirects, Response body: ")
	if c := condition(w.plan.Status, spec.ConditionProbeErrored); c.Status != spec.ConditionFalse {
		t.Errorf("ProbeErrored %+v after a good attempt", c)
	}
	w.news("web", spec.Readiness, spec.OutcomeFailure, spec.ResultFailure, "refused")
	w.step()
	if w.hasEvent("Normal Healthy") {
		t.Error("healthy before it was")
	}
	w.news("web", spec.Readiness, spec.OutcomeSuccess, spec.ResultSuccess, "")
	w.step()
	wantEvent(t, w, "Normal Healthy web Readiness probe succeeded again")
	w.news("web", spec.Liveness, spec.OutcomeFailure, spec.ResultSuccess, "bad \xff bytes")
	w.step()
	wantEvent(t, w, "Warning Unhealthy web Liveness probe failed: bad \uFFFD bytes")
}

func TestRestartCountGoesOnFromAnotherNode(t *testing.T) {
	p := onePod()
	w := newWorld(t, p)
	w.m = pod.New(p, nil, map[string]int32{"web": 4}, true)
	w.step()
	if c := w.status("web"); c.Restarts != 4 {
		t.Errorf("restarts %d, want 4", c.Restarts)
	}
	w.exit("web", 1)
	w.step()
	if c := w.status("web"); c.Restarts != 5 {
		t.Errorf("restarts %d, want 5", c.Restarts)
	}
}

func TestBlockedPodMakesNoSandbox(t *testing.T) {
	w := newWorld(t, onePod())
	w.w.Blocked = true
	if w.step(); len(w.actions) != 0 {
		t.Errorf("%v while blocked", w.actions)
	}
	w.w.Blocked = false
	if w.step(); len(w.starts) != 1 {
		t.Error("not started once it was free")
	}
}

func TestDrainThatIsCalledOffGoesOn(t *testing.T) {
	w := newWorld(t, onePod(withPolicy(spec.RestartNever))) // the end was muster's doing: the policy is not asked
	w.step()
	w.hold[pod.StopContainer] = true
	w.w.Stop = true
	w.step()
	w.w.Stop = false
	w.hold[pod.StopContainer] = false
	w.finish(w.held[0])
	w.after(time.Minute)
	if w.plan.Stopped || w.status("web").State.Running == nil || len(w.starts) != 2 {
		t.Errorf("stopped %v, status %+v", w.plan.Stopped, w.status("web"))
	}
}

func TestEvictedPodFailsForGoodOnceItsContainersHaveEnded(t *testing.T) {
	const why = `Usage of EmptyDir volume "v" exceeds the limit "1Mi".`
	w := newWorld(t, onePod(withContainer("side"), withProbes(spec.Liveness)))
	w.step()
	for range 2 { // it waits to be started again
		w.exit("side", 1)
		w.after(time.Second)
	}
	w.hold[pod.StopContainer] = true
	w.m.Evict(why)
	w.m.Evict("another reason")
	plan := w.step()
	if plan.Status.Phase != spec.PhaseRunning || len(w.held) != 1 || w.held[0].Grace != pod.MinGrace {
		t.Fatalf("phase %s, held %+v", plan.Status.Phase, w.held)
	}
	wantEvent(t, w, "Warning Evicted  "+why)
	w.restart() // what is under way is forgotten, the eviction is not
	w.hold = map[pod.ActionKind]bool{}
	starts := len(w.starts)
	plan = w.after(20 * time.Minute)
	if st := plan.Status; st.Phase != spec.PhaseFailed || st.Reason != "Evicted" || st.Message != why || len(plan.Probes) != 0 {
		t.Errorf("status %+v, probes %v", st, plan.Probes)
	}
	if len(w.starts) != starts {
		t.Error("a container was started after the eviction")
	}
	w.w.Pod.DeleteTime = w.now
	if plan = w.after(time.Minute); !plan.Stopped || plan.Status.Phase != spec.PhaseFailed {
		t.Errorf("deleted: %+v", plan)
	}
}

func TestEvictionWaitsForAStartInFlight(t *testing.T) {
	w := newWorld(t, onePod())
	w.hold[pod.StartContainer] = true
	w.step()
	w.m.Evict("why")
	if plan := w.step(); plan.Status.Phase != spec.PhasePending {
		t.Fatalf("%s while a container is being started", plan.Status.Phase)
	}
	w.finish(w.held[0])
	if plan := w.after(time.Second); plan.Status.Phase != spec.PhaseFailed || w.instance("web").Running {
		t.Errorf("%+v", plan.Status)
	}
}
