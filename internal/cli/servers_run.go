package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/coordinator"
	"github.com/musterhq/muster/coordinator/podnet"
	"github.com/musterhq/muster/coordinator/store/etcd"
	"github.com/musterhq/muster/internal/config"
	"github.com/musterhq/muster/internal/telemetry"
)

// serverFlags are the settings that both servers have.
type serverFlags struct {
	dataDir, gossipListen, httpListen, advertise, metricsAuth string
	log                                                       telemetry.LogConfig
}

func (s *serverFlags) add(f *pflag.FlagSet, http string) {
	f.StringVar(&s.dataDir, "data-dir", "", "this server's directory (required)")
	f.StringVar(&s.gossipListen, "gossip-listen", ":7702", "where the gossip is, TCP and UDP, HOST:PORT; port 0: any free one")
	f.StringVar(&s.httpListen, "http-listen", http, "where HTTPS is served (metrics, health), HOST:PORT; port 0: any free one")
	f.StringVar(&s.metricsAuth, "metrics-auth", "required", "required: metrics and health need a client certificate; none: they are open")
	s.log.AddFlags(f)
}

// check finds what is wrong with the settings that both servers have.
func (s *serverFlags) check() error {
	switch {
	case s.dataDir == "":
		return usagef("--data-dir is required")
	case s.metricsAuth != "required" && s.metricsAuth != "none":
		return usagef("--metrics-auth %s: want required or none", s.metricsAuth)
	}
	if err := telemetry.CheckExport(); err != nil {
		return &usageError{err}
	}
	return nil
}

// coordinatorFlags are the settings of "muster coordinator".
type coordinatorFlags struct {
	serverFlags
	listen, name         string
	leaseTTL, agentGrace time.Duration
	allowProbeHost       []string
	podCIDR              string
	etcd                 etcd.ClientConfig
}

func (s *coordinatorFlags) add(f *pflag.FlagSet) {
	s.serverFlags.add(f, ":7701")
	f.StringVar(&s.advertise, "advertise", "", "the host that agents reach this coordinator at (default: the listen host, else the default route's address)")
	f.StringVar(&s.listen, "listen", ":7700", "where the API and the agents' sessions are served, HOST:PORT; port 0: any free one")
	f.StringVar(&s.name, "name", "", "this coordinator's name in the gossip (default: coordinator-HOSTNAME)")
	f.DurationVar(&s.leaseTTL, "lease-ttl", 10*time.Second, "how long a node's acknowledged renewal lasts, 3s to 10m")
	f.DurationVar(&s.agentGrace, "agent-grace", 10*time.Second, "how long a dead agent's pods stay where they run while their machine lives, 0 to 1h")
	f.StringVar(&s.podCIDR, "pod-cidr", podnet.Default, "the IPv4 network, /8 to /24, that pods have addresses of: a /24 for each node; nodes keep what they have")
	f.StringSliceVar(&s.allowProbeHost, "allow-probe-host", nil, "networks, as CIDR, that probes may reach besides the pod's own address")
	f.StringSliceVar(&s.etcd.Endpoints, "etcd-endpoints", nil, "URLs of an etcd of your own, https://HOST:PORT or http://HOST:PORT (default: one inside the coordinator)")
	f.StringVar(&s.etcd.CA, "etcd-ca", "", "PEM file of who has signed the certificates of --etcd-endpoints (default: whom this machine trusts)")
	f.StringVar(&s.etcd.Cert, "etcd-cert", "", "PEM file of the certificate to show to --etcd-endpoints; needs --etcd-key")
	f.StringVar(&s.etcd.Key, "etcd-key", "", "PEM file of the key of --etcd-cert")
	f.StringVar(&s.etcd.User, "etcd-user", "", "the user of --etcd-endpoints, where they ask for one; needs --etcd-password-file")
	f.StringVar(&s.etcd.PasswordFile, "etcd-password-file", "", "file with the password of --etcd-user")
}

// ownEtcd is the cluster of one's own; nil without one.
func (s *coordinatorFlags) ownEtcd() (*etcd.ClientConfig, error) {
	if len(s.etcd.Endpoints) == 0 {
		if s.etcd.CA+s.etcd.Cert+s.etcd.Key+s.etcd.User+s.etcd.PasswordFile != "" {
			return nil, usagef("--etcd-ca, --etcd-cert, --etcd-key, --etcd-user and --etcd-password-file are for --etcd-endpoints")
		}
		return nil, nil
	}
	if err := s.etcd.Check(); err != nil {
		return nil, &usageError{err}
	}
	return &s.etcd, nil
}

