package leader

import (
	"slices"
	"time"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/workload"
	"github.com/musterhq/muster/internal/spec"
)

// workloads makes and deletes the pods of Deployments, and says when to look again at the latest.
func (t *terms) workloads(now time.Duration, v *store.View, pods []fleet.Pod) time.Duration {
	recheck := now + time.Second
	wall := time.Now()
	owned, revisions := map[string][]workload.Pod{}, map[string]int64{}
	for i := range pods {
		p := &pods[i]
		revisions[p.UID] = p.PodRevision
		if p.Owner == nil {
			continue
		}
		st := fleet.Shown(v, p)
		w := workload.Pod{Pod: p.Pod, Ready: st.Ready(), Bound: p.Binding != nil, Phase: st.Phase}
		if c := st.Condition(spec.ConditionReady); c != nil {
			w.ReadySince = c.TransitionTime
		}
		owned[p.Owner.UID] = append(owned[p.Owner.UID], w)
	}
	history := map[string][]*spec.DeploymentRevision{}
	for r := range store.AllOf[*spec.DeploymentRevision](v, store.DeployRevisions) {
		history[r.Deployment] = append(history[r.Deployment], r)
	}
	known := map[string]bool{}
	for rec := range v.All(store.Deployments) {
		d := *rec.Value.(*spec.Deployment)
		known[d.UID] = true
		stateKey := store.Key{Family: store.DeployState, Namespace: d.Namespace, Name: d.Name}
		st, stRevision, ok := store.Get[*spec.DeploymentStatus](v, stateKey)
		if ok {
			d.Status = *st
		}
		in := workload.Input{Deployment: &d, Pods: owned[d.UID], History: history[d.UID], Suffix: t.deps.Suffix, Now: wall}
		if t.deps.Held != nil {
			why, known := t.deps.Held(d.UID)
			in.Held, in.HeldUnknown = why, !known
		}
		out := workload.Decide(in)
		if !out.Recheck.IsZero() {
			recheck = min(recheck, now+max(0, out.Recheck.Sub(wall)))
		}
		what := "deployment " + d.Key().String()
		held := []store.Cond{{Key: rec.Key, Revision: rec.Revision}}
		if out.Remove {
			_, err := t.commit(t.ctx, store.Txn{If: held, Then: []store.Write{{Key: rec.Key}, {Key: stateKey}}})
			t.lost(err, "remove "+what)
			continue
		}
		if !t.remember(v, &d, held, out) {
			continue // what follows from a revision that was not written would be lost with it
		}
		for _, p := range out.Create {
			p.UID, p.CreateTime = fleet.NewUID(), time.Now()
			_, err := t.commit(t.ctx, store.Txn{
				If:   append([]store.Cond{{Key: store.PodKey(p.Key())}}, held...),
				Then: []store.Write{{Key: store.PodKey(p.Key()), Value: p}},
			})
			t.lost(err, "create pod "+p.Key().String())
		}
		for _, p := range out.Delete {
			del := p.Clone()
			del.DeleteTime, del.DeleteGrace = time.Now(), p.Spec.TerminationGrace
			_, err := t.commit(t.ctx, store.Txn{
				If:   []store.Cond{{Key: store.PodKey(p.Key()), Revision: revisions[p.UID]}},
				Then: []store.Write{{Key: store.PodKey(p.Key()), Value: del}},
			})
			t.lost(err, "delete pod "+p.Key().String())
		}
		if !ok || !sameStatus(st, &out.Status) {
			_, err := t.commit(t.ctx, store.Txn{
				If:   append([]store.Cond{{Key: stateKey, Revision: stRevision}}, held...),
				Then: []store.Write{{Key: stateKey, Value: &out.Status}},
			})
			t.lost(err, "status of "+what)
		}
	}
	// What is left of Deployments that are gone.
	for rec := range v.All(store.DeployRevisions) {
		if !known[rec.Value.(*spec.DeploymentRevision).Deployment] {
			_, err := t.commit(t.ctx, store.Txn{If: []store.Cond{{Key: rec.Key, Revision: rec.Revision}}, Then: []store.Write{{Key: rec.Key}}})
			t.lost(err, "forget revision "+rec.Key.String())
		}
	}
	return recheck
}

// revisionKey names the record of a template that a Deployment has or had.
func revisionKey(d *spec.Deployment, hash string) store.Key {
	return store.Key{Family: store.DeployRevisions, Namespace: d.Namespace, Name: d.Name + "@" + hash}
}

// remember writes what changes in the history of a Deployment; false when its newest revision was not written.
func (t *terms) remember(v *store.View, d *spec.Deployment, held []store.Cond, out workload.Decision) bool {
	if rec := out.Record; rec != nil {
		key := revisionKey(d, rec.Hash)
		_, revision, _ := store.Get[*spec.DeploymentRevision](v, key)
		_, err := t.commit(t.ctx, store.Txn{
			If:   append([]store.Cond{{Key: key, Revision: revision}}, held...),
			Then: []store.Write{{Key: key, Value: rec}},
		})
		if t.lost(err, "revision of deployment "+d.Key().String()) {
			return false
		}
		t.deps.Log.Info("rollout", "deployment", d.Key().String(), "revision", rec.Revision, "template", rec.Hash)
	}
	for _, old := range out.Forget {
		key := revisionKey(d, old.Hash)
		_, revision, _ := store.Get[*spec.DeploymentRevision](v, key)
		_, err := t.commit(t.ctx, store.Txn{If: []store.Cond{{Key: key, Revision: revision}}, Then: []store.Write{{Key: key}}})
		t.lost(err, "forget revision "+key.String())
	}
	return true
}

// sameStatus compares statuses by what they say: times change only with it.
func sameStatus(a, b *spec.DeploymentStatus) bool {
	if a.ObservedGeneration != b.ObservedGeneration || a.Replicas != b.Replicas || a.UpdatedReplicas != b.UpdatedReplicas ||
		a.Ready != b.Ready || a.Available != b.Available || a.Revision != b.Revision || !a.ProgressTime.Equal(b.ProgressTime) {
		return false
	}
	return slices.EqualFunc(a.Conditions, b.Conditions, func(x, y spec.Condition) bool {
		return x.Type == y.Type && x.Status == y.Status && x.Reason == y.Reason && x.Message == y.Message
	})
}
