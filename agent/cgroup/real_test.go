package cgroup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The main thread never ends, so it must not be one that joins a group.
func init() { runtime.LockOSThread() }

// real is a manager of this machine's groups, with a root that goes with the test.
func real(t *testing.T) *Manager {
	t.Helper()
	return manager(t, "")
}

// real1 is real without what the machine has of version 2; it skips where there is nothing else.
func real1(t *testing.T) *Manager {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), " - cgroup ") {
		t.Skip("a machine with version 2 alone")
	}
	var kept strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, " - cgroup2 ") {
			kept.WriteString(line)
		}
	}
	path := filepath.Join(t.TempDir(), "mountinfo")
	if err := os.WriteFile(path, []byte(kept.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return manager(t, path)
}

func manager(t *testing.T, mountinfo string) *Manager {
	t.Helper()
	skip := t.Skip
	if os.Getenv("CI") == "true" && os.Geteuid() == 0 {
		skip = t.Fatal
	}
	m, err := New(Config{Mountinfo: mountinfo, DataDir: t.TempDir(), Parent: fmt.Sprintf("/muster-cgroup-test-%d", os.Getpid())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := m.Sweep(func(string) bool { return false }, 10*time.Second); err != nil {
			t.Errorf("sweep: %v", err)
		}
		m.Close()
		for _, dir := range m.root.all() {
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left: %v", dir, err)
			}
		}
	})
	for _, c := range controllers {
		if err := m.Available(c); err != nil {
			skip("needs all cgroup controllers: ", err)
		}
	}
	return m
}

// makeBoth makes a pod and a container of it.
func makeBoth(t *testing.T, m *Manager, limits Limits) (pod, container Group) {
	t.Helper()
	pod, err := m.MakePod(PodName("uid", 7), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	container, err = pod.MakeChild("main", limits)
	if err != nil {
		t.Fatal(err)
	}
	return pod, container
}

// start starts a shell script inside a group.
func start(t *testing.T, g Group, script string) (cmd *exec.Cmd, output io.Reader) {
	t.Helper()
	cmd = exec.Command("sh", "-c", script)
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Never unlocked: the thread ends with the goroutine.
		e := g.Entry()
		if err := e.Join(); err != nil {
			started <- err
			return
		}
		if e.Unified != "" {
			dir, err := os.Open(e.Unified)
			if err != nil {
				started <- err
				return
			}
			defer dir.Close()
			cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
		}
		started <- cmd.Start()
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	return cmd, output
}

// until polls for at most 10 s.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func TestAProcessStartsInsideEveryHierarchy(t *testing.T) {
	m := real(t)
	_, container := makeBoth(t, m, Limits{})
	cmd, output := start(t, container, "cat /proc/self/cgroup")
	text, err := io.ReadAll(output)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	want := 0
	for range container.all() {
		want++
	}
	if got := strings.Count(string(text), "/uid-7/main\n"); got < want {
		t.Errorf("it is in the container's group of %d hierarchies, want %d:\n%s", got, want, text)
	}
	if u, err := m.Pod("uid-7").Usage(); err != nil || u.CPU <= 0 {
		t.Errorf("the pod's usage is %+v, %v; want its container's CPU in it", u, err)
	}
}

func TestAProcessOverItsMemoryIsKilledAndCounted(t *testing.T) {
	_, container := makeBoth(t, real(t), Limits{MemoryBytes: 32 << 20})
	// One process, which looks for the end of the first line: a second one may be killed too while the first one ends.
	cmd, _ := start(t, container, "exec tail /dev/zero")
	timer := time.AfterFunc(10*time.Second, func() { container.Kill(time.Second) })
	defer timer.Stop()
	cmd.Wait()
	if n, err := container.OOMKills(); err != nil || n != 1 {
		t.Errorf("OOM kills %d, %v; want 1", n, err)
	}
}

func TestTheWorkingSetLeavesOutTheFileCache(t *testing.T) {
	_, container := makeBoth(t, real(t), Limits{MemoryBytes: 128 << 20})
	path := filepath.Join(t.TempDir(), "file")
	cmd, output := start(t, container, fmt.Sprintf("head -c 40000000 /dev/zero > %s; sync %[1]s; echo; exec sleep 60", path))
	io.ReadFull(output, make([]byte, 1))
	defer cmd.Process.Kill()
	u, err := container.Usage()
	if err != nil || u.MemoryBytes < 4096 || u.MemoryBytes > 20<<20 {
		t.Errorf("a sleep that wrote 40 MB uses %d bytes, %v; want less than 20 MiB", u.MemoryBytes, err)
	}
	if u.PIDs != 1 {
		t.Errorf("it has %d processes, want 1", u.PIDs)
	}
}

