// Package hosts makes machines for tests: network namespaces on one bridge, each with processes, mounts and a name of its
// own, that can be cut off, lose packets, hang, and lose their power. They share the file system (but for /run and
// /proc) and the clock of the machine that the test runs on. It knows nothing of muster: what runs in them is the
// caller's.
//
// Nothing has to be cleaned up, whatever becomes of the test, but for cgroups. The bridge is in a network namespace that
// only the test's process holds. Every host is a PID namespace whose first process, a copy of the test's program that
// runs nothing of it, ends when the test's process does; the kernel then kills all that is in it and takes the mounts
// and links away. What a host sees of the cgroups begins with one of its own, which a later test removes if need be.
//
// Linux and root only.
package hosts

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// MaxHosts is as many hosts as one network takes.
const MaxHosts = 100

// network is that of the bridge; the hosts have its addresses from 1 on.
var network = netip.MustParsePrefix("10.80.0.0/24")

// endTime bounds how long the end of a host's processes is waited for.
const endTime = 10 * time.Second

// Net is some hosts on one bridge. Its methods may be called from any goroutine; one that cannot do what it says fails
// the test, so that those are for the test's own. An unknown host is a panic.
type Net struct {
	t testing.TB
	// number tells it from others of this process.
	number int64
	// fabric is the namespace of the bridge, and links works in it.
	fabric netns.NsHandle
	links  *netlink.Handle
	bridge int

	mu     sync.Mutex
	hosts  map[string]*host
	oneWay map[[2]string]bool
}

// host is one machine, which may be without power.
type host struct {
	name string
	addr netip.Prefix
	// port is the name of its link's end at the bridge; the other one is its eth0.
	port string
	// cut and drop say what becomes of its packets.
	cut  bool
	drop float64

	// The rest is of one boot. init, nil without power, is its first process, which lives as long as life is
	// open.
	init  *exec.Cmd
	life  io.Closer
	ended chan struct{}
	// pidfd is init's, net its network namespace, and pids the inode of its PID namespace.
	pidfd int
	net   netns.NsHandle
	pids  uint64
	// groups are its cgroups; none where this process may not make any.
	groups cgroups
}

// nets counts the networks of this process.
var nets atomic.Int64

// New makes a bridge and hosts of these names with power, at 10.80.0.1, 10.80.0.2, … in that order. They are gone when
// the test ends. The test is skipped for an ordinary user, and where root may not make namespaces unless CI is set.
func New(t testing.TB, names ...string) *Net {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("hosts are namespaces on a bridge: only root can make them")
	}
	if len(names) > MaxHosts {
		t.Fatalf("%d hosts: at most %d", len(names), MaxHosts)
	}
	if err := Sweep(); err != nil {
		t.Fatalf("remove what a killed test has left: %v", err)
	}
	n := &Net{t: t, number: nets.Add(1), hosts: map[string]*host{}, oneWay: map[[2]string]bool{}}
	if err := n.weave(); err != nil {
		if errors.Is(err, unix.EPERM) && os.Getenv("CI") == "" {
			t.Skipf("this root may not make namespaces: %v", err)
		}
		t.Fatalf("make a bridge in a network namespace: %v", err)
	}
	t.Cleanup(n.close)
	addr := network.Addr()
	for i, name := range names {
		if n.hosts[name] != nil {
			t.Fatalf("two hosts named %s", name)
		}
		addr = addr.Next()
		n.hosts[name] = &host{name: name, addr: netip.PrefixFrom(addr, network.Bits()), port: fmt.Sprintf("port%d", i+1)}
		n.Boot(name)
	}
	return n
}

// Address is the host's, without a port.
func (n *Net) Address(name string) string { return n.host(name).addr.Addr().String() }

func (n *Net) host(name string) *host {
	if h := n.hosts[name]; h != nil { // never written after New
		return h
	}
	panic("no host named " + name)
}

// check fails the test.
func (n *Net) check(err error, format string, args ...any) {
	n.t.Helper()
	if err != nil {
		n.t.Fatalf(format+": %v", append(args, err)...)
	}
}

// Boot gives a host power, unless it has: again the same name, addresses and disk, none of its processes, and another boot
// id. What Cut, Drop and CutOneWay did to it stays.
func (n *Net) Boot(name string) {
	n.t.Helper()
	h := n.host(name)
	n.mu.Lock()
	defer n.mu.Unlock()
	if h.init != nil {
		return
	}
	var err error
	h.groups, err = makeCgroups(fmt.Sprintf("%s%d-%d-%s", cgroupPrefix, os.Getpid(), n.number, name))
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		n.t.Logf("%s has no cgroups of its own: %v", name, err)
		err = nil
	}
	n.check(err, "make cgroups for %s", name)
	if err = h.start(); err != nil {
		err = errors.Join(err, h.groups.remove())
	}
	n.check(err, "boot %s", name)
	n.check(n.plug(h), "connect %s to the bridge", name)
}

// start runs the host's first process and enters its namespaces.
func (h *host) start() error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := &exec.Cmd{
		Path: program, Args: []string{initName, h.name}, Env: []string{}, Stderr: os.Stderr,
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
			Setsid:     true,
		},
	}
	life, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	ready, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	err = onThread(func() error {
		release, err := h.groups.join(cmd)
		defer release()
		if err != nil {
			return err
		}
		return cmd.Start()
	})
	if err != nil {
		return err
	}
	said, err := io.ReadAll(io.LimitReader(ready, 4096))
	ready.Close()
	h.init, h.life, h.ended = cmd, life, make(chan struct{})
	go func() { // ends with the process, for which stop waits
		_ = cmd.Wait() // however it ended
		close(h.ended)
	}()
	if err == nil && string(said) != initReady {
		err = fmt.Errorf("its first process says: %s", said)
	}
	if err == nil {
		err = h.open(cmd.Process.Pid)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		<-h.ended
		h.init = nil
	}
	return err
}

// open takes hold of the namespaces of the host's first process.
func (h *host) open(pid int) (err error) {
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/pid", pid), &st); err != nil {
		return err
	}
	h.pids = st.Ino
	if h.net, err = netns.GetFromPid(pid); err != nil {
		return err
	}
	if h.pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
		h.net.Close()
	}
	return err
}

// Kill takes a host's power away, if it has any: not a word more leaves it, and all its processes die at once. Boot gives
// it back.
func (n *Net) Kill(name string) {
	n.t.Helper()
	h := n.host(name)
	n.mu.Lock()
	defer n.mu.Unlock()
	if h.init == nil {
		return
	}
	n.check(n.unplug(h), "unplug %s", name)
	n.check(h.stop(), "kill %s", name)
}

// stop ends every process of the host and returns when none is left.
func (h *host) stop() error {
	if err := h.init.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-h.ended:
	case <-time.After(endTime):
		return fmt.Errorf("its processes have not ended after %v: does somebody wait for those that Start started?", endTime)
	}
	h.life.Close()
	unix.Close(h.pidfd)
	h.net.Close()
	groups := h.groups
	h.init, h.groups = nil, nil
	return groups.remove()
}

func (n *Net) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all sync.WaitGroup
	for _, h := range n.hosts {
		if h.init != nil {
			all.Go(func() {
				if err := h.stop(); err != nil {
					n.t.Errorf("kill %s: %v", h.name, err)
				}
			})
		}
	}
	all.Wait()
	n.links.Close()
	n.fabric.Close()
}
