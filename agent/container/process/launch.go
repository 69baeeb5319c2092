package process

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/supervisor"
	"github.com/musterhq/muster/agent/supervisor/embedded"
)

// launch starts the pod's supervisor in a session of its own and returns once it is ready, with the fence armed.
func (r *Runtime) launch(ctx context.Context, p *pod) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	errs, err := os.OpenFile(filepath.Join(p.dir, "err"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		write.Close()
		return err
	}
	defer errs.Close()
	argv := r.cfg.SupervisorArgv
	cmd := exec.Command(argv[0], append(argv[1:len(argv):len(argv)], "pod", r.cfg.DataDir, p.dir)...)
	cmd.Dir = "/"
	cmd.Env = supervisor.RuntimeEnv
	cmd.Stderr = errs
	cmd.ExtraFiles = []*os.File{write}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = r.coarsely(cmd)
	write.Close()
	if err != nil {
		return fmt.Errorf("start supervisor: %w", err)
	}
	go cmd.Wait() // owned by the child's life: reaps it should it end before this process

	deadline := time.Now().Add(launchLimit)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	stop := context.AfterFunc(ctx, func() { read.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	read.SetReadDeadline(deadline)
	said, err := io.ReadAll(io.LimitReader(read, 4096))
	if err == nil && string(said) == "ok" {
		p.sup, err = supervisor.ReadSupervisorRecord(p.dir)
		if err == nil {
			return nil
		}
	}
	cmd.Process.Kill()
	cmd.Process.Wait()
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("wait for supervisor: %w", err)
	}
	code, text, ok := strings.Cut(string(said), " ")
	n, cerr := strconv.Atoi(code)
	if !ok || cerr != nil {
		tail, _ := os.ReadFile(filepath.Join(p.dir, "err"))
		return fmt.Errorf("supervisor ended at once: %s", bytes.TrimSpace(tail[:min(len(tail), 500)]))
	}
	if n == supervisor.CodeFenced {
		return fmt.Errorf("%w: %s", container.ErrFenced, text)
	}
	return errors.New("supervisor: " + text)
}

// coarsely starts a supervisor from a thread with its timer slack, which it inherits, and tells it that of its containers.
func (r *Runtime) coarsely(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return os.NewSyscallError("get timer slack", err)
	}
	given := cmp.Or(int(r.cfg.TimerSlack), own)
	cmd.Env = append(slices.Clip(cmd.Env), supervisor.EnvSlack+"="+strconv.Itoa(given))
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(supervisor.Slack), 0, 0, 0); err != nil {
		return os.NewSyscallError("set timer slack", err)
	}
	defer unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(own), 0, 0, 0)
	return cmd.Start()
}

// isolation asks the tiny binary what the kernel allows.
func isolation(ctx context.Context, argv []string) (supervisor.Isolation, error) {
	ctx, cancel := context.WithTimeout(ctx, launchLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], append(argv[1:len(argv):len(argv)], "isolation")...)
	cmd.Env = supervisor.RuntimeEnv
	cmd.Dir = "/"
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for the isolation: %w %s", argv[0], err, bytes.TrimSpace(errs.Bytes()))
	}
	switch i := supervisor.Isolation(strings.TrimSpace(string(out))); i {
	case supervisor.IsolationFull, supervisor.IsolationUser, supervisor.IsolationNone:
		return i, nil
	}
	return "", fmt.Errorf("ask %s for the isolation: unexpected answer %q", argv[0], out)
}

// SupervisorArgv is how supervisors and the guard of this build are started: the embedded tiny binary, written to
// dataDir/bin under the name of its hash, or without one, own (such as {"/path/muster", "pod-supervisor"}), with a note
// for people. It refuses a directory from which nothing may be executed. Binaries of other builds are taken away unless
// a process still runs from them.
func SupervisorArgv(dataDir string, own []string) (argv []string, note string, err error) {
	if len(embedded.Binary) == 0 {
		return own, "this muster has no tiny binary embedded (make build does that), so each pod's supervisor costs more memory and CPU", nil
	}
	path, err := install(filepath.Join(dataDir, "bin"), embedded.Binary)
	if err != nil {
		return nil, "", fmt.Errorf("write supervisor to data directory %s: %w", dataDir, err)
	}
	return []string{path}, "", nil
}

func install(bin string, binary []byte) (string, error) {
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(bin, &st); err != nil {
		return "", err
	}
	if st.Flags&unix.ST_NOEXEC != 0 {
		return "", errors.New("it is mounted noexec: choose a data directory from which programs may be executed")
	}
	sum := sha256.Sum256(binary)
	path := filepath.Join(bin, "supervisor-"+hex.EncodeToString(sum[:]))
	if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, binary) {
		f, err := os.CreateTemp(bin, "new-")
		if err != nil {
			return "", err
		}
		_, err = f.Write(binary)
		if err == nil {
			err = f.Chmod(0o755)
		}
		if err == nil {
			err = f.Sync()
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			err = os.Rename(f.Name(), path)
		}
		if err != nil {
			os.Remove(f.Name())
			return "", err
		}
	}
	return path, sweep(bin, path)
}

// sweep removes the binaries that nothing runs from.
func sweep(bin, current string) error {
	entries, err := os.ReadDir(bin)
	if err != nil {
		return err
	}
	var used map[string]bool
	for _, e := range entries {
		path := filepath.Join(bin, e.Name())
		if path == current || !strings.HasPrefix(e.Name(), "supervisor-") && !strings.HasPrefix(e.Name(), "new-") {
			continue
		}
		if used == nil {
			used = executables()
		}
		if !used[path] {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// executables are the files that this user's processes run from.
func executables() map[string]bool {
	used := map[string]bool{}
	procs, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range procs {
		if target, err := os.Readlink(link); err == nil {
			used[target] = true
		}
	}
	return used
}