func TestAQuotaThrottles(t *testing.T) {
	_, container := makeBoth(t, real(t), Limits{MilliCPU: 100})
	begin := time.Now()
	start(t, container, "while :; do :; done")
	until(t, "it is throttled for 500 ms", func() bool {
		u, err := container.Usage()
		if err != nil {
			t.Fatal(err)
		}
		return u.Throttled > 500*time.Millisecond
	})
	u, err := container.Usage()
	took := time.Since(begin)
	t.Logf("CPU %v in %v, throttled for %v", u.CPU, took, u.Throttled)
	// One period more than were begun, and a slice of slack for each.
	if most := took/10 + 100*time.Millisecond; err != nil || u.CPU > most {
		t.Errorf("used %v in %v, %v; want at most %v", u.CPU, took, err, most)
	}
}

func TestALimitOfProcessesRefusesTheNextFork(t *testing.T) {
	_, container := makeBoth(t, real(t), Limits{PIDs: 4})
	_, output := start(t, container, "exec 2>&1; for i in 1 2 3 4 5 6; do sleep 60 > /dev/null 2>&1 & done")
	text, err := io.ReadAll(output)
	if err != nil || !strings.Contains(strings.ToLower(string(text)), "fork") {
		t.Errorf("six children under a limit of four: %q, %v; want a refused fork", text, err)
	}
	if u, err := container.Usage(); err != nil || u.PIDs > 4 {
		t.Errorf("usage %+v, %v; want at most 4 processes", u, err)
	}
}

func TestKillTakesWhatHasLeftItsSession(t *testing.T) {
	for _, how := range []string{"all", "without version 2", "without a freezer", "the frozen"} {
		t.Run(how, func(t *testing.T) {
			of := real
			if how == "without a freezer" || how == "without version 2" {
				of = real1
			}
			pod, container := makeBoth(t, of(t), Limits{})
			if how == "without a freezer" {
				delete(pod.Dirs, Freezer)
			}
			cmd, output := start(t, container, "for i in 1 2 3 4 5; do (setsid sh -c '(trap \"\" TERM; setsid sleep 600) & sleep 600' &) & done; wait; echo; sleep 600")
			io.ReadFull(output, make([]byte, 1))
			until(t, "the tree has grown", func() bool {
				pids, err := pod.Processes()
				return err == nil && len(pids) >= 12
			})
			if how == "the frozen" {
				pod.freeze(time.Now().Add(time.Second))
			}
			begin := time.Now()
			if err := pod.Kill(10 * time.Second); err != nil {
				t.Fatal(err)
			}
			t.Logf("killed in %v", time.Since(begin))
			cmd.Wait()
			if pids, err := pod.Processes(); err != nil || len(pids) > 0 {
				t.Errorf("%v are left, %v", pids, err)
			}
		})
	}
}

func TestKillSparesAProcessThatOnlyLentAThread(t *testing.T) {
	pod, container := makeBoth(t, real1(t), Limits{})
	joined, leave := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		joined <- container.Entry().Join()
		<-leave
	}()
	defer close(leave)
	if err := <-joined; err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(container.Dirs[Freezer], "cgroup.procs"))
	if err != nil || strings.TrimSpace(string(text)) != fmt.Sprint(os.Getpid()) {
		t.Fatalf("cgroup.procs has %q, %v; want this process", text, err)
	}
	cmd, _ := start(t, container, "exec sleep 600")
	if err := pod.Kill(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
}

func TestKillOutrunsWhatForksAllTheTime(t *testing.T) {
	for _, unified := range []bool{true, false} {
		t.Run(fmt.Sprintf("version 2 %v", unified), func(t *testing.T) {
			of := real
			if !unified {
				of = real1
			}
			pod, container := makeBoth(t, of(t), Limits{PIDs: 100})
			cmd, _ := start(t, container, `for i in $(seq 20); do (while :; do sleep 0.001; done) & done; wait`)
			until(t, "it has forked", func() bool {
				pids, err := pod.Processes()
				return err == nil && len(pids) > 20
			})
			begin := time.Now()
			if err := pod.Kill(10 * time.Second); err != nil {
				t.Fatal(err)
			}
			t.Logf("killed in %v", time.Since(begin))
			cmd.Wait()
		})
	}
}

