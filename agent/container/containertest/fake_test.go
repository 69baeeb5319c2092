package containertest_test

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/container/containertest"
)

// programs are spelt for the fake by their first word.
var programs = containertest.Programs{
	Forever: []string{"forever"}, Stubborn: []string{"stubborn"}, Fill: []string{"fill"}, Exit3: []string{"exit3"}, Missing: []string{"missing"},
	Write: []string{"write"}, Read: []string{"read"}, Hostname: []string{"hostname"}, WhoAmI: []string{"whoami"}, Processes: []string{"processes"},
	Hog:   []string{"hog"},
	Lines: []string{"lines"}, ExecOut: []string{"out"}, ExecFlood: []string{"flood"}, ExecHang: []string{"hang"},
	Echo: []string{"echo"}, TTY: []string{"tty"},
	Burn: []string{"burn"}, ExecBurn: []string{"burn"},
}

func newFake(*testing.T) (container.Runtime, containertest.Programs) {
	f := containertest.NewFake()
	f.Facts.Limits = true
	f.Behave = func(_ container.PodRef, c container.ContainerConfig) containertest.Behaviour {
		switch c.Argv[0] {
		case "stubborn":
			return containertest.Behaviour{TermTakes: -1, Output: []string{"ready"}}
		case "fill":
			return acts(func(in *containertest.Inside) bool { return in.Write("/volume/a", strings.Repeat("x", 100_000)) })
		case "write":
			return acts(func(in *containertest.Inside) bool { return in.Write("/volume/file", "kept") })
		case "read":
			return acts(func(in *containertest.Inside) bool {
				text, ok := in.Read("/volume/file")
				if ok {
					in.Print(text)
				}
				return ok
			})
		case "hostname":
			return acts(func(in *containertest.Inside) bool { in.Print(in.Hostname); return true })
		case "whoami":
			return acts(func(in *containertest.Inside) bool { in.Print(strconv.Itoa(in.UID)); return true })
		case "processes":
			return acts(func(in *containertest.Inside) bool { in.Print(strconv.Itoa(in.Processes)); return true })
		case "hog":
			return containertest.Behaviour{Takes: 110 << 20, RunFor: -1}
		case "exit3":
			return containertest.Behaviour{RunFor: -1, ExitCode: 3}
		case "missing":
			return containertest.Behaviour{StartErr: container.ErrCannotStart}
		case "burn":
			return containertest.Behaviour{MilliCPU: 1000, MemoryBytes: 64 << 20}
		case "lines":
			return containertest.Behaviour{RunFor: -1, Output: []string{"one", "two", "three"}}
		}
		return containertest.Behaviour{}
	}
	f.OnExec = func(ctx context.Context, _ container.ContainerID, cmd container.ExecConfig) (container.ExecResult, error) {
		switch cmd.Argv[0] {
		case "out":
			return container.ExecResult{ExitCode: 7, Stdout: []byte("out"), Stderr: []byte("err")}, nil
		case "burn":
			return container.ExecResult{CPU: 150 * time.Millisecond}, nil
		case "missing":
			return container.ExecResult{}, container.ErrCannotStart
		case "flood":
			n := cmd.OutputLimit
			if n == 0 {
				n = 10240
			}
			return container.ExecResult{Stdout: []byte(strings.Repeat("x", n))}, nil
		}
		if cmd.Timeout > 0 {
			select {
			case <-time.After(cmd.Timeout):
				return container.ExecResult{}, container.ErrTimeout
			case <-ctx.Done():
			}
		}
		<-ctx.Done()
		return container.ExecResult{}, ctx.Err()
	}
	f.OnInteract = interact
	return f, programs
}

func interact(ctx context.Context, _ container.ContainerID, cmd container.Interaction) (int32, error) {
	switch cmd.Argv[0] {
	case "out":
		io.WriteString(cmd.Stdout, "out")
		io.WriteString(cmd.Stderr, "err")
		return 7, nil
	case "echo":
		if cmd.Stdin != nil {
			io.Copy(cmd.Stdout, cmd.Stdin)
		}
		io.WriteString(cmd.Stderr, "end")
		return 0, nil
	case "tty":
		said := "no"
		if cmd.TTY && (<-cmd.Sizes).Columns == 100 {
			said = "yes"
		}
		io.WriteString(cmd.Stdout, said)
		return 0, nil
	case "missing":
		return 0, container.ErrCannotStart
	}
	<-ctx.Done()
	return 0, ctx.Err()
}

// acts ends with 0 where f is done.
func acts(f func(*containertest.Inside) bool) containertest.Behaviour {
	return containertest.Behaviour{Does: func(in *containertest.Inside) int32 {
		if f(in) {
			return 0
		}
		return 1
	}}
}

func TestFakeConforms(t *testing.T) { containertest.Run(t, newFake) }

func TestFakeOfEachIsolationConforms(t *testing.T) {
	for _, isolation := range []string{"user", "none"} {
		t.Run(isolation, func(t *testing.T) {
			containertest.Run(t, func(t *testing.T) (container.Runtime, containertest.Programs) {
				r, p := newFake(t)
				r.(*containertest.Fake).Facts.Isolation = isolation
				return r, p
			})
		})
	}
}

func TestFakeContainersLiveInFakeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := containertest.NewFake()
		f.Behave = func(container.PodRef, container.ContainerConfig) containertest.Behaviour {
			return containertest.Behaviour{RunFor: time.Hour, ExitCode: 5}
		}
		ref := container.PodRef{UID: "u", Epoch: 1}
		if _, err := f.EnsurePod(t.Context(), container.PodConfig{PodRef: ref}); err != nil {
			t.Fatal(err)
		}
		c, err := f.StartContainer(t.Context(), ref, container.ContainerConfig{Name: "main"})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			<-f.Changes()
			synctest.Wait()
			l, _ := f.List(t.Context())
			if got := l.Pods[0].Containers; len(got) == 1 && !got[0].Running {
				if d := got[0].FinishedAt.Sub(c.StartedAt); d != time.Hour || got[0].ExitCode != 5 {
					t.Errorf("ended after %v with %d", d, got[0].ExitCode)
				}
				return
			}
		}
		t.Error("has not ended")
	})
}

func TestFakeDoesWhatATestOrders(t *testing.T) {
	f := containertest.NewFake()
	ref := container.PodRef{UID: "u", Epoch: 1}
	f.FailNext("EnsurePod", container.ErrFenced)
	if _, err := f.EnsurePod(t.Context(), container.PodConfig{PodRef: ref}); !errors.Is(err, container.ErrFenced) {
		t.Errorf("got %v", err)
	}
	if _, err := f.EnsurePod(t.Context(), container.PodConfig{PodRef: ref, FenceSlot: 3}); err != nil {
		t.Error(err)
	}
	if _, err := f.StartContainer(t.Context(), ref, container.ContainerConfig{Name: "main"}); err != nil {
		t.Error(err)
	}
	f.Die("u", "LeaseExpired")
	f.Silence(true)
	l, err := f.List(t.Context())
	if err != nil || l.Complete || !l.Pods[0].Dead || l.Pods[0].Fence != "kernel" || l.Pods[0].Containers[0].Reason != "LeaseExpired" {
		t.Errorf("got %+v, %v", l, err)
	}
	if got := strings.Join(f.Calls(), "; "); got != "EnsurePod u 1; EnsurePod u 1; StartContainer u/main 0" {
		t.Errorf("calls: %s", got)
	}
}
