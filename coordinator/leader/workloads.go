package leader

import (
	"maps"
	"slices"
	"time"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/workload"
	"github.com/musterhq/muster/internal/spec"
)

// rolled is what was last decided about a Deployment: nothing follows anew while it is seen as it was, none of its pods is touched,
// and the time has not come.
type rolled struct {
	seen rolling
	due  time.Duration
}

// rolling is what, beside its pods, is seen of a Deployment: the revisions of its records, and whether restarts are held.
type rolling struct {
	deployment, status, history int64
	held                        string
	heldKnown                   bool
}

// workloads makes and deletes the pods of Deployments, and says when to look again at the latest.
func (t *terms) workloads(now time.Duration, v *store.View) time.Duration {
	recheck := now + atLeast
	wall := time.Now()
	history := map[string][]*spec.DeploymentRevision{}
	revisions := map[string]int64{} // added up: any change makes the sum higher, but that one goes
	for rec := range v.All(store.DeployRevisions) {
		r := rec.Value.(*spec.DeploymentRevision)
		history[r.Deployment] = append(history[r.Deployment], r)
		revisions[r.Deployment] += rec.Revision
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
		in := workload.Input{Deployment: &d, History: history[d.UID], Suffix: t.deps.Suffix, Now: wall}
		seen := rolling{deployment: rec.Revision, status: stRevision, history: revisions[d.UID], heldKnown: true}
		if t.deps.Held != nil {
			seen.held, seen.heldKnown = t.deps.Held(d.UID)
			in.Held, in.HeldUnknown = seen.held, !seen.heldKnown
		}
		if was, ok := t.rolled[d.UID]; ok && was.seen == seen && now < was.due && !t.sight.Touched[d.UID] {
			recheck = min(recheck, was.due)
			continue
		}
		failed := t.failed
		t.failed = false
		due := t.roll(now, v, rec, &d, st, stRevision, in)
		if t.failed { // it is looked at again
			delete(t.rolled, d.UID)
		} else {
			t.rolled[d.UID] = rolled{seen, due}
			delete(t.sight.Touched, d.UID)
		}
		t.failed = t.failed || failed
		recheck = min(recheck, due)
	}
	// What is left of Deployments that are gone.
	for rec := range v.All(store.DeployRevisions) {
		if !known[rec.Value.(*spec.DeploymentRevision).Deployment] {
			_, err := t.commit(t.ctx, store.Txn{If: []store.Cond{{Key: rec.Key, Revision: rec.Revision}}, Then: []store.Write{{Key: rec.Key}}})
			t.lost(err, "forget revision "+rec.Key.String())
		}
	}
	maps.DeleteFunc(t.rolled, func(uid string, _ rolled) bool { return !known[uid] })
	maps.DeleteFunc(t.sight.Touched, func(uid string, _ bool) bool { return !known[uid] })
	return recheck
}

// roll does what follows for one Deployment, whose record is rec and whose stored status st, nil for none. It says when to look
// again at the latest.
func (t *terms) roll(
	now time.Duration, v *store.View, rec *store.Record, d *spec.Deployment, st *spec.DeploymentStatus, stRevision int64, in workload.Input,
) time.Duration {
	revisions := map[string]int64{}
	for _, p := range t.sight.OfOwner[d.UID] {
		revisions[p.UID] = p.PodRevision
		shown := fleet.Shown(v, p)
		w := workload.Pod{Pod: p.Pod, Ready: shown.Ready(), Bound: p.Binding != nil, Phase: shown.Phase}
		if c := shown.Condition(spec.ConditionReady); c != nil {
			w.ReadySince = c.TransitionTime
		}
		in.Pods = append(in.Pods, w)
	}
	out := workload.Decide(in)
	due := now + atLeast
	if !out.Recheck.IsZero() {
		due = min(due, now+max(0, out.Recheck.Sub(in.Now)))
	}
	stateKey := store.Key{Family: store.DeployState, Namespace: d.Namespace, Name: d.Name}
	what := "deployment " + d.Key().String()
	held := []store.Cond{{Key: rec.Key, Revision: rec.Revision}}
	if out.Remove {
		_, err := t.commit(t.ctx, store.Txn{If: held, Then: []store.Write{{Key: rec.Key}, {Key: stateKey}}})
		t.lost(err, "remove "+what)
		return due
	}
	if !t.remember(v, d, held, out) {
		return due // what follows from a revision that was not written would be lost with it
	}
	var txns []store.Txn
	for _, p := range out.Create {
		p.UID, p.CreateTime = fleet.NewUID(), time.Now()
		txns = append(txns, store.Txn{
			If:   append([]store.Cond{{Key: store.PodKey(p.Key())}}, held...),
			Then: []store.Write{{Key: store.PodKey(p.Key()), Value: p}},
		})
	}
	for _, p := range out.Delete {
		del := p.Clone()
		del.DeleteTime, del.DeleteGrace = time.Now(), p.Spec.TerminationGrace
		txns = append(txns, store.Txn{
			If:   []store.Cond{{Key: store.PodKey(p.Key()), Revision: revisions[p.UID]}},
			Then: []store.Write{{Key: store.PodKey(p.Key()), Value: del}},
		})
	}
	for i, w := range t.commitAll(txns) {
		t.lost(w.err, "create or delete pod "+txns[i].Then[0].Key.String())
	}
	if st == nil || !sameStatus(st, &out.Status) {
		_, err := t.commit(t.ctx, store.Txn{
			If:   append([]store.Cond{{Key: stateKey, Revision: stRevision}}, held...),
			Then: []store.Write{{Key: stateKey, Value: &out.Status}},
		})
		t.lost(err, "status of "+what)
	}
	return due
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
