// Package membership is the gossip: it tells who is in the cluster, alive, dead or gone, as ordered changes, and lets a
// member ask another to look at a third one. It is the only user of memberlist. What a change means for pods is for
// coordinator/failover to say; nothing here is proof of anything.
//
// Settings: a member is probed every 500 ms and has 250 ms to answer, is suspected for 4 intervals and more in larger
// clusters, and news travels every 100 ms. Everything is encrypted, and labelled with the cluster. Suspicion itself is
// not shown: memberlist says nothing when it begins or ends, so a member is alive until the suspicion is over.
package membership

import (
	"context"
	crand "crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sync/errgroup"

	"github.com/musterhq/muster/internal/spec"
)

const (
	// minRejoin and maxRejoin bound the pauses between two joins: memberlist forgets the dead, so they have to come back
	// by themselves.
	minRejoin, maxRejoin = time.Second, 30 * time.Second
	// maxSeeds is how many seeds are joined at once, chosen at random.
	maxSeeds = 5
	// leaveTimeout bounds each of the two steps of an orderly stop.
	leaveTimeout = time.Second
	// keepGone is how long members that are dead or left are listed, and maxGone how many.
	keepGone = time.Hour
	maxGone  = 10_000
)

// ErrNotMember means that there is no such member, or that it is not alive.
var ErrNotMember = errors.New("not a live member")

// State is where a member stands.
type State string

// The states.
const (
	Alive State = "alive"
	Dead  State = "dead"
	// Left is a member that said that it was going.
	Left State = "left"
)

// Role is what a member is.
type Role string

// The roles.
const (
	Agent       Role = "agent"
	Coordinator Role = "coordinator"
)

// Member is one process in the gossip, as seen from here.
type Member struct {
	// Name is unique: the node's for an agent.
	Name  string
	State State
	// Address is HOST:PORT of its gossip.
	Address string
	Meta    Meta
	// Since is when it came into this state, by this machine's clock.
	Since time.Time
}

// Change is what has become of a member: its newest state, with all that is known of it. A change of Meta alone is one
// too; Meta.Run tells a quick restart, of which gossip says nothing else.
type Change struct{ Member }

// Config says who this member is.
type Config struct {
	// Name is unique in the cluster: the node's for an agent. A DNS-1123 subdomain.
	Name string
	// Cluster is the cluster's id, at most 200 bytes: members of others are not heard.
	Cluster string
	// Key encrypts the gossip: 16, 24 or 32 bytes.
	Key []byte
	// Listen is HOST:PORT for TCP and UDP; without a host all of IPv4, and port 0 takes a free one. Unused with a
	// Transport.
	Listen string
	// Advertise is the address under which others reach this member: an IP address, or a name that is looked up once.
	// Empty: that of Listen, which must then not be 0.0.0.0 or [::].
	Advertise string
	// Meta is what others are told of this member. Run and Leaving are set here.
	Meta Meta
	// Seeds returns members to join, HOST:PORT each: coordinators for an agent; for a coordinator the others, and the
	// agents that it last knew, which may not notice that it was away. May change, may be empty, may be nil. It is called
	// at least every 30 s.
	Seeds func() []string
	// Transport replaces the network, for tests. Closed at the end of Run.
	Transport memberlist.Transport
}

// Deps are what the membership works with.
type Deps struct {
	// Changed is called with every change, in order, by one goroutine. It may block: gossip goes on, and of the changes
	// of one member that wait, only the newest is kept. May be nil. The member itself is never among them.
	Changed func(Change)
	// Guard asks a node's guard at HOST:PORT, for others that want to know; see AskGuard. nil means AskGuard over TCP.
	Guard func(ctx context.Context, address string) GuardSign
	Log   *slog.Logger
}

// Membership is this process's place in the gossip. Its methods may be called from any goroutine.
type Membership struct {
	cfg  Config
	deps Deps
	conf *memberlist.Config
	addr string
	asks *asks

	mu sync.Mutex
	// list is nil before Run and after it.
	list    *memberlist.Memberlist
	leaving bool
	members map[string]Member
	// order names the members of which Changed has not been told, each once, in the order of their first change.
	order []string
	clash clash
	wake  chan struct{} // capacity 1
}

