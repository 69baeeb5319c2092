package api

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/musterhq/muster/coordinator/dispatch"
	"github.com/musterhq/muster/coordinator/election"
	"github.com/musterhq/muster/coordinator/leader"
	"github.com/musterhq/muster/coordinator/lease"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/trust"
	"github.com/musterhq/muster/internal/reason"
	"github.com/musterhq/muster/internal/spec"
)

// The errors that handlers return beside those of the packages they call.
var (
	// ErrExists means that there is such an object already.
	ErrExists = errors.New("already exists")
	// ErrDeleting means that the object is being deleted: it can be made anew once it is gone.
	ErrDeleting = errors.New("is being deleted")
	// ErrNodeInUse means that a node has a session or pods.
	ErrNodeInUse = errors.New("node is in use")
	// ErrNotFrozen means that there is nothing to resume.
	ErrNotFrozen = errors.New("failover is not frozen")
	// ErrNotHeld means that no restarts of a Deployment are held.
	ErrNotHeld = errors.New("restarts are not held")
	// ErrWatchTooSlow means that a watcher did not keep up and has to resume.
	ErrWatchTooSlow = errors.New("watch too slow")
	// ErrNodeUnreachable means that there is no session with the pod's node.
	ErrNodeUnreachable = errors.New("no session with the node")
	// ErrNotRunning means that a container does not run, ErrCannotStart that a command in it can not be started,
	// ErrCannotConnect that a port of a pod refuses, ErrUnsupported that its node can not do what is asked.
	ErrNotRunning    = errors.New("not running")
	ErrCannotStart   = errors.New("cannot start")
	ErrCannotConnect = errors.New("cannot connect")
	ErrUnsupported   = errors.New("not supported by the node")
	// ErrTooManyCopies means that enough snapshots are being sent.
	ErrTooManyCopies = errors.New("too many snapshots at a time")
	// ErrNotBuilt means that a request asks for something that is not built yet.
	ErrNotBuilt = errors.New("not built yet")
)

// table is the one place that turns an error into what travels. The first match counts.
var table = []struct {
	err    error
	code   codes.Code
	reason string
}{
	{store.ErrNotFound, codes.NotFound, reason.NotFound},
	{store.ErrConflict, codes.Aborted, "REVISION_CONFLICT"},
	{store.ErrCompacted, codes.OutOfRange, "REVISION_COMPACTED"},
	{store.ErrTooLarge, codes.ResourceExhausted, "TOO_LARGE"},
	{store.ErrFull, codes.ResourceExhausted, "STORE_FULL"},
	{store.ErrUnknown, codes.Unavailable, "OUTCOME_UNKNOWN"},
	{store.ErrClosed, codes.Unavailable, "STOPPING"},
	{ErrExists, codes.AlreadyExists, "ALREADY_EXISTS"},
	{ErrDeleting, codes.FailedPrecondition, "DELETING"},
	{ErrNodeInUse, codes.FailedPrecondition, "NODE_IN_USE"},
	{ErrNotFrozen, codes.FailedPrecondition, "NOT_FROZEN"},
	{ErrNotHeld, codes.FailedPrecondition, "NOT_HELD"},
	{ErrWatchTooSlow, codes.ResourceExhausted, "WATCH_TOO_SLOW"},
	{ErrNodeUnreachable, codes.Unavailable, "NODE_UNREACHABLE"},
	{leader.ErrRisk, codes.FailedPrecondition, "SECOND_INSTANCE_RISK"},
	{leader.ErrNotBound, codes.FailedPrecondition, "NOT_BOUND"},
	{leader.ErrNowhere, codes.FailedPrecondition, reason.NoOtherNode},
	{ErrBudget, codes.FailedPrecondition, reason.DisruptionBudget},
	{ErrFinished, codes.FailedPrecondition, reason.Finished},
	{ErrNotRunning, codes.FailedPrecondition, reason.NotRunning},
	{ErrCannotStart, codes.FailedPrecondition, reason.CannotStart},
	{ErrCannotConnect, codes.FailedPrecondition, reason.CannotConnect},
	{ErrUnsupported, codes.FailedPrecondition, reason.Unsupported},
	{ErrTooManyCopies, codes.ResourceExhausted, "TOO_MANY_REQUESTS"},
	{ErrNotBuilt, codes.Unimplemented, "NOT_BUILT"},
	{dispatch.ErrNoSession, codes.Unavailable, "NODE_UNREACHABLE"},
	{dispatch.ErrTooManyAsks, codes.ResourceExhausted, "TOO_MANY_REQUESTS"},
	{dispatch.ErrTooManyForwards, codes.ResourceExhausted, "TOO_MANY_REQUESTS"},
	{election.ErrNotLeader, codes.Unavailable, reason.NotLeader},
	{lease.ErrNodeNameTaken, codes.FailedPrecondition, reason.NodeTaken},
	{lease.ErrBarred, codes.Unavailable, reason.NodeBarred},
	{lease.ErrSealed, codes.Unavailable, reason.LeaseSealed},
	{lease.ErrSessionStale, codes.FailedPrecondition, reason.SessionStale},
	{trust.ErrTokenUsed, codes.Unauthenticated, "TOKEN_USED"},
	{trust.ErrTokenExpired, codes.Unauthenticated, "TOKEN_EXPIRED"},
	{trust.ErrTokenUnknown, codes.Unauthenticated, "TOKEN_UNKNOWN"},
	{trust.ErrTokenRevoked, codes.Unauthenticated, "TOKEN_REVOKED"},
	{trust.ErrTokenRole, codes.PermissionDenied, "TOKEN_ROLE"},
	{trust.ErrTokenBounds, codes.InvalidArgument, reason.Invalid},
	{trust.ErrTooManyTokens, codes.ResourceExhausted, "TOO_MANY_TOKENS"},
	{trust.ErrRequest, codes.InvalidArgument, reason.Invalid},
	{trust.ErrDenied, codes.PermissionDenied, "DENIED"},
	{context.Canceled, codes.Canceled, "CANCELED"},
	{context.DeadlineExceeded, codes.DeadlineExceeded, "DEADLINE_EXCEEDED"},
}

