// Package agent builds an agent's parts and owns their life: the guard and the fence page, the container runtime, the
// runner with its pods, the prober, the session with the coordinator, and the gossip.
package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/musterhq/muster/agent/cgroup"
	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/container/process"
	"github.com/musterhq/muster/agent/dns"
	"github.com/musterhq/muster/agent/guard"
	"github.com/musterhq/muster/agent/history"
	"github.com/musterhq/muster/agent/lease"
	"github.com/musterhq/muster/agent/network"
	"github.com/musterhq/muster/agent/network/hostgw"
	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/agent/probe"
	"github.com/musterhq/muster/agent/prober"
	"github.com/musterhq/muster/agent/runner"
	"github.com/musterhq/muster/agent/session"
	"github.com/musterhq/muster/agent/supervisor"
	"github.com/musterhq/muster/agent/usage"
	"github.com/musterhq/muster/internal/datadir"
	"github.com/musterhq/muster/internal/event"
	"github.com/musterhq/muster/internal/identity"
	"github.com/musterhq/muster/internal/membership"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/telemetry"
	"github.com/musterhq/muster/internal/version"
)

// Config is what an agent is told. Addresses are HOST:PORT; port 0 takes a free one.
type Config struct {
	// DataDir is the agent's directory; Node the node's name, a DNS-1123 subdomain.
	DataDir, Node string
	// Join are coordinators' API addresses, at least one. Token is a join token; needed without an identity in DataDir.
	Join  []string
	Token string
	// GossipListen, HTTPListen and GuardListen are where the gossip, metrics and health, and the guard are.
	GossipListen, HTTPListen, GuardListen string
	// Advertise is the address that others reach this node at; empty: that of the connection to the coordinator.
	Advertise string
	// Images is refuse or ignore: whether pods that name an image run here.
	Images string
	// Network is host-gw, none, or empty for host-gw where that is possible.
	Network string
	Labels  map[string]string
	// RunAs is the user that containers run as; empty: nobody as root, else the agent's own.
	RunAs string
	// AllowPrivilegedPods lets pods mount any path of the host, HostPathAllow those below these directories.
	AllowPrivilegedPods bool
	HostPathAllow       []string
	// PodPIDs bounds the processes and threads of a pod; 0 means no bound.
	PodPIDs int64
	// TimerSlack is the timer slack that pods have; 0: as this process has it.
	TimerSlack time.Duration
	// ProbeCPUWarning is how much of its CPU limit, in percent, a container's probes may take before an event says so: 0 to
	// 100, 0 for no such event.
	ProbeCPUWarning int
	// ProbeHistoryMiB is the size of the file of probes' results, 4 to 4096; 0: there is none, and they are kept in memory only.
	ProbeHistoryMiB int
	// Program is this program's path: it runs supervisors where no tiny binary is embedded.
	Program string
	// OpenMetrics serves metrics and health to everybody.
	OpenMetrics bool
	Log         *slog.Logger
}

// MaxProbeCPUWarning bounds Config.ProbeCPUWarning, in percent.
const MaxProbeCPUWarning = 100

// MinProbeHistoryMiB and MaxProbeHistoryMiB bound Config.ProbeHistoryMiB where it is not 0.
const MinProbeHistoryMiB, MaxProbeHistoryMiB = history.MinFile >> 20, history.MaxFile >> 20

// Agent is one run of an agent.
type Agent struct{ cfg Config }

// New checks the configuration; nothing is opened before Run.
func New(cfg Config) (*Agent, error) {
	switch {
	case cfg.DataDir == "":
		return nil, errors.New("data directory: required")
	case cfg.Node == "":
		return nil, errors.New("node: required")
	case len(cfg.Join) == 0:
		return nil, errors.New("join: at least one coordinator's address is required")
	case cfg.Images != "refuse" && cfg.Images != "ignore":
		return nil, fmt.Errorf("images: %q, must be refuse or ignore", cfg.Images)
	}
	if cfg.ProbeCPUWarning < 0 || cfg.ProbeCPUWarning > MaxProbeCPUWarning {
		return nil, fmt.Errorf("probe CPU warning: %d percent, must be 0 to %d", cfg.ProbeCPUWarning, MaxProbeCPUWarning)
	}
	if n := cfg.ProbeHistoryMiB; n != 0 && (n < MinProbeHistoryMiB || n > MaxProbeHistoryMiB) {
		return nil, fmt.Errorf("probe history: %d MiB, must be 0 or %d to %d", n, MinProbeHistoryMiB, MaxProbeHistoryMiB)
	}
	for _, to := range cfg.Join {
		if _, _, err := net.SplitHostPort(to); err != nil {
			return nil, fmt.Errorf("join: %q, must be HOST:PORT of a coordinator's API", to)
		}
	}
	return &Agent{cfg: cfg}, nil
}

