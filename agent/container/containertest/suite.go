package containertest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/container"
)

// Programs are the commands that the suite runs; a runtime's test says how they are spelt for it.
type Programs struct {
	// Forever runs until SIGTERM and ends by it. Stubborn ignores SIGTERM once it has written the line "ready".
	Forever, Stubborn []string
	// Fill puts between 64 KiB and 1 MiB into the directory /volume and ends with 0.
	Fill []string
	// Write puts the line "kept" into /volume/file, and Read shows that file; each ends with another code than 0 if it can not.
	Write, Read []string
	// Hostname, WhoAmI and Processes write the host's name, the number of the user, and of the processes they see, each a line.
	Hostname, WhoAmI, Processes []string
	// Hog takes more than 100 MiB of memory, if it may, and ends with 0.
	Hog []string
	// Exit3 ends at once with 3, Missing does not exist.
	Exit3, Missing []string
	// Lines writes "one", "two", "three" to stdout and ends with 0.
	Lines []string
	// ExecOut writes "out" to stdout and "err" to stderr, without newlines, and ends with 7.
	ExecOut []string
	// Echo writes what it reads to stdout, and "end" to stderr when that has ended; TTY writes "yes" where all its streams are
	// one terminal of 100 columns, else "no".
	Echo, TTY []string
	// ExecFlood writes more than 100,000 times the letter x, ExecHang never ends. Both are for Exec.
	ExecFlood, ExecHang []string
	// Burn takes all the processor time that it gets and holds 32 MiB, until SIGTERM. ExecBurn, for Exec, takes at least
	// 100 ms of processor time and ends with 0.
	Burn, ExecBurn []string
}

// Shell spells them for runtimes that run host programs.
var Shell = Programs{
	Forever:   []string{"/bin/sh", "-c", "sleep 3600 & wait"},
	Stubborn:  []string{"/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"},
	Fill:      []string{"/bin/sh", "-c", "mkdir -p /volume/a/b && head -c 100000 /dev/zero > /volume/a/b/c && ln /volume/a/b/c /volume/d"},
	Write:     []string{"/bin/sh", "-c", "echo kept > /volume/file"},
	Read:      []string{"/bin/sh", "-c", "exec cat /volume/file 2>/dev/null"},
	Hostname:  []string{"hostname"},
	WhoAmI:    []string{"id", "-u"},
	Processes: []string{"/bin/sh", "-c", "ls /proc | grep -c '^[0-9]'"},
	Hog:       []string{"perl", "-e", "$x = 'x' x 120_000_000"},
	Exit3:     []string{"/bin/sh", "-c", "exit 3"},
	Missing:   []string{"/nonexistent/program"},
	Lines:     []string{"/bin/sh", "-c", "echo one; echo two; echo three"},
	ExecOut:   []string{"/bin/sh", "-c", "printf out; printf err >&2; exit 7"},
	Echo:      []string{"/bin/sh", "-c", "cat; printf end >&2"},
	TTY:       []string{"/bin/sh", "-c", `test -t 0 -a -t 1 -a -t 2 && test "$(stty size | cut -d' ' -f2)" = 100 && tty >/dev/null && echo yes || echo no`},
	ExecFlood: []string{"/bin/sh", "-c", "head -c 200000 /dev/zero | tr '\\0' x"},
	ExecHang:  []string{"/bin/sh", "-c", "sleep 3600"},
	Burn:      []string{"/bin/sh", "-c", "x=$(head -c 33554432 /dev/zero | tr '\\0' x); while :; do :; done"},
	ExecBurn:  []string{"/bin/sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"},
}

