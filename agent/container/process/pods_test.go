package process_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/cgroup"
	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/container/containertest"
	"github.com/musterhq/muster/agent/container/process"
	"github.com/musterhq/muster/agent/supervisor"
)

// podOf makes another pod on the bench's runtime.
func (b *bench) podOf(change func(*container.PodConfig)) container.PodRef {
	b.t.Helper()
	cfg := container.PodConfig{PodRef: newRef(), Namespace: "default", Name: "shared", Hostname: "shared-host", IP: "127.0.0.1"}
	change(&cfg)
	if _, err := b.EnsurePod(b.ctx, cfg); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := b.RemovePod(context.Background(), cfg.PodRef); err != nil {
			b.t.Errorf("remove pod: %v", err)
		}
	})
	return cfg.PodRef
}

// in runs a script as a container of that name in a pod, to its end, and returns its output.
func (b *bench) in(ref container.PodRef, name, script string, change ...func(*container.ContainerConfig)) string {
	b.t.Helper()
	cfg := container.ContainerConfig{
		Name: name, Argv: []string{"/bin/sh", "-c", script}, WorkingDir: "/", UID: -1, GID: -1, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
	}
	for _, c := range change {
		c(&cfg)
	}
	c, err := b.StartContainer(b.ctx, ref, cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.until("the script's end", func() bool { return !b.find(c.ID).Running })
	return b.log(c.ID)
}

// removes takes the bench's pod away with its runtime: the one that does it otherwise knows of no control groups.
func (b *bench) removes() {
	b.t.Cleanup(func() {
		if err := b.RemovePod(context.Background(), b.ref); err != nil {
			b.t.Errorf("remove pod: %v", err)
		}
	})
}

func (b *bench) needs(isolation string) {
	b.t.Helper()
	info, err := b.Info(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	if info.Isolation != "full" && (isolation == "full" || info.Isolation != isolation) {
		b.t.Skipf("isolation is %s: a pod's own namespaces need %s", info.Isolation, isolation)
	}
}

// wires is a pod network without any link: it only counts.
type wires struct {
	mu   sync.Mutex
	pods map[container.PodRef]string
}

func (w *wires) Attach(_ context.Context, ref container.PodRef, netns, ip string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := os.Readlink(netns); err != nil {
		return err
	}
	w.pods[ref] = ip
	return nil
}

func (w *wires) Detach(ref container.PodRef) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pods, ref)
	return nil
}

func TestContainersOfAPodShareItsNamespacesAndOthersDoNot(t *testing.T) {
	w := &wires{pods: map[container.PodRef]string{}}
	b := newBench(t, func(c *process.Config) { c.Network = w })
	b.needs("full")
	const show = "readlink /proc/self/ns/net /proc/self/ns/uts /proc/self/ns/ipc; hostname; cat /etc/hostname; tail -n 1 /etc/hosts"
	own := func(c *container.PodConfig) { c.OwnNetwork = true }
	ref, other := b.podOf(own), b.podOf(own)
	first, second := b.in(ref, "a", show), b.in(ref, "b", show)
	if first != second || !strings.HasSuffix(first, "\nshared-host\nshared-host\n127.0.0.1\tshared-host\n") {
		t.Errorf("two containers of a pod see\n%s and\n%s", first, second)
	}
	host := []string{}
	for _, ns := range []string{"net", "uts", "ipc"} {
		link, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		host = append(host, link)
	}
	third := strings.Split(b.in(other, "a", show), "\n")
	for i, line := range strings.Split(first, "\n")[:3] {
		if line == third[i] || line == host[i] {
			t.Errorf("namespace %s of a pod is another pod's, %s, or the host's, %s", line, third[i], host[i])
		}
	}
	if w.pods[ref] == "" {
		t.Error("the pod was not put on the network")
	}
	if err := b.RemovePod(b.ctx, ref); err != nil {
		t.Fatal(err)
	}
	if w.pods[ref] != "" {
		t.Error("a pod that is gone is still on the network")
	}
}

