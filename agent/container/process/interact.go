package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/supervisor"
)

// Interact implements container.Runtime.
func (r *Runtime) Interact(ctx context.Context, id container.ContainerID, cmd container.Interaction) (int32, error) {
	p, name, instance, err := r.resolve(id)
	if err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	// A connection of its own: the init serves one command at a time on each.
	conn, err := p.client.Attach(ctx, name, instance)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", name, p.ended(ctx, err))
	}
	defer conn.Close()
	s, err := open(&cmd)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", name, err)
	}
	defer s.close()
	var copies sync.WaitGroup
	req := supervisor.ExecRequest{Argv: cmd.Argv, Env: cmd.Env, TTY: cmd.TTY}
	failed, fail := context.WithCancelCause(ctx) // whoever does not take the output ends the command
	defer fail(nil)
	reply, err := conn.Interact(failed, req, s.theirs, func() { s.copy(&copies, &cmd, fail) })
	if err != nil {
		conn.Close() // first: the end of its terminal would only hang the command up
	}
	s.ended()
	copies.Wait()
	if cause := context.Cause(failed); cause != nil && ctx.Err() == nil {
		err = cause
	} else if err != nil {
		err = p.ended(ctx, err)
	}
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", name, err)
	}
	return reply.ExitCode, nil
}

// streams are both ends of a command's descriptors.
type streams struct {
	theirs [3]*os.File
	in     *os.File // ours, to write to; nil for none
	outs   []*os.File
	tty    *os.File // ours, if it is one
	done   chan struct{}
}

func open(cmd *container.Interaction) (s *streams, err error) {
	s = &streams{done: make(chan struct{})}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if cmd.TTY {
		return s, s.terminal(cmd.Sizes)
	}
	if cmd.Stdin == nil {
		s.theirs[0], err = os.Open(os.DevNull)
	} else {
		s.theirs[0], s.in, err = os.Pipe()
	}
	for i := 1; i < len(s.theirs) && err == nil; i++ {
		var ours *os.File
		ours, s.theirs[i], err = os.Pipe()
		s.outs = append(s.outs, ours)
	}
	return s, err
}

// terminal makes a pseudo-terminal.
func (s *streams) terminal(sizes <-chan container.TerminalSize) error {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	s.tty = os.NewFile(uintptr(fd), "/dev/ptmx")
	s.in, s.outs = s.tty, []*os.File{s.tty}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return os.NewSyscallError("unlock terminal", err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return os.NewSyscallError("number of terminal", err)
	}
	select {
	case size := <-sizes:
		s.resize(size)
	default:
	}
	path := "/dev/pts/" + strconv.Itoa(number)
	own, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	s.theirs[0] = os.NewFile(uintptr(own), path)
	s.theirs[1], s.theirs[2] = s.theirs[0], s.theirs[0]
	return nil
}

func (s *streams) resize(size container.TerminalSize) {
	raw, err := s.tty.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		// A terminal without its size is one of 80 columns to most.
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Columns})
	})
}

// copy moves what comes and goes, once the command has its descriptors: ours of the same would keep their ends from being seen.
func (s *streams) copy(out *sync.WaitGroup, cmd *container.Interaction, fail context.CancelCauseFunc) {
	for i, f := range s.theirs {
		if i == 0 || f != s.theirs[0] {
			f.Close()
		}
	}
	if s.in != nil && cmd.Stdin != nil {
		go s.feed(cmd.Stdin) // its Read ends when the caller has it end
	}
	for i, to := range []io.Writer{cmd.Stdout, cmd.Stderr}[:len(s.outs)] {
		out.Go(func() {
			if err := s.drain(s.outs[i], to); err != nil {
				fail(err)
			}
		})
	}
	if s.tty != nil && cmd.Sizes != nil {
		out.Go(func() {
			for {
				select {
				case size := <-cmd.Sizes:
					s.resize(size)
				case <-s.done:
					return
				}
			}
		})
	}
}

// endOfFile is what a terminal takes for the end of its input.
const endOfFile = 4

func (s *streams) feed(from io.Reader) {
	_, err := io.Copy(s.in, from)
	switch {
	case err != nil: // the command reads no more
	case s.tty != nil:
		_, _ = s.in.Write([]byte{endOfFile})
	default:
		s.in.Close()
	}
}

// drain copies until the command has ended and all that was written by then is taken, or nobody can write any more.
func (s *streams) drain(from *os.File, to io.Writer) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) { // somebody who goes on holds the other end
			n, err = s.left(from, buf)
		}
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return fmt.Errorf("pass the output on: %w", werr)
			}
		}
		if err != nil || n == 0 {
			return nil //nolint:nilerr // EIO is how a terminal ends
		}
	}
}

// left reads without waiting.
func (s *streams) left(from *os.File, buf []byte) (n int, err error) {
	raw, err := from.SyscallConn()
	if err != nil {
		return 0, err
	}
	if cerr := raw.Control(func(fd uintptr) { n, err = unix.Read(int(fd), buf) }); cerr != nil {
		return 0, cerr
	}
	return max(n, 0), err
}

// ended tells that the command has.
func (s *streams) ended() {
	close(s.done)
	for _, f := range s.outs {
		_ = f.SetReadDeadline(time.Unix(1, 0))
	}
}

func (s *streams) close() {
	for _, f := range append([]*os.File{s.in, s.tty}, append(s.outs, s.theirs[:]...)...) {
		if f != nil {
			f.Close() // some have been already
		}
	}
}