// Run is the conformance suite: what every runtime promises, as the seam's comments say it. newRuntime returns a runtime
// without pods that the suite may use; the test's Cleanup takes it down.
func Run(t *testing.T, newRuntime func(t *testing.T) (container.Runtime, Programs)) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *suite)
	}{
		{"EnsurePodIsIdempotentByUIDAndEpoch", ensureTwice},
		{"OlderEpochMustBeRemovedFirst", olderEpoch},
		{"StartNeedsASandbox", startWithoutPod},
		{"EveryInstanceHasANewIDAndListHasTheNewest", instances},
		{"RunningContainerIsNotStartedAgain", startTwice},
		{"ExitCodeAndReasonAreKept", exitCode},
		{"CommandThatCannotStartLeavesNoInstance", cannotStart},
		{"StopEndsBySIGTERMWithinGrace", stopGently},
		{"StopKillsAfterGrace", stopStubborn},
		{"SecondStopShortensTheFirst", stopShortened},
		{"StopOfEndedContainerReturnsAtOnce", stopEnded},
		{"RemovePodTakesEverythingAndUnknownIsNoError", removePod},
		{"ExecReturnsExitCodeAndOutputs", execOutputs},
		{"ExecOutputIsCut", execCut},
		{"ExecTimeoutIsTold", execTimeout},
		{"ExecThatCannotStartIsNoExitCode", execCannotStart},
		{"ExecNeedsARunningContainer", execNotRunning},
		{"ExecOfAContainerListedAsRunningIsNotTooEarly", execAtOnce},
		{"LogsAreInOrderAndTailed", logs},
		{"FollowedLogsEndWithTheInstance", logsFollowed},
		{"ChangesHintAtAnEnd", changes},
		{"VolumesAreMeasured", volumes},
		{"ContainersHaveThePodsHostName", hostName},
		{"VolumesAreThePodsAndGoWithIt", volumesAreShared},
		{"ReadOnlyMountsAreNotWritten", readOnlyMounts},
		{"SubPathIsAPartOfAVolume", subPaths},
		{"FilesOfAVolumeAreReplacedForWhoeverHasItMounted", files},
		{"MountsOfTheHostOutliveThePod", hostMounts},
		{"VolumeThatThePodHasNotIsRefused", unknownVolume},
		{"WhatOnlyRootHasIsRefusedByName", rootsOwn},
		{"SharedPIDNamespaceShowsThePodsProcesses", sharedPIDs},
		{"ContainersRunAsTheirUser", users},
		{"MoreMemoryThanTheLimitKills", memoryLimit},
		{"InteractHasStreamsApartAndAnExitCode", interactOutputs},
		{"InteractSeesItsInputAndTheEndOfIt", interactInput},
		{"InteractOnATerminal", interactTTY},
		{"InteractEndsWithItsContext", interactCancelled},
		{"InteractThatCannotStartIsNoExitCode", interactCannotStart},
		{"InteractNeedsARunningContainer", interactNotRunning},
		{"UsageShowsWhatAContainerBurnsAndHolds", usage},
		{"UsageHasWhatACommandInTheContainerTook", usageOfExec},
		{"UsageNeedsARunningContainer", usageNotRunning},
		{"OverheadNeverFalls", overhead},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, p := newRuntime(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			s := &suite{Runtime: r, Programs: p, ctx: ctx}
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				l, err := r.List(ctx)
				if err != nil {
					t.Errorf("list pods to remove them: %v", err)
				}
				for _, p := range l.Pods {
					if err := r.RemovePod(ctx, p.PodRef); err != nil {
						t.Errorf("remove pod: %v", err)
					}
				}
			})
			c.test(t, s)
		})
	}
}

type suite struct {
	container.Runtime
	Programs
	ctx context.Context
}

var (
	ref    = container.PodRef{UID: "3b1c8f60-0000-4000-8000-00000000c0de", Epoch: 42}
	podCfg = container.PodConfig{PodRef: ref, Namespace: "default", Name: "web", Hostname: "web", IP: "127.0.0.1"}
)

func config(name string, attempt int32, argv []string) container.ContainerConfig {
	return container.ContainerConfig{
		Name: name, Attempt: attempt, Argv: argv, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"}, WorkingDir: "/", UID: -1, GID: -1,
	}
}

func (s *suite) pod(t *testing.T) {
	t.Helper()
	if _, err := s.EnsurePod(s.ctx, podCfg); err != nil {
		t.Fatalf("EnsurePod: %v", err)
	}
}

func (s *suite) run(t *testing.T, name string, attempt int32, argv []string) container.Container {
	t.Helper()
	c, err := s.StartContainer(s.ctx, ref, config(name, attempt, argv))
	if err != nil {
		t.Fatalf("StartContainer: %v", err)
	}
	return c
}

