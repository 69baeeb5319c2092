package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/coordinator/dispatch"
	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/probes"
	"github.com/musterhq/muster/coordinator/store"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/story"
	"github.com/musterhq/muster/internal/wire"
)

// evidenceTimeout bounds the wait for an agent that is asked for evidence: without it the story is told from what is here.
const evidenceTimeout = 5 * time.Second

// GetPodStory implements PodService.
func (s *podService) GetPodStory(ctx context.Context, req *musterv1.GetPodStoryRequest) (*musterv1.GetPodStoryResponse, error) {
	name, err := objectName(req.GetNamespace(), req.GetName())
	if err != nil {
		return nil, err
	}
	v := s.deps.Cache.View()
	p, ok := fleet.LookupPod(v, name)
	if !ok {
		return nil, notFound("pod", name)
	}
	if c := req.GetContainer(); c != "" && p.Spec.Container(c) == nil {
		var has []string
		for _, sc := range p.Spec.AllContainers() {
			has = append(has, sc.Name)
		}
		return nil, invalid("container", fmt.Sprintf("pod %s has no container %q: it has %s", name, c, strings.Join(has, ", ")))
	}
	f := &story.Facts{Now: s.deps.Now(), Pod: p.Pod, Node: p.Node(), Status: fleet.Shown(v, &p), Stop: p.Stop, Container: req.GetContainer()}
	f.NodeStatus, _, _ = store.Get[*spec.NodeStatus](v, store.Key{Family: store.NodeStatus, Name: p.Node()})
	f.Moves = movesOf(v, p.UID)
	if p.Binding == nil {
		f.Refusal = s.deps.Leader.Explain(p.Pod)
	} else {
		rows := s.deps.Probes.List(probes.Filter{Namespace: p.Namespace, Pod: p.Name, Match: func(r *probes.Row) bool { return r.ID.PodUID == p.UID }})
		for i := range rows {
			f.Probes = append(f.Probes, rows[i].ProbeState)
		}
		if f.Evidence, f.Unasked, err = s.evidence(ctx, &p, req.GetContainer()); err != nil {
			return nil, err
		}
		if f.FromAgent = f.Unasked == ""; !f.FromAgent {
			f.Evidence = s.recentEvidence(rows)
		}
	}
	told := story.Tell(f)
	return &musterv1.GetPodStoryResponse{Story: wire.StoryToProto(&told)}, nil
}

// movesOf are a pod's moves, oldest first.
func movesOf(v *store.View, uid string) (all []spec.Failover) {
	for rec := range v.All(store.Failovers) {
		if m := rec.Value.(*spec.Failover); m.PodUID == uid {
			all = append(all, *m)
		}
	}
	slices.SortFunc(all, func(a, b spec.Failover) int { return a.Time.Compare(b.Time) })
	return all
}

// evidence asks the agent of a pod's node what it keeps; unasked says why it could not be had, in words for people.
func (s *podService) evidence(ctx context.Context, p *fleet.Pod, container string) (all []spec.ContainerEvidence, unasked string, err error) {
	ask := &agentv1.Ask{Question: &agentv1.Ask_Evidence{Evidence: &agentv1.EvidenceAsk{Uid: p.UID, Container: container}}}
	actx, cancel := context.WithTimeout(ctx, evidenceTimeout)
	defer cancel()
	err = s.deps.Sessions.Ask(actx, p.Node(), ask, func(a *agentv1.AnswerRequest) error {
		if e := a.GetError(); e != nil {
			if strings.HasSuffix(e.GetMessage(), "not built yet") { // what agents said before they knew this question
				return ErrUnsupported
			}
			return answered(e)
		}
		if a.GetEvidence() == nil {
			return nil
		}
		e, err := wire.EvidenceFromProto(a.GetEvidence())
		if err != nil {
			return fmt.Errorf("evidence of node %s: %w", p.Node(), err)
		}
		if all = append(all, *e); len(all) > len(p.Spec.AllContainers()) {
			return fmt.Errorf("node %s answered for more containers than the pod has", p.Node())
		}
		return nil
	})
	switch {
	case err == nil:
		return all, "", nil
	case ctx.Err() != nil:
		return nil, "", ctx.Err()
	case errors.Is(err, dispatch.ErrNoSession):
		return nil, "there is no session with it", nil
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Sprintf("it has not answered within %s", evidenceTimeout), nil
	case errors.Is(err, ErrUnsupported):
		return nil, "it is older than this question: not supported", nil
	}
	return nil, err.Error(), nil
}

// recentEvidence is what this coordinator has of a pod's probes itself.
func (s *podService) recentEvidence(rows []probes.Row) (all []spec.ContainerEvidence) {
	for i := range rows {
		id := rows[i].ID
		n := slices.IndexFunc(all, func(e spec.ContainerEvidence) bool { return e.Container == id.Container })
		if n < 0 {
			n, all = len(all), append(all, spec.ContainerEvidence{Container: id.Container})
		}
		for _, a := range s.deps.Probes.Recent(id) {
			all[n].Results = append(all[n].Results, spec.ProbeAttempt{ID: id, Attempt: a})
		}
	}
	return all
}
