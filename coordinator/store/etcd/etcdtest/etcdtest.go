// Package etcdtest runs real etcd servers for tests, each a process: the test's own binary, started anew.
package etcdtest

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

// serverEnv makes a process a server: "DIR LISTEN QUOTA CERT KEY CA", the last three - without TLS.
const serverEnv = "MUSTER_TEST_ETCD"

// Main is for a test's TestMain: it does not return where the process is to be a server.
func Main() {
	line := os.Getenv(serverEnv)
	if line == "" {
		return
	}
	if err := serve(strings.Fields(line)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(args []string) error {
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.UnsafeNoFsync = args[0], "panic", true
	if _, err := fmt.Sscan(args[2], &cfg.QuotaBackendBytes); err != nil {
		return err
	}
	scheme := "http"
	if args[3] != "-" {
		scheme = "https"
		cfg.ClientTLSInfo = transport.TLSInfo{CertFile: args[3], KeyFile: args[4], TrustedCAFile: args[5], ClientCertAuth: true}
	}
	peer := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	client := []url.URL{{Scheme: scheme, Host: args[1]}}
	cfg.ListenPeerUrls, cfg.ListenClientUrls = peer, client
	cfg.AdvertisePeerUrls, cfg.AdvertiseClientUrls = peer, client
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.TickMs, cfg.ElectionMs = 10, 100
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	<-e.Server.ReadyNotify()
	fmt.Println(e.Clients[0].Addr())
	// It ends with its test.
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	e.Close()
	return nil
}

// Config is what a server is started with.
type Config struct {
	// QuotaBytes bounds its data; 0: etcd's default.
	QuotaBytes int64
	// TLS has it ask for certificates; see Server.Files.
	TLS bool
}

// Server is a server of its own.
type Server struct {
	// URL is what a client asks.
	URL string
	// CA, Cert and Key are a client's files, with TLS.
	CA, Cert, Key string

	t    *testing.T
	cfg  Config
	dir  string
	addr string
	cmd  *exec.Cmd
	in   *os.File
}

// Start starts a server, which ends with the test.
func Start(t *testing.T, cfg Config) *Server {
	t.Helper()
	s := &Server{t: t, cfg: cfg, dir: t.TempDir(), addr: "127.0.0.1:0"}
	if cfg.TLS {
		s.certificates()
	}
	s.start()
	t.Cleanup(s.Kill)
	return s
}

func (s *Server) start() {
	s.t.Helper()
	files := "- - -"
	scheme := "http://"
	if s.cfg.TLS {
		files, scheme = strings.Join([]string{s.Cert, s.Key, s.CA}, " "), "https://"
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d %s", serverEnv, filepath.Join(s.dir, "data"), s.addr, s.cfg.QuotaBytes, files))
	cmd.Stderr = os.Stderr
	r, w, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stdin = r
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	r.Close()
	s.cmd, s.in = cmd, w
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		s.Kill()
		s.t.Fatalf("the server did not start: %v", err)
	}
	s.addr = strings.TrimSpace(line)
	s.URL = scheme + s.addr
}

// Kill ends it at once.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.in.Close()
	s.cmd = nil
}

// Restart starts it again, after Kill, with its data and at its address.
func (s *Server) Restart() { s.t.Helper(); s.start() }

// Stop has it stand still: when it returns, all its threads do, which may take a busy machine a while.
func (s *Server) Stop() {
	s.t.Helper()
	_ = s.cmd.Process.Signal(syscall.SIGSTOP)
	Until(s.t.Context(), s.t, "all threads have stopped", func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", s.cmd.Process.Pid))
		if err != nil || len(threads) == 0 {
			return false
		}
		for _, thread := range threads {
			stat, err := os.ReadFile(thread)
			if err != nil || !strings.Contains(string(stat), ") T ") {
				return false
			}
		}
		return true
	})
}

// Continue has it go on.
func (s *Server) Continue() { _ = s.cmd.Process.Signal(syscall.SIGCONT) }

// certificates makes a CA, and one certificate for both sides.
func (s *Server) certificates() {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "muster"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		s.t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	write := func(name, kind string, data []byte) string {
		path := filepath.Join(s.dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600); err != nil {
			s.t.Fatal(err)
		}
		return path
	}
	s.Cert, s.Key = write("cert.pem", "CERTIFICATE", der), write("key.pem", "EC PRIVATE KEY", private)
	s.CA = s.Cert
}

// Until waits until ok, 20 s at most.
func Until(ctx context.Context, t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) || ctx.Err() != nil {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}
