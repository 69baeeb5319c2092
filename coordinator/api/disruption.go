package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/musterhq/muster/coordinator/disruption"
	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

type budgetService struct {
	musterv1.UnimplementedPodDisruptionBudgetServiceServer
	*API
}

func budgetKey(n spec.ObjectName) store.Key {
	return store.Key{Family: store.Budgets, Namespace: n.Namespace, Name: n.Name}
}

func budgetStateKey(n spec.ObjectName) store.Key {
	return store.Key{Family: store.BudgetStates, Namespace: n.Namespace, Name: n.Name}
}

// budgeted is a pod as budgets see it.
func budgeted(v *store.View, p *fleet.Pod) disruption.Pod {
	st := fleet.Shown(v, p)
	out := disruption.Pod{Pod: p.Pod, Phase: st.Phase, Ready: st.Ready(), Leaving: p.Deleting() || p.Stop != nil}
	if p.Owner != nil {
		d, _, ok := store.Get[*spec.Deployment](v, deploymentKey(spec.ObjectName{Namespace: p.Namespace, Name: p.Owner.Name}))
		if ok && d.UID == p.Owner.UID {
			out.Replicas = d.Spec.Replicas
		}
	}
	return out
}

// stands counts how a budget stands.
func stands(v *store.View, b *spec.PodDisruptionBudget) spec.PodDisruptionBudgetStatus {
	var pods []disruption.Pod
	for rec := range v.ByNamespace(store.Pods, b.Namespace) {
		if pod := rec.Value.(*spec.Pod); b.Selects(pod) {
			p, _ := fleet.LookupPod(v, pod.Key())
			pods = append(pods, budgeted(v, &p))
		}
	}
	return disruption.Count(b, pods)
}

// shownBudget is a budget as people see it.
func shownBudget(v *store.View, n spec.ObjectName) (*musterv1.PodDisruptionBudget, bool) {
	b, rev, ok := store.Get[*spec.PodDisruptionBudget](v, budgetKey(n))
	if !ok {
		return nil, false
	}
	shown := *b
	shown.Revision = rev
	st := stands(v, b)
	return wire.PodDisruptionBudgetToProto(&shown, &st), true
}

func (s *budgetService) GetPodDisruptionBudget(_ context.Context, req *musterv1.GetPodDisruptionBudgetRequest) (*musterv1.GetPodDisruptionBudgetResponse, error) {
	name, err := objectName(req.GetNamespace(), req.GetName())
	if err != nil {
		return nil, err
	}
	b, ok := shownBudget(s.deps.Cache.View(), name)
	if !ok {
		return nil, notFound("poddisruptionbudget", name)
	}
	return &musterv1.GetPodDisruptionBudgetResponse{PodDisruptionBudget: b}, nil
}

func budgetMatcher(f *musterv1.PodDisruptionBudgetFilter) (func(*spec.PodDisruptionBudget) bool, error) {
	sel, err := selector(f.GetLabelSelector())
	if err != nil {
		return nil, err
	}
	return func(b *spec.PodDisruptionBudget) bool {
		return (f.GetNamespace() == "" || f.GetNamespace() == b.Namespace) &&
			(f.GetName() == "" || f.GetName() == b.Name) && sel.Matches(b.Labels)
	}, nil
}

