package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/story"
	"github.com/musterhq/muster/internal/wire"
)

// told is when the stories of these tests are told.
var told = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// before is so long before that.
func before(d time.Duration) time.Time { return told.Add(-d) }

func storyPod() *spec.Pod {
	return &spec.Pod{
		Meta: spec.Meta{Namespace: "default", Name: "web", UID: "u1", CreateTime: before(time.Hour)},
		Spec: spec.PodSpec{TerminationGrace: 30 * time.Second, Containers: []spec.Container{{
			Name: "main",
			Liveness: &spec.Probe{Handler: spec.Handler{HTTP: &spec.HTTPAction{}}, Period: 10 * time.Second, Timeout: time.Second,
				SuccessThreshold: 1, FailureThreshold: 3},
			Readiness: &spec.Probe{Handler: spec.Handler{HTTP: &spec.HTTPAction{}}, Period: 5 * time.Second, Timeout: time.Second,
				SuccessThreshold: 1, FailureThreshold: 2},
			Resources: spec.Resources{Limits: spec.ResourceList{MemoryBytes: 64 << 20}},
		}}},
	}
}

// storyStatus is a pod that runs since then, with one container.
func storyStatus(since time.Time, ready bool, restarts int32) spec.PodStatus {
	truth := spec.ConditionFalse
	if ready {
		truth = spec.ConditionTrue
	}
	return spec.PodStatus{
		Phase: spec.PhaseRunning, StartTime: before(time.Hour),
		Conditions: []spec.Condition{{Type: spec.ConditionReady, Status: truth, TransitionTime: since}},
		Containers: []spec.ContainerStatus{{Name: "main", ID: "process://new", Started: true, Ready: ready, Restarts: restarts,
			State: spec.ContainerState{Running: &spec.Running{StartedAt: since}}}},
	}
}

func storyAttempt(kind spec.ProbeKind, ago time.Duration, o spec.Outcome, output string, lag time.Duration) spec.ProbeAttempt {
	result := map[spec.Outcome]spec.Result{spec.OutcomeSuccess: spec.ResultSuccess, spec.OutcomeFailure: spec.ResultFailure}[o]
	return spec.ProbeAttempt{ID: spec.ProbeID{PodUID: "u1", Container: "main", Kind: kind},
		Attempt: spec.Attempt{Start: before(ago), Outcome: o, Result: result, Duration: time.Second, CPU: -1, Lag: lag, Output: output}}
}

func storyEnd(code, signal int32, reason string, started, finished time.Duration) spec.InstanceEnd {
	return spec.InstanceEnd{Attempt: 1, Terminated: spec.Terminated{ExitCode: code, Signal: signal, Reason: reason, ID: "process://old",
		StartedAt: before(started), FinishedAt: before(finished)}}
}

// storyFacts are the facts of a pod that is ready on node-1 and whose agent has answered.
func storyFacts(e spec.ContainerEvidence) *story.Facts {
	e.Container = "main"
	return &story.Facts{Now: told, Pod: storyPod(), Node: "node-1", Status: storyStatus(before(2*time.Minute), true, 2), FromAgent: true,
		NodeStatus: &spec.NodeStatus{Verdict: spec.VerdictReady}, Evidence: []spec.ContainerEvidence{e}}
}

