package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/musterhq/muster/agent/container"
)

// pipeDelay is how long output is waited for that something still holds open which the command has left running.
const pipeDelay = 100 * time.Millisecond

// Local runs commands on this machine, as this process's user, in no container: an Execer for trying a probe where there is
// no pod.
type Local struct {
	// Env is the whole environment, "NAME=value"; the absolute directories of its last PATH are where commands are looked for.
	Env []string
	// Dir is the working directory, absolute.
	Dir string
}

// Exec runs a command and waits for it. At its time-out it is killed with all of its process group. It fails with
// container.ErrCannotStart and container.ErrTimeout.
func (l Local) Exec(ctx context.Context, _ container.ContainerID, cmd container.ExecConfig) (container.ExecResult, error) {
	if cmd.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, cmd.Timeout)
		defer cancel()
	}
	name := cmd.Argv[0]
	path, err := l.find(name)
	if err != nil {
		return container.ExecResult{}, fmt.Errorf("%s: %w: %w", name, container.ErrCannotStart, err)
	}
	stdout, stderr := &capture{most: cmd.OutputLimit}, &capture{most: cmd.OutputLimit}
	c := exec.CommandContext(ctx, path, cmd.Argv[1:]...)
	c.Args[0] = name
	c.Env, c.Dir, c.Stdout, c.Stderr, c.WaitDelay = append(slices.Clone(l.Env), cmd.Env...), l.Dir, stdout, stderr, pipeDelay
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	start := time.Now()
	if err := c.Start(); err != nil {
		return container.ExecResult{}, fmt.Errorf("%s: %w: %w", name, container.ErrCannotStart, err)
	}
	err = c.Wait()
	exited := (*exec.ExitError)(nil)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return container.ExecResult{}, fmt.Errorf("%s: %w", name, container.ErrTimeout)
	case ctx.Err() != nil:
		return container.ExecResult{}, ctx.Err()
	case err != nil && !errors.As(err, &exited) && !errors.Is(err, exec.ErrWaitDelay):
		return container.ExecResult{}, fmt.Errorf("%s: %w", name, err)
	}
	code := c.ProcessState.ExitCode()
	if ws, ok := c.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		code = 128 + int(ws.Signal())
	}
	return container.ExecResult{
		ExitCode: int32(code), Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), Duration: time.Since(start),
		CPU: c.ProcessState.UserTime() + c.ProcessState.SystemTime(),
	}, nil
}

// find is the path of a program: a name without a slash is looked for in the environment's PATH.
func (l Local) find(name string) (string, error) {
	if strings.Contains(name, "/") {
		if filepath.IsAbs(name) {
			return name, nil
		}
		return filepath.Join(l.Dir, name), nil
	}
	for _, v := range slices.Backward(l.Env) {
		dirs, ok := strings.CutPrefix(v, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(dirs) {
			if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil && filepath.IsAbs(path) {
				return path, nil
			}
		}
		break
	}
	return "", exec.ErrNotFound
}

// capture keeps the first bytes that are written to it.
type capture struct {
	bytes.Buffer
	most int
}

func (c *capture) Write(p []byte) (int, error) {
	c.Buffer.Write(p[:min(len(p), max(0, c.most-c.Len()))])
	return len(p), nil
}