// runAs finds the user that containers run as; both -1 for the agent's own.
func (a *Agent) runAs() (uid, gid int, err error) {
	name := a.cfg.RunAs
	if name == "" {
		if os.Geteuid() != 0 {
			return -1, -1, nil
		}
		name = "nobody"
	}
	u, err := user.Lookup(name)
	if err != nil {
		var byID error
		if u, byID = user.LookupId(name); byID != nil {
			return 0, 0, fmt.Errorf("run as %s: %w", name, err)
		}
	}
	if uid, err = strconv.Atoi(u.Uid); err == nil {
		gid, err = strconv.Atoi(u.Gid)
	}
	switch {
	case err != nil:
		return 0, 0, fmt.Errorf("run as %s: %w", name, err)
	case uid == os.Geteuid():
		return -1, -1, nil
	case os.Geteuid() != 0:
		return 0, 0, fmt.Errorf("run as %s: only root can run containers as somebody else", name)
	}
	return uid, gid, nil
}

// Run serves until ctx ends. Pods, their supervisors and the guard go on without it.
func (a *Agent) Run(ctx context.Context) error {
	cfg, log := a.cfg, a.cfg.Log
	uid, gid, err := a.runAs()
	if err != nil {
		return err
	}
	dir, err := datadir.Lock(cfg.DataDir, datadir.Agent, cfg.Node)
	if err != nil {
		return err
	}
	defer dir.Close()
	creds, err := a.identity(ctx, dir.Path())
	if err != nil || ctx.Err() != nil {
		return err
	}
	holder := &identity.Holder{}
	holder.Set(creds.TLS())
	dialer := &dialer{join: cfg.Join, creds: credentials.NewTLS(identity.ClientTLS(creds.CA, holder))}
	address, err := a.address(ctx)
	if err != nil || ctx.Err() != nil {
		return err
	}
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return fmt.Errorf("address: %w", err)
	}
	mode, err := network.Mode(cfg.Network, hostgw.Permitted(), ip)
	if err != nil {
		return err
	}
	recorder := event.New("agent", cfg.Node)

	argv, note, err := process.SupervisorArgv(dir.Path(), []string{cfg.Program, supervisor.Subcommand})
	if err != nil {
		return err
	}
	keeper, err := guard.Ensure(ctx, guard.Config{
		DataDir: dir.Path(), Argv: argv, Listen: cfg.GuardListen, Loopback: ip.IsLoopback(),
		Changed: func(err error) { log.Warn("guard replaced", "err", err) },
	})
	if err != nil {
		if strings.Contains(err.Error(), "address already in use") {
			return fmt.Errorf("guard: %s is in use by another process: choose another port with --guard-listen", cfg.GuardListen)
		}
		return fmt.Errorf("start the guard: %w", err)
	}
	defer keeper.Close()
	leases, err := lease.New(lease.Config{
		Dir: dir.Path(), Page: func() lease.Page { return keeper.Page() }, Now: supervisor.Boottime,
	}, newInstance)
	if err != nil {
		return err
	}
	addresses, err := network.Open(network.Config{
		Path: filepath.Join(dir.Path(), "addresses"), Node: keeper.Info().Node, NodeAddress: address, Flat: mode == spec.NetworkHostGW,
	}, log)
	if err != nil {
		return err
	}
	flat, err := a.flat(mode, hostgw.Config{
		ID: leases.Instance(), Path: filepath.Join(dir.Path(), "network"), Address: ip, Problem: networkProblem(recorder, cfg.Node),
	}, addresses)
	if err != nil {
		return err
	}
	if flat != nil {
		defer flat.Close()
	}
	groups, err := cgroup.New(cgroup.Config{DataDir: dir.Path()})
	if err != nil {
		return err
	}
	made := process.Config{
		DataDir: dir.Path(), SupervisorArgv: argv, Note: note, Version: version.Version, Fence: keeper, Cgroups: groups, TimerSlack: cfg.TimerSlack, Log: log,
	}
	if flat != nil {
		made.Network = flat
	}
	runtime, err := process.New(ctx, made)
	if err != nil {
		return err
	}
	defer runtime.Close()
	info, err := runtime.Info(ctx)
	if err != nil {
		return err
	}
	if flat != nil && info.Isolation != string(supervisor.IsolationFull) {
		return fmt.Errorf("network host-gw: pods need namespaces of their own, which the kernel refuses here (isolation %s): pass --network none", info.Isolation)
	}
	for _, c := range groups.Controllers() {
		if c.Why != "" {
			log.Info("control groups lack a controller", "controller", c.Name, "why", c.Why)
		}
	}
	web, err := net.Listen("tcp", cfg.HTTPListen)
	if err != nil {
		return fmt.Errorf("listen for HTTPS: %w", err)
	}
	defer web.Close()

	measured, err := telemetry.NewMetrics("agent", cfg.Node, version.Version, log)
	if err != nil {
		return err
	}
	defer telemetry.Shutdown(log, measured)
	attempter := probe.New(runtime)
	names := dns.NewNames()
	resolver := dns.New(dns.Config{Allow: mayAsk(flat, ip)}, names, log)
	if flat == nil {
		resolver.Listen(namesAt(keeper.Info().Node))
	} else {
		resolver.Listen(dns.Address{IP: flat.Gateway()})
	}
	parts := &parts{}
	file := a.historyFile(filepath.Join(dir.Path(), "state", "probes"))
	if file != nil {
		defer file.Close()
	}
	probing, err := NewProbing(ProbingConfig{
		Attempt: attempter.Attempt, Begin: attempter.Begin,
		Report:  func(r prober.Report) { parts.runner.Report(runner.ProbeReport(r)) },
		Observe: func(id spec.ProbeID, at spec.Attempt) { parts.session.Observe(id, at) },
		Believe: func(s spec.ProbeState) { parts.session.Believe(s) }, Overload: probesLate(recorder, cfg.Node),
		Metrics: measured, File: file, Log: log,
	})
	if err != nil {
		return err
	}
	memory := probing.History
	parts.prober = probing.Prober
	meter := usage.New(usage.Config{Node: cfg.Node, Machine: usage.Machine, Self: usage.Self, Probes: probing.Prober.Lateness}, runtime, log)
	parts.runner, err = runner.New(runner.Config{
		StateDir: filepath.Join(dir.Path(), "state", "pods"), Node: cfg.Node, HostIP: address, Path: os.Getenv("PATH"),
		RunAsUID: uid, RunAsGID: gid, AllowPrivileged: cfg.AllowPrivilegedPods, HostPathAllow: cfg.HostPathAllow,
		Isolation: info.Isolation, PodNetwork: flat != nil, Limits: info.Limits, PodPIDs: cfg.PodPIDs, ProbeCPUWarning: cfg.ProbeCPUWarning,
		Allocatable: spec.ResourceList{MilliCPU: int64(cpus()) * 1000, MemoryBytes: memoryBytes()},
		DNS:         namesText(resolver), Resolv: resolvConf(resolver, flat),
		Dirs: func(r container.PodRef) (string, string, string) {
			d := runtime.Dirs(r)
			return d.Pod, d.Home, d.Tmp
		},
	}, runner.Deps{
		Runtime: runtime, Addresses: addresses, Ports: published(flat), Lease: leases, Prober: probes{parts.prober}, Events: recorder,
		Spent: func(id spec.ProbeID) pod.Spent {
			cpu, attempts := memory.Spent(id)
			return pod.Spent{CPU: cpu, Attempts: attempts}
		},
		Attempts: memory.Last, Memory: meter.Memory,
		Notify: attempter.Notify,
		Log:    log,
	})
	if err != nil {
		return err
	}
	talk := &gossip{cfg: a.cfg, address: address, guard: func() string { return joinPort(address, keeper.Info().Addr) }, http: joinPort(address, web.Addr().String()), log: log}
	talk.joined = make(chan struct{})
	facts := a.facts(address, mode, info, keeper, talk, joinPort(address, web.Addr().String()), leases.Instance())
	parts.session = session.New(session.Config{
		Node: cfg.Node, Instance: leases.Instance(), BootID: supervisor.BootID(), Version: version.Version,
		Facts: facts, Dial: dialer.dial, Welcomed: talk.welcomed, Network: networkTold(flat, resolver, log), Services: tellNames(names),
	}, session.Deps{
		Lease: leases, Pods: &pods{parts.runner, leases}, Probes: &probeMemory{parts.prober, memory}, Events: recorder, Usage: meter, Log: log,
	})
	if err := errors.Join(watchSession(measured, parts.session.Up), measured.Certificate(holder)); err != nil {
		return err
	}
	health := &telemetry.Health{}
	health.Check("session", func(context.Context) error {
		switch up, err := parts.session.Up(); {
		case up:
			return nil
		case err == nil: // the first is being opened
			return errors.New("no session with a coordinator yet")
		default:
			return fmt.Errorf("no session with a coordinator: %w", err)
		}
	})
	if flat != nil {
		health.Check("network", func(context.Context) error { return flat.Err() })
	}
	auth := telemetry.AuthRequired
	if cfg.OpenMetrics {
		auth = telemetry.AuthNone
	}
	https, err := telemetry.NewHTTPS(telemetry.HTTPSConfig{
		Listener: web, TLS: identity.ServerTLS(creds.CA, holder), MetricsAuth: auth,
	}, telemetry.HTTPSDeps{Metrics: measured, Health: health, Probes: probing.Metrics, Log: log})
	if err != nil {
		return err
	}
	// The gossip's port is held from the start: what listens is written down before the first session.
	if err := talk.listen(); err != nil {
		return err
	}
	if err := dir.WriteAddresses(datadir.Addresses{
		HTTP: joinPort(address, web.Addr().String()), Gossip: talk.bound, Guard: joinPort(address, keeper.Info().Addr),
	}); err != nil {
		return err
	}
	log.Info("agent runs", "node", cfg.Node, "address", address, "isolation", info.Isolation, "fence", info.Fence, "note", info.Note)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return resolver.Run(ctx) })
	if flat == nil {
		startNames(ctx, resolver)
	}
	g.Go(func() error { return keeper.Run(ctx) })
	g.Go(func() error { return parts.prober.Run(ctx) })
	g.Go(func() error { return parts.runner.Run(ctx) })
	g.Go(func() error { return meter.Run(ctx) })
	g.Go(func() error { return parts.session.Run(ctx) })
	g.Go(func() error { return talk.Run(ctx) })
	if flat != nil {
		g.Go(func() error { return flat.Run(ctx) })
	}
	g.Go(func() error { return https.Run(ctx) })
	g.Go(func() error { return telemetry.TellSystemd(ctx, health, log) })
	g.Go(func() error { return a.rotate(ctx, dialer, holder, filepath.Join(dir.Path(), identityFile), creds) })
	return g.Wait()
}