// list is the only pod there is.
func (s *suite) list(t *testing.T) container.Pod {
	t.Helper()
	l, err := s.List(s.ctx)
	if err != nil || !l.Complete || len(l.Pods) != 1 {
		t.Fatalf("List: %+v, %v; want one pod, complete", l, err)
	}
	return l.Pods[0]
}

// stubborn starts a container that ignores SIGTERM already.
func (s *suite) stubborn(t *testing.T) container.Container {
	t.Helper()
	c := s.run(t, "main", 0, s.Stubborn)
	for {
		var b bytes.Buffer
		if err := s.Logs(s.ctx, c.ID, container.LogOptions{Tail: -1}, &b); err != nil {
			t.Fatal(err)
		}
		if b.String() == "ready\n" {
			return c
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-s.ctx.Done():
			t.Fatalf("container says %q", b.String())
		}
	}
}

// end waits until the container has ended and returns how.
func (s *suite) end(t *testing.T, id container.ContainerID) container.Container {
	t.Helper()
	for {
		for _, c := range s.list(t).Containers {
			if c.ID == id && !c.Running {
				return c
			}
		}
		select {
		case <-s.Changes():
		case <-time.After(100 * time.Millisecond):
		case <-s.ctx.Done():
			t.Fatalf("container %s has not ended", id)
		}
	}
}

func ensureTwice(t *testing.T, s *suite) {
	a, err := s.EnsurePod(s.ctx, podCfg)
	if err != nil {
		t.Fatal(err)
	}
	c := s.run(t, "main", 0, s.Forever)
	b, err := s.EnsurePod(s.ctx, podCfg)
	if err != nil {
		t.Fatal(err)
	}
	if a.PodRef != ref || b.PodRef != ref || !a.CreatedAt.Equal(b.CreatedAt) || b.Namespace != "default" || b.Name != "web" || b.IP != "127.0.0.1" {
		t.Errorf("got %+v and %+v, want the same pod", a, b)
	}
	if len(b.Containers) != 1 || b.Containers[0].ID != c.ID || !b.Containers[0].Running {
		t.Errorf("containers %+v, want %s running", b.Containers, c.ID)
	}
}

func olderEpoch(t *testing.T, s *suite) {
	s.pod(t)
	newer := podCfg
	newer.Epoch = 43
	if _, err := s.EnsurePod(s.ctx, newer); err == nil {
		t.Error("a newer epoch was made beside the older")
	}
	if err := s.RemovePod(s.ctx, ref); err != nil {
		t.Fatal(err)
	}
	if _, err := s.EnsurePod(s.ctx, newer); err != nil {
		t.Errorf("after removal: %v", err)
	}
}

func startWithoutPod(t *testing.T, s *suite) {
	if _, err := s.StartContainer(s.ctx, ref, config("main", 0, s.Forever)); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}

func instances(t *testing.T, s *suite) {
	s.pod(t)
	seen := map[container.ContainerID]bool{}
	for attempt := range int32(4) {
		c := s.run(t, "main", attempt, s.Exit3)
		if seen[c.ID] || !strings.HasPrefix(string(c.ID), "process://"+ref.UID+"/main/") {
			t.Errorf("id %s is not new, or not of its form", c.ID)
		}
		seen[c.ID] = true
		s.end(t, c.ID)
	}
	side := s.run(t, "side", 0, s.Forever)
	p := s.list(t)
	if len(p.Containers) != 2 || p.Containers[0].Attempt != 3 || p.Containers[1].ID != side.ID || !p.Containers[1].Running {
		t.Errorf("got %+v, want main's attempt 3 and side running", p.Containers)
	}
}

func startTwice(t *testing.T, s *suite) {
	s.pod(t)
	c := s.run(t, "main", 0, s.Forever)
	if _, err := s.StartContainer(s.ctx, ref, config("main", 1, s.Forever)); err == nil {
		t.Error("a second instance was started beside the first")
	}
	if p := s.list(t); len(p.Containers) != 1 || p.Containers[0].ID != c.ID {
		t.Errorf("got %+v, want the first instance", p.Containers)
	}
}

