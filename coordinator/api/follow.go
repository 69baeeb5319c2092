package api

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

const (
	// maxFollowed bounds the results of one message.
	maxFollowed = 256
	// rebindWait is how long it takes at most to find out where a pod goes that has left its node: placement takes less, unless
	// it fits nowhere.
	rebindWait = 3 * time.Second
)

// WatchProbeResults implements ProbeService: what a pod's probes answer from now on, as its node's agent tells it. Nothing
// waits here: whoever reads slowly holds up the agent's stream, and the agent drops and counts.
func (s *probeService) WatchProbeResults(req *musterv1.WatchProbeResultsRequest, stream musterv1.ProbeService_WatchProbeResultsServer) error {
	p, err := s.held(req.GetNamespace(), req.GetPod())
	if err != nil {
		return err
	}
	if err := followable(&p, req.GetContainer(), req.GetKind()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	over := make(chan string, 1)
	go func() {
		over <- s.untilOver(ctx, &p)
		cancel()
	}()
	ask := &agentv1.Ask{Question: &agentv1.Ask_Follow{Follow: &agentv1.FollowAsk{Uid: p.UID, Container: req.GetContainer(), Kind: req.GetKind()}}}
	err = s.deps.Sessions.Ask(ctx, p.Node(), ask, func(a *agentv1.AnswerRequest) error {
		if e := a.GetError(); e != nil {
			return answered(e)
		}
		f := a.GetFollowed()
		if n := len(f.GetResults()); n > maxFollowed {
			return fmt.Errorf("node %s told %d results at once, more than %d", p.Node(), n, maxFollowed)
		}
		return stream.Send(&musterv1.WatchProbeResultsResponse{Results: f.GetResults(), Dropped: f.GetDropped()})
	})
	cancel()
	if why := <-over; why != "" {
		return stream.Send(&musterv1.WatchProbeResultsResponse{Ended: why})
	}
	if err == nil {
		return status.Errorf(codes.Unavailable, "node %s has ended the answer without a word", p.Node())
	}
	return err
}

// followable tells whether the pod has such a probe.
func followable(p *fleet.Pod, container string, kind musterv1.ProbeKind) error {
	kinds := spec.ProbeKinds[:]
	if kind != musterv1.ProbeKind_PROBE_KIND_UNSPECIFIED {
		k, err := wire.ProbeKindFromProto(kind)
		if err != nil {
			return invalid("kind", err.Error())
		}
		kinds = []spec.ProbeKind{k}
	}
	if container != "" && p.Spec.Container(container) == nil {
		var have []string
		for _, c := range p.Spec.AllContainers() {
			have = append(have, c.Name)
		}
		return invalid("container", fmt.Sprintf("pod %s has no container %q, it has %v", p.Key(), container, have))
	}
	for _, c := range p.Spec.AllContainers() {
		if (container == "" || container == c.Name) && slices.ContainsFunc(kinds, func(k spec.ProbeKind) bool { return c.Probe(k) != nil }) {
			return nil
		}
	}
	what := "probe"
	if len(kinds) == 1 {
		what = kinds[0].String() + " probe"
	}
	if container != "" {
		what += " in container " + container
	}
	return invalid("pod", fmt.Sprintf("pod %s has no %s: there is nothing to follow", p.Key(), what))
}

// untilOver waits until the probes of a binding are asked no more and says why, or nothing when ctx ends.
func (s *probeService) untilOver(ctx context.Context, was *fleet.Pod) string {
	var patience <-chan time.Time
	for {
		changed := s.deps.Cache.Changed()
		why, left := over(s.deps.Cache.View(), was)
		if why != "" {
			return why
		}
		if left && patience == nil {
			patience = time.After(rebindWait)
		}
		select {
		case <-ctx.Done():
			return ""
		case <-patience:
			return fmt.Sprintf("pod %s has left node %s", was.Key(), was.Node())
		case <-changed:
		}
	}
}

// over says why the probes of a binding are asked no more, or nothing while they are. left means that the pod is on no node:
// where it goes is not known yet.
func over(v *store.View, was *fleet.Pod) (why string, left bool) {
	p, ok := fleet.LookupPod(v, was.Key())
	if !ok || p.UID != was.UID {
		return fmt.Sprintf("pod %s is gone", was.Key()), false
	}
	switch h := p.Current(); {
	case p.Binding == nil:
		return "", true
	case p.Node() != was.Node():
		return fmt.Sprintf("pod %s has moved from node %s to %s", was.Key(), was.Node(), p.Node()), false
	case p.Epoch != was.Epoch:
		return fmt.Sprintf("pod %s was bound anew to node %s", was.Key(), p.Node()), false
	case h != nil && h.Status.Phase.Final():
		return fmt.Sprintf("pod %s has ended: %s", was.Key(), h.Status.Phase), false
	}
	return "", false
}
