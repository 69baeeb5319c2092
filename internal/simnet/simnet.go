// Package simnet is a network in memory for tests in fake time: datagrams and streams between addresses, with a delay,
// that can be cut, and members that can crash. Its Endpoint is what memberlist takes as a transport.
//
// Datagrams are never waited for: those that nobody takes in are lost. A stream across a cut breaks at once.
package simnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
)

// queue is how many datagrams, and how many new streams, wait at an endpoint.
const queue = 1024

// Network connects endpoints. Make one with New, inside the bubble.
type Network struct {
	delay time.Duration

	mu        sync.Mutex
	endpoints map[string]*Endpoint
	cut       func(a, b string) bool
	streams   map[*stream]bool
}

type stream struct {
	from, to string
	ends     [2]net.Conn
}

// New makes a network on which a datagram takes that long.
func New(delay time.Duration) *Network {
	return &Network{delay: delay, endpoints: map[string]*Endpoint{}, streams: map[*stream]bool{}}
}

// Cut lets nothing pass between addresses for which between is true, in either order; nil heals everything.
func (n *Network) Cut(between func(a, b string) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = between
	n.breakStreams(func(s *stream) bool { return n.severed(s.from, s.to) })
}

// Isolate cuts one address off from all others.
func (n *Network) Isolate(address string) {
	n.Cut(func(a, b string) bool { return a == address || b == address })
}

func (n *Network) severed(a, b string) bool {
	return a != b && n.cut != nil && (n.cut(a, b) || n.cut(b, a))
}

func (n *Network) breakStreams(which func(*stream) bool) {
	for s := range n.streams {
		if which(s) {
			s.ends[0].Close()
			s.ends[1].Close()
			delete(n.streams, s)
		}
	}
}

// Listen makes the endpoint of an address, IP:PORT; an earlier one of that address must be down.
func (n *Network) Listen(address string) (*Endpoint, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.endpoints[address] != nil {
		return nil, fmt.Errorf("listen %s: %w", address, syscall.EADDRINUSE)
	}
	e := &Endpoint{net: n, address: at, packets: make(chan *memberlist.Packet, queue), streams: make(chan net.Conn, queue)}
	n.endpoints[address] = e
	return e, nil
}

// Endpoint is one address. It is a memberlist.Transport.
type Endpoint struct {
	net     *Network
	address netip.AddrPort
	packets chan *memberlist.Packet
	streams chan net.Conn
}

var _ memberlist.Transport = (*Endpoint)(nil)

// Crash takes the endpoint off the network from one moment to the next.
func (e *Endpoint) Crash() {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	at := e.address.String()
	if e.net.endpoints[at] == e {
		delete(e.net.endpoints, at)
		e.net.breakStreams(func(s *stream) bool { return s.from == at || s.to == at })
	}
}

// Shutdown implements memberlist.Transport.
func (e *Endpoint) Shutdown() error {
	e.Crash()
	return nil
}

// FinalAdvertiseAddr implements memberlist.Transport: the endpoint's own address, always.
func (e *Endpoint) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return e.address.Addr().AsSlice(), int(e.address.Port()), nil
}

// WriteTo implements memberlist.Transport.
func (e *Endpoint) WriteTo(b []byte, to string) (time.Time, error) {
	from, now := e.address.String(), time.Now()
	packet := &memberlist.Packet{Buf: append([]byte(nil), b...), From: net.UDPAddrFromAddrPort(e.address)}
	time.AfterFunc(e.net.delay, func() {
		e.net.mu.Lock()
		defer e.net.mu.Unlock()
		target := e.net.endpoints[to]
		if target == nil || e.net.endpoints[from] != e || e.net.severed(from, to) {
			return
		}
		packet.Timestamp = time.Now()
		select {
		case target.packets <- packet:
		default: // lost, as a real one is when the socket's buffer is full
		}
	})
	return now, nil
}

// PacketCh implements memberlist.Transport.
func (e *Endpoint) PacketCh() <-chan *memberlist.Packet { return e.packets }

// StreamCh implements memberlist.Transport.
func (e *Endpoint) StreamCh() <-chan net.Conn { return e.streams }

// DialTimeout implements memberlist.Transport: refused where nobody listens, and no answer across a cut.
func (e *Endpoint) DialTimeout(to string, timeout time.Duration) (net.Conn, error) {
	conn, err := e.dial(to)
	if errors.Is(err, errSevered) {
		time.Sleep(timeout)
	}
	return conn, err
}

var errSevered = &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("i/o timeout")}

func (e *Endpoint) dial(to string) (net.Conn, error) {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	from := e.address.String()
	target := e.net.endpoints[to]
	if e.net.endpoints[from] != e || e.net.severed(from, to) {
		return nil, errSevered
	}
	if target == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	here, there := net.Pipe()
	select {
	case target.streams <- there:
	default:
		return nil, errSevered
	}
	e.net.streams[&stream{from: from, to: to, ends: [2]net.Conn{here, there}}] = true
	return here, nil
}
