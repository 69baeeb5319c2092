// Package session keeps an agent's session with a coordinator: it opens one stream for renewals and one for everything
// else, says all that the agent holds, takes assignments in, and reports statuses, probe results and events. When a
// session ends it opens the next. Everything can be said again, so a lost message costs a repetition and nothing else.
//
// It only moves messages: agent/lease owns the deadlines, agent/runner the pods, agent/prober the probes.
package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/musterhq/muster/agent/container"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/reason"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

const (
	// welcomeTimeout is how long a coordinator may take to welcome, fullSetTimeout how long its full set of assignments may take
	// after that, before the session is opened anew. One to which a whole fleet comes back welcomes a part at a time: whoever went
	// and came again would wait anew, and take time from the others.
	welcomeTimeout, fullSetTimeout = 15 * time.Second, 5 * time.Second
	// minRetry and maxRetry bound the pause between attempts to open a session; after one that was steady the first comes
	// at once.
	minRetry, maxRetry = 100 * time.Millisecond, 5 * time.Second
	// steady is how long a session has to last for the next one not to be one more attempt: each costs a number on disk
	// here and a write to the store there.
	steady = 5 * time.Second
	// refusedRetry is the longest pause after a coordinator has refused a session for now.
	refusedRetry = 500 * time.Millisecond
	// maxRiding bounds the results that ride on a renewal, which stays below 4 KiB: more go through the other stream.
	maxRiding = 128
	// batchStatuses and batchEvents bound one message.
	batchStatuses, batchEvents = 200, 200
)

// Assigned is one pod that this node is to run.
type Assigned struct {
	Pod   *spec.Pod
	Epoch int64
	Class spec.FailoverClass
	// Stop asks to stop it for good, and StopReason says why.
	Stop       bool
	StopReason string
	// Restarts are the restart counts it comes with from another node, by container; may be nil.
	Restarts map[string]int32
	// Guarded: the restart guard of its owner is on.
	Guarded bool
}

// Held names one binding of one pod.
type Held struct {
	UID   string
	Epoch int64
}

// Assignments is what a node is to run, or how that has changed.
type Assignments struct {
	// Session is the number of the session that said so.
	Session int64
	// Full means that whatever else runs is to be stopped.
	Full     bool
	Assigned []Assigned
	Removed  []Held
}

// Lease is what the session needs of agent/lease.
type Lease interface {
	// Hello returns the number of a new session, higher than any before and safe on disk.
	Hello() (session int64, err error)
	// Sent notes the time before renewal n of this session goes out; Hello is number 0.
	Sent(session int64, n uint64)
	// Acked takes the acknowledgement of renewal n, which lasts for ttl from when it was sent.
	Acked(session int64, n uint64, ttl time.Duration)
	// Longest is the longest time that any fenced pod still has.
	Longest() time.Duration
}

// Pods is what the session needs of agent/runner.
type Pods interface {
	// Assign takes assignments in, in order.
	Assign(a Assignments)
	// All returns everything that is held; complete means that what is not in it does not run.
	All(ctx context.Context) (statuses []spec.HeldStatus, complete bool)
	// Holdings is every binding that is held, as it stands now.
	Holdings(ctx context.Context) []spec.Holding
	// Next waits for statuses that have changed since they were last returned, and returns at most n.
	Next(ctx context.Context, n int) ([]spec.HeldStatus, error)
	// Acked says what is stored, and what is not this node's and has to end.
	Acked(committed, notYours []Held)
	// Configure takes in what ConfigMaps and Secrets have, before the assignments that need them.
	Configure(c Configs)
	// Guard takes in how the restart guard stands for every guarded pod of the node; CutOff says that the session has ended.
	Guard(all []spec.PodGuard)
	CutOff()
	// NextRestarts waits for what is new of guarded pods' restarts; with all it returns at once what there is of every one.
	NextRestarts(ctx context.Context, all bool) ([]spec.RestartWord, error)
	// Reopen is signalled when only a new session can let a fenced pod go on.
	Reopen() <-chan struct{}
	// Logs writes what a container of a pod wrote.
	Logs(ctx context.Context, uid, container string, previous bool, o LogOptions, w io.Writer) error
	// Evidence is what is kept of how a pod's containers have ended, of one or with "" of all; without results of probes.
	Evidence(ctx context.Context, uid, container string) ([]spec.ContainerEvidence, error)
	// RunCommand runs a command in a container of a pod on the streams given, and returns its exit code.
	RunCommand(ctx context.Context, uid, container string, cmd container.Interaction) (int32, error)
	// Dial connects to a TCP port of a pod.
	Dial(ctx context.Context, uid string, port int) (container.Conn, error)
}

