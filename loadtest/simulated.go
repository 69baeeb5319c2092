package loadtest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/session"
	"github.com/musterhq/muster/internal/identity"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/version"
)

// simulated is an agent that holds pods without running them: its session is a real one, and says of every pod that it runs and is
// ready, and of its probes whatever feed makes.
type simulated struct {
	maxPods int32
	session *session.Session
	pods    *simulatedPods
	lease   *simulatedLease

	// stop ends the session once it was started, and ended is closed then.
	stop  context.CancelFunc
	ended chan struct{}

	mu   sync.Mutex
	conn *grpc.ClientConn
	// room is how many pods it takes.
	room int32
	// lost agents connect no more.
	lost bool
}

// start opens the agent's session, which outlives ctx: end ends it.
func (a *simulated) start(ctx context.Context) {
	ctx, a.stop = context.WithCancel(context.WithoutCancel(ctx))
	a.ended = make(chan struct{})
	go func() {
		defer close(a.ended)
		_ = a.session.Run(ctx) // it goes on until it is ended
	}()
}

// end ends the session in an orderly way, and waits for it.
func (a *simulated) end() {
	if a.stop != nil {
		a.stop()
		<-a.ended
	}
}

// admit lets it take its pods, with a new session, which says so. The old one ends in an orderly way: where there are real agents, which
// are asked and do not hear this one, a node whose session breaks off is lost in less than a second.
func (a *simulated) admit(ctx context.Context) {
	a.mu.Lock()
	a.room = a.maxPods
	a.mu.Unlock()
	a.end()
	a.start(ctx)
}

// cut ends the agent's connection as a loss of its network would, without a word; its session opens anew at once.
func (a *simulated) cut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conn != nil {
		a.conn.Close()
	}
}

// States are what is believed of its probes.
func (a *simulated) States() []spec.ProbeState {
	ids, _ := a.pods.probes()
	out := make([]spec.ProbeState, len(ids))
	for i, id := range ids {
		out[i] = spec.ProbeState{ID: id, Verdict: spec.ResultSuccess, Since: a.pods.since, RunLength: 1}
	}
	return out
}

// newSimulated is the agent of a node that has its certificate; it takes at most so many pods, and none before it is admitted.
// The run is the test's, and its nodes' label. guard is where the node's guard is asked; empty for none.
func newSimulated(node, run string, maxPods int, admitted bool, guard, server string, creds *identity.Credentials) *simulated {
	holder := &identity.Holder{}
	holder.Set(creds.TLS())
	tls := credentials.NewTLS(identity.ClientTLS(creds.CA, holder))
	a := &simulated{maxPods: int32(maxPods), pods: &simulatedPods{held: map[string]spec.HeldStatus{}, more: make(chan struct{}, 1), since: time.Now()}, lease: &simulatedLease{sessions: time.Now().UnixMilli()}}
	facts := spec.NodeFacts{
		Address: "127.0.0.1", GuardAddress: guard, Allocatable: spec.ResourceList{MilliCPU: 1 << 20, MemoryBytes: 1 << 50}, Runtimes: []string{"process"},
		Isolation: "full", Images: "ignore", BootID: node, Instance: node, Version: version.Version, OS: "linux", Network: spec.NetworkNone,
		Labels: map[string]string{simulatedLabel: run},
	}
	if admitted {
		a.room = a.maxPods
	}
	a.session = session.New(session.Config{
		Node: node, Instance: node, BootID: node, Version: version.Version, Facts: func() spec.NodeFacts {
			a.mu.Lock()
			defer a.mu.Unlock()
			facts.MaxPods = a.room
			return facts
		},
		Dial: func(context.Context) (*grpc.ClientConn, error) {
			conn, err := grpc.NewClient("passthrough:///"+server, grpc.WithTransportCredentials(tls))
			if err != nil {
				return nil, err
			}
			return a.dialed(conn)
		},
		Welcomed: func(session.Welcome) {},
	}, session.Deps{
		Lease: a.lease, Pods: a.pods, Probes: simulatedProbes{states: a.States}, Events: simulatedEvents{}, Log: slog.New(slog.DiscardHandler),
	})
	a.pods.believe = a.session.Believe
	return a
}

