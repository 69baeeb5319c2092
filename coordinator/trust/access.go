package trust

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/musterhq/muster/internal/identity"
)

// ErrDenied means that a caller may not do what it asks for.
var ErrDenied = errors.New("denied")

// class is what a method needs.
type class int

const (
	// open methods need no certificate: they are how one is got.
	open class = iota + 1
	// known methods need any certificate of the cluster.
	known
	// read, write and administer need a person of at least that role.
	read
	write
	administer
	// nodes need a node's certificate: no person's role reaches so far.
	nodes
)

// methods says what each method needs; a service with a * stands for all of its methods. What is not here nobody may
// call.
var methods = map[string]class{
	"/grpc.health.v1.Health/*":                    known,
	"/grpc.reflection.v1.ServerReflection/*":      known,
	"/grpc.reflection.v1alpha.ServerReflection/*": known,

	"/muster.agent.v1.AgentService/Join": open,
	"/muster.agent.v1.AgentService/*":    nodes,

	"/muster.v1.PodService/GetPod":      read,
	"/muster.v1.PodService/ListPods":    read,
	"/muster.v1.PodService/WatchPods":   read,
	"/muster.v1.PodService/ReadPodLogs": read,
	"/muster.v1.PodService/GetPodStory": read,
	"/muster.v1.PodService/CreatePod":   write,
	"/muster.v1.PodService/UpdatePod":   write,
	"/muster.v1.PodService/DeletePod":   write,
	"/muster.v1.PodService/MovePod":     write,
	"/muster.v1.PodService/ExecPod":     write,
	"/muster.v1.PodService/EvictPod":    write,

	"/muster.v1.PodService/PortForwardPod": write,

	"/muster.v1.DeploymentService/GetDeployment":    read,
	"/muster.v1.DeploymentService/ListDeployments":  read,
	"/muster.v1.DeploymentService/WatchDeployments": read,
	"/muster.v1.DeploymentService/CreateDeployment": write,
	"/muster.v1.DeploymentService/UpdateDeployment": write,
	"/muster.v1.DeploymentService/DeleteDeployment": write,

	"/muster.v1.ServiceService/GetService":    read,
	"/muster.v1.ServiceService/ListServices":  read,
	"/muster.v1.ServiceService/WatchServices": read,
	"/muster.v1.ServiceService/CreateService": write,
	"/muster.v1.ServiceService/UpdateService": write,
	"/muster.v1.ServiceService/DeleteService": write,

	"/muster.v1.ConfigMapService/GetConfigMap":    read,
	"/muster.v1.ConfigMapService/ListConfigMaps":  read,
	"/muster.v1.ConfigMapService/WatchConfigMaps": read,
	"/muster.v1.ConfigMapService/CreateConfigMap": write,
	"/muster.v1.ConfigMapService/UpdateConfigMap": write,
	"/muster.v1.ConfigMapService/DeleteConfigMap": write,

	"/muster.v1.SecretService/GetSecret":    write,
	"/muster.v1.SecretService/ListSecrets":  write,
	"/muster.v1.SecretService/WatchSecrets": write,
	"/muster.v1.SecretService/CreateSecret": write,
	"/muster.v1.SecretService/UpdateSecret": write,
	"/muster.v1.SecretService/DeleteSecret": write,

	"/muster.v1.EndpointsService/GetEndpoints":   read,
	"/muster.v1.EndpointsService/ListEndpoints":  read,
	"/muster.v1.EndpointsService/WatchEndpoints": read,

	"/muster.v1.PlacementService/ExplainPod":               read,
	"/muster.v1.DeploymentService/ListDeploymentRevisions": read,

	"/muster.v1.PodDisruptionBudgetService/GetPodDisruptionBudget":    read,
	"/muster.v1.PodDisruptionBudgetService/ListPodDisruptionBudgets":  read,
	"/muster.v1.PodDisruptionBudgetService/WatchPodDisruptionBudgets": read,
	"/muster.v1.PodDisruptionBudgetService/CreatePodDisruptionBudget": write,
	"/muster.v1.PodDisruptionBudgetService/UpdatePodDisruptionBudget": write,
	"/muster.v1.PodDisruptionBudgetService/DeletePodDisruptionBudget": write,

	"/muster.v1.NodeService/GetNode":    read,
	"/muster.v1.NodeService/ListNodes":  read,
	"/muster.v1.NodeService/WatchNodes": read,
	"/muster.v1.NodeService/UpdateNode": write,
	"/muster.v1.NodeService/DeleteNode": write,

	"/muster.v1.EventService/GetEvent":         read,
	"/muster.v1.EventService/ListEvents":       read,
	"/muster.v1.EventService/WatchEvents":      read,
	"/muster.v1.ProbeService/ListProbes":       read,
	"/muster.v1.ProbeService/WatchProbes":      read,
	"/muster.v1.ProbeService/ListProbeResults": read,

	"/muster.v1.ProbeService/WatchProbeResults": read,

	"/muster.v1.UsageService/ListPodUsages":   read,
	"/muster.v1.UsageService/ListNodeUsages":  read,
	"/muster.v1.UsageService/ListProbeUsages": read,

	"/muster.v1.ClusterService/GetStatus":     read,
	"/muster.v1.ClusterService/ListMembers":   read,
	"/muster.v1.ClusterService/ListFailovers": read,
	"/muster.v1.ClusterService/Resume":        administer,
	"/muster.v1.ClusterService/CreateToken":   administer,
	"/muster.v1.ClusterService/ListTokens":    administer,
	"/muster.v1.ClusterService/RevokeToken":   administer,
	"/muster.v1.ClusterService/Login":         open,
	"/muster.v1.ClusterService/SaveSnapshot":  administer,
}

