package api

import (
	"context"
	"errors"
	"fmt"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

type nodeService struct {
	musterv1.UnimplementedNodeServiceServer
	*API
}

func (s *nodeService) shown(v *store.View, n *fleet.Node, pods int32) *musterv1.Node {
	pb := &musterv1.Node{Meta: wire.MetaToProto(n.Meta()), SessionUp: s.deps.Sessions.Connected(n.Name), Pods: pods}
	pb.Meta.Revision = n.Revision
	if n.User != nil {
		pb.Unschedulable, pb.Taints = n.User.Unschedulable, wire.TaintsToProto(n.User.Taints)
	}
	if n.Facts != nil {
		pb.Facts = wire.NodeFactsToProto(n.Facts)
	}
	if n.Status != nil {
		pb.Status = wire.NodeStatusToProto(n.Status)
	}
	if n.Lease != nil {
		pb.Lease = wire.NodeLeaseToProto(n.Lease)
	}
	if n.Network != nil {
		pb.PodCidr = n.Network.PodCIDR.String()
	}
	return pb
}

// podsOn is how many pods are bound to a node now.
func (a *API) podsOn(node string) (n int32) {
	a.deps.Fleet.Look(func(f *fleet.Sight) { n = int32(len(f.OnNode[node])) })
	return n
}

// podCounts is how many pods are bound to each node.
func podCounts(f *fleet.Sight, nodes []fleet.Node) []int32 {
	counts := make([]int32, len(nodes))
	for i := range nodes {
		counts[i] = int32(len(f.OnNode[nodes[i].Name]))
	}
	return counts
}

func nodeSortKey(n *fleet.Node) string { return sortKey(n.Name) }

func (s *nodeService) GetNode(_ context.Context, req *musterv1.GetNodeRequest) (*musterv1.GetNodeResponse, error) {
	v := s.deps.Cache.View()
	n, ok := fleet.LookupNode(v, req.GetName())
	if !ok {
		return nil, fmt.Errorf("node %s: %w", req.GetName(), store.ErrNotFound)
	}
	return &musterv1.GetNodeResponse{Node: s.shown(v, &n, s.podsOn(n.Name))}, nil
}

func (s *nodeService) ListNodes(_ context.Context, req *musterv1.ListNodesRequest) (*musterv1.ListNodesResponse, error) {
	sel, err := selector(req.GetLabelSelector())
	if err != nil {
		return nil, err
	}
	var v *store.View
	var nodes []fleet.Node
	var counts []int32
	var next string
	s.deps.Fleet.Look(func(f *fleet.Sight) {
		v = f.View
		match := func(n *fleet.Node) bool { return sel.Matches(n.Meta().Labels) }
		nodes, next, err = pageWhere(f.Nodes, match, nodeSortKey, req.GetPageSize(), req.GetPageToken())
		counts = podCounts(f, nodes)
	})
	if err != nil {
		return nil, err
	}
	resp := &musterv1.ListNodesResponse{NextPageToken: next, Revision: v.Revision()}
	for i := range nodes {
		resp.Nodes = append(resp.Nodes, s.shown(v, &nodes[i], counts[i]))
	}
	return resp, nil
}

func (s *nodeService) WatchNodes(req *musterv1.WatchNodesRequest, stream musterv1.NodeService_WatchNodesServer) error {
	sel, err := selector(req.GetLabelSelector())
	if err != nil {
		return err
	}
	return watched[string, *musterv1.Node]{
		interest: store.Interest{Families: []store.Family{store.Nodes, store.NodeFacts, store.NodeStatus, store.NodeLeases, store.NodeNetworks}},
		all: func(*store.View) (names []string) {
			s.deps.Fleet.Look(func(f *fleet.Sight) {
				for _, n := range f.Nodes {
					names = append(names, n.Name)
				}
			})
			return names
		},
		concerned: func(_ *store.View, c store.Change, _ map[string]*musterv1.Node) []string { return []string{c.Key.Name} },
		look: func(v *store.View, name string) (*musterv1.Node, bool) {
			n, ok := fleet.LookupNode(v, name)
			if !ok || req.GetName() != "" && req.GetName() != name || !sel.Matches(n.Meta().Labels) {
				return nil, false
			}
			return s.shown(v, &n, s.podsOn(name)), true
		},
		gone: func(name string) *musterv1.Node {
			return &musterv1.Node{Meta: &musterv1.ObjectMeta{Name: name}}
		},
		send: func(t musterv1.ChangeType, n *musterv1.Node, revision int64) error {
			return stream.Send(&musterv1.WatchNodesResponse{Type: t, Node: n, Revision: revision})
		},
	}.run(stream.Context(), s.deps.Cache, req.GetRevision())
}

func (s *nodeService) UpdateNode(ctx context.Context, req *musterv1.UpdateNodeRequest) (*musterv1.UpdateNodeResponse, error) {
	meta, err := wire.MetaFromProto(req.GetNode().GetMeta())
	if err != nil {
		return nil, invalid("metadata", err.Error())
	}
	n, ok := fleet.LookupNode(s.deps.Cache.View(), meta.Name)
	if !ok {
		return nil, fmt.Errorf("node %s: %w", meta.Name, store.ErrNotFound)
	}
	taints, err := wire.TaintsFromProto(req.GetNode().GetTaints())
	if err != nil {
		return nil, invalid("spec", err.Error())
	}
	node := &spec.Node{
		Meta:          spec.Meta{Name: meta.Name, Labels: meta.Labels, Annotations: meta.Annotations},
		Unschedulable: req.GetNode().GetUnschedulable(), Taints: taints,
	}
	if _, bad := spec.Split(spec.ValidateNode(node)); len(bad) > 0 {
		return nil, &InvalidError{Object: "node/" + meta.Name, Findings: bad}
	}
	// What the agent says of its labels is not the user's to store, unless it was changed.
	if n.Facts != nil {
		for k, v := range n.Facts.Labels {
			if node.Labels[k] == v {
				delete(node.Labels, k)
			}
		}
	}
	key := store.Key{Family: store.Nodes, Name: meta.Name}
	old, revision, err := read[*spec.Node](ctx, s.deps.Store, key)
	if err != nil {
		return nil, err
	}
	if old != nil {
		keepIdentity(&node.Meta, &old.Meta)
	} else {
		node.UID, node.CreateTime = fleet.NewUID(), s.deps.Now()
	}
	if err := checkRevision(key, meta.Revision, revision); err != nil {
		return nil, err
	}
	resp := &musterv1.UpdateNodeResponse{Result: musterv1.WriteResult_WRITE_RESULT_UNCHANGED}
	if old == nil || !wire.Equal(old, node) {
		node.Generation++
		if _, err := s.commit(ctx, key, revision, node); err != nil {
			return nil, err
		}
		resp.Result = musterv1.WriteResult_WRITE_RESULT_CONFIGURED
	}
	v := s.deps.Cache.View()
	n, _ = fleet.LookupNode(v, meta.Name)
	resp.Node = s.shown(v, &n, s.podsOn(n.Name))
	return resp, nil
}

func (s *nodeService) DeleteNode(ctx context.Context, req *musterv1.DeleteNodeRequest) (*musterv1.DeleteNodeResponse, error) {
	name := req.GetName()
	v := s.deps.Cache.View()
	n, ok := fleet.LookupNode(v, name)
	switch pods := s.podsOn(name); {
	case !ok:
		return nil, fmt.Errorf("node %s: %w", name, store.ErrNotFound)
	case s.deps.Sessions.Connected(name):
		return nil, fmt.Errorf("node %s has a session: stop its agent first: %w", name, ErrNodeInUse)
	case pods > 0:
		return nil, fmt.Errorf("node %s has %d pods: delete or move them first: %w", name, pods, ErrNodeInUse)
	}
	// The lease is kept when it may still be open: its name must not be taken by another instance before it is over.
	t := store.Txn{If: []store.Cond{{Key: store.Key{Family: store.NodeLeases, Name: name}, Revision: n.LeaseRevision}}}
	for _, f := range []store.Family{store.Nodes, store.NodeFacts, store.NodeStatus, store.NodeNetworks} {
		t.Then = append(t.Then, store.Write{Key: store.Key{Family: f, Name: name}})
	}
	rev, err := s.deps.Store.Commit(ctx, t)
	if errors.Is(err, store.ErrConflict) {
		return nil, fmt.Errorf("node %s: a session has opened: %w", name, ErrNodeInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("delete node %s: %w", name, err)
	}
	return &musterv1.DeleteNodeResponse{}, s.deps.Cache.Wait(ctx, rev)
}
