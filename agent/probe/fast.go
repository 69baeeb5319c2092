package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/internal/spec"
)

// This file makes the common attempts with as little work as it can: a socket, one write, a read or two, a reset. What is not
// common is handed over to net/http in the middle of it, with the connection and all that has been read, so that there is one
// request and one meaning of each answer.

// lastMoment is how much of an attempt's time is left to net/http, to judge an answer that has not come whole.
const lastMoment = 5 * time.Millisecond

// buffer is what an answer's head and the kept part of its body have to fit.
const buffer = 16 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, buffer); return &b }}

// dialed is a connection under way: a socket that the runtime's poller knows.
type dialed struct {
	file *os.File
	to   netip.AddrPort
	// release keeps the end of the attempt's context from ending what is done with the connection.
	release func() bool
}

// dial opens a connection to an address before the deadline; the end of ctx ends whatever is done with it. Its errors are those
// of net.Dialer, in its words.
func dial(ctx context.Context, to netip.AddrPort, deadline time.Time) (*dialed, error) {
	wrong := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	family := unix.AF_INET
	var at unix.Sockaddr
	if ip := to.Addr(); ip.Is4() {
		at = &unix.SockaddrInet4{Port: int(to.Port()), Addr: ip.As4()}
	} else {
		family, at = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: ip.As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, wrong(os.NewSyscallError("socket", err))
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 0}); err != nil {
		_ = unix.Close(fd)
		return nil, wrong(os.NewSyscallError("setsockopt", err))
	}
	err = unix.Connect(fd, at)
	if err != nil && !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.EINTR) {
		_ = unix.Close(fd)
		return nil, wrong(os.NewSyscallError("connect", err))
	}
	connected := err == nil
	file := os.NewFile(uintptr(fd), "tcp")
	d := &dialed{file: file, to: to}
	if err := file.SetDeadline(deadline); err != nil {
		_ = file.Close()
		return nil, wrong(err)
	}
	if connected {
		return d, nil
	}
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, wrong(err)
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			failed = os.NewSyscallError("getsockopt", err)
		case n == int(unix.EINPROGRESS), n == int(unix.EALREADY), n == int(unix.EINTR):
			return false
		case n != 0:
			failed = os.NewSyscallError("connect", syscall.Errno(n))
		default:
			// Without an error it is under way, or stands: then there is a peer.
			_, err := unix.Getpeername(int(fd))
			return err == nil
		}
		return true
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		_ = file.Close()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, wrong(errTimeout)
		}
		return nil, wrong(err)
	}
	return d, nil
}

// timeout is the error of what took too long, in net's words.
type timeout struct{}

func (timeout) Error() string        { return "i/o timeout" }
func (timeout) Timeout() bool        { return true }
func (timeout) Temporary() bool      { return true }
func (timeout) Is(target error) bool { return target == context.DeadlineExceeded }

var errTimeout = timeout{}

// address is where an attempt goes, where no name has to be looked up for it.
func address(host string, port int) (netip.AddrPort, bool) {
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Zone() != "" || port < 1 || port > 65535 {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)), true
}

// quick makes the GET of a plain request; false where nothing has been done, and net/http has to do it all.
func (c *httpClient) quick(ctx context.Context, req *http.Request, host string, port int, deadline time.Time) (Answer, bool) {
	to, ok := address(host, port)
	if !ok || req.URL.Scheme != "http" {
		return Answer{}, false
	}
	request, ok := written(req)
	if !ok || ctx.Err() != nil {
		return Answer{}, false
	}
	room := buffers.Get().(*[]byte)
	defer buffers.Put(room)
	d, err := dial(ctx, to, deadline)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = context.DeadlineExceeded
		}
		return failed(fmt.Sprintf("Get %q: %v", req.URL, err)), true
	}
	defer d.file.Close()
	// The last moment is net/http's, so that it says of what came how far it came.
	if err := d.file.SetDeadline(deadline.Add(-min(lastMoment, time.Until(deadline)/4))); err != nil {
		return failed(fmt.Sprintf("Get %q: %v", req.URL, err)), true
	}
	d.release = context.AfterFunc(ctx, func() { _ = d.file.SetDeadline(time.Unix(1, 0)) })
	defer d.release()
	sent, err := d.file.Write(request)
	if err != nil {
		return c.handOver(req, d, sent, nil, err), true
	}
	return c.read(req, d, len(request), *room), true
}

