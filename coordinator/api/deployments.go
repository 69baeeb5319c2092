package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

type deploymentService struct {
	musterv1.UnimplementedDeploymentServiceServer
	*API
}

func deploymentKey(n spec.ObjectName) store.Key {
	return store.Key{Family: store.Deployments, Namespace: n.Namespace, Name: n.Name}
}

// lookup joins a Deployment with its status.
func (s *deploymentService) lookup(v *store.View, n spec.ObjectName) (*spec.Deployment, bool) {
	d, rev, ok := store.Get[*spec.Deployment](v, deploymentKey(n))
	if !ok {
		return nil, false
	}
	joined := *d
	joined.Revision = rev
	st, rev, ok := store.Get[*spec.DeploymentStatus](v, store.Key{Family: store.DeployState, Namespace: n.Namespace, Name: n.Name})
	if ok {
		joined.Status = *st
		joined.Revision = max(joined.Revision, rev)
	}
	return &joined, true
}

func (s *deploymentService) GetDeployment(_ context.Context, req *musterv1.GetDeploymentRequest) (*musterv1.GetDeploymentResponse, error) {
	name, err := objectName(req.GetNamespace(), req.GetName())
	if err != nil {
		return nil, err
	}
	d, ok := s.lookup(s.deps.Cache.View(), name)
	if !ok {
		return nil, notFound("deployment", name)
	}
	return &musterv1.GetDeploymentResponse{Deployment: wire.DeploymentToProto(d)}, nil
}

func deploymentMatcher(f *musterv1.DeploymentFilter) (func(*spec.Deployment) bool, error) {
	sel, err := selector(f.GetLabelSelector())
	if err != nil {
		return nil, err
	}
	return func(d *spec.Deployment) bool {
		return (f.GetNamespace() == "" || f.GetNamespace() == d.Namespace) &&
			(f.GetName() == "" || f.GetName() == d.Name) && sel.Matches(d.Labels)
	}, nil
}

// deploymentNames returns every Deployment, by namespace and name.
func deploymentNames(v *store.View) []spec.ObjectName {
	var names []spec.ObjectName
	for rec := range v.All(store.Deployments) {
		names = append(names, spec.ObjectName{Namespace: rec.Key.Namespace, Name: rec.Key.Name})
	}
	slices.SortFunc(names, func(a, b spec.ObjectName) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return names
}

func (s *deploymentService) ListDeployments(_ context.Context, req *musterv1.ListDeploymentsRequest) (*musterv1.ListDeploymentsResponse, error) {
	match, err := deploymentMatcher(req.GetFilter())
	if err != nil {
		return nil, err
	}
	v := s.deps.Cache.View()
	var all []*spec.Deployment
	for _, n := range deploymentNames(v) {
		if d, ok := s.lookup(v, n); ok && match(d) {
			all = append(all, d)
		}
	}
	all, next, err := page(all, func(d **spec.Deployment) string { return sortKey((*d).Namespace, (*d).Name) }, req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	resp := &musterv1.ListDeploymentsResponse{NextPageToken: next, Revision: v.Revision()}
	for _, d := range all {
		resp.Deployments = append(resp.Deployments, wire.DeploymentToProto(d))
	}
	return resp, nil
}

func (s *deploymentService) WatchDeployments(req *musterv1.WatchDeploymentsRequest, stream musterv1.DeploymentService_WatchDeploymentsServer) error {
	match, err := deploymentMatcher(req.GetFilter())
	if err != nil {
		return err
	}
	return watched[spec.ObjectName, *musterv1.Deployment]{
		interest:  store.Interest{Families: []store.Family{store.Deployments, store.DeployState}, Namespace: req.GetFilter().GetNamespace()},
		all:       deploymentNames,
		concerned: itself[*musterv1.Deployment],
		look: func(v *store.View, name spec.ObjectName) (*musterv1.Deployment, bool) {
			d, ok := s.lookup(v, name)
			if !ok || !match(d) {
				return nil, false
			}
			return wire.DeploymentToProto(d), true
		},
		gone: func(name spec.ObjectName) *musterv1.Deployment {
			return &musterv1.Deployment{Meta: &musterv1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}}
		},
		send: func(t musterv1.ChangeType, d *musterv1.Deployment, revision int64) error {
			return stream.Send(&musterv1.WatchDeploymentsResponse{Type: t, Deployment: d, Revision: revision})
		},
	}.run(stream.Context(), s.deps.Cache, req.GetRevision())
}

func (s *deploymentService) checked(pb *musterv1.Deployment) (*spec.Deployment, []string, error) {
	if pb == nil {
		return nil, nil, invalid("deployment", "required")
	}
	d, err := wire.DeploymentFromProto(pb)
	if err != nil {
		return nil, nil, invalid("deployment", err.Error())
	}
	d.Status, d.Owner, d.Generation, d.DeleteTime, d.CreateTime, d.DeleteGrace = spec.DeploymentStatus{}, nil, 0, time.Time{}, time.Time{}, 0
	findings := spec.DefaultDeployment(d)
	findings = append(findings, spec.ValidateDeployment(d, s.cfg.Validation)...)
	warnings, bad := spec.Split(findings)
	if len(bad) > 0 {
		return nil, nil, &InvalidError{Object: "deployment/" + d.Name, Findings: bad}
	}
	return d, warnings, nil
}

func (s *deploymentService) create(ctx context.Context, d *spec.Deployment, validateOnly bool) error {
	if d.UID != "" {
		return invalid("metadata.uid", "must be empty for a new deployment")
	}
	d.UID, d.CreateTime, d.Generation = fleet.NewUID(), s.deps.Now(), 1
	if validateOnly {
		return nil
	}
	_, err := s.commit(ctx, deploymentKey(d.Key()), 0, d)
	if errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("deployment %s: %w", d.Key(), ErrExists)
	}
	return err
}

