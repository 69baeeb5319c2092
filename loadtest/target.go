package loadtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
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
}

// Listen opens the target's port and returns it, and what answers there until ctx ends.
func (t Target) Listen() (port int, serve func(ctx context.Context) error, err error) {
	switch t.Kind {
	case KindHTTP, KindTCP, KindSlow, KindFailing:
		s, err := listenRaw(t)
		if err != nil {
			return 0, nil, fmt.Errorf("listen for %s: %w", t.Kind, err)
		}
		return s.port, s.run, nil
	case KindHTTPS, KindGRPC:
	default:
		return 0, nil, fmt.Errorf("no such kind of target: %q", t.Kind)
	}
	l, err := (&net.ListenConfig{Control: loopbackOnly}).Listen(context.Background(), "tcp4", fmt.Sprintf("0.0.0.0:%d", t.Port))
	if err != nil {
		return 0, nil, fmt.Errorf("listen for %s: %w", t.Kind, err)
	}
	port = l.Addr().(*net.TCPAddr).Port
	if t.Kind == KindGRPC {
		return port, func(ctx context.Context) error { return serveGRPC(ctx, l) }, nil
	}
	cert, err := certificate()
	if err != nil {
		l.Close()
		return 0, nil, err
	}
	return port, func(ctx context.Context) error { return serveHTTPS(ctx, l, cert) }, nil
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

func serveHTTPS(ctx context.Context, l net.Listener, cert tls.Certificate) error {
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

// Serve opens all targets, tells their ports by kind, and answers until ctx ends.
func Serve(ctx context.Context, targets []Target, told func(ports map[string]int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	ports := map[string]int{}
	var serve []func(context.Context) error
	for _, t := range targets {
		port, run, err := t.Listen()
		if err != nil {
			return err
		}
		ports[t.Kind] = port
		serve = append(serve, run)
	}
	if err := told(ports); err != nil {
		return err
	}
	for _, run := range serve {
		g.Go(func() error { return run(ctx) })
	}
	return g.Wait()
}
