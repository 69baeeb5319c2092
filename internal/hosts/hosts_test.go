package hosts

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func short(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("real processes: not with -short")
	}
}

// eventually polls until cond holds.
func eventually(t testing.TB, within time.Duration, what string, cond func() bool) {
	t.Helper()
	for start := time.Now(); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// echo answers every line with the asker's address, until the test ends.
func (n *Net) echo(name string) string {
	n.t.Helper()
	var l net.Listener
	n.check(n.Do(name, func() (err error) {
		l, err = net.Listen("tcp4", n.Address(name)+":0")
		return err
	}), "listen on %s", name)
	n.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in := bufio.NewScanner(c)
				for in.Scan() {
					fmt.Fprintln(c, c.RemoteAddr())
				}
			}()
		}
	}()
	return l.Addr().String()
}

// dial connects from a host.
func (n *Net) dial(from, addr string, timeout time.Duration) (c net.Conn, err error) {
	err = n.Do(from, func() (err error) {
		c, err = net.DialTimeout("tcp4", addr, timeout)
		return err
	})
	return c, err
}

// talks tells whether a host gets an answer from an echo in time.
func (n *Net) talks(from, addr string, timeout time.Duration) bool {
	c, err := n.dial(from, addr, timeout)
	if err != nil {
		return false
	}
	defer c.Close()
	return asks(c, timeout)
}

func asks(c net.Conn, timeout time.Duration) bool {
	_ = c.SetDeadline(time.Now().Add(timeout)) // the connection is a socket
	fmt.Fprintln(c, "who am I")
	line, err := bufio.NewReader(c).ReadString('\n')
	return err == nil && strings.TrimSpace(line) == c.LocalAddr().String()
}

// wait is how long an answer may take before there is none.
const wait = 300 * time.Millisecond

func TestHostsReachEachOtherAtTheirOwnAddresses(t *testing.T) {
	short(t)
	start := time.Now()
	n := New(t, "a", "b", "c")
	t.Logf("3 hosts in %v", time.Since(start).Round(time.Millisecond))
	for _, to := range []string{"a", "b", "c"} {
		addr := n.echo(to)
		for _, from := range []string{"a", "b", "c"} {
			if !n.talks(from, addr, 2*time.Second) {
				t.Errorf("%s has no answer from %s", from, to)
			}
		}
		if c, err := net.DialTimeout("tcp4", addr, wait); err == nil {
			c.Close()
			t.Errorf("the machine itself reaches %s", to)
		}
	}
	if n.Address("a") != "10.80.0.1" || n.Address("c") != "10.80.0.3" {
		t.Errorf("addresses are %s and %s", n.Address("a"), n.Address("c"))
	}
}

