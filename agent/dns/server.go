package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// Port is where programs ask unless they are told otherwise.
	Port = 53
	// maxQuestions bounds the questions that are worked on at once; more are refused.
	maxQuestions = 1024
	// rebind is how long an address that can't be listened at is let be.
	rebind = 5 * time.Second
	// maxUDP is how many bytes one packet has at most: what passes every network whole.
	maxUDP = 1232
	// tcpIdle is how long a connection may be silent.
	tcpIdle = 10 * time.Second
)

// Config says where to answer and whom.
type Config struct {
	// Allow tells whether an address may ask; nobody else is answered. Nil allows everybody.
	Allow func(netip.Addr) bool
	// Resolv is the file that says whom this node asks for names; default /etc/resolv.conf.
	Resolv string
}

// Server answers questions. Its methods may be called from any goroutine.
type Server struct {
	cfg     Config
	names   *Names
	forward *forwarder
	log     *slog.Logger
	working chan struct{}

	// tried is closed once it has tried to listen for the first time.
	tried chan struct{}

	mu      sync.Mutex
	wanted  Address
	changed chan struct{}
	bound   netip.AddrPort // not valid while nobody listens
}

// Address is where to answer.
type Address struct {
	// IP need not be the machine's yet; not valid: nowhere.
	IP netip.Addr
	// AnyPort takes any port where Port is not to be had.
	AnyPort bool
}

// New builds a server that answers nowhere before Run and Listen.
func New(cfg Config, names *Names, log *slog.Logger) *Server {
	if cfg.Resolv == "" {
		cfg.Resolv = "/etc/resolv.conf"
	}
	return &Server{
		cfg: cfg, names: names, forward: newForwarder(cfg.Resolv), log: log, working: make(chan struct{}, maxQuestions), changed: make(chan struct{}, 1),
		tried: make(chan struct{}),
	}
}

// Listen says where to answer from now on.
func (s *Server) Listen(a Address) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wanted == a {
		return
	}
	s.wanted = a
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *Server) isWanted(a Address) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wanted == a
}

// Bound is where it answers; not valid while it does not.
func (s *Server) Bound() netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bound
}

// Tried is closed once the first attempt to listen is over.
func (s *Server) Tried() <-chan struct{} { return s.tried }

func (s *Server) setBound(a netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bound = a
	s.forward.exclude(a)
}

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	said := ""
	for ctx.Err() == nil {
		s.mu.Lock()
		at := s.wanted
		s.mu.Unlock()
		if !at.IP.IsValid() {
			select {
			case <-ctx.Done():
			case <-s.changed:
			}
			continue
		}
		err := s.serve(ctx, at)
		s.setBound(netip.AddrPort{})
		if err == nil || ctx.Err() != nil {
			continue
		}
		if text := err.Error(); text != said {
			said = text
			s.log.Warn("names are not answered", "address", at.IP.String(), "err", err)
		}
		select {
		case <-ctx.Done():
		case <-s.changed:
		case <-time.After(rebind):
		}
	}
	return nil
}

// serve answers at one address until another one is wanted.
func (s *Server) serve(ctx context.Context, at Address) error {
	packets, conns, err := bind(ctx, at)
	if err == nil {
		bound := packets.LocalAddr().(*net.UDPAddr).AddrPort()
		s.setBound(netip.AddrPortFrom(bound.Addr().Unmap(), bound.Port()))
	}
	select {
	case <-s.tried:
	default:
		close(s.tried)
	}
	if err != nil {
		return err
	}
	s.log.Info("names are answered", "address", packets.LocalAddr().String())
	serving, stop := context.WithCancel(ctx)
	defer stop()
	g, serving := errgroup.WithContext(serving)
	for _, server := range []*dns.Server{
		{PacketConn: packets, Handler: s, UDPSize: dns.DefaultMsgSize},
		{Listener: conns, Handler: s, IdleTimeout: func() time.Duration { return tcpIdle }, ReadTimeout: tcpIdle, MaxTCPQueries: 128},
	} {
		g.Go(func() error {
			defer context.AfterFunc(serving, func() { _ = server.Shutdown() })() // it has been told; what is left ends with its connection
			if err := server.ActivateAndServe(); serving.Err() == nil {
				return err
			}
			return nil
		})
	}
	g.Go(func() error {
		for serving.Err() == nil && s.isWanted(at) {
			select {
			case <-serving.Done():
			case <-s.changed:
			}
		}
		stop()
		return nil
	})
	err = g.Wait()
	packets.Close()
	conns.Close()
	return err
}

