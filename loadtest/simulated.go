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
	session *session.Session
	pods    *simulatedPods
}

// newSimulated is the agent of a node that has its certificate; it takes at most so many pods.
func newSimulated(node string, maxPods int, server string, creds *identity.Credentials) *simulated {
	holder := &identity.Holder{}
	holder.Set(creds.TLS())
	tls := credentials.NewTLS(identity.ClientTLS(creds.CA, holder))
	a := &simulated{pods: &simulatedPods{held: map[string]spec.HeldStatus{}, more: make(chan struct{}, 1)}}
	facts := spec.NodeFacts{
		Address: "127.0.0.1", Allocatable: spec.ResourceList{MilliCPU: 1 << 20, MemoryBytes: 1 << 50}, MaxPods: int32(maxPods), Runtimes: []string{"process"},
		Isolation: "full", Images: "ignore", BootID: node, Instance: node, Version: version.Version, OS: "linux", Network: spec.NetworkNone,
	}
	a.session = session.New(session.Config{
		Node: node, Instance: node, BootID: node, Version: version.Version, Facts: func() spec.NodeFacts { return facts },
		Dial: func(context.Context) (*grpc.ClientConn, error) {
			return grpc.NewClient("passthrough:///"+server, grpc.WithTransportCredentials(tls))
		},
		Welcomed: func(session.Welcome) {},
	}, session.Deps{
		Lease: &simulatedLease{}, Pods: a.pods, Probes: simulatedProbes{}, Events: simulatedEvents{}, Log: slog.New(slog.DiscardHandler),
	})
	return a
}

// feed observes each probe once a period, at moments that seed spreads over it, until ctx ends. The order of the probes has
// nothing to do with that of their pods. told is told how many attempts each step had.
func (a *simulated) feed(ctx context.Context, ids []spec.ProbeID, period time.Duration, seed uint64, told func(int)) {
	ids = slices.Clone(ids)
	r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // it is to be the same each time
	r.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	sleep(ctx, time.Duration(r.Int64N(int64(feedEvery)))) // agents do not wake together
	start, done := time.Now(), 0
	for tick := time.NewTicker(feedEvery); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
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

// feedEvery is how often a simulated agent makes what is due.
const feedEvery = 50 * time.Millisecond

// simulatedLease numbers sessions: there is no pod to keep from running on.
type simulatedLease struct{ sessions int64 }

func (l *simulatedLease) Hello() (int64, error) { // called by one goroutine, for one session after the other
	l.sessions++
	return l.sessions, nil
}
func (l *simulatedLease) Sent(int64, uint64)                 {}
func (l *simulatedLease) Acked(int64, uint64, time.Duration) {}
func (l *simulatedLease) Longest() time.Duration             { return 0 }

// simulatedPods are pods that run as soon as they are assigned.
type simulatedPods struct {
	mu   sync.Mutex
	held map[string]spec.HeldStatus
	ids  []spec.ProbeID
	// fresh are statuses that were not told yet, more is signalled when there are some.
	fresh []spec.HeldStatus
	more  chan struct{}
}

func (p *simulatedPods) Assign(a session.Assignments) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, at := range a.Assigned {
		status := spec.HeldStatus{UID: at.Pod.UID, Epoch: at.Epoch, Stopped: at.Stop, Status: running(at.Pod, now)}
		if _, known := p.held[at.Pod.UID]; !known {
			for _, c := range at.Pod.Spec.AllContainers() {
				for kind, probe := range map[spec.ProbeKind]*spec.Probe{spec.Liveness: c.Liveness, spec.Readiness: c.Readiness, spec.Startup: c.Startup} {
					if probe != nil {
						p.ids = append(p.ids, spec.ProbeID{PodUID: at.Pod.UID, Container: c.Name, Kind: kind})
					}
				}
			}
		}
		p.held[at.Pod.UID] = status
		p.fresh = append(p.fresh, status)
	}
	for _, gone := range a.Removed {
		delete(p.held, gone.UID)
	}
	select {
	case p.more <- struct{}{}:
	default:
	}
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

// probes are those of all pods that were ever assigned, and how many pods are held.
func (p *simulatedPods) probes() (ids []spec.ProbeID, pods int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.ids), len(p.held)
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

// simulatedProbes have no verdicts to tell: all stay as they were declared.
type simulatedProbes struct{}

func (simulatedProbes) States() []spec.ProbeState                { return nil }
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
