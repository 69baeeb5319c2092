// Package dispatch holds the sessions of the agents: it lets them join, tells each what it is to run, takes in what it
// says of pods, probes and events, and carries questions to it. It only moves messages: who may hold a lease is
// coordinator/lease's to say, what runs where the leader's, and what is believed of probes coordinator/probes'.
package dispatch

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/musterhq/muster/coordinator/endpoints"
	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/lease"
	"github.com/musterhq/muster/coordinator/probes"
	"github.com/musterhq/muster/coordinator/restored"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/usage"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/spec"
)

// Config is what every session is told.
type Config struct {
	// Owner is this run of the coordinator.
	Owner string
	// ClusterID and Generation are the cluster's.
	ClusterID  string
	Generation int64
	// Version is muster's.
	Version string
	// PodCIDR is what the networks of nodes' pods are cut from.
	PodCIDR netip.Prefix
	// GossipKey is the key of the gossip; GossipSeeds returns members to join, HOST:PORT.
	GossipKey   []byte
	GossipSeeds func() []string
}

// Leases is what the sessions need of coordinator/lease.
type Leases interface {
	Open(ctx context.Context, h lease.Hello) (lease.Opened, error)
	Renew(node string, session int64, number uint64, held bool, longest time.Duration) (lease.Ack, error)
	Closed(node string, session int64)
	// Revision is that of a session's lease record now, which a hold changes; false when the session is over.
	Revision(node string, session int64) (int64, bool)
	Bye(node string, session int64, restart time.Duration)
}

// Authority gives certificates to nodes.
type Authority interface {
	// Join redeems a token and signs the request for that node; both results are DER.
	Join(ctx context.Context, tokenID, secret, node string, csr []byte) (cert, ca []byte, err error)
	// Rotate signs a request for a node that has shown its certificate.
	Rotate(node string, csr []byte) (cert []byte, err error)
	// Caller is the node whose certificate the call was made with.
	Caller(ctx context.Context) (node string, err error)
}

// Events takes events in.
type Events interface {
	Write(events ...spec.Event) (dropped int)
}

// Deps are the parts that the sessions work on.
type Deps struct {
	Store     store.Store
	Cache     *store.Cache
	Leases    Leases
	Probes    *probes.Table
	Usage     *usage.Table
	Endpoints *endpoints.Table
	Events    Events
	Authority Authority
	// Restored may be nil: then no store comes from a snapshot.
	Restored *restored.Window
	// Guards may be nil: then no restart is guarded.
	Guards Guards
	// Delivered is told when an agent was sent a binding for the first time. It must not block.
	Delivered func(uid string, epoch int64)
	Log       *slog.Logger
}

// Dispatch is the coordinator's side of all sessions. It serves muster.agent.v1.AgentService.
type Dispatch struct {
	agentv1.UnimplementedAgentServiceServer

	cfg  Config
	deps Deps
	ask  *asks

	mu       sync.Mutex
	sessions map[string]*session                 // by node
	byNode   map[string]map[spec.ObjectName]bool // bindings of each node
	bound    map[spec.ObjectName]string          // node of each binding
	names    map[string]spec.ObjectName          // by pod uid
	uids     map[spec.ObjectName]string
	// indexed is the revision that the indexes are of; moved is closed and replaced when that rises.
	indexed  int64
	moved    chan struct{}
	statuses *statusQueues
	// opening has a place for each session that is being opened.
	opening chan struct{}
}

// New builds the sessions' side; nothing is served before Run.
func New(cfg Config, deps Deps) *Dispatch {
	return &Dispatch{
		cfg: cfg, deps: deps, ask: newAsks(),
		sessions: map[string]*session{},
		byNode:   map[string]map[spec.ObjectName]bool{},
		bound:    map[spec.ObjectName]string{},
		names:    map[string]spec.ObjectName{},
		uids:     map[spec.ObjectName]string{},
		moved:    make(chan struct{}),
		statuses: newStatusQueues(),
		opening:  make(chan struct{}, openAtOnce),
	}
}

// Run wakes the sessions that a change concerns and writes what agents say of pods, until ctx ends. It ends every
// session before it returns.
func (d *Dispatch) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.follow(ctx) })
	for _, q := range d.statuses.queues {
		g.Go(func() error { return d.writeStatuses(ctx, q) })
	}
	err := g.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.sessions {
		s.cancel(errStopping)
	}
	return err
}

// follow keeps the indexes and wakes sessions: each change wakes the node it concerns.
func (d *Dispatch) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		view, sub := d.deps.Cache.Subscribe(4096)
		d.index(view)
		for changes := range sub.C(ctx) {
			d.apply(changes)
		}
		sub.Close()
	}
	return nil
}

func (d *Dispatch) index(v *store.View) {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.byNode)
	clear(d.bound)
	clear(d.names)
	clear(d.uids)
	for rec := range v.All(store.Pods) {
		pod := rec.Value.(*spec.Pod)
		d.names[pod.UID], d.uids[pod.Key()] = pod.Key(), pod.UID
	}
	for rec := range v.All(store.Bindings) {
		d.bindLocked(spec.ObjectName{Namespace: rec.Key.Namespace, Name: rec.Key.Name}, rec.Value.(*spec.Binding).Node)
	}
	for _, s := range d.sessions {
		s.mark("")
		s.wake()
	}
	d.indexedLocked(v.Revision())
}