// bind takes one port for both protocols.
func bind(ctx context.Context, at Address) (net.PacketConn, net.Listener, error) {
	// The address may be that of a bridge that is only about to be made.
	free := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) }); cerr != nil {
			return cerr
		}
		return err
	}}
	both := func(port uint16) (net.PacketConn, net.Listener, error) {
		packets, err := free.ListenPacket(ctx, "udp4", netip.AddrPortFrom(at.IP, port).String())
		if err != nil {
			return nil, nil, err
		}
		is := packets.LocalAddr().(*net.UDPAddr).Port
		conns, err := free.Listen(ctx, "tcp4", net.JoinHostPort(at.IP.String(), strconv.Itoa(is)))
		if err != nil {
			packets.Close()
			return nil, nil, err
		}
		return packets, conns, nil
	}
	packets, conns, err := both(Port)
	for range 10 { // somebody may have the one port of the two
		if err == nil || !at.AnyPort {
			break
		}
		packets, conns, err = both(0)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("listen for questions at %s: %w", at.IP, err)
	}
	return packets, conns, nil
}

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, question *dns.Msg) {
	if !s.allowed(w.RemoteAddr()) {
		return
	}
	reply := new(dns.Msg)
	reply.SetReply(question)
	reply.RecursionAvailable = true
	select {
	case s.working <- struct{}{}:
		defer func() { <-s.working }()
	default:
		reply.Rcode = dns.RcodeServerFailure
		s.write(w, question, reply)
		return
	}
	switch {
	case question.Opcode != dns.OpcodeQuery:
		reply.Rcode = dns.RcodeNotImplemented
	case len(question.Question) != 1:
		reply.Rcode = dns.RcodeFormatError
	case question.Question[0].Qclass != dns.ClassINET:
		reply.Rcode = dns.RcodeRefused
	default:
		s.resolve(question, reply)
	}
	s.write(w, question, reply)
}

func (s *Server) allowed(from net.Addr) bool {
	if s.cfg.Allow == nil {
		return true
	}
	at, err := netip.ParseAddrPort(from.String())
	return err == nil && s.cfg.Allow(at.Addr().Unmap())
}

// resolve answers one question.
func (s *Server) resolve(question, reply *dns.Msg) {
	q := question.Question[0]
	name := strings.ToLower(q.Name)
	if mine(name) {
		s.names.answer(q, reply, rand.Shuffle)
		return
	}
	if ip := reverse(name); ip.IsValid() && q.Qtype == dns.TypePTR {
		if host := s.names.host(ip); host != "" {
			reply.Authoritative = true
			reply.Answer = []dns.RR{&dns.PTR{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: ttl}, Ptr: host}}
			return
		}
	}
	answer, err := s.forward.ask(question)
	if err != nil {
		reply.Rcode = dns.RcodeServerFailure
		if !errors.Is(err, errNobody) {
			s.log.Debug("name not resolved", "name", name, "err", err)
		}
		return
	}
	reply.Rcode, reply.Answer, reply.Ns = answer.Rcode, answer.Answer, answer.Ns
	for _, rr := range answer.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			reply.Extra = append(reply.Extra, rr)
		}
	}
}

// write sends a reply as large as whoever asked takes it.
func (s *Server) write(w dns.ResponseWriter, question, reply *dns.Msg) {
	size := dns.MinMsgSize
	if opt := question.IsEdns0(); opt != nil {
		size = max(size, min(int(opt.UDPSize()), maxUDP))
		reply.SetEdns0(maxUDP, false)
	}
	if _, tcp := w.RemoteAddr().(*net.TCPAddr); tcp {
		size = dns.MaxMsgSize
	}
	reply.Truncate(size)
	_ = w.WriteMsg(reply) // whoever asked has gone, and asks again
}