// LogOptions choose what of a log is written.
type LogOptions struct {
	Follow bool
	// Tail is how many of the last lines; negative means all.
	Tail int
	// Since drops lines older than this; zero means none.
	Since      time.Time
	Timestamps bool
}

// Probes is what the session needs of agent/prober and agent/history.
type Probes interface {
	// States returns what is believed of every probe.
	States() []spec.ProbeState
	// Results returns the newest results of a probe, oldest first.
	Results(id spec.ProbeID, n int) []spec.Attempt
	// Follow hands take what matching probes answer from now on, at most 256 attempts at a time and at first none, and how
	// many were dropped before them, until ctx ends or take fails.
	Follow(ctx context.Context, match func(spec.ProbeID) bool, take func(attempts []spec.ProbeAttempt, dropped uint64) error) error
}

// Events is where the agent's events wait.
type Events interface {
	// Next waits for events and returns at most n. They are not returned again.
	Next(ctx context.Context, n int) ([]spec.Event, error)
}

// Welcome is what a coordinator says at the start of a session.
type Welcome struct {
	ClusterID   string
	Generation  int64
	GossipKey   []byte
	GossipSeeds []string
	LeaseTTL    time.Duration
}

// Config is who the agent is.
type Config struct {
	Node, Instance, BootID, Version string
	// Facts returns what is true of the node now.
	Facts func() spec.NodeFacts
	// Dial connects to a coordinator; it is called for each session.
	Dial func(ctx context.Context) (*grpc.ClientConn, error)
	// Welcomed is told at the start of each session. It must not block.
	Welcomed func(Welcome)
	// Services is told what the cluster's names lead to: everything at the start of each session, then each change, one call after
	// the other. It must not block.
	Services func(Services)
	// Network is told what the pod network is, whole, at the start of each session and at each change, one call after the
	// other. It must not block for long. Nil on a node that takes no part in it.
	Network func(Network)
	// Comeback is what Bye announces on an orderly stop; default 30 s.
	Comeback time.Duration
}

// Deps are the parts that the session speaks for.
type Deps struct {
	Lease  Lease
	Pods   Pods
	Probes Probes
	Events Events
	// Usage may be nil; then nothing is said of it.
	Usage Usage
	Log   *slog.Logger
}

// Session is the agent's side of all its sessions, one after the other.
type Session struct {
	cfg     Config
	deps    Deps
	results *results

	mu         sync.Mutex
	up         bool
	generation int64
	lastErr    error
}

// New builds it; nothing is opened before Run.
func New(cfg Config, deps Deps) *Session {
	if cfg.Comeback == 0 {
		cfg.Comeback = 30 * time.Second
	}
	return &Session{cfg: cfg, deps: deps, results: newResults()}
}

// Observe takes one attempt to report. It never blocks; without a session the oldest are dropped and counted.
func (s *Session) Observe(id spec.ProbeID, a spec.Attempt) { s.results.observe(id, a) }

// Believe takes a change of what is believed of a probe. It never blocks; the latest of a probe wins.
func (s *Session) Believe(state spec.ProbeState) { s.results.believe(state) }

// Up tells whether a session is open, and why the last one ended.
func (s *Session) Up() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.up, s.lastErr
}

func (s *Session) setUp(up bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up, s.lastErr = up, err
}

// Run opens one session after the other until ctx ends, then says Bye.
func (s *Session) Run(ctx context.Context) error {
	pause := time.Duration(0)
	said, when := "", time.Time{}
	for {
		begun := time.Now()
		opened, err := s.once(ctx)
		s.setUp(false, err)
		if ctx.Err() != nil {
			return nil
		}
		// Attempts that fail alike are one line a minute.
		if text := status.Convert(err).Message(); opened || text != said || time.Since(when) >= time.Minute {
			said, when = text, time.Now()
			switch status.Code(err) {
			case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument, codes.FailedPrecondition:
				s.deps.Log.Error("session refused", "err", text)
			default:
				s.deps.Log.Warn("session ended", "err", text)
			}
		}
		bound := maxRetry
		if refusedForNow(err) {
			bound = refusedRetry
		}
		switch {
		case opened && time.Since(begun) >= steady:
			pause = 0
		case pause == 0:
			pause = minRetry
		default:
			pause = min(2*pause, maxRetry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(bound, time.Duration(rand.Int64N(int64(pause)+1)))):
		}
	}
}