// budgetNames returns every budget, by namespace and name.
func budgetNames(v *store.View) []spec.ObjectName {
	var names []spec.ObjectName
	for rec := range v.All(store.Budgets) {
		names = append(names, spec.ObjectName{Namespace: rec.Key.Namespace, Name: rec.Key.Name})
	}
	slices.SortFunc(names, func(a, b spec.ObjectName) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return names
}

func (s *budgetService) ListPodDisruptionBudgets(_ context.Context, req *musterv1.ListPodDisruptionBudgetsRequest) (*musterv1.ListPodDisruptionBudgetsResponse, error) {
	match, err := budgetMatcher(req.GetFilter())
	if err != nil {
		return nil, err
	}
	v := s.deps.Cache.View()
	var names []spec.ObjectName
	for _, n := range budgetNames(v) {
		if b, _, ok := store.Get[*spec.PodDisruptionBudget](v, budgetKey(n)); ok && match(b) {
			names = append(names, n)
		}
	}
	names, next, err := page(names, func(n *spec.ObjectName) string { return sortKey(n.Namespace, n.Name) }, req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	resp := &musterv1.ListPodDisruptionBudgetsResponse{NextPageToken: next, Revision: v.Revision()}
	for _, n := range names {
		if b, ok := shownBudget(v, n); ok {
			resp.PodDisruptionBudgets = append(resp.PodDisruptionBudgets, b)
		}
	}
	return resp, nil
}

func (s *budgetService) WatchPodDisruptionBudgets(req *musterv1.WatchPodDisruptionBudgetsRequest, stream musterv1.PodDisruptionBudgetService_WatchPodDisruptionBudgetsServer) error {
	match, err := budgetMatcher(req.GetFilter())
	if err != nil {
		return err
	}
	return watched[spec.ObjectName, *musterv1.PodDisruptionBudget]{
		all: budgetNames,
		concerned: func(v *store.View, c store.Change, _ map[spec.ObjectName]*musterv1.PodDisruptionBudget) []spec.ObjectName {
			return budgetsConcerned(v, c)
		},
		look: func(v *store.View, name spec.ObjectName) (*musterv1.PodDisruptionBudget, bool) {
			b, _, ok := store.Get[*spec.PodDisruptionBudget](v, budgetKey(name))
			if !ok || !match(b) {
				return nil, false
			}
			return shownBudget(v, name)
		},
		gone: func(name spec.ObjectName) *musterv1.PodDisruptionBudget {
			return &musterv1.PodDisruptionBudget{Meta: &musterv1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}}
		},
		send: func(t musterv1.ChangeType, b *musterv1.PodDisruptionBudget, revision int64) error {
			return stream.Send(&musterv1.WatchPodDisruptionBudgetsResponse{Type: t, PodDisruptionBudget: b, Revision: revision})
		},
	}.run(stream.Context(), s.deps.Cache, req.GetRevision())
}

// budgetsConcerned are the budgets whose counts a change may have changed: those that select a pod that it concerns. A pod
// that is gone is no longer known by its labels, so it concerns all of its namespace.
func budgetsConcerned(v *store.View, c store.Change) (names []spec.ObjectName) {
	in := func(namespace string, which func(*spec.PodDisruptionBudget) bool) {
		for rec := range v.ByNamespace(store.Budgets, namespace) {
			b := rec.Value.(*spec.PodDisruptionBudget)
			if which == nil || which(b) {
				names = append(names, b.Key())
			}
		}
	}
	switch c.Key.Family {
	case store.Budgets:
		return []spec.ObjectName{{Namespace: c.Key.Namespace, Name: c.Key.Name}}
	case store.Deployments:
		in(c.Key.Namespace, nil)
	default:
		for _, n := range podsConcerned(v, c) {
			pod, _, ok := store.Get[*spec.Pod](v, store.PodKey(n))
			if ok && c.Key.Family != store.Pods { // a write of the pod itself may have changed its labels
				in(n.Namespace, func(b *spec.PodDisruptionBudget) bool { return b.Selects(pod) })
			} else {
				in(n.Namespace, nil)
			}
		}
	}
	return names
}

func (s *budgetService) checked(pb *musterv1.PodDisruptionBudget) (*spec.PodDisruptionBudget, error) {
	if pb == nil {
		return nil, invalid("pod_disruption_budget", "required")
	}
	b, err := wire.PodDisruptionBudgetFromProto(pb)
	if err != nil {
		return nil, invalid("pod_disruption_budget", err.Error())
	}
	b.Owner, b.Generation, b.DeleteTime, b.CreateTime, b.DeleteGrace = nil, 0, time.Time{}, time.Time{}, 0
	spec.DefaultPodDisruptionBudget(b)
	if _, bad := spec.Split(spec.ValidatePodDisruptionBudget(b)); len(bad) > 0 {
		return nil, &InvalidError{Object: "poddisruptionbudget/" + b.Name, Findings: bad}
	}
	return b, nil
}

func (s *budgetService) create(ctx context.Context, b *spec.PodDisruptionBudget, validateOnly bool) error {
	if b.UID != "" {
		return invalid("metadata.uid", "must be empty for a new poddisruptionbudget")
	}
	b.UID, b.CreateTime, b.Generation, b.Revision = fleet.NewUID(), s.deps.Now(), 1, 0
	if validateOnly {
		return nil
	}
	_, err := s.commit(ctx, budgetKey(b.Key()), 0, b)
	if errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("poddisruptionbudget %s: %w", b.Key(), ErrExists)
	}
	return err
}

