package api

import (
	"context"

	"github.com/musterhq/muster/coordinator/fleet"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

type placementService struct {
	musterv1.UnimplementedPlacementServiceServer
	*API
}

func (s *placementService) ExplainPod(_ context.Context, req *musterv1.ExplainPodRequest) (*musterv1.ExplainPodResponse, error) {
	name, err := objectName(req.GetNamespace(), req.GetName())
	if err != nil {
		return nil, err
	}
	p, ok := fleet.LookupPod(s.deps.Cache.View(), name)
	if !ok {
		return nil, notFound("pod", name)
	}
	resp := &musterv1.ExplainPodResponse{}
	for _, r := range s.deps.Leader.ExplainNodes(p.Pod) {
		resp.Nodes = append(resp.Nodes, &musterv1.NodeFit{Node: r.Node, Refusal: r.Why})
	}
	return resp, nil
}
