// Package coordinator builds a coordinator's parts and owns their life: the store and its cache, the API and the agents'
// sessions, the gossip, and the leader's loop while this coordinator leads.
package coordinator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/musterhq/muster/coordinator/api"
	"github.com/musterhq/muster/coordinator/dispatch"
	"github.com/musterhq/muster/coordinator/election"
	"github.com/musterhq/muster/coordinator/endpoints"
	"github.com/musterhq/muster/coordinator/events"
	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/leader"
	"github.com/musterhq/muster/coordinator/lease"
	"github.com/musterhq/muster/coordinator/podnet"
	"github.com/musterhq/muster/coordinator/probes"
	"github.com/musterhq/muster/coordinator/restarts"
	"github.com/musterhq/muster/coordinator/restored"
	"github.com/musterhq/muster/coordinator/serving"
	"github.com/musterhq/muster/coordinator/snapshot"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/etcd"
	"github.com/musterhq/muster/coordinator/trust"
	"github.com/musterhq/muster/coordinator/usage"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/clientconfig"
	"github.com/musterhq/muster/internal/datadir"
	"github.com/musterhq/muster/internal/event"
	"github.com/musterhq/muster/internal/fence"
	"github.com/musterhq/muster/internal/identity"
	"github.com/musterhq/muster/internal/membership"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/telemetry"
	"github.com/musterhq/muster/internal/version"
	"github.com/musterhq/muster/internal/wire"
)

const (
	// holdLimit bounds how long an orderly stop waits for the nodes to hear of the hold.
	holdLimit = 3 * time.Second
	// stopLimit bounds how long calls in flight may take at a stop.
	stopLimit = time.Second
	// maxMessage bounds a message from outside, in bytes.
	maxMessage = 4 << 20
	// storeRoom is what must be free on the disk for the store to start for certain: a segment of its log, 64 MB, and some
	// data. With less it may take its own log for a broken one.
	storeRoom = 80 << 20
	// releaseLimit bounds how long the right to serve is given up for.
	releaseLimit = time.Second
	// maxGrace bounds the agent grace.
	maxGrace = time.Hour
)

// Config is what a coordinator is told. Addresses are HOST:PORT; port 0 takes a free one.
type Config struct {
	// DataDir is the coordinator's directory.
	DataDir string
	// Listen serves the API and the sessions, HTTPListen metrics and health over HTTPS, GossipListen the gossip.
	Listen, HTTPListen, GossipListen string
	// Advertise is the host that agents reach this coordinator at; empty: the listen host, or the default route's address.
	Advertise string
	// Name is this coordinator's name in the gossip; empty: the host's name with "coordinator-" in front.
	Name string
	// LeaseTTL is T, 3 s to 10 min; AgentGrace is at most an hour.
	LeaseTTL, AgentGrace time.Duration
	// PodCIDR is what the networks of nodes' pods are cut from; the zero Prefix: podnet.Default.
	PodCIDR netip.Prefix
	// AllowProbeHosts are the networks that probes may reach besides their pod.
	AllowProbeHosts []netip.Prefix
	// Etcd is a cluster of one's own to keep the records in; nil: an etcd in this process.
	Etcd *etcd.ClientConfig
	// OpenMetrics serves metrics and health to everybody.
	OpenMetrics bool
	Log         *slog.Logger
}

// Coordinator is one run of a coordinator.
type Coordinator struct {
	cfg   Config
	owner string
	start time.Time
}

// New checks the configuration; nothing is opened before Run.
func New(cfg Config) (*Coordinator, error) {
	if cfg.DataDir == "" {
		return nil, errors.New("data directory: required")
	}
	if err := fence.CheckTTL(cfg.LeaseTTL); err != nil {
		return nil, err
	}
	if cfg.AgentGrace < 0 || cfg.AgentGrace > maxGrace {
		return nil, fmt.Errorf("agent grace: %v, must be 0 to %v", cfg.AgentGrace, maxGrace)
	}
	if !cfg.PodCIDR.IsValid() {
		cfg.PodCIDR = netip.MustParsePrefix(podnet.Default)
	}
	if err := podnet.Check(cfg.PodCIDR); err != nil {
		return nil, err
	}
	if cfg.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("name: %w", err)
		}
		cfg.Name = "coordinator-" + strings.ToLower(host)
	}
	if cfg.Etcd != nil {
		if err := cfg.Etcd.Check(); err != nil {
			return nil, err
		}
	}
	return &Coordinator{cfg: cfg, owner: fleet.NewUID(), start: time.Now()}, nil
}