// historyFile is where results of probes are kept; nil where there is to be none, or where it cannot be made: pods matter more.
func (a *Agent) historyFile(path string) *history.File {
	if a.cfg.ProbeHistoryMiB == 0 {
		return nil
	}
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	var f *history.File
	if err == nil {
		f, err = history.OpenFile(path, int64(a.cfg.ProbeHistoryMiB)<<20, a.cfg.Log)
	}
	if err != nil {
		a.cfg.Log.Warn("results of probes are kept in memory only", "path", path, "err", err)
		return nil
	}
	return f
}

// parts are those that know of each other.
type parts struct {
	prober  *prober.Prober
	runner  *runner.Runner
	session *session.Session
}

func newInstance() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// joinPort puts a host in the place of the one that a listener is bound to.
func joinPort(host, listening string) string {
	_, port, err := net.SplitHostPort(listening)
	if err != nil {
		return listening
	}
	return net.JoinHostPort(host, port)
}

// facts says what is true of the node now.
func (a *Agent) facts(address, mode string, info container.Info, keeper *guard.Client, talk *gossip, http, instance string) func() spec.NodeFacts {
	var uts unix.Utsname
	kernel := ""
	if unix.Uname(&uts) == nil {
		kernel = unix.ByteSliceToString(uts.Release[:])
	}
	mayMount := runner.MayMount(a.cfg.HostPathAllow)
	allocatable := spec.ResourceList{MilliCPU: int64(cpus()) * 1000, MemoryBytes: memoryBytes()}
	return func() spec.NodeFacts {
		keep := keeper.Info()
		f := spec.NodeFacts{
			Address: address, GuardAddress: joinPort(address, keep.Addr), GossipAddress: talk.bound, HTTPAddress: http,
			Labels: nodeLabels(a.cfg.Node, a.cfg.Labels), Allocatable: allocatable, MaxPods: container.MaxPods, Runtimes: []string{"process"},
			Isolation: info.Isolation, Images: a.cfg.Images, BootID: supervisor.BootID(), Instance: instance,
			Version: version.Version, OS: "linux", Arch: arch, Kernel: kernel, Network: mode,
			PrivilegedPods: a.cfg.AllowPrivilegedPods, HostPathAllow: mayMount,
		}
		if mode == spec.NetworkHostGW {
			f.MaxPods = network.MaxPods
		}
		if keep.Node != 0 {
			f.PodNet = fmt.Sprintf("127.77.%d.0", keep.Node)
			f.MaxPods = network.MaxLoopbackPods
		}
		return f
	}
}

