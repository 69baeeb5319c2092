package probe

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/internal/spec"
)

// healthServer answers Check with a function.
type healthServer struct {
	healthpb.UnimplementedHealthServer
	check func(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error)
}

func (s healthServer) Check(ctx context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return s.check(ctx, r)
}

func answering(s healthpb.HealthCheckResponse_ServingStatus) healthServer {
	return healthServer{check: func(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
		return &healthpb.HealthCheckResponse{Status: s}, nil
	}}
}

func refusing(code codes.Code, message string) healthServer {
	return healthServer{check: func(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
		return nil, status.Error(code, message)
	}}
}

// serveGRPC serves on an address of loopback, and returns the port. A nil server knows no health service.
func serveGRPC(t *testing.T, address string, s healthpb.HealthServer, opts ...grpc.ServerOption) int32 {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Skipf("no such loopback: %v", err)
	}
	server := grpc.NewServer(opts...)
	if s != nil {
		healthpb.RegisterHealthServer(server, s)
	}
	go func() { _ = server.Serve(l) }() // ends with Stop
	t.Cleanup(server.Stop)
	return int32(l.Addr().(*net.TCPAddr).Port)
}

func check(address string, port int32, service string, timeout time.Duration) *Question {
	return &Question{Address: address, Probe: &spec.Probe{Timeout: timeout, Handler: spec.Handler{GRPC: &spec.GRPCAction{Port: port, Service: service}}}}
}

func TestAServersHealthIsJudgedByItsStatus(t *testing.T) {
	known := health.NewServer()
	known.SetServingStatus("db", healthpb.HealthCheckResponse_NOT_SERVING)
	for name, tc := range map[string]struct {
		server  healthpb.HealthServer
		service string
		want    spec.Outcome
		output  string
	}{
		"3.5 serving":             {answering(healthpb.HealthCheckResponse_SERVING), "", spec.OutcomeSuccess, "service healthy"},
		"3.5 not serving":         {answering(healthpb.HealthCheckResponse_NOT_SERVING), "", spec.OutcomeFailure, `service unhealthy (responded with "NOT_SERVING")`},
		"3.5 unknown":             {answering(healthpb.HealthCheckResponse_UNKNOWN), "", spec.OutcomeFailure, `service unhealthy (responded with "UNKNOWN")`},
		"3.5 a status to come":    {answering(7), "", spec.OutcomeFailure, `service unhealthy (responded with "7")`},
		"3.5 the whole server":    {known, "", spec.OutcomeSuccess, "service healthy"},
		"3.5 one of its services": {known, "db", spec.OutcomeFailure, `service unhealthy (responded with "NOT_SERVING")`},
		"3.5 a service it does not know": {known, "web", spec.OutcomeFailure,
			"error: health rpc probe failed: rpc error: code = NotFound desc = unknown service"},
		"3.5 no health service": {nil, "", spec.OutcomeFailure,
			"error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service grpc.health.v1.Health"},
		"3.5 it refuses": {refusing(codes.PermissionDenied, "no"), "", spec.OutcomeFailure,
			"error: health rpc probe failed: rpc error: code = PermissionDenied desc = no"},
		"3.5 it has no time": {refusing(codes.DeadlineExceeded, "late"), "", spec.OutcomeFailure, "timeout: health rpc did not complete within 5s"},
		"what it says is cut": {refusing(codes.Internal, strings.Repeat("x", 2*MaxOutput)), "", spec.OutcomeFailure,
			("error: health rpc probe failed: rpc error: code = Internal desc = " + strings.Repeat("x", MaxOutput))[:MaxOutput]},
	} {
		t.Run(name, func(t *testing.T) {
			port := serveGRPC(t, "127.0.0.1", tc.server)
			got := New(nil).Attempt(t.Context(), check("127.0.0.1", port, tc.service, 5*time.Second))
			if got.Outcome != tc.want || got.Output != tc.output || got.CPU >= 0 {
				t.Errorf("got %v %.200q, CPU %v; want %v %.200q, not measured", got.Outcome, got.Output, got.CPU, tc.want, tc.output)
			}
		})
	}
}