// feed observes each probe but skip once a period, at moments that seed spreads over it, until ctx ends. The order of the probes
// has nothing to do with that of their pods. told is told how many attempts each step had.
func (a *simulated) feed(ctx context.Context, skip *spec.ProbeID, period time.Duration, seed uint64, told func(int)) {
	r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // it is to be the same each time
	every := min(max(period/10, leastFeed), mostFeed)
	sleep(ctx, time.Duration(r.Int64N(int64(every)))) // agents do not wake together
	var ids []spec.ProbeID
	known, start, done := 0, time.Now(), 0
	for tick := time.NewTicker(every); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		if a.pods.changed(known) {
			fresh, version := a.pods.probes()
			ids, known = slices.DeleteFunc(fresh, func(id spec.ProbeID) bool { return skip != nil && id == *skip }), version
			r.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
			start, done = time.Now(), 0
		}
		due := int(time.Since(start).Seconds() / period.Seconds() * float64(len(ids)))
		told(due - done)
		for ; done < due; done++ {
			a.session.Observe(ids[done%len(ids)], spec.Attempt{
				Start: time.Now(), Outcome: spec.OutcomeSuccess, Result: spec.ResultSuccess, Duration: time.Millisecond, CPU: -1, Lag: time.Millisecond,
			})
		}
	}
}

// A simulated agent makes what is due ten times a period, within these bounds: it goes with a renewal, once a second, anyway.
const leastFeed, mostFeed = 50 * time.Millisecond, time.Second

// simulatedLease numbers sessions and notes when each was first acknowledged: there is no pod to keep from running on.
type simulatedLease struct {
	mu sync.Mutex
	// sessions is the newest one's number: above that of every one before, also of earlier tests' nodes of that name.
	sessions int64
	// mark is the newest session when the coordinator was killed, first when one after it was acknowledged first.
	mark  int64
	first time.Time
}

func (l *simulatedLease) Hello() (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions++
	return l.sessions, nil
}

func (l *simulatedLease) Sent(int64, uint64) {}

func (l *simulatedLease) Acked(session int64, _ uint64, _ time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if session > l.mark && l.mark > 0 && l.first.IsZero() {
		l.first = time.Now()
	}
}

func (l *simulatedLease) Longest() time.Duration { return 0 }

// expect makes only an acknowledgement of a session later than all so far count.
func (l *simulatedLease) expect() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mark, l.first = l.sessions, time.Time{}
}

// again is when that came; zero: not yet.
func (l *simulatedLease) again() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first
}

// simulatedPods are pods that run as soon as they are assigned.
type simulatedPods struct {
	mu   sync.Mutex
	held map[string]spec.HeldStatus
	// ids are the held pods' probes; version rises with each change of them.
	ids     []spec.ProbeID
	version int
	// since is when all verdicts were reached; believe tells them.
	since   time.Time
	believe func(spec.ProbeState)
	// fresh are statuses that were not told yet, more is signalled when there are some.
	fresh []spec.HeldStatus
	more  chan struct{}
}

func (p *simulatedPods) Assign(a session.Assignments) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if a.Full {
		wanted := map[string]bool{}
		for _, at := range a.Assigned {
			wanted[at.Pod.UID] = true
		}
		for uid := range p.held {
			if !wanted[uid] {
				p.dropLocked(uid)
			}
		}
	}
	for _, at := range a.Assigned {
		stop := at.Stop || at.Pod.Deleting()
		if was, known := p.held[at.Pod.UID]; known && was.Epoch == at.Epoch && was.Stopped == stop {
			continue // it runs on as it did
		}
		status := spec.HeldStatus{UID: at.Pod.UID, Epoch: at.Epoch, Stopped: stop, Status: running(at.Pod, now)}
		if _, known := p.held[at.Pod.UID]; !known {
			for _, c := range at.Pod.Spec.AllContainers() {
				for kind, probe := range map[spec.ProbeKind]*spec.Probe{spec.Liveness: c.Liveness, spec.Readiness: c.Readiness, spec.Startup: c.Startup} {
					if probe != nil {
						id := spec.ProbeID{PodUID: at.Pod.UID, Container: c.Name, Kind: kind}
						p.ids = append(p.ids, id)
						p.believe(spec.ProbeState{ID: id, Verdict: spec.ResultSuccess, Since: p.since}) // without an attempt: the first one counts
					}
				}
			}
		}
		p.held[at.Pod.UID] = status
		p.fresh = append(p.fresh, status)
	}
	for _, gone := range a.Removed {
		p.dropLocked(gone.UID)
	}
	p.version++
	select {
	case p.more <- struct{}{}:
	default:
	}
}

