package supervisor

import (
	"bufio"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxExecs bounds the execs of a container at any moment; more are refused.
const maxExecs = 64

// envExec marks the processes of one exec.
const envExec = "MUSTER_EXEC"

// serve answers ExecRequests on a connection from the agent, one after another, until it ends. The end of the
// connection kills a command that still runs.
func (p *initProcess) serve(fd int) {
	unix.SetNonblock(fd, true)
	conn := os.NewFile(uintptr(fd), "exec")
	defer conn.Close()
	p.mu.Lock()
	busy := p.execs >= maxExecs
	if !busy {
		p.execs++
	}
	p.mu.Unlock()
	if busy {
		writeFrame(conn, msgError, errorBody(refusal(CodeOther, "more than "+strconv.Itoa(maxExecs)+" execs at a time")))
		return
	}
	defer func() {
		p.mu.Lock()
		p.execs--
		p.mu.Unlock()
	}()
	if writeFrame(conn, msgOK, nil) != nil {
		return
	}
	in := bufio.NewReaderSize(conn, 2048)
	for {
		f, err := readFrame(in)
		if err != nil {
			return
		}
		var req ExecRequest
		if err = req.decode(f.body); err == nil {
			var reply ExecReply
			switch f.kind {
			case reqExec:
				reply, err = p.exec(&req, fd)
			case reqInteract:
				reply, err = p.interact(&req, conn, fd)
			default:
				err = refusal(CodeUnsupported, "unknown request "+strconv.Itoa(int(f.kind)))
			}
			if err == nil {
				var w body
				reply.encode(&w)
				if writeFrame(conn, msgOK, w.b) != nil {
					return
				}
				continue
			}
		}
		if writeFrame(conn, msgError, errorBody(err)) != nil {
			return
		}
	}
}

// quick is how long a command's output is left in its pipes: most have ended by then, and are waited for once only.
const quick = 20 * time.Millisecond

// exec runs one command and returns as soon as it has ended, whoever still holds its pipes. It waits in one system call
// for the command's end, its output, and the end of the connection.
func (p *initProcess) exec(req *ExecRequest, conn int) (ExecReply, error) {
	start := time.Now()
	var out, errs capture
	if err := out.open(req.OutputLimit); err != nil {
		return ExecReply{}, err
	}
	defer out.close()
	if err := errs.open(req.OutputLimit); err != nil {
		return ExecReply{}, err
	}
	defer errs.close()
	run := running{marker: p.mark(), pidfd: -1, conn: conn, timeout: req.Timeout, outputs: []*capture{&out, &errs}, start: start}
	env := mergeEnv(p.conf.Env, append(slices.Clip(req.Env), run.marker))
	sys := &syscall.SysProcAttr{Setsid: true, PidFD: &run.pidfd}
	var err error
	run.pid, err = p.fork(req.Argv, env, [3]uintptr{0, uintptr(out.w), uintptr(errs.w)}, sys)
	if err != nil {
		return ExecReply{}, refusal(CodeCannotStart, err.Error())
	}
	out.closeWriter()
	errs.closeWriter()
	reply, err := p.await(&run)
	reply.Stdout, reply.Stderr = out.kept, errs.kept
	return reply, err
}

// mark is a new mark for the processes of an exec.
func (p *initProcess) mark() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.execSeq++
	return envExec + "=" + strconv.Itoa(os.Getpid()) + "-" + strconv.Itoa(p.execSeq)
}

// running is a command that has been started for an exec.
type running struct {
	pid, pidfd int
	marker     string
	conn       int // its end kills the command
	timeout    time.Duration
	outputs    []*capture
	start      time.Time
}

