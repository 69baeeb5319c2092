package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/musterhq/muster/coordinator/endpoints"
	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/lease"
	"github.com/musterhq/muster/coordinator/probes"
	"github.com/musterhq/muster/coordinator/store"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

const (
	// helloTimeout is how long a new stream may take to say Hello.
	helloTimeout = 5 * time.Second
	// holdingsTimeout is how long an agent may take to say what it holds: less than it waits for its assignments.
	holdingsTimeout = 4 * time.Second
	// openAtOnce is how many sessions are being opened at a time: the store writes their leases together. One that takes longer than
	// openLimit, because its agent is slow, is no longer counted.
	openAtOnce = 64
	openLimit  = 2 * time.Second
	// chunk is how many assignments go into one message.
	chunk = 200
	// maxOut bounds the messages that wait for a slow agent: one more ends the session, and the next one starts with a
	// full set.
	maxOut = 256
)

// The reasons for which the coordinator ends a session.
var (
	errStopping = errors.New("the coordinator is stopping")
	errReplaced = errors.New("a newer session of this node has opened")
	errSlow     = errors.New("the agent does not keep up with its messages")
	errHoldings = errors.New("the agent does not say what it holds")
	errLease    = errors.New("the lease of this session is no longer open")
)

// session is one agent's Connect stream with what was agreed in it.
type session struct {
	node   string
	number int64
	ctx    context.Context
	cancel context.CancelCauseFunc
	woken  chan struct{}
	out    chan *agentv1.ConnectResponse

	// inNetwork is whether the node takes part in the flat pod network.
	inNetwork bool

	// sent, sentNodes and sentOwn are owned by the sending goroutine.
	sent      map[string]sentPod
	sentNodes map[string]spec.NetworkNode // by name
	sentOwn   netip.Prefix
	// sentServices and sentConfigs are too: what the agent was told of Services, and the revisions of what its pods use.
	sentServices map[spec.ObjectName][]spec.Endpoint
	sentConfigs  map[spec.ConfigKey]int64
	sentGuards   []spec.PodGuard

	mu         sync.Mutex
	marked     map[string]bool // nodes whose part of the network may have changed; "" stands for all
	handles    map[uint32]handle
	nextHandle uint32
}

// handle is what an agent's number for a probe stands for.
type handle struct {
	probes.Key
	table probes.Handle
}

// sentPod is what an agent was told of a pod.
type sentPod struct {
	name            spec.ObjectName
	epoch, revision int64
	stop            bool
	handle          uint32
}

func (s *session) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// send queues a message without blocking; a full queue ends the session.
func (s *session) send(m *agentv1.ConnectResponse) {
	select {
	case s.out <- m:
	default:
		s.cancel(errSlow)
	}
}

