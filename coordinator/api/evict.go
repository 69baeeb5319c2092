package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/musterhq/muster/coordinator/disruption"
	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/leader"
	"github.com/musterhq/muster/coordinator/store"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

// What keeps a pod where it is.
var (
	// ErrBudget means that an eviction would violate a disruption budget. It may be allowed later.
	ErrBudget = errors.New("it would violate the disruption budget")
	// ErrFinished means that nothing of a bare pod runs any more: moving it would run it anew.
	ErrFinished = errors.New("has finished: there is nothing to move")
)

const (
	// evictTries is how often an eviction is decided anew when another one, or a report on the pod, came in between.
	evictTries = 8
	// maxBudgets bounds the budgets that one eviction counts on: its transaction has two conditions for each.
	maxBudgets = 50
)

func (s *podService) EvictPod(ctx context.Context, req *musterv1.EvictPodRequest) (*musterv1.EvictPodResponse, error) {
	name, err := objectName(req.GetNamespace(), req.GetName())
	if err != nil {
		return nil, err
	}
	if g := req.GetGrace(); g != nil && (g.CheckValid() != nil || g.AsDuration() < 0) {
		return nil, invalid("grace", "must be greater than or equal to 0")
	}
	for tries := 1; ; tries++ {
		done, again, err := s.evict(ctx, req, name)
		if err != nil {
			if again && tries < evictTries {
				continue
			}
			return nil, err
		}
		resp := &musterv1.EvictPodResponse{Eviction: done}
		v := s.deps.Cache.View()
		if p, ok := fleet.LookupPod(v, name); ok {
			resp.Pod = shownPod(v, &p)
		}
		return resp, nil
	}
}

// evict decides once and writes that in one transaction. again is set when what it was decided on has changed meanwhile.
//
// The transaction rewrites the state of each budget that was counted on, on the condition that it is still as it was read.
// So the counts have every eviction before this one in them, and of two at the same moment one is decided anew.
func (s *podService) evict(ctx context.Context, req *musterv1.EvictPodRequest, name spec.ObjectName) (done musterv1.Eviction, again bool, err error) {
	const none = musterv1.Eviction_EVICTION_UNSPECIFIED
	v, err := s.newest(ctx)
	if err != nil {
		return none, false, err
	}
	p, ok := fleet.LookupPod(v, name)
	switch {
	case !ok:
		return none, false, notFound("pod", name)
	case req.GetUid() != "" && req.GetUid() != p.UID:
		return none, false, fmt.Errorf("pod %s: uid is %s, not %s: %w", name, p.UID, req.GetUid(), store.ErrConflict)
	case req.GetNode() != "" && req.GetNode() != p.Node():
		return none, false, fmt.Errorf("pod %s: on node %q, not %s: %w", name, p.Node(), req.GetNode(), store.ErrConflict)
	}
	seen := budgeted(v, &p)
	switch {
	case seen.Leaving:
		return musterv1.Eviction_EVICTION_UNDER_WAY, false, nil
	case p.Owner != nil:
		done = musterv1.Eviction_EVICTION_DELETE
	default:
		done = musterv1.Eviction_EVICTION_MOVE
		if settled, err := s.mayMove(v, &p, &seen); err != nil || settled {
			return musterv1.Eviction_EVICTION_UNDER_WAY, false, err
		}
	}
	txn, err := s.withinBudgets(v, &p, &seen)
	if err != nil {
		return none, false, err
	}
	if req.GetValidateOnly() {
		return done, false, nil
	}
	if err := s.writeEviction(ctx, req, &p, txn); err != nil {
		return none, errors.Is(err, store.ErrConflict), err
	}
	s.deps.Log.Info("pod evicted", "pod", name.String(), "node", p.Node(), "epoch", p.Epoch, "eviction", done.String())
	return done, false, nil
}

// newest is a view that has everything that was written before this call.
func (s *API) newest(ctx context.Context) (*store.View, error) {
	_, revision, err := s.deps.Store.List(ctx, store.BudgetStates)
	if err != nil {
		return nil, fmt.Errorf("read the state of budgets: %w", err)
	}
	if err := s.deps.Cache.Wait(ctx, revision); err != nil {
		return nil, fmt.Errorf("wait for revision %d: %w", revision, err)
	}
	return s.deps.Cache.View(), nil
}