// refusedForNow tells whether a coordinator that answers will let the agent in soon.
func refusedForNow(err error) bool {
	switch reason.Of(err) {
	case reason.LeaseSealed, reason.NodeBarred, reason.NotLeader:
		return true
	}
	return false
}

var errReopen = errors.New("a fenced pod can go on under a new session only")

// once holds one session from Hello to its end, and reports whether it was opened.
func (s *Session) once(ctx context.Context) (opened bool, err error) {
	conn, err := s.cfg.Dial(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	client := agentv1.NewAgentServiceClient(conn)

	number, err := s.deps.Lease.Hello()
	if err != nil {
		return false, fmt.Errorf("number the session: %w", err)
	}
	// The streams outlive ctx for a moment, so that Bye can be said.
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stream, err := client.Connect(streamCtx)
	if err != nil {
		return false, err
	}
	stopOpening := context.AfterFunc(ctx, cancel)
	facts := s.cfg.Facts()
	s.mu.Lock()
	generation := s.generation
	s.mu.Unlock()
	s.deps.Lease.Sent(number, 0)
	hello := &agentv1.Hello{
		Node: s.cfg.Node, Instance: s.cfg.Instance, BootId: s.cfg.BootID, Session: number,
		Version: s.cfg.Version, Facts: wire.NodeFactsToProto(&facts), Generation: generation,
		SaysHoldings: true,
	}
	o := &open{Session: s, number: number, client: client, stream: stream, cancel: cancel, sending: make(chan struct{}, 1), assigned: make(chan struct{}, 1)}
	if err := o.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: hello}}); err != nil {
		return false, recvError(stream, err)
	}
	watchdog := time.AfterFunc(welcomeTimeout, cancel)
	first, err := stream.Recv()
	if err != nil {
		return false, err
	}
	welcome := first.GetWelcome()
	if welcome == nil {
		return false, errors.New("the coordinator's first message is not welcome")
	}
	watchdog.Reset(fullSetTimeout)
	s.mu.Lock()
	s.generation = welcome.GetGeneration()
	s.mu.Unlock()
	s.cfg.Welcomed(Welcome{
		ClusterID: welcome.GetClusterId(), Generation: welcome.GetGeneration(), GossipKey: welcome.GetGossipKey(),
		GossipSeeds: welcome.GetGossipSeeds(), LeaseTTL: welcome.GetLeaseTtl().AsDuration(),
	})
	if welcome.GetAskHoldings() {
		// Looked up now, as Welcome is the word of a coordinator that certainly serves.
		if err := o.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Holdings{Holdings: holdings(s.deps.Pods.Holdings(ctx))}}); err != nil {
			return false, recvError(stream, err)
		}
	}
	if !stopOpening() {
		return false, ctx.Err()
	}
	s.setUp(true, nil)
	s.deps.Log.Info("session opened", "session", number, "coordinator", welcome.GetOwner())
	defer s.deps.Pods.CutOff()
	return true, o.run(ctx, streamCtx, welcome, watchdog)
}

func holdings(all []spec.Holding) *agentv1.Holdings {
	pb := &agentv1.Holdings{}
	for _, h := range all {
		pb.All = append(pb.All, &agentv1.Holding{Uid: h.UID, Epoch: h.Epoch, Live: h.Live, Final: h.Final})
	}
	return pb
}

// recvError is why a stream that can't be sent to has ended.
func recvError(stream agentv1.AgentService_ConnectClient, err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	_, err = stream.Recv()
	return err
}

// open is one open session.
type open struct {
	*Session
	number int64
	client agentv1.AgentServiceClient
	stream agentv1.AgentService_ConnectClient
	cancel context.CancelFunc

	sending chan struct{} // holds one: a stream takes one sender at a time

	// assigned is signalled when assignments have come: the next renewal goes out at once, so that fenced pods among
	// them have time to start.
	assigned chan struct{}

	mu      sync.Mutex
	held    bool // the full set has come
	handles map[spec.ProbeID]uint32
}

func (o *open) send(m *agentv1.ConnectRequest) error {
	o.sending <- struct{}{}
	defer func() { <-o.sending }()
	return o.stream.Send(m)
}