func TestStoriesAreToldAsTheyWere(t *testing.T) {
	liveness := storyEnd(137, 9, "Error", 10*time.Minute, 2*time.Minute+10*time.Second)
	liveness.Probe, liveness.Why = spec.Liveness, "Container main failed liveness probe, will be restarted"
	liveness.StopTime, liveness.Grace = before(2*time.Minute+40*time.Second), 30*time.Second
	for _, a := range []spec.ProbeAttempt{
		storyAttempt(spec.Liveness, 200*time.Second, spec.OutcomeSuccess, "", 0),
		storyAttempt(spec.Liveness, 190*time.Second, spec.OutcomeFailure, "HTTP probe failed with statuscode: 500", 0),
		storyAttempt(spec.Liveness, 180*time.Second, spec.OutcomeInconclusive, "", 300*time.Millisecond),
		storyAttempt(spec.Liveness, 179*time.Second, spec.OutcomeFailure, "HTTP probe failed with statuscode: 500", 60*time.Millisecond),
		storyAttempt(spec.Liveness, 161*time.Second, spec.OutcomeFailure, "context deadline exceeded", 0),
	} {
		liveness.Attempts = append(liveness.Attempts, a.Attempt)
	}
	killed := storyFacts(spec.ContainerEvidence{Ends: []spec.InstanceEnd{liveness}, Backoff: 20 * time.Second})

	oom := storyEnd(137, 9, "OOMKilled", 10*time.Minute, 20*time.Second)
	oom.MemoryBytes, oom.MemoryTime = 61<<20, before(25*time.Second)
	oomed := storyFacts(spec.ContainerEvidence{Ends: []spec.InstanceEnd{oom}, Backoff: 40 * time.Second, RestartTime: told.Add(20 * time.Second),
		Log: []byte("loading the index\n")})
	oomed.Status.Containers[0].State = spec.ContainerState{Waiting: &spec.Waiting{Reason: "CrashLoopBackOff"}}
	oomed.Status.Containers[0].Ready = false

	first := storyEnd(1, 0, "Error", 20*time.Minute, 19*time.Minute)
	first.Attempt = 0
	crashed := storyFacts(spec.ContainerEvidence{Ends: []spec.InstanceEnd{first, storyEnd(139, 11, "Error", 10*time.Minute, 130*time.Second)},
		Backoff: 20 * time.Second, Log: []byte("reading /data/index\npanic: runtime error\x1b[0m\n")})

	moved := storyFacts(spec.ContainerEvidence{})
	moved.Node, moved.Status.Containers[0].Restarts = "node-2", 0
	moved.Moves = []spec.Failover{{ID: "f1", Cause: "Lost", Class: spec.Fenced, PodUID: "u1", From: "node-1", To: "node-2", Time: before(26 * time.Hour),
		Phases: spec.FailoverPhases{Detect: 1600 * time.Millisecond, Confirm: 400 * time.Millisecond, Fence: 9 * time.Second,
			Place: 12 * time.Millisecond, Deliver: 3 * time.Millisecond, Start: 80 * time.Millisecond, Ready: -1}}}

	unready := storyFacts(spec.ContainerEvidence{Results: []spec.ProbeAttempt{
		storyAttempt(spec.Readiness, 30*time.Second, spec.OutcomeSuccess, "", 0),
		storyAttempt(spec.Readiness, 25*time.Second, spec.OutcomeFailure, "dial tcp 127.77.1.2:80: connect: connection refused", 0),
		storyAttempt(spec.Readiness, 20*time.Second, spec.OutcomeFailure, "dial tcp 127.77.1.2:80: connect: connection refused", 0),
	}})
	unready.Status = storyStatus(before(time.Hour), false, 0)
	unready.Probes = []spec.ProbeState{{ID: spec.ProbeID{PodUID: "u1", Container: "main", Kind: spec.Readiness}, Since: before(19 * time.Second), Verdict: spec.ResultFailure}}

	lost := storyFacts(spec.ContainerEvidence{Results: []spec.ProbeAttempt{storyAttempt(spec.Liveness, 70*time.Second, spec.OutcomeSuccess, "", 0)}})
	lost.FromAgent, lost.Unasked = false, "there is no session with it"
	lost.NodeStatus = &spec.NodeStatus{Verdict: spec.VerdictUnreachable, Since: before(time.Minute), Cause: "renewal is late"}

	pending := storyFacts(spec.ContainerEvidence{})
	pending.Node, pending.Refusal, pending.Status, pending.NodeStatus = "", "0/1 nodes fit: 1 runs no images (--images=refuse)", spec.PodStatus{}, nil

	hook := storyEnd(143, 15, "Error", 30*time.Second, 27*time.Second)
	hook.HookFailed, hook.Why, hook.StopTime, hook.Grace = true, "FailedPostStartHook", before(28*time.Second), 30*time.Second
	hooked := storyFacts(spec.ContainerEvidence{Ends: []spec.InstanceEnd{hook}, Backoff: 10 * time.Second})
	hooked.Status.Containers[0].State.Running.StartedAt = before(17 * time.Second)

	startup := storyFacts(spec.ContainerEvidence{Results: []spec.ProbeAttempt{
		storyAttempt(spec.Startup, 8*time.Second, spec.OutcomeFailure, "not yet", 0), storyAttempt(spec.Startup, 6*time.Second, spec.OutcomeFailure, "not yet", 0)}})
	startup.Pod.Spec.Containers[0].Startup = &spec.Probe{Period: 2 * time.Second, Timeout: time.Second, FailureThreshold: 30}
	startup.Status = storyStatus(before(10*time.Second), false, 0)
	startup.Status.Containers[0].Started = false

	healthy := storyFacts(spec.ContainerEvidence{})
	healthy.Status = storyStatus(before(50*time.Minute), true, 0)

	held := storyFacts(spec.ContainerEvidence{Results: []spec.ProbeAttempt{
		storyAttempt(spec.Liveness, 20*time.Second, spec.OutcomeFailure, "no database", 0), storyAttempt(spec.Liveness, 10*time.Second, spec.OutcomeFailure, "no database", 0)}})
	held.Status.Conditions = append(held.Status.Conditions, spec.Condition{Type: spec.ConditionRestartHeld, Status: spec.ConditionTrue,
		Message: "more than half of the pods of deployment web fail", TransitionTime: before(9 * time.Second)})

	for name, f := range map[string]*story.Facts{
		"held":     held,
		"liveness": killed, "oom": oomed, "crash": crashed, "move": moved, "unready": unready,
		"lost": lost, "pending": pending, "hook": hooked, "startup": startup, "healthy": healthy,
	} {
		t.Run(name, func(t *testing.T) {
			s := story.Tell(f)
			var got strings.Builder
			if err := printStory(&got, "", wire.StoryToProto(&s)); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", "why", name+".golden")
			if *update {
				if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("got\n%swant\n%s", &got, want)
			}
		})
	}
}
