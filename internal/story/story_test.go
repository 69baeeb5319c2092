package story

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/internal/spec"
)

// Whatever is known of a pod, and whatever is not, there is a story: of a known kind, with a sentence, within its bound.
func TestThereIsAlwaysAStory(t *testing.T) {
	now := time.Unix(1e6, 0)
	moment := rapid.Custom(func(t *rapid.T) time.Time {
		return now.Add(-time.Duration(rapid.IntRange(0, 5000).Draw(t, "ago")) * time.Second)
	})
	rapid.Check(t, func(t *rapid.T) {
		sc := spec.Container{Name: "c"}
		if rapid.Bool().Draw(t, "probed") {
			sc.Liveness = &spec.Probe{Period: time.Second, Timeout: time.Second, FailureThreshold: 1}
			sc.Readiness, sc.Startup = sc.Liveness, sc.Liveness
		}
		f := &Facts{Now: now, Pod: &spec.Pod{Meta: spec.Meta{Namespace: "n", Name: "p", UID: "u"}, Spec: spec.PodSpec{Containers: []spec.Container{sc}}},
			Node: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "node"), FromAgent: rapid.Bool().Draw(t, "asked")}
		if rapid.Bool().Draw(t, "deleting") {
			f.Pod.DeleteTime = moment.Draw(t, "deleted")
		}
		f.Status.Phase = rapid.SampledFrom([]spec.Phase{"", spec.PhasePending, spec.PhaseRunning, spec.PhaseFailed}).Draw(t, "phase")
		if rapid.Bool().Draw(t, "judged") {
			f.NodeStatus = &spec.NodeStatus{Verdict: rapid.SampledFrom([]spec.Verdict{spec.VerdictReady, spec.VerdictLost}).Draw(t, "verdict"), Since: now}
		}
		if rapid.Bool().Draw(t, "seen") {
			st := spec.ContainerStatus{Name: "c", Restarts: int32(rapid.IntRange(0, 3).Draw(t, "restarts")), Started: rapid.Bool().Draw(t, "started"), Ready: rapid.Bool().Draw(t, "ready")}
			switch rapid.IntRange(0, 3).Draw(t, "state") {
			case 1:
				st.State.Running = &spec.Running{StartedAt: moment.Draw(t, "since")}
			case 2:
				st.State.Waiting = &spec.Waiting{Reason: rapid.SampledFrom([]string{"CrashLoopBackOff", "RunContainerError"}).Draw(t, "waits")}
			case 3:
				st.State.Terminated = &spec.Terminated{FinishedAt: moment.Draw(t, "ended")}
			}
			if rapid.Bool().Draw(t, "last") {
				st.Last.Terminated = &spec.Terminated{ExitCode: 1, FinishedAt: moment.Draw(t, "last")}
			}
			f.Status.Containers = []spec.ContainerStatus{st}
			f.Status.Conditions = []spec.Condition{{Type: spec.ConditionReady, Status: spec.ConditionFalse, TransitionTime: now}}
		}
		if rapid.Bool().Draw(t, "kept") {
			e := spec.ContainerEvidence{Container: "c", Backoff: time.Second, Log: []byte("a\nb")}
			for i := range rapid.IntRange(0, 3).Draw(t, "ends") {
				end := spec.InstanceEnd{Attempt: int32(i), Probe: spec.ProbeKind(rapid.IntRange(0, 3).Draw(t, "by"))}
				end.FinishedAt, end.ID = moment.Draw(t, "end"), fmt.Sprint(i)
				for range rapid.IntRange(0, 8).Draw(t, "attempts") {
					end.Attempts = append(end.Attempts, spec.Attempt{Outcome: spec.OutcomeFailure})
				}
				e.Ends = append(e.Ends, end)
			}
			for range rapid.IntRange(0, 100).Draw(t, "results") {
				e.Results = append(e.Results, spec.ProbeAttempt{ID: spec.ProbeID{Container: "c", Kind: spec.Liveness}, Attempt: spec.Attempt{Start: now, Result: spec.ResultFailure}})
			}
			f.Evidence = []spec.ContainerEvidence{e}
		}
		if rapid.Bool().Draw(t, "moved") {
			f.Moves = []spec.Failover{{From: "a", To: rapid.SampledFrom([]string{"", "b"}).Draw(t, "to"), Time: moment.Draw(t, "moved at"), Phases: spec.FailoverPhases{Ready: -1}}}
		}
		s := Tell(f)
		if s.Kind < Healthy || s.Kind > Finished || s.Summary == "" || len(s.Steps) > MaxSteps {
			t.Fatalf("told %+v", s)
		}
		for _, step := range s.Steps {
			if step.Kind < Started || step.Text == "" {
				t.Fatalf("a step says nothing: %+v", step)
			}
		}
		if f.Node != "" && !f.FromAgent && len(s.Notes) == 0 {
			t.Fatal("that the agent was not asked is not said")
		}
	})
}
