package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/internal/spec"
)

// hookLocked sets going an action that may have a hook in it. A stop ends whatever hook of the instance is under way: a
// postStart one, or the preStop one of a stop that had more time.
func (r *Runner) hookLocked(h *held, w pod.Wanted, a pod.Action) {
	if end := h.hooks[a.ID]; end != nil {
		end()
	}
	ctx, cancel := context.WithCancel(r.ctx)
	if a.Kind == pod.RunPostStart || a.PreStop {
		h.hooks[a.ID] = cancel
	}
	r.wg.Go(func() {
		defer cancel()
		r.do(ctx, h, w, a)
	})
}

// endHooks ends the hooks of instances that run no more.
func endHooks(h *held, seen *pod.Seen) {
	if !seen.Known || len(h.hooks) == 0 {
		return
	}
	runs := map[string]bool{}
	for _, in := range seen.Instances {
		runs[in.ID] = in.Running && !seen.Dead
	}
	for id, end := range h.hooks {
		if !runs[id] {
			end()
			delete(h.hooks, id)
		}
	}
}

// hookedLocked tells the machine how a postStart hook ended.
func (r *Runner) hookedLocked(h *held, w pod.Wanted, a pod.Action, err error) {
	res := pod.Result{}
	if err != nil {
		res.Failure, res.Text = pod.Other, err.Error()
		r.deps.Log.Info("postStart hook failed", "pod", w.Pod.Key().String(), "container", a.Container, "err", err)
	}
	h.machine.Done(time.Now(), w, a.Seq, res)
	r.stepLocked(h)
}

// preStop does an instance's preStop hook within the grace, and returns what is left of that. That the time was over, or the
// instance at its end, is no failure of the hook.
func (r *Runner) preStop(ctx context.Context, h *held, sc *spec.Container, a pod.Action) (left time.Duration, err error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, a.Grace)
	defer cancel()
	err = r.hook(ctx, h, sc, a.ID, sc.PreStop)
	left = max(a.Grace-time.Since(began), pod.MinGrace)
	switch {
	case err == nil:
		return left, nil
	case ctx.Err() != nil, errors.Is(err, container.ErrTimeout), errors.Is(err, container.ErrNotRunning), errors.Is(err, container.ErrNotFound):
		r.deps.Log.Info("preStop hook not completed", "container", a.Container, "instance", a.ID, "err", err)
		return left, nil
	}
	r.deps.Log.Info("preStop hook failed", "container", a.Container, "instance", a.ID, "err", err)
	return left, err
}

// hook does what a hook says, for one instance; it lasts no longer than ctx.
func (r *Runner) hook(ctx context.Context, h *held, sc *spec.Container, id string, hook *spec.Hook) error {
	switch {
	case hook.Exec != nil:
		cfg := container.ExecConfig{Argv: hook.Exec.Command}
		if deadline, ok := ctx.Deadline(); ok {
			cfg.Timeout = time.Until(deadline)
		}
		res, err := r.deps.Runtime.Exec(ctx, container.ContainerID(id), cfg)
		if err == nil && res.ExitCode != 0 {
			err = fmt.Errorf("%s: exit code %d: %.200q", hook.Exec.Command[0], res.ExitCode, append(res.Stdout, res.Stderr...))
		}
		return err
	case hook.Sleep != nil:
		timer := time.NewTimer(hook.Sleep.Duration)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	case hook.HTTP != nil:
		if r.deps.Notify == nil {
			return fmt.Errorf("httpGet hook: %w", container.ErrUnsupported)
		}
		r.mu.Lock()
		ip := h.seen.IP
		r.mu.Unlock()
		return r.deps.Notify(ctx, hook.HTTP, ip, sc.Ports)
	}
	return errors.New("hook without a handler")
}