// now reads this run's clock. It never reads 0, which stands for "never".
func (c *Coordinator) now() time.Duration { return time.Since(c.start) + time.Second }

// Run serves until ctx ends, then stops in order: the hold first, so that fenced pods outlive it; then the sessions, the
// leadership, the store. It takes at most 10 s to stop. On a cluster of one's own it waits until no other coordinator serves there,
// and begins anew, as another run, when it may not be sure of that any more.
func (c *Coordinator) Run(ctx context.Context) error {
	dir, err := datadir.Lock(c.cfg.DataDir, datadir.Coordinator, "")
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		err := c.run(ctx, dir)
		if !errors.Is(err, serving.ErrLost) || ctx.Err() != nil {
			return err
		}
		c.cfg.Log.Error("the coordinator stops serving and starts anew", "err", err)
		c.owner, c.start = fleet.NewUID(), time.Now()
	}
}

// run is one run.
func (c *Coordinator) run(ctx context.Context, dir *datadir.Dir) error {
	log := c.cfg.Log
	secrets, err := trust.LoadSecretKey(dir.Path())
	if err != nil {
		return err
	}
	codec := wire.Codec{Secrets: secrets}
	var db *etcd.Store
	var claim *serving.Claim
	if c.cfg.Etcd != nil {
		// Nobody is kept waiting at the ports meanwhile.
		telemetry.TellSystemdWaits("for the etcd of --etcd-endpoints, and until no other coordinator serves there", log)
		if db, claim, err = c.claim(ctx, dir, codec); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		defer closeStore(db, log)
	} else if err := dir.Room(storeRoom); err != nil {
		// What an operator can get wrong is found before the store is opened and has things to say of its own.
		return err
	}
	listener, err := net.Listen("tcp", c.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	defer listener.Close()
	web, err := net.Listen("tcp", c.cfg.HTTPListen)
	if err != nil {
		return fmt.Errorf("listen for HTTPS: %w", err)
	}
	defer web.Close()
	certain := func() bool { return true } // the directory is locked: nobody else can have this store
	if claim != nil {
		certain = claim.Valid
	} else {
		if db, err = etcd.Open(ctx, etcd.Config{Dir: filepath.Join(dir.Path(), "etcd"), Codec: codec, Log: log}); err != nil {
			return err
		}
		defer closeStore(db, log)
	}
	authority, err := trust.Open(ctx, db, nil)
	if err != nil {
		return err
	}
	host, err := c.advertised(listener)
	if err != nil {
		return err
	}
	credentials, err := authority.IssueCoordinator(c.cfg.Name, []string{host})
	if err != nil {
		return err
	}
	holder := &identity.Holder{}
	holder.Set(credentials.TLS())
	at := func(l net.Addr) string { return net.JoinHostPort(host, port(l)) }

	// The parts live on for a moment when ctx has ended: work is their context.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, work := errgroup.WithContext(work)

	cache := store.NewCache(db, log)
	g.Go(func() error { return cache.Run(work) })
	select {
	case <-cache.Ready():
	case <-work.Done():
		return g.Wait()
	case <-ctx.Done():
		stop()
		return g.Wait()
	}
	generation, err := restored.Generation(cache.View())
	if err != nil {
		return err
	}
	window, err := restored.New(cache.View(), c.cfg.LeaseTTL, c.now)
	if err != nil {
		return err
	}
	waits := func() string {
		left, pending := window.Pending(cache.View())
		if !pending {
			return ""
		}
		return fmt.Sprintf("restored from a snapshot: pods that their nodes hold run on; nothing is placed, moved or started for another %v, until all leases of before are over", left.Round(time.Second))
	}
	if why := waits(); why != "" {
		log.Warn("the store comes from a snapshot", "generation", generation, "waits", why)
	}
	leases, err := lease.New(lease.Config{Owner: c.owner, TTL: c.cfg.LeaseTTL, Now: c.now, Certain: certain}, db, cache, log)
	if err != nil {
		return err
	}
	gossip, err := membership.New(membership.Config{
		Name: c.cfg.Name, Cluster: authority.ClusterID(), Key: authority.GossipKey(), Listen: c.cfg.GossipListen, Advertise: host,
		Meta:  membership.Meta{Role: membership.Coordinator, API: at(listener.Addr()), HTTP: at(web.Addr())},
		Seeds: func() []string { return seeds(cache.View()) },
	}, membership.Deps{Log: log})
	if err != nil {
		return fmt.Errorf("listen for the gossip: %w", err)
	}
	recorder := event.New("coordinator", "")
	writer := events.New(db, log)
	table, used, behind := probes.New(), usage.New(), endpoints.New(cache)
	seen := fleet.Share(cache)
	measured, err := telemetry.NewMetrics("coordinator", c.cfg.Name, version.Version, log)
	if err != nil {
		return err
	}
	followed, err := telemetry.NewTraces("coordinator", c.cfg.Name, version.Version, measured, log)
	if err != nil {
		return err
	}
	defer telemetry.Shutdown(log, measured, followed)
	metrics, err := newMetrics(measured, cache, seen)
	if err != nil {
		return err
	}
	ready := &telemetry.Health{}
	ready.Check("store", db.Writable)
	https, err := c.https(web, identity.ServerTLS(authority.CA(), holder), authority, ready, measured)
	if err != nil {
		return err
	}
	var sessions *dispatch.Dispatch
	var lead *leader.Leader
	guards := restarts.New(restarts.Config{
		Cache: cache, Events: recorder, Wake: func(nodes []string) { sessions.Wake(nodes) }, Changed: func() { lead.Poke() }, Now: c.now, Log: log,
	})
	if err := guardMetrics(measured, guards); err != nil {
		return err
	}
	lead = leader.New(leader.Config{AgentGrace: c.cfg.AgentGrace, PodCIDR: c.cfg.PodCIDR, Now: c.now}, leader.Deps{
		Store: db, Cache: cache, Fleet: seen, Leases: leases, Guards: askGuard, Witnesses: witnesses(gossip), Members: members(gossip),
		Events: recorder, Held: guards.Why, Restored: window, Suffix: suffix, Log: log, Metrics: metrics, Traces: &traces{followed.Tracer("coordinator")},
	})
	if err := errors.Join(watchBrake(measured, lead.Frozen), measured.Certificate(holder)); err != nil {
		return err
	}
	sessions = dispatch.New(dispatch.Config{
		Owner: c.owner, ClusterID: authority.ClusterID(), Generation: generation, Version: version.Version, PodCIDR: c.cfg.PodCIDR,
		GossipKey: authority.GossipKey(), GossipSeeds: func() []string { return []string{gossip.Address()} },
	}, dispatch.Deps{
		Store: db, Cache: cache, Leases: leases, Probes: table, Usage: used, Endpoints: behind, Events: writer, Authority: authority,
		Guards:    guards,
		Restored:  window,
		Delivered: lead.Delivered, Log: log,
	})
	// Another run comes back on the ports of this one, also where they were free ones.
	c.cfg.Listen, c.cfg.HTTPListen = withPort(c.cfg.Listen, at(listener.Addr())), withPort(c.cfg.HTTPListen, at(web.Addr()))
	c.cfg.GossipListen = withPort(c.cfg.GossipListen, gossip.Address())
	addresses := datadir.Addresses{Listen: at(listener.Addr()), HTTP: at(web.Addr()), Gossip: gossip.Address()}
	services := api.New(api.Config{
		Version: version.Version, ClusterID: authority.ClusterID(), LeaseTTL: c.cfg.LeaseTTL,
		Addresses:  map[string]string{"listen": addresses.Listen, "http": addresses.HTTP, "gossip": addresses.Gossip},
		Validation: spec.Options{AllowProbeHosts: c.cfg.AllowProbeHosts},
	}, api.Deps{
		Store: db, Cache: cache, Fleet: seen, Probes: table, Usage: used, Endpoints: behind, Sessions: sessions, Leader: lead, ResumeRestarts: guards.Resume, Tokens: tokens{authority},
		Members: gossip.Members, Log: log, Now: time.Now,
		Waits: waits,
		Snapshot: func(ctx context.Context, out io.Writer) error {
			return writeSnapshot(ctx, db, out, snapshot.Header{
				Muster: version.Version, Cluster: authority.ClusterID(), Generation: generation, Time: time.Now().UTC(), LeaseTTL: c.cfg.LeaseTTL,
			})
		},
	})
	server := newServer(identity.ServerTLS(authority.CA(), holder), log)
	services.Register(server)
	agentv1.RegisterAgentServiceServer(server, sessions)
	healthv1.RegisterHealthServer(server, health.NewServer())
	reflection.Register(server)

	elector := election.New(election.Config{Owner: c.owner, Exclusive: true}, db, log)
	if claim != nil {
		g.Go(func() error { return claim.Run(work) })
	}
	g.Go(func() error { return gossip.Run(work) })
	g.Go(func() error { return leases.Run(work) })
	g.Go(func() error { return writer.Run(work) })
	g.Go(func() error { return record(work, recorder, writer) })
	g.Go(func() error { return behind.Run(work) })
	g.Go(func() error { return guards.Run(work) })
	g.Go(func() error { return sessions.Run(work) })
	g.Go(func() error { return elector.Run(work, lead.Run) })
	g.Go(func() error { return https.Run(work) })
	g.Go(func() error { return rotate(work, authority, c.cfg.Name, host, holder) })
	g.Go(func() error {
		defer context.AfterFunc(work, func() { stopServer(server) })()
		return server.Serve(listener)
	})
	if err := c.publish(dir, authority, addresses); err != nil {
		stop()
		return errors.Join(err, g.Wait())
	}
	g.Go(func() error { return telemetry.TellSystemd(work, ready, log) })
	log.Info("coordinator serves", "listen", addresses.Listen, "http", addresses.HTTP, "gossip", addresses.Gossip, "cluster", authority.ClusterID())

	select {
	case <-work.Done():
	case <-ctx.Done():
		held, cancel := context.WithTimeout(work, holdLimit)
		log.Info("coordinator stops", "held", leases.Hold(held))
		cancel()
	}
	stop()
	if err = g.Wait(); err == nil && claim != nil {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseLimit)
		defer cancel()
		claim.Release(limit)
	}
	return err
}