// answer is the budget as it is stored, or as it would be.
func (s *budgetService) answer(b *spec.PodDisruptionBudget, stored bool) *musterv1.PodDisruptionBudget {
	v := s.deps.Cache.View()
	if stored {
		if pb, ok := shownBudget(v, b.Key()); ok {
			return pb
		}
	}
	st := stands(v, b)
	return wire.PodDisruptionBudgetToProto(b, &st)
}

func (s *budgetService) CreatePodDisruptionBudget(ctx context.Context, req *musterv1.CreatePodDisruptionBudgetRequest) (*musterv1.CreatePodDisruptionBudgetResponse, error) {
	b, err := s.checked(req.GetPodDisruptionBudget())
	if err != nil {
		return nil, err
	}
	if err := s.create(ctx, b, req.GetValidateOnly()); err != nil {
		return nil, err
	}
	return &musterv1.CreatePodDisruptionBudgetResponse{PodDisruptionBudget: s.answer(b, !req.GetValidateOnly())}, nil
}

func (s *budgetService) UpdatePodDisruptionBudget(ctx context.Context, req *musterv1.UpdatePodDisruptionBudgetRequest) (*musterv1.UpdatePodDisruptionBudgetResponse, error) {
	b, err := s.checked(req.GetPodDisruptionBudget())
	if err != nil {
		return nil, err
	}
	key := budgetKey(b.Key())
	old, revision, err := read[*spec.PodDisruptionBudget](ctx, s.deps.Store, key)
	if err != nil {
		return nil, err
	}
	stored := !req.GetValidateOnly()
	if old == nil {
		if !req.GetAllowMissing() {
			return nil, notFound("poddisruptionbudget", b.Key())
		}
		if err := s.create(ctx, b, req.GetValidateOnly()); err != nil {
			return nil, err
		}
		return &musterv1.UpdatePodDisruptionBudgetResponse{
			PodDisruptionBudget: s.answer(b, stored), Result: musterv1.WriteResult_WRITE_RESULT_CREATED,
		}, nil
	}
	if err := checkUpdate("poddisruptionbudget", &old.Meta, &b.Meta); err != nil {
		return nil, err
	}
	if err := checkRevision(key, req.GetPodDisruptionBudget().GetMeta().GetRevision(), revision); err != nil {
		return nil, err
	}
	keepIdentity(&b.Meta, &old.Meta)
	resp := &musterv1.UpdatePodDisruptionBudgetResponse{Result: musterv1.WriteResult_WRITE_RESULT_UNCHANGED}
	if !wire.Equal(old, b) {
		resp.Result = musterv1.WriteResult_WRITE_RESULT_CONFIGURED
		b.Generation++
		if stored {
			if _, err := s.commit(ctx, key, revision, b); err != nil {
				return nil, err
			}
		}
	}
	resp.PodDisruptionBudget = s.answer(b, stored)
	return resp, nil
}

func (s *budgetService) DeletePodDisruptionBudget(ctx context.Context, req *musterv1.DeletePodDisruptionBudgetRequest) (*musterv1.DeletePodDisruptionBudgetResponse, error) {
	name, err := objectName(req.GetNamespace(), req.GetName())
	if err != nil {
		return nil, err
	}
	old, revision, err := read[*spec.PodDisruptionBudget](ctx, s.deps.Store, budgetKey(name))
	switch {
	case err != nil:
		return nil, err
	case old == nil:
		return nil, notFound("poddisruptionbudget", name)
	case req.GetUid() != "" && req.GetUid() != old.UID:
		return nil, fmt.Errorf("poddisruptionbudget %s: uid is %s, not %s: %w", name, old.UID, req.GetUid(), store.ErrConflict)
	}
	pb := s.answer(old, false)
	rev, err := s.deps.Store.Commit(ctx, store.Txn{
		If:   []store.Cond{{Key: budgetKey(name), Revision: revision}},
		Then: []store.Write{{Key: budgetKey(name)}, {Key: budgetStateKey(name)}},
	})
	if err != nil {
		return nil, fmt.Errorf("delete poddisruptionbudget %s: %w", name, err)
	}
	return &musterv1.DeletePodDisruptionBudgetResponse{PodDisruptionBudget: pb}, s.deps.Cache.Wait(ctx, rev)
}