// New checks cfg and binds the sockets, so that a port that is taken is an error here; a Membership that is never Run
// must be Closed.
func New(cfg Config, deps Deps) (*Membership, error) {
	if why := spec.NodeName(cfg.Name); why != "" {
		return nil, fmt.Errorf("gossip: name %q: %s", cfg.Name, why)
	}
	if len(cfg.Cluster) == 0 || len(cfg.Cluster) > 200 {
		return nil, fmt.Errorf("gossip: cluster id of %d bytes: want 1 to 200", len(cfg.Cluster))
	}
	if n := len(cfg.Key); n != 16 && n != 24 && n != 32 {
		return nil, fmt.Errorf("gossip: key of %d bytes: want 16, 24 or 32", n)
	}
	if cfg.Meta.Role != Agent && cfg.Meta.Role != Coordinator {
		return nil, fmt.Errorf("gossip: role %q: want agent or coordinator", cfg.Meta.Role)
	}
	if deps.Guard == nil {
		deps.Guard = AskGuard
	}
	var run [8]byte
	_, _ = crand.Read(run[:]) // never fails
	cfg.Meta.Run, cfg.Meta.Leaving = hex.EncodeToString(run[:]), false
	longest := cfg.Meta
	longest.Leaving = true
	if _, err := longest.encode(); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	m := &Membership{cfg: cfg, deps: deps, members: map[string]Member{}, wake: make(chan struct{}, 1)}
	m.asks = newAsks(m)
	m.conf = m.settings()
	if err := m.listen(); err != nil {
		return nil, err
	}
	return m, nil
}

// settings are memberlist's.
func (m *Membership) settings() *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name, c.Label, c.SecretKey = m.cfg.Name, "muster/"+m.cfg.Cluster, m.cfg.Key
	c.ProbeInterval, c.ProbeTimeout = 500*time.Millisecond, 250*time.Millisecond
	c.SuspicionMult = 4
	c.GossipInterval = 100 * time.Millisecond
	c.TCPTimeout = 2 * time.Second
	c.EnableCompression = false
	// A dead member's name is free for one at another address.
	c.DeadNodeReclaimTime = time.Millisecond
	c.Logger = log.New(&logWriter{log: m.deps.Log}, "", 0)
	c.Delegate, c.Events, c.Conflict = (*delegate)(m), (*events)(m), (*events)(m)
	return c
}

// listen binds the sockets, or takes the transport that was given.
func (m *Membership) listen() error {
	c := m.conf
	if m.cfg.Transport != nil {
		c.Transport = m.cfg.Transport
		ip, port, err := c.Transport.FinalAdvertiseAddr("", 0)
		if err != nil {
			return fmt.Errorf("gossip: %w", err)
		}
		m.addr = net.JoinHostPort(ip.String(), strconv.Itoa(port))
		return nil
	}
	tcp, err := net.ResolveTCPAddr("tcp", m.cfg.Listen)
	if err != nil || m.cfg.Listen == "" {
		return fmt.Errorf("gossip: listen on %q: want HOST:PORT", m.cfg.Listen)
	}
	at := tcp.AddrPort()
	if tcp.IP == nil { // no host: all of them
		at = netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port())
	}
	advertise := at.Addr().Unmap()
	if m.cfg.Advertise != "" {
		found, err := net.LookupIP(m.cfg.Advertise)
		if err != nil || len(found) == 0 {
			return fmt.Errorf("gossip: advertise %q: no address of that name", m.cfg.Advertise)
		}
		advertise, _ = netip.AddrFromSlice(found[0])
		advertise = advertise.Unmap()
	}
	if advertise.IsUnspecified() {
		return fmt.Errorf("gossip: listening on %s: say with an advertised address how others reach this machine", m.cfg.Listen)
	}
	var t *memberlist.NetTransport
	// A free TCP port may be taken for UDP: then another is tried.
	for range 10 {
		t, err = memberlist.NewNetTransport(&memberlist.NetTransportConfig{
			BindAddrs: []string{at.Addr().Unmap().String()}, BindPort: int(at.Port()), Logger: c.Logger,
		})
		if err == nil || at.Port() != 0 {
			break
		}
	}
	if err != nil {
		if strings.Contains(err.Error(), "address already in use") {
			return fmt.Errorf("gossip: %s is in use by another process: choose another port with --gossip-listen", m.cfg.Listen)
		}
		return fmt.Errorf("gossip: listen on %s: %w", m.cfg.Listen, err)
	}
	c.Transport = t
	c.AdvertiseAddr, c.AdvertisePort = advertise.String(), t.GetAutoBindPort()
	m.addr = net.JoinHostPort(c.AdvertiseAddr, strconv.Itoa(c.AdvertisePort))
	return nil
}

// Address is where others reach this member, HOST:PORT.
func (m *Membership) Address() string { return m.addr }

// Close lets go of the sockets of a Membership that is not Run.
func (m *Membership) Close() error { return m.conf.Transport.Shutdown() }

