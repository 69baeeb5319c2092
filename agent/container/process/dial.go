package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/supervisor"
)

// dialLimit bounds one connection to a pod.
const dialLimit = 10 * time.Second

// Dial implements container.Runtime.
func (r *Runtime) Dial(ctx context.Context, ref container.PodRef, port int) (container.Conn, error) {
	r.mu.Lock()
	p := r.pods[ref.UID]
	r.mu.Unlock()
	if p == nil || p.ref != ref {
		return nil, fmt.Errorf("pod %s: %w", ref.UID, container.ErrNotFound)
	}
	select {
	case <-p.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if p.err != nil {
		return nil, fmt.Errorf("pod %s: %w: %w", ref.UID, container.ErrNotFound, p.err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	conn, err := p.dial(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("pod %s/%s, port %d: %w", p.rec.Namespace, p.rec.Name, port, err)
	}
	return conn, nil
}

func (p *pod) dial(ctx context.Context, port int) (container.Conn, error) {
	if !p.sup.Alive() {
		return nil, fmt.Errorf("the pod has ended: %w", container.ErrNotRunning)
	}
	if p.rec.Isolation != supervisor.IsolationFull || !p.rec.OwnNetwork {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(p.rec.IP, strconv.Itoa(port)))
		if err != nil {
			return nil, refused(err)
		}
		return conn.(*net.TCPConn), nil
	}
	space, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.sup.PID))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", container.ErrNotRunning, err)
	}
	defer space.Close()
	if !p.sup.Alive() { // else the namespace may be that of another process of the same number
		return nil, fmt.Errorf("the pod has ended: %w", container.ErrNotRunning)
	}
	var tried error
	for _, host := range []string{"127.0.0.1", p.rec.IP} {
		conn, err := dialInside(ctx, space, host, port)
		if err == nil {
			return conn, nil
		}
		tried = err
		if !errors.Is(err, unix.ECONNREFUSED) {
			break
		}
	}
	return nil, refused(tried)
}

// refused is why a connection does not stand.
func refused(err error) error {
	if errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("%w: nothing listens there", container.ErrCannotConnect)
	}
	return fmt.Errorf("%w: %w", container.ErrCannotConnect, err)
}

// dialInside connects in another network namespace. The socket is made there, and works from anywhere.
func dialInside(ctx context.Context, space *os.File, host string, port int) (*net.TCPConn, error) {
	addr, err := netip.ParseAddr(host)
	if err != nil || !addr.Is4() {
		return nil, fmt.Errorf("address %q: want an IPv4 address", host)
	}
	fd, err := socketInside(int(space.Fd()))
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), net.JoinHostPort(host, strconv.Itoa(port)))
	defer f.Close() // the connection has a descriptor of its own
	if err := connect(ctx, f, &unix.SockaddrInet4{Port: port, Addr: addr.As4()}); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// socketInside makes a socket in a network namespace, on a thread that is there for that time. A thread that does not come
// back ends with its goroutine.
func socketInside(space int) (fd int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		own, oerr := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if oerr != nil {
			err = os.NewSyscallError("open own network namespace", oerr)
			return
		}
		defer unix.Close(own)
		if err = os.NewSyscallError("enter the pod's network namespace", unix.Setns(space, unix.CLONE_NEWNET)); err == nil {
			fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			err = os.NewSyscallError("socket", err)
			if unix.Setns(own, unix.CLONE_NEWNET) != nil {
				return
			}
		}
		runtime.UnlockOSThread()
	}()
	<-done
	return fd, err
}

// connect waits for a socket's connection, as long as ctx allows.
func connect(ctx context.Context, f *os.File, to unix.Sockaddr) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })()
	begun := false
	werr := raw.Write(func(fd uintptr) bool {
		if !begun {
			begun = true
			err = unix.Connect(int(fd), to)
			return !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.EINTR)
		}
		var code int
		if code, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil && code != 0 {
			err = unix.Errno(code)
		}
		return true
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(werr, err)
}