func (s *deploymentService) CreateDeployment(ctx context.Context, req *musterv1.CreateDeploymentRequest) (*musterv1.CreateDeploymentResponse, error) {
	d, warnings, err := s.checked(req.GetDeployment())
	if err != nil {
		return nil, err
	}
	if err := s.create(ctx, d, req.GetValidateOnly()); err != nil {
		return nil, err
	}
	return &musterv1.CreateDeploymentResponse{Deployment: wire.DeploymentToProto(d), Warnings: warnings}, nil
}

func (s *deploymentService) UpdateDeployment(ctx context.Context, req *musterv1.UpdateDeploymentRequest) (*musterv1.UpdateDeploymentResponse, error) {
	d, warnings, err := s.checked(req.GetDeployment())
	if err != nil {
		return nil, err
	}
	key := deploymentKey(d.Key())
	old, revision, err := read[*spec.Deployment](ctx, s.deps.Store, key)
	if err != nil {
		return nil, err
	}
	resp := &musterv1.UpdateDeploymentResponse{Result: musterv1.WriteResult_WRITE_RESULT_CREATED, Warnings: warnings}
	if old == nil {
		if !req.GetAllowMissing() {
			return nil, notFound("deployment", d.Key())
		}
		if err := s.create(ctx, d, req.GetValidateOnly()); err != nil {
			return nil, err
		}
		resp.Deployment = wire.DeploymentToProto(d)
		return resp, nil
	}
	if err := checkUpdate("deployment", &old.Meta, &d.Meta); err != nil {
		return nil, err
	}
	if req.GetAllowMissing() {
		keepRestart(d, old)
	}
	if err := checkRevision(key, req.GetDeployment().GetMeta().GetRevision(), revision); err != nil {
		return nil, err
	}
	if _, bad := spec.Split(spec.ValidateDeploymentUpdate(old, d)); len(bad) > 0 {
		return nil, &InvalidError{Object: "deployment/" + d.Name, Findings: bad}
	}
	keepIdentity(&d.Meta, &old.Meta)
	resp.Result = musterv1.WriteResult_WRITE_RESULT_UNCHANGED
	if !wire.Equal(old, d) {
		resp.Result = musterv1.WriteResult_WRITE_RESULT_CONFIGURED
		d.Generation++
		if !req.GetValidateOnly() {
			if _, err := s.commit(ctx, key, revision, d); err != nil {
				return nil, err
			}
		}
	}
	resp.Deployment = wire.DeploymentToProto(d)
	return resp, nil
}

func (s *deploymentService) DeleteDeployment(ctx context.Context, req *musterv1.DeleteDeploymentRequest) (*musterv1.DeleteDeploymentResponse, error) {
	name, err := objectName(req.GetNamespace(), req.GetName())
	if err != nil {
		return nil, err
	}
	key := deploymentKey(name)
	old, revision, err := read[*spec.Deployment](ctx, s.deps.Store, key)
	switch {
	case err != nil:
		return nil, err
	case old == nil:
		return nil, notFound("deployment", name)
	case req.GetUid() != "" && req.GetUid() != old.UID:
		return nil, fmt.Errorf("deployment %s: uid is %s, not %s: %w", name, old.UID, req.GetUid(), store.ErrConflict)
	case old.Deleting():
		return &musterv1.DeleteDeploymentResponse{Deployment: wire.DeploymentToProto(old)}, nil
	}
	d := old.Clone()
	d.DeleteTime = s.deps.Now()
	if _, err := s.commit(ctx, key, revision, d); err != nil {
		return nil, err
	}
	return &musterv1.DeleteDeploymentResponse{Deployment: wire.DeploymentToProto(d)}, nil
}
