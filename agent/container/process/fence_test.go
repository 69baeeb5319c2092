package process_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/container/containertest"
	"github.com/musterhq/muster/agent/container/process"
	"github.com/musterhq/muster/agent/guard"
	"github.com/musterhq/muster/agent/supervisor"
	"github.com/musterhq/muster/internal/fence"
)

// killLead is how long before the deadline the kernel kills.
const killLead = fence.KillLead

// fenced is a bench with a guard; slot 3 is the pod's, with that much time.
func fenced(t *testing.T, left time.Duration, change ...func(*process.Config)) (*bench, *guard.Client) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	g, err := guard.Ensure(ctx, guard.Config{DataDir: dir, Argv: []string{containertest.BuildSupervisor(t)}, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.Close()
		if err := guard.Stop(context.Background(), dir); err != nil {
			t.Error(err)
		}
	})
	change = append(change, func(c *process.Config) { c.Fence = g })
	b := &bench{Runtime: start(t, dir, change...), t: t, ctx: ctx, ref: newRef(), dir: dir}
	g.Page().Assign(3, b.ref.Epoch)
	g.Page().SetDeadline(3, supervisor.Boottime()+left)
	return b, g
}

func (b *bench) ensure() (container.Pod, error) {
	b.t.Helper()
	b.t.Cleanup(func() {
		if err := b.RemovePod(context.Background(), b.ref); err != nil {
			b.t.Errorf("remove pod: %v", err)
		}
	})
	return b.EnsurePod(b.ctx, b.shaped(container.PodConfig{PodRef: b.ref, Namespace: "default", Name: "single", FenceSlot: 3, Grace: time.Second}))
}

// writers is a container that has a writer of its own and one twice forked in its own session, each noting every 5 ms
// when it last wrote.
func (b *bench) writers() (container.Container, func() time.Time) {
	b.t.Helper()
	dir := b.Dirs(b.ref).Pod
	loop := "while :; do date +%s.%N > $MUSTER_POD_DIR/$1; sleep 0.005; done"
	script := "trap '' TERM; setsid sh -c \"(trap '' TERM; set -- b; " + strings.ReplaceAll(loop, "$", "\\$") + ") & exit 0\"; set -- a; " + loop
	c := b.sh(script)
	last := func() (latest time.Time) {
		for _, n := range []string{"a", "b"} {
			if fi, err := os.Stat(filepath.Join(dir, n)); err == nil && fi.ModTime().After(latest) {
				latest = fi.ModTime()
			}
		}
		return latest
	}
	b.until("both writers", func() bool {
		_, e1 := os.Stat(filepath.Join(dir, "a"))
		_, e2 := os.Stat(filepath.Join(dir, "b"))
		return errors.Join(e1, e2) == nil
	})
	return c, last
}

func TestKernelFencesAStoppedSupervisor(t *testing.T) {
	t.Parallel()
	t.Run("Isolated", func(t *testing.T) { testStoppedSupervisor(t, nil) })
	t.Run("SharedPIDs", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("a shared PID namespace is root's to make")
		}
		testStoppedSupervisor(t, sharePID)
	})
}

func testStoppedSupervisor(t *testing.T, shape func(*container.PodConfig)) {
	t.Parallel()
	b, g := fenced(t, 2500*time.Millisecond)
	b.shape = shape
	if info, _ := b.Info(b.ctx); info.Fence != "kernel" {
		t.Skip("the kernel refuses namespaces")
	}
	p, err := b.ensure()
	if err != nil || p.Fence != "kernel" {
		t.Fatalf("%+v, %v", p, err)
	}
	c, last := b.writers()
	deadline := time.Now().Add(g.Page().Deadline(3, b.ref.Epoch) - supervisor.Boottime())
	sup := b.supervisor()
	if err := syscall.Kill(sup.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	b.until("its stop", func() bool { return sup.Stopped() })
	g.Page().SetDeadline(3, supervisor.Boottime()+time.Hour) // too late: a stopped supervisor extends nothing
	b.until("the pod's death", func() bool { return b.thePod().Dead })
	// The lead is there for what a kill may take on a busy machine: what counts is that nothing is written after the deadline.
	if lead := deadline.Sub(last()); lead <= 0 || lead > killLead+time.Second {
		t.Errorf("last write %v before the deadline, want about %v", lead, killLead)
	} else {
		t.Logf("last write %v before the deadline", lead)
	}
	if p := b.thePod(); p.DeadReason != "LeaseExpired" || p.Containers[0].ID != c.ID || p.Containers[0].Reason != "LeaseExpired" {
		t.Errorf("got %+v", p)
	}
	written := last()
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		if last() != written {
			t.Fatal("a writer lives on")
		}
	}
}

