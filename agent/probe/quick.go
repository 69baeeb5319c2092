package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/internal/spec"
)

// This file makes the common attempts, a connection or a GET without TLS to an IP address, with as little work as it can: a
// socket, one write, a read, a reset. None has a goroutine or a timer. What can be done at once is done by whoever begins it; one
// goroutine serves all those that have to wait, and is there only while there are any.

const (
	// buffer is what an answer's head and the kept part of its body have to fit.
	buffer = 16 << 10
	// look is how often attempts that wait are looked at for the end of their context, or of their time where that comes sooner.
	look = 50 * time.Millisecond
	// batch is how many sockets are asked for at a time.
	batch = 64
)

// Begun says how an attempt has begun.
type Begun uint8

const (
	// NotBegun attempts are for Attempt to make: nothing has been done.
	NotBegun Begun = iota
	// UnderWay attempts call Done once.
	UnderWay
	// Over are attempts whose answer is there; Done is not called.
	Over
)

// Done is told the answer of an attempt that was under way.
type Done interface {
	Done(a Answer)
}

// prepared is what is the same in every quick attempt of a question.
type prepared struct {
	to netip.AddrPort
	// family and at are to, in the kernel's words.
	family int
	at     unix.Sockaddr
	// request is what is sent; nil where a connection is all.
	request []byte
}

// prepare is nil for a question that can not be asked quickly.
func prepare(q *Question) *prepared {
	var host string
	var at spec.PortRef
	switch {
	case q.Probe.TCP != nil:
		host, at = hostOf(q.Probe.TCP.Host, q.Address), q.Probe.TCP.Port
	case q.Probe.HTTP != nil && q.Probe.HTTP.Protocol == "":
		host, at = hostOf(q.Probe.HTTP.Host, q.Address), q.Probe.HTTP.Port
	default:
		return nil
	}
	port, err := resolve(at, q.Ports)
	if err != nil {
		return nil
	}
	to, ok := address(host, port)
	if !ok {
		return nil
	}
	p := &prepared{to: to, family: unix.AF_INET}
	if ip := to.Addr(); ip.Is4() {
		p.at = &unix.SockaddrInet4{Port: port, Addr: ip.As4()}
	} else {
		p.family, p.at = unix.AF_INET6, &unix.SockaddrInet6{Port: port, Addr: ip.As16()}
	}
	if q.Probe.HTTP != nil {
		req, err := request(context.Background(), q.Probe.HTTP, host, port)
		if err != nil || req.URL.Scheme != "http" {
			return nil
		}
		if p.request, ok = written(req); !ok {
			return nil
		}
	}
	return p
}

// address is where an attempt goes, where no name has to be looked up for it.
func address(host string, port int) (netip.AddrPort, bool) {
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Zone() != "" {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)), true
}

// Begin begins an attempt without waiting for anything, if it is of a common kind; done may be told of its end before Begin returns.
// The attempt takes at most the probe's timeout; the end of ctx ends it within 50 ms.
func (a *Attempter) Begin(ctx context.Context, q *Question, done Done) (Answer, Begun) {
	if !q.judged {
		q.prepared, q.judged = prepare(q), true
	}
	if q.prepared == nil || a.exact || ctx.Err() != nil {
		return Answer{}, NotBegun
	}
	c := conns.Get().(*conn)
	*c = conn{q: q, ctx: ctx, done: done, fd: -1, deadline: time.Now().Add(q.Probe.Timeout)}
	switch c.safely(nil) {
	case over:
		answer := c.answer
		c.release()
		return answer, Over
	case odd:
		c.release()
		return Answer{}, NotBegun
	}
	if err := a.waiting.add(c); err != nil {
		c.release()
		return errored(err), Over
	}
	return Answer{}, UnderWay
}

// quickly makes an attempt by Begin, and waits for its end; false where it has to be made in another way.
func (a *Attempter) quickly(ctx context.Context, q *Question) (Answer, bool) {
	done := make(answered, 1)
	switch answer, begun := a.Begin(ctx, q, done); begun {
	case Over:
		return answer, true
	case UnderWay:
		return <-done, true
	}
	return Answer{}, false
}

type answered chan Answer

func (c answered) Done(a Answer) { c <- a }