// InvalidError is a request with findings: InvalidArgument, with a BadRequest that names every path.
type InvalidError struct {
	// Object names what was refused, "pod/web"; may be empty.
	Object   string
	Findings []spec.Finding
}

// Error has every finding on one line.
func (e *InvalidError) Error() string {
	texts := make([]string, len(e.Findings))
	for i := range e.Findings {
		texts[i] = e.Findings[i].String()
	}
	msg := strings.Join(texts, "; ")
	if e.Object != "" {
		return e.Object + ": " + msg
	}
	return msg
}

// invalid is an InvalidError with one finding.
func invalid(path, message string) error {
	return &InvalidError{Findings: []spec.Finding{{Path: path, Kind: spec.Invalid, Message: message}}}
}

// Status is the gRPC status that err travels as. What the table does not list is Internal with a plain message.
func Status(err error) *status.Status {
	if s, ok := status.FromError(err); ok {
		return s
	}
	if bad := (*InvalidError)(nil); errors.As(err, &bad) {
		request := &errdetails.BadRequest{}
		for _, f := range bad.Findings {
			request.FieldViolations = append(request.FieldViolations, &errdetails.BadRequest_FieldViolation{
				Field: f.Path, Description: f.Detail(), Reason: string(f.Kind),
			})
		}
		return detailed(codes.InvalidArgument, bad.Error(), &errdetails.ErrorInfo{Reason: reason.Invalid, Domain: reason.Domain}, request)
	}
	for _, row := range table {
		if errors.Is(err, row.err) {
			return detailed(row.code, err.Error(), &errdetails.ErrorInfo{Reason: row.reason, Domain: reason.Domain})
		}
	}
	return detailed(codes.Internal, "internal error", &errdetails.ErrorInfo{Reason: reason.Internal, Domain: reason.Domain})
}

func detailed(code codes.Code, msg string, details ...protoadapt.MessageV1) *status.Status {
	s := status.New(code, msg)
	if d, err := s.WithDetails(details...); err == nil {
		return d
	}
	return s
}

// UnaryErrors maps a handler's error once; the cause of an Internal one is logged, not sent.
func UnaryErrors(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		resp, err := handler(ctx, req)
		if err != nil {
			return nil, mapped(log, info.FullMethod, err)
		}
		return resp, nil
	}
}

// StreamErrors is UnaryErrors for streams.
func StreamErrors(log *slog.Logger) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if err := handler(srv, ss); err != nil {
			return mapped(log, info.FullMethod, err)
		}
		return nil
	}
}

func mapped(log *slog.Logger, method string, err error) error {
	s := Status(err)
	if s.Code() == codes.Internal {
		log.Error("request failed", "method", method, "err", err)
	}
	return s.Err()
}