func (p *simulatedPods) dropLocked(uid string) {
	delete(p.held, uid)
	p.ids = slices.DeleteFunc(p.ids, func(id spec.ProbeID) bool { return id.PodUID == uid })
}

func (p *simulatedPods) Guard([]spec.PodGuard) {}
func (p *simulatedPods) CutOff()               {}

// NextRestarts has nothing to say: these pods never fail.
func (p *simulatedPods) Holdings(context.Context) []spec.Holding { return nil }

func (p *simulatedPods) NextRestarts(ctx context.Context, all bool) ([]spec.RestartWord, error) {
	if all {
		return nil, nil
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// running is the status of a pod all of whose containers are ready.
func running(p *spec.Pod, since time.Time) spec.PodStatus {
	s := spec.PodStatus{Phase: spec.PhaseRunning, PodIP: "127.0.0.1", HostIP: "127.0.0.1", StartTime: since}
	for _, t := range []string{"PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"} {
		s.Conditions = append(s.Conditions, spec.Condition{Type: t, Status: spec.ConditionTrue, TransitionTime: since})
	}
	for _, c := range p.Spec.Containers {
		s.Containers = append(s.Containers, spec.ContainerStatus{
			Name: c.Name, ID: "process://" + p.UID + "/" + c.Name + "/0-simulated", Started: true, Ready: true,
			State: spec.ContainerState{Running: &spec.Running{StartedAt: since}},
		})
	}
	return s
}

func (p *simulatedPods) All(context.Context) ([]spec.HeldStatus, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fresh = nil
	var all []spec.HeldStatus
	for _, s := range p.held {
		all = append(all, s)
	}
	return all, true
}

func (p *simulatedPods) Next(ctx context.Context, n int) ([]spec.HeldStatus, error) {
	for {
		p.mu.Lock()
		out := p.fresh[:min(n, len(p.fresh))]
		p.fresh = p.fresh[len(out):]
		p.mu.Unlock()
		if len(out) > 0 {
			return out, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-p.more:
		}
	}
}

// changed tells whether the probes are others than those of that version.
func (p *simulatedPods) changed(version int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.version != version
}

// probes are those of all pods that are held, and a number that is another after each change.
func (p *simulatedPods) probes() (ids []spec.ProbeID, version int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.ids), p.version
}

// count is how many pods are held that are not to stop.
func (p *simulatedPods) count() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.held {
		if !s.Stopped {
			n++
		}
	}
	return n
}

func (p *simulatedPods) Acked([]session.Held, []session.Held) {}
func (p *simulatedPods) Configure(session.Configs)            {}
func (p *simulatedPods) Reopen() <-chan struct{}              { return nil }

var errSimulated = fmt.Errorf("a simulated agent runs nothing: %w", session.ErrNotFound)

func (p *simulatedPods) Logs(context.Context, string, string, bool, session.LogOptions, io.Writer) error {
	return errSimulated
}

func (p *simulatedPods) Evidence(context.Context, string, string) ([]spec.ContainerEvidence, error) {
	return nil, errSimulated
}

func (p *simulatedPods) RunCommand(context.Context, string, string, container.Interaction) (int32, error) {
	return 0, errSimulated
}

func (p *simulatedPods) Dial(context.Context, string, int) (container.Conn, error) {
	return nil, errSimulated
}

// simulatedProbes have succeeded since they were assigned.
type simulatedProbes struct{ states func() []spec.ProbeState }

func (p simulatedProbes) States() []spec.ProbeState              { return p.states() }
func (simulatedProbes) Results(spec.ProbeID, int) []spec.Attempt { return nil }
func (simulatedProbes) Follow(ctx context.Context, _ func(spec.ProbeID) bool, take func([]spec.ProbeAttempt, uint64) error) error {
	if err := take(nil, 0); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// simulatedEvents never come.
type simulatedEvents struct{}

func (simulatedEvents) Next(ctx context.Context, _ int) ([]spec.Event, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