// Connect implements AgentService: one session from Hello to its end.
func (d *Dispatch) Connect(stream agentv1.AgentService_ConnectServer) error {
	hello, err := d.hello(stream)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	log := d.deps.Log.With("node", hello.GetNode(), "session", hello.GetSession())
	leave, err := d.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()

	opened, err := d.deps.Leases.Open(ctx, lease.Hello{
		Node: hello.GetNode(), Instance: hello.GetInstance(), Boot: hello.GetBootId(), Session: hello.GetSession(),
	})
	if err != nil {
		log.Warn("session refused", "err", err)
		return fmt.Errorf("open session of node %s: %w", hello.GetNode(), err)
	}
	s := &session{
		node: hello.GetNode(), number: hello.GetSession(),
		ctx: ctx, cancel: cancel,
		woken: make(chan struct{}, 1), out: make(chan *agentv1.ConnectResponse, maxOut),
		inNetwork: hello.GetFacts().GetNetwork() == spec.NetworkHostGW, sentNodes: map[string]spec.NetworkNode{}, marked: map[string]bool{},
		sentServices: map[spec.ObjectName][]spec.Endpoint{}, sentConfigs: map[spec.ConfigKey]int64{},
		sent: map[string]sentPod{}, handles: map[uint32]handle{}, nextHandle: 1,
	}
	d.admit(s)
	defer d.dismiss(s)
	log.Info("session opened", "revision", opened.Revision)

	if err := d.facts(ctx, s.node, hello.GetFacts()); err != nil {
		return err
	}
	ask := false
	if d.deps.Restored != nil && hello.GetSaysHoldings() {
		_, ask = d.deps.Restored.Pending(d.deps.Cache.View())
	}
	welcome := &agentv1.Welcome{
		AskHoldings: ask,
		Owner:       d.cfg.Owner, LeaseTtl: durationpb.New(opened.TTL), RenewEvery: durationpb.New(opened.RenewEvery),
		ClusterId: d.cfg.ClusterID, Generation: d.cfg.Generation, Version: d.cfg.Version,
		GossipKey: d.cfg.GossipKey, GossipSeeds: d.cfg.GossipSeeds(),
	}
	if err := stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	if ask {
		if err := d.holdings(stream, s); err != nil {
			return err
		}
	}
	// The full set comes from a copy at or after the revision of the lease's record.
	if err := d.deps.Cache.Wait(ctx, opened.Revision); err != nil {
		return fmt.Errorf("wait for revision %d: %w", opened.Revision, err)
	}
	if err := d.network(stream, s, true); err != nil {
		return err
	}
	if err := d.deps.Endpoints.Wait(ctx); err != nil {
		return err
	}
	named := d.deps.Endpoints.Watch()
	defer named.Close()
	if err := d.services(stream, s, named, true); err != nil {
		return err
	}
	if err := d.assign(stream, s, true); err != nil {
		return err
	}
	if err := d.guards(stream, s); err != nil {
		return err
	}
	leave()
	received := make(chan error, 1)
	go func() { received <- d.receive(stream, s) }() // ends with the stream, which ends with this handler
	err = d.sendLoop(stream, s, named, received)
	log.Info("session ended", "err", err)
	return err
}

// enter waits for a place among the sessions that are being opened; leave gives it up, as does openLimit. A session that is open
// is late when its renewals are: those that wait here are not open yet.
func (d *Dispatch) enter(ctx context.Context) (leave func(), err error) {
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case d.opening <- struct{}{}:
	}
	once := sync.OnceFunc(func() { <-d.opening })
	limit := time.AfterFunc(openLimit, once)
	return func() {
		limit.Stop()
		once()
	}, nil
}

func (d *Dispatch) hello(stream agentv1.AgentService_ConnectServer) (*agentv1.Hello, error) {
	node, err := d.deps.Authority.Caller(stream.Context())
	if err != nil {
		return nil, err
	}
	type first struct {
		m   *agentv1.ConnectRequest
		err error
	}
	c := make(chan first, 1)
	go func() {
		m, err := stream.Recv()
		c <- first{m, err}
	}()
	select {
	case <-time.After(helloTimeout):
		return nil, status.Errorf(codes.DeadlineExceeded, "no hello within %v", helloTimeout)
	case f := <-c:
		switch h := f.m.GetHello(); {
		case f.err != nil:
			return nil, f.err
		case h == nil:
			return nil, status.Error(codes.InvalidArgument, "the first message must be hello")
		case h.GetNode() != node:
			return nil, status.Errorf(codes.PermissionDenied, "hello.node is %q, the certificate is for %q", h.GetNode(), node)
		case h.GetInstance() == "" || h.GetBootId() == "" || h.GetSession() <= 0:
			return nil, status.Error(codes.InvalidArgument, "hello.instance, hello.boot_id and hello.session are required")
		case h.GetGeneration() > d.cfg.Generation && d.cfg.Generation > 0:
			return nil, status.Errorf(codes.FailedPrecondition,
				"this coordinator's data is from before a restore of the cluster: generation %d, and the agent has seen %d", d.cfg.Generation, h.GetGeneration())
		case skewed(h.GetVersion(), d.cfg.Version):
			return nil, status.Errorf(codes.FailedPrecondition,
				"agent %s and coordinator %s are more than one minor version apart", h.GetVersion(), d.cfg.Version)
		default:
			return h, nil
		}
	}
}

// maxHoldings bounds what a node holds.
const maxHoldings = 5000

