package loadtest

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopLimit is how long most parts may take to end once they were asked to.
const stopLimit = 2 * removeLimit

// part is a process of the test. It ends when its stdin does, so none outlives this process, however that ends.
type part struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  *bufio.Reader
	stderr *tail
	// patience is how long it may take to end once it was asked to.
	patience time.Duration
}

// startPart starts one, on these processors; none: wherever it may run.
func startPart(argv []string, cpus []int) (*part, error) {
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:gosec // it is this program itself
	// Ctrl-C is for this process alone: it asks the parts to end, and what they have measured by then is shown.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = os.Environ()
	if len(cpus) > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("GOMAXPROCS=%d", len(cpus)))
	}
	cmd.WaitDelay = time.Second // what it has left running may hold its stderr
	p := &part{cmd: cmd, stderr: &tail{}, patience: stopLimit}
	cmd.Stderr = p.stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.stdin, p.lines = stdin, bufio.NewReaderSize(stdout, 1<<16)
	if err := startOn(cpus, cmd); err != nil {
		return nil, fmt.Errorf("start %v: %w", argv, err)
	}
	return p, nil
}

// startOn starts a command that inherits these processors from the thread that starts it.
func startOn(cpus []int, cmd *exec.Cmd) error {
	if len(cpus) == 0 {
		return cmd.Start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var was, want unix.CPUSet
	if err := unix.SchedGetaffinity(0, &was); err != nil {
		return fmt.Errorf("find the processors: %w", err)
	}
	for _, c := range cpus {
		want.Set(c)
	}
	if err := unix.SchedSetaffinity(0, &want); err != nil {
		return fmt.Errorf("pin to processors %v: %w", cpus, err)
	}
	err := cmd.Start()
	return errors.Join(err, unix.SchedSetaffinity(0, &was))
}

// processors are those that this process may use.
func processors() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("find the processors: %w", err)
	}
	var cpus []int
	for i := range len(set) * 64 {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return cpus, nil
}

// hear reads a line of numbers by name.
func (p *part) hear() (told map[string]int64, err error) {
	line, err := p.lines.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &told)
	}
	return told, err
}

// say tells the part something, a line of JSON.
func (p *part) say(v any) error {
	line, err := json.Marshal(v)
	if err == nil {
		_, err = p.stdin.Write(append(line, '\n'))
	}
	return err
}

// ask ends the part's stdin, which ends it.
func (p *part) ask() { p.stdin.Close() }

// stop ends the part and waits for it. An error has the end of what it said on stderr.
func (p *part) stop() error {
	p.ask()
	kill := time.AfterFunc(p.patience, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	_, _ = io.Copy(io.Discard, p.lines)
	err := p.cmd.Wait()
	if said := bytes.TrimSpace(p.stderr.last); err != nil && len(said) > 0 {
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// died is why a part has ended that was not asked to.
func (p *part) died() error { return cmp.Or(p.stop(), errors.New("it said nothing")) }

// tail keeps the end of what is written to it.
type tail struct{ last []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.last = append(t.last, b...)
	t.last = t.last[max(0, len(t.last)-4096):]
	return len(b), nil
}
