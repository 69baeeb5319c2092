package hosts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// runTime bounds Run.
const runTime = 10 * time.Second

// Start starts cmd in a host. The process is the caller's child, who must wait for it; its Pid is that of the test's
// own PID namespace. Start adds to cmd.SysProcAttr; Pdeathsig does not work.
func (n *Net) Start(name string, cmd *exec.Cmd) error {
	n.mu.Lock()
	groups := n.host(name).groups
	n.mu.Unlock()
	return onThread(func() error {
		release, err := groups.join(cmd)
		defer release()
		if err == nil {
			err = n.enter(name, unix.CLONE_NEWNS|unix.CLONE_NEWNET|unix.CLONE_NEWPID|unix.CLONE_NEWUTS|unix.CLONE_NEWIPC)
		}
		if err != nil {
			return fmt.Errorf("enter %s: %w", name, err)
		}
		return cmd.Start()
	})
}

// Run runs a command in a host and returns what it wrote to stdout and stderr, with a bound of 10 s.
func (n *Net) Run(name string, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), runTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := n.Start(name, cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		err = fmt.Errorf("%s on %s: %w: %s", strings.Join(argv, " "), name, err, bytes.TrimSpace(out.Bytes()))
	}
	return out.String(), err
}

// Do calls f on a thread in the host's network: sockets made by f itself, not by goroutines of its, are the host's for
// good.
func (n *Net) Do(name string, f func() error) error {
	return onThread(func() error {
		if err := n.enter(name, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", name, err)
		}
		return f()
	})
}

// onThread calls f on a thread that ends with it, so that nothing else ever runs in what it has entered.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}

// enter takes this thread into these namespaces of a host.
func (n *Net) enter(name string, namespaces int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.host(name)
	if h.init == nil {
		return errors.New("it has no power")
	}
	if namespaces&unix.CLONE_NEWNS != 0 {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
	}
	return unix.Setns(h.pidfd, namespaces)
}

// Process is one process in a host.
type Process struct {
	// PID is that of the test's own PID namespace.
	PID  int
	Argv []string
}

// Processes lists what runs in a host and in the PID namespaces below it, without the host's first process and those that
// only wait to be reaped.
func (n *Net) Processes(name string) ([]Process, error) {
	h := n.host(name)
	n.mu.Lock()
	defer n.mu.Unlock()
	if h.init == nil {
		return nil, nil
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var found []Process
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil || !h.has(pid) {
			continue
		}
		if b, err := os.ReadFile(d + "/cmdline"); err == nil && len(b) > 0 { // else it is gone
			found = append(found, Process{pid, strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")})
		}
	}
	return found, nil
}

// has tells whether a process lives in the host, and is not its first one.
func (h *host) has(pid int) bool {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/pid", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil || pid == h.init.Process.Pid {
		return false // it is gone, it only waits to be reaped, or it is the first one
	}
	for {
		var st unix.Stat_t
		err := unix.Fstat(fd, &st)
		parent, above := unix.IoctlRetInt(fd, unix.NS_GET_PARENT)
		unix.Close(fd)
		if err == nil && st.Ino == h.pids {
			if above == nil {
				unix.Close(parent)
			}
			return true
		}
		if above != nil { // the next one is above this process's own
			return false
		}
		fd = parent
	}
}

// Signal sends s to the host's processes whose command line match accepts, nil for all, and returns how many there were.
// Its first process never gets it. SIGSTOP hangs them until SIGCONT.
func (n *Net) Signal(name string, s unix.Signal, match func(argv []string) bool) int {
	n.t.Helper()
	processes, err := n.Processes(name)
	n.check(err, "list the processes of %s", name)
	h, sent := n.host(name), 0
	for _, p := range processes {
		if match != nil && !match(p.Argv) {
			continue
		}
		if ok, err := h.signal(p.PID, s); err != nil {
			n.check(err, "signal process %d of %s", p.PID, name)
		} else if ok {
			sent++
		}
	}
	return sent
}

// signal sends s to a process unless it has gone, never to another that got its number since and is not the host's.
func (h *host) signal(pid int, s unix.Signal) (bool, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		defer unix.Close(fd)
		if !h.has(pid) {
			return false, nil
		}
		err = unix.PidfdSendSignal(fd, s, nil, 0)
	}
	if errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	return err == nil, err
}
