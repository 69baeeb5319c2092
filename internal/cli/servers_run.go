package cli

import (
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// coordinatorFlags are the settings of "muster coordinator".
type coordinatorFlags struct {
	dataDir, listen, httpListen, gossipListen string
	advertise, name, metricsAuth              string
	leaseTTL, agentGrace                      time.Duration
	allowProbeHost, etcdEndpoints             []string
}

func (s *coordinatorFlags) add(f *pflag.FlagSet) {
	f.StringVar(&s.dataDir, "data-dir", "", "the coordinator's directory (required)")
	f.StringVar(&s.listen, "listen", ":7700", "where the API and the agents' sessions are served, HOST:PORT; port 0: any free one")
	f.StringVar(&s.httpListen, "http-listen", ":7701", "where HTTPS is served (metrics, health), HOST:PORT")
	f.StringVar(&s.gossipListen, "gossip-listen", ":7702", "where the gossip is, TCP and UDP, HOST:PORT")
	f.StringVar(&s.advertise, "advertise", "", "the host that agents reach this coordinator at (default: the listen host, else the default route's address)")
	f.StringVar(&s.name, "name", "", "this coordinator's name in the gossip (default: the host's name)")
	f.DurationVar(&s.leaseTTL, "lease-ttl", 10*time.Second, "how long a node's acknowledged renewal lasts, 3s to 10m")
	f.DurationVar(&s.agentGrace, "agent-grace", 10*time.Second, "how long a dead agent's pods stay where they run while their machine lives, 0 to 1h")
	f.StringSliceVar(&s.allowProbeHost, "allow-probe-host", nil, "networks, as CIDR, that probes may reach besides the pod's own address")
	f.StringVar(&s.metricsAuth, "metrics-auth", "required", "required: metrics and health need a client certificate or token; none: they are open")
	f.StringSliceVar(&s.etcdEndpoints, "etcd-endpoints", nil, "URLs of an etcd of your own (default: one inside the coordinator)")
}

// agentFlags are the settings of "muster agent".
type agentFlags struct {
	dataDir, node, token                string
	join                                []string
	gossipListen, httpListen            string
	advertise, guardListen              string
	runtime                             []string
	images, runAs, network, metricsAuth string
	labels                              map[string]string
	allowPrivilegedPods                 bool
	hostPathAllow                       []string
}

func (s *agentFlags) add(f *pflag.FlagSet) {
	f.StringVar(&s.dataDir, "data-dir", "", "the agent's directory (required)")
	f.StringVar(&s.node, "node", "", "the node's name, a DNS-1123 subdomain (required)")
	f.StringSliceVar(&s.join, "join", nil, "API addresses of coordinators, HOST:PORT (required)")
	f.StringVar(&s.token, "token", "", "a join token; needed the first time only")
	f.StringVar(&s.gossipListen, "gossip-listen", ":7702", "where the gossip is, TCP and UDP, HOST:PORT; port 0: any free one")
	f.StringVar(&s.httpListen, "http-listen", ":7703", "where HTTPS is served (metrics, health), HOST:PORT")
	f.StringVar(&s.guardListen, "guard-listen", ":7704", "where the guard answers, TCP, HOST:PORT")
	f.StringVar(&s.advertise, "advertise", "", "the address that others reach this node at (default: that of the connection to the coordinator)")
	f.StringSliceVar(&s.runtime, "runtime", []string{"process"}, "the runtimes: process")
	f.StringVar(&s.images, "images", "refuse", "pods that name an image: refuse them, or ignore the image and run the command")
	f.StringToStringVar(&s.labels, "labels", nil, "the node's labels, k=v")
	f.StringVar(&s.runAs, "run-as", "", "the user that containers run as unless they say otherwise (default as root: nobody; else the agent's own)")
	f.BoolVar(&s.allowPrivilegedPods, "allow-privileged-pods", false, "pods may ask for user 0, for the host's namespaces, and for any hostPath")
	f.StringSliceVar(&s.hostPathAllow, "host-path-allow", nil, "directories that every pod's hostPath may be in")
	f.StringVar(&s.network, "network", "host-gw", "host-gw: pods have a network of their own, as root; none: they share the node's")
}

func coordinatorCommand(World) *cobra.Command {
	var s coordinatorFlags
	cmd := &cobra.Command{
		Use: "coordinator --data-dir DIR", Short: "Run a coordinator", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return notBuilt("coordinator") },
	}
	s.add(cmd.Flags())
	return cmd
}

func agentCommand(World) *cobra.Command {
	var s agentFlags
	cmd := &cobra.Command{
		Use: "agent --data-dir DIR --node NAME --join HOST:PORT", Short: "Run a node's agent", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return notBuilt("agent") },
	}
	s.add(cmd.Flags())
	return cmd
}