// probeHosts parses --allow-probe-host.
func (s *coordinatorFlags) probeHosts() ([]netip.Prefix, error) {
	var hosts []netip.Prefix
	for _, text := range s.allowProbeHost {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, usagef("--allow-probe-host %s: want a network such as 10.0.0.0/8", text)
		}
		hosts = append(hosts, p)
	}
	return hosts, nil
}

// agentFlags are the settings of "muster agent".
type agentFlags struct {
	serverFlags
	node, token, guardListen string
	join, runtimes           []string
	images, runAs, network   string
	labels, hostPathAllow    []string
	allowPrivilegedPods      bool
	podPIDs                  int64
	probeCPUWarning          int
	probeHistoryMiB          int
}

func (s *agentFlags) add(f *pflag.FlagSet) {
	s.serverFlags.add(f, ":7703")
	f.StringVar(&s.advertise, "advertise", "", "the address that others reach this node at (default: that of the connection to the coordinator)")
	f.StringVar(&s.node, "node", "", "the node's name, a DNS-1123 subdomain (required)")
	f.StringSliceVar(&s.join, "join", nil, "API addresses of coordinators, HOST:PORT (required)")
	f.StringVar(&s.token, "token", "", "a join token; needed the first time only")
	f.StringVar(&s.guardListen, "guard-listen", ":7704", "where the guard answers, TCP, HOST:PORT; port 0: any free one")
	f.StringSliceVar(&s.runtimes, "runtime", []string{"process"}, "the node's runtimes: process (cri is not built yet)")
	f.StringVar(&s.images, "images", "refuse", "pods that name an image: refuse them, or ignore the image and run the command")
	f.StringSliceVar(&s.labels, "labels", nil, "the node's labels, k=v, besides kubernetes.io/hostname, os and arch")
	f.StringVar(&s.runAs, "run-as", "", "the user that containers run as unless they say otherwise (default: nobody as root, else the agent's own)")
	f.BoolVar(&s.allowPrivilegedPods, "allow-privileged-pods", false, "pods may ask for user 0, for the host's namespaces, and for any hostPath")
	f.StringSliceVar(&s.hostPathAllow, "host-path-allow", nil, "directories that every pod's hostPath may be in")
	f.Int64Var(&s.podPIDs, "pod-pids-limit", 8192, "processes and threads that a pod may have, where the agent may make control groups; 0: no limit")
	f.IntVar(&s.probeCPUWarning, "probe-cpu-warning", 10, fmt.Sprintf("percent of its CPU limit that a container's probes may take over a minute before a warning event says so, 0 to %d; 0: no event", agent.MaxProbeCPUWarning))
	f.IntVar(&s.probeHistoryMiB, "probe-history-mib", 64, fmt.Sprintf("MiB on disk for results of probes, of which the oldest are overwritten, %d to %d; 0: they are kept in memory only", agent.MinProbeHistoryMiB, agent.MaxProbeHistoryMiB))
	f.StringVar(&s.network, "network", "", "host-gw: pods have addresses in the cluster's flat network; none: they share the node's, each with an address of its own where that can be (default: host-gw as root where the node's address is not loopback)")
	config.Secret(f, "token")
}

// checkAgent finds what is wrong with the settings that only agents have.
func (s *agentFlags) checkAgent() error {
	switch {
	case s.node == "":
		return usagef("--node is required: this node's name")
	case s.podPIDs < 0:
		return usagef("--pod-pids-limit %d: must not be negative", s.podPIDs)
	case s.probeCPUWarning < 0 || s.probeCPUWarning > agent.MaxProbeCPUWarning:
		return usagef("--probe-cpu-warning %d: must be 0 to %d", s.probeCPUWarning, agent.MaxProbeCPUWarning)
	case s.probeHistoryMiB != 0 && (s.probeHistoryMiB < agent.MinProbeHistoryMiB || s.probeHistoryMiB > agent.MaxProbeHistoryMiB):
		return usagef("--probe-history-mib %d: must be 0 or %d to %d", s.probeHistoryMiB, agent.MinProbeHistoryMiB, agent.MaxProbeHistoryMiB)
	case len(s.join) == 0:
		return usagef("--join is required: a coordinator's API address, HOST:PORT")
	case s.images != "refuse" && s.images != "ignore":
		return usagef("--images %s: want refuse or ignore", s.images)
	case s.network != "" && s.network != "host-gw" && s.network != "none":
		return usagef("--network %s: want host-gw or none", s.network)
	}
	for _, r := range s.runtimes {
		switch r {
		case "process":
		case "cri":
			return notBuilt("agent --runtime cri")
		default:
			return usagef("--runtime %s: want process", r)
		}
	}
	return nil
}

