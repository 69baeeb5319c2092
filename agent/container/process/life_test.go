package process_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/container/process"
	"github.com/musterhq/muster/agent/supervisor"
)

// bench is a runtime with one pod.
type bench struct {
	*process.Runtime
	t   testing.TB
	ctx context.Context
	ref container.PodRef
	dir string
	// shape is what the bench's pods are beyond the usual; nil for nothing.
	shape func(*container.PodConfig)
}

var sequence atomic.Int64

func newRef() container.PodRef {
	return container.PodRef{UID: fmt.Sprintf("%08x-0000-4000-8000-%012x", os.Getpid(), sequence.Add(1)), Epoch: 7}
}

func newBench(t testing.TB, change ...func(*process.Config)) *bench {
	t.Helper()
	return newBenchOf(t, nil, change...)
}

// newBenchOf makes a bench whose pods have that shape.
func newBenchOf(t testing.TB, shape func(*container.PodConfig), change ...func(*process.Config)) *bench {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // containers run as other users, too
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	b := &bench{Runtime: start(t, dir, change...), t: t, ctx: ctx, ref: newRef(), dir: dir, shape: shape}
	b.pod(b.ref)
	return b
}

func (b *bench) shaped(cfg container.PodConfig) container.PodConfig {
	if b.shape != nil {
		b.shape(&cfg)
	}
	return cfg
}

func (b *bench) pod(ref container.PodRef) {
	b.t.Helper()
	if _, err := b.EnsurePod(b.ctx, b.shaped(container.PodConfig{PodRef: ref, Namespace: "default", Name: "web", Hostname: "web-host"})); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { // by whichever runtime is the last one
		r := start(b.t, b.dir)
		if err := r.RemovePod(context.Background(), ref); err != nil {
			b.t.Errorf("remove pod: %v", err)
		}
		r.Close()
	})
}

