package session

import (
	"context"
	"time"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// Usage is what the session needs of agent/usage.
type Usage interface {
	// Next waits for a measurement with a higher number than that, and returns the newest and its number. 0 is before the
	// first.
	Next(ctx context.Context, after uint64) (spec.NodeUsage, uint64, error)
}

// reportUsage says what the node uses, each time it was measured. A new session hears the newest measurement at once.
func (o *open) reportUsage(ctx context.Context) error {
	if o.deps.Usage == nil {
		return nil
	}
	for last := uint64(0); ; {
		u, number, err := o.deps.Usage.Next(ctx, last)
		if err != nil {
			return err
		}
		last = number
		batch := wire.UsageBatchToProto(&u, time.Since(u.At), o.handled(u.Containers))
		if err := o.push(ctx, &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Usage{Usage: batch}}); err != nil {
			return err
		}
	}
}

// handled puts handles to the containers that this session has any for: others are of pods that are not assigned.
func (o *open) handled(containers []spec.ContainerUsage) []wire.HandleUsage {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []wire.HandleUsage
	for _, c := range containers {
		h, ok := o.handles[spec.ProbeID{PodUID: c.PodUID, Container: c.Container, Kind: spec.Liveness}]
		if ok && len(out) < wire.MaxUsages {
			out = append(out, wire.HandleUsage{Handle: h, Usage: c.Usage})
		}
	}
	return out
}
