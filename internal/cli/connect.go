package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/clientconfig"
)

// callLimit bounds one unary call, whatever --timeout says.
const callLimit = 30 * time.Second

// options are the flags that most commands share.
type options struct {
	world World

	config, context string
	namespace       string
	// namespaceGiven is whether -n was, once connected.
	namespaceGiven bool
	allNamespaces  bool
	selector       string
	output         string
	timeout        time.Duration
}

// connectFlags adds the flags that say which cluster is meant.
func (o *options) connectFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.config, "config", "", "client config file (default: $MUSTER_CONFIG, else ~/.config/muster/config.yaml)")
	cmd.Flags().StringVar(&o.context, "context", "", "context of the config file (default: $MUSTER_CONTEXT, else the file's current one)")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 0, "give up after this time; 0: no limit beyond that of a single call")
}

// givenFlags adds those flags where a cluster is only meant when one of them is there.
func (o *options) givenFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.config, "config", "", "measure the coordinator of this client config file; without this and --context one is started")
	cmd.Flags().StringVar(&o.context, "context", "", "measure the coordinator of this context of --config (default: $MUSTER_CONFIG, else ~/.config/muster/config.yaml)")
}

// given is the context that those flags mean; nil without them, whatever the environment says.
func (o *options) given() (*clientconfig.Context, error) {
	if o.config == "" && o.context == "" {
		return nil, nil
	}
	target, err := o.target()
	return &target, err
}

func (o *options) namespaceFlag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.namespace, "namespace", "n", "", "namespace (default: the context's, else default)")
}

func (o *options) allNamespacesFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "every namespace")
}

func (o *options) selectorFlag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.selector, "selector", "l", "", "label selector: k=v, k!=v, k in (a,b), k notin (a,b), k, !k; a comma between")
}

// outputFlag adds -o with the formats a command knows.
func (o *options) outputFlag(cmd *cobra.Command, formats ...string) {
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "output format: "+strings.Join(formats, "|"))
	check := cmd.PreRunE
	cmd.PreRunE = func(c *cobra.Command, args []string) error {
		name, _, _ := strings.Cut(o.output, "=")
		for _, f := range append(formats, "") {
			if known, _, _ := strings.Cut(f, "="); known == name {
				if check != nil {
					return check(c, args)
				}
				return nil
			}
		}
		if slices.Contains(unbuiltFormats, name) {
			return notBuilt("-o " + name)
		}
		return usagef("-o %s: unknown format; there is %s", o.output, strings.Join(formats, ", "))
	}
}

// client is a connection to a coordinator's API.
type client struct {
	conn        *grpc.ClientConn
	target      clientconfig.Context
	pods        musterv1.PodServiceClient
	nodes       musterv1.NodeServiceClient
	deployments musterv1.DeploymentServiceClient
	services    musterv1.ServiceServiceClient
	endpoints   musterv1.EndpointsServiceClient
	configMaps  musterv1.ConfigMapServiceClient
	secrets     musterv1.SecretServiceClient
	placement   musterv1.PlacementServiceClient
	budgets     musterv1.PodDisruptionBudgetServiceClient
	events      musterv1.EventServiceClient
	probes      musterv1.ProbeServiceClient
	usages      musterv1.UsageServiceClient
	cluster     musterv1.ClusterServiceClient
}

func (c *client) Close() { _ = c.conn.Close() } // nothing to do about a connection that does not close

// configPath is the file that is meant, and whether somebody named it.
func (o *options) configPath() (path string, named bool) {
	if o.config != "" {
		return o.config, true
	}
	if p := o.world.Getenv("MUSTER_CONFIG"); p != "" {
		return p, true
	}
	return defaultConfig(o.world.Getenv), false
}

// contextName is the context that is meant; empty: the file's own choice.
func (o *options) contextName() string {
	if o.context != "" {
		return o.context
	}
	return o.world.Getenv("MUSTER_CONTEXT")
}

