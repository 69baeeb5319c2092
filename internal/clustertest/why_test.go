package clustertest

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// whyStory is what "muster why -o json" says, as far as these tests look.
type whyStory struct {
	Kind, Summary string
	FromAgent     bool `json:"from_agent"`
	Notes         []string
	Steps         []struct {
		Kind, Text string
		Attempt    *struct{ Outcome, Output string }
	}
}

func (s *whyStory) has(kind, text string) bool {
	for _, step := range s.Steps {
		if step.Kind == kind && strings.Contains(step.Text, text) {
			return true
		}
	}
	return false
}

func TestWhyTellsOfAKillACrashAndAnUnreadyPodAlsoOnceTheAgentHasRestartedOrIsGone(t *testing.T) {
	t.Parallel()
	c := Start(t, 1)
	c.Apply(`apiVersion: v1
kind: Pod
metadata:
  name: sick
  annotations: {probe.muster.dev/override: "main.liveness: period=200ms"}
spec:
  containers:
  - name: main
    command: [sh, -c, 'trap "exit 3" TERM; while :; do sleep 0.1; done']
    livenessProbe: {exec: {command: [sh, -c, 'echo out of order; exit 1']}, failureThreshold: 2}
---
apiVersion: v1
kind: Pod
metadata: {name: crash}
spec:
  containers:
  - name: main
    command: [sh, -c, 'echo cannot go on; exit 7']
---
apiVersion: v1
kind: Pod
metadata:
  name: unready
  annotations: {probe.muster.dev/override: "main.readiness: period=200ms"}
spec:
  containers:
  - name: main
    command: [sleep, "1000"]
    readinessProbe: {exec: {command: [sh, -c, 'echo not yet; exit 1']}}
`)
	why := func(pod string) (s whyStory) {
		t.Helper()
		if err := c.JSON(&s, "why", pod, "-o", "json"); err != nil {
			t.Fatal(err)
		}
		return s
	}
	check := func() {
		t.Helper()
		sick := why("sick")
		if sick.Kind != "liveness" || !sick.FromAgent || !sick.has("kill", "its liveness probe failed: 2 failures in a row") || !sick.has("ended", "exit code 3") {
			t.Errorf("killed by liveness: %+v", sick)
		}
		failed := 0
		for _, step := range sick.Steps {
			if a := step.Attempt; a != nil && a.Outcome == "failure" && strings.Contains(a.Output, "out of order") {
				failed++
			}
		}
		if failed != 2 {
			t.Errorf("%d failed attempts are told, want 2: %+v", failed, sick)
		}
		if s := why("crash"); s.Kind != "crashed" || !s.has("ended", "exit code 7") || !s.has("output", "cannot go on") || !s.has("backoff", "") && !s.has("started", "the next failure waits") {
			t.Errorf("crashed: %+v", s)
		}
		if s := why("unready"); s.Kind != "unready" || !s.has("attempt", "readiness probe failed: not yet") {
			t.Errorf("unready: %+v", s)
		}
	}
	c.Eventually(20*time.Second, "both were started anew", func() bool {
		sick, crash, unready := c.Pod("sick"), c.Pod("crash"), c.Pod("unready")
		return sick.Restarts() > 0 && crash.Restarts() > 0 && unready.Status.Phase == "Running"
	})
	check()

	history := func() int {
		return strings.Count(c.Muster("probe", "history", "unready", "--limit", "1000", "-o", "json"), "\n")
	}
	c.Eventually(20*time.Second, "more attempts than are kept in memory", func() bool { return history() > 40 })

	// The last kills are told by the next agent too.
	p := c.Process("node-1")
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.Wait(t, 10*time.Second)
	c.Eventually(20*time.Second, "without an agent the story says so", func() bool {
		s := why("sick")
		return !s.FromAgent && len(s.Notes) > 0 && strings.Contains(s.Notes[0], "no session")
	})
	c.StartAgent("node-1")
	c.Eventually(20*time.Second, "the next agent answers", func() bool { s := why("sick"); return s.FromAgent && s.Kind == "liveness" })
	check()
	if n := history(); n <= 40 {
		t.Errorf("%d attempts are told of after the agent's restart", n)
	}
}