// conn is a quick attempt that has been begun.
type conn struct {
	q        *Question
	ctx      context.Context
	done     Done
	deadline time.Time

	fd int
	// connected: the request has begun to be sent.
	connected bool
	sent      int
	// read is what has been read so far of an answer that has not come whole.
	read []byte
	// err is what has ended the writing or the reading.
	err error
	// answer is there once the attempt is over.
	answer Answer

	// place is where it waits, and next what it needs; both are the serving goroutine's once it waits.
	place int32
	next  stage
}

var conns = sync.Pool{New: func() any { return &conn{} }}

// release closes what is open and gives the conn back: nobody may have it any more.
func (c *conn) release() {
	if c.fd >= 0 {
		_ = unix.Close(c.fd)
	}
	*c = conn{}
	conns.Put(c)
}

// stage is what an attempt needs next.
type stage uint8

const (
	// wait: it waits for the peer.
	wait stage = iota
	// over: it has its answer.
	over
	// odd: net/http has to go on with it.
	odd
)

// safely begins, or goes on where there is room to read to. One that panics could not be made: a bug in reading an answer ends no
// agent (5.1.5).
func (c *conn) safely(room []byte) (next stage) {
	defer func() {
		if r := recover(); r != nil {
			c.answer = errored(fmt.Errorf("a bug in muster: panic: %v\n%s", r, debug.Stack()))
			next = over
		}
	}()
	if room == nil {
		return c.begin()
	}
	return c.step(room)
}

// begin opens the connection and sends the request, as far as that goes without waiting.
func (c *conn) begin() stage {
	fd, err := unix.Socket(c.q.prepared.family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return c.unreached(os.NewSyscallError("socket", err))
	}
	c.fd = fd
	// A reset leaves nothing behind, where closing in turn would leave a port of this machine unusable for a minute.
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 0}); err != nil {
		return c.unreached(os.NewSyscallError("setsockopt", err))
	}
	switch err := unix.Connect(fd, c.q.prepared.at); {
	case err == nil, errors.Is(err, unix.EINPROGRESS), errors.Is(err, unix.EINTR):
		return c.reach() // on this machine it stands by now
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return odd // net tries again
	default:
		return c.unreached(os.NewSyscallError("connect", err))
	}
}

// unreached is what becomes of an attempt that has no connection, in net's words.
func (c *conn) unreached(err error) stage {
	err = &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(c.q.prepared.to), Err: err}
	if c.q.Probe.HTTP != nil {
		return c.getFailed(err)
	}
	c.answer = failed(err.Error())
	return over
}

// getFailed is what becomes of a GET that was not answered, in net/http's words.
func (c *conn) getFailed(err error) stage {
	why, to := "", c.q.prepared.to
	if errors.Is(err, context.DeadlineExceeded) {
		err = context.DeadlineExceeded
		if c.head().size > 0 {
			why = "the body stalled: "
		}
	}
	c.answer = failed(fmt.Sprintf("Get %q: %s%v", target(c.q.Probe.HTTP, hostOf(c.q.Probe.HTTP.Host, c.q.Address), int(to.Port())), why, err))
	return over
}

// head is that of the answer, as far as it was understood: its size is 0 while it has not come whole.
func (c *conn) head() (h head) {
	h.parse(c.read)
	return h
}

// reach goes on as far as the connection stands.
func (c *conn) reach() stage {
	if c.q.prepared.request != nil {
		return c.write()
	}
	fds := [1]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLOUT}}
	if n, err := unix.Poll(fds[:], 0); err != nil || n == 0 {
		return wait
	}
	if fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
		if n, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && n != 0 {
			return c.unreached(os.NewSyscallError("connect", syscall.Errno(n)))
		}
	}
	if c.toItself() { // nobody listens
		return c.unreached(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	}
	c.answer = Answer{Outcome: spec.OutcomeSuccess, CPU: -1}
	return over
}

// toItself tells whether the socket is connected to itself: without anybody who listens, the port that was chosen for this end was
// the very one it connects to.
func (c *conn) toItself() bool {
	to := c.q.prepared.to
	if to.Port() < 1024 { // never chosen
		return false
	}
	own, err := unix.Getsockname(c.fd)
	if err != nil {
		return false
	}
	switch own := own.(type) {
	case *unix.SockaddrInet4:
		return own.Port == int(to.Port()) && netip.AddrFrom4(own.Addr) == to.Addr()
	case *unix.SockaddrInet6:
		return own.Port == int(to.Port()) && netip.AddrFrom16(own.Addr) == to.Addr()
	}
	return false
}

