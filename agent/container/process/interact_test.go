package process_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/container"
)

func (b *bench) interact(ctx context.Context, id container.ContainerID, script string, change ...func(*container.Interaction)) (int32, string, error) {
	var out bytes.Buffer
	cmd := container.Interaction{Argv: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}, Stdout: &out, Stderr: io.Discard}
	for _, c := range change {
		c(&cmd)
	}
	code, err := b.Interact(ctx, id, cmd)
	return code, out.String(), err
}

func TestAnInteractiveCommandThatIsGivenUpIsKilledWithAllThatCameFromIt(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, b *bench) {
		c := b.sh("sleep 3600")
		for _, tty := range []bool{false, true} {
			sleep := unique()
			ctx, cancel := context.WithCancel(b.ctx)
			ended := make(chan error, 1)
			go func() {
				_, _, err := b.interact(ctx, c.ID, daemonise(sleep)+"sleep "+sleep, func(c *container.Interaction) { c.TTY = tty })
				ended <- err
			}()
			b.until("both sleeps", func() bool { return running("sleep", sleep) == 2 })
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("terminal %v: %v", tty, err)
			}
			b.until("the end of both", func() bool { return running("sleep", sleep) == 0 })
		}
		if !b.find(c.ID).Running {
			t.Error("the container has ended too")
		}
	})
}

func TestAnInteractiveCommandIsOverWhenItEndsWhoeverHoldsItsStreams(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.sh("sleep 3600")
	for _, tty := range []bool{false, true} {
		sleep := unique()
		start := time.Now()
		code, out, err := b.interact(b.ctx, c.ID, "trap '' HUP; "+daemonise(sleep)+"head -c 20000 /dev/zero | tr '\\0' x; exit 3", func(c *container.Interaction) { c.TTY = tty })
		if err != nil || code != 3 || out != strings.Repeat("x", 20000) {
			t.Errorf("terminal %v: %d, %d bytes, %v", tty, code, len(out), err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("terminal %v: took %v", tty, took)
		}
		b.until("the daemon, which may have become sleep by then or not yet", func() bool { return running("sleep", sleep) == 1 })
	}
}

func TestAWriterThatFailsEndsAnInteractiveCommand(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.sh("sleep 3600")
	read, write := io.Pipe()
	broken := errors.New("the terminal is gone")
	read.CloseWithError(broken)
	sleep := unique()
	_, _, err := b.interact(b.ctx, c.ID, "echo; sleep "+sleep, func(c *container.Interaction) { c.Stdout = write })
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	b.until("its end", func() bool { return running("sleep", sleep) == 0 })
}

func TestATerminalIsItsUsersAndCanBeOpenedByName(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.needs("full")
	c, err := b.StartContainer(b.ctx, b.ref, container.ContainerConfig{Name: "main", Argv: []string{"/bin/sleep", "3600"}, WorkingDir: "/", UID: 1234, GID: 1234})
	if err != nil {
		t.Fatal(err)
	}
	code, out, err := b.interact(b.ctx, c.ID, "echo through > $(tty); echo own > /dev/tty", func(c *container.Interaction) { c.TTY = true })
	if err != nil || code != 0 || out != "through\r\nown\r\n" {
		t.Errorf("%d, %q, %v", code, out, err)
	}
}
