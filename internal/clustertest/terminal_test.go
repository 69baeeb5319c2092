package clustertest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal with a program in its foreground.
type terminal struct {
	t          *testing.T
	keys, tty  *os.File
	cmd        *exec.Cmd
	ended      chan error
	mu         sync.Mutex
	shown      bytes.Buffer
	readingEnd chan struct{}
	// after are the modes once the program has ended.
	after unix.Termios
}

// inTerminal starts a command of the client as a shell does: it is the leader of a session that the terminal controls.
func (c *Cluster) inTerminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, keys: keys, tty: tty, ended: make(chan error, 1), readingEnd: make(chan struct{})}
	cmd := exec.Command(c.bin, args...)
	cmd.Env = append(os.Environ(), "MUSTER_CONFIG="+filepath.Join(c.dataDir("coordinator"), "client.yaml"), "TERM=xterm")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	term.cmd = cmd
	go func() { term.ended <- cmd.Wait() }()
	go func() {
		defer close(term.readingEnd)
		buf := make([]byte, 4096)
		for {
			n, err := keys.Read(buf)
			term.mu.Lock()
			term.shown.Write(buf[:n])
			term.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return term
}

func (u *terminal) modes() unix.Termios {
	u.t.Helper()
	m, err := unix.IoctlGetTermios(int(u.tty.Fd()), unix.TCGETS)
	if err != nil {
		u.t.Fatal(err)
	}
	return *m
}

func (u *terminal) screen() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.shown.String()
}

// end waits for the program's end and takes the terminal away.
func (u *terminal) end(limit time.Duration) error {
	u.t.Helper()
	var err error
	select {
	case err = <-u.ended:
	case <-time.After(limit):
		_ = u.cmd.Process.Kill()
		u.t.Errorf("%q has not ended", u.cmd.Args[1:])
		err = <-u.ended
	}
	u.after = u.modes()
	u.tty.Close()
	<-u.readingEnd // its last holder has gone
	u.keys.Close()
	return err
}

// leaves are the ways to end what runs in a terminal.
var leaves = map[string]func(c *Cluster, u *terminal) error{
	"Ctrl-C":                  func(_ *Cluster, u *terminal) error { _, err := u.keys.WriteString("\x03"); return err },
	"SIGTERM":                 func(_ *Cluster, u *terminal) error { return u.cmd.Process.Signal(syscall.SIGTERM) },
	"the coordinator's death": func(c *Cluster, _ *terminal) error { return c.Process("coordinator").Signal(syscall.SIGKILL) },
}

func TestWhateverEndsACommandItsTerminalIsAsItWas(t *testing.T) {
	t.Parallel()
	c := Start(t, 1)
	c.Apply(`apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    command: [sh, -c, "echo hello; exec sleep 1000000"]
    readinessProbe: {exec: {command: ["true"]}, periodSeconds: 1}
`)
	c.Eventually(20*time.Second, "it runs", func() bool { p := c.Pod("web"); return p.Ready() })
	for _, x := range []struct {
		args string
		// shows is on the screen once it is at work.
		shows string
		// raw means that the keys are the container's, Ctrl-C among them.
		raw bool
		by  string
	}{
		{"get pods -A -w", "web", false, "Ctrl-C"},
		{"get pod web -o json -w", "}", false, "Ctrl-C"},
		{"logs -f web", "hello", false, "Ctrl-C"},
		{"wait --for=delete pod/web --timeout 60s", "", false, "Ctrl-C"},
		{"probe tail web", "readiness", false, "Ctrl-C"},
		{"port-forward pod/web :80", "127.0.0.1:", false, "Ctrl-C"},
		{"loadtest probes --targets 10 --warmup 1s --duration 60s", "warm", false, "Ctrl-C"},
		{"exec web -- sleep 1000", "", false, "Ctrl-C"},
		{"exec -it web -- cat /proc/self/comm -", "cat", true, "Ctrl-C"},
		{"exec -it web -- cat /proc/self/comm -", "cat", true, "SIGTERM"},
		{"exec -it web -- cat /proc/self/comm -", "cat", true, "the coordinator's death"},
	} {
		u := c.inTerminal(t, strings.Fields(x.args)...)
		was := u.modes()
		c.Eventually(20*time.Second, x.args+" is at work", func() bool {
			return strings.Contains(u.screen(), x.shows) && (!x.raw || u.modes() != was)
		})
		if x.shows == "" && !x.raw { // it says nothing, and is soon there
			time.Sleep(300 * time.Millisecond)
		}
		if err := leaves[x.by](c, u); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		err := u.end(20 * time.Second)
		t.Logf("%s ends %v after %s: %v", x.args, time.Since(began).Round(time.Millisecond), x.by, err)
		if u.after != was {
			t.Errorf("%s: the terminal has other modes after %s", x.args, x.by)
		}
		for _, on := range []string{"\x1b[?25l", "\x1b[?1049h"} { // a hidden cursor, another screen
			if strings.Contains(u.screen(), on) {
				t.Errorf("%s: it leaves %q", x.args, on)
			}
		}
	}
}