func (d *Dispatch) indexedLocked(revision int64) {
	d.indexed = max(d.indexed, revision)
	close(d.moved)
	d.moved = make(chan struct{})
}

// waitIndexed waits until the indexes are of that revision or a later one.
func (d *Dispatch) waitIndexed(ctx context.Context, revision int64) error {
	for {
		d.mu.Lock()
		done, moved := d.indexed >= revision, d.moved
		d.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-moved:
		}
	}
}

func (d *Dispatch) bindLocked(name spec.ObjectName, node string) {
	if old, ok := d.bound[name]; ok {
		delete(d.byNode[old], name)
		if len(d.byNode[old]) == 0 {
			delete(d.byNode, old)
		}
		delete(d.bound, name)
		d.wakeLocked(old)
	}
	if node == "" {
		return
	}
	if d.byNode[node] == nil {
		d.byNode[node] = map[spec.ObjectName]bool{}
	}
	d.byNode[node][name], d.bound[name] = true, node
	d.wakeLocked(node)
}

func (d *Dispatch) wakeLocked(node string) {
	if s := d.sessions[node]; s != nil {
		s.wake()
	}
}

func (d *Dispatch) apply(changes store.Changes) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range changes.Changes {
		name := spec.ObjectName{Namespace: c.Key.Namespace, Name: c.Key.Name}
		switch c.Key.Family {
		case store.Bindings:
			node := ""
			if c.Record != nil {
				node = c.Record.Value.(*spec.Binding).Node
			}
			d.bindLocked(name, node)
		case store.Pods:
			delete(d.names, d.uids[name])
			delete(d.uids, name)
			if c.Record != nil {
				uid := c.Record.Value.(*spec.Pod).UID
				d.names[uid], d.uids[name] = name, uid
			}
			d.wakeLocked(d.bound[name])
		case store.Stops, store.PodStatuses:
			d.wakeLocked(d.bound[name])
		case store.Config:
			if c.Key == restored.Key { // what counted for nothing counts now
				for _, s := range d.sessions {
					s.wake()
				}
			}
		case store.ConfigMaps, store.Secrets:
			for _, s := range d.sessions {
				s.wake() // whether a node's pods use it is looked up there
			}
		case store.NodeNetworks, store.NodeFacts:
			for _, s := range d.sessions {
				if s.inNetwork {
					s.mark(c.Key.Name)
					s.wake()
				}
			}
		}
	}
	d.indexedLocked(changes.Revision)
}

// nameOf finds a pod by its uid. What the index, which may be behind, does not have yet is looked for in the view.
func (d *Dispatch) nameOf(uid string) (spec.ObjectName, bool) {
	d.mu.Lock()
	n, ok := d.names[uid]
	d.mu.Unlock()
	if ok {
		return n, true
	}
	for rec := range d.deps.Cache.View().All(store.Pods) {
		if pod := rec.Value.(*spec.Pod); pod.UID == uid {
			return pod.Key(), true
		}
	}
	return spec.ObjectName{}, false
}

// assigned returns what a session's node is to run: its bindings but for those that it has ended for good. The view
// alone counts; the index says where to look beside what was sent already. It may be behind the view, so a full set waits for it: where
// it is ahead instead, what has left the node since is left out.
func (d *Dispatch) assigned(s *session, v *store.View) []fleet.Pod {
	names := map[spec.ObjectName]bool{}
	for _, was := range s.sent {
		names[was.name] = true
	}
	d.mu.Lock()
	maps.Copy(names, d.byNode[s.node])
	d.mu.Unlock()
	var pods []fleet.Pod
	for n := range names {
		if p, ok := fleet.LookupPod(v, n); ok && p.Node() == s.node && !p.Stopped() && (d.deps.Restored == nil || d.deps.Restored.May(v, &p)) {
			pods = append(pods, p)
		}
	}
	return pods
}

// Connected tells whether a node's session is up.
func (d *Dispatch) Connected(node string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sessions[node] != nil
}

// Join implements AgentService.
func (d *Dispatch) Join(ctx context.Context, req *agentv1.JoinRequest) (*agentv1.JoinResponse, error) {
	cert, ca, err := d.deps.Authority.Join(ctx, req.GetTokenId(), req.GetSecret(), req.GetNode(), req.GetCsr())
	if err != nil {
		return nil, fmt.Errorf("node %s: join: %w", req.GetNode(), err)
	}
	d.deps.Log.Info("node joined", "node", req.GetNode())
	return &agentv1.JoinResponse{Certificate: cert, Ca: ca}, nil
}

// RotateCertificate implements AgentService.
func (d *Dispatch) RotateCertificate(ctx context.Context, req *agentv1.RotateCertificateRequest) (*agentv1.RotateCertificateResponse, error) {
	node, err := d.deps.Authority.Caller(ctx)
	if err != nil {
		return nil, err
	}
	cert, err := d.deps.Authority.Rotate(node, req.GetCsr())
	if err != nil {
		return nil, fmt.Errorf("node %s: rotate certificate: %w", node, err)
	}
	return &agentv1.RotateCertificateResponse{Certificate: cert}, nil
}
