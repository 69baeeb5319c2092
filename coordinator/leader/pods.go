package leader

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/musterhq/muster/coordinator/failover"
	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/placement"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/spec"
)

func podRef(p *spec.Pod) spec.ObjectRef {
	return spec.ObjectRef{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}
}

// candidate is a pod that needs a place, with what its new binding is conditioned on.
type candidate struct {
	pod   *fleet.Pod
	conds []store.Cond
	cause string
	from  string
}

// pods ends what is over, and binds what needs a place.
func (t *terms) pods(now time.Duration, v *store.View, pods []*fleet.Pod) time.Duration {
	var wanted []candidate
	var over []*fleet.Pod
	var ends []store.Txn
	for _, p := range pods {
		if txn := ended(p); txn != nil {
			over, ends = append(over, p), append(ends, *txn)
			continue
		}
		if p.Binding == nil {
			if !p.Deleting() {
				wanted = append(wanted, candidate{pod: p})
			}
			continue
		}
		conds, ok := t.mayLeave(now, p)
		switch {
		case !ok:
		case p.Deleting():
			txn := forget(p)
			txn.If = append(txn.If, conds...)
			over, ends = append(over, p), append(ends, txn)
		default:
			wanted = append(wanted, candidate{pod: p, conds: conds, cause: t.plan.Leave[p.Node()], from: p.Node()})
		}
	}
	for i, w := range t.commitAll(ends) {
		if !t.lost(w.err, "end the binding of pod "+over[i].Key().String()) {
			t.freed(now, over[i])
		}
	}
	return t.bind(now, v, pods, wanted)
}

// mayLeave tells whether a bound pod may be bound elsewhere now, and on which conditions besides.
func (t *terms) mayLeave(now time.Duration, p *fleet.Pod) ([]store.Cond, bool) {
	if t.plan.Leave[p.Node()] == "" || t.final(p) {
		return nil, false
	}
	switch p.Binding.Class {
	case spec.Fast:
		return nil, true
	case spec.Fenced:
		revision, ok := t.sealers[p.Node()].Over(now)
		return []store.Cond{{Key: store.Key{Family: store.NodeLeases, Name: p.Node()}, Revision: revision}}, ok
	case spec.Stay:
		t.mu.Lock()
		defer t.mu.Unlock()
		return nil, t.accepted[p.Epoch]
	}
	return nil, false
}

// freed notes that a pod which was asked to leave has ended.
func (t *terms) freed(now time.Duration, p *fleet.Pod) {
	if p.Deleting() || p.Stop == nil {
		return
	}
	t.leaving[p.Key()] = &failover.Move{
		Cause: p.Stop.Reason, Class: p.Binding.Class, Pod: p.Key(), UID: p.UID, From: p.Node(), Wall: time.Now(), Judged: now, Free: now,
	}
}

// bind places the candidates and writes their bindings. After a mass loss it keeps the pace, those first whose owner has
// no ready pod left.
func (t *terms) bind(now time.Duration, v *store.View, pods []*fleet.Pod, wanted []candidate) time.Duration {
	recheck := now + atLeast
	if len(wanted) == 0 {
		return recheck
	}
	if per := t.plan.PerSecond; per > 0 {
		wanted, recheck = t.pace(now, v, pods, wanted, per)
	}
	byName := map[spec.ObjectName]candidate{}
	var ask []placement.Pod
	t.mu.Lock()
	for _, c := range wanted {
		byName[c.pod.Key()] = c
		p := placement.PodOf(c.pod.Pod)
		p.Not = c.from
		if a, ok := t.avoid[p.Name]; ok && now < a.until {
			p.Not = a.node
			recheck = min(recheck, a.until)
		} else {
			delete(t.avoid, p.Name)
		}
		ask = append(ask, p)
	}
	t.mu.Unlock()
	// What a pod held where it comes from is nothing that it, or another, has to keep away from or be near to.
	places := t.scene.nodes(&t.sight, slices.Collect(maps.Keys(byName)))
	for i := range places {
		n := &places[i]
		if st, ok := t.plan.Status[n.Name]; ok {
			n.Ready = st.Verdict == spec.VerdictReady
		}
		n.LastChoice = t.plan.Flapping[n.Name] || t.sealers[n.Name].LastChoice(t.cfg.Now())
	}
	var chosen []choice
	var txns []store.Txn
	for _, r := range placement.Place(places, ask) {
		c := byName[r.Pod]
		if r.Node == "" {
			t.deps.Events.Record(podRef(c.pod.Pod), spec.EventWarning, "FailedScheduling", r.Why)
			continue
		}
		one := choice{candidate: c, to: r.Node, move: t.moveOf(now, c, r.Node)}
		chosen, txns = append(chosen, one), append(txns, one.txn())
	}
	var moved []*failover.Move
	for i, w := range t.commitAll(txns) {
		if m := t.bound(chosen[i], w.revision, w.err); m != nil {
			moved = append(moved, m)
		}
	}
	t.record(moved)
	return recheck
}