// sh starts a shell script as a container.
func (b *bench) sh(script string, change ...func(*container.ContainerConfig)) container.Container {
	b.t.Helper()
	cfg := container.ContainerConfig{
		Name: "main", Argv: []string{"/bin/sh", "-c", script}, WorkingDir: "/", UID: -1, GID: -1,
		Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
	}
	for _, c := range change {
		c(&cfg)
	}
	c, err := b.StartContainer(b.ctx, b.ref, cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

// output runs a script to its end and returns what it wrote.
func (b *bench) output(script string, change ...func(*container.ContainerConfig)) string {
	b.t.Helper()
	c := b.sh(script, change...)
	b.until("the script's end", func() bool { return !b.find(c.ID).Running })
	return b.log(c.ID)
}

func (b *bench) log(id container.ContainerID) string {
	b.t.Helper()
	var out bytes.Buffer
	if err := b.Logs(b.ctx, id, container.LogOptions{Tail: -1}, &out); err != nil {
		b.t.Fatal(err)
	}
	return out.String()
}

func (b *bench) find(id container.ContainerID) container.Container {
	b.t.Helper()
	l, err := b.List(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, p := range l.Pods {
		for _, c := range p.Containers {
			if c.ID == id {
				return c
			}
		}
	}
	b.t.Fatalf("no container %s in %+v", id, l)
	return container.Container{}
}

func (b *bench) thePod() container.Pod {
	b.t.Helper()
	l, err := b.List(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, p := range l.Pods {
		if p.PodRef == b.ref {
			return p
		}
	}
	b.t.Fatalf("no pod in %+v", l)
	return container.Pod{}
}

// until polls, for a condition that no channel tells of.
func (b *bench) until(what string, cond func() bool) {
	b.t.Helper()
	poll(b.t, b.ctx, what, cond)
}

func poll(t testing.TB, ctx context.Context, what string, cond func() bool) {
	t.Helper()
	for !cond() {
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// supervisor is the pod's supervisor, as its record says.
func (b *bench) supervisor() supervisor.SupervisorRecord {
	b.t.Helper()
	r, err := supervisor.ReadSupervisorRecord(filepath.Join(b.dir, "pods", b.ref.UID+"-7"))
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// running counts the processes whose command line is these words.
func running(words ...string) int {
	want := []byte(strings.Join(words, "\x00") + "\x00")
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	n := 0
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && bytes.Equal(b, want) {
			n++
		}
	}
	return n
}

// unique is a number of seconds that no other sleep in the world has.
func unique() string {
	return fmt.Sprintf("%d.%d", 100000+os.Getpid(), sequence.Add(1))
}

// daemonise is a script that leaves a sleep behind, twice forked and in a session of its own.
func daemonise(seconds string) string { return "setsid sh -c 'sleep " + seconds + " & exit 0'; " }

func sharePID(c *container.PodConfig) { c.SharePID = true }
func hostPID(c *container.PodConfig)  { c.HostPID = true }

// eachMode runs a test wherever processes are kept together in another way.
func eachMode(t *testing.T, test func(t *testing.T, b *bench)) {
	for _, mode := range []struct {
		name   string
		shape  func(*container.PodConfig)
		change []func(*process.Config)
	}{{"Isolated", nil, nil}, {"SharedPIDs", sharePID, nil}, {"NodesPIDs", hostPID, nil}, {"Plain", nil, []func(*process.Config){plain}}} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			if mode.name == "SharedPIDs" && os.Geteuid() != 0 {
				t.Skip("a shared PID namespace is root's to make")
			}
			test(t, newBenchOf(t, mode.shape, mode.change...))
		})
	}
}

func TestIsolationIsWhatTheKernelAllows(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	info, err := r.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := "user"
	if os.Geteuid() == 0 {
		want = "full"
	}
	if info.Isolation != want && os.Getenv("CI") != "" {
		t.Errorf("isolation %s, want %s", info.Isolation, want)
	}
	if (info.Fence == "kernel") != (info.Isolation != "none") {
		t.Errorf("isolation %s with fence %s", info.Isolation, info.Fence)
	}
	t.Logf("%+v", info)
}

func TestPodOutlivesItsAgentAndIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, b *bench) {
		long, short := b.sh("echo hello; sleep 3600 & wait"), b.sh("read x < $MUSTER_POD_DIR/go; exit 9", func(c *container.ContainerConfig) {
			c.Name = "short"
			c.Argv[2] = "while ! test -e $MUSTER_POD_DIR/go; do sleep 0.01; done; exit 9"
		})
		before := b.supervisor()
		b.Runtime.Close()
		if err := os.WriteFile(filepath.Join(b.Dirs(b.ref).Pod, "go"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		state := filepath.Join(b.dir, "pods", b.ref.UID+"-7", "c", "short_"+string(short.ID[strings.LastIndex(string(short.ID), "/")+1:]), "state")
		b.until("the exit code on disk", func() bool {
			s, _ := os.ReadFile(state)
			return strings.Contains(string(s), "exit=9\n")
		})
		b.Runtime = start(t, b.dir)
		if got := b.find(short.ID); got.Running || got.ExitCode != 9 {
			t.Errorf("ended while no agent ran: %+v", got)
		}
		if got := b.find(long.ID); !got.Running || !got.StartedAt.Equal(long.StartedAt) {
			t.Errorf("got %+v, want %+v", got, long)
		}
		if b.supervisor() != before {
			t.Error("another supervisor")
		}
		r, err := b.Exec(b.ctx, long.ID, container.ExecConfig{Argv: []string{"echo", "again"}})
		if err != nil || string(r.Stdout) != "again\n" {
			t.Errorf("exec: %+v, %v", r, err)
		}
		if err := b.StopContainer(b.ctx, long.ID, 10*time.Second); err != nil {
			t.Error(err)
		}
		if got := b.log(long.ID); got != "hello\n" {
			t.Errorf("log %q", got)
		}
	})
}

func TestPIDOfAnotherProcessIsNoSupervisor(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.sh("sleep 3600")
	b.Runtime.Close()
	sup := b.supervisor()
	if err := sup.Kill(); err != nil {
		t.Fatal(err)
	}
	b.until("its death", func() bool { return !sup.Alive() })
	// The kernel may give the pid to anyone: here to us.
	file := filepath.Join(b.dir, "pods", b.ref.UID+"-7", "supervisor")
	rec, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	rec = bytes.Replace(rec, []byte("pid="+strconv.Itoa(sup.PID)), []byte("pid="+strconv.Itoa(os.Getpid())), 1)
	if err := os.WriteFile(file, rec, 0o600); err != nil {
		t.Fatal(err)
	}
	b.Runtime = start(t, b.dir)
	b.until("the pod counted as dead", func() bool { return b.thePod().Dead })
	if got := b.find(c.ID); got.Running || got.Reason != "SupervisorDied" || got.ExitCode != 137 {
		t.Errorf("got %+v", got)
	}
}

func TestDeadSupervisorTakesEverythingAlong(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, b *bench) {
		sleep := unique()
		c := b.sh(daemonise(sleep) + "sleep " + sleep)
		b.until("both sleeps", func() bool { return running("sleep", sleep) == 2 })
		sup := b.supervisor()
		if err := sup.Kill(); err != nil {
			t.Fatal(err)
		}
		b.until("the pod's death", func() bool { return b.thePod().Dead })
		if n := running("sleep", sleep); n != 0 {
			t.Errorf("%d processes outlive their pod's death", n)
		}
		if p := b.thePod(); p.DeadReason != "SupervisorDied" || p.Containers[0].Running || p.Containers[0].Signal != 9 {
			t.Errorf("got %+v", p)
		}
		if _, err := b.Exec(b.ctx, c.ID, container.ExecConfig{Argv: []string{"true"}}); !errors.Is(err, container.ErrNotRunning) {
			t.Errorf("exec: %v, want ErrNotRunning", err)
		}
		if err := b.StopContainer(b.ctx, c.ID, time.Hour); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
}

func TestNothingOutlivesTheMainProcess(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, b *bench) {
		sleep := unique()
		c := b.sh(daemonise(sleep) + "sleep " + sleep + " & while ! test -e $MUSTER_POD_DIR/go; do sleep 0.01; done; exit 4")
		b.until("both sleeps", func() bool { return running("sleep", sleep) == 2 })
		if err := os.WriteFile(filepath.Join(b.Dirs(b.ref).Pod, "go"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		b.until("the end", func() bool { return !b.find(c.ID).Running })
		if n := running("sleep", sleep); n != 0 {
			t.Errorf("%d processes are left", n)
		}
		if got := b.find(c.ID); got.ExitCode != 4 {
			t.Errorf("got %+v", got)
		}
	})
}

func TestStoppedSupervisorBlocksNobodyAndMakesTheListIncomplete(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.sh("sleep 3600")
	other := newRef()
	b.pod(other)
	sup := b.supervisor()
	if err := syscall.Kill(sup.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	b.until("its stop", func() bool { return sup.Stopped() })
	var l container.List
	b.until("an incomplete list", func() bool {
		start := time.Now()
		var err error
		if l, err = b.List(b.ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
		return !l.Complete
	})
	if len(l.Pods) != 2 {
		t.Errorf("got %+v; want both pods", l)
	}
	if got := b.find(c.ID); !got.Running {
		t.Errorf("got %+v, want what the disk says", got)
	}
	ctx, cancel := context.WithTimeout(b.ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := b.StartContainer(ctx, b.ref, container.ContainerConfig{Name: "side", Argv: []string{"true"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("start: %v", err)
	}
	if err := b.RemovePod(b.ctx, b.ref); err != nil {
		t.Error(err)
	}
	if l, err := b.List(b.ctx); err != nil || !l.Complete || len(l.Pods) != 1 {
		t.Errorf("after removal: %+v, %v", l, err)
	}
	if sup.Alive() {
		t.Error("the supervisor lives on")
	}
}

func TestExecTimeoutKillsTheWholeTree(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, b *bench) {
		keep, sleep := unique(), unique()
		c := b.sh("sleep " + keep)
		_, err := b.Exec(b.ctx, c.ID, container.ExecConfig{
			Argv: []string{"sh", "-c", daemonise(sleep) + "sleep " + sleep + " & sleep " + sleep}, Timeout: 500 * time.Millisecond,
		})
		if !errors.Is(err, container.ErrTimeout) {
			t.Errorf("got %v", err)
		}
		if n := running("sleep", sleep); n != 0 {
			t.Errorf("%d of 3 processes are left", n)
		}
		if n := running("sleep", keep); n != 1 {
			t.Error("the container's own process is gone")
		}
	})
}

func TestEndOfContextKillsTheExec(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.sh("sleep 3600")
	sleep := unique()
	ctx, cancel := context.WithCancel(b.ctx)
	done := make(chan error, 1)
	go func() {
		_, err := b.Exec(ctx, c.ID, container.ExecConfig{Argv: []string{"sleep", sleep}})
		done <- err
	}()
	b.until("the sleep", func() bool { return running("sleep", sleep) == 1 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	b.until("the command's death", func() bool { return running("sleep", sleep) == 0 })
}

func TestExecDoesNotWaitForInheritedPipes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.sh("sleep 3600")
	start := time.Now()
	r, err := b.Exec(b.ctx, c.ID, container.ExecConfig{Argv: []string{"sh", "-c", "echo early; sleep 3600 & exit 3"}, Timeout: 30 * time.Second})
	if err != nil || r.ExitCode != 3 || string(r.Stdout) != "early\n" {
		t.Errorf("got %+v, %v", r, err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	if r.CPU <= 0 {
		t.Errorf("CPU %v", r.CPU)
	}
}

func TestExecHasTheContainersEnvironmentAndDirectory(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.sh("sleep 3600", func(c *container.ContainerConfig) {
		c.WorkingDir = "/usr"
		c.Env = append(c.Env, "COLOUR=red", "SHAPE=round")
	})
	r, err := b.Exec(b.ctx, c.ID, container.ExecConfig{
		Argv: []string{"sh", "-c", "pwd; echo $COLOUR $SHAPE $MUSTER_POD_UID"}, Env: []string{"SHAPE=flat"},
	})
	if want := "/usr\nred flat " + b.ref.UID + "\n"; err != nil || string(r.Stdout) != want {
		t.Errorf("got %q, %v; want %q", r.Stdout, err, want)
	}
}

func TestContainerSeesItsOwnPIDsHostNameAndTmp(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if info, _ := b.Info(b.ctx); info.Isolation == "none" {
		t.Skip("the kernel refuses namespaces")
	}
	below := filepath.Join("/tmp", "muster-"+b.ref.UID)
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(below) })
	if err := os.WriteFile(filepath.Join(below, "f"), []byte("host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := "echo $$; readlink /proc/self >/dev/null; ls /proc | grep -c '^[0-9]'; hostname; ls -A /tmp; touch /tmp/mine; cat " + below + "/f"
	for range 2 { // /tmp is empty at each restart
		got := b.output(script, func(c *container.ContainerConfig) {
			c.Mounts = []container.Mount{{Source: below, Target: below}}
		})
		lines := strings.Split(got, "\n")
		if len(lines) < 5 {
			t.Fatalf("got %q", got)
		}
		if pid, _ := strconv.Atoi(lines[0]); pid < 2 || pid > 20 {
			t.Errorf("$$ is %s, want a small number", lines[0])
		}
		if n, _ := strconv.Atoi(lines[1]); n > 6 {
			t.Errorf("%s processes in /proc, want the container's few", lines[1])
		}
		if lines[2] != "web-host" {
			t.Errorf("host name %s", lines[2])
		}
		if strings.Contains(got, "mine") || !strings.HasSuffix(got, "host\n") {
			t.Errorf("/tmp is not private, or lacks the mount: %q", got)
		}
	}
	if _, err := os.Stat("/tmp/mine"); err == nil {
		t.Error("the host's /tmp was written")
	}
	got := b.output("exec 2>&1; echo x > "+below+"/f || echo refused; cat "+below+"/f", func(c *container.ContainerConfig) {
		c.Mounts = []container.Mount{{Source: below, Target: below, ReadOnly: true}}
	})
	if !strings.HasSuffix(got, "refused\nhost\n") {
		t.Errorf("read-only mount: %q", got)
	}
}

func TestPodDirectoryIsTheContainersToUse(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, b *bench) {
		d := b.Dirs(b.ref)
		got := b.output("cat $MUSTER_POD_DIR/epoch; for d in $MUSTER_POD_DIR "+d.Home+" "+d.Tmp+"; do echo x > $d/mine && cat $d/mine; done", asNobody)
		if got != "7\nx\nx\nx\n" {
			t.Errorf("got %q", got)
		}
	})
}

// asNobody runs a container as another user where that is possible.
func asNobody(c *container.ContainerConfig) {
	if os.Geteuid() == 0 {
		c.UID, c.GID = nobody, nobody
	}
}

func TestContainerAndItsExecsRunAsTheirUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		b := newBench(t)
		_, err := b.StartContainer(b.ctx, b.ref, container.ContainerConfig{Name: "main", Argv: []string{"true"}, UID: 1, GID: 1})
		if !errors.Is(err, container.ErrUnsupported) {
			t.Errorf("another user: %v, want ErrUnsupported", err)
		}
		return
	}
	eachMode(t, func(t *testing.T, b *bench) {
		c := b.sh("id -u; id -g; id -G; echo ready; sleep 3600", asNobody)
		b.until("the output", func() bool { return strings.HasSuffix(b.log(c.ID), "ready\n") })
		want := "65534\n65534\n65534\n"
		if got := b.log(c.ID); got != want+"ready\n" {
			t.Errorf("container: %q", got)
		}
		r, err := b.Exec(b.ctx, c.ID, container.ExecConfig{Argv: []string{"sh", "-c", "id -u; id -g; id -G"}})
		if err != nil || string(r.Stdout) != want {
			t.Errorf("exec: %q, %v", r.Stdout, err)
		}
	})
}

func TestContainersOfOrdinaryUsersKeepNoCapability(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if os.Geteuid() == 0 {
		t.Skip("root's containers keep root's")
	}
	c := b.sh("grep -E 'Cap(Prm|Eff|Amb)' /proc/self/status; echo ready; sleep 3600")
	b.until("the output", func() bool { return strings.HasSuffix(b.log(c.ID), "ready\n") })
	r, err := b.Exec(b.ctx, c.ID, container.ExecConfig{Argv: []string{"grep", "-E", "Cap(Prm|Eff|Amb)", "/proc/self/status"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []string{b.log(c.ID), string(r.Stdout)} {
		if strings.Count(got, "0000000000000000") != 3 {
			t.Errorf("got %q", got)
		}
	}
}

func TestDataDirectoryMayHaveALongPath(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b := &bench{Runtime: start(t, dir), t: t, ctx: ctx, ref: newRef(), dir: dir}
	b.pod(b.ref)
	if got := b.output("echo fine"); got != "fine\n" {
		t.Errorf("got %q", got)
	}
}

func TestWhyACommandCannotStart(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, tc := range []struct {
		name string
		cfg  container.ContainerConfig
		want string
	}{
		{"not in PATH", container.ContainerConfig{Argv: []string{"no-such-program"}}, `exec "no-such-program": executable file not found in $PATH`},
		{"missing file", container.ContainerConfig{Argv: []string{"/no/such"}}, `exec "/no/such": no such file or directory`},
		{"not executable", container.ContainerConfig{Argv: []string{"/etc/passwd"}}, `exec "/etc/passwd": permission denied`},
		{"missing directory", container.ContainerConfig{Argv: []string{"true"}, WorkingDir: "/no/such"}, "working directory: stat /no/such: no such file"},
		{"missing mount", container.ContainerConfig{Argv: []string{"true"}, Mounts: []container.Mount{{Source: "/no/such", Target: "/no/such"}}}, "/no/such"},
		{"no command", container.ContainerConfig{}, "no command"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.cfg.Name, tc.cfg.UID, tc.cfg.GID, tc.cfg.Env = "main", -1, -1, []string{"PATH=/usr/bin:/bin"}
			_, err := b.StartContainer(b.ctx, b.ref, tc.cfg)
			if !errors.Is(err, container.ErrCannotStart) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}

func TestHalfMadePodIsCleared(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	half := filepath.Join(dir, "pods", "aaaa-1")
	if err := os.MkdirAll(half, 0o755); err != nil {
		t.Fatal(err)
	}
	unstarted := filepath.Join(dir, "pods", "bbbb-2")
	if err := os.MkdirAll(unstarted, 0o755); err != nil {
		t.Fatal(err)
	}
	rec := supervisor.PodRecord{UID: "bbbb", Epoch: 2, Created: time.Now()}
	if err := rec.Write(unstarted); err != nil {
		t.Fatal(err)
	}
	r := start(t, dir)
	l, err := r.List(t.Context())
	if err != nil || len(l.Pods) != 0 || !l.Complete {
		t.Errorf("got %+v, %v", l, err)
	}
	for _, d := range []string{half, unstarted} {
		if _, err := os.Stat(d); err == nil {
			t.Errorf("%s is still there", d)
		}
	}
}

func TestOldInstancesAreTakenAway(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var ids []container.ContainerID
	for i := range int32(3) {
		c := b.sh("echo "+strconv.Itoa(int(i)), func(c *container.ContainerConfig) { c.Attempt = i })
		b.until("the end", func() bool { return !b.find(c.ID).Running })
		ids = append(ids, c.ID)
	}
	if err := b.Logs(b.ctx, ids[0], container.LogOptions{Tail: -1}, &bytes.Buffer{}); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("the first instance's log: %v, want ErrNotFound", err)
	}
	if got := b.log(ids[1]) + b.log(ids[2]); got != "1\n2\n" {
		t.Errorf("the last two logs: %q", got)
	}
}

func TestSamePodOnAnotherNodeOfThisMachineIsLeftAlone(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, b *bench) {
		other := newBench(t, plain)
		other.ref = b.ref
		other.pod(b.ref) // a moved pod keeps its uid, and epochs of two clusters may be equal
		mine, theirs := unique(), unique()
		b.sh("sleep " + mine)
		c := other.sh("sleep " + theirs)
		b.until("both", func() bool { return running("sleep", mine) == 1 && running("sleep", theirs) == 1 })
		if sup := b.supervisor(); sup.Kill() != nil {
			t.Fatal("kill")
		}
		b.until("the pod's death", func() bool { return b.thePod().Dead })
		if err := b.RemovePod(b.ctx, b.ref); err != nil {
			t.Fatal(err)
		}
		if !other.find(c.ID).Running || running("sleep", theirs) != 1 || running("sleep", mine) != 0 {
			t.Error("the wrong processes were killed")
		}
	})
}

func TestContainersKeepTheirTimersPrecision(t *testing.T) {
	t.Parallel()
	want, err := os.ReadFile("/proc/thread-self/timerslack_ns")
	if err != nil {
		t.Skip("the kernel does not show timer slack")
	}
	b := newBench(t)
	c := b.sh("cat /proc/self/timerslack_ns; echo ready; sleep 3600")
	b.until("the output", func() bool { return strings.HasSuffix(b.log(c.ID), "ready\n") })
	if got := b.log(c.ID); got != string(want)+"ready\n" {
		t.Errorf("container: %q, want %q", got, want)
	}
	r, err := b.Exec(b.ctx, c.ID, container.ExecConfig{Argv: []string{"cat", "/proc/self/timerslack_ns"}})
	if err != nil || string(r.Stdout) != string(want) {
		t.Errorf("exec: %q, %v; want %q", r.Stdout, err, want)
	}
}

func TestSignalsReachTheMainProcess(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.sh("trap 'echo usr1' USR1; trap 'echo hup' HUP; echo ready; while :; do sleep 0.01; done")
	b.until("the traps", func() bool { return b.log(c.ID) == "ready\n" })
	children, err := filepath.Glob("/proc/" + strconv.Itoa(b.supervisor().PID) + "/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range children {
		list, _ := os.ReadFile(f)
		for pid := range strings.FieldsSeq(string(list)) {
			n, _ := strconv.Atoi(pid)
			syscall.Kill(n, syscall.SIGUSR1)
			b.until("the first signal", func() bool { return strings.HasSuffix(b.log(c.ID), "usr1\n") })
			syscall.Kill(n, syscall.SIGHUP)
		}
	}
	b.until("the second signal", func() bool { return b.log(c.ID) == "ready\nusr1\nhup\n" })
}

func TestTooManyExecsAtATimeAreRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.sh("sleep 3600")
	client := supervisor.Client{Dir: filepath.Join(b.dir, "pods", b.ref.UID+"-7")}
	instance := string(c.ID[strings.LastIndex(string(c.ID), "/")+1:])
	for i := range 64 {
		conn, err := client.Attach(b.ctx, "main", instance)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer conn.Close()
	}
	if _, err := client.Attach(b.ctx, "main", instance); err == nil || !strings.Contains(err.Error(), "more than 64 execs") {
		t.Errorf("got %v", err)
	}
}

func TestOrphansOfExecsAreReaped(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, b *bench) {
		c := b.sh("sleep 3600")
		for range 5 {
			if _, err := b.Exec(b.ctx, c.ID, container.ExecConfig{Argv: []string{"sh", "-c", daemonise("0.01")}}); err != nil {
				t.Fatal(err)
			}
		}
		sup := b.supervisor().PID
		zombies := func() (n int) {
			files, _ := filepath.Glob("/proc/[0-9]*/stat")
			for _, f := range files {
				pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
				st, err := supervisor.ReadStat(pid)
				if err != nil || !st.Dead() {
					continue
				}
				if parent, err := supervisor.ReadStat(st.PPID); err == nil && (parent.PPID == sup || parent.PID == sup) {
					n++
				}
			}
			return n
		}
		b.until("the last sleep's end", func() bool { return running("sleep", "0.01") == 0 })
		b.until("no zombie of this pod", func() bool { return zombies() == 0 })
	})
}
