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

// takeAtOnce is how many changes of probes are made ready before they are sent.
const takeAtOnce = 64

// filter says which rows are asked for. The labels are those of the pod as it is stored when a row is looked at.
func (s *probeService) filter(f *musterv1.ProbeFilter) (out probes.Filter, err error) {
	sel, err := selector(f.GetLabelSelector())
	if err != nil {
		return out, err
	}
	kind, err := wire.ProbeKindFromProto(f.GetKind())
	if err != nil && f.GetKind() != musterv1.ProbeKind_PROBE_KIND_UNSPECIFIED {
		return out, invalid("filter.kind", err.Error())
	}
	verdict, err := wire.ProbeResultFromProto(f.GetVerdict())
	anyVerdict := f.GetVerdict() == musterv1.ProbeResult_PROBE_RESULT_UNSPECIFIED
	if err != nil && !anyVerdict {
		return out, invalid("filter.verdict", err.Error())
	}
	out = probes.Filter{Namespace: f.GetNamespace(), Pod: f.GetPod(), Node: f.GetNode()}
	out.Match = func(r *probes.Row) bool {
		if f.GetContainer() != "" && f.GetContainer() != r.ID.Container ||
			kind != 0 && kind != r.ID.Kind ||
			!anyVerdict && verdict != r.Verdict {
			return false
		}
		if f.GetLabelSelector() == "" {
			return true
		}
		pod, _, ok := store.Get[*spec.Pod](s.deps.Cache.View(), store.PodKey(r.Pod))
		return ok && sel.Matches(pod.Labels)
	}
	return out, nil
}

// page returns a page of the rows that are asked for.
func (s *probeService) page(f *musterv1.ProbeFilter, size int32, token string) ([]probes.Row, string, error) {
	filter, err := s.filter(f)
	if err != nil {
		return nil, "", err
	}
	n, after, err := pageAfter(size, token)
	if err != nil {
		return nil, "", err
	}
	var noLater func(*probes.Row) bool
	if token != "" {
		noLater = func(r *probes.Row) bool { return probeKey(r) <= after }
	}
	rows, next := cut(s.deps.Probes.Page(filter, noLater, n+1), probeKey, n)
	return rows, next, nil
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
	rows, next, err := s.page(req.GetFilter(), req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	resp := &musterv1.ListProbesResponse{NextPageToken: next}
	for i := range rows {
		resp.Probes = append(resp.Probes, shownProbe(&rows[i]))
	}
	return resp, nil
}

var changeTypes = map[probes.ChangeType]musterv1.ChangeType{
	probes.Added: musterv1.ChangeType_CHANGE_TYPE_ADDED, probes.Modified: musterv1.ChangeType_CHANGE_TYPE_MODIFIED,
	probes.Deleted: musterv1.ChangeType_CHANGE_TYPE_DELETED,
}

func (s *probeService) WatchProbes(req *musterv1.WatchProbesRequest, stream musterv1.ProbeService_WatchProbesServer) error {
	filter, err := s.filter(req.GetFilter())
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
	sub := s.deps.Probes.Subscribe(filter)
	defer sub.Close()
	for synced := false; ; {
		changes := sub.Take(takeAtOnce)
		for i := range changes {
			if err := send(changeTypes[changes[i].Type], &changes[i].Row); err != nil {
				return err
			}
		}
		if !synced && sub.Synced() {
			synced = true
			if err := send(musterv1.ChangeType_CHANGE_TYPE_SYNCED, nil); err != nil {
				return err
			}
		}
		if len(changes) > 0 {
			continue
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-sub.C():
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
