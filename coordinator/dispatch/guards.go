package dispatch

import (
	"cmp"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// Guards is what the sessions need of coordinator/restarts.
type Guards interface {
	// Guarded is how the restart guard stands for a pod's binding; false where there is none.
	Guarded(v *store.View, p *fleet.Pod) (spec.PodGuard, bool)
	// Heard takes in what a node's agent says of the restarts of its pods.
	Heard(node string, words []spec.RestartWord)
}

// Wake has sessions look for something new to tell their agents.
func (d *Dispatch) Wake(nodes []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, node := range nodes {
		d.wakeLocked(node)
	}
}

// guards sends how the restart guards stand for the pods that the agent was told of, if that has changed.
func (d *Dispatch) guards(stream agentv1.AgentService_ConnectServer, s *session) error {
	if d.deps.Guards == nil {
		return nil
	}
	v := d.deps.Cache.View()
	var now []spec.PodGuard
	for _, sent := range s.sent {
		p, ok := fleet.LookupPod(v, sent.name)
		if !ok || p.Epoch != sent.epoch {
			continue // there is a new assignment on its way
		}
		if g, ok := d.deps.Guards.Guarded(v, &p); ok {
			now = append(now, g)
		}
	}
	slices.SortFunc(now, func(a, b spec.PodGuard) int { return cmp.Compare(a.UID, b.UID) })
	if slices.Equal(now, s.sentGuards) {
		return nil
	}
	s.sentGuards = now
	return stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_RestartGuards{RestartGuards: wire.RestartGuardsToProto(now)}})
}

// takeRestarts hands on what an agent says of restarts, as long as its session is the node's.
func (d *Dispatch) takeRestarts(s *session, pb *agentv1.RestartBatch) error {
	words, err := wire.RestartsFromProto(pb)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "restarts: %v", err)
	}
	if d.deps.Guards != nil && d.session(s.node, s.number) == s {
		d.deps.Guards.Heard(s.node, words)
	}
	return nil
}
