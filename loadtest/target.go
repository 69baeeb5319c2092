package loadtest

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// The kinds of targets: what they answer. The last two answer HTTP.
const (
	KindHTTP    = "http"
	KindHTTPS   = "https"
	KindTCP     = "tcp"
	KindGRPC    = "grpc"
	KindSlow    = "slow"
	KindFailing = "failing"
	// KindExec has no target: its probes run commands in pods.
	KindExec = "exec"
)

// TargetKinds are those that a target can have.
var TargetKinds = []string{KindHTTP, KindHTTPS, KindTCP, KindGRPC, KindSlow, KindFailing}

// Target is something to probe, at every address of 127.0.0.0/8. Other machines do not reach it.
type Target struct {
	// Kind is one of TargetKinds.
	Kind string
	// Port is 0 to 65535; 0 takes a free one.
	Port int
	// Delay is after how long a slow target answers.
	Delay time.Duration
	// Body is how many bytes HTTP and HTTPS targets answer, 0 to MaxBody.
	Body int
}

func (t Target) body() string { return strings.Repeat("ok\n", t.Body/3+1)[:t.Body] }

// Listening is a target whose port is open.
type Listening struct {
	Kind string
	Port int
	// connections counts those that were accepted: it is not the engine's word.
	connections *atomic.Int64
	run         func(ctx context.Context) error
}

// Connections is how many have been accepted so far.
func (l *Listening) Connections() int64 { return l.connections.Load() }

// Listen opens the target's port. What comes there is answered once Serve has told of it.
func (t Target) Listen() (*Listening, error) {
	l := &Listening{Kind: t.Kind, connections: &atomic.Int64{}}
	switch t.Kind {
	case KindHTTP, KindTCP, KindSlow, KindFailing:
		s, err := listenRaw(t, l.connections)
		if err != nil {
			return nil, fmt.Errorf("listen for %s: %w", t.Kind, err)
		}
		l.Port, l.run = s.port, s.run
		return l, nil
	case KindHTTPS, KindGRPC:
	default:
		return nil, fmt.Errorf("no such kind of target: %q", t.Kind)
	}
	cert, err := certificate()
	if err != nil {
		return nil, err
	}
	plain, err := (&net.ListenConfig{Control: loopbackOnly}).Listen(context.Background(), "tcp4", fmt.Sprintf("0.0.0.0:%d", t.Port))
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", t.Kind, err)
	}
	l.Port = plain.Addr().(*net.TCPAddr).Port
	counted := &counted{plain, l.connections}
	l.run = func(ctx context.Context) error { return serveHTTPS(ctx, counted, cert, t.body()) }
	if t.Kind == KindGRPC {
		l.run = func(ctx context.Context) error { return serveGRPC(ctx, counted) }
	}
	return l, nil
}

// counted counts what it accepts.
type counted struct {
	net.Listener
	n *atomic.Int64
}

func (c *counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.n.Add(1)
	}
	return conn, err
}

// loopbackOnly binds a socket to the loopback device: one at 0.0.0.0 then has all of 127.0.0.0/8, and nothing comes from other
// machines.
func loopbackOnly(_, _ string, c syscall.RawConn) error {
	var err error
	if control := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), "lo") }); control != nil {
		return control
	}
	return os.NewSyscallError("bind to device lo", err)
}

func serveGRPC(ctx context.Context, l net.Listener) error {
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health.NewServer()) // it says of itself that it serves
	defer context.AfterFunc(ctx, s.Stop)()
	return s.Serve(l)
}

func serveHTTPS(ctx context.Context, l net.Listener, cert tls.Certificate, body string) error {
	s := &http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: log.New(io.Discard, "", 0),
	}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// certificate makes one that nobody has a reason to trust: probes do not ask.
func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// Serve opens all targets, tells of them, and answers until ctx ends.
func Serve(ctx context.Context, targets []Target, told func([]*Listening) error) error {
	g, ctx := errgroup.WithContext(ctx)
	var all []*Listening
	for _, t := range targets {
		l, err := t.Listen()
		if err != nil {
			return err
		}
		all = append(all, l)
	}
	if err := told(all); err != nil {
		return err
	}
	for _, l := range all {
		g.Go(func() error { return l.run(ctx) })
	}
	return g.Wait()
}

// Driven serves targets for a test: it writes their ports by kind, a line of JSON, answers each line of in by how many connections
// there have been by kind, and ends with in.
func Driven(ctx context.Context, targets []Target, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return Serve(ctx, targets, func(all []*Listening) error {
		enc := json.NewEncoder(out)
		say := func(of func(*Listening) int64) error {
			told := map[string]int64{}
			for _, l := range all {
				told[l.Kind] = of(l)
			}
			return enc.Encode(told)
		}
		go func() { // ends with the process: a read of stdin can't be ended
			defer cancel()
			for lines := bufio.NewScanner(in); lines.Scan(); {
				if say((*Listening).Connections) != nil {
					return
				}
			}
		}()
		return say(func(l *Listening) int64 { return int64(l.Port) })
	})
}