// nodeLabels parses --labels.
func (s *agentFlags) nodeLabels() (map[string]string, error) {
	labels := map[string]string{}
	for _, l := range s.labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return nil, usagef("--labels %s: want k=v", l)
		}
		if _, twice := labels[k]; twice {
			return nil, usagef("--labels: %s is there twice", k)
		}
		labels[k] = v
	}
	return labels, nil
}

// errPrinted ends a server that was only asked for its settings.
var errPrinted = errors.New("printed")

// settled resolves a server's settings, or prints them.
func settled(s *config.Settings, w World) error {
	if err := s.Resolve(w.Environ()); err != nil {
		return &usageError{err}
	}
	if s.Print() {
		if err := s.Write(w.Stdout); err != nil {
			return err
		}
		return errPrinted
	}
	return nil
}

func coordinatorCommand(w World) *cobra.Command {
	var s coordinatorFlags
	cmd := &cobra.Command{
		Use: "coordinator --data-dir DIR", Short: "Run a coordinator", Args: cobra.NoArgs,
		Example: "  muster coordinator --data-dir /var/lib/muster/coordinator --listen :7700 --advertise 10.0.0.1",
		Long:    "Run a coordinator with an etcd of its own, in the foreground. It writes a client config for an admin to\nDIR/client.yaml: MUSTER_CONFIG=DIR/client.yaml muster status",
	}
	s.add(cmd.Flags())
	settings := config.Add("coordinator", cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := settled(settings, w); err != nil {
			return ignorePrinted(err)
		}
		if err := s.check(); err != nil {
			return err
		}
		own, err := s.ownEtcd()
		if err != nil {
			return err
		}
		hosts, err := s.probeHosts()
		if err != nil {
			return err
		}
		pool, err := netip.ParsePrefix(s.podCIDR)
		if err != nil {
			return usagef("--pod-cidr %s: want a network such as %s", s.podCIDR, podnet.Default)
		}
		log, err := telemetry.NewLogger(w.Stderr, s.log)
		if err != nil {
			return &usageError{err}
		}
		sparing(w)
		c, err := coordinator.New(coordinator.Config{
			Etcd:    own,
			DataDir: s.dataDir, Listen: s.listen, HTTPListen: s.httpListen, GossipListen: s.gossipListen, Advertise: s.advertise,
			Name: s.name, LeaseTTL: s.leaseTTL, AgentGrace: s.agentGrace, AllowProbeHosts: hosts, OpenMetrics: s.metricsAuth == "none",
			PodCIDR: pool, Log: log,
		})
		if err != nil {
			return &usageError{err}
		}
		return c.Run(cmd.Context())
	}
	return cmd
}

func agentCommand(w World) *cobra.Command {
	var s agentFlags
	cmd := &cobra.Command{
		Use: "agent --data-dir DIR --node NAME --join HOST:PORT[,…]", Short: "Run a node's agent", Args: cobra.NoArgs,
		Example: "  muster agent --data-dir /var/lib/muster/agent --node node-1 --join 10.0.0.1:7700 --token TOKEN\n  muster agent --data-dir /var/lib/muster/agent --node node-1 --join 10.0.0.1:7700     # from the second time on",
		Long:    "Run a node's agent, in the foreground. Stopping it leaves its pods alive; started again with the same directory it\ntakes them up.",
	}
	s.add(cmd.Flags())
	settings := config.Add("agent", cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := settled(settings, w); err != nil {
			return ignorePrinted(err)
		}
		if err := s.check(); err != nil {
			return err
		}
		if err := s.checkAgent(); err != nil {
			return err
		}
		labels, err := s.nodeLabels()
		if err != nil {
			return err
		}
		log, err := telemetry.NewLogger(w.Stderr, s.log)
		if err != nil {
			return &usageError{err}
		}
		program, err := os.Executable()
		if err != nil {
			return err
		}
		slack := calm(w)
		sparing(w)
		a, err := agent.New(agent.Config{
			DataDir: s.dataDir, Node: s.node, Join: s.join, Token: s.token,
			GossipListen: s.gossipListen, HTTPListen: s.httpListen, GuardListen: s.guardListen, Advertise: s.advertise,
			Images: s.images, Network: s.network, Labels: labels, RunAs: s.runAs, AllowPrivilegedPods: s.allowPrivilegedPods, HostPathAllow: s.hostPathAllow,
			PodPIDs: s.podPIDs, TimerSlack: slack, ProbeCPUWarning: s.probeCPUWarning, ProbeHistoryMiB: s.probeHistoryMiB,
			Program: program, OpenMetrics: s.metricsAuth == "none", Log: log,
		})
		if err != nil {
			return &usageError{err}
		}
		return a.Run(cmd.Context())
	}
	return cmd
}

func ignorePrinted(err error) error {
	if errors.Is(err, errPrinted) {
		return nil
	}
	return err
}