// mayMove tells whether a bare pod can be moved. settled is one that leaves its lost node by itself.
func (s *podService) mayMove(v *store.View, p *fleet.Pod, seen *disruption.Pod) (settled bool, err error) {
	n, _ := fleet.LookupNode(v, p.Node())
	switch {
	case p.Binding == nil:
		return false, fmt.Errorf("pod %s %w", p.Key(), leader.ErrNotBound)
	case seen.Phase.Final():
		return false, fmt.Errorf("pod %s %w", p.Key(), ErrFinished)
	case n.Verdict() == spec.VerdictLost && p.Binding.Class == spec.Stay:
		return false, fmt.Errorf("pod %s: %w", p.Key(), leader.ErrRisk)
	case n.Verdict() == spec.VerdictLost:
		return true, nil
	}
	if why := s.deps.Leader.Elsewhere(p); why != "" {
		return false, fmt.Errorf("pod %s %w: %s", p.Key(), leader.ErrNowhere, why)
	}
	return false, nil
}

// withinBudgets asks every budget that selects a pod. What it returns makes an eviction one with what they were asked on.
func (s *podService) withinBudgets(v *store.View, p *fleet.Pod, seen *disruption.Pod) (store.Txn, error) {
	txn := store.Txn{If: []store.Cond{{Key: store.PodKey(p.Key()), Revision: p.PodRevision}}}
	if !seen.Ready {
		// That it is not ready must still be so.
		txn.If = append(txn.If, store.Cond{Key: store.StatusKey(p.Key()), Revision: p.HeldRevision})
	}
	if disruption.Exempt(seen) {
		return txn, nil
	}
	var budgets []*store.Record
	for rec := range v.ByNamespace(store.Budgets, p.Namespace) {
		if rec.Value.(*spec.PodDisruptionBudget).Selects(p.Pod) {
			budgets = append(budgets, rec)
		}
	}
	if len(budgets) > maxBudgets {
		return txn, fmt.Errorf("pod %s: selected by %d disruption budgets, at most %d: %w", p.Key(), len(budgets), maxBudgets, store.ErrTooLarge)
	}
	slices.SortFunc(budgets, func(a, b *store.Record) int { return cmp.Compare(a.Key.Name, b.Key.Name) })
	for _, rec := range budgets {
		b := rec.Value.(*spec.PodDisruptionBudget)
		st := stands(v, b)
		if !disruption.Allows(b, st, seen) {
			return txn, fmt.Errorf("cannot evict pod %s: %w %q: %d of %d expected pods are healthy, %d must be",
				p.Key(), ErrBudget, b.Name, st.CurrentHealthy, st.ExpectedPods, st.DesiredHealthy)
		}
		key := budgetStateKey(b.Key())
		state, revision, _ := store.Get[*spec.BudgetState](v, key)
		next := &spec.BudgetState{UID: b.UID, Evictions: 1}
		if state != nil && state.UID == b.UID {
			next.Evictions = state.Evictions + 1
		}
		txn.If = append(txn.If, store.Cond{Key: rec.Key, Revision: rec.Revision}, store.Cond{Key: key, Revision: revision})
		txn.Then = append(txn.Then, store.Write{Key: key, Value: next})
	}
	return txn, nil
}

// writeEviction deletes a workload's pod, or asks a bare one's holder to stop it, together with txn.
func (s *podService) writeEviction(ctx context.Context, req *musterv1.EvictPodRequest, p *fleet.Pod, txn store.Txn) error {
	if p.Owner == nil {
		return s.deps.Leader.Evict(ctx, p, txn)
	}
	pod := p.Clone()
	pod.DeleteTime, pod.DeleteGrace = s.deps.Now(), p.Spec.TerminationGrace
	if g := req.GetGrace(); g != nil {
		pod.DeleteGrace = g.AsDuration()
	}
	// Bound elsewhere meanwhile it would not be what was asked for.
	txn.If = append(txn.If, store.Cond{Key: store.BindingKey(p.Key()), Revision: p.Epoch})
	txn.Then = append(txn.Then, store.Write{Key: store.PodKey(p.Key()), Value: pod})
	rev, err := s.deps.Store.Commit(ctx, txn)
	if err != nil {
		return fmt.Errorf("evict pod %s: %w", p.Key(), err)
	}
	return s.deps.Cache.Wait(ctx, rev)
}