func TestRemoveIsBoundedAndLeavesNothing(t *testing.T) {
	m := real(t)
	pod, container := makeBoth(t, m, Limits{})
	cmd, _ := start(t, container, "exec sleep 600")
	begin := time.Now()
	if err := pod.Remove(100 * time.Millisecond); !errors.Is(err, ErrLeft) || time.Since(begin) > 5*time.Second {
		t.Errorf("with a process in it: %v after %v, want ErrLeft after 100 ms", err, time.Since(begin))
	}
	if err := pod.Kill(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	for range 2 {
		if err := pod.Remove(10 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range append(pod.all(), container.all()...) {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", dir, err)
		}
	}
	if err := pod.Kill(0); err != nil {
		t.Errorf("kill of a group that is gone: %v", err)
	}
}

func TestSweepTakesWhatNobodyWantsAndNothingElse(t *testing.T) {
	m := real(t)
	other := real(t)
	kept, _ := makeBoth(t, m, Limits{})
	if _, err := other.MakePod("theirs-1", Limits{}); err != nil {
		t.Fatal(err)
	}
	lost, err := m.MakePod("lost-3", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	below, err := lost.MakeChild("main", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	cmd, _ := start(t, below, "setsid sleep 600")
	// What a crash in the middle of making or removing leaves: one hierarchy alone.
	half := m.Pod("half-4").all()[0]
	if err := os.Mkdir(half, 0o755); err != nil {
		t.Fatal(err)
	}
	removed, err := m.Sweep(func(name string) bool { return name == "uid-7" }, 10*time.Second)
	if err != nil || strings.Join(removed, " ") != "half-4 lost-3" {
		t.Errorf("swept %v, %v; want half-4 and lost-3", removed, err)
	}
	cmd.Wait()
	if names, err := m.List(); err != nil || strings.Join(names, " ") != "uid-7" {
		t.Errorf("left are %v, %v; want uid-7", names, err)
	}
	if names, err := other.List(); err != nil || strings.Join(names, " ") != "theirs-1" {
		t.Errorf("another agent has %v, %v; want theirs-1", names, err)
	}
	m.Close()
	if _, err := os.Stat(kept.all()[0]); err != nil {
		t.Errorf("close took a pod's group: %v", err)
	}
}

func TestAPodsLimitHoldsItsContainersAndCanBeMadeAgain(t *testing.T) {
	m := real(t)
	for range 2 {
		pod, err := m.MakePod("uid-7", Limits{MilliCPU: 5, MemoryBytes: 64 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pod.MakeChild("main", Limits{MilliCPU: 5, MemoryBytes: 32 << 20}); err != nil {
			t.Fatal(err)
		}
	}
	pod := m.Pod("uid-7")
	if err := pod.Limit(Limits{MilliCPU: 2000, MemoryBytes: 256 << 20, PIDs: 7}); err != nil {
		t.Errorf("raise the limits: %v", err)
	}
	if err := pod.Limit(Limits{MilliCPU: 1000, MemoryBytes: 128 << 20, PIDs: 5}); err != nil {
		t.Errorf("lower the limits: %v", err)
	}
	if len(pod.Entry().Tasks) > 0 {
		for path, want := range map[string]string{filepath.Join(pod.Dirs[Memory], "memory.limit_in_bytes"): "134217728",
			filepath.Join(pod.Dirs[CPU], "cpu.cfs_quota_us"): "100000", filepath.Join(pod.Dirs[CPU], "cpu.shares"): "1024"} {
			if text, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(text)) != want {
				t.Errorf("%s has %q, %v; want %s", path, text, err, want)
			}
		}
	}
}

// BenchmarkPod is the price of the groups of a pod with one container, made, read, and removed.
func BenchmarkPod(b *testing.B) {
	m, err := New(Config{DataDir: b.TempDir(), Parent: fmt.Sprintf("/muster-cgroup-test-%d", os.Getpid())})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	if err := m.Available(Memory); err != nil {
		b.Skip(err)
	}
	for b.Loop() {
		pod, err := m.MakePod("uid-7", Limits{PIDs: 100})
		if err != nil {
			b.Fatal(err)
		}
		c, err := pod.MakeChild("main", Limits{MilliCPU: 100, MemoryBytes: 32 << 20})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Usage(); err != nil {
			b.Fatal(err)
		}
		if err := pod.Remove(10 * time.Second); err != nil {
			b.Fatal(err)
		}
	}
}