// choice is a candidate with its place; move is nil for one that comes from nowhere.
type choice struct {
	candidate
	to   string
	move *failover.Move
}

// txn writes one binding: the pod and its old binding must be as they were seen, and the lease that was waited for.
func (c *choice) txn() store.Txn {
	p, name := c.pod, c.pod.Key()
	b := &spec.Binding{UID: p.UID, Node: c.to, Class: p.FailoverClass(), Cause: "scheduled"}
	if c.move != nil {
		b.Cause = c.move.ID
	}
	return store.Txn{
		If: append([]store.Cond{
			{Key: store.PodKey(name), Revision: p.PodRevision},
			{Key: store.BindingKey(name), Revision: p.Epoch},
		}, c.conds...),
		Then: []store.Write{{Key: store.BindingKey(name), Value: b}, {Key: store.StopKey(name)}},
	}
}

// bound takes in what the write of a choice has come to, and returns the move that has begun with it, nil for none.
func (t *terms) bound(c choice, epoch int64, err error) *failover.Move {
	p, name, to, move := c.pod, c.pod.Key(), c.to, c.move
	if t.lost(err, "bind pod "+name.String()) {
		return nil
	}
	delete(t.leaving, name)
	t.mu.Lock()
	delete(t.avoid, name)
	delete(t.accepted, p.Epoch)
	t.mu.Unlock()
	if move == nil {
		t.deps.Log.Info("pod bound", "pod", name.String(), "node", to, "epoch", epoch)
		t.deps.Events.Record(podRef(p.Pod), spec.EventNormal, "Scheduled", fmt.Sprintf("Successfully assigned %s to %s", name, to))
		return nil
	}
	move.Epoch, move.Bound = epoch, t.cfg.Now()
	t.moves[epoch] = move
	t.deps.Log.Info("pod moved", "pod", name.String(), "from", move.From, "to", to, "epoch", epoch, "cause", move.Cause)
	t.deps.Events.Record(podRef(p.Pod), spec.EventNormal, "Moved", fmt.Sprintf("Moved from %s to %s: %s", move.From, to, move.Cause))
	return move
}

// moveOf is the record of a pod that leaves a node, nil for one that comes from nowhere.
func (t *terms) moveOf(now time.Duration, c candidate, to string) *failover.Move {
	if m := t.leaving[c.pod.Key()]; m != nil {
		m.ID, m.To = moveID(c.pod, m.From), to
		return m
	}
	if c.from == "" {
		return nil
	}
	t.mu.Lock()
	heard, suspected, judged, ok := t.tracker.Timing(c.from)
	t.mu.Unlock()
	m := &failover.Move{
		ID: moveID(c.pod, c.from), Cause: c.cause, Class: c.pod.Binding.Class, Pod: c.pod.Key(), UID: c.pod.UID,
		From: c.from, To: to, Wall: time.Now(), Free: now,
	}
	if ok {
		m.Heard, m.Suspected, m.Judged, m.Wall = heard, suspected, judged, time.Now().Add(heard-now)
	}
	if c.pod.Binding.Class == spec.Fast {
		m.Free = m.Judged // nothing was waited for
	}
	return m
}