// withPort is an address to listen on with the port of one that is in use.
func withPort(listen, used string) string {
	host, _, err := net.SplitHostPort(listen)
	_, port, err2 := net.SplitHostPort(used)
	if err != nil || err2 != nil {
		return listen
	}
	return net.JoinHostPort(host, port)
}

// claim connects to the cluster of one's own, and waits for the right to serve there.
func (c *Coordinator) claim(ctx context.Context, dir *datadir.Dir, codec etcd.Codec) (*etcd.Store, *serving.Claim, error) {
	home, err := homeID(dir.Path())
	if err != nil {
		return nil, nil, err
	}
	cfg := *c.cfg.Etcd
	cfg.Codec, cfg.Log = codec, c.cfg.Log
	db, err := etcd.Connect(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	claim, err := serving.Wait(ctx, serving.Config{Owner: c.owner, Home: home, Name: c.cfg.Name, Now: boottime}, db, c.cfg.Log)
	if err != nil {
		closeStore(db, c.cfg.Log)
		return nil, nil, err
	}
	c.start = time.Now() // waits count from here: nobody else acknowledges anything from now on
	return db, claim, nil
}

func closeStore(db *etcd.Store, log *slog.Logger) {
	if err := db.Close(); err != nil {
		log.Warn("store not closed in order", "err", err)
	}
}

// https serves metrics and health.
func (c *Coordinator) https(l net.Listener, cfg *tls.Config, a *trust.Authority, ready *telemetry.Health, m *telemetry.Metrics) (*telemetry.HTTPS, error) {
	auth := telemetry.AuthRequired
	if c.cfg.OpenMetrics {
		auth = telemetry.AuthNone
	}
	return telemetry.NewHTTPS(telemetry.HTTPSConfig{Listener: l, TLS: cfg, MetricsAuth: auth, Bearer: a.Bearer},
		telemetry.HTTPSDeps{Metrics: m, Health: ready, Log: c.cfg.Log})
}

// port is the port of an address in use.
func port(a net.Addr) string {
	_, p, err := net.SplitHostPort(a.String())
	if err != nil {
		return "0"
	}
	return p
}

// advertised is the host that others reach this coordinator at.
func (c *Coordinator) advertised(l net.Listener) (string, error) {
	if c.cfg.Advertise != "" {
		return c.cfg.Advertise, nil
	}
	if a, ok := l.Addr().(*net.TCPAddr); ok && !a.IP.IsUnspecified() {
		return a.IP.String(), nil
	}
	// No packet is sent: the kernel only says which address it would send from.
	conn, err := net.Dial("udp", "192.0.2.1:9")
	if err != nil {
		return "127.0.0.1", nil //nolint:nilerr // a machine without a route has itself only
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String(), nil
}

// publish tells people where this coordinator is and lets its admin in.
func (c *Coordinator) publish(dir *datadir.Dir, authority *trust.Authority, a datadir.Addresses) error {
	path := filepath.Join(dir.Path(), "client.yaml")
	admin, err := authority.IssueUser("admin", identity.RoleAdmin)
	if err != nil {
		return err
	}
	ca, cert, key, err := admin.PEM()
	if err != nil {
		return err
	}
	cfg := &clientconfig.Config{}
	cfg.Set(clientconfig.Context{Name: "muster", Server: a.Listen, CA: string(ca), Certificate: string(cert), Key: string(key)})
	cfg.CurrentContext = "muster"
	if err := cfg.Save(path); err != nil {
		return err
	}
	return dir.WriteAddresses(a)
}

// newServer is the gRPC server: errors mapped outermost, then rights.
func newServer(cfg *tls.Config, log *slog.Logger) *grpc.Server {
	return grpc.NewServer(
		grpc.Creds(credentials.NewTLS(cfg)),
		grpc.ChainUnaryInterceptor(api.UnaryErrors(log), trust.UnaryAccess(log)),
		grpc.ChainStreamInterceptor(api.StreamErrors(log), trust.StreamAccess()),
		grpc.MaxRecvMsgSize(maxMessage),
		// Thousands of connections say little: a quarter of the usual buffers each, that to write with only while something is written.
		grpc.ReadBufferSize(8<<10), grpc.WriteBufferSize(8<<10),
		grpc.ConnectionTimeout(20*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 15 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
}

// stopServer gives calls in flight a moment: streams end with their sessions, or here.
func stopServer(s *grpc.Server) {
	hard := time.AfterFunc(stopLimit, s.Stop)
	defer hard.Stop()
	s.GracefulStop()
}

// rotate replaces the certificate at two thirds of its life.
func rotate(ctx context.Context, a *trust.Authority, name, host string, h *identity.Holder) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Until(identity.RenewAt(h.Get()))):
		}
		fresh, err := a.IssueCoordinator(name, []string{host})
		if err != nil {
			return fmt.Errorf("rotate the certificate: %w", err)
		}
		h.Set(fresh.TLS())
	}
}

// record writes the coordinator's own events.
func record(ctx context.Context, r *event.Recorder, w *events.Writer) error {
	for {
		batch, err := r.Next(ctx, 100)
		if err != nil {
			return nil //nolint:nilerr // it fails only when ctx ends
		}
		w.Write(batch...)
	}
}

// suffix is what tells pods of one template apart, without letters that make words.
func suffix() string {
	const letters = "bcdfghjklmnpqrstvwxz2456789"
	b := make([]byte, 5)
	for i := range b {
		b[i] = letters[rand.IntN(len(letters))]
	}
	return string(b)
}

// seeds are the agents' gossip addresses: a coordinator that comes back finds its members by them.
func seeds(v *store.View) []string {
	var out []string
	for rec := range v.All(store.NodeFacts) {
		if a := rec.Value.(*spec.NodeFacts).GossipAddress; a != "" && len(out) < 16 {
			out = append(out, a)
		}
	}
	return out
}