// holdings waits for what the node holds.
func (d *Dispatch) holdings(stream agentv1.AgentService_ConnectServer, s *session) error {
	late := time.AfterFunc(holdingsTimeout, func() { s.cancel(errHoldings) })
	defer late.Stop()
	type first struct {
		m   *agentv1.ConnectRequest
		err error
	}
	c := make(chan first, 1)
	go func() {
		m, err := stream.Recv() // ends with the stream, which ends with the handler
		c <- first{m, err}
	}()
	select {
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	case f := <-c:
		h := f.m.GetHoldings()
		switch {
		case f.err != nil:
			return f.err
		case h == nil:
			return status.Error(codes.InvalidArgument, "the message after welcome must be holdings")
		case len(h.GetAll()) > maxHoldings:
			return status.Errorf(codes.InvalidArgument, "holdings: %d, at most %d", len(h.GetAll()), maxHoldings)
		}
		all := make([]spec.Holding, len(h.GetAll()))
		for i, pb := range h.GetAll() {
			all[i] = spec.Holding{UID: pb.GetUid(), Epoch: pb.GetEpoch(), Live: pb.GetLive(), Final: pb.GetFinal()}
		}
		d.deps.Restored.Take(d.deps.Cache.View(), s.node, all)
		return nil
	}
}

// admit puts the session in the place of an older one of its node.
func (d *Dispatch) admit(s *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.sessions[s.node]; old != nil {
		old.cancel(errReplaced)
	}
	d.sessions[s.node] = s
}

func (d *Dispatch) dismiss(s *session) {
	d.mu.Lock()
	if d.sessions[s.node] == s {
		delete(d.sessions, s.node)
	}
	d.mu.Unlock()
	d.deps.Leases.Closed(s.node, s.number)
	d.deps.Usage.Forget(s.node, s.number)
	d.ask.drop(s)
}

func (d *Dispatch) session(node string, number int64) *session {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.sessions[node]; s != nil && s.number == number {
		return s
	}
	return nil
}

// facts stores what the agent says of its node, if that has changed.
func (d *Dispatch) facts(ctx context.Context, node string, pb *musterv1.NodeFacts) error {
	facts, err := wire.NodeFactsFromProto(pb)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "hello.facts: %v", err)
	}
	key := store.Key{Family: store.NodeFacts, Name: node}
	for {
		rec, err := d.deps.Store.Get(ctx, key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("read facts of node %s: %w", node, err)
		}
		if err == nil && wire.Equal(rec.Value, facts) {
			return nil
		}
		txn := store.Txn{
			If:   []store.Cond{{Key: key, Revision: rec.Revision}},
			Then: []store.Write{{Key: key, Value: facts}},
		}
		if rec.Revision == 0 {
			// A node comes into being with its first word; what was said of it before stays.
			object := store.Key{Family: store.Nodes, Name: node}
			if _, err := d.deps.Store.Get(ctx, object); errors.Is(err, store.ErrNotFound) {
				meta := spec.Meta{Name: node, UID: fleet.NewUID(), CreateTime: time.Now(), Generation: 1}
				txn.If = append(txn.If, store.Cond{Key: object})
				txn.Then = append(txn.Then, store.Write{Key: object, Value: &spec.Node{Meta: meta}})
			} else if err != nil {
				return fmt.Errorf("read node %s: %w", node, err)
			}
		}
		_, err = d.deps.Store.Commit(ctx, txn)
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// sendLoop is the only sender of the stream after the first set.
func (d *Dispatch) sendLoop(stream agentv1.AgentService_ConnectServer, s *session, named *endpoints.Watch, received <-chan error) error {
	for {
		var err error
		select {
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		case err := <-received:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case m := <-s.out:
			err = stream.Send(m)
		case <-named.C():
			err = d.services(stream, s, named, false)
		case <-s.woken:
			if err = d.network(stream, s, false); err == nil {
				err = d.assign(stream, s, false)
			}
			if err == nil {
				err = d.guards(stream, s)
			}
		}
		if err != nil {
			return err
		}
	}
}

// assign sends what has changed since the last time, or everything.
func (d *Dispatch) assign(stream agentv1.AgentService_ConnectServer, s *session, full bool) error {
	v := d.deps.Cache.View()
	if full {
		if err := d.waitIndexed(s.ctx, v.Revision()); err != nil {
			return err
		}
	}
	pods := d.assigned(s, v)
	// What a pod is made of is there before the pod.
	if err := d.configs(stream, s, v, pods, full); err != nil {
		return err
	}
	now := make(map[string]bool, len(pods))
	var set []*agentv1.Assignment
	var fresh []fleet.Pod
	for i := range pods {
		p := &pods[i]
		now[p.UID] = true
		is := sentPod{name: p.Key(), epoch: p.Epoch, revision: p.PodRevision, stop: p.Stop != nil}
		was, known := s.sent[p.UID]
		is.handle = was.handle
		if known && was == is {
			continue
		}
		if !known || was.epoch != is.epoch {
			d.deps.Probes.Declare(p.UID, p.Key(), s.node, p.Epoch, probes.Declared(p.Pod, time.Now()))
			is.handle = s.declare(p, d.deps.Probes)
			fresh = append(fresh, *p)
		}
		s.sent[p.UID] = is
		a := assignment(p, is.handle)
		if d.deps.Guards != nil {
			_, a.Guarded = d.deps.Guards.Guarded(v, p)
		}
		set = append(set, a)
	}
	var removed []*agentv1.HeldKey
	for uid, was := range s.sent {
		if !now[uid] {
			removed = append(removed, &agentv1.HeldKey{Uid: uid, Epoch: was.epoch})
			delete(s.sent, uid)
			s.undeclare(uid, was.epoch)
			d.deps.Probes.Forget(uid, was.epoch)
		}
	}
	if !full && len(set) == 0 && len(removed) == 0 {
		return nil
	}
	slices.SortFunc(set, func(a, b *agentv1.Assignment) int {
		return strings.Compare(a.GetPod().GetMeta().GetUid(), b.GetPod().GetMeta().GetUid())
	})
	for first := true; first || len(set) > 0; first = false {
		n := min(chunk, len(set))
		m := &agentv1.Assignments{Revision: v.Revision(), Full: full, Assignments: set[:n], More: len(set) > n}
		if first {
			m.Removed = removed
		}
		set = set[n:]
		if err := stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Assignments{Assignments: m}}); err != nil {
			return err
		}
	}
	for i := range fresh {
		d.deps.Delivered(fresh[i].UID, fresh[i].Epoch)
	}
	return nil
}