func moveID(p *fleet.Pod, from string) string { return fmt.Sprintf("%s-%s-%d", p.Name, from, p.Epoch) }

// observe follows the moves that are under way.
func (t *terms) observe(now time.Duration, pods []*fleet.Pod) {
	if len(t.moves) == 0 {
		return
	}
	byEpoch := map[int64]*fleet.Pod{}
	for _, p := range pods {
		byEpoch[p.Epoch] = p
	}
	var changed []*failover.Move
	for epoch, m := range t.moves {
		p := byEpoch[epoch]
		if p == nil {
			if now-m.Bound > time.Second {
				t.deps.Traces.Moved(m, now, OutcomeSuperseded)
				delete(t.moves, epoch)
			}
			continue
		}
		t.mu.Lock()
		at, delivered := t.delivered[epoch]
		t.mu.Unlock()
		fresh := delivered && m.Delivered == 0
		if fresh {
			m.Delivered = at
		}
		if m.Observe(now, p.Current()) || fresh {
			changed = append(changed, m)
		}
		if m.Ready != 0 {
			t.deps.Metrics.Failover(m.Record())
			t.deps.Traces.Moved(m, now, OutcomeReady)
			delete(t.moves, epoch)
			t.mu.Lock()
			delete(t.delivered, epoch)
			t.mu.Unlock()
		}
	}
	t.record(changed)
}

// record writes the records of moves, and takes the oldest away where there are too many.
func (t *terms) record(moves []*failover.Move) {
	if len(moves) == 0 {
		return
	}
	v := t.deps.Cache.View()
	mine := map[string]bool{}
	txns := make([]store.Txn, len(moves))
	spare := v.Len(store.Failovers) - keepFailovers
	for i, m := range moves {
		key := store.Key{Family: store.Failovers, Name: m.ID}
		txns[i].Then = []store.Write{{Key: key, Value: m.Record()}}
		mine[m.ID] = true
		if _, _, known := store.Get[*spec.Failover](v, key); !known {
			spare++
		}
	}
	if spare > 0 {
		old := slices.SortedFunc(v.All(store.Failovers), func(a, b *store.Record) int { return cmp.Compare(a.Created, b.Created) })
		old = slices.DeleteFunc(old, func(r *store.Record) bool { return mine[r.Key.Name] })
		for i := range min(spare, len(old), len(moves)) {
			txns[i].Then = append(txns[i].Then, store.Write{Key: old[i].Key})
		}
	}
	for i, w := range t.commitAll(txns) {
		t.lost(w.err, "record of failover "+moves[i].ID)
	}
}

// pace lets so many moves a second through, those first whose owner has no ready pod.
func (t *terms) pace(now time.Duration, v *store.View, pods []*fleet.Pod, wanted []candidate, per int) ([]candidate, time.Duration) {
	ready := map[string]bool{}
	for _, p := range pods {
		if p.Owner != nil {
			if st := fleet.Shown(v, p); st.Ready() {
				ready[p.Owner.UID] = true
			}
		}
	}
	urgent := func(c candidate) int {
		if c.pod.Owner == nil || !ready[c.pod.Owner.UID] {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(wanted, func(a, b candidate) int { return cmp.Compare(urgent(a), urgent(b)) })
	for len(t.spent) > 0 && now-t.spent[0] >= time.Second {
		t.spent = t.spent[1:]
	}
	room := max(0, per-len(t.spent))
	var through []candidate
	for _, c := range wanted {
		if c.from == "" || room > 0 {
			if c.from != "" {
				room--
				t.spent = append(t.spent, now)
			}
			through = append(through, c)
		}
	}
	return through, now + 100*time.Millisecond
}
