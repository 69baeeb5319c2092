package supervisor

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// An interactive command has the descriptors of whoever asks for it as its own: pipes, or a terminal. They come after the
// request, with one byte, once the init has said that it knows the request; their order is that of the command's.
const streams = 3

// interact runs one command on the descriptors that come over the connection, and returns once it has ended, whoever still
// holds them. The end of the connection kills it with all that came from it.
func (p *initProcess) interact(req *ExecRequest, conn *os.File, connFD int) (ExecReply, error) {
	if err := writeFrame(conn, msgOK, nil); err != nil {
		return ExecReply{}, err
	}
	files, err := receiveStreams(conn)
	if err != nil {
		return ExecReply{}, err
	}
	held := files[:]
	defer func() {
		for _, fd := range held {
			unix.Close(fd)
		}
	}()
	if req.TTY && p.conf.UID >= 0 {
		// Programs open their terminal anew by its name. One that may not goes on without.
		_ = unix.Fchown(files[0], p.conf.UID, -1)
	}
	run := running{marker: p.mark(), pidfd: -1, conn: connFD, timeout: req.Timeout}
	sys := &syscall.SysProcAttr{Setsid: true, Setctty: req.TTY, PidFD: &run.pidfd}
	env := mergeEnv(p.conf.Env, append(slices.Clip(req.Env), run.marker))
	run.pid, err = p.fork(req.Argv, env, [3]uintptr{uintptr(files[0]), uintptr(files[1]), uintptr(files[2])}, sys)
	for _, fd := range held {
		unix.Close(fd) // who reads the other end sees the end once the command has ended
	}
	held = nil
	if err != nil {
		return ExecReply{}, refusal(CodeCannotStart, err.Error())
	}
	return p.await(&run)
}

// receiveStreams takes the descriptors.
func receiveStreams(conn *os.File) (files [streams]int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return files, err
	}
	var b [1]byte
	oob := make([]byte, unix.CmsgSpace(4*streams))
	var n, oobn int
	rerr := raw.Read(func(fd uintptr) bool {
		n, oobn, _, _, err = unix.Recvmsg(int(fd), b[:], oob, unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(err, unix.EAGAIN)
	})
	if err = errors.Join(rerr, err); err != nil {
		return files, err
	}
	var got []int
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range msgs {
		fds, perr := unix.ParseUnixRights(&msgs[i])
		err = errors.Join(err, perr)
		got = append(got, fds...)
	}
	if err == nil && (n != 1 || len(got) != streams) {
		err = refusal(CodeOther, strconv.Itoa(len(got))+" descriptors, want "+strconv.Itoa(streams))
	}
	if err != nil {
		for _, fd := range got {
			unix.Close(fd)
		}
		return files, err
	}
	return [streams]int(got), nil
}

// Interact runs a command on the given descriptors, which stay the caller's, and waits for it; started is called once it has
// them. The connection is of no use afterwards: Close it, which kills the command should it still run.
func (e *ExecConn) Interact(ctx context.Context, req ExecRequest, files [streams]*os.File, started func()) (ExecReply, error) {
	var w body
	req.encode(&w)
	if len(w.b) > MaxFrame {
		return ExecReply{}, refusal(CodeCannotStart, "command and environment take more than "+strconv.Itoa(MaxFrame)+" bytes")
	}
	if _, err := exchange(ctx, e.conn, e.in, reqInteract, w.b); err != nil {
		var refused *Error
		if errors.As(err, &refused) && refused.Code == CodeUnsupported {
			return ExecReply{}, refusal(CodeUnsupported, "the pod's supervisor is of an older muster: it can be done once the pod has been made anew")
		}
		return ExecReply{}, err
	}
	fds := make([]int, 0, streams)
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	if _, _, err := e.conn.WriteMsgUnix([]byte{0}, unix.UnixRights(fds...), nil); err != nil {
		return ExecReply{}, err
	}
	started()
	f, err := await(ctx, e.conn, e.in)
	if err != nil {
		return ExecReply{}, err
	}
	var r ExecReply
	return r, r.decode(bytes.Clone(f.body))
}
