package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestSharesWeightAndQuotaAreKubernetes(t *testing.T) {
	for _, c := range []struct{ milli, shares, weight, quota int64 }{
		{0, 2, 1, 1000},
		{1, 2, 1, 1000},
		{2, 2, 1, 1000},
		{9, 9, 1, 1000},
		{10, 10, 1, 1000},
		{11, 11, 1, 1100},
		{100, 102, 4, 10_000},
		{500, 512, 20, 50_000},
		{1000, 1024, 39, 100_000},
		{2500, 2560, 98, 250_000},
		{256_000, 262_144, 10_000, 25_600_000},
		{1_000_000, 262_144, 10_000, 100_000_000},
	} {
		if got := Shares(c.milli); got != c.shares {
			t.Errorf("Shares(%d) = %d, want %d", c.milli, got, c.shares)
		}
		if got := Weight(c.shares); got != c.weight {
			t.Errorf("Weight(%d) = %d, want %d", c.shares, got, c.weight)
		}
		if got := quota(c.milli); got != c.quota {
			t.Errorf("quota(%d) = %d, want %d", c.milli, got, c.quota)
		}
	}
}

func TestSharesWeightAndQuotaStayInTheKernelsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		milli := rapid.Int64Range(0, math.MaxInt64).Draw(t, "milliCPU")
		shares := Shares(milli)
		if w, q := Weight(shares), quota(milli); shares < 2 || shares > 262144 || w < 1 || w > 10000 || q < 1000 {
			t.Errorf("%d gives shares %d, weight %d, quota %d", milli, shares, w, q)
		}
	})
}

// tree is a machine of plain files with version 2 alone. Its groups have to be planted before they are made, for no
// kernel puts files into them.
type tree struct {
	t     *testing.T
	mount string
	cfg   Config
}

const dataDir = "/var/lib/of a test"

func newTree(t *testing.T, offered string) tree {
	t.Helper()
	dir := t.TempDir()
	tr := tree{t, filepath.Join(dir, "sys fs"), Config{DataDir: dataDir, Mountinfo: filepath.Join(dir, "mountinfo")}}
	tr.file(dir, "mountinfo", "23 1 0:1 / / rw - ext4 /dev/x rw\nnonsense\n"+
		fmt.Sprintf("41 31 0:38 / %s rw,relatime shared:7 - cgroup2 cgroup2 rw\n", strings.ReplaceAll(tr.mount, " ", `\040`)))
	tr.plant("", offered)
	return tr
}

func (tr tree) file(dir, name, text string) {
	tr.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		tr.t.Fatal(err)
	}
}

// plant gives a group the files that the kernel would.
func (tr tree) plant(path, offered string) string {
	tr.t.Helper()
	dir := filepath.Join(tr.mount, path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tr.t.Fatal(err)
	}
	for name, text := range map[string]string{
		"cgroup.controllers": offered, "cgroup.subtree_control": "", "cgroup.procs": "", "cgroup.kill": "",
		"cpu.weight": "100", "cpu.max": "max 100000", "memory.max": "max", "memory.swap.max": "max", "pids.max": "max",
		"cpu.stat":       "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\nnr_periods 9\nnr_throttled 3\nthrottled_usec 250000\n",
		"memory.current": "10485760\n", "memory.stat": "anon 4096\ninactive_file_not 1\nfile 8192\ninactive_file 4194304\n",
		"memory.events": "low 0\nhigh 0\nmax 7\noom 4\noom_kill 3\noom_group_kill 1\n", "pids.current": "12\n",
	} {
		tr.file(dir, name, text)
	}
	return dir
}

