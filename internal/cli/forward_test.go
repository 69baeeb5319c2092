package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

// PortForwardPod answers at port 80 what it has read to its end; every other port refuses.
func (s podServer) PortForwardPod(stream grpc.BidiStreamingServer[musterv1.PortForwardPodRequest, musterv1.PortForwardPodResponse]) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	s.mu.Lock()
	_, ok := s.pods[namespaceOr(m.GetStart().GetNamespace())+"/"+m.GetStart().GetName()]
	s.mu.Unlock()
	if !ok {
		return notFound("pod " + m.GetStart().GetName())
	}
	if m.GetStart().GetPort() != 80 {
		return withReason(codes.FailedPrecondition, "nothing listens there", "CANNOT_CONNECT")
	}
	if err := stream.Send(&musterv1.PortForwardPodResponse{Output: &musterv1.PortForwardPodResponse_Connected{Connected: true}}); err != nil {
		return err
	}
	var text []byte
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if m.GetDataClosed() {
			break
		}
		text = append(text, m.GetData()...)
	}
	for len(text) > 0 {
		n := min(len(text), forwardPiece)
		if err := stream.Send(&musterv1.PortForwardPodResponse{Output: &musterv1.PortForwardPodResponse_Data{Data: text[:n]}}); err != nil {
			return err
		}
		text = text[n:]
	}
	return stream.Send(&musterv1.PortForwardPodResponse{Output: &musterv1.PortForwardPodResponse_DataClosed{DataClosed: true}})
}

// paper can be read while it is written.
type paper struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (p *paper) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.Write(b)
}

func (p *paper) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.String()
}

// background runs a command until stop is called, which returns its exit status.
func (s *shell) background(args ...string) (stdout, stderr *paper, stop func() int) {
	ctx, cancel := context.WithCancel(s.t.Context())
	stdout, stderr = &paper{}, &paper{}
	status := make(chan int, 1)
	go func() {
		status <- Main(ctx, args, World{Stdin: strings.NewReader(""), Stdout: stdout, Stderr: stderr, Getenv: func(k string) string { return s.env[k] }, Environ: s.environ})
	}()
	return stdout, stderr, func() int {
		cancel()
		return <-status
	}
}

// eventually waits for a text to match, and returns what its groups did.
func eventually(t *testing.T, p *paper, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if m := re.FindStringSubmatch(p.String()); m != nil {
			return m
		}
	}
	t.Fatalf("no %s in %q", pattern, p.String())
	return nil
}

// ask connects, says something to the end, and returns the answer.
func ask(address, text string) (string, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		return "", err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

func TestPortsAreForwardedWhateverBecomesOfOneConnection(t *testing.T) {
	f := aCluster()
	p := webPod("web", "n1", true)
	p.Spec.Containers[0].Ports = []*musterv1.ContainerPort{{Name: "http", Number: 80}, {Name: "dns", Number: 53, Protocol: "UDP"}}
	f.setPod(p)
	s := newShell(t, f)
	stdout, stderr, stop := s.background("port-forward", "web", ":http", "0:81", "--address", "127.0.0.1")
	open := eventually(t, stdout, `Forwarding from (127.0.0.1:\d+) -> 80\n`)[1]
	refusing := eventually(t, stdout, `Forwarding from (127.0.0.1:\d+) -> 81\n`)[1]
	if answer, err := ask(refusing, "x"); err == nil && answer != "" {
		t.Errorf("a port that refuses says %q", answer)
	}
	eventually(t, stderr, `(?m)^connection from 127.0.0.1:\d+ to port 81 of pod/web: nothing listens there: `)
	long := strings.Repeat("hello", 50_000)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if answer, err := ask(open, long); err != nil || answer != long {
				t.Errorf("%d bytes came back, %v", len(answer), err)
			}
		})
	}
	wg.Wait()
	if code := stop(); code != 0 {
		t.Errorf("after Ctrl-C: exit %d, %s", code, stderr)
	}
	if strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("it said %q", stderr)
	}
	if _, err := net.Dial("tcp", open); err == nil {
		t.Error("it still listens")
	}
}