func TestAHostHasItsOwnNameProcessesMountsAndSettings(t *testing.T) {
	short(t)
	n := New(t, "a", "b")
	run := func(host, script string) string {
		t.Helper()
		out, err := n.Run(host, "sh", "-c", script)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	if got := run("a", "cat /proc/sys/kernel/hostname"); got != "a" {
		t.Errorf("its name is %q", got)
	}
	if got := run("a", "tr '\\0' ' ' < /proc/1/cmdline"); got != initName+" a" {
		t.Errorf("its first process is %q", got)
	}
	run("a", "mkdir /run/netns/x && mkdir /run/mine && mount -t tmpfs none /run/mine && echo 1 > /proc/sys/net/ipv4/ip_forward")
	if got := run("a", "ls /run/netns; cat /proc/sys/net/ipv4/ip_forward; grep -c /run/mine /proc/self/mounts"); got != "x\n1\n1" {
		t.Errorf("a shows %q", got)
	}
	if got := run("b", "ls -d /run/mine 2>/dev/null; ls /run/netns; cat /proc/sys/net/ipv4/ip_forward; grep -c /run/mine /proc/self/mounts || true"); got != "0\n0" {
		t.Errorf("b shows %q", got)
	}
	if b, err := os.ReadFile("/proc/self/mounts"); err != nil || bytes.Contains(b, []byte("/run/mine")) {
		t.Errorf("a host's mount is the machine's: %v", err)
	}
	if _, err := n.Run("a", "sh", "-c", "echo why; exit 3"); err == nil || !strings.Contains(err.Error(), "exit status 3: why") {
		t.Errorf("a command that fails says %v", err)
	}
}

func TestACutHostHearsNothingUntilItIsHealed(t *testing.T) {
	short(t)
	n := New(t, "a", "b", "c")
	a, b, c := n.echo("a"), n.echo("b"), n.echo("c")
	conn, err := n.dial("a", b, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	n.Cut("a")
	if n.talks("b", a, wait) || n.talks("a", b, wait) || asks(conn, wait) {
		t.Error("a is cut off and has an answer")
	}
	if !n.talks("a", a, wait) || !n.talks("b", c, wait) {
		t.Error("what is not cut off has no answer")
	}
	n.Heal("a")
	if !n.talks("b", a, 3*time.Second) || !n.talks("a", b, 3*time.Second) {
		t.Error("a is healed and has no answer")
	}
}

func TestAOneWayCutLosesPacketsOneWayBetweenTwoHosts(t *testing.T) {
	short(t)
	n := New(t, "a", "b", "c")
	n.CutOneWay("a", "b")
	for _, way := range []struct {
		from, to string
		want     int
	}{{"a", "b", 0}, {"b", "a", 100}, {"a", "c", 100}, {"c", "b", 100}} {
		if got := n.datagrams(way.from, way.to, 100); got != way.want {
			t.Errorf("%d of 100 datagrams come from %s to %s, want %d", got, way.from, way.to, way.want)
		}
	}
	n.Heal("b")
	if got := n.datagrams("a", "b", 100); got != 100 {
		t.Errorf("%d of 100 datagrams come from a to b after it is healed", got)
	}
}

// datagrams sends some from one host to another, and returns how many arrive.
func (n *Net) datagrams(from, to string, count int) int {
	n.t.Helper()
	var in, out net.PacketConn
	n.check(n.Do(to, func() (err error) { in, err = net.ListenPacket("udp4", n.Address(to)+":0"); return err }), "listen on %s", to)
	defer in.Close()
	n.check(n.Do(from, func() (err error) { out, err = net.ListenPacket("udp4", n.Address(from)+":0"); return err }), "listen on %s", from)
	defer out.Close()
	got := 0
	for i := range count {
		if _, err := out.WriteTo([]byte{1}, in.LocalAddr()); err != nil {
			n.t.Fatalf("send from %s to %s: %v", from, to, err)
		}
		within := time.Second
		if i < count-1 {
			if within = 10 * time.Millisecond; i%100 < 99 {
				continue // the socket holds as many
			}
		}
		_ = in.SetReadDeadline(time.Now().Add(within)) // it is a socket
		for got <= i {
			if _, _, err := in.ReadFrom(make([]byte, 1)); err != nil {
				break
			}
			got++
		}
	}
	return got
}

func TestAHostLosesAboutTheShareOfPacketsItShould(t *testing.T) {
	short(t)
	n := New(t, "a", "b", "c")
	n.datagrams("a", "b", 1) // from now on they know each other's hardware addresses
	n.datagrams("b", "c", 1)
	n.Drop("b", 0.3)
	for _, way := range [][2]string{{"a", "b"}, {"b", "c"}} {
		got := n.datagrams(way[0], way[1], 1000)
		t.Logf("%d of 1000 datagrams came from %s to %s", got, way[0], way[1])
		if got < 600 || got > 800 { // seven standard deviations
			t.Errorf("%d of 1000 datagrams came from %s to %s, want about 700", got, way[0], way[1])
		}
	}
	if got := n.datagrams("a", "c", 200); got != 200 {
		t.Errorf("%d of 200 datagrams came between hosts that lose none", got)
	}
	n.Drop("b", 1)
	if got := n.datagrams("a", "b", 40); got != 0 {
		t.Errorf("%d of 40 datagrams came to a host that loses all", got)
	}
	n.Heal("b")
	if got := n.datagrams("a", "b", 200); got != 200 {
		t.Errorf("%d of 200 datagrams came after b was healed", got)
	}
}

func TestALinkTakenDownInsideLosesItsRoutesForGood(t *testing.T) {
	short(t)
	n := New(t, "a", "b")
	b := n.echo("b")
	n.check(n.Do("a", func() error {
		return netlink.RouteAdd(&netlink.Route{
			Dst: &net.IPNet{IP: net.IPv4(10, 99, 0, 0), Mask: net.CIDRMask(16, 32)}, Gw: net.ParseIP(n.Address("b")),
		})
	}), "add a route")
	n.LinkDown("a")
	if n.talks("a", b, wait) {
		t.Error("a has an answer without its link")
	}
	n.LinkUp("a")
	if !n.talks("a", b, 3*time.Second) {
		t.Error("a has no answer with its link up again")
	}
	if out, err := n.Run("a", "cat", "/proc/net/route"); err != nil || strings.Count(out, "eth0") != 1 {
		t.Errorf("%v; want the route to its own network alone:\n%s", err, out)
	}
}

// sleeper starts a process in a host that leaves another in a session of its own, and one in a PID namespace.
func (n *Net) sleeper(name string) *exec.Cmd {
	n.t.Helper()
	cmd := exec.Command("sh", "-c", "(setsid sleep 86400 &) & unshare --pid --fork sleep 86400 & exec sleep 86400")
	n.check(n.Start(name, cmd), "start on %s", name)
	eventually(n.t, 5*time.Second, "three sleep", func() bool { return n.sleeping(name) == 3 })
	return cmd
}

// sleeping counts the sleeps of a host.
func (n *Net) sleeping(name string) (count int) {
	n.t.Helper()
	processes, err := n.Processes(name)
	n.check(err, "list")
	for _, p := range processes {
		if p.Argv[0] == "sleep" {
			count++
		}
	}
	return count
}

func TestAKilledHostSaysNothingMoreAndBootsAnew(t *testing.T) {
	short(t)
	n := New(t, "a", "b")
	addr := n.echo("b")
	conn, err := n.dial("a", addr, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	bootID := func() string {
		id, err := n.Run("b", "cat", "/proc/sys/kernel/random/boot_id")
		n.check(err, "read the boot's id")
		return id
	}
	boot := bootID()
	victim, other := n.sleeper("b"), n.sleeper("a")
	processes, err := n.Processes("b")
	if err != nil {
		t.Fatal(err)
	}
	wait := make(chan error, 1)
	go func() { wait <- victim.Wait() }()
	start := time.Now()
	n.Kill("b")
	t.Logf("killed in %v", time.Since(start).Round(time.Millisecond))
	for _, p := range processes {
		if err := unix.Kill(p.PID, 0); !errors.Is(err, unix.ESRCH) {
			t.Errorf("process %d, %q, still lives: %v", p.PID, p.Argv, err)
		}
	}
	if err := <-wait; err == nil || victim.ProcessState.ExitCode() != -1 {
		t.Errorf("its process ended with %v", err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // the connection is a socket
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the dead host said %v", err)
	}
	if _, err := n.Run("b", "true"); err == nil || !strings.Contains(err.Error(), "no power") {
		t.Errorf("run on a dead host: %v", err)
	}
	if got := n.sleeping("a"); got != 3 {
		t.Errorf("%d of 3 processes live on the other host", got)
	}
	n.Boot("b")
	if again := bootID(); again == boot || len(again) != len(boot) || again != bootID() {
		t.Errorf("the boot's id was %s and is %s", boot, again)
	}
	if got := n.sleeping("b"); got != 0 {
		t.Errorf("%d processes outlived the host", got)
	}
	if !n.talks("a", n.echo("b"), 3*time.Second) {
		t.Error("no answer from a host that has booted")
	}
	n.Signal("a", unix.SIGKILL, nil)
	_ = other.Wait() // it was killed
	eventually(t, 5*time.Second, "nothing is left", func() bool { p, err := n.Processes("a"); return err == nil && len(p) == 0 })
}

func TestAHostThatIsCutOffBootsCutOff(t *testing.T) {
	short(t)
	n := New(t, "a", "b")
	n.Kill("b")
	n.Cut("b")
	n.Boot("b")
	addr := n.echo("b")
	if n.talks("a", addr, wait) {
		t.Error("an answer from a host that is cut off")
	}
	n.Heal("b")
	if !n.talks("a", addr, 3*time.Second) {
		t.Error("no answer from a host that is healed")
	}
}

func TestSignalsStopOnlyWhatTheyAreMeantFor(t *testing.T) {
	short(t)
	n := New(t, "a", "b")
	a, b := n.sleeper("a"), n.sleeper("b")
	state := func(pid int) string {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(stat))[2]
	}
	sleeps := func(argv []string) bool { return argv[0] == "sleep" }
	if got := n.Signal("a", unix.SIGSTOP, sleeps); got != 3 {
		t.Errorf("%d processes were stopped, want 3", got)
	}
	eventually(t, 5*time.Second, "it is stopped", func() bool { return state(a.Process.Pid) == "T" })
	if got := state(b.Process.Pid); got != "S" {
		t.Errorf("the other host's process is in state %s", got)
	}
	n.Signal("a", unix.SIGCONT, sleeps)
	eventually(t, 5*time.Second, "it goes on", func() bool { return state(a.Process.Pid) == "S" })
	for name, cmd := range map[string]*exec.Cmd{"a": a, "b": b} {
		n.Signal(name, unix.SIGKILL, nil)
		_ = cmd.Wait() // it was killed
	}
}

func TestAHostsCgroupsAreItsOwnAndGoWithItsPower(t *testing.T) {
	short(t)
	found, err := hierarchies()
	if err != nil || len(found) == 0 {
		t.Skipf("no cgroups here: %v", err)
	}
	n := New(t, "a", "b")
	for _, h := range found {
		script := fmt.Sprintf("cd %s && mkdir -p of-a/below && cat cgroup.procs && grep -v ':/$' /proc/self/cgroup", h.mount)
		if out, err := n.Run("a", "sh", "-c", script); err == nil || strings.TrimSpace(strings.Split(out, "\n")[0]) != "1" {
			t.Errorf("in %s: %v; want process 1 in its root, and the root wherever it is:\n%s", h.mount, err, out)
		}
		if dir := filepath.Join(h.own, "of-a"); exists(dir) {
			t.Errorf("%s is the machine's", dir)
		}
		if out, err := n.Run("b", "ls", h.mount+"/of-a"); err == nil {
			t.Errorf("the other host has it: %s", out)
		}
	}
	left := func() (all []string) {
		for _, h := range found {
			dirs, err := filepath.Glob(fmt.Sprintf("%s/%s%d-*-a", h.own, cgroupPrefix, os.Getpid()))
			n.check(err, "look for cgroups")
			all = append(all, dirs...)
		}
		return all
	}
	if got := left(); len(got) != len(found) {
		t.Errorf("its cgroups are %v, want one in each of %d hierarchies", got, len(found))
	}
	n.Kill("a")
	if got := left(); len(got) > 0 {
		t.Errorf("%v are left", got)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestNoThreadOfTheTestStaysInAHost(t *testing.T) {
	short(t)
	n := New(t, "a")
	var all sync.WaitGroup
	for range 200 { // some would get the first thread if they could
		all.Go(func() {
			if err := n.Do("a", func() error { return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "every thread is in the machine's network", func() bool {
		threads, err := filepath.Glob("/proc/self/task/*/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		return !slices.ContainsFunc(threads, func(path string) bool {
			net, err := os.Readlink(path)
			return err == nil && net != own // else it has ended
		})
	})
}

// The victim is this test in another process, which makes hosts, says what runs in them, and waits.
func TestHostsOfAKilledTestAreGoneByThemselves(t *testing.T) {
	short(t)
	if os.Getenv("MUSTER_TEST_VICTIM") != "" {
		beVictim(t)
	}
	if os.Geteuid() != 0 {
		t.Skip("hosts are namespaces on a bridge: only root can make them")
	}
	// The victim's children come to this process, which reaps them at once, and not to the machine's first.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	victim := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	victim.Env = append(os.Environ(), "MUSTER_TEST_VICTIM=1")
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var problems bytes.Buffer
	victim.Stderr = &problems
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	left := map[int]int{} // pid to pidfd
	for in := bufio.NewScanner(out); in.Scan() && in.Text() != "ready"; {
		text, ok := strings.CutPrefix(in.Text(), "pid ")
		if !ok {
			continue
		}
		pid, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		if fd, err := unix.PidfdOpen(pid, 0); err == nil { // else it has ended already
			left[pid] = fd
		}
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	start, all := time.Now(), len(left)
	_, _ = io.Copy(io.Discard, out) // ends once nobody holds it
	_ = victim.Wait()               // it was killed
	if all < 2*5 {
		t.Fatalf("the victim had only %d processes\n%s", all, &problems)
	}
	eventually(t, 5*time.Second, "every process of its hosts has ended", func() bool {
		for pid, fd := range left {
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // it may be another's child
			if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0); err == nil && n == 1 {
				unix.Close(fd)
				delete(left, pid)
			}
		}
		return len(left) == 0
	})
	t.Logf("%d processes had ended after %v", all, time.Since(start).Round(time.Millisecond))
	if err := Sweep(); err != nil {
		t.Error(err)
	}
	found, err := hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range found {
		if dirs, err := filepath.Glob(fmt.Sprintf("%s/%s%d-*", h.own, cgroupPrefix, victim.Process.Pid)); err != nil || len(dirs) > 0 {
			t.Errorf("cgroups %v are left, %v", dirs, err)
		}
	}
}

func beVictim(t *testing.T) {
	n := New(t, "a", "b")
	n.Drop("a", 0.1)
	for _, name := range []string{"a", "b"} {
		n.sleeper(name)
		if _, err := n.Run(name, "sh", "-c", "mkdir -p $(awk '/^cgroup2? / {print $2 \"/agent/pod\"}' /proc/self/mounts)"); err != nil {
			t.Fatal(err)
		}
		processes, err := n.Processes(name)
		n.check(err, "list")
		fmt.Println("pid", n.host(name).init.Process.Pid)
		for _, p := range processes {
			fmt.Println("pid", p.PID)
		}
	}
	fmt.Println("ready")
	select {}
}