func TestPodGoesOnWhileItsDeadlineIsMoved(t *testing.T) {
	t.Parallel()
	b, g := fenced(t, 2*time.Second)
	if _, err := b.ensure(); err != nil {
		t.Fatal(err)
	}
	c := b.sh("sleep 3600")
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); <-time.After(50 * time.Millisecond) {
		g.Page().SetDeadline(3, supervisor.Boottime()+2*time.Second)
	}
	if got := b.find(c.ID); !got.Running {
		t.Fatalf("got %+v, want running", got)
	}
	if armed := g.Page().Armed(3); armed < supervisor.Boottime() || armed > g.Page().Deadline(3, b.ref.Epoch) {
		t.Errorf("armed is not between now and the deadline: %v before it", g.Page().Deadline(3, b.ref.Epoch)-armed)
	}
}

func TestFencedPodIsAskedToEndFirst(t *testing.T) {
	t.Parallel()
	b, _ := fenced(t, 2*time.Second)
	if _, err := b.ensure(); err != nil {
		t.Fatal(err)
	}
	c := b.sh("trap 'echo asked' TERM; echo ready; while :; do sleep 0.01; done")
	b.until("the trap", func() bool { return strings.HasPrefix(b.log(c.ID), "ready") })
	b.until("the end", func() bool { return !b.find(c.ID).Running })
	if got := b.find(c.ID); got.Reason != "LeaseExpired" {
		t.Errorf("got %+v, want LeaseExpired", got)
	}
	if got := b.log(c.ID); got != "ready\nasked\n" {
		t.Errorf("log %q", got)
	}
	_, err := b.StartContainer(b.ctx, b.ref, container.ContainerConfig{Name: "main", Argv: []string{"/bin/true"}, UID: -1, GID: -1})
	if !errors.Is(err, container.ErrFenced) && !errors.Is(err, container.ErrNotRunning) {
		t.Errorf("start after the fence: %v", err)
	}
	b.until("the supervisor's end", func() bool { return b.thePod().Dead })
	if p := b.thePod(); p.DeadReason != "LeaseExpired" {
		t.Errorf("got %+v", p)
	}
}

func TestNothingStartsWithoutTime(t *testing.T) {
	t.Parallel()
	b, g := fenced(t, 900*time.Millisecond)
	if _, err := b.ensure(); !errors.Is(err, container.ErrFenced) {
		t.Errorf("under a second: %v, want ErrFenced", err)
	}
	g.Page().Assign(3, b.ref.Epoch+1)
	g.Page().SetDeadline(3, supervisor.Boottime()+time.Hour)
	if _, err := b.ensure(); !errors.Is(err, container.ErrFenced) {
		t.Errorf("slot of another epoch: %v, want ErrFenced", err)
	}
	g.Page().Assign(3, b.ref.Epoch)
	g.Page().SetDeadline(3, supervisor.Boottime()+1600*time.Millisecond)
	if _, err := b.ensure(); err != nil {
		t.Fatal(err)
	}
	b.until("under a second", func() bool { return g.Page().Deadline(3, b.ref.Epoch)-supervisor.Boottime() < time.Second })
	_, err := b.StartContainer(b.ctx, b.ref, container.ContainerConfig{Name: "main", Argv: []string{"/bin/true"}, UID: -1, GID: -1})
	if !errors.Is(err, container.ErrFenced) {
		t.Errorf("container under a second: %v, want ErrFenced", err)
	}
}

func TestFencedPodNeedsAGuard(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	_, err := r.EnsurePod(t.Context(), container.PodConfig{PodRef: newRef(), FenceSlot: 1})
	if !errors.Is(err, container.ErrUnsupported) {
		t.Errorf("got %v, want ErrUnsupported", err)
	}
}

func TestGuardFencesPlainProcesses(t *testing.T) {
	t.Parallel()
	for name, hit := range map[string]func(*bench){
		"SupervisorStopped": func(b *bench) { syscall.Kill(b.supervisor().PID, syscall.SIGSTOP) },
		"SupervisorDead":    func(b *bench) { syscall.Kill(b.supervisor().PID, syscall.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, _ := fenced(t, 2500*time.Millisecond, plain)
			p, err := b.ensure()
			if err != nil || p.Fence != "best-effort" {
				t.Fatalf("%+v, %v", p, err)
			}
			sleep := unique()
			b.sh("trap '' TERM; " + daemonise(sleep) + "sleep " + sleep)
			b.until("both sleeps", func() bool { return running("sleep", sleep) == 2 })
			b.Runtime.Close() // no agent from here on
			hit(b)
			b.until("their end", func() bool { return running("sleep", sleep) == 0 })
			b.Runtime = start(t, b.dir)
			b.until("the pod's death", func() bool { return b.thePod().Dead })
		})
	}
}