func TestAServerIsAskedAtAnAddressOfIPv6(t *testing.T) {
	port := serveGRPC(t, "::1", answering(healthpb.HealthCheckResponse_SERVING))
	if got := New(nil).Attempt(t.Context(), check("::1", port, "", 5*time.Second)); got.Outcome != spec.OutcomeSuccess {
		t.Errorf("got %v %q", got.Outcome, got.Output)
	}
	closed := closedPort(t)
	got := New(nil).Attempt(t.Context(), check("::1", closed, "", time.Second))
	if want := fmt.Sprintf(`timeout: failed to connect service "[::1]:%d" within 1s: context deadline exceeded`, closed); got.Outcome != spec.OutcomeFailure || got.Output != want {
		t.Errorf("refused: %v %q, want %q", got.Outcome, got.Output, want)
	}
}

func TestWhatAServerIsAskedIsTheServiceAndNothingElse(t *testing.T) {
	var asked *healthpb.HealthCheckRequest
	var md metadata.MD
	port := serveGRPC(t, "127.0.0.1", healthServer{check: func(ctx context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
		asked = r
		md, _ = metadata.FromIncomingContext(ctx)
		return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
	}})
	if got := New(nil).Attempt(t.Context(), check("127.0.0.1", port, "muster.v1.Web", 5*time.Second)); got.Outcome != spec.OutcomeSuccess {
		t.Fatalf("got %v %q", got.Outcome, got.Output)
	}
	agent := md.Get("user-agent")
	if asked.GetService() != "muster.v1.Web" || len(agent) != 1 || agent[0] != UserAgent+" grpc-go/"+grpc.Version {
		t.Errorf("asked %v by %q", asked, agent)
	}
	for key := range md {
		if key != "user-agent" && key != "content-type" && key != ":authority" && key != "grpc-accept-encoding" {
			t.Errorf("metadata has %s: %q", key, md.Get(key))
		}
	}
}

// closedPort is one that nobody listens on.
func closedPort(t *testing.T) int32 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return int32(l.Addr().(*net.TCPAddr).Port)
}

func TestNoConnectionIsAFailureInTheKubeletsWords(t *testing.T) {
	notGRPC := func(answer string) func(*testing.T) int32 {
		return func(t *testing.T) int32 {
			return serve(t, func(c net.Conn, _ string) { fmt.Fprint(c, answer) })
		}
	}
	for name, tc := range map[string]struct {
		port func(*testing.T) int32
		// waits is set where only the time-out ends the attempt.
		waits bool
	}{
		"3.5.1 refused: at once, which differs": {port: closedPort},
		"3.5 another protocol":                  {port: notGRPC("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")},
		"3.5 closed without a word":             {port: notGRPC("")},
		"3.5 a server with TLS": {port: func(t *testing.T) int32 {
			srv := httptest.NewTLSServer(http.NotFoundHandler())
			t.Cleanup(srv.Close)
			cert := grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: srv.TLS.Certificates}))
			return serveGRPC(t, "127.0.0.1", answering(healthpb.HealthCheckResponse_SERVING), cert)
		}},
		"3.5 a server that says nothing": {waits: true, port: func(t *testing.T) int32 {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() }) // the kernel accepts, nobody answers
			return int32(l.Addr().(*net.TCPAddr).Port)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			const timeout = 1500 * time.Millisecond
			port, start := tc.port(t), time.Now()
			got := New(nil).Attempt(t.Context(), check("127.0.0.1", port, "", timeout))
			took := time.Since(start)
			if want := fmt.Sprintf(`timeout: failed to connect service "127.0.0.1:%d" within 1.5s: context deadline exceeded`, port); got.Outcome != spec.OutcomeFailure || got.Output != want {
				t.Errorf("got %v %q, want %q", got.Outcome, got.Output, want)
			}
			if lo, hi := timeout, timeout+time.Second; tc.waits && (took < lo || took > hi) {
				t.Errorf("after %v, want %v to %v", took, lo, hi)
			}
			if !tc.waits && took >= timeout {
				t.Errorf("after %v, want it at once", took)
			}
		})
	}
}

