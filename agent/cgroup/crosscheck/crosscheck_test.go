// Package crosscheck holds muster's control groups against another implementation, containerd/cgroups. It is a module of its
// own: what it imports is nobody else's.
package crosscheck

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3/cgroup1"
	stats1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	"github.com/containerd/cgroups/v3/cgroup2"

	"github.com/musterhq/muster/agent/cgroup"
)

var limits = cgroup.Limits{MilliCPU: 1500, CPURequest: 250, MemoryBytes: 64 << 20, PIDs: 77}

// version1 is what is mounted here without version 2, which ours prefers where both count the same.
func version1(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
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
	return path
}

// manager makes groups of this machine that go with the test.
func manager(t *testing.T) (m *cgroup.Manager, parent string) {
	t.Helper()
	parent = fmt.Sprintf("/muster-crosscheck-%d", os.Getpid())
	m, err := cgroup.New(cgroup.Config{DataDir: t.TempDir(), Parent: parent, Mountinfo: version1(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := m.Sweep(func(string) bool { return false }, 10*time.Second); err != nil {
			t.Errorf("sweep: %v", err)
		}
		m.Close()
	})
	return m, parent
}

// below is a group's path in its hierarchy, by one of its directories.
func below(t *testing.T, dir, parent string) string {
	t.Helper()
	at := strings.Index(dir, parent+"/")
	if at < 0 {
		t.Fatalf("%s is not below %s", dir, parent)
	}
	return dir[at:]
}

func TestGroupsOfVersion1AreReadAlikeByBoth(t *testing.T) {
	m, parent := manager(t)
	for _, c := range []string{cgroup.CPU, cgroup.CPUAcct, cgroup.Memory, cgroup.PIDs} {
		if err := m.Available(c); err != nil {
			if os.Getenv("CI") == "true" && os.Geteuid() == 0 {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	pod, err := m.MakePod(cgroup.PodName("uid", 1), cgroup.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	group, err := pod.MakeChild("main", limits)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := cgroup1.Load(cgroup1.StaticPath(below(t, group.Dirs[cgroup.Memory], parent)))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "read go; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; read end")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	if err := theirs.Add(cgroup1.Process{Pid: cmd.Process.Pid}); err != nil {
		t.Fatal(err)
	}
	if pids, err := group.Processes(); err != nil || len(pids) != 1 || pids[0] != cmd.Process.Pid {
		t.Errorf("they added %d, we see %v, %v", cmd.Process.Pid, pids, err)
	}
	if _, err := fmt.Fprintln(in, "go"); err != nil {
		t.Fatal(err)
	}
	// Both read while nothing runs: the loop is over when the processor time stands still.
	var ours cgroup.Usage
	var they *stats1.Metrics
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		before, err := group.Usage()
		if err != nil {
			t.Fatal(err)
		}
		if they, err = theirs.Stat(cgroup1.IgnoreNotExist); err != nil {
			t.Fatal(err)
		}
		if ours, err = group.Usage(); err != nil {
			t.Fatal(err)
		}
		if ours.CPU == before.CPU && ours.CPU > 10*time.Millisecond && ours.MemoryBytes == before.MemoryBytes {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("it never stands still: %+v", ours)
		}
	}
	same(t, "CPU time in ns", uint64(ours.CPU), they.CPU.Usage.Total)
	same(t, "throttled time in ns", uint64(ours.Throttled), they.CPU.Throttling.ThrottledTime)
	same(t, "working set", uint64(ours.MemoryBytes), they.Memory.Usage.Usage-they.Memory.TotalInactiveFile)
	same(t, "memory limit", uint64(limits.MemoryBytes), they.Memory.Usage.Limit)
	same(t, "processes", uint64(ours.PIDs), they.Pids.Current)
	same(t, "limit of processes", uint64(limits.PIDs), they.Pids.Limit)
}

func same(t *testing.T, what string, ours, theirs uint64) {
	t.Helper()
	if ours != theirs {
		t.Errorf("%s: %d, they say %d", what, ours, theirs)
	}
}

// A machine with version 2 alone is imitated by files: what one writes the other reads, in both directions.
func TestFilesOfVersion2AreWrittenAlikeByBoth(t *testing.T) {
	dir := t.TempDir()
	mount := filepath.Join(dir, "cgroup")
	mountinfo := filepath.Join(dir, "mountinfo")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(mountinfo, "41 31 0:38 / "+mount+" rw,relatime shared:7 - cgroup2 cgroup2 rw\n")
	plant := func(path string) string {
		t.Helper()
		at := filepath.Join(mount, path)
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{
			"cgroup.controllers": "cpu memory pids", "cgroup.subtree_control": "cpu memory pids", "cgroup.procs": "", "cgroup.kill": "", "cgroup.type": "domain",
			"cpu.weight": "100", "cpu.max": "max 100000", "memory.max": "max", "memory.swap.max": "max", "pids.max": "max",
			"cpu.stat":       "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\nnr_periods 9\nnr_throttled 3\nthrottled_usec 250000\n",
			"memory.current": "10485760\n", "memory.stat": "anon 4096\nfile 8192\ninactive_file 4194304\n",
			"memory.events": "low 0\nhigh 0\nmax 7\noom 4\noom_kill 3\noom_group_kill 1\n", "pids.current": "12\n",
			"memory.swap.current": "0\n", "memory.peak": "0\n", "memory.swap.peak": "0\n", "io.stat": "",
		} {
			write(filepath.Join(at, name), text)
		}
		return at
	}
	plant("")
	plant("/muster")
	plant("/muster/8984b5214e72de0e") // named after the data directory, for good
	m, err := cgroup.New(cgroup.Config{DataDir: "/var/lib/of a test", Mountinfo: mountinfo})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	pod := m.Pod("uid-1")
	plant(strings.TrimPrefix(pod.Unified, mount))
	group := pod.Child("main")
	plant(strings.TrimPrefix(group.Unified, mount))
	if err := group.Limit(limits); err != nil {
		t.Fatal(err)
	}
	theirs, err := cgroup2.Load(strings.TrimPrefix(group.Unified, mount), cgroup2.WithMountpoint(mount))
	if err != nil {
		t.Fatal(err)
	}
	they, err := theirs.Stat()
	if err != nil {
		t.Fatal(err)
	}
	usage, err := group.Usage()
	if err != nil {
		t.Fatal(err)
	}
	same(t, "CPU time in µs", uint64(usage.CPU/time.Microsecond), they.CPU.UsageUsec)
	same(t, "throttled time in µs", uint64(usage.Throttled/time.Microsecond), they.CPU.ThrottledUsec)
	same(t, "working set", uint64(usage.MemoryBytes), they.Memory.Usage-they.Memory.InactiveFile)
	same(t, "memory limit", uint64(limits.MemoryBytes), they.Memory.UsageLimit)
	same(t, "processes", uint64(usage.PIDs), they.Pids.Current)
	same(t, "limit of processes", uint64(limits.PIDs), they.Pids.Limit)
	kills, err := group.OOMKills()
	if err != nil {
		t.Fatal(err)
	}
	same(t, "OOM kills", uint64(kills), they.MemoryEvents.OomKill)

	// What they write for the same limits is what we wrote.
	wrote := map[string]string{}
	files := []string{"cpu.weight", "cpu.max", "memory.max", "memory.swap.max", "pids.max"}
	for _, name := range files {
		b, err := os.ReadFile(filepath.Join(group.Unified, name))
		if err != nil {
			t.Fatal(err)
		}
		wrote[name] = strings.TrimSpace(string(b))
		write(filepath.Join(group.Unified, name), "")
	}
	weight, memory, swap, quota, period := uint64(cgroup.Weight(cgroup.Shares(limits.CPURequest))), limits.MemoryBytes, int64(0), int64(150000), uint64(100000)
	if err := theirs.Update(&cgroup2.Resources{
		CPU: &cgroup2.CPU{Weight: &weight, Max: cgroup2.NewCPUMax(&quota, &period)}, Memory: &cgroup2.Memory{Max: &memory, Swap: &swap},
		Pids: &cgroup2.Pids{Max: limits.PIDs},
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(filepath.Join(group.Unified, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(string(b)); got != wrote[name] {
			t.Errorf("%s: we wrote %q, they %q", name, wrote[name], got)
		}
	}
}