func (tr tree) text(dir, name string) string {
	tr.t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		tr.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// root is the agent's, named after dataDir: an agent that has been brought up to date must find its groups again.
const root = DefaultParent + "/8984b5214e72de0e"

func (tr tree) pod() (m *Manager, pod, container Group) {
	tr.t.Helper()
	const offered = "cpuset cpu io memory hugetlb pids"
	tr.plant("/muster", offered)
	tr.plant(root, offered)
	tr.plant(root+"/u1-7", offered)
	tr.plant(root+"/u1-7/main", offered)
	m, err := New(tr.cfg)
	if err != nil {
		tr.t.Fatal(err)
	}
	pod, err = m.MakePod(PodName("u1", 7), Limits{PIDs: 100})
	if err != nil {
		tr.t.Fatal(err)
	}
	container, err = pod.MakeChild("main", Limits{MilliCPU: 250, CPURequest: 100, MemoryBytes: 64 << 20, PIDs: 50})
	if err != nil {
		tr.t.Fatal(err)
	}
	return m, pod, container
}

func TestVersion2WritesItsLimits(t *testing.T) {
	tr := newTree(t, "cpuset cpu io memory hugetlb pids")
	m, pod, container := tr.pod()
	for _, c := range m.Controllers() {
		if c.Version != 2 || c.Why != "" {
			t.Errorf("%+v, want version 2", c)
		}
	}
	if got, want := pod.Entry(), (Entry{Unified: filepath.Join(tr.mount, root, "u1-7")}); !cmp.Equal(got, want) {
		t.Errorf("entry %+v, want %+v", got, want)
	}
	for _, dir := range []string{tr.mount, filepath.Dir(filepath.Dir(pod.Unified)), filepath.Dir(pod.Unified), pod.Unified} {
		if got := tr.text(dir, "cgroup.subtree_control"); !slices.Contains([]string{"+cpu", "+memory", "+pids"}, got) {
			t.Errorf("%s gives %q to groups below", dir, got)
		}
	}
	if got := tr.text(container.Unified, "cgroup.subtree_control"); got != "" {
		t.Errorf("a container's group gives %q to groups below, so it could hold no process", got)
	}
	files := func() map[string]string {
		got := map[string]string{}
		for _, name := range []string{"cpu.weight", "cpu.max", "memory.max", "memory.swap.max", "pids.max"} {
			got[name] = tr.text(container.Unified, name)
		}
		return got
	}
	if diff := cmp.Diff(map[string]string{"cpu.weight": "4", "cpu.max": "25000 100000", "memory.max": "67108864",
		"memory.swap.max": "0", "pids.max": "50"}, files()); diff != "" {
		t.Errorf("limits -want +got:\n%s", diff)
	}
	if err := container.Limit(Limits{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"cpu.weight": "1", "cpu.max": "max 100000", "memory.max": "max",
		"memory.swap.max": "max", "pids.max": "max"}, files()); diff != "" {
		t.Errorf("without limits -want +got:\n%s", diff)
	}
	if err := container.Limit(Limits{MilliCPU: 500}); err != nil || tr.text(container.Unified, "cpu.weight") != "20" {
		t.Errorf("a limit without a request weighs %s, %v; want the limit's 20", tr.text(container.Unified, "cpu.weight"), err)
	}
}

func TestVersion2IsReadAsTheKubeletReadsIt(t *testing.T) {
	_, _, container := newTree(t, "cpuset cpu io memory hugetlb pids").pod()
	got, err := container.Usage()
	want := Usage{CPU: 1234567000, Throttled: 250000000, MemoryBytes: 10485760 - 4194304, PIDs: 12}
	if err != nil || got != want {
		t.Errorf("usage %+v, %v; want %+v", got, err, want)
	}
	if kills, err := container.OOMKills(); err != nil || kills != 3 {
		t.Errorf("OOM kills %d, %v; want 3", kills, err)
	}
}

func TestUsageOfABrokenFileIsAnErrorAndNoNumber(t *testing.T) {
	tr := newTree(t, "cpuset cpu io memory hugetlb pids")
	_, _, container := tr.pod()
	for name, text := range map[string]string{"cpu.stat": "user_usec 1\n", "memory.current": "many", "pids.current": ""} {
		before := tr.text(container.Unified, name)
		tr.file(container.Unified, name, text)
		if u, err := container.Usage(); err == nil || !strings.Contains(err.Error(), name) || u.CPU != -1 {
			t.Errorf("%s of %q gives %+v, %v", name, text, u, err)
		}
		tr.file(container.Unified, name, before)
	}
}

func TestALimitWithoutItsControllerIsRefusedByName(t *testing.T) {
	tr := newTree(t, "hugetlb pids")
	for _, path := range []string{"/muster", root, root + "/u1-7"} {
		tr.plant(path, "")
	}
	m, err := New(tr.cfg)
	if err != nil {
		t.Fatal(err)
	}
	for c, want := range map[string]string{CPU: "does not offer the controller cpu", Memory: "does not offer the controller memory",
		PIDs: "", CPUAcct: "", Freezer: ""} {
		got := m.Available(c)
		if (got == nil) != (want == "") || got != nil && (!errors.Is(got, ErrUnavailable) || !strings.Contains(got.Error(), want)) {
			t.Errorf("%s: %v, want %q", c, got, want)
		}
	}
	for limits, want := range map[Limits]string{
		{MilliCPU: 1}: "a CPU limit needs the cgroup controller cpu", {MemoryBytes: 1}: "a memory limit needs the cgroup controller memory",
		{PIDs: -1}: "a limit of processes of -1 is negative",
	} {
		if _, err := m.MakePod("u1-7", limits); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", limits, err, want)
		}
	}
	g, err := m.MakePod("u1-7", Limits{PIDs: 3, CPURequest: 100})
	if err != nil {
		t.Fatal(err)
	}
	if u, err := g.Usage(); err != nil || u.PIDs != 12 || u.MemoryBytes != -1 || u.CPU < 0 || u.Throttled != -1 {
		t.Errorf("usage %+v, %v; want only CPU and processes known", u, err)
	}
	if kills, err := g.OOMKills(); kills != -1 || err != nil {
		t.Errorf("OOM kills %d, %v; want -1", kills, err)
	}
}