func TestACallOverTLSVerifiesNoCertificate(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	port := serveGRPC(t, "127.0.0.1", answering(healthpb.HealthCheckResponse_SERVING),
		grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: srv.TLS.Certificates})))
	q := check("127.0.0.1", port, "", 5*time.Second)
	q.Probe.GRPC.Mode = spec.ModeTLS
	if got := New(nil).Attempt(t.Context(), q); got.Outcome != spec.OutcomeSuccess || got.Output != "service healthy" {
		t.Errorf("3.5 TLS: %v %q", got.Outcome, got.Output)
	}
	q = check("127.0.0.1", serveGRPC(t, "127.0.0.1", answering(healthpb.HealthCheckResponse_SERVING)), "", time.Second)
	q.Probe.GRPC.Mode = spec.ModeTLS
	if got := New(nil).Attempt(t.Context(), q); got.Outcome != spec.OutcomeFailure || !strings.HasPrefix(got.Output, "timeout: failed to connect service") {
		t.Errorf("3.5 a server without TLS: %v %q", got.Outcome, got.Output)
	}
}

func TestACallThatStallsIsAFailureWithinTheTimeout(t *testing.T) {
	gone := make(chan struct{})
	port := serveGRPC(t, "127.0.0.1", healthServer{check: func(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
		<-ctx.Done()
		close(gone)
		return nil, ctx.Err()
	}})
	start := time.Now()
	got := New(nil).Attempt(t.Context(), check("127.0.0.1", port, "", 500*time.Millisecond))
	if took := time.Since(start); took < 500*time.Millisecond || took > 1500*time.Millisecond {
		t.Errorf("after %v, want 0.5 s", took)
	}
	if got.Outcome != spec.OutcomeFailure || got.Output != "timeout: health rpc did not complete within 500ms" {
		t.Errorf("got %v %q", got.Outcome, got.Output)
	}
	<-gone // the connection is not kept
}

func TestAnAnswerLargerThanIsReadIsAFailure(t *testing.T) {
	port := serveGRPC(t, "127.0.0.1", healthServer{check: func(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
		r := &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}
		r.ProtoReflect().SetUnknown(append([]byte{0x7a, 0x80, 0x80, 0x01}, make([]byte, 1<<14)...)) // field 15: 16 KiB
		return r, nil
	}})
	got := New(nil).Attempt(t.Context(), check("127.0.0.1", port, "", 5*time.Second))
	if got.Outcome != spec.OutcomeFailure || !strings.Contains(got.Output, "received message larger than max") {
		t.Errorf("got %v %q", got.Outcome, got.Output)
	}
}

func TestAPortThatIsNoneIsNotAsked(t *testing.T) {
	for _, port := range []int32{-1, 0, 65536} {
		got := New(nil).Attempt(t.Context(), check("127.0.0.1", port, "", time.Second))
		if want := fmt.Sprintf("invalid port number: %d", port); got.Outcome != spec.OutcomeErrored || got.Output != want {
			t.Errorf("%v %q, want errored %q", got.Outcome, got.Output, want)
		}
	}
}

func BenchmarkHealth(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, answering(healthpb.HealthCheckResponse_SERVING))
	go func() { _ = server.Serve(l) }() // ends with Stop
	defer server.Stop()
	a, q := New(nil), check("127.0.0.1", int32(l.Addr().(*net.TCPAddr).Port), "", 5*time.Second)
	b.ReportAllocs()
	for b.Loop() {
		if got := a.Attempt(b.Context(), q); got.Outcome != spec.OutcomeSuccess {
			b.Fatal(got)
		}
	}
}