func exitCode(t *testing.T, s *suite) {
	s.pod(t)
	before := time.Now()
	c := s.end(t, s.run(t, "main", 2, s.Exit3).ID)
	if c.ExitCode != 3 || c.Signal != 0 || c.Reason != "Error" || c.Attempt != 2 {
		t.Errorf("got %+v, want exit code 3, Error, attempt 2", c)
	}
	if c.StartedAt.Before(before.Add(-time.Second)) || c.FinishedAt.Before(c.StartedAt) {
		t.Errorf("started %v, finished %v", c.StartedAt, c.FinishedAt)
	}
	if c := s.end(t, s.run(t, "main", 3, s.Lines).ID); c.ExitCode != 0 || c.Reason != "Completed" {
		t.Errorf("got %+v, want exit code 0, Completed", c)
	}
}

func cannotStart(t *testing.T, s *suite) {
	s.pod(t)
	if _, err := s.StartContainer(s.ctx, ref, config("main", 0, s.Missing)); !errors.Is(err, container.ErrCannotStart) {
		t.Errorf("got %v, want ErrCannotStart", err)
	}
	if p := s.list(t); len(p.Containers) != 0 {
		t.Errorf("got %+v, want no instance", p.Containers)
	}
	first := s.run(t, "main", 0, s.Exit3)
	s.end(t, first.ID)
	if _, err := s.StartContainer(s.ctx, ref, config("main", 1, s.Missing)); !errors.Is(err, container.ErrCannotStart) {
		t.Errorf("got %v, want ErrCannotStart", err)
	}
	if p := s.list(t); len(p.Containers) != 1 || p.Containers[0].ID != first.ID {
		t.Errorf("got %+v, want the instance before", p.Containers)
	}
}

func stopGently(t *testing.T, s *suite) {
	s.pod(t)
	c := s.run(t, "main", 0, s.Forever)
	start := time.Now()
	if err := s.StopContainer(s.ctx, c.ID, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v of a grace of 30s", took)
	}
	if got := s.list(t).Containers[0]; got.Running || got.ExitCode != 143 || got.Signal != 15 || got.Reason != "Error" {
		t.Errorf("got %+v, want ended by SIGTERM", got)
	}
}

func stopStubborn(t *testing.T, s *suite) {
	s.pod(t)
	c := s.stubborn(t)
	start := time.Now()
	if err := s.StopContainer(s.ctx, c.ID, 300*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 300*time.Millisecond {
		t.Errorf("took %v, less than the grace", took)
	}
	if got := s.list(t).Containers[0]; got.Running || got.ExitCode != 137 || got.Signal != 9 {
		t.Errorf("got %+v, want killed", got)
	}
}

func stopShortened(t *testing.T, s *suite) {
	s.pod(t)
	c := s.stubborn(t)
	first := make(chan error, 1)
	go func() { first <- s.StopContainer(s.ctx, c.ID, time.Hour) }()
	if err := s.StopContainer(s.ctx, c.ID, 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-first:
		if err != nil {
			t.Error(err)
		}
	case <-s.ctx.Done():
		t.Error("the first stop goes on")
	}
}

func stopEnded(t *testing.T, s *suite) {
	s.pod(t)
	c := s.run(t, "main", 0, s.Exit3)
	s.end(t, c.ID)
	if err := s.StopContainer(s.ctx, c.ID, time.Hour); err != nil {
		t.Error(err)
	}
	if got := s.list(t).Containers[0]; got.ExitCode != 3 {
		t.Errorf("exit code became %d", got.ExitCode)
	}
	if err := s.StopContainer(s.ctx, "process://"+container.ContainerID(ref.UID)+"/main/9-ffffffff", 0); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("unknown instance: got %v, want ErrNotFound", err)
	}
}