func TestAMachineWithoutCgroupsRefusesPodsAndSaysWhy(t *testing.T) {
	m, err := New(Config{DataDir: dataDir, Mountinfo: os.DevNull})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.MakePod("u1-7", Limits{}); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "no freezer cgroups are mounted") {
		t.Errorf("MakePod: %v", err)
	}
	if names, err := m.List(); err != nil || len(names) != 0 {
		t.Errorf("List: %v, %v", names, err)
	}
}

func TestWhatIsMountedIsFound(t *testing.T) {
	const info = `32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 31 0:29 / /var/jail/memory rw - cgroup cgroup rw,memory
37 31 0:37 / /sys/fs/cgroup/systemd rw shared:4 master:1 - cgroup cgroup rw,xattr,name=systemd
38 31 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
39 31 0:31 / /sys/fs/cgroup/pids/new rw - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
`
	v1, v2 := hierarchies(info)
	if diff := cmp.Diff(map[string]string{"cpu": "/sys/fs/cgroup/cpu,cpuacct", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
		"memory": "/sys/fs/cgroup/memory", "pids": "/sys/fs/cgroup/pids/new"}, v1); diff != "" || v2 != "/sys/fs/cgroup/unified" {
		t.Errorf("version 2 at %q, version 1 -want +got:\n%s", v2, diff)
	}
	both := Group{Dirs: map[string]string{CPU: "/a", CPUAcct: "/a", Memory: "/b"}, Unified: "/c"}
	if diff := cmp.Diff(Entry{Tasks: []string{"/a/tasks", "/b/tasks"}, Unified: "/c"}, both.Entry()); diff != "" {
		t.Errorf("entry of a hybrid -want +got:\n%s", diff)
	}
}

func TestAgentsOfOneMachineNeverMeet(t *testing.T) {
	seen := map[string]string{}
	for _, dir := range []string{"/var/lib/muster/a", "/var/lib/muster/b", "/var/lib/muster/a/b"} {
		tr := newTree(t, "")
		tr.cfg.DataDir = dir
		m, err := New(tr.cfg)
		if err != nil {
			t.Fatal(err)
		}
		own, _ := filepath.Rel(tr.mount, m.root.Unified)
		if other := seen[own]; other != "" {
			t.Errorf("%s and %s share %s", dir, other, own)
		}
		seen[own] = dir
		tr.cfg.DataDir = dir + "/"
		if again, err := New(tr.cfg); err != nil || again.root.Unified != m.root.Unified {
			t.Errorf("%s/ has another root than %s, %v", dir, dir, err)
		}
	}
}

func TestNamesThatAreNoneAreRefused(t *testing.T) {
	_, pod, _ := newTree(t, "cpuset cpu io memory hugetlb pids").pod()
	for _, name := range []string{"", ".", "..", "a/b", "a\nb", strings.Repeat("x", 256)} {
		if _, err := pod.MakeChild(name, Limits{}); err == nil || !strings.Contains(err.Error(), "not a name") {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, cfg := range []Config{{DataDir: "rel"}, {}, {DataDir: "/d", Parent: "rel"}, {DataDir: "/d", Parent: "/a/../.."}, {DataDir: "/d", Parent: "/"}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}

func TestRefusalsSayWhoKeepsTheGroupsFromUs(t *testing.T) {
	tr := newTree(t, "cpu")
	if err := os.RemoveAll(tr.mount); err != nil {
		t.Fatal(err)
	}
	m, err := New(tr.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Available(CPU); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a mount that is hidden: %v", err)
	}
}
