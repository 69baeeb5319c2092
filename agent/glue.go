package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/dns"
	"github.com/musterhq/muster/agent/history"
	"github.com/musterhq/muster/agent/lease"
	"github.com/musterhq/muster/agent/network"
	"github.com/musterhq/muster/agent/network/hostgw"
	"github.com/musterhq/muster/agent/prober"
	"github.com/musterhq/muster/agent/runner"
	"github.com/musterhq/muster/agent/session"
	"github.com/musterhq/muster/internal/event"
	"github.com/musterhq/muster/internal/fence"
	"github.com/musterhq/muster/internal/spec"
)

const arch = runtime.GOARCH

func cpus() int { return runtime.NumCPU() }

func memoryBytes() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

// probes speaks to the prober as the runner does.
type probes struct{ *prober.Prober }

func (p probes) Set(r runner.ProbeRow) { p.Prober.Set(prober.Row(r)) }

// pods speaks of the runner's pods as the session does, and tells the lease first what is assigned.
type pods struct {
	*runner.Runner
	lease *lease.Lease
}

func (p *pods) Assign(a session.Assignments) {
	set := runner.Assignments{Session: a.Session, Full: a.Full}
	var fenced, withdrawn []fence.Binding
	for i := range a.Assigned {
		at := &a.Assigned[i]
		set.Assigned = append(set.Assigned, runner.Assigned(*at))
		if at.Class == spec.Fenced {
			fenced = append(fenced, fence.Binding{UID: at.Pod.UID, Epoch: at.Epoch})
		}
	}
	for _, h := range a.Removed {
		set.Removed = append(set.Removed, container.PodRef(h))
		withdrawn = append(withdrawn, fence.Binding(h))
	}
	p.lease.Withdraw(a.Session, withdrawn)
	p.lease.Assign(a.Session, a.Full, fenced)
	p.Runner.Assign(set)
}

func (p *pods) Configure(c session.Configs) { p.Runner.Configure(runner.Configs(c)) }

func refs(held []session.Held) []container.PodRef {
	out := make([]container.PodRef, len(held))
	for i, h := range held {
		out[i] = container.PodRef(h)
	}
	return out
}

func (p *pods) Acked(committed, notYours []session.Held) {
	p.Runner.Acked(refs(committed), refs(notYours))
}

func (p *pods) Logs(ctx context.Context, uid, name string, previous bool, o session.LogOptions, w io.Writer) error {
	return absent(p.Runner.Logs(ctx, uid, name, runner.LogOptions{LogOptions: container.LogOptions(o), Previous: previous}, w))
}

func (p *pods) Evidence(ctx context.Context, uid, name string) ([]spec.ContainerEvidence, error) {
	all, err := p.Runner.Evidence(ctx, uid, name)
	return all, absent(err)
}

func (p *pods) RunCommand(ctx context.Context, uid, name string, cmd container.Interaction) (int32, error) {
	code, err := p.Runner.Interact(ctx, uid, name, cmd)
	if errors.Is(err, runner.ErrNotStarted) {
		return 0, fmt.Errorf("%w: %w", container.ErrNotRunning, err)
	}
	return code, absent(err)
}

func (p *pods) Dial(ctx context.Context, uid string, port int) (container.Conn, error) {
	conn, err := p.Runner.Dial(ctx, uid, port)
	return conn, absent(err)
}

// absent puts what is not here into the session's words.
func absent(err error) error {
	if errors.Is(err, runner.ErrNotFound) || errors.Is(err, runner.ErrNotStarted) || errors.Is(err, container.ErrNotFound) {
		return fmt.Errorf("%w: %w", session.ErrNotFound, err)
	}
	return err
}

// probeMemory is what the session reads of probes.
type probeMemory struct {
	prober  *prober.Prober
	history *history.History
}

func (p *probeMemory) States() []spec.ProbeState { return p.prober.States() }

func (p *probeMemory) Follow(ctx context.Context, match func(spec.ProbeID) bool, take func([]spec.ProbeAttempt, uint64) error) error {
	return p.history.Follow(ctx, match, take)
}

func (p *probeMemory) Results(id spec.ProbeID, n int) []spec.Attempt { return p.history.Last(id, n) }

// flat is the node's part of the flat network; nil where it has none, and then what it once had is taken away.
func (a *Agent) flat(mode string, cfg hostgw.Config, addresses *network.Allocator) (*hostgw.Network, error) {
	if mode == spec.NetworkHostGW {
		return hostgw.New(cfg, addresses, a.cfg.Log)
	}
	if !hostgw.Permitted() {
		return nil, nil
	}
	return nil, hostgw.Clean(cfg)
}

// ports is how a runner publishes the ports of pods.
type ports struct{ flat *hostgw.Network }

func published(flat *hostgw.Network) runner.Ports {
	if flat == nil {
		return nil
	}
	return ports{flat}
}

// Publish puts the ports in hostgw's words; the spec's bounds are 1 to 65535.
func (p ports) Publish(uid string, all []runner.PublishedPort) error {
	var out []hostgw.Port
	for _, port := range all {
		out = append(out, hostgw.Port{Protocol: strings.ToLower(port.Protocol), Host: uint16(port.Host), Pod: uint16(port.Pod)})
	}
	return p.flat.Publish(uid, out)
}

// networkTold hands on what the coordinator says of the network; nil for a node that takes no part in it.
func networkTold(flat *hostgw.Network, resolver *dns.Server, log *slog.Logger) func(session.Network) {
	if flat == nil {
		return nil
	}
	return func(n session.Network) {
		c := hostgw.Cluster{Own: n.PodCIDR, All: n.ClusterCIDR}
		for _, m := range n.Nodes {
			c.Nodes = append(c.Nodes, hostgw.Node{Name: m.Node, Address: m.Address, Pods: m.PodCIDR})
		}
		if err := flat.Set(c); err != nil {
			log.Error("pod network not taken in", "err", err)
		}
		resolver.Listen(dns.Address{IP: flat.Gateway()})
	}
}

// networkProblem makes events of what keeps pods out of reach.
func networkProblem(events *event.Recorder, node string) func(string) {
	ref := spec.ObjectRef{Kind: "Node", Name: node}
	return func(text string) {
		if text == "" {
			events.Record(ref, spec.EventNormal, "NetworkReady", "Pods of all nodes are in reach")
		} else {
			events.Record(ref, spec.EventWarning, "NetworkNotReady", text)
		}
	}
}

// probesLate makes events of a prober that can not keep up.
func probesLate(events *event.Recorder, node string) func(spec.ProbeLateness) {
	ref := spec.ObjectRef{Kind: "Node", Name: node}
	return func(l spec.ProbeLateness) {
		if !l.Overloaded {
			events.Record(ref, spec.EventNormal, "ProbesOnTime", "Probes are asked in time again")
			return
		}
		events.Record(ref, spec.EventWarning, "ProbesLate", fmt.Sprintf(
			"Probes are asked late, %d of the last %d and up to %v: the agent has too little of the processor, or too many probes. "+
				"All are asked more seldom; none is taken for failed that was not asked", l.Late, l.Begun, l.Most.Round(10*time.Millisecond)))
	}
}

// sleep waits, or returns false when ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
