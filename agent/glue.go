package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/history"
	"github.com/musterhq/muster/agent/lease"
	"github.com/musterhq/muster/agent/prober"
	"github.com/musterhq/muster/agent/runner"
	"github.com/musterhq/muster/agent/session"
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
	err := p.Runner.Logs(ctx, uid, name, runner.LogOptions{LogOptions: container.LogOptions(o), Previous: previous}, w)
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

func (p *probeMemory) Results(id spec.ProbeID, n int) []spec.Attempt { return p.history.Last(id, n) }

// sleep waits, or returns false when ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