// await waits for the end of a command, and kills it when its time is over or nobody waits any more.
func (p *initProcess) await(run *running) (ExecReply, error) {
	defer unix.Close(run.pidfd)
	if run.start.IsZero() {
		run.start = time.Now()
	}
	wait := make([]unix.PollFd, 0, 4)
	wait = append(wait, unix.PollFd{Fd: int32(run.pidfd), Events: unix.POLLIN}, unix.PollFd{Fd: int32(run.conn), Events: unix.POLLRDHUP})
	for _, c := range run.outputs {
		wait = append(wait, unix.PollFd{Fd: int32(c.r), Events: unix.POLLIN})
	}
	for polled := 2; wait[0].Revents == 0; polled = len(wait) {
		var limit *unix.Timespec
		left := run.timeout - time.Since(run.start)
		first := polled < len(wait)
		if first && (run.timeout == 0 || left > quick) {
			left = quick
		}
		if run.timeout > 0 || first {
			ts := unix.NsecToTimespec(int64(max(left, 0)))
			limit = &ts
		}
		n, err := unix.Ppoll(wait[:polled], limit, nil)
		if err != nil && err != unix.EINTR {
			p.killExec(run.pid, run.marker)
			return ExecReply{}, os.NewSyscallError("ppoll", err)
		}
		if n > 0 && wait[0].Revents != 0 && wait[1].Revents == 0 {
			break
		}
		if n == 0 && run.timeout > 0 && time.Since(run.start) >= run.timeout || n > 0 && wait[1].Revents != 0 {
			p.killExec(run.pid, run.marker)
			go syscall.Wait4(run.pid, nil, 0, nil) // at once, but for uninterruptible I/O
			return ExecReply{}, refusal(CodeTimeout, "command did not end within "+run.timeout.String())
		}
		for i, c := range run.outputs {
			if f := &wait[2+i]; n > 0 && f.Revents != 0 && c.drain() == 0 {
				f.Fd = -1 // nobody holds it any more
			}
		}
	}
	var ws syscall.WaitStatus
	var ru syscall.Rusage
	for {
		if _, err := syscall.Wait4(run.pid, &ws, 0, &ru); err == nil {
			break
		} else if !errors.Is(err, syscall.EINTR) {
			return ExecReply{}, os.NewSyscallError("wait", err)
		}
	}
	for _, c := range run.outputs {
		c.drain()
	}
	s := statusOf(ws, &ru)
	return ExecReply{ExitCode: s.code, Duration: time.Since(run.start), CPU: s.cpu}, nil
}

// killExec kills a command and what came from it: its descendants, its session, and whatever carries its marker in its
// environment. Only a process that left all three (a daemon that also replaced its environment by an exec) goes on; it
// ends with the container.
func (p *initProcess) killExec(pid int, marker string) {
	unix.Kill(-pid, unix.SIGKILL)
	killUntilNone(killTimeout, func() []int {
		all := Stats()
		in := map[int]bool{pid: true}
		for _, m := range WithEnv(marker) {
			in[m] = true
		}
		for grown := true; grown; {
			grown = false
			for _, s := range all {
				if !in[s.PID] && (in[s.PPID] || s.Session == pid) {
					in[s.PID], grown = true, true
				}
			}
		}
		var out []int
		for _, s := range all {
			if in[s.PID] && !s.Dead() {
				out = append(out, s.PID)
			}
		}
		return out
	})
}

// mergeEnv is base with extra on top: a name stands once, with its last value.
func mergeEnv(base, extra []string) []string {
	out := make([]string, 0, len(base)+len(extra))
	at := make(map[string]int, len(base)+len(extra))
	for _, list := range [2][]string{base, extra} {
		for _, e := range list {
			name, _, _ := strings.Cut(e, "=")
			if i, ok := at[name]; ok {
				out[i] = e
				continue
			}
			at[name] = len(out)
			out = append(out, e)
		}
	}
	return out
}

// capture is a pipe of which the first bytes are kept.
type capture struct {
	r, w  int
	limit int
	kept  []byte
}

func (c *capture) open(limit int) error {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe", err)
	}
	c.r, c.w, c.limit = fds[0], fds[1], limit
	unix.SetNonblock(c.r, true) // the reading end alone: ends have their own flags
	return nil
}

func (c *capture) closeWriter() {
	if c.w >= 0 {
		unix.Close(c.w)
		c.w = -1
	}
}

func (c *capture) close() {
	c.closeWriter()
	unix.Close(c.r)
}

// drain takes what is in the pipe, at most its capacity at a time, and returns how much that was.
func (c *capture) drain() int {
	var buf [4096]byte
	total := 0
	for total < 64<<10 {
		n, err := unix.Read(c.r, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			break
		}
		total += n
		if room := c.limit - len(c.kept); room > 0 {
			c.kept = append(c.kept, buf[:min(n, room)]...)
		}
		if n < len(buf) {
			break
		}
	}
	return total
}