// Run takes part in the gossip until ctx ends, then says goodbye, which takes at most 2 s, and returns nil. An error is
// a gossip that could not begin. It can be called once.
func (m *Membership) Run(ctx context.Context) error {
	list, err := memberlist.Create(m.conf)
	if err != nil {
		return errors.Join(fmt.Errorf("gossip: %w", err), m.Close())
	}
	m.mu.Lock()
	m.list = list
	m.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.deliver(ctx) })
	g.Go(func() error { return m.keepJoined(ctx, list) })
	g.Go(func() error { return m.asks.run(ctx, list) })
	err = g.Wait()
	m.leave(list)
	return err
}

// leave says goodbye. A leave and a crash look alike in gossip, so it is said in the meta first.
func (m *Membership) leave(list *memberlist.Memberlist) {
	m.mu.Lock()
	m.leaving, m.list = true, nil
	m.mu.Unlock()
	if err := list.UpdateNode(leaveTimeout); err != nil {
		m.deps.Log.Debug("gossip: nobody has heard that this member leaves", "err", err)
	}
	if err := list.Leave(leaveTimeout); err != nil {
		m.deps.Log.Debug("gossip: left without a word", "err", err)
	}
	if err := list.Shutdown(); err != nil {
		m.deps.Log.Warn("gossip: shut down", "err", err)
	}
}

// keepJoined joins the seeds when the gossip begins and while none of them is among the living. It goes on for half a
// minute each time, at growing intervals: where a former run of this member lived at another address, the others take
// this one in only once they hold that one for dead.
func (m *Membership) keepJoined(ctx context.Context, list *memberlist.Memberlist) error {
	pause, saw := minRejoin, false
	for {
		seeds := m.seeds()
		sees := m.sees(seeds)
		if saw && !sees {
			pause = minRejoin
		}
		saw = sees
		if !sees || pause < maxRejoin {
			rand.Shuffle(len(seeds), func(i, j int) { seeds[i], seeds[j] = seeds[j], seeds[i] })
			seeds = seeds[:min(len(seeds), maxSeeds)]
			if _, err := list.Join(seeds); err != nil {
				m.deps.Log.Debug("gossip: no seed answers", "seeds", seeds, "err", err)
			}
		}
		m.prune(time.Now())
		timer := time.NewTimer(pause)
		pause = min(2*pause, maxRejoin)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// seeds are the seeds that are not this member itself.
func (m *Membership) seeds() []string {
	if m.cfg.Seeds == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(m.cfg.Seeds()), func(s string) bool { return s == m.addr })
}

// sees tells whether one of the seeds is among the living, or there is none.
func (m *Membership) sees(seeds []string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, member := range m.members {
		if member.State == Alive && slices.Contains(seeds, member.Address) {
			return true
		}
	}
	return len(seeds) == 0
}

// Members lists all members by name, this one included, those that are dead or left for an hour. Before Run has begun it
// is empty.
func (m *Membership) Members() []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	members := make([]Member, 0, len(m.members))
	for _, member := range m.members {
		members = append(members, member)
	}
	slices.SortFunc(members, func(x, y Member) int { return strings.Compare(x.Name, y.Name) })
	return members
}

// Member returns one member; false when nothing is known of it.
func (m *Membership) Member(name string) (Member, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	member, ok := m.members[name]
	return member, ok
}

// Ping asks a member whether it is alive, by one message that it has 250 ms to answer. ErrNotMember when nothing is
// known of it.
func (m *Membership) Ping(name string) (time.Duration, error) {
	rtt, err := m.ping(name, "")
	if err != nil {
		return 0, fmt.Errorf("ping %s: %w", name, err)
	}
	return rtt, nil
}

// ping pings a member at an address; empty: where it is known to be.
func (m *Membership) ping(name, address string) (time.Duration, error) {
	m.mu.Lock()
	list := m.list
	if address == "" {
		address = m.members[name].Address
	}
	m.mu.Unlock()
	if list == nil || address == "" {
		return 0, ErrNotMember
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return 0, err
	}
	return list.Ping(name, net.UDPAddrFromAddrPort(at))
}

// prune forgets those that have been gone for an hour, and the oldest of them beyond maxGone.
func (m *Membership) prune(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var gone []Member
	for _, member := range m.members {
		if member.State != Alive {
			gone = append(gone, member)
		}
	}
	slices.SortFunc(gone, func(x, y Member) int { return y.Since.Compare(x.Since) }) // newest first
	for i, member := range gone {
		if i >= maxGone || now.Sub(member.Since) > keepGone {
			delete(m.members, member.Name)
		}
	}
}
