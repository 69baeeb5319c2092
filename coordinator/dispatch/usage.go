package dispatch

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/coordinator/usage"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/wire"
)

// takeUsage keeps what a node uses. Containers whose handles are no longer agreed are of pods that are gone.
func (d *Dispatch) takeUsage(s *session, pb *agentv1.UsageBatch) error {
	u, containers, err := wire.UsageBatchFromProto(pb, time.Now())
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "usage: %v", err)
	}
	r := &usage.Report{
		Session: s.number, At: u.At, Window: u.Window, Machine: u.Machine, Agent: u.Agent, Supervisors: u.Supervisors, Probes: u.Probes,
		Containers: make([]usage.Container, 0, len(containers)),
	}
	s.mu.Lock()
	for _, c := range containers {
		if key, ok := s.handles[c.Handle]; ok {
			r.Containers = append(r.Containers, usage.Container{UID: key.PodUID, Epoch: key.Epoch, Name: key.Container, Usage: c.Usage})
		}
	}
	s.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sessions[s.node] == s { // else it is over, and what it said is forgotten
		d.deps.Usage.Put(s.node, r)
	}
	return nil
}