// push sends while the session is held. When the stream is broken, receive is told why: only one may receive.
func (o *open) push(ctx context.Context, m *agentv1.ConnectRequest) error {
	if o.send(m) == nil {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

// run holds the session until a part of it fails or ctx ends.
func (o *open) run(ctx, streamCtx context.Context, welcome *agentv1.Welcome, watchdog *time.Timer) error {
	defer watchdog.Stop()
	o.handles = map[spec.ProbeID]uint32{}
	held := make(chan struct{})
	g, gctx := errgroup.WithContext(ctx)
	// A part that fails ends the streams, and with them the parts that wait for a message.
	context.AfterFunc(gctx, func() {
		if ctx.Err() != nil {
			o.bye()
		}
		o.cancel()
	})
	g.Go(func() error { return o.receive(gctx, held, watchdog) })
	g.Go(func() error { return o.renew(gctx, streamCtx, welcome.GetRenewEvery().AsDuration()) })
	g.Go(func() error {
		select {
		case <-gctx.Done():
			return gctx.Err()
		case <-held:
		}
		return o.report(gctx)
	})
	g.Go(func() error { return o.reportEvents(gctx) })
	g.Go(func() error {
		select {
		case <-gctx.Done():
			return gctx.Err()
		case <-o.deps.Pods.Reopen():
			return errReopen
		}
	})
	return g.Wait()
}

// bye tells the coordinator that the agent means to be back. It waits a moment for the message to leave.
func (o *open) bye() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		bye := &agentv1.Bye{Restart: durationpb.New(o.cfg.Comeback)}
		if o.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Bye{Bye: bye}}) != nil {
			return
		}
		o.sending <- struct{}{}
		defer func() { <-o.sending }()
		_ = o.stream.CloseSend() // the stream ends either way
	}()
	select {
	case <-done:
		// The coordinator ends the stream when it has read it all; receive sees that, or the bound below.
		select {
		case <-o.stream.Context().Done():
		case <-time.After(500 * time.Millisecond):
		}
	case <-time.After(time.Second):
	}
}

// receive takes in what the coordinator says.
func (o *open) receive(ctx context.Context, held chan struct{}, watchdog *time.Timer) error {
	var set Assignments
	var parts networkParts
	var services servicesParts
	var configs configsParts
	for {
		m, err := o.stream.Recv()
		if err != nil {
			return err
		}
		switch m := m.GetMessage().(type) {
		case *agentv1.ConnectResponse_Assignments:
			if err := o.gather(&set, m.Assignments); err != nil {
				return err
			}
			if m.Assignments.GetMore() {
				continue
			}
			o.deps.Pods.Assign(set)
			if set.Full {
				watchdog.Stop()
				o.mu.Lock()
				o.held = true
				o.mu.Unlock()
				close(held)
			}
			set = Assignments{}
			select {
			case o.assigned <- struct{}{}:
			default:
			}
		case *agentv1.ConnectResponse_Network:
			whole, err := parts.gather(m.Network)
			if err != nil {
				return err
			}
			if whole && o.cfg.Network != nil {
				o.cfg.Network(parts.network())
			}
		case *agentv1.ConnectResponse_Services:
			if services.gather(m.Services) && o.cfg.Services != nil {
				o.cfg.Services(services.take())
			}
		case *agentv1.ConnectResponse_Configs:
			if configs.gather(m.Configs) {
				o.deps.Pods.Configure(configs.take())
			}
		case *agentv1.ConnectResponse_RestartGuards:
			guards, err := wire.RestartGuardsFromProto(m.RestartGuards)
			if err != nil {
				return fmt.Errorf("restart guards: %w", err)
			}
			o.deps.Pods.Guard(guards)
		case *agentv1.ConnectResponse_StatusAck:
			o.deps.Pods.Acked(keys(m.StatusAck.GetCommitted()), keys(m.StatusAck.GetNotYours()))
		case *agentv1.ConnectResponse_Ask:
			go o.answer(ctx, m.Ask) // bounded by the coordinator, and ends with the session
		}
	}
}

func keys(pbs []*agentv1.HeldKey) []Held {
	out := make([]Held, len(pbs))
	for i, pb := range pbs {
		out[i] = Held{pb.GetUid(), pb.GetEpoch()}
	}
	return out
}

