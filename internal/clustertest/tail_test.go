package clustertest

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestATailOutlivesARestartAndEndsWhenThePodMovesAfterItsHooks(t *testing.T) {
	t.Parallel()
	c := Start(t, 2)
	c.Apply(`apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations: {probe.muster.dev/override: "main.liveness: period=200ms; main.readiness: period=200ms"}
spec:
  terminationGracePeriodSeconds: 5
  volumes: [{name: d, emptyDir: {}}]
  containers:
  - name: main
    command: [sh, -c, 'trap "exit 0" TERM; while :; do sleep 0.1; done']
    volumeMounts: [{name: d, mountPath: /d}]
    readinessProbe: {exec: {command: [test, -f, /d/warm]}}
    livenessProbe: {exec: {command: [test, "!", -f, /d/sick]}, failureThreshold: 1}
    lifecycle:
      postStart: {exec: {command: [sh, -c, "touch /d/warm"]}}
      preStop: {exec: {command: [rm, -f, /d/sick, /no/such/directory/file, /d]}}
`)
	c.Eventually(20*time.Second, "its hook has made it ready", func() bool { p := c.Pod("web"); return p.Ready() })
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	var errs bytes.Buffer
	tail := exec.CommandContext(t.Context(), c.bin, "probe", "tail", "web", "--kind", "liveness", "-o", "json")
	tail.Env = append(os.Environ(), "MUSTER_CONFIG="+filepath.Join(c.dataDir("coordinator"), "client.yaml"))
	tail.Stdout, tail.Stderr = out, &errs
	if err := tail.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- tail.Wait() }()
	c.Eventually(10*time.Second, "attempts come", func() bool { fi, err := out.Stat(); return err == nil && fi.Size() > 0 })
	c.Muster("exec", "web", "--", "touch", "/d/sick")
	c.Eventually(20*time.Second, "it was restarted, and its preStop hook has healed it", func() bool { p := c.Pod("web"); return p.Restarts() == 1 && p.Ready() })
	if !strings.Contains(c.Muster("get", "events"), "FailedPreStopHook") {
		t.Error("a hook that failed is not told: rm does not remove a directory")
	}
	c.Muster("move", "pod/web")
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the tail ended by %v: %s", err, &errs)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the tail does not end")
	}
	if said := errs.String(); !strings.HasPrefix(said, "pod default/web has moved from node node-") || strings.Count(said, "\n") != 1 {
		t.Errorf("it said %q", said)
	}
	instances, failures := map[string]bool{}, 0
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var a struct{ Kind, Instance, Outcome string }
		if err := json.Unmarshal([]byte(line), &a); err != nil || a.Kind != "liveness" {
			t.Fatalf("%v: %s", err, line)
		}
		instances[a.Instance] = true
		if a.Outcome == "failure" {
			failures++
		}
	}
	if len(instances) != 2 || failures < 1 {
		t.Errorf("attempts of %d instances, %d failures; want 2, and 1 or, on a busy machine, more", len(instances), failures)
	}
}
