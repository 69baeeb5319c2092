package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

type clusterService struct {
	musterv1.UnimplementedClusterServiceServer
	*API
}

func (s *clusterService) GetStatus(ctx context.Context, _ *musterv1.GetStatusRequest) (*musterv1.GetStatusResponse, error) {
	resp := &musterv1.GetStatusResponse{
		Version: s.cfg.Version, ClusterId: s.cfg.ClusterID,
		LeaseTtl: durationpb.New(s.cfg.LeaseTTL), Addresses: s.cfg.Addresses,
		Nodes: map[string]int32{}, Pods: map[string]int32{}, Writable: true,
	}
	s.deps.Fleet.Look(func(f *fleet.Sight) {
		resp.Revision = f.View.Revision()
		if l, _, ok := store.Get[*spec.Leadership](f.View, store.Key{Family: store.Leader, Name: "leader"}); ok {
			resp.Leader = l.Owner
		}
		for _, n := range f.Nodes {
			resp.Nodes[cmp.Or(string(n.Verdict()), "Unknown")]++
		}
		for _, p := range f.Pods {
			resp.Pods[string(fleet.Shown(f.View, p).Phase)]++
		}
	})
	if why := s.deps.Leader.Frozen(); why != "" {
		resp.Frozen, resp.FrozenReason = true, why
	}
	if s.deps.Waits != nil {
		if why := s.deps.Waits(); why != "" {
			resp.Warnings = append(resp.Warnings, why)
		}
	}
	if err := s.deps.Store.Writable(ctx); err != nil {
		resp.Writable = false
		resp.Warnings = append(resp.Warnings, fmt.Sprintf("the store takes no writes: %v", err))
	}
	return resp, nil
}

func (s *clusterService) ListMembers(context.Context, *musterv1.ListMembersRequest) (*musterv1.ListMembersResponse, error) {
	resp := &musterv1.ListMembersResponse{}
	for _, m := range s.deps.Members() {
		resp.Members = append(resp.Members, &musterv1.Member{
			Name: m.Name, State: string(m.State), Address: m.Address, Role: string(m.Meta.Role), BootId: m.Meta.BootID,
			Since: timestamppb.New(m.Since),
		})
	}
	return resp, nil
}

func (s *clusterService) ListFailovers(_ context.Context, req *musterv1.ListFailoversRequest) (*musterv1.ListFailoversResponse, error) {
	var all []*spec.Failover
	for rec := range s.deps.Cache.View().All(store.Failovers) {
		f := rec.Value.(*spec.Failover)
		if (req.GetNamespace() == "" || req.GetNamespace() == f.Pod.Namespace) && (req.GetPod() == "" || req.GetPod() == f.Pod.Name) {
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b *spec.Failover) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID)) })
	resp := &musterv1.ListFailoversResponse{}
	for _, f := range all {
		resp.Failovers = append(resp.Failovers, wire.FailoverToProto(f))
	}
	return resp, nil
}

func (s *clusterService) Resume(_ context.Context, req *musterv1.ResumeRequest) (*musterv1.ResumeResponse, error) {
	if target := req.GetTarget(); target != "" {
		kind, name, ok := strings.Cut(target, "/")
		switch {
		case !ok || kind != "deployment" || name == "":
			return nil, invalid("target", fmt.Sprintf("%q, must be deployment/NAME", target))
		case req.GetNamespace() == "":
			return nil, invalid("namespace", "required with target")
		}
		d, _, ok := store.Get[*spec.Deployment](s.deps.Cache.View(), store.Key{Family: store.Deployments, Namespace: req.GetNamespace(), Name: name})
		if !ok {
			return nil, fmt.Errorf("deployment %s/%s: %w", req.GetNamespace(), name, store.ErrNotFound)
		}
		if !s.deps.ResumeRestarts(d.UID) {
			return nil, fmt.Errorf("deployment %s: %w", d.Key(), ErrNotHeld)
		}
		return &musterv1.ResumeResponse{}, nil
	}
	if !s.deps.Leader.Resume() {
		return nil, ErrNotFrozen
	}
	return &musterv1.ResumeResponse{}, nil
}

func (s *clusterService) CreateToken(ctx context.Context, req *musterv1.CreateTokenRequest) (*musterv1.CreateTokenResponse, error) {
	role, ttl, uses := req.GetRole(), time.Hour, 1
	if role == musterv1.Role_ROLE_UNSPECIFIED {
		role = musterv1.Role_ROLE_NODE
	}
	if req.GetTtl() != nil {
		ttl = req.GetTtl().AsDuration()
	}
	if req.GetUses() != 0 {
		uses = int(req.GetUses())
	}
	token, err := s.deps.Tokens.Create(ctx, role, ttl, uses)
	if err != nil {
		return nil, err
	}
	return &musterv1.CreateTokenResponse{Token: token}, nil
}

func (s *clusterService) ListTokens(ctx context.Context, _ *musterv1.ListTokensRequest) (*musterv1.ListTokensResponse, error) {
	tokens, err := s.deps.Tokens.List(ctx)
	if err != nil {
		return nil, err
	}
	return &musterv1.ListTokensResponse{Tokens: tokens}, nil
}

func (s *clusterService) RevokeToken(ctx context.Context, req *musterv1.RevokeTokenRequest) (*musterv1.RevokeTokenResponse, error) {
	if err := s.deps.Tokens.Revoke(ctx, req.GetId()); err != nil {
		return nil, err
	}
	return &musterv1.RevokeTokenResponse{}, nil
}

func (s *clusterService) Login(ctx context.Context, req *musterv1.LoginRequest) (*musterv1.LoginResponse, error) {
	cert, ca, err := s.deps.Tokens.Login(ctx, req.GetTokenId(), req.GetSecret(), req.GetCsr())
	if err != nil {
		return nil, err
	}
	return &musterv1.LoginResponse{Certificate: cert, Ca: ca}, nil
}