func removePod(t *testing.T, s *suite) {
	if err := s.RemovePod(s.ctx, ref); err != nil {
		t.Errorf("unknown pod: %v", err)
	}
	s.pod(t)
	c := s.stubborn(t)
	if err := s.RemovePod(s.ctx, container.PodRef{UID: ref.UID, Epoch: 41}); err != nil {
		t.Errorf("other epoch: %v", err)
	}
	if p := s.list(t); !p.Containers[0].Running {
		t.Error("removing another epoch ended this one")
	}
	if err := s.RemovePod(s.ctx, ref); err != nil {
		t.Fatal(err)
	}
	if l, err := s.List(s.ctx); err != nil || len(l.Pods) != 0 {
		t.Errorf("after removal: %+v, %v", l, err)
	}
	if err := s.StopContainer(s.ctx, c.ID, 0); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("stop after removal: %v, want ErrNotFound", err)
	}
}

func execOutputs(t *testing.T, s *suite) {
	s.pod(t)
	c := s.run(t, "main", 0, s.Forever)
	for range 3 {
		r, err := s.Exec(s.ctx, c.ID, container.ExecConfig{Argv: s.ExecOut, Timeout: 20 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if r.ExitCode != 7 || string(r.Stdout) != "out" || string(r.Stderr) != "err" || r.Duration < 0 {
			t.Errorf("got %+v", r)
		}
	}
}

func execCut(t *testing.T, s *suite) {
	s.pod(t)
	c := s.run(t, "main", 0, s.Forever)
	for _, limit := range []int{0, 1000} {
		r, err := s.Exec(s.ctx, c.ID, container.ExecConfig{Argv: s.ExecFlood, OutputLimit: limit})
		if err != nil || r.ExitCode != 0 {
			t.Fatalf("%+v, %v", r.ExitCode, err)
		}
		want := limit
		if limit == 0 {
			want = 10240
		}
		if len(r.Stdout) != want || len(bytes.Trim(r.Stdout, "x")) != 0 {
			t.Errorf("limit %d: got %d bytes", limit, len(r.Stdout))
		}
	}
}

func execTimeout(t *testing.T, s *suite) {
	s.pod(t)
	c := s.run(t, "main", 0, s.Forever)
	start := time.Now()
	if _, err := s.Exec(s.ctx, c.ID, container.ExecConfig{Argv: s.ExecHang, Timeout: 200 * time.Millisecond}); !errors.Is(err, container.ErrTimeout) {
		t.Errorf("got %v, want ErrTimeout", err)
	}
	if took := time.Since(start); took < 200*time.Millisecond || took > 10*time.Second {
		t.Errorf("took %v", took)
	}
	ctx, cancel := context.WithTimeout(s.ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := s.Exec(ctx, c.ID, container.ExecConfig{Argv: s.ExecHang}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("end of ctx: got %v, want its error", err)
	}
	if p := s.list(t); !p.Containers[0].Running {
		t.Error("the container ended with the exec")
	}
}

func execCannotStart(t *testing.T, s *suite) {
	s.pod(t)
	c := s.run(t, "main", 0, s.Forever)
	if _, err := s.Exec(s.ctx, c.ID, container.ExecConfig{Argv: s.Missing}); !errors.Is(err, container.ErrCannotStart) {
		t.Errorf("got %v, want ErrCannotStart", err)
	}
}

func execNotRunning(t *testing.T, s *suite) {
	s.pod(t)
	c := s.run(t, "main", 0, s.Exit3)
	s.end(t, c.ID)
	if _, err := s.Exec(s.ctx, c.ID, container.ExecConfig{Argv: s.ExecOut}); !errors.Is(err, container.ErrNotRunning) {
		t.Errorf("got %v, want ErrNotRunning", err)
	}
	if _, err := s.Exec(s.ctx, "process://nobody/main/0-00000000", container.ExecConfig{Argv: s.ExecOut}); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("unknown pod: got %v, want ErrNotFound", err)
	}
}

func execAtOnce(t *testing.T, s *suite) {
	s.pod(t)
	for i, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		started := make(chan error, 1)
		go func() {
			_, err := s.StartContainer(s.ctx, ref, config(name, 0, s.Forever))
			started <- err
		}()
		for {
			if cs := s.list(t).Containers; len(cs) > i {
				for _, c := range cs {
					if r, err := s.Exec(s.ctx, c.ID, container.ExecConfig{Argv: s.ExecOut}); err != nil || r.ExitCode != 7 {
						t.Errorf("%s: %+v, %v", c.ID, r, err)
					}
				}
				break
			}
		}
		if err := <-started; err != nil {
			t.Fatal(err)
		}
	}
}

func logs(t *testing.T, s *suite) {
	s.pod(t)
	c := s.run(t, "main", 0, s.Lines)
	s.end(t, c.ID)
	for _, tc := range []struct {
		opts container.LogOptions
		want string
	}{
		{container.LogOptions{Tail: -1}, "one\ntwo\nthree\n"},
		{container.LogOptions{Tail: 2}, "two\nthree\n"},
		{container.LogOptions{Tail: 0}, ""},
		{container.LogOptions{Tail: -1, Since: time.Now().Add(time.Hour)}, ""},
	} {
		var b bytes.Buffer
		if err := s.Logs(s.ctx, c.ID, tc.opts, &b); err != nil || b.String() != tc.want {
			t.Errorf("%+v: got %q, %v; want %q", tc.opts, b.String(), err, tc.want)
		}
	}
	var b bytes.Buffer
	if err := s.Logs(s.ctx, c.ID, container.LogOptions{Tail: 1, Timestamps: true}, &b); err != nil {
		t.Fatal(err)
	}
	when, text, _ := strings.Cut(b.String(), " ")
	if _, err := time.Parse(time.RFC3339Nano, when); err != nil || text != "three\n" {
		t.Errorf("with time: got %q", b.String())
	}
}

func logsFollowed(t *testing.T, s *suite) {
	s.pod(t)
	c := s.run(t, "main", 0, s.Forever)
	done := make(chan error, 1)
	go func() { done <- s.Logs(s.ctx, c.ID, container.LogOptions{Tail: -1, Follow: true}, &bytes.Buffer{}) }()
	if err := s.StopContainer(s.ctx, c.ID, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-s.ctx.Done():
		t.Error("follows for ever")
	}
}

func changes(t *testing.T, s *suite) {
	s.pod(t)
	c := s.run(t, "main", 0, s.Forever)
	for drained := false; !drained; {
		select {
		case <-s.Changes():
		case <-time.After(200 * time.Millisecond):
			drained = true
		}
	}
	if err := s.StopContainer(s.ctx, c.ID, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Changes():
	case <-s.ctx.Done():
		t.Error("no hint")
	}
}

// volumes: where volumes are given at all.
func volumes(t *testing.T, s *suite) {
	info, err := s.Info(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	cfg := podCfg
	cfg.Volumes = []container.PodVolume{{Name: "v", SizeLimit: 1 << 20, GID: -1}}
	_, err = s.EnsurePod(s.ctx, cfg)
	if info.Isolation == "none" {
		if !errors.Is(err, container.ErrUnsupported) {
			t.Errorf("a volume without mount namespaces: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	const most = int64(1) << 30
	before, err := s.VolumeUsage(s.ctx, ref, "v", most)
	if err != nil || before > 16<<10 {
		t.Fatalf("an empty volume takes %d, %v", before, err)
	}
	c := config("fill", 0, s.Fill)
	c.Mounts = []container.Mount{{Volume: "v", Target: "/volume"}}
	started, err := s.StartContainer(s.ctx, ref, c)
	if err != nil {
		t.Fatal(err)
	}
	if end := s.end(t, started.ID); end.ExitCode != 0 {
		t.Fatalf("it ended with %d", end.ExitCode)
	}
	if after, err := s.VolumeUsage(s.ctx, ref, "v", most); err != nil || after-before < 64<<10 || after-before > 200<<10 {
		t.Errorf("the full volume takes %d, %v; one file of 100,000 bytes under two names is in it", after, err)
	}
	if some, err := s.VolumeUsage(s.ctx, ref, "v", 1); err != nil || some < 2 {
		t.Errorf("more than one byte: %d, %v", some, err)
	}
	for _, x := range []struct {
		ref    container.PodRef
		volume string
	}{{ref, "other"}, {container.PodRef{UID: "other", Epoch: 1}, "v"}, {container.PodRef{UID: ref.UID, Epoch: ref.Epoch + 1}, "v"}, {ref, "../volumes/v"}} {
		if _, err := s.VolumeUsage(s.ctx, x.ref, x.volume, most); !errors.Is(err, container.ErrNotFound) {
			t.Errorf("volume %s of %v: %v", x.volume, x.ref, err)
		}
	}
}

// uses measures a container.
func (s *suite) uses(t *testing.T, id container.ContainerID) container.Usage {
	t.Helper()
	u, err := s.Usage(s.ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if u.CPU < 0 || u.MemoryBytes < 0 || u.At.IsZero() {
		t.Fatalf("usage %+v: something is unknown", u)
	}
	return u
}

// until measures a container until what it has used since first is as wanted.
func (s *suite) until(t *testing.T, id container.ContainerID, wanted func(container.Usage) bool) container.Usage {
	t.Helper()
	for {
		u := s.uses(t, id)
		if wanted(u) {
			return u
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-s.ctx.Done():
			t.Fatalf("usage stays %+v", u)
		}
	}
}

func usage(t *testing.T, s *suite) {
	s.pod(t)
	idle, busy := s.run(t, "idle", 0, s.Forever), s.run(t, "busy", 0, s.Burn)
	first := s.until(t, busy.ID, func(u container.Usage) bool { return u.MemoryBytes >= 32<<20 })
	calm := s.uses(t, idle.ID)
	last := s.until(t, busy.ID, func(u container.Usage) bool { return u.CPU-first.CPU >= 300*time.Millisecond })
	// A process that burns is on one core at a time, but for its init; ticks are 10 ms.
	if took := last.At.Sub(first.At); last.CPU-first.CPU > took+100*time.Millisecond {
		t.Errorf("%v of processor time within %v", last.CPU-first.CPU, took)
	}
	if u := s.uses(t, idle.ID); u.CPU < calm.CPU || u.CPU-calm.CPU > 100*time.Millisecond || u.MemoryBytes >= 32<<20 {
		t.Errorf("beside it a container that waits went from %+v to %+v", calm, u)
	}
}

func usageOfExec(t *testing.T, s *suite) {
	s.pod(t)
	c := s.run(t, "main", 0, s.Forever)
	before := s.uses(t, c.ID)
	r, err := s.Exec(s.ctx, c.ID, container.ExecConfig{Argv: s.ExecBurn})
	if err != nil || r.ExitCode != 0 || r.CPU < 100*time.Millisecond {
		t.Fatalf("exec %+v, %v; want 100ms of processor time at least", r, err)
	}
	const tick = 10 * time.Millisecond // one for each of user and system time
	s.until(t, c.ID, func(u container.Usage) bool { return u.CPU-before.CPU >= r.CPU-2*tick })
}

func usageNotRunning(t *testing.T, s *suite) {
	s.pod(t)
	c := s.run(t, "main", 0, s.Exit3)
	s.end(t, c.ID)
	if u, err := s.Usage(s.ctx, c.ID); !errors.Is(err, container.ErrNotRunning) {
		t.Errorf("got %+v, %v, want ErrNotRunning", u, err)
	}
	for _, id := range []container.ContainerID{
		"process://nobody/main/0-00000000", "process://" + container.ContainerID(ref.UID) + "/main/9-ffffffff",
	} {
		if u, err := s.Usage(s.ctx, id); !errors.Is(err, container.ErrNotFound) {
			t.Errorf("%s: got %+v, %v, want ErrNotFound", id, u, err)
		}
	}
}

func overhead(t *testing.T, s *suite) {
	last := time.Duration(0)
	look := func(when string) {
		t.Helper()
		now, err := s.Overhead(s.ctx)
		if err != nil || now < last {
			t.Errorf("%s: %v, %v; it was %v", when, now, err, last)
		}
		last = now
	}
	look("without pods")
	s.pod(t)
	s.run(t, "main", 0, s.Forever)
	look("with a pod")
	if err := s.RemovePod(s.ctx, ref); err != nil {
		t.Fatal(err)
	}
	look("without it again")
}