// nodeLabels are the labels of the node: those that it is given, over those that every node has in Kubernetes.
func nodeLabels(node string, given map[string]string) map[string]string {
	labels := map[string]string{"kubernetes.io/hostname": node, "kubernetes.io/os": "linux", "kubernetes.io/arch": arch}
	maps.Copy(labels, given)
	return labels
}

// address is where others reach this node: the local end of a connection to a coordinator, unless it was given.
func (a *Agent) address(ctx context.Context) (string, error) {
	if a.cfg.Advertise != "" {
		ips, err := net.DefaultResolver.LookupIPAddr(ctx, a.cfg.Advertise)
		if err != nil || len(ips) == 0 {
			return "", fmt.Errorf("advertise %s: %w", a.cfg.Advertise, err)
		}
		return ips[0].IP.String(), nil
	}
	// No packet is sent: the kernel only says which address it would send from.
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", a.cfg.Join[0])
	if err != nil {
		return "", fmt.Errorf("find the address that others reach this node at (or give --advertise): %w", err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String(), nil
}

// dialer connects to one coordinator after the other.
type dialer struct {
	join  []string
	creds credentials.TransportCredentials
	next  atomic.Uint32
}

func (d *dialer) dial(context.Context) (*grpc.ClientConn, error) {
	to := d.join[int(d.next.Add(1)-1)%len(d.join)]
	return grpc.NewClient("passthrough:///"+to,
		grpc.WithTransportCredentials(d.creds),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: time.Second}, MinConnectTimeout: 2 * time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(8<<20)),
	)
}