func assignment(p *fleet.Pod, handle uint32) *agentv1.Assignment {
	pb := wire.PodToProto(p.Pod)
	pb.Meta.Revision = p.PodRevision
	a := &agentv1.Assignment{
		Pod: pb, Epoch: p.Epoch, Class: wire.FailoverClassToProto(p.Binding.Class), FirstProbeHandle: handle,
	}
	if p.Stop != nil {
		a.Stop, a.StopReason = true, p.Stop.Reason
	}
	if p.Held != nil && p.Current() == nil { // of an earlier binding: its counts go on
		a.Restarts = map[string]int32{}
		for _, list := range [][]spec.ContainerStatus{p.Held.Status.InitContainers, p.Held.Status.Containers} {
			for i := range list {
				a.Restarts[list[i].Name] = list[i].Restarts
			}
		}
	}
	return a
}

// declare agrees the handles of a pod's probes and returns the first.
func (s *session) declare(p *fleet.Pod, table *probes.Table) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.nextHandle
	for _, c := range p.Spec.AllContainers() {
		for _, kind := range spec.ProbeKinds {
			k := probes.Key{ProbeID: spec.ProbeID{PodUID: p.UID, Container: c.Name, Kind: kind}, Epoch: p.Epoch}
			s.handles[s.nextHandle] = handle{k, table.Handle(k)}
			s.nextHandle++
		}
	}
	return first
}

func (s *session) undeclare(uid string, epoch int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for h, k := range s.handles {
		if k.PodUID == uid && k.Epoch == epoch {
			delete(s.handles, h)
		}
	}
}