// write sends what is left of the request. The first byte that is taken says that the connection stands.
func (c *conn) write() stage {
	for request := c.q.prepared.request; c.sent < len(request); {
		switch n, err := unix.Write(c.fd, request[c.sent:]); {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return wait
		case err != nil && !c.connected:
			return c.unreached(os.NewSyscallError("connect", err))
		case err != nil:
			c.err = err
			return odd
		default:
			c.connected = true
			c.sent += n
		}
	}
	return wait
}

// step goes on with an attempt whose socket is ready; room is where it may read to.
func (c *conn) step(room []byte) stage {
	if request := c.q.prepared.request; request == nil || c.sent < len(request) {
		if next := c.reach(); next != wait || c.sent < len(request) {
			return next
		}
	}
	return c.receive(room)
}

// receive reads the answer, until there is no more or it is judged.
func (c *conn) receive(room []byte) stage {
	n := copy(room, c.read)
	for {
		got, err := unix.Read(c.fd, room[n:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			c.read = append(c.read[:0], room[:n]...)
			return wait
		case err == nil && got == 0:
			err = io.EOF
		}
		n += max(0, got)
		if err == nil {
			var next stage
			if next, c.answer = judge(room[:n], n == len(room)); next == wait {
				continue
			} else if next == over {
				return over
			}
		}
		c.err, c.read = err, append(c.read[:0], room[:n]...)
		return odd
	}
}

// judge judges an answer as far as it has come; full means that there is no room for more of it.
func judge(read []byte, full bool) (stage, Answer) {
	var head head
	switch state := head.parse(read); {
	case state == strange, state == partial && full:
		return odd, Answer{}
	case state == partial:
		return wait, Answer{}
	}
	switch want := min(head.length, MaxOutput); {
	case head.size+want > buffer:
		return odd, Answer{}
	case len(read) < head.size+want:
		return wait, Answer{}
	case head.status >= 200 && head.status < 300:
		return over, Answer{Outcome: spec.OutcomeSuccess, Output: string(read[head.size : head.size+want]), CPU: -1}
	}
	return over, failed("HTTP probe failed with statuscode: " + strconv.Itoa(head.status))
}

// ended is what becomes of an attempt whose time has come, or its context's end.
func (c *conn) ended() stage {
	switch err := c.ctx.Err(); {
	case err != nil && c.q.Probe.HTTP != nil:
		return c.getFailed(err)
	case err != nil:
		return c.unreached(errCanceled)
	case c.connected:
		return c.getFailed(errTimeout)
	}
	return c.unreached(errTimeout)
}

// handOver has net/http go on with a GET, and ends it. The conn is not given back: net/http may look at what was read for a moment
// longer than the attempt lasts.
func (c *conn) handOver(client *httpClient) {
	ctx, cancel := context.WithDeadline(c.ctx, c.deadline)
	defer cancel()
	to := c.q.prepared.to
	file := os.NewFile(uintptr(c.fd), "tcp")
	defer file.Close()
	req, err := request(ctx, c.q.Probe.HTTP, hostOf(c.q.Probe.HTTP.Host, c.q.Address), int(to.Port()))
	if err != nil {
		c.done.Done(errored(err))
		return
	}
	c.done.Done(client.handOver(req, file, to, c.sent, c.read, c.err))
}

// waiting are the quick attempts that wait for their peers.
type waiting struct {
	client *httpClient

	mu sync.Mutex
	// poll is an epoll instance, which the runtime's own poller watches; nil before the first attempt that waits.
	poll   *os.File
	epoll  int
	places []place
	free   []int32
	count  int
	// serving: there is a goroutine that serves them.
	serving bool
	// next is when the first of them may have to end.
	next time.Time
}

// place is where an attempt waits; turn is how many have waited there before.
type place struct {
	conn *conn
	turn int32
}

// add takes in an attempt that has to wait.
func (w *waiting) add(c *conn) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.openLocked(); err != nil {
		return err
	}
	if len(w.free) == 0 {
		w.free = append(w.free, int32(len(w.places)))
		w.places = append(w.places, place{})
	}
	c.place = w.free[len(w.free)-1]
	p := &w.places[c.place]
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: c.place, Pad: p.turn}
	if request := c.q.prepared.request; request == nil || c.sent < len(request) {
		ev.Events |= unix.EPOLLOUT
	}
	if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, c.fd, &ev); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	w.free, p.conn = w.free[:len(w.free)-1], c
	w.count++
	if end := c.deadline; w.count == 1 || end.Before(w.next) {
		w.next = end
		_ = w.poll.SetReadDeadline(end) // it can not fail: the file is open, and polled
	}
	if !w.serving {
		w.serving = true
		go w.serve()
	}
	return nil
}

