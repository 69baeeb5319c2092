package probe

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/internal/spec"
)

const (
	// maxGRPCMessage and maxGRPCHeader bound a server's answer and its headers, in bytes.
	maxGRPCMessage, maxGRPCHeader = MaxOutput, 64 << 10
	// grpcBuffer is the size of a connection's buffers, in bytes: an answer is a few dozen.
	grpcBuffer = 4 << 10
)

// health asks a server for the health of a service, on a connection of its own (3.5). Everything but SERVING is a failure.
// A connection that can not be made fails at once, unlike the kubelet's (3.5.1), which tries again until the time is over.
// timeout is what ctx was given, for the texts.
func (a *Attempter) health(ctx context.Context, address string, action *spec.GRPCAction, timeout time.Duration) Answer {
	creds := insecure.NewCredentials()
	if action.Mode == spec.ModeTLS {
		creds = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}) //nolint:gosec // as with HTTPS: whether it answers is the question
	}
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return a.dial.DialContext(ctx, "tcp", address)
		}),
		grpc.WithUserAgent(UserAgent),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxGRPCMessage)), grpc.WithMaxHeaderListSize(maxGRPCHeader),
		grpc.WithReadBufferSize(grpcBuffer), grpc.WithWriteBufferSize(grpcBuffer),
	)
	if err != nil {
		return failed(fmt.Sprintf("error: failed to connect service at %q: %v", address, err))
	}
	defer conn.Close()
	if !connected(ctx, conn) {
		return failed(fmt.Sprintf("timeout: failed to connect service %q within %v: %v", address, timeout, context.DeadlineExceeded))
	}
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: action.Service})
	switch s := status.Convert(err); {
	case err == nil && answer.GetStatus() == healthpb.HealthCheckResponse_SERVING:
		return Answer{Outcome: spec.OutcomeSuccess, Output: "service healthy", CPU: -1}
	case err == nil:
		return failed(fmt.Sprintf("service unhealthy (responded with %q)", answer.GetStatus()))
	case s.Code() == codes.Unimplemented:
		return failed("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): " + s.Message())
	case s.Code() == codes.DeadlineExceeded:
		return failed(fmt.Sprintf("timeout: health rpc did not complete within %v", timeout))
	default:
		return failed(fmt.Sprintf("error: health rpc probe failed: %v", err))
	}
}

// connected tries once to connect, and tells whether a connection has come to be.
func connected(ctx context.Context, conn *grpc.ClientConn) bool {
	conn.Connect()
	begun := false
	for {
		at := conn.GetState()
		switch {
		case at == connectivity.Ready, at == connectivity.Idle && begun: // Idle: it has come and gone; the call says how
			return true
		case at == connectivity.TransientFailure, at == connectivity.Shutdown:
			return false
		}
		begun = begun || at == connectivity.Connecting
		if !conn.WaitForStateChange(ctx, at) {
			return false
		}
	}
}