// receive takes in what the agent says until the stream ends.
func (d *Dispatch) receive(stream agentv1.AgentService_ConnectServer, s *session) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		switch m := m.GetMessage().(type) {
		case *agentv1.ConnectRequest_Statuses:
			err = d.takeStatuses(s, m.Statuses)
		case *agentv1.ConnectRequest_Results:
			err = d.takeResults(s, m.Results)
		case *agentv1.ConnectRequest_Events:
			err = d.takeEvents(s, m.Events)
		case *agentv1.ConnectRequest_Restarts:
			err = d.takeRestarts(s, m.Restarts)
		case *agentv1.ConnectRequest_Usage:
			err = d.takeUsage(s, m.Usage)
		case *agentv1.ConnectRequest_Bye:
			d.deps.Leases.Bye(s.node, s.number, min(m.Bye.GetRestart().AsDuration(), 10*time.Minute))
		default:
			err = status.Error(codes.InvalidArgument, "message: unknown or a second hello")
		}
		if err != nil {
			return err
		}
	}
}

// takeResults folds in a batch. Handles that are no longer agreed are of pods that are gone: their results are dropped.
func (d *Dispatch) takeResults(s *session, pb *agentv1.ResultBatch) error {
	batch, err := wire.ResultsFromProto(pb)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "results: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d.deps.Probes.Observe(func(yield func(probes.Handle, *spec.Attempt) bool) {
		for number, a := range batch.Attempts() {
			if h, ok := s.handles[number]; ok && !yield(h.table, a) {
				return
			}
		}
	})
	for i := range batch.Changes {
		if h, ok := s.handles[batch.Changes[i].Handle]; ok {
			d.deps.Probes.Believe(h.table, &batch.Changes[i].State)
		}
	}
	return nil
}

const maxEvents = 500

func (d *Dispatch) takeEvents(s *session, pb *agentv1.EventBatch) error {
	if n := len(pb.GetEvents()); n > maxEvents {
		return status.Errorf(codes.InvalidArgument, "events: %d, at most %d", n, maxEvents)
	}
	for _, e := range pb.GetEvents() {
		event, err := wire.EventFromProto(e)
		if err != nil {
			return status.Errorf(codes.InvalidArgument, "events: %v", err)
		}
		event.Source, event.Node = "agent", s.node
		// A node speaks of the pods it holds, and of itself.
		if k := event.Involved.Kind; k == "Node" && event.Involved.Name != s.node || k != "Node" && !d.holds(s.node, event.Involved) {
			continue
		}
		d.deps.Events.Write(*event)
	}
	return nil
}

func (d *Dispatch) holds(node string, ref spec.ObjectRef) bool {
	name := spec.ObjectName{Namespace: ref.Namespace, Name: ref.Name}
	b, _, ok := store.Get[*spec.Binding](d.deps.Cache.View(), store.BindingKey(name))
	return ref.Kind == "Pod" && ok && b.Node == node
}

// Renew implements AgentService. Its handler touches the node's slot only: it waits for nothing else.
func (d *Dispatch) Renew(stream agentv1.AgentService_RenewServer) error {
	node, err := d.deps.Authority.Caller(stream.Context())
	if err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		s := d.session(node, r.GetSession())
		if s == nil {
			return fmt.Errorf("renew session %d of node %s: %w", r.GetSession(), node, lease.ErrSessionStale)
		}
		ack, err := d.deps.Leases.Renew(node, r.GetSession(), r.GetNumber(), r.GetHeld(), r.GetLongest().AsDuration())
		if err != nil {
			s.cancel(fmt.Errorf("%w: %w", errLease, err))
			return fmt.Errorf("renew lease of node %s: %w", node, err)
		}
		if err := stream.Send(&agentv1.RenewResponse{Number: r.GetNumber(), Ttl: durationpb.New(ack.TTL)}); err != nil {
			return err
		}
		if r.GetResults() != nil {
			if err := d.takeResults(s, r.GetResults()); err != nil {
				return err
			}
		}
	}
}

// skewed tells whether two versions "MAJOR.MINOR.…" are more than one minor version apart. A version that is not of
// this form, such as that of a build from a work tree, goes with every other.
func skewed(a, b string) bool {
	var aMajor, aMinor, bMajor, bMinor int
	if _, err := fmt.Sscanf(a, "%d.%d", &aMajor, &aMinor); err != nil {
		return false
	}
	if _, err := fmt.Sscanf(b, "%d.%d", &bMajor, &bMinor); err != nil {
		return false
	}
	return aMajor != bMajor || aMinor-bMinor > 1 || bMinor-aMinor > 1
}