// errNoCluster is the advice for someone who has no cluster yet.
var errNoCluster = errors.New(`no cluster: start one with "muster dev", or pass --context`)

// target is the context that is meant.
func (o *options) target() (clientconfig.Context, error) {
	path, named := o.configPath()
	conf, err := clientconfig.Load(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !named:
		return clientconfig.Context{}, errNoCluster
	case errors.Is(err, fs.ErrNotExist):
		return clientconfig.Context{}, fmt.Errorf(`no client config %s: start a cluster with "muster dev", or pass --config FILE`, path)
	case err != nil:
		return clientconfig.Context{}, err
	case len(conf.Contexts) == 0 && o.contextName() == "":
		return clientconfig.Context{}, errNoCluster
	}
	target, err := conf.Context(o.contextName())
	if err != nil {
		return target, fmt.Errorf("%s: %w", path, err)
	}
	return target, nil
}

// connect prepares a client; nothing is sent yet.
func (o *options) connect() (*client, error) {
	target, err := o.target()
	if err != nil {
		return nil, err
	}
	if o.namespaceGiven = o.namespace != ""; !o.namespaceGiven {
		o.namespace = target.Namespace
	}
	if o.namespace == "" {
		o.namespace = "default"
	}
	conn, err := target.Dial(grpc.WithChainUnaryInterceptor(bounded(target)), grpc.WithChainStreamInterceptor(streams(target)))
	if err != nil {
		return nil, err
	}
	return &client{
		conn: conn, target: target,
		pods:        musterv1.NewPodServiceClient(conn),
		nodes:       musterv1.NewNodeServiceClient(conn),
		deployments: musterv1.NewDeploymentServiceClient(conn),
		services:    musterv1.NewServiceServiceClient(conn),
		endpoints:   musterv1.NewEndpointsServiceClient(conn),
		configMaps:  musterv1.NewConfigMapServiceClient(conn),
		secrets:     musterv1.NewSecretServiceClient(conn),
		placement:   musterv1.NewPlacementServiceClient(conn),
		budgets:     musterv1.NewPodDisruptionBudgetServiceClient(conn),
		events:      musterv1.NewEventServiceClient(conn),
		probes:      musterv1.NewProbeServiceClient(conn),
		usages:      musterv1.NewUsageServiceClient(conn),
		cluster:     musterv1.NewClusterServiceClient(conn),
	}, nil
}

// with connects, runs f under --timeout and disconnects.
func (o *options) with(ctx context.Context, f func(context.Context, *client) error) error {
	if o.timeout < 0 {
		return usagef("--timeout %v: must not be negative", o.timeout)
	}
	c, err := o.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	return f(ctx, c)
}

// serverError is a failed call, with the server it went to.
type serverError struct {
	target clientconfig.Context
	err    error
}

func (e *serverError) Error() string              { return status.Convert(e.err).Message() }
func (e *serverError) Unwrap() error              { return e.err }
func (e *serverError) GRPCStatus() *status.Status { return status.Convert(e.err) }

func bounded(target clientconfig.Context) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		ctx, cancel := context.WithTimeout(ctx, callLimit)
		defer cancel()
		if err := invoke(ctx, method, req, reply, cc, opts...); err != nil {
			return &serverError{target, err}
		}
		return nil
	}
}

func streams(target clientconfig.Context) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		s, err := open(ctx, desc, cc, method, opts...)
		if err != nil {
			return nil, &serverError{target, err}
		}
		return &namedStream{s, target}, nil
	}
}

type namedStream struct {
	grpc.ClientStream
	target clientconfig.Context
}

// RecvMsg tells with an error where it came from.
func (s *namedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if _, ok := status.FromError(err); err == nil || !ok {
		return err
	}
	return &serverError{s.target, err}
}

// isCode tells whether err is a status of that code.
func isCode(err error, code codes.Code) bool {
	s, ok := status.FromError(err)
	return ok && err != nil && s.Code() == code
}
