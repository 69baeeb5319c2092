package dev

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/clientconfig"
	"github.com/musterhq/muster/internal/datadir"
	"github.com/musterhq/muster/internal/identity"
)

// fakeEnv makes this test binary play a part of a cluster, with the command line of the real one.
const fakeEnv = "MUSTER_DEV_TEST_PART"

func TestMain(m *testing.M) {
	if how := os.Getenv(fakeEnv); how != "" {
		if err := play(how, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// play is a coordinator, an agent that leaves a supervisor behind, a supervisor, or a container.
func play(how string, args []string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	switch args[0] {
	case "coordinator":
		if how == "broken" {
			return errors.New("the reason is here")
		}
		return fakeCoordinator(args[2], stop)
	case "agent":
		if os.Getenv("MUSTER_AGENT_TOKEN") != "the-token" || slices.Contains(args, "the-token") {
			return errors.New("no token in the environment, or one among the arguments")
		}
		data := args[2]
		if err := os.MkdirAll(filepath.Join(data, "pods"), 0o755); err != nil {
			return err
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		for _, argv := range [][]string{{"pod", data, data + "/pods/p"}, {"guard", data, "127.0.0.1:0"}} {
			c := exec.Command(self, argv...)
			c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := c.Start(); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(data, "up"), nil, 0o644); err != nil {
			return err
		}
		<-stop
	case "pod":
		signal.Ignore(syscall.SIGTERM)
		self, err := os.Executable()
		if err != nil {
			return err
		}
		c := exec.Command(self, "container")
		// In a session and with a parent of its own, as a daemon is: only its environment says whose it is.
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		c.Env = append(os.Environ(), "MUSTER_POD_DIR="+args[2])
		if err := c.Run(); err != nil {
			return err
		}
		select {}
	case "container":
		if err := os.WriteFile(os.Getenv("MUSTER_POD_DIR")+"-up", nil, 0o644); err != nil {
			return err
		}
		<-stop
		// It says that it was asked to end, and not just killed.
		return os.WriteFile(os.Getenv("MUSTER_POD_DIR")+"-ended", nil, 0o644)
	default: // a guard, or a bystander
		signal.Ignore(syscall.SIGTERM)
		select {}
	}
	return nil
}

type fakeAPI struct {
	musterv1.UnimplementedClusterServiceServer
	musterv1.UnimplementedNodeServiceServer
	dir string
}

func (fakeAPI) CreateToken(_ context.Context, r *musterv1.CreateTokenRequest) (*musterv1.CreateTokenResponse, error) {
	if r.GetRole() != musterv1.Role_ROLE_NODE || r.GetUses() != 2 {
		return nil, status.Errorf(codes.InvalidArgument, "a token for %v", r)
	}
	return &musterv1.CreateTokenResponse{Token: "the-token"}, nil
}

// GetNode finds a node Ready once its agent is up.
func (f fakeAPI) GetNode(_ context.Context, r *musterv1.GetNodeRequest) (*musterv1.GetNodeResponse, error) {
	if _, err := os.Stat(filepath.Join(filepath.Dir(f.dir), r.GetName(), "up")); err != nil {
		return nil, status.Error(codes.NotFound, "no such node")
	}
	return &musterv1.GetNodeResponse{Node: &musterv1.Node{SessionUp: true, Status: &musterv1.NodeStatus{Verdict: musterv1.NodeVerdict_NODE_VERDICT_READY}}}, nil
}

func certificate(parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := identity.NewKey()
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: parent == nil, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs: []*url.URL{identity.Principal{Kind: identity.KindCoordinator, Name: "c"}.URI()},
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

func fakeCoordinator(dir string, stop chan os.Signal) error {
	hold, err := datadir.Lock(dir, datadir.Coordinator, "")
	if err != nil {
		return err
	}
	ca, caKey, err := certificate(nil, nil)
	if err != nil {
		return err
	}
	cert, key, err := certificate(ca, caKey)
	if err != nil {
		return err
	}
	c := &identity.Credentials{Key: key, Certificate: cert, CA: ca}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{*c.TLS()}, MinVersion: tls.VersionTLS13})))
	musterv1.RegisterClusterServiceServer(s, fakeAPI{dir: dir})
	musterv1.RegisterNodeServiceServer(s, fakeAPI{dir: dir})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	caPEM, certPEM, keyPEM, err := c.PEM()
	if err != nil {
		return err
	}
	conf := clientconfig.Config{Contexts: []clientconfig.Context{{Name: "c", Server: l.Addr().String(), CA: string(caPEM), Certificate: string(certPEM), Key: string(keyPEM)}}}
	if err := conf.Save(filepath.Join(dir, "client.yaml")); err != nil {
		return err
	}
	if err := hold.WriteAddresses(datadir.Addresses{Listen: l.Addr().String()}); err != nil {
		return err
	}
	fmt.Println("serving")
	<-stop
	s.Stop()
	return errors.Join(<-served, hold.Close())
}

// buffer is a bytes.Buffer that two goroutines may use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// cluster is a dev under test.
type cluster struct {
	t              *testing.T
	dir            string
	contextFile    string
	stdout, stderr buffer
	applied        chan []string
	cancel         context.CancelFunc
	done           chan error
}

func newCluster(t *testing.T, how string) *cluster {
	t.Helper()
	t.Setenv(fakeEnv, how)
	c := &cluster{t: t, dir: filepath.Join(t.TempDir(), "dev"), done: make(chan error, 1), applied: make(chan []string, 1)}
	c.contextFile = filepath.Join(t.TempDir(), "config.yaml")
	t.Cleanup(func() {
		for _, p := range c.processes() {
			t.Errorf("left behind: %d %v", p.pid, p.argv)
			if err := p.signal(syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

func (c *cluster) processes() []process {
	c.t.Helper()
	found, err := below(c.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	return found
}

func (c *cluster) start(files ...string) {
	c.t.Helper()
	self, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	d, err := New(Config{Program: self, Dir: c.dir, Nodes: 2, Images: "ignore", FreePorts: true, ContextFile: c.contextFile, Files: files},
		func(_ context.Context, config string, files []string) error {
			c.applied <- append([]string{config}, files...)
			return nil
		}, &c.stdout, &c.stderr)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	c.cancel = cancel
	go func() { c.done <- d.Run(ctx) }()
}

func (c *cluster) stop() error {
	c.t.Helper()
	start := time.Now()
	c.cancel()
	select {
	case err := <-c.done:
		c.t.Logf("stopped in %v", time.Since(start).Round(time.Millisecond))
		return err
	case <-time.After(15 * time.Second):
		c.t.Fatalf("dev does not stop:\n%s", c.stderr.String())
		return nil
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func (c *cluster) untilReady() {
	c.t.Helper()
	eventually(c.t, "muster is ready", func() bool {
		select {
		case err := <-c.done:
			c.t.Fatalf("dev ended: %v\n%s", err, c.stderr.String())
		default:
		}
		return strings.HasPrefix(c.stdout.String(), "muster is ready\n")
	})
}

func TestDevStartsEveryPartAsItsOwnProcessAndLeavesNone(t *testing.T) {
	c := newCluster(t, "good")
	file := filepath.Join(t.TempDir(), "x.yaml")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c.start(file)
	c.untilReady()
	eventually(t, "9 processes: a coordinator, and 2 of agent, supervisor, guard, container", func() bool { return len(c.processes()) == 9 })
	if got, want := <-c.applied, []string{filepath.Join(c.dir, "client.yaml"), file}; !slices.Equal(got, want) {
		t.Errorf("applied %v, want %v", got, want)
	}
	if a, err := datadir.ReadAddresses(c.dir); err != nil || a.Listen == "" {
		t.Errorf("addresses: %+v, %v", a, err)
	}
	conf, err := clientconfig.Load(c.contextFile)
	if err != nil || conf.CurrentContext != "dev" || len(conf.Contexts) != 1 {
		t.Errorf("the user's config: %+v, %v", conf, err)
	}
	if log := c.stderr.String(); !strings.Contains(log, "coordinator | serving\n") {
		t.Errorf("logs are not prefixed:\n%s", log)
	}
	if _, err := Cleanup(t.Context(), c.dir, ""); err == nil || !strings.Contains(err.Error(), "a muster dev is running there") {
		t.Errorf("Cleanup of a running dev: %v", err)
	}
	if err := c.stop(); err != nil {
		t.Error(err)
	}
	if n, err := Cleanup(t.Context(), c.dir, c.contextFile); n != 0 || err != nil {
		t.Errorf("Cleanup = %d, %v", n, err)
	}
	if _, err := os.Stat(c.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
	if conf, err := clientconfig.Load(c.contextFile); err != nil || len(conf.Contexts) != 0 || conf.CurrentContext != "" {
		t.Errorf("the context is still there: %+v, %v", conf, err)
	}
}

func TestContainersAreAskedToEndBeforeTheyAreKilled(t *testing.T) {
	c := newCluster(t, "good")
	c.start()
	c.untilReady()
	for _, n := range []string{"node-1", "node-2"} {
		eventually(t, "the container of "+n+" listens for signals", func() bool {
			_, err := os.Stat(filepath.Join(c.dir, n, "pods", "p-up"))
			return err == nil
		})
	}
	if err := c.stop(); err != nil {
		t.Error(err)
	}
	for _, n := range []string{"node-1", "node-2"} {
		if _, err := os.Stat(filepath.Join(c.dir, n, "pods", "p-ended")); err != nil {
			t.Errorf("the container of %s was not asked: %v", n, err)
		}
	}
}

func TestKillEndsOneNodeAndTouchesNothingElse(t *testing.T) {
	c := newCluster(t, "good")
	c.start()
	c.untilReady()
	eventually(t, "all processes", func() bool { return len(c.processes()) == 9 })
	// Somebody looks at the node's files, and somebody else has words like a supervisor's in the command line.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	node := filepath.Join(c.dir, "node-1")
	var bystanders []*exec.Cmd
	for _, argv := range [][]string{{"tail", "-f", node + "/log"}, {"bystander", "x", "pod", node}, {"agent", "--data-dir", node + "0"}} {
		b := exec.Command(self, argv...)
		b.Env = append(os.Environ(), "MUSTER_AGENT_TOKEN=the-token")
		if argv[0] == "agent" {
			b.Args[1] = "agents" // no agent, only called like one
		}
		if err := b.Start(); err != nil {
			t.Fatal(err)
		}
		bystanders = append(bystanders, b)
	}
	n, err := Kill(t.Context(), c.dir, "node-1")
	if n != 4 || err != nil {
		t.Errorf("Kill = %d, %v, want 4 processes", n, err)
	}
	if left := c.processes(); len(left) != 5 {
		t.Errorf("%d processes are left, want the coordinator and 4 of node-2: %v", len(left), left)
	}
	for _, b := range bystanders {
		if p, ok := read(b.Process.Pid); !ok {
			t.Errorf("a bystander was killed: %v", p)
		}
		if err := b.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = b.Wait() // killed, as it says
	}
	eventually(t, "dev says so", func() bool {
		return strings.Contains(c.stderr.String(), "node-1 has ended (signal: killed) and is not started again")
	})
	if n, err := Kill(t.Context(), c.dir, "node-1"); n != 0 || err != nil {
		t.Errorf("Kill of a dead node = %d, %v", n, err)
	}
	if _, err := Kill(t.Context(), c.dir, "node-9"); err == nil || !strings.Contains(err.Error(), "there is node-1, node-2") {
		t.Errorf("Kill of an unknown node: %v", err)
	}
	if _, err := Kill(t.Context(), t.TempDir(), "node-1"); err == nil || !strings.Contains(err.Error(), "no nodes in") {
		t.Errorf("Kill in an empty directory: %v", err)
	}
	if err := c.stop(); err != nil {
		t.Error(err)
	}
}

func TestAPartThatDoesNotStartIsToldAndEverythingIsTakenDown(t *testing.T) {
	c := newCluster(t, "broken")
	c.start()
	err := <-c.done
	if err == nil || !strings.Contains(err.Error(), "coordinator did not start (exit status 1)") || !strings.Contains(c.stderr.String(), "coordinator | the reason is here\n") {
		t.Errorf("Run = %v\n%s", err, c.stderr.String())
	}
}

func TestStoppingDuringTheStartLeavesNothing(t *testing.T) {
	for _, after := range []time.Duration{0, 20 * time.Millisecond, 60 * time.Millisecond, 150 * time.Millisecond} {
		c := newCluster(t, "good")
		c.start()
		time.Sleep(after)
		if err := c.stop(); err != nil {
			t.Errorf("after %v: %v", after, err)
		}
		if left := c.processes(); len(left) != 0 {
			t.Errorf("after %v: left %v", after, left)
		}
	}
}

func TestWhatAKilledDevHasLeftIsTakenAway(t *testing.T) {
	c := newCluster(t, "good")
	c.start()
	c.untilReady()
	eventually(t, "all processes", func() bool { return len(c.processes()) == 9 })
	// The lock of a killed dev is gone, its parts are not. Another dev cannot take the lock while this one has it, so
	// only the search and the killing are looked at.
	n, err := kill(t.Context(), func() ([]process, error) { return below(c.dir) })
	if n != 9 || err != nil {
		t.Errorf("kill = %d, %v, want 9", n, err)
	}
	if err := <-c.done; err == nil || !strings.Contains(err.Error(), "every part has ended") {
		t.Errorf("Run = %v", err)
	}
	if _, err := Cleanup(t.Context(), t.TempDir(), ""); err == nil || !strings.Contains(err.Error(), "nothing was touched") {
		t.Errorf("Cleanup of some directory: %v", err)
	}
	if n, err := Cleanup(t.Context(), filepath.Join(t.TempDir(), "none"), ""); n != 0 || err != nil {
		t.Errorf("Cleanup of nothing = %d, %v", n, err)
	}
}

func TestProcessesAreKnownByTheirCommandLine(t *testing.T) {
	one, all := claimOne("/d/node-1"), claimBelow("/d")
	for _, c := range []struct {
		argv string
		want role
	}{
		{"/x/muster agent --data-dir /d/node-1 --node n", roleServer},
		{"muster agent --node n --data-dir=/d/node-1/", roleServer},
		{"muster coordinator --data-dir /d/node-1", roleServer},
		{"muster agent --data-dir /d/node-10", roleNone},
		{"muster agent --data-dir", roleNone},
		{"muster get pods --data-dir /d/node-1", roleNone},
		{"/d/node-1/bin/supervisor-abc pod /d/node-1 /d/node-1/pods/x", rolePod},
		{"muster pod-supervisor pod /d/node-1 /d/node-1/pods/x", rolePod},
		{"/d/node-1/bin/supervisor-abc init /d/node-1 uid main", rolePod},
		{"/d/node-1/bin/supervisor-abc guard /d/node-1 :7704", roleGuard},
		{"muster pod-supervisor guard /d/node-1 :7704", roleGuard},
		{"tail -f /d/node-1/log", roleNone},
		{"vi pod /d/node-2", roleNone},
		{"", roleNone},
	} {
		p := process{argv: strings.Fields(c.argv)}
		if got := p.role(one); got != c.want {
			t.Errorf("%q is %d, want %d", c.argv, got, c.want)
		}
		if got := p.role(all); c.want != roleNone && got != c.want {
			t.Errorf("%q is %d among all, want %d", c.argv, got, c.want)
		}
	}
}

func TestLogLinesStayWholeAndBounded(t *testing.T) {
	var out bytes.Buffer
	root := &prefixed{mu: &sync.Mutex{}, out: &out}
	a, b := root.named("a", 0, false), root.named("b", 1, true)
	for _, w := range []struct {
		to   *prefixed
		text string
	}{{a, "one\ntw"}, {b, "x\n"}, {a, "o\n"}, {a, "rest"}} {
		if n, err := w.to.Write([]byte(w.text)); n != len(w.text) || err != nil {
			t.Fatal(n, err)
		}
	}
	a.flush()
	want := "a           | one\n\x1b[33mb           | \x1b[0mx\na           | two\na           | rest\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	out.Reset()
	if _, err := a.Write(bytes.Repeat([]byte("y"), 3*maxLine)); err != nil || len(a.pending) > maxLine || out.Len() < maxLine {
		t.Errorf("an endless line: %d pending, %d written, %v", len(a.pending), out.Len(), err)
	}
}