func TestAForwardHasABoundAndGoesOnBelowIt(t *testing.T) {
	s := newShell(t, aCluster())
	stdout, stderr, stop := s.background("port-forward", "pod/web", ":80", "--address=127.0.0.1")
	defer stop()
	open := eventually(t, stdout, `Forwarding from (127.0.0.1:\d+) -> 80\n`)[1]
	var held []net.Conn
	for range maxForwarded + 1 {
		conn, err := net.Dial("tcp", open)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	eventually(t, stderr, `is turned away: there are 100 already`)
	for _, c := range held {
		c.Close()
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if answer, err := ask(open, "again"); err == nil && answer == "again" {
			return
		}
		if time.Now().After(end) {
			t.Fatal("it takes no more connections")
		}
	}
}

func TestAForwardEndsWithItsPod(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	stdout, stderr, stop := s.background("port-forward", "web", ":80", "--address=127.0.0.1")
	open := eventually(t, stdout, `Forwarding from (127.0.0.1:\d+) -> 80\n`)[1]
	f.mu.Lock()
	delete(f.pods, "default/web")
	f.mu.Unlock()
	if _, err := ask(open, "x"); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("the pod is gone, and its port answers: %v", err)
	}
	eventually(t, stderr, `^pod "web" not found in namespace "default"`)
	if code := stop(); code != 1 {
		t.Errorf("exit %d", code)
	}
}

func TestAServicesPortLeadsToOneOfItsReadyPods(t *testing.T) {
	f := aCluster()
	p := webPod("web", "n1", true)
	p.Spec.Containers[0].Ports = []*musterv1.ContainerPort{{Name: "http", Number: 80}}
	f.setPod(p)
	f.services = []*musterv1.Service{{
		Meta: &musterv1.ObjectMeta{Namespace: "default", Name: "site"},
		Spec: &musterv1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []*musterv1.ServicePort{
			{Name: "web", Port: 8000, Protocol: "TCP", TargetPort: &musterv1.PortReference{Port: &musterv1.PortReference_Name{Name: "http"}}}, {Port: 53, Protocol: "UDP"},
		}},
	}}
	s := newShell(t, f)
	for _, port := range []string{":8000", ":web"} {
		stdout, _, stop := s.background("port-forward", "svc/site", port, "--address=127.0.0.1")
		open := eventually(t, stdout, `Forwarding from (127.0.0.1:\d+) -> 80\n`)[1]
		if answer, err := ask(open, "hello"); err != nil || answer != "hello" {
			t.Errorf("%s: %q, %v", port, answer, err)
		}
		stop()
	}
	for port, want := range map[string]string{"80": "service/site has no port 80: it has 8000, 53", "53": "port 53 of service/site is UDP"} {
		if a := s.run("port-forward", "service/site", port); a.status != 1 || !strings.Contains(a.stderr, want) {
			t.Errorf("%s: %+v", port, a)
		}
	}
}

func TestWhatCannotBeForwardedIsToldBeforeAnythingListens(t *testing.T) {
	f := aCluster()
	pending := webPod("late", "", false)
	pending.Status.Phase = musterv1.PodPhase_POD_PHASE_PENDING
	f.setPod(pending)
	udp := webPod("dns", "n1", true)
	udp.Spec.Containers[0].Ports = []*musterv1.ContainerPort{{Name: "dns", Number: 53, Protocol: "UDP"}}
	f.setPod(udp)
	s := newShell(t, f)
	for line, want := range map[string]struct {
		status int
		text   string
	}{
		"port-forward web":                      {2, "requires at least 2 arg(s)"},
		"port-forward web 80:x:y":               {2, `port "80:x:y": want [LOCAL:]REMOTE`},
		"port-forward web 70000":                {2, `port "70000": want [LOCAL:]REMOTE`},
		"port-forward web 1:":                   {2, `port "1:": want [LOCAL:]REMOTE`},
		"port-forward web 80 --address nowhere": {2, `--address "nowhere": want localhost or an IP address`},
		"port-forward node/n1 80":               {2, "want a pod, a deployment or a service"},
		"port-forward nope 80":                  {1, `pod "nope" not found`},
		"port-forward late 80":                  {1, `pod/late is Pending, not Running: "muster describe pod late" says why`},
		"port-forward dns :dns":                 {1, `port "dns" of pod/dns is UDP: only TCP is forwarded`},
		"port-forward dns :http":                {1, `pod/dns has no port named "http": it has dns; a number does too`},
		"port-forward deployment/site 80":       {1, "deployment/site has no pod that runs"},
	} {
		a := s.run(strings.Fields(line)...)
		if a.status != want.status || !strings.Contains(a.stderr, want.text) || a.stdout != "" {
			t.Errorf("%s: exit %d, %q, %q, want %d and %q", line, a.status, a.stdout, a.stderr, want.status, want.text)
		}
	}
}