// gossip takes part once a session has told the key.
type gossip struct {
	cfg           Config
	address, http string
	guard         func() string
	log           *slog.Logger
	bound         string
	listener      net.Listener

	mu     sync.Mutex
	told   *session.Welcome
	joined chan struct{}
}

// listen finds the port: the gossip binds it for good when its key is known.
func (g *gossip) listen() error {
	l, err := net.Listen("tcp", g.cfg.GossipListen)
	if err != nil {
		return fmt.Errorf("listen for the gossip: %w", err)
	}
	g.listener, g.bound = l, joinPort(g.address, l.Addr().String())
	return nil
}

// welcomed takes the key of the first session; seeds may change with each.
func (g *gossip) welcomed(w session.Welcome) {
	g.mu.Lock()
	defer g.mu.Unlock()
	first := g.told == nil
	g.told = &w
	if first {
		close(g.joined)
	}
}

func (g *gossip) seeds() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.told.GossipSeeds
}

// Run waits for the key, then takes part until ctx ends.
func (g *gossip) Run(ctx context.Context) error {
	defer g.listener.Close()
	select {
	case <-ctx.Done():
		return nil
	case <-g.joined:
	}
	host, _, err := net.SplitHostPort(g.listener.Addr().String())
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(g.bound)
	if err != nil {
		return err
	}
	g.listener.Close()
	m, err := membership.New(membership.Config{
		Name: g.cfg.Node, Cluster: g.told.ClusterID, Key: g.told.GossipKey, Listen: net.JoinHostPort(host, port), Advertise: g.address,
		Meta: membership.Meta{
			Role: membership.Agent, BootID: strings.ReplaceAll(supervisor.BootID(), "-", ""), Zone: g.cfg.Labels["topology.kubernetes.io/zone"],
			Guard: g.guard(), HTTP: g.http,
		},
		Seeds: g.seeds,
	}, membership.Deps{Log: g.log})
	if err != nil {
		return fmt.Errorf("listen for the gossip: %w", err)
	}
	return m.Run(ctx)
}