func (w *waiting) openLocked() error {
	if w.poll != nil {
		return nil
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	w.poll, w.epoll = os.NewFile(uintptr(fd), "epoll"), fd
	return nil
}

// serve goes on with those whose sockets are ready or whose time has come, until none waits.
func (w *waiting) serve() {
	raw, err := w.poll.SyscallConn()
	if err != nil {
		panic(err) // only a file that is closed has none
	}
	room := make([]byte, buffer)
	var events [batch]unix.EpollEvent
	ready := 0
	asked := func(fd uintptr) bool {
		ready, _ = unix.EpollWait(int(fd), events[:], 0) // an interrupted one is asked again, as one without events
		return ready > 0
	}
	var looked time.Time
	var ended []*conn
	for w.more(time.Now(), looked) {
		ready = 0
		_ = raw.Read(asked) // its only error is that it is time to look
		ended = w.step(events[:max(0, ready)], room, ended[:0])
		if now := time.Now(); ready <= 0 || now.Sub(looked) >= look {
			ended, looked = w.look(now, ended), now
		}
		w.end(ended)
		clear(ended)
	}
}

// more tells whether any wait still, and sets when they are to be looked at next.
func (w *waiting) more(now, looked time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count == 0 {
		w.serving = false
		return false
	}
	at := looked.Add(look)
	if at.Before(now) {
		at = now.Add(look)
	}
	if w.next.Before(at) {
		at = w.next
	}
	_ = w.poll.SetReadDeadline(at)
	return true
}

// step goes on with those that are ready, and adds those that wait no more.
func (w *waiting) step(events []unix.EpollEvent, room []byte, ended []*conn) []*conn {
	var ready [batch]*conn
	now := time.Now()
	w.mu.Lock()
	for i := range events {
		if p := &w.places[events[i].Fd]; p.turn == events[i].Pad {
			ready[i] = p.conn
		}
	}
	w.mu.Unlock()
	for _, c := range ready[:len(events)] {
		switch {
		case c == nil:
			continue
		case c.deadline.Before(now):
			c.next = c.ended() // what comes now comes too late
		default:
			c.next = c.safely(room)
		}
		if c.next != wait {
			ended = append(ended, c)
		}
	}
	return ended
}

// look adds those whose time has come, or the end of their context.
func (w *waiting) look(now time.Time, ended []*conn) []*conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next = now.Add(time.Hour)
	for i := range w.places {
		c := w.places[i].conn
		if c == nil || c.next != wait {
			continue
		}
		end := c.deadline
		if end.After(now) && c.ctx.Err() == nil {
			if end.Before(w.next) {
				w.next = end
			}
			continue
		}
		if c.next = c.ended(); c.next != wait {
			ended = append(ended, c)
		}
	}
	return ended
}

// end gives their places back, and tells their answers or has net/http go on.
func (w *waiting) end(ended []*conn) {
	if len(ended) == 0 {
		return
	}
	w.mu.Lock()
	for _, c := range ended {
		p := &w.places[c.place]
		p.conn = nil
		p.turn++
		w.free = append(w.free, c.place)
		w.count--
		if c.next == odd {
			_ = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_DEL, c.fd, nil) // it is there
		}
	}
	w.mu.Unlock()
	for _, c := range ended {
		if c.next == odd {
			go c.handOver(w.client)
			continue
		}
		done, answer := c.done, c.answer
		c.release()
		done.Done(answer)
	}
}
