package loadtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxBody bounds what a target says, in bytes: a probe reads no more.
	MaxBody = 10240
	// maxRequest bounds a request's head, in bytes: a longer one is hung up on.
	maxRequest = 16 << 10
	// maxIdle bounds how long a raw target is deaf to the end of its context.
	maxIdle = 100 * time.Millisecond
)

// raw is a target made of system calls, on one thread: it has to cost far less than what probes it. It answers a request as
// soon as its head is there, and closes; a TCP target closes what it has accepted.
type raw struct {
	kind        string
	port        int
	connections *atomic.Int64
	answer      []byte
	delay       time.Duration
	listen      int
	epoll       int
	// heads has the beginnings of requests that came in parts.
	heads map[int][]byte
	// waiting are the connections that are answered later, soonest first.
	waiting []waiting
	buf     [maxRequest]byte
}

type waiting struct {
	fd int
	at time.Time
}

func listenRaw(t Target, connections *atomic.Int64) (_ *raw, err error) {
	status := "200 OK"
	if t.Kind == KindFailing {
		status = "500 Internal Server Error"
	}
	r := &raw{kind: t.Kind, connections: connections, heads: map[int][]byte{}, listen: -1, epoll: -1}
	r.answer = fmt.Appendf(nil, "HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", status, t.Body, t.body())
	if t.Kind == KindSlow {
		r.delay = t.Delay
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if r.listen, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(r.listen, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return nil, err
	}
	if err := unix.BindToDevice(r.listen, "lo"); err != nil {
		return nil, fmt.Errorf("bind to device lo: %w", err)
	}
	if err := unix.Bind(r.listen, &unix.SockaddrInet4{Port: t.Port}); err != nil {
		return nil, err
	}
	if err := unix.Listen(r.listen, 1<<16-1); err != nil { // the kernel takes less where it has a bound
		return nil, err
	}
	at, err := unix.Getsockname(r.listen)
	if err != nil {
		return nil, err
	}
	r.port = at.(*unix.SockaddrInet4).Port
	if r.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	return r, r.watch(r.listen)
}

func (r *raw) watch(fd int) error {
	return unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (r *raw) close() {
	for _, fd := range []int{r.listen, r.epoll} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// run answers until ctx ends. Connections that are open then end with the process.
func (r *raw) run(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer r.close()
	events := make([]unix.EpollEvent, 256)
	for ctx.Err() == nil {
		n, err := unix.EpollWait(r.epoll, events, r.patience())
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for connections: %w", err)
		}
		for i := range max(n, 0) {
			if fd := int(events[i].Fd); fd == r.listen {
				r.accept()
			} else {
				r.read(fd)
			}
		}
		r.answerWaiting()
	}
	return nil
}

// patience is how long to wait for something to come, in ms.
func (r *raw) patience() int {
	wait := maxIdle
	if len(r.waiting) > 0 {
		wait = min(wait, max(0, time.Until(r.waiting[0].at))+time.Millisecond)
	}
	return int(wait.Milliseconds())
}

func (r *raw) accept() {
	for {
		fd, _, err := unix.Accept4(r.listen, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return // none left, or one that has gone already; out of files, the others wait
		}
		r.connections.Add(1)
		if r.kind == KindTCP || r.watch(fd) != nil {
			unix.Close(fd)
		}
	}
}

// read takes what has come of a request.
func (r *raw) read(fd int) {
	n, err := unix.Read(fd, r.buf[:])
	if errors.Is(err, unix.EAGAIN) {
		return
	}
	if err != nil || n <= 0 {
		r.hangUp(fd)
		return
	}
	head := r.buf[:n]
	if begun := r.heads[fd]; begun != nil {
		head = append(begun, head...)
	}
	switch {
	case bytes.Contains(head, []byte("\r\n\r\n")):
		if r.delay > 0 {
			_ = unix.EpollCtl(r.epoll, unix.EPOLL_CTL_DEL, fd, nil)
			delete(r.heads, fd)
			r.waiting = append(r.waiting, waiting{fd, time.Now().Add(r.delay)})
			return
		}
		_, _ = unix.Write(fd, r.answer) // whoever does not take it has gone
		r.hangUp(fd)
	case len(head) > maxRequest:
		r.hangUp(fd)
	default:
		r.heads[fd] = bytes.Clone(head)
	}
}

func (r *raw) hangUp(fd int) {
	if len(r.heads) > 0 {
		delete(r.heads, fd)
	}
	unix.Close(fd)
}

// answerWaiting answers those whose delay is over.
func (r *raw) answerWaiting() {
	now := time.Now()
	for len(r.waiting) > 0 && !r.waiting[0].at.After(now) {
		_, _ = unix.Write(r.waiting[0].fd, r.answer)
		r.hangUp(r.waiting[0].fd)
		r.waiting = r.waiting[1:]
	}
}
