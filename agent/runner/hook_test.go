package runner_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/container/containertest"
	"github.com/musterhq/muster/internal/spec"
)

func execHook(argv ...string) *spec.Hook { return &spec.Hook{Exec: &spec.ExecAction{Command: argv}} }

func sleepHook(d time.Duration) *spec.Hook {
	return &spec.Hook{Sleep: &spec.SleepAction{Duration: d}}
}

func hooked(postStart, preStop *spec.Hook) *spec.Pod {
	p := pod("a")
	p.Spec.Containers[0].PostStart, p.Spec.Containers[0].PreStop = postStart, preStop
	p.Spec.Containers[0].Readiness = &spec.Probe{Handler: spec.Handler{TCP: &spec.TCPAction{Port: spec.PortRef{Number: 1}}}}
	return p
}

// probed is how many probes the prober has.
func (b *bench) probed() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.rows)
}

func TestAPostStartHookIsDoneInItsContainerBeforeProbesAreAsked(t *testing.T) {
	for name, hook := range map[string]*spec.Hook{
		"exec": execHook("warm", "$(UP)"), "sleep": sleepHook(40 * time.Second), "httpGet": {HTTP: &spec.HTTPAction{Path: "/warm"}},
	} {
		t.Run(name, func(t *testing.T) {
			on(t, func(t *testing.T, b *bench) {
				said := ""
				b.fake.OnExec = func(_ context.Context, _ container.ContainerID, cmd container.ExecConfig) (container.ExecResult, error) {
					said = strings.Join(cmd.Argv, " ")
					time.Sleep(40 * time.Second) // longer than a call of the runtime may take
					return container.ExecResult{}, nil
				}
				b.notify = func(_ context.Context, a *spec.HTTPAction, address string) error {
					said = address + a.Path
					time.Sleep(40 * time.Second)
					return nil
				}
				b.full(1, fast(hooked(hook, nil), 1))
				b.settle(39 * time.Second)
				if len(b.running()) != 1 || b.probed() != 0 {
					t.Errorf("runs %v, %d probes", b.running(), b.probed())
				}
				b.settle(2 * time.Second)
				if b.probed() != 1 || b.hasEvent("Hook") {
					t.Errorf("%d probes, events %q", b.probed(), b.events)
				}
				if want := map[string]string{"exec": "warm $(UP)", "httpGet": "127.77.1.1/warm"}[name]; said != want {
					t.Errorf("said %q, want %q", said, want)
				}
			})
		})
	}
}

func TestAPostStartHookThatFailsIsTold(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.fake.OnExec = func(context.Context, container.ContainerID, container.ExecConfig) (container.ExecResult, error) {
			return container.ExecResult{ExitCode: 3, Stderr: []byte("no database")}, nil
		}
		b.full(1, fast(hooked(execHook("warm"), nil), 1))
		b.settle(5 * time.Second)
		if !b.hasEvent("spec.containers{web} Warning FailedPostStartHook PostStartHook failed") || len(b.running()) != 0 {
			t.Errorf("events %q, runs %v", b.events, b.running())
		}
		if !strings.Contains(b.log.String(), "no database") {
			t.Error("the log does not say why")
		}
	})
}

func TestAHookEndsWithItsContainer(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.fake.Behave = func(container.PodRef, container.ContainerConfig) containertest.Behaviour {
			return containertest.Behaviour{RunFor: time.Minute, ExitCode: 1}
		}
		b.full(1, fast(hooked(sleepHook(time.Hour), nil), 1))
		b.settle(90 * time.Second)
		if n := b.calls("StartContainer"); n != 2 {
			t.Errorf("%d starts: the hook of an instance that has gone holds up the next one", n)
		}
		b.full(1)
		b.settle(5 * time.Second)
		if _, ok := b.held("a", 1); ok || len(b.running()) != 0 {
			t.Error("a hook holds up a pod that has to go")
		}
	})
}

func TestAPreStopHookComesOffTheGrace(t *testing.T) {
	for name, tt := range map[string]struct {
		hook *spec.Hook
		exec func(ctx context.Context, cmd container.ExecConfig) (container.ExecResult, error)
		// gone is when the container has gone that ignores SIGTERM; the grace is 30 s.
		gone   time.Duration
		failed bool
	}{
		"it sleeps": {hook: sleepHook(10 * time.Second), gone: 30 * time.Second},
		"it takes all the grace": {hook: execHook("drain"), gone: 32 * time.Second, exec: func(ctx context.Context, cmd container.ExecConfig) (container.ExecResult, error) {
			if cmd.Timeout <= 0 || cmd.Timeout > 30*time.Second {
				return container.ExecResult{}, fmt.Errorf("a time-out of %v", cmd.Timeout)
			}
			<-ctx.Done()
			return container.ExecResult{}, fmt.Errorf("drain: %w", container.ErrTimeout)
		}},
		"it fails": {hook: execHook("drain"), gone: 30 * time.Second, failed: true, exec: func(context.Context, container.ExecConfig) (container.ExecResult, error) {
			return container.ExecResult{}, errors.New("no such file")
		}},
		"its exit code": {hook: execHook("drain"), gone: 30 * time.Second, failed: true, exec: func(context.Context, container.ExecConfig) (container.ExecResult, error) {
			return container.ExecResult{ExitCode: 1}, nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			on(t, func(t *testing.T, b *bench) {
				b.fake.Behave = func(container.PodRef, container.ContainerConfig) containertest.Behaviour {
					return containertest.Behaviour{TermTakes: -1}
				}
				b.fake.OnExec = func(ctx context.Context, _ container.ContainerID, cmd container.ExecConfig) (container.ExecResult, error) {
					return tt.exec(ctx, cmd)
				}
				b.full(1, fast(hooked(nil, tt.hook), 1))
				b.settle(5 * time.Second)
				b.full(1)
				b.settle(tt.gone - time.Second)
				if len(b.running()) != 1 {
					t.Errorf("gone before %v", tt.gone)
				}
				b.settle(2 * time.Second)
				if len(b.running()) != 0 {
					t.Errorf("there after %v", tt.gone)
				}
				if got := b.hasEvent("spec.containers{web} Warning FailedPreStopHook PreStopHook failed"); got != tt.failed {
					t.Errorf("events %q", b.events)
				}
			})
		})
	}
}

func TestADeletionThatIsShortenedEndsThePreStopHook(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		p := hooked(nil, sleepHook(time.Hour))
		b.full(1, fast(p, 1))
		b.settle(5 * time.Second)
		deleted := p.Clone()
		deleted.DeleteTime, deleted.DeleteGrace = time.Now(), 30*time.Minute
		b.full(1, fast(deleted, 1))
		b.settle(time.Minute)
		if len(b.running()) != 1 {
			t.Fatal("it did not wait for its hook")
		}
		now := deleted.Clone()
		now.DeleteGrace = 0
		b.full(1, fast(now, 1))
		b.settle(4 * time.Second)
		if len(b.running()) != 0 || b.hasEvent("FailedPreStopHook") {
			t.Errorf("runs %v, events %q", b.running(), b.events)
		}
	})
}