func TestWhatAPodWritesIntoItsFilesOfEtcIsItsOwn(t *testing.T) {
	b := newBench(t)
	if info, err := b.Info(b.ctx); err != nil || info.Isolation == "none" {
		t.Skip("there are no mount namespaces")
	}
	before, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Skip("this machine asks nobody for names")
	}
	if got := b.in(b.ref, "a", "cat /etc/resolv.conf"); got != string(before) {
		t.Errorf("it has %q, the machine %q", got, before)
	}
	b.in(b.ref, "b", "for f in hosts hostname resolv.conf; do echo '# mine' >> /etc/$f; done")
	if got := b.in(b.ref, "c", "grep -c mine /etc/hosts /etc/hostname /etc/resolv.conf"); strings.Count(got, ":1") != 3 {
		t.Errorf("another container of the pod sees %q", got)
	}
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		if text, err := os.ReadFile("/etc/" + name); err == nil && strings.Contains(string(text), "# mine") {
			t.Errorf("the machine's /etc/%s was written", name)
		}
	}
}

func TestLocalhostIsThePodsAndSoIsAPort(t *testing.T) {
	w := &wires{pods: map[container.PodRef]string{}}
	b := newBench(t, func(c *process.Config) { c.Network = w })
	b.needs("full")
	own := func(c *container.PodConfig) { c.OwnNetwork = true }
	const serve = `exec perl -e 'use Socket; socket(S,PF_INET,SOCK_STREAM,0); bind(S,sockaddr_in(8080,INADDR_ANY)) or die "bind: $!\n"; listen(S,5); print "listens\n"; $|=1; print ""; while(accept(C,S)){print C "hello\n"; close C}'`
	listener := func(ref container.PodRef, name string) container.Container {
		c, err := b.StartContainer(b.ctx, ref, container.ContainerConfig{Name: name, Argv: []string{"/bin/sh", "-c", serve}, WorkingDir: "/", UID: -1, GID: -1, Env: []string{"PATH=/usr/bin:/bin"}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ref, other := b.podOf(own), b.podOf(own)
	first := listener(ref, "a")
	ask := `perl -e 'use Socket; for(1..200){socket(S,PF_INET,SOCK_STREAM,0); if(connect(S,sockaddr_in(8080,inet_aton("127.0.0.1")))){print scalar <S>; exit} select(undef,undef,undef,0.02)} print "no answer\n"'`
	if got := b.in(ref, "b", ask); got != "hello\n" {
		t.Errorf("localhost of the same pod says %q", got)
	}
	if got := b.in(other, "b", strings.Replace(ask, "1..200", "1..2", 1)); got != "no answer\n" {
		t.Errorf("localhost of another pod says %q", got)
	}
	conflict := listener(ref, "c")
	b.until("the second listener's end", func() bool { return !b.find(conflict.ID).Running })
	if got := b.log(conflict.ID); got != "bind: Address already in use\n" {
		t.Errorf("the same port twice in a pod: %q", got)
	}
	second := listener(other, "a")
	if got := b.in(other, "b", ask); got != "hello\n" || !b.find(first.ID).Running || !b.find(second.ID).Running {
		t.Errorf("the same port in two pods: %q", got)
	}
}

func TestVolumesOfAPodAreSharedAndGoWithIt(t *testing.T) {
	b := newBench(t)
	b.needs("user")
	info, err := b.Info(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	full := info.Isolation == "full"
	ref := b.podOf(func(c *container.PodConfig) {
		c.Volumes = []container.PodVolume{{Name: "disk", GID: -1}}
		if full {
			c.Volumes = append(c.Volumes, container.PodVolume{Name: "memory", Memory: true, SizeLimit: 1 << 20, GID: -1})
		}
	})
	before, err := os.ReadDir("/")
	if err != nil {
		t.Fatal(err)
	}
	with := func(mounts ...container.Mount) func(*container.ContainerConfig) {
		return func(c *container.ContainerConfig) {
			c.Mounts = mounts
			if full {
				c.UID, c.GID = 65534, 65534
			}
		}
	}
	disk := container.Mount{Volume: "disk", Target: "/muster-test/data"}
	if got := b.in(ref, "a", "echo hello > /muster-test/data/file && stat -c %a /muster-test/data; ls /usr >/dev/null && echo sees", with(disk)); got != "777\nsees\n" {
		t.Errorf("the first container: %q", got)
	}
	disk.ReadOnly = true
	if got := b.in(ref, "b", "cat /muster-test/data/file; echo x 2>/dev/null > /muster-test/data/file || echo refused", with(disk)); got != "hello\nrefused\n" {
		t.Errorf("the second one, read-only: %q", got)
	}
	sub := container.Mount{Volume: "disk", SubPath: "deep/er", Target: "/muster-test"}
	if got := b.in(ref, "c", "touch /muster-test/in && echo made", with(sub)); got != "made\n" {
		t.Errorf("a sub-path: %q", got)
	}
	if got := b.in(ref, "d", "find /usr/lib/muster-test -type f | sort; ls -d /usr/lib/os-release", with(container.Mount{Volume: "disk", Target: "/usr/lib/muster-test"})); got !=
		"/usr/lib/muster-test/deep/er/in\n/usr/lib/muster-test/file\n/usr/lib/os-release\n" {
		t.Errorf("below a directory that lacks the mount point: %q", got)
	}
	if full {
		memory := with(container.Mount{Volume: "memory", Target: "/muster-test"})
		if got := b.in(ref, "e", "stat -f -c %T /muster-test; head -c 2000000 /dev/zero 2>/dev/null > /muster-test/big; stat -c %s /muster-test/big", memory); got != "tmpfs\n1048576\n" {
			t.Errorf("memory of 1 MiB: %q", got)
		}
		if got := b.in(ref, "f", "ls /muster-test", memory); got != "big\n" {
			t.Errorf("memory is shared: %q", got)
		}
	}
	after, err := os.ReadDir("/")
	if err != nil || fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("the host's / has %v now, was %v, %v", after, before, err)
	}
	if err := b.RemovePod(b.ctx, ref); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(b.dir, "pods", ref.UID+"*"))
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || len(left) > 0 || strings.Contains(string(mounts), ref.UID) {
		t.Errorf("after the pod there is left %v, or a mount, %v", left, err)
	}
}

func TestASubPathLeadsNowhereElse(t *testing.T) {
	b := newBench(t)
	b.needs("user")
	ref := b.podOf(func(c *container.PodConfig) { c.Volumes = []container.PodVolume{{Name: "v", GID: -1}} })
	b.in(ref, "a", "ln -s /etc /v/out; ln -s ../../.. /v/up; mkdir /v/in; ln -s in /v/link", func(c *container.ContainerConfig) {
		c.Mounts = []container.Mount{{Volume: "v", Target: "/v"}}
	})
	for _, sub := range []string{"out", "up", "out/ssl", "../x", "link/../../x"} {
		_, err := b.StartContainer(b.ctx, ref, container.ContainerConfig{
			Name: "b", Argv: []string{"true"}, WorkingDir: "/", UID: -1, GID: -1, Mounts: []container.Mount{{Volume: "v", SubPath: sub, Target: "/v"}},
		})
		if !errors.Is(err, container.ErrCannotStart) || !strings.Contains(err.Error(), "subPath "+sub) {
			t.Errorf("sub-path %s: %v", sub, err)
		}
	}
	if got := b.in(ref, "c", "touch /v/here; echo $?", func(c *container.ContainerConfig) {
		c.Mounts = []container.Mount{{Volume: "v", SubPath: "link", Target: "/v"}}
	}); got != "0\n" {
		t.Errorf("a link that stays inside: %q", got)
	}
}

func TestAReadOnlyRootLeavesWhatIsTheContainersOwn(t *testing.T) {
	b := newBench(t)
	b.needs("user")
	ref := b.podOf(func(c *container.PodConfig) { c.Volumes = []container.PodVolume{{Name: "v", GID: -1}} })
	d := b.Dirs(ref)
	host := t.TempDir()
	script := fmt.Sprintf(`for d in %s /var/tmp /tmp %s /muster-v /; do touch $d/muster-file 2>/dev/null && echo yes $d || echo no $d; done`, host, d.Tmp)
	want := fmt.Sprintf("no %s\nno /var/tmp\nyes /tmp\nyes %s\nyes /muster-v\nno /\n", host, d.Tmp)
	if strings.HasPrefix(host, "/tmp/") { // the container has a /tmp of its own
		host = "/var"
		script = strings.Replace(script, strings.Fields(script)[3], host, 1)
		want = fmt.Sprintf("no %s\nno /var/tmp\nyes /tmp\nyes %s\nyes /muster-v\nno /\n", host, d.Tmp)
	}
	if got := b.in(ref, "a", script, func(c *container.ContainerConfig) {
		c.ReadOnlyRoot = true
		c.Mounts = []container.Mount{{Volume: "v", Target: "/muster-v"}}
	}); got != want {
		t.Errorf("can be written in:\n%s want\n%s", got, want)
	}
}

func TestContainersRunWithTheirGroupsAndWithoutNewPrivileges(t *testing.T) {
	b := newBench(t)
	got := b.in(b.ref, "a", "grep NoNewPrivs /proc/self/status", func(c *container.ContainerConfig) { c.NoNewPrivileges = true })
	if strings.Fields(got)[1] != "1" {
		t.Errorf("no_new_privs: %q", got)
	}
	if os.Geteuid() != 0 {
		return
	}
	if got := b.in(b.ref, "b", "id -u; id -g; id -G", func(c *container.ContainerConfig) {
		c.UID, c.GID, c.Groups = 1234, 5678, []int{42, 43}
	}); got != "1234\n5678\n5678 42 43\n" {
		t.Errorf("user and groups: %q", got)
	}
}

func TestContainersHaveTheCapabilitiesTheyAreGiven(t *testing.T) {
	testCapabilities(t, newBench(t))
}

func TestContainersOfAProgramThatIsLinkedWithCHaveTheCapabilitiesTheyAreGiven(t *testing.T) {
	if os.Getenv(ordinary) != "" {
		t.Skip("whoever has no home builds nothing")
	}
	argv := []string{containertest.BuildSupervisorWithC(t)}
	testCapabilities(t, newBench(t, func(c *process.Config) { c.SupervisorArgv = argv }))
}

func testCapabilities(t *testing.T, b *bench) {
	t.Helper()
	const show = "grep -E '^Cap(Bnd|Eff|Amb)' /proc/self/status | cut -f2"
	if os.Geteuid() != 0 {
		if got := b.in(b.ref, "a", show, func(c *container.ContainerConfig) { c.DropCapabilities = []string{"ALL"} }); strings.Fields(got)[0] != "0000000000000000" {
			t.Errorf("an ordinary user's container has capabilities: %s", got)
		}
		_, err := b.StartContainer(b.ctx, b.ref, container.ContainerConfig{Name: "b", Argv: []string{"true"}, UID: -1, GID: -1, AddCapabilities: []string{"CHOWN"}})
		if !errors.Is(err, container.ErrUnsupported) || !strings.Contains(err.Error(), "capabilities.add") {
			t.Errorf("adding as an ordinary user: %v", err)
		}
		return
	}
	const (
		usual = 0xa80425fb // those 14 by their numbers
		bind  = 1 << 10
		admin = 1 << 21
	)
	for i, x := range []struct {
		name                string
		uid                 int
		add, drop           []string
		bound, has, ambient uint64
	}{
		{"as user 0", -1, nil, nil, usual, usual, 0},
		{"all dropped", -1, nil, []string{"ALL"}, 0, 0, 0},
		{"one dropped", -1, nil, []string{"NET_BIND_SERVICE"}, usual &^ bind, usual &^ bind, 0},
		{"one added", -1, []string{"SYS_ADMIN"}, nil, usual | admin, usual | admin, 0},
		{"all dropped but one", -1, []string{"NET_BIND_SERVICE"}, []string{"ALL"}, bind, bind, 0},
		{"as another user", 1234, nil, nil, usual, 0, 0},
		{"added for another user", 1234, []string{"NET_BIND_SERVICE"}, []string{"ALL"}, bind, bind, bind},
	} {
		started := time.Now()
		got := b.in(b.ref, "c"+strconv.Itoa(i), show, func(c *container.ContainerConfig) {
			c.AddCapabilities, c.DropCapabilities = x.add, x.drop
			if x.uid > 0 {
				c.UID, c.GID = x.uid, x.uid
			}
		})
		t.Logf("%s: %v", x.name, time.Since(started))
		// The status has Eff, Bnd, Amb in this order.
		if want := fmt.Sprintf("%016x\n%016x\n%016x\n", x.has, x.bound, x.ambient); got != want {
			t.Errorf("%s: effective, bounding, ambient\n%swant\n%s", x.name, got, want)
		}
	}
	// What is asked into the container has no more.
	c, err := b.StartContainer(b.ctx, b.ref, container.ContainerConfig{Name: "long", Argv: []string{"/bin/sleep", "100"}, UID: -1, GID: -1, DropCapabilities: []string{"ALL"}})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 { // from whichever thread
		res, err := b.Exec(b.ctx, c.ID, container.ExecConfig{Argv: []string{"/bin/grep", "CapBnd", "/proc/self/status"}, Timeout: 10 * time.Second, OutputLimit: 1 << 10})
		if err != nil || !strings.Contains(string(res.Stdout), "0000000000000000") {
			t.Errorf("exec: %v, %q", err, res.Stdout)
		}
	}
}

func TestWhatThisRuntimeCannotDoIsRefusedByName(t *testing.T) {
	b := newBench(t)
	for want, cfg := range map[string]container.PodConfig{
		"a network namespace of the pod's own": {OwnNetwork: true},
	} {
		cfg.PodRef = newRef()
		if _, err := b.EnsurePod(b.ctx, cfg); !errors.Is(err, container.ErrUnsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestContainersOfASharedPIDNamespaceSeeEachOtherAndNobodyElse(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a shared PID namespace is root's to make")
	}
	b := newBenchOf(t, sharePID)
	sleep := unique()
	c := b.sh("echo $$; exec sleep "+sleep, func(c *container.ContainerConfig) { c.Name = "main" })
	b.until("its pid", func() bool { return b.log(c.ID) != "" && running("sleep", sleep) == 1 })
	pid := strings.TrimSpace(b.log(c.ID))
	const show = "tr '\\0' ' ' < /proc/"
	got := b.in(b.ref, "beside", show+pid+"/cmdline; echo; "+show+"1/cmdline; echo; ls /proc | grep -c '^[0-9]'; "+
		"grep -q hold /proc/1/cmdline && { kill 1; kill -9 1; kill -TERM "+pid+"; }")
	lines := strings.Split(got, "\n")
	if n, _ := strconv.Atoi(lines[2]); lines[0] != "sleep "+sleep+" " || !strings.HasSuffix(lines[1], " hold ") || n < 4 || n > 12 {
		t.Errorf("the container beside it sees %q", got)
	}
	b.until("the end of what it has signalled", func() bool { return !b.find(c.ID).Running })
	if got := b.find(c.ID); got.Signal != int32(syscall.SIGTERM) {
		t.Errorf("%+v", got)
	}
	if b.sh("sleep 3600"); b.thePod().Dead {
		t.Error("the pod has died of signals to PID 1")
	}
}

func TestAPodWhosePIDNamespaceIsKilledGetsAnother(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a shared PID namespace is root's to make")
	}
	b := newBenchOf(t, sharePID)
	sleep := unique()
	c := b.sh(daemonise(sleep) + "sleep " + sleep)
	b.until("both sleeps", func() bool { return running("sleep", sleep) == 2 })
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "cmdline"))
		if st, err := supervisor.ReadStat(pid); err == nil && st.PPID == b.supervisor().PID && strings.HasSuffix(string(line), "\x00hold\x00") {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	}
	b.until("the container's end", func() bool { return !b.find(c.ID).Running })
	if n := running("sleep", sleep); n != 0 {
		t.Errorf("%d processes outlive their namespace", n)
	}
	if got := b.in(b.ref, "again", "tr '\\0' ' ' < /proc/1/cmdline"); !strings.HasSuffix(strings.TrimSpace(got), " hold") {
		t.Errorf("the next container: %q", got)
	}
}

func TestAContainerWithTheNodesPIDsSeesTheNode(t *testing.T) {
	t.Parallel()
	b := newBenchOf(t, hostPID)
	got := b.in(b.ref, "look", "readlink /proc/self/ns/pid; cat /proc/"+strconv.Itoa(os.Getpid())+"/comm")
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(got, own+"\n") || !strings.HasSuffix(got, "test\n") {
		t.Errorf("%q, want %s and this program's name", got, own)
	}
}

func TestTheDefaultFilterHoldsForAContainerAndWhatIsAskedIntoIt(t *testing.T) {
	b := newBench(t)
	const show = "grep ^Seccomp: /proc/self/status; unshare --user true 2>/dev/null || echo refused"
	for i, x := range []struct {
		name string
		set  func(*container.ContainerConfig)
	}{
		{"as the agent's user", func(*container.ContainerConfig) {}},
		{"as another user with groups", func(c *container.ContainerConfig) { c.UID, c.GID, c.Groups = 1234, 1234, []int{7} }},
		{"without new privileges", func(c *container.ContainerConfig) { c.NoNewPrivileges = true }},
		{"without capabilities", func(c *container.ContainerConfig) { c.DropCapabilities = []string{"ALL"} }},
	} {
		if os.Geteuid() != 0 && i == 1 {
			continue // an ordinary user's containers run as that user
		}
		got := b.in(b.ref, "c"+strconv.Itoa(i), show, func(c *container.ContainerConfig) {
			c.SeccompDefault = true
			x.set(c)
		})
		if got != "Seccomp:\t2\nrefused\n" {
			t.Errorf("%s: %q", x.name, got)
		}
	}
	c, err := b.StartContainer(b.ctx, b.ref, container.ContainerConfig{
		Name: "long", Argv: []string{"/bin/sleep", "100"}, UID: -1, GID: -1, SeccompDefault: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 { // from whichever thread
		res, err := b.Exec(b.ctx, c.ID, container.ExecConfig{Argv: []string{"/bin/sh", "-c", show}, Env: []string{"PATH=/usr/bin:/bin"}, Timeout: 10 * time.Second, OutputLimit: 1 << 10})
		if err != nil || string(res.Stdout) != "Seccomp:\t2\nrefused\n" {
			t.Errorf("exec: %v, %q", err, res.Stdout)
		}
	}
	if got := b.in(b.ref, "free", "grep ^Seccomp: /proc/self/status"); got != "Seccomp:\t0\n" {
		t.Errorf("a container that asks for none: %q", got)
	}
}

func TestContainersAreHeldToTheirLimits(t *testing.T) {
	groups := cgroups(t)
	b := newBench(t, func(c *process.Config) { c.Cgroups = groups(c.DataDir) })
	b.needs("full")
	if info, err := b.Info(b.ctx); err != nil || !info.Limits {
		t.Skipf("this machine holds no limits: %+v, %v", info, err)
	}
	ref := b.podOf(func(c *container.PodConfig) { c.Limits = container.Limits{PIDs: 64} })
	limited := func(l container.Limits) func(*container.ContainerConfig) {
		return func(c *container.ContainerConfig) { c.Limits = l }
	}
	for range 2 { // an instance is not told of the one before
		c, err := b.StartContainer(b.ctx, ref, container.ContainerConfig{
			Name: "memory", Argv: []string{"/bin/sh", "-c", "exec head -c 200m /dev/zero | tail"}, WorkingDir: "/", UID: -1, GID: -1,
			Env: []string{"PATH=/usr/bin:/bin"}, Limits: container.Limits{MemoryBytes: 32 << 20},
		})
		if err != nil {
			t.Fatal(err)
		}
		b.until("its end", func() bool { return !b.find(c.ID).Running })
	}
	c, err := b.StartContainer(b.ctx, ref, container.ContainerConfig{
		Name: "memory", Argv: []string{"perl", "-e", "$x = 'x' x 200_000_000; sleep 100"}, WorkingDir: "/", UID: -1, GID: -1,
		Env: []string{"PATH=/usr/bin:/bin"}, Limits: container.Limits{MemoryBytes: 32 << 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.until("the kernel has killed it", func() bool { return !b.find(c.ID).Running })
	if got := b.find(c.ID); got.Reason != "OOMKilled" || got.ExitCode != 137 {
		t.Errorf("a container beyond its memory ended with %+v", got)
	}
	if got := b.in(ref, "memory", "kill -9 $$", limited(container.Limits{MemoryBytes: 32 << 20})); got != "" {
		t.Errorf("got %q", got)
	}
	l, err := b.List(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range l.Pods {
		for _, c := range p.Containers {
			if p.PodRef == ref && c.Name == "memory" && c.Reason != "Error" {
				t.Errorf("one that killed itself after the kernel had killed its predecessor ended with %+v", c)
			}
		}
	}
	if got := b.in(ref, "pids", "for i in $(seq 100); do sleep 5 & done 2>&1 | tail -n 1; wait", limited(container.Limits{})); !strings.Contains(got, "fork") {
		t.Errorf("100 processes in a pod of 64: %q", got)
	}
	if got := b.in(ref, "cpu", "perl -e '$end = time + 1.5; 1 while time < $end; print((times)[0] < 1 ? \"held\\n\" : \"free\\n\")'",
		limited(container.Limits{MilliCPU: 100})); got != "held\n" {
		t.Errorf("a tenth of a core: %q", got)
	}
	run, err := b.StartContainer(b.ctx, ref, container.ContainerConfig{
		Name: "exec", Argv: []string{"sleep", "100"}, WorkingDir: "/", UID: -1, GID: -1, Env: []string{"PATH=/usr/bin:/bin"},
	})
	if err != nil {
		t.Fatal(err)
	}
	res, err := b.Exec(b.ctx, run.ID, container.ExecConfig{Argv: []string{"cat", "/proc/self/cgroup"}})
	if err != nil || !strings.Contains(string(res.Stdout), ref.UID+"-7/exec") {
		t.Errorf("a command in a container runs in %s, %v", res.Stdout, err)
	}
	for _, ref := range []container.PodRef{ref, b.ref} {
		if err := b.RemovePod(b.ctx, ref); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := groups(b.dir).List(); err != nil || len(left) > 0 {
		t.Errorf("groups %v are left, %v", left, err)
	}
}

// cgroups makes the control groups of a data directory, and takes them away in the end.
func cgroups(t testing.TB) func(dir string) *cgroup.Manager {
	return func(dir string) *cgroup.Manager {
		m, err := cgroup.New(cgroup.Config{DataDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		return m
	}
}
