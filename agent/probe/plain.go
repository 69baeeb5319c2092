package probe

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// This file has what a quick attempt and net/http have to agree on: the request, what of an answer is plain, and how a connection
// is handed over in the middle, with all that has been read, so that there is one request and one meaning of each answer.

// timeout is the error of what took too long, in net's words.
type timeout struct{}

func (timeout) Error() string        { return "i/o timeout" }
func (timeout) Timeout() bool        { return true }
func (timeout) Temporary() bool      { return true }
func (timeout) Is(target error) bool { return target == context.DeadlineExceeded }

var (
	errTimeout  = timeout{}
	errCanceled = errors.New("operation was canceled")
)

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

// handOver has net/http go on with a connection on which so much of the request has been sent and some of the answer read. err is
// what ended the reading or the writing, nil while nothing has.
func (c *httpClient) handOver(req *http.Request, file *os.File, to netip.AddrPort, sent int, read []byte, err error) Answer {
	conn := &halfway{file: file, to: to, sent: sent, read: read, err: err, asked: make(chan struct{}), closed: make(chan struct{})}
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
	file *os.File // a socket that does not block
	to   netip.AddrPort
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
	n, err := h.file.Read(p)
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
	more, err := h.file.Write(p[n:])
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
	raw, err := h.file.SyscallConn()
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

func (h *halfway) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(h.to) }

// Close leaves the socket to whoever opened it, who closes it when the attempt is over; what waits for it is let go.
func (h *halfway) Close() error {
	h.closeOnce.Do(func() { close(h.closed) })
	return h.file.SetDeadline(time.Unix(1, 0))
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
	// strange ones are for net/http to judge.
	strange
)

// head is the head of a plain answer: a final status that is no redirect and has a body of a given length.
type head struct {
	size, status, length int
}

// parse understands a head if it is plain, and nothing else. What is strange is found as soon as its line is there: net/http, which
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
			return strange
		}
		line = line[:len(line)-1]
		switch {
		case at == 0:
			if !h.statusLine(line) {
				return strange
			}
		case len(line) == 0:
			if h.length < 0 {
				return strange
			}
			h.size = at + end + 1
			return whole
		case !h.field(line):
			return strange
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