// gather adds one message to a set that comes in several.
func (o *open) gather(set *Assignments, pb *agentv1.Assignments) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if pb.GetFull() && o.held {
		return errors.New("a second full set in one session")
	}
	set.Session, set.Full = o.number, pb.GetFull()
	set.Removed = append(set.Removed, keys(pb.GetRemoved())...)
	for _, gone := range pb.GetRemoved() {
		maps.DeleteFunc(o.handles, func(id spec.ProbeID, _ uint32) bool { return id.PodUID == gone.GetUid() })
	}
	for _, a := range pb.GetAssignments() {
		pod, err := wire.PodFromProto(a.GetPod())
		if err != nil {
			return fmt.Errorf("assignment of pod %s: %w", a.GetPod().GetMeta().GetName(), err)
		}
		class, err := wire.FailoverClassFromProto(a.GetClass())
		if err != nil {
			return fmt.Errorf("assignment of pod %s: %w", pod.Key(), err)
		}
		set.Assigned = append(set.Assigned, Assigned{
			Pod: pod, Epoch: a.GetEpoch(), Class: class, Stop: a.GetStop(), StopReason: a.GetStopReason(), Restarts: a.GetRestarts(),
			Guarded: a.GetGuarded(),
		})
		handle := a.GetFirstProbeHandle()
		for _, c := range pod.Spec.AllContainers() {
			for _, kind := range spec.ProbeKinds {
				o.handles[spec.ProbeID{PodUID: pod.UID, Container: c.Name, Kind: kind}] = handle
				handle++
			}
		}
	}
	return nil
}

func (o *open) isHeld() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.held
}

// renew sends one renewal every so often, with the results of the meantime.
func (o *open) renew(ctx, streamCtx context.Context, every time.Duration) error {
	if every <= 0 {
		return errors.New("welcome.renew_every is not positive")
	}
	stream, err := o.client.Renew(streamCtx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for {
			m, err := stream.Recv()
			if err != nil {
				return err
			}
			o.deps.Lease.Acked(o.number, m.GetNumber(), m.GetTtl().AsDuration())
		}
	})
	g.Go(func() error {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for n := uint64(1); ; n++ {
			m := &agentv1.RenewRequest{
				Session: o.number, Number: n, Held: o.isHeld(), Longest: durationpb.New(o.deps.Lease.Longest()),
			}
			// A renewal waits for nothing: what is too much for it is the reporter's to send.
			if o.results.waiting() <= maxRiding {
				m.Results = o.batch(false)
			} else {
				o.results.signal()
			}
			o.deps.Lease.Sent(o.number, n)
			if stream.Send(m) != nil {
				<-ctx.Done() // the receiver is told why
				return ctx.Err()
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			case <-o.assigned:
			}
		}
	})
	return g.Wait()
}

// report says everything that is held, then what changes.
func (o *open) report(ctx context.Context) error {
	statuses, complete := o.deps.Pods.All(ctx)
	if err := o.sendStatuses(ctx, statuses, complete); err != nil {
		return err
	}
	o.results.begin(o.deps.Probes.States())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return o.reportUsage(ctx) })
	g.Go(func() error { return o.reportRestarts(ctx) })
	g.Go(func() error {
		for {
			statuses, err := o.deps.Pods.Next(ctx, batchStatuses)
			if err != nil {
				return err
			}
			if err := o.sendStatuses(ctx, statuses, false); err != nil {
				return err
			}
		}
	})
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-o.results.changed:
			}
			// Verdicts do not wait for the next renewal.
			if batch := o.batch(true); batch != nil {
				if err := o.push(ctx, &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Results{Results: batch}}); err != nil {
					return err
				}
			}
		}
	})
	return g.Wait()
}

func (o *open) sendStatuses(ctx context.Context, statuses []spec.HeldStatus, complete bool) error {
	for first := true; first || len(statuses) > 0; first = false {
		n := min(batchStatuses, len(statuses))
		batch := &agentv1.StatusBatch{Complete: complete && n == len(statuses)}
		for i := range statuses[:n] {
			batch.Statuses = append(batch.Statuses, wire.HeldStatusToProto(&statuses[i]))
		}
		statuses = statuses[n:]
		if err := o.push(ctx, &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Statuses{Statuses: batch}}); err != nil {
			return err
		}
	}
	return nil
}

// reportRestarts says how every guarded pod stands, then what changes.
func (o *open) reportRestarts(ctx context.Context) error {
	for all := true; ; all = false {
		words, err := o.deps.Pods.NextRestarts(ctx, all)
		if err != nil {
			return err
		}
		for part := range slices.Chunk(words, wire.MaxGuarded) {
			if err := o.push(ctx, &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Restarts{Restarts: wire.RestartsToProto(part)}}); err != nil {
				return err
			}
		}
	}
}