// closing is the header by which net/http asks for one answer only; it is the last one.
const closing = "Connection: close\r\n\r\n"

// written is the request as net/http sends it; false for one that it may send in another way.
func written(req *http.Request) ([]byte, bool) {
	for _, name := range []string{"Connection", "Upgrade", "Expect"} {
		if _, given := req.Header[name]; given {
			return nil, false
		}
	}
	var b bytes.Buffer
	if err := req.Write(&b); err != nil {
		return nil, false
	}
	b.Truncate(b.Len() - len("\r\n"))
	b.WriteString(closing)
	return b.Bytes(), true
}

// read reads the answer, and hands over what is not plain.
func (c *httpClient) read(req *http.Request, d *dialed, sent int, room []byte) Answer {
	n := 0
	var head head
	for {
		got, err := d.file.Read(room[n:])
		n += got
		if err != nil {
			return c.handOver(req, d, sent, room[:n], err)
		}
		state := head.parse(room[:n])
		if state == odd || state == partial && n == len(room) {
			return c.handOver(req, d, sent, room[:n], nil)
		}
		if state == whole {
			break
		}
	}
	want := min(head.length, MaxOutput)
	if head.size+want > len(room) {
		return c.handOver(req, d, sent, room[:n], nil)
	}
	for n < head.size+want {
		got, err := d.file.Read(room[n:])
		n += got
		if err != nil {
			return c.handOver(req, d, sent, room[:n], err)
		}
	}
	if head.status >= 200 && head.status < 300 {
		return Answer{Outcome: spec.OutcomeSuccess, Output: string(room[head.size : head.size+want]), CPU: -1}
	}
	return failed("HTTP probe failed with statuscode: " + strconv.Itoa(head.status))
}

// handOver has net/http go on with a connection on which the request has been sent and some of the answer read.
func (c *httpClient) handOver(req *http.Request, d *dialed, sent int, read []byte, err error) Answer {
	// From here on net/http minds the context, and only that: it is not over yet.
	d.release()
	if cleared := d.file.SetDeadline(time.Time{}); errors.Is(err, os.ErrDeadlineExceeded) {
		err = cleared
	}
	// What has been read is copied: net/http may look at it for a moment longer than the attempt lasts.
	conn := &halfway{d: d, sent: sent, read: bytes.Clone(read), err: err, asked: make(chan struct{}), closed: make(chan struct{})}
	ctx := context.WithValue(req.Context(), halfwayKey{}, &handed{conn: conn})
	return do(c.client, req.WithContext(ctx))
}

type halfwayKey struct{}

// handed is a connection that is given to the first dial of an attempt.
type handed struct {
	once sync.Once
	conn *halfway
}

// dialContext is net.Dialer's, but for an attempt that has a connection already.
func (c *httpClient) dialContext(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	if h, ok := ctx.Value(halfwayKey{}).(*handed); ok {
		h.once.Do(func() { conn = h.conn })
		if conn != nil {
			return conn, nil
		}
	}
	return c.dialer.DialContext(ctx, network, addr)
}

// halfway is a connection of which some has happened: what is written first has been sent, what is read first has come. Its
// errors are those of a net.TCPConn, in its words.
type halfway struct {
	d    *dialed
	sent int
	read []byte
	err  error // what ended the reading or the writing; nil while nothing has

	// asked is closed once the request has been written: an answer that comes before would be taken for nobody's.
	asked chan struct{}
	// closed is closed by Close.
	closed    chan struct{}
	closeOnce sync.Once
}

func (h *halfway) Read(p []byte) (int, error) {
	select {
	case <-h.asked:
	case <-h.closed:
		return 0, net.ErrClosed
	}
	if len(h.read) > 0 {
		n := copy(p, h.read)
		h.read = h.read[n:]
		return n, nil
	}
	if err := h.err; err != nil {
		h.err = nil // a socket tells its error once
		return 0, h.wrong("read", err)
	}
	n, err := h.d.file.Read(p)
	return n, h.wrong("read", err)
}

func (h *halfway) Write(p []byte) (int, error) {
	n := min(h.sent, len(p))
	if h.sent -= n; h.sent == 0 {
		select {
		case <-h.asked:
		default:
			close(h.asked)
		}
	}
	if n == len(p) {
		return n, nil
	}
	if err := h.err; err != nil {
		h.err = nil
		return n, h.wrong("write", err)
	}
	more, err := h.d.file.Write(p[n:])
	return n + more, h.wrong("write", err)
}

