package api

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/probes"
	"github.com/musterhq/muster/coordinator/store"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

type usageService struct {
	musterv1.UnimplementedUsageServiceServer
	*API
}

func (s *usageService) ListPodUsages(_ context.Context, req *musterv1.ListPodUsagesRequest) (*musterv1.ListPodUsagesResponse, error) {
	match, err := podMatcher(req.GetFilter())
	if err != nil {
		return nil, err
	}
	uses := func(p *fleet.Pod) bool {
		held := p.Current()
		return match(p) && (held == nil || !held.Status.Phase.Final())
	}
	var pods []fleet.Pod
	var next string
	s.deps.Fleet.Look(func(f *fleet.Sight) {
		pods, next, err = pageWhere(f.Pods, uses, podSortKey, req.GetPageSize(), req.GetPageToken())
	})
	if err != nil {
		return nil, err
	}
	resp := &musterv1.ListPodUsagesResponse{NextPageToken: next}
	for i := range pods {
		resp.Pods = append(resp.Pods, s.podUsage(&pods[i]))
	}
	return resp, nil
}

// podUsage is what the containers use that run by what the pod's holder said.
func (s *usageService) podUsage(p *fleet.Pod) *musterv1.PodUsage {
	pb := &musterv1.PodUsage{
		Pod:  &musterv1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, Uid: p.UID},
		Node: p.Node(), Usage: &musterv1.Usage{},
	}
	r := s.deps.Usage.Node(p.Node(), s.deps.Now())
	if r != nil {
		pb.Time, pb.Window = timestamppb.New(r.At), durationpb.New(r.Window)
	}
	held := p.Current()
	if held == nil {
		return pb
	}
	var sum spec.Usage
	for _, c := range p.Spec.AllContainers() {
		if st := held.Status.Container(c.Name); st == nil || st.State.Running == nil {
			continue
		}
		u := r.Container(p.UID, p.Epoch, c.Name)
		sum = sum.Plus(u)
		pb.Containers = append(pb.Containers, &musterv1.ContainerUsage{Name: c.Name, Usage: wire.UsageToProto(u)})
	}
	if len(pb.GetContainers()) > 0 {
		pb.Usage = wire.UsageToProto(sum)
	}
	return pb
}

func (s *usageService) ListNodeUsages(_ context.Context, req *musterv1.ListNodeUsagesRequest) (*musterv1.ListNodeUsagesResponse, error) {
	sel, err := selector(req.GetLabelSelector())
	if err != nil {
		return nil, err
	}
	match := func(n *fleet.Node) bool {
		return sel.Matches(n.Meta().Labels) && (req.GetName() == "" || req.GetName() == n.Name)
	}
	var nodes []fleet.Node
	var counts []int32
	var next string
	s.deps.Fleet.Look(func(f *fleet.Sight) {
		nodes, next, err = pageWhere(f.Nodes, match, nodeSortKey, req.GetPageSize(), req.GetPageToken())
		counts = podCounts(f, nodes)
	})
	if err != nil {
		return nil, err
	}
	resp := &musterv1.ListNodeUsagesResponse{NextPageToken: next}
	for i := range nodes {
		n := &nodes[i]
		pb := &musterv1.NodeUsage{
			Name: n.Name, Pods: counts[i], Machine: &musterv1.Usage{}, Agent: &musterv1.Usage{}, Supervisors: &musterv1.Usage{},
		}
		if n.Facts != nil {
			pb.Allocatable = wire.NodeFactsToProto(n.Facts).GetAllocatable()
		}
		if r := s.deps.Usage.Node(n.Name, s.deps.Now()); r != nil {
			pb.Time, pb.Window = timestamppb.New(r.At), durationpb.New(r.Window)
			pb.Machine, pb.Agent, pb.Supervisors = wire.UsageToProto(r.Machine), wire.UsageToProto(r.Agent), wire.UsageToProto(r.Supervisors)
			pb.Probes = wire.LatenessToProto(r.Probes)
		}
		resp.Nodes = append(resp.Nodes, pb)
	}
	return resp, nil
}

func (s *usageService) ListProbeUsages(_ context.Context, req *musterv1.ListProbeUsagesRequest) (*musterv1.ListProbeUsagesResponse, error) {
	rows, next, err := (&probeService{API: s.API}).page(req.GetFilter(), req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	resp := &musterv1.ListProbeUsagesResponse{NextPageToken: next}
	v := s.deps.Cache.View()
	for i := range rows {
		resp.Probes = append(resp.Probes, s.probeUsage(v, &rows[i]))
	}
	return resp, nil
}

// probeUsage is what a probe costs. Without a session nobody knows whether it is still asked.
func (s *usageService) probeUsage(v *store.View, r *probes.Row) *musterv1.ProbeUsage {
	shown := shownProbe(r)
	pb := &musterv1.ProbeUsage{
		Pod: shown.GetPod(), Container: shown.GetContainer(), Kind: shown.GetKind(), Handler: shown.GetHandler(), Node: shown.GetNode(),
	}
	if pod, _, ok := store.Get[*spec.Pod](v, store.PodKey(r.Pod)); ok && pod.UID == r.ID.PodUID {
		if c := pod.Spec.Container(r.ID.Container); c != nil {
			pb.LimitMilliCpu = c.Resources.Limits.MilliCPU
		}
	}
	if !s.deps.Sessions.Connected(r.Node) {
		return pb
	}
	cost := s.deps.Probes.Cost(r.ID, s.deps.Now())
	if cost.AttemptsPerMinute >= 0 {
		pb.AttemptsPerMinute = &cost.AttemptsPerMinute
	}
	if cost.CPU >= 0 {
		pb.CpuPerAttempt = durationpb.New(cost.CPU)
	}
	if minute := cost.PerMinute(); minute >= 0 {
		pb.CpuPerMinute = durationpb.New(minute)
		if pb.GetLimitMilliCpu() > 0 {
			share := minute.Minutes() * 1000 / float64(pb.GetLimitMilliCpu())
			pb.LimitShare = &share
		}
	}
	return pb
}
