package api

import (
	"context"
	"fmt"

	"github.com/musterhq/muster/coordinator/probes"
	"github.com/musterhq/muster/coordinator/store"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

type probeService struct {
	musterv1.UnimplementedProbeServiceServer
	*API
}

// maxResults and defaultResults bound what is read of an agent's memory.
const maxResults, defaultResults = 10000, 100

// matcher turns a filter into a test of one row. The labels are those of the pod as it is stored when a row is looked at.
func (s *probeService) matcher(f *musterv1.ProbeFilter) (func(*probes.Row) bool, error) {
	sel, err := selector(f.GetLabelSelector())
	if err != nil {
		return nil, err
	}
	kind, err := wire.ProbeKindFromProto(f.GetKind())
	if err != nil && f.GetKind() != musterv1.ProbeKind_PROBE_KIND_UNSPECIFIED {
		return nil, invalid("filter.kind", err.Error())
	}
	verdict, err := wire.ProbeResultFromProto(f.GetVerdict())
	anyVerdict := f.GetVerdict() == musterv1.ProbeResult_PROBE_RESULT_UNSPECIFIED
	if err != nil && !anyVerdict {
		return nil, invalid("filter.verdict", err.Error())
	}
	return func(r *probes.Row) bool {
		if f.GetNamespace() != "" && f.GetNamespace() != r.Pod.Namespace ||
			f.GetPod() != "" && f.GetPod() != r.Pod.Name ||
			f.GetNode() != "" && f.GetNode() != r.Node ||
			f.GetContainer() != "" && f.GetContainer() != r.ID.Container ||
			kind != 0 && kind != r.ID.Kind ||
			!anyVerdict && verdict != r.Verdict {
			return false
		}
		if f.GetLabelSelector() == "" {
			return true
		}
		pod, _, ok := store.Get[*spec.Pod](s.deps.Cache.View(), store.PodKey(r.Pod))
		return ok && sel.Matches(pod.Labels)
	}, nil
}

func shownProbe(r *probes.Row) *musterv1.ProbeState {
	pb := wire.ProbeStateToProto(&r.ProbeState)
	pb.Node = r.Node
	return pb
}

func probeKey(r *probes.Row) string {
	return sortKey(r.Pod.Namespace, r.Pod.Name, r.ID.Container, fmt.Sprint(uint8(r.ID.Kind)), r.ID.PodUID)
}

func (s *probeService) ListProbes(_ context.Context, req *musterv1.ListProbesRequest) (*musterv1.ListProbesResponse, error) {
	match, err := s.matcher(req.GetFilter())
	if err != nil {
		return nil, err
	}
	rows, next, err := page(s.deps.Probes.List(match), probeKey, req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	resp := &musterv1.ListProbesResponse{NextPageToken: next}
	for i := range rows {
		resp.Probes = append(resp.Probes, shownProbe(&rows[i]))
	}
	return resp, nil
}

func (s *probeService) WatchProbes(req *musterv1.WatchProbesRequest, stream musterv1.ProbeService_WatchProbesServer) error {
	match, err := s.matcher(req.GetFilter())
	if err != nil {
		return err
	}
	send := func(t musterv1.ChangeType, r *probes.Row) error {
		m := &musterv1.WatchProbesResponse{Type: t}
		if r != nil {
			m.Probe = shownProbe(r)
		}
		return stream.Send(m)
	}
	known := map[spec.ProbeID]bool{}
	rows, sub := s.deps.Probes.Subscribe(match)
	defer sub.Close()
	for i := range rows {
		known[rows[i].ID] = true
		if err := send(musterv1.ChangeType_CHANGE_TYPE_ADDED, &rows[i]); err != nil {
			return err
		}
	}
	if err := send(musterv1.ChangeType_CHANGE_TYPE_SYNCED, nil); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case c, ok := <-sub.C():
			if !ok {
				return fmt.Errorf("watch probes: %w: watch again", ErrWatchTooSlow)
			}
			was := known[c.Row.ID]
			is := !c.Gone && match(&c.Row)
			t := musterv1.ChangeType_CHANGE_TYPE_MODIFIED
			switch {
			case !was && !is:
				continue
			case !was:
				t = musterv1.ChangeType_CHANGE_TYPE_ADDED
				known[c.Row.ID] = true
			case !is:
				t = musterv1.ChangeType_CHANGE_TYPE_DELETED
				delete(known, c.Row.ID)
			}
			if err := send(t, &c.Row); err != nil {
				return err
			}
		}
	}
}

func (s *probeService) ListProbeResults(ctx context.Context, req *musterv1.ListProbeResultsRequest) (*musterv1.ListProbeResultsResponse, error) {
	limit := req.GetLimit()
	switch {
	case limit < 0 || limit > maxResults:
		return nil, invalid("limit", fmt.Sprintf("%d, must be 0 to %d", limit, maxResults))
	case limit == 0:
		limit = defaultResults
	}
	p, err := s.held(req.GetNamespace(), req.GetPod())
	if err != nil {
		return nil, err
	}
	ask := &agentv1.Ask{Question: &agentv1.Ask_Results{Results: &agentv1.ResultsAsk{
		Uid: p.UID, Container: req.GetContainer(), Kind: req.GetKind(), Limit: limit,
	}}}
	resp := &musterv1.ListProbeResultsResponse{}
	err = s.deps.Sessions.Ask(ctx, p.Node(), ask, func(a *agentv1.AnswerRequest) error {
		if e := a.GetError(); e != nil {
			return answered(e)
		}
		resp.Results = append(resp.Results, a.GetResults().GetResults()...)
		if len(resp.Results) > int(limit) {
			return fmt.Errorf("node %s answered with more than %d results", p.Node(), limit)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}