// rank orders the roles of people.
var rank = map[identity.Role]class{identity.RoleViewer: read, identity.RoleEditor: write, identity.RoleAdmin: administer}

func classOf(method string) class {
	if c, ok := methods[method]; ok {
		return c
	}
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	return methods["/"+service+"/*"]
}

// Allow says whether p may call a method, given as gRPC names it (/muster.v1.PodService/GetPod); ErrDenied when not. The
// zero Principal is a caller without a certificate. That a node speaks only for itself is for the handlers to hold, who
// read the message: see Caller.
func Allow(p identity.Principal, method string) error {
	c := classOf(method)
	switch {
	case c == 0:
		return fmt.Errorf("%s: %w: nobody may call this method", method, ErrDenied)
	case c == open:
		return nil
	case p.Kind == "":
		return fmt.Errorf("%s: %w: a client certificate is needed", method, ErrDenied)
	case c == known,
		c == nodes && p.Kind == identity.KindNode,
		p.Kind == identity.KindUser && rank[p.Role] >= c:
		return nil
	}
	return fmt.Errorf("%s: %w to %s", method, ErrDenied, p)
}

type principalKey struct{}

// Principal is who makes a call; the zero value where it has shown no certificate. Only behind UnaryAccess and
// StreamAccess.
func Principal(ctx context.Context) identity.Principal {
	p, _ := ctx.Value(principalKey{}).(identity.Principal)
	return p
}

// Caller is the node that makes a call; ErrDenied when it is none. It works with and without the interceptors.
func (a *Authority) Caller(ctx context.Context) (node string, err error) {
	p := principal(ctx)
	if p.Kind != identity.KindNode {
		return "", fmt.Errorf("%w: only nodes may do this", ErrDenied)
	}
	return p.Name, nil
}

// principal reads who is at the other end of the connection.
func principal(ctx context.Context) identity.Principal {
	if p := Principal(ctx); p.Kind != "" {
		return p
	}
	remote, ok := peer.FromContext(ctx)
	if !ok {
		return identity.Principal{}
	}
	info, ok := remote.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return identity.Principal{}
	}
	p, err := identity.FromTLS(&info.State)
	if err != nil {
		return identity.Principal{}
	}
	return p
}

// enter lets a call in, with its principal in the context.
func enter(ctx context.Context, method string) (context.Context, identity.Principal, error) {
	p := principal(ctx)
	if err := Allow(p, method); err != nil {
		return ctx, p, err
	}
	return context.WithValue(ctx, principalKey{}, p), p, nil
}

// UnaryAccess holds every call to what its caller may do, and writes those that change something into the log: who,
// what, how it ended. It returns ErrDenied as it is: put it inside the interceptor that maps errors.
func UnaryAccess(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, _, err := enter(ctx, info.FullMethod)
		if err != nil {
			return nil, err
		}
		resp, err := handler(ctx, req)
		if c := classOf(info.FullMethod); c == write || c == administer || c == open {
			Audit(ctx, log, info.FullMethod, req, err)
		}
		return resp, err
	}
}

// Audit logs a call that changes something: who, what, how it ended. The request's own names are in it, its content is not. ctx is
// the handler's.
func Audit(ctx context.Context, log *slog.Logger, method string, req any, err error) {
	p := Principal(ctx)
	who := "nobody"
	if p.Kind != "" {
		who = p.String()
	}
	attrs := []slog.Attr{slog.String("who", who), slog.String("method", method)}
	if r, ok := req.(interface{ GetNamespace() string }); ok {
		attrs = append(attrs, slog.String("namespace", r.GetNamespace()))
	}
	if r, ok := req.(interface{ GetName() string }); ok {
		attrs = append(attrs, slog.String("name", r.GetName()))
	}
	if r, ok := req.(interface{ GetTarget() string }); ok && r.GetTarget() != "" {
		attrs = append(attrs, slog.String("target", r.GetTarget()))
	}
	if r, ok := req.(interface{ GetContainer() string }); ok {
		attrs = append(attrs, slog.String("container", r.GetContainer()))
	}
	if r, ok := req.(interface{ GetAllowSecondCopy() bool }); ok && r.GetAllowSecondCopy() {
		attrs = append(attrs, slog.Bool("allow_second_copy", true))
	}
	if r, ok := req.(interface{ GetAcceptRisk() bool }); ok && r.GetAcceptRisk() {
		attrs = append(attrs, slog.Bool("accept_risk", true))
	}
	if err != nil {
		attrs = append(attrs, slog.Any("err", err))
	}
	log.LogAttrs(ctx, slog.LevelInfo, "audit", attrs...)
}

// StreamAccess is UnaryAccess for streams. The handler of one that changes something calls Audit.
func StreamAccess() grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, _, err := enter(ss.Context(), info.FullMethod)
		if err != nil {
			return err
		}
		return handler(srv, &stream{ss, ctx})
	}
}

type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *stream) Context() context.Context { return s.ctx }
