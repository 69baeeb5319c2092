package pod_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/internal/spec"
)

// A random life of a pod: exits, verdicts, failures of the runtime, dead supervisors, fences, restarts of the agent and
// stops. The world fails by itself when two instances of a container run at once, when something starts outside a
// sandbox, or when the machine never rests.
func TestAnyLifeKeepsTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy := rapid.SampledFrom([]spec.RestartPolicy{spec.RestartAlways, spec.RestartOnFailure, spec.RestartNever}).Draw(t, "policy")
		p := onePod(withProbes(spec.Liveness, spec.Readiness, spec.Startup), withPolicy(policy), withContainer("b"))
		if rapid.Bool().Draw(t, "hooks") {
			withPostStart(p, &p.Spec.Containers[0])
			withPreStop(p, &p.Spec.Containers[0])
		}
		w := newWorld(t, p)
		names := []string{"web", "b"}
		starts := map[string]int{}
		fences := 0 // ends that are no exits
		var final spec.Phase
		stopped := false
		delay := map[string]time.Duration{}
		lastStart := map[string]time.Time{}
		ids := map[string]string{}

		// observe holds what has happened since against the rules.
		observe := func() {
			if phase := w.plan.Status.Phase; final != "" && phase != final {
				t.Fatalf("phase %s after %s", phase, final)
			} else if phase.Final() {
				final = phase
			}
			if stopped && !w.plan.Stopped {
				t.Fatalf("no longer stopped")
			}
			stopped = w.plan.Stopped
			for _, name := range names {
				in := w.instance(name)
				if in == nil || in.ID == ids[name] {
					continue
				}
				if stopped {
					t.Fatalf("%s runs after Stopped", name)
				}
				if starts[name] > 0 && policy == spec.RestartNever && fences == 0 {
					t.Fatalf("%s was restarted with policy Never", name)
				}
				end, exited := w.ends[ids[name]]
				if exited {
					if end.Sub(lastStart[name]) > pod.BackoffReset {
						delay[name] = 0
					}
					if waited := in.StartedAt.Sub(end); waited < delay[name] {
						t.Fatalf("%s was restarted after %v, back-off is %v", name, waited, delay[name])
					}
					delay[name] = min(max(2*delay[name], pod.BackoffFirst), pod.BackoffMax)
				}
				if starts[name] == 0 || exited { // the back-off knows nothing of a start after a fence
					lastStart[name] = in.StartedAt
				}
				starts[name]++
				ids[name] = in.ID
			}
			for _, c := range w.plan.Status.Containers {
				if c.Ready && (!c.Started || c.State.Running == nil) {
					t.Fatalf("%s is ready, started %v, state %+v", c.Name, c.Started, c.State)
				}
			}
			s := w.plan.Status
			if s.Ready() && s.Condition(spec.ConditionContainersReady).Status != spec.ConditionTrue {
				t.Fatalf("Ready without ContainersReady")
			}
		}
		step := func(d time.Duration) {
			end := w.now.Add(d)
			for {
				w.step()
				observe()
				if w.plan.Recheck.IsZero() || w.plan.Recheck.After(end) {
					break
				}
				w.now = w.plan.Recheck
			}
			w.now = end
		}
		step(0)
		for range rapid.IntRange(1, 40).Draw(t, "events") {
			name := rapid.SampledFrom(names).Draw(t, "container")
			in := w.instance(name)
			runs := in != nil && in.Running && !w.s.Dead
			switch rapid.SampledFrom([]string{"exit", "verdict", "time", "agent", "fail", "supervisor", "fence", "assign", "stop", "long"}).Draw(t, "what") {
			case "exit":
				if runs {
					w.exit(name, rapid.SampledFrom([]int32{0, 1, 137}).Draw(t, "code"))
				}
			case "verdict":
				if web := w.instance("web"); runs && web != nil && web.Running {
					kind := rapid.SampledFrom(spec.ProbeKinds[:]).Draw(t, "kind")
					result := rapid.SampledFrom([]spec.Result{spec.ResultSuccess, spec.ResultFailure}).Draw(t, "verdict")
					w.verdict("web", kind, result)
				}
			case "agent":
				w.restart()
			case "fail":
				kind := rapid.SampledFrom([]pod.ActionKind{pod.EnsureSandbox, pod.StartContainer, pod.StopContainer, pod.RemoveSandbox, pod.RunPostStart}).Draw(t, "action")
				failure := rapid.SampledFrom([]pod.Failure{pod.Misconfigured, pod.Fenced, pod.Other}).Draw(t, "failure")
				w.fail[kind] = pod.Result{Failure: failure, Text: "no"}
			case "supervisor", "fence":
				if !w.s.Exists || w.s.Dead || w.plan.Status.Phase.Final() || w.plan.Fenced {
					break
				}
				reason := pod.ReasonSupervisorDied
				if rapid.Bool().Draw(t, "fenced") {
					reason = pod.ReasonLeaseExpired
					fences++
				}
				for _, n := range names {
					if i := w.instance(n); i != nil && i.Running {
						w.exit(n, 137)
						if i.Reason = reason; reason == pod.ReasonLeaseExpired {
							delete(w.ends, i.ID)
						}
					}
				}
				w.s.Dead, w.s.DeadReason = true, reason
			case "assign":
				w.m.AssignedAnew()
			case "stop":
				if rapid.IntRange(0, 5).Draw(t, "really") == 0 {
					w.w.Stop = true
				}
			case "long":
				step(11 * time.Minute)
			}
			if w.plan.Fenced && !w.m.Idle() {
				t.Fatalf("an action is under way in a fenced pod")
			}
			step(time.Duration(rapid.IntRange(0, 120).Draw(t, "seconds")) * time.Second)
		}
		// Progress: whatever has happened, a pod that is asked to stop does so.
		w.fail = map[pod.ActionKind]pod.Result{}
		w.w.Stop = true
		if step(5 * time.Minute); !w.plan.Stopped {
			t.Fatalf("not stopped in the end: %v", w.actions)
		}
	})
}
