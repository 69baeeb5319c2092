package supervisor

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Client speaks to the supervisor of one pod. It holds no connection between calls, and each call is bounded by its
// context, so that a stopped supervisor blocks nobody for longer.
type Client struct {
	// Dir is the pod's directory; its path may be of any length.
	Dir string
}

// ErrVersion means that the supervisor is too old or too new for this build.
var ErrVersion = errors.New("supervisor speaks a version that this agent does not drive")

// Dial connects a unix socket by a path of any length: sun_path has room for 107 bytes, so the directory is opened
// and the socket reached through the descriptor.
func Dial(ctx context.Context, dir, name string) (*net.UnixConn, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", "/proc/self/fd/"+strconv.Itoa(fd)+"/"+name)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// call sends one request on its own connection and reads the answer.
func (c *Client) call(ctx context.Context, kind byte, req []byte) (frame, error) {
	conn, err := Dial(ctx, c.Dir, SocketFile)
	if err != nil {
		return frame{}, err
	}
	defer conn.Close()
	return exchange(ctx, conn, conn, kind, req)
}

// exchange is one request and its answer; the end of ctx ends it and spoils the connection.
func exchange(ctx context.Context, conn net.Conn, in io.Reader, kind byte, req []byte) (frame, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := writeFrame(conn, kind, req); err != nil {
		if ctx.Err() != nil {
			return frame{}, ctx.Err()
		}
		return frame{}, err
	}
	return await(ctx, conn, in)
}

// await reads an answer; the end of ctx ends that and spoils the connection.
func await(ctx context.Context, conn net.Conn, in io.Reader) (frame, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	f, err := readFrame(in)
	if err != nil {
		if ctx.Err() != nil {
			return frame{}, ctx.Err()
		}
		return frame{}, err
	}
	if f.version < OldestVersion || f.version > Version+2 {
		return frame{}, ErrVersion
	}
	switch f.kind {
	case msgOK, msgChanged:
		return f, nil
	case msgError:
		return frame{}, decodeError(f.body)
	}
	return frame{}, errFrame
}

// State asks what the supervisor sees.
func (c *Client) State(ctx context.Context) (State, error) {
	f, err := c.call(ctx, reqState, nil)
	if err != nil {
		return State{}, err
	}
	st := State{Version: int(f.version)}
	return st, st.decode(f.body)
}

// Start starts a new instance of a container. It returns once the command runs, or cannot (CodeCannotStart).
func (c *Client) Start(ctx context.Context, cfg StartConfig) (ContainerRecord, error) {
	var w body
	cfg.encode(&w)
	if len(w.b) > MaxFrame {
		return ContainerRecord{}, refusal(CodeCannotStart, "command and environment take more than "+strconv.Itoa(MaxFrame)+" bytes")
	}
	f, err := c.call(ctx, reqStart, w.b)
	if err != nil {
		return ContainerRecord{}, err
	}
	var rec ContainerRecord
	return rec, rec.decode(f.body)
}

func target(name, instance string, grace time.Duration) []byte {
	var w body
	w.str(1, name)
	w.str(2, instance)
	w.int(3, int64(grace))
	return w.b
}

// Stop sends SIGTERM, waits for grace, kills, and returns when no process of the instance lives. When ctx ends before,
// the stop goes on without the caller.
func (c *Client) Stop(ctx context.Context, name, instance string, grace time.Duration) error {
	_, err := c.call(ctx, reqStop, target(name, instance, grace))
	return err
}

// Remove kills everything and ends the supervisor.
func (c *Client) Remove(ctx context.Context) error {
	_, err := c.call(ctx, reqRemove, nil)
	return err
}

// Watch calls changed at once and after each change with the state, until ctx or the connection ends. A state whose Changes is 0
// says nothing else: State does.
func (c *Client) Watch(ctx context.Context, changed func(State)) error {
	conn, err := Dial(ctx, c.Dir, SocketFile)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := writeFrame(conn, reqWatch, nil); err != nil {
		return err
	}
	for {
		f, err := readFrame(conn)
		if err != nil {
			return err
		}
		if f.kind != msgChanged {
			return errFrame
		}
		st := State{Version: int(f.version)}
		if err := st.decode(f.body); err != nil {
			return err
		}
		changed(st)
	}
}

// ExecConn runs commands in one container instance, one after another. Not for concurrent use.
type ExecConn struct {
	conn *net.UnixConn
	in   *bufio.Reader
}

// Attach connects to an instance's init.
func (c *Client) Attach(ctx context.Context, name, instance string) (*ExecConn, error) {
	conn, err := Dial(ctx, c.Dir, SocketFile)
	if err != nil {
		return nil, err
	}
	if _, err := exchange(ctx, conn, conn, reqAttach, target(name, instance, 0)); err != nil {
		conn.Close()
		return nil, err
	}
	return &ExecConn{conn, bufio.NewReaderSize(conn, 1024)}, nil
}

// Exec runs a command and waits for it. After an error that is not an *Error the connection is of no use any more:
// Close it, which also kills the command should it still run.
func (e *ExecConn) Exec(ctx context.Context, req ExecRequest) (ExecReply, error) {
	var w body
	req.encode(&w)
	if len(w.b) > MaxFrame {
		return ExecReply{}, refusal(CodeCannotStart, "command and environment take more than "+strconv.Itoa(MaxFrame)+" bytes")
	}
	f, err := exchange(ctx, e.conn, e.in, reqExec, w.b)
	if err != nil {
		return ExecReply{}, err
	}
	var r ExecReply
	return r, r.decode(f.body)
}

// Close lets go of the connection.
func (e *ExecConn) Close() error { return e.conn.Close() }