func (o *open) reportEvents(ctx context.Context) error {
	for {
		events, err := o.deps.Events.Next(ctx, batchEvents)
		if err != nil {
			return err
		}
		batch := &agentv1.EventBatch{}
		for i := range events {
			batch.Events = append(batch.Events, wire.EventToProto(&events[i]))
		}
		if err := o.push(ctx, &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Events{Events: batch}}); err != nil {
			return err
		}
	}
}

// answer answers one question through a stream of its own.
func (o *open) answer(ctx context.Context, ask *agentv1.Ask) {
	if q := ask.GetExec(); q != nil {
		o.interact(ctx, ask.GetId(), q)
		return
	}
	if q := ask.GetForward(); q != nil {
		o.forward(ctx, ask.GetId(), q)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := o.client.Answer(ctx)
	if err != nil {
		return // the session is over, and the question with it
	}
	w := &answerWriter{stream: stream, id: ask.GetId(), over: make(chan struct{})}
	go func() {
		// The coordinator ends the stream when it has it all, or when whoever asked has gone: a log that is followed may
		// have nothing to say for long.
		defer close(w.over)
		defer cancel()
		_ = stream.RecvMsg(&agentv1.AnswerResponse{})
	}()
	switch q := ask.GetQuestion().(type) {
	case *agentv1.Ask_Logs:
		opts := LogOptions{Follow: q.Logs.GetFollow(), Tail: -1, Timestamps: q.Logs.GetTimestamps()}
		if q.Logs.Tail != nil {
			opts.Tail = int(q.Logs.GetTail())
		}
		if q.Logs.GetSince() != nil {
			opts.Since = time.Now().Add(-q.Logs.GetSince().AsDuration())
		}
		err = o.deps.Pods.Logs(ctx, q.Logs.GetUid(), q.Logs.GetContainer(), q.Logs.GetPrevious(), opts, w)
	case *agentv1.Ask_Results:
		err = w.results(o.lookUp(q.Results))
	case *agentv1.Ask_Evidence:
		err = o.evidence(ctx, w, q.Evidence)
	case *agentv1.Ask_Follow:
		err = o.deps.Probes.Follow(ctx, asked(q.Follow), w.followed)
	default:
		err = fmt.Errorf("question %T: not built yet", q)
	}
	w.end(err)
}

// asked tells which probes a question is about.
func asked(q interface {
	GetUid() string
	GetContainer() string
	GetKind() musterv1.ProbeKind
}) func(spec.ProbeID) bool {
	return func(id spec.ProbeID) bool {
		return id.PodUID == q.GetUid() && (q.GetContainer() == "" || q.GetContainer() == id.Container) &&
			(q.GetKind() == musterv1.ProbeKind_PROBE_KIND_UNSPECIFIED || q.GetKind() == wire.ProbeKindToProto(id.Kind))
	}
}

func (o *open) lookUp(q *agentv1.ResultsAsk) []*musterv1.ProbeAttempt {
	var out []*musterv1.ProbeAttempt
	limit := max(0, int(q.GetLimit()))
	match := asked(q)
	for _, st := range o.deps.Probes.States() {
		if !match(st.ID) {
			continue
		}
		for _, a := range o.deps.Probes.Results(st.ID, limit) {
			out = append(out, wire.ProbeAttemptToProto(st.ID, &a))
		}
	}
	sortAttempts(out)
	return out[max(0, len(out)-limit):]
}

// evidenceResults is how many results of each probe come with what is kept of its container.
const evidenceResults = 8

// evidence says what is kept of a pod's containers, each in a piece of its own.
func (o *open) evidence(ctx context.Context, w *answerWriter, q *agentv1.EvidenceAsk) error {
	all, err := o.deps.Pods.Evidence(ctx, q.GetUid(), q.GetContainer())
	if err != nil {
		return err
	}
	for i := range all {
		for _, kind := range spec.ProbeKinds {
			id := spec.ProbeID{PodUID: q.GetUid(), Container: all[i].Container, Kind: kind}
			for _, a := range o.deps.Probes.Results(id, evidenceResults) {
				all[i].Results = append(all[i].Results, spec.ProbeAttempt{ID: id, Attempt: a})
			}
		}
		if err := w.send(&agentv1.AnswerRequest{Answer: &agentv1.AnswerRequest_Evidence{Evidence: wire.EvidenceToProto(&all[i])}}); err != nil {
			return err
		}
	}
	return nil
}
