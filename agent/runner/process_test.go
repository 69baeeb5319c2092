package runner_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/container/containertest"
	"github.com/musterhq/muster/agent/container/process"
	"github.com/musterhq/muster/agent/network"
	"github.com/musterhq/muster/agent/runner"
	"github.com/musterhq/muster/internal/event"
	"github.com/musterhq/muster/internal/spec"
)

func TestMain(m *testing.M) {
	code := m.Run()
	containertest.RemoveSupervisor()
	os.Exit(code)
}

// node is a runner with real processes.
type node struct {
	*runner.Runner
	events *event.Recorder
	stop   func()
}

func startNode(t *testing.T, dir string) *node {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	runtime, err := process.New(ctx, process.Config{DataDir: dir, SupervisorArgv: []string{containertest.BuildSupervisor(t)}, Version: "test", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := network.Open(network.Config{Path: dir + "/state/addresses.json", Node: 9}, log)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{events: event.New("agent", "n1")}
	n.Runner, err = runner.New(runner.Config{StateDir: dir + "/state/pods", Node: "n1", HostIP: "127.0.0.1", Path: os.Getenv("PATH"), RunAsUID: -1, RunAsGID: -1,
		Isolation: "full", HostPathAllow: []string{dir}, Dirs: func(ref container.PodRef) (string, string, string) {
			d := runtime.Dirs(ref)
			return d.Pod, d.Home, d.Tmp
		}}, runner.Deps{Runtime: runtime, Addresses: addresses, Prober: &bench{rows: map[spec.ProbeID]runner.ProbeRow{}}, Events: n.events, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	rctx, rcancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(rctx) }()
	n.stop = func() {
		rcancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if t.Failed() { // leave nothing behind
			if l, err := runtime.List(context.Background()); err == nil {
				for _, p := range l.Pods {
					if err := runtime.RemovePod(context.Background(), p.PodRef); err != nil {
						t.Log(err)
					}
				}
			}
		}
		if err := runtime.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	return n
}

// until polls for a status.
func (n *node) until(t *testing.T, what string, ok func(spec.HeldStatus, bool) bool) spec.HeldStatus {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		all, _ := n.All(t.Context())
		var s spec.HeldStatus
		if len(all) > 0 {
			s = all[0]
		}
		if ok(s, len(all) > 0) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 15 s; status %+v", what, s)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func TestRealPodLivesThroughCrashAndRestartOfTheAgent(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := t.TempDir()
	n := startNode(t, dir)
	defer func() { n.stop() }()
	p := pod("11111111-2222-3333-4444-555555555555")
	out := filepath.Join(dir, "out")
	p.Spec.TerminationGrace = 5 * time.Second
	p.Spec.Volumes = []spec.Volume{{Name: "v", HostPath: out, HostPathType: "DirectoryOrCreate"}}
	c := &p.Spec.Containers[0]
	c.Mounts = []spec.Mount{{Volume: "v", Path: out}}
	c.Env = []spec.EnvVar{{Name: "OUT", Value: out}, {Name: "IP", FieldPath: "status.podIP"}}
	c.Command = []string{"/bin/sh", "-c", `env >>"$OUT/env"; cat "$MUSTER_POD_DIR/epoch" >>"$OUT/epoch"; trap 'exit 0' TERM; while [ ! -e "$OUT/crash" ]; do sleep 0.02; done; rm "$OUT/crash"; exit 3`}
	set := runner.Assignments{Session: 1, Full: true, Assigned: []runner.Assigned{fast(p, 42)}}

	begin := time.Now()
	n.Assign(set)
	running := func(restarts int32) func(spec.HeldStatus, bool) bool {
		return func(s spec.HeldStatus, ok bool) bool {
			return ok && len(s.Status.Containers) == 1 && s.Status.Ready() && s.Status.Containers[0].Restarts == restarts
		}
	}
	n.until(t, "start", running(0))
	t.Logf("ready after %v", time.Since(begin))

	crash := func() {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
			if env, _ := os.ReadFile(out + "/epoch"); len(env) > 0 { // the shell is past its start
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the container's shell does not start")
			}
		}
		if err := os.WriteFile(out+"/crash", nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	crash()
	begin = time.Now()
	s := n.until(t, "restart", running(1))
	t.Logf("restarted after %v", time.Since(begin))
	if last := s.Status.Containers[0].Last.Terminated; last == nil || last.ExitCode != 3 || last.Reason != "Error" {
		t.Errorf("last state %+v", last)
	}
	env, err := os.ReadFile(out + "/env")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"MUSTER_EPOCH=42\n", "IP=127.77.9.1\n", "MUSTER_POD_UID=" + p.UID + "\n", "PATH=" + os.Getenv("PATH") + "\n"} {
		if !strings.Contains(string(env), want) {
			t.Errorf("no %q in the environment:\n%s", want, env)
		}
	}
	if epoch, err := os.ReadFile(out + "/epoch"); err != nil || !strings.HasPrefix(string(epoch), "42\n") {
		t.Errorf("epoch file %q, %v", epoch, err)
	}

	n.stop()
	n = startNode(t, dir)
	after := n.until(t, "take up", running(1))
	if !reflect.DeepEqual(s, after) {
		t.Errorf("status after the agent's restart\n%+v\nwas\n%+v", after, s)
	}
	set.Session, set.Assigned[0].Stop = 2, true
	n.Assign(set)
	n.until(t, "stop", func(s spec.HeldStatus, ok bool) bool { return ok && s.Stopped })
	n.Assign(runner.Assignments{Session: 2, Full: true})
	n.until(t, "forget", func(_ spec.HeldStatus, ok bool) bool { return !ok })
}

func TestRealInitContainersAndSidecarsKeepTheirTurns(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := t.TempDir()
	n := startNode(t, dir)
	defer func() { n.stop() }()
	p := pod("11111111-2222-3333-4444-666666666666")
	out := filepath.Join(dir, "out")
	log := filepath.Join(out, "log")
	p.Spec.Volumes = []spec.Volume{{Name: "v", HostPath: out, HostPathType: "DirectoryOrCreate"}}
	// serve says when it begins and when it ends, and ends when asked to.
	serve := func(name string) []string {
		return []string{"/bin/sh", "-c", fmt.Sprintf(`echo %[1]s up >>%[2]s; trap 'echo %[1]s down >>%[2]s; exit 0' TERM; while :; do sleep 0.02; done`, name, log)}
	}
	p.Spec.TerminationGrace = 10 * time.Second
	p.Spec.InitContainers = []spec.Container{
		{Name: "first", Command: []string{"/bin/sh", "-c", "sleep 0.1; echo first >>" + log}},
		{Name: "side", Command: serve("side"), RestartPolicy: spec.RestartAlways},
		{Name: "second", Command: []string{"/bin/sh", "-c", fmt.Sprintf("until grep -q side %[1]s; do sleep 0.02; done; echo second >>%[1]s", log)}},
	}
	p.Spec.Containers[0].Command = serve("web")
	for _, c := range p.Spec.AllContainers() {
		c.Mounts = []spec.Mount{{Volume: "v", Path: out}}
	}
	n.Assign(runner.Assignments{Session: 1, Full: true, Assigned: []runner.Assigned{fast(p, 1)}})
	s := n.until(t, "start", func(s spec.HeldStatus, ok bool) bool {
		text, _ := os.ReadFile(log)
		return ok && s.Status.Ready() && strings.Contains(string(text), "web up")
	})
	if all := s.Status.InitContainers; len(all) != 3 || !all[0].Ready || !all[1].Ready || all[1].State.Running == nil || all[2].State.Terminated == nil {
		t.Errorf("init containers %+v", all)
	}
	n.Assign(runner.Assignments{Session: 1, Full: true})
	n.until(t, "forget", func(_ spec.HeldStatus, ok bool) bool { return !ok })
	text, err := os.ReadFile(log)
	if want := "first\nside up\nsecond\nweb up\nweb down\nside down\n"; err != nil || string(text) != want {
		t.Errorf("what happened: %v\n%swant\n%s", err, text, want)
	}
}