func (h *halfway) wrong(op string, err error) error {
	var errno syscall.Errno
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errTimeout
		select {
		case <-h.closed:
			err = net.ErrClosed
		default:
		}
	case errors.As(err, &errno):
		err = os.NewSyscallError(op, errno)
	default:
		return err // io.EOF
	}
	return &net.OpError{Op: op, Net: "tcp", Source: h.LocalAddr(), Addr: h.RemoteAddr(), Err: err}
}

func (h *halfway) LocalAddr() net.Addr {
	out := &net.TCPAddr{}
	raw, err := h.d.file.SyscallConn()
	if err != nil {
		return out
	}
	_ = raw.Control(func(fd uintptr) {
		switch at, _ := unix.Getsockname(int(fd)); at := at.(type) {
		case *unix.SockaddrInet4:
			out.IP, out.Port = at.Addr[:], at.Port
		case *unix.SockaddrInet6:
			out.IP, out.Port = at.Addr[:], at.Port
		}
	})
	return out
}

func (h *halfway) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(h.d.to) }

// Close leaves the socket to whoever opened it, who closes it when the attempt is over; what waits for it is let go.
func (h *halfway) Close() error {
	h.closeOnce.Do(func() { close(h.closed) })
	return h.d.file.SetDeadline(time.Unix(1, 0))
}

// The attempt's own deadline holds.
func (h *halfway) SetDeadline(time.Time) error      { return nil }
func (h *halfway) SetReadDeadline(time.Time) error  { return nil }
func (h *halfway) SetWriteDeadline(time.Time) error { return nil }

// parsed is how far the head of an answer was understood.
type parsed uint8

const (
	// partial heads need more bytes.
	partial parsed = iota
	// whole heads are plain.
	whole
	// odd ones are for net/http to judge.
	odd
)

// head is the head of a plain answer: a final status that is no redirect and has a body of a given length.
type head struct {
	size, status, length int
}

// parse understands a head if it is plain, and nothing else. What is odd is found as soon as its line is there: net/http, which
// reads line by line, may not need the rest.
func (h *head) parse(b []byte) parsed {
	*h = head{length: -1}
	for at := 0; ; {
		end := bytes.IndexByte(b[at:], '\n')
		if end < 0 {
			return partial
		}
		line := b[at : at+end]
		if len(line) == 0 || line[len(line)-1] != '\r' {
			return odd
		}
		line = line[:len(line)-1]
		switch {
		case at == 0:
			if !h.statusLine(line) {
				return odd
			}
		case len(line) == 0:
			if h.length < 0 {
				return odd
			}
			h.size = at + end + 1
			return whole
		case !h.field(line):
			return odd
		}
		at += end + 1
	}
}

// statusLine understands "HTTP/1.1 200", and a reason if there is one.
func (h *head) statusLine(line []byte) bool {
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[7] != '0' && line[7] != '1' || line[8] != ' ' || len(line) > 12 && line[12] != ' ' || !plain(line) {
		return false
	}
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return false
		}
		h.status = 10*h.status + int(c-'0')
	}
	return h.status >= 200 && h.status != 204 && (h.status < 300 || h.status >= 400)
}

// field understands a header field.
func (h *head) field(line []byte) bool {
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok || len(name) == 0 || !token(name) || !plain(value) {
		return false
	}
	switch {
	case bytes.EqualFold(name, []byte("Content-Length")):
		value = bytes.Trim(value, " \t")
		if h.length >= 0 || len(value) < 1 || len(value) > 9 {
			return false
		}
		h.length = 0
		for _, c := range value {
			if c < '0' || c > '9' {
				return false
			}
			h.length = 10*h.length + int(c-'0')
		}
	case bytes.EqualFold(name, []byte("Transfer-Encoding")), bytes.EqualFold(name, []byte("Trailer")):
		return false
	}
	return true
}

// plain tells whether a line has nothing but printable ASCII and tabs.
func plain(b []byte) bool {
	for _, c := range b {
		if (c < ' ' || c > '~') && c != '\t' {
			return false
		}
	}
	return true
}

// token tells whether a name is one of letters, digits and dashes.
func token(b []byte) bool {
	for _, c := range b {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
