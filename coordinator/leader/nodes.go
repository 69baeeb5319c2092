package leader

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/musterhq/muster/coordinator/failover"
	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/lease"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/fence"
	"github.com/musterhq/muster/internal/spec"
)

// labelZone is the failure domain of a node.
const labelZone = "topology.kubernetes.io/zone"

// terms is one term's memory. It belongs to the loop.
type terms struct {
	*Leader
	ctx     context.Context
	sealers map[string]*fence.Sealer
	moves   map[int64]*failover.Move // by the new epoch
	leaving map[spec.ObjectName]*failover.Move
	spent   []time.Duration // when pods were moved in the last second
	testing tests
	plan    failover.Plan
	given   map[string]network // what nodes were given in this term, by name
	refused string             // what was said of those that get none
	tested  int                // which node the next look tests first
	sight   fleet.Sight
	scene   scene
	// acted is the view that all was done for at last, nil where something is still to be done for it; due is when time alone
	// asks for more.
	acted  *store.View
	due    time.Duration
	rolled map[string]rolled // by the Deployment's uid
	// failed is whether a write of this pass has not come to be.
	failed bool
	// beside is since when pods, by their epochs, are seen beside a NoExecute taint that they tolerate for a while at most.
	beside map[int64]time.Duration
}

func (l *Leader) newTerm(ctx context.Context) *terms {
	return &terms{
		Leader: l, ctx: ctx, sealers: map[string]*fence.Sealer{}, moves: map[int64]*failover.Move{}, leaving: map[spec.ObjectName]*failover.Move{},
		given: map[string]network{}, rolled: map[string]rolled{}, testing: tests{rate: rate.NewLimiter(testsPerSecond, testsAtOnce)},
	}
}

// tests are the tests of nodes that are under way in a term.
type tests struct {
	sync.WaitGroup
	rate *rate.Limiter
}

// test is what was asked about a node since it was last Ready. Under Leader.mu.
type test struct {
	running   bool
	last      time.Duration
	guard     failover.Guard
	guardAt   time.Duration
	witnesses map[string]failover.Witness
	// asked is as in failover.Signs.
	asked int
}

func statusKey(node string) store.Key { return store.Key{Family: store.NodeStatus, Name: node} }

// pass looks once and does what follows: always for the nodes' signs, and for the rest when anything is another than the last
// time, or somebody has poked. It says when to look again at the latest.
func (t *terms) pass(now, late time.Duration, poked bool) time.Duration {
	v := t.deps.Cache.View()
	t.sight.See(v)
	in := t.look(now, late)
	t.mu.Lock()
	t.plan = t.tracker.Decide(in)
	wasFrozen := t.frozen
	t.frozen = t.plan.Frozen
	t.mu.Unlock()
	if t.plan.Frozen != wasFrozen {
		t.frozenChanged()
	}
	calm := len(t.plan.Status)+len(t.plan.Test)+len(t.plan.Leave)+len(t.moves) == 0
	if calm && !poked && v == t.acted && now < t.due {
		return min(t.plan.Recheck, t.due)
	}
	// What was decided last may not be seen yet: pods made anew would be too many, and places taken not be known.
	if v.Revision() < t.wrote.Load() {
		t.acted = nil
		return now + minPause
	}
	t.failed = false
	t.act(now, v)
	if t.acted = nil; calm && !t.failed {
		t.acted = v
	}
	return min(t.plan.Recheck, t.due)
}

// act does what follows from a view and the plan.
func (t *terms) act(now time.Duration, v *store.View) {
	nodes, pods, perNode := t.sight.Nodes, t.sight.Pods, t.sight.OnNode
	t.verdicts(v, nodes)
	t.testAll(now, nodes)
	t.networks(v, nodes)
	if t.deps.Restored != nil {
		if left, pending := t.deps.Restored.Pending(v); pending {
			t.due = t.afterRestore(now, left, v, pods)
			return
		}
	}
	t.due = min(t.seal(now, nodes, perNode), t.workloads(now, v), t.evict(now, nodes, perNode), t.pods(now, v, pods))
	t.observe(now, pods)
}

func (t *terms) frozenChanged() {
	ref := spec.ObjectRef{Kind: "Node", Name: "cluster"}
	if t.plan.Frozen == "" {
		t.deps.Log.Info("failover goes on")
		t.deps.Events.Record(ref, spec.EventNormal, "FailoverResumed", "Failover goes on")
		return
	}
	t.deps.Log.Error("failover is frozen", "reason", t.plan.Frozen)
	t.deps.Events.Record(ref, spec.EventWarning, "FailoverFrozen", "Failover is frozen: "+t.plan.Frozen)
}

// look gathers the signs.
func (t *terms) look(now, late time.Duration) failover.Input {
	nodes, perNode := t.sight.Nodes, t.sight.OnNode
	in := failover.Input{Now: now, Wall: time.Now(), Lateness: late, AgentGrace: t.cfg.AgentGrace}
	members := t.deps.Members()
	for _, n := range nodes {
		sign := t.deps.Leases.Sign(n.Name)
		s := failover.Signs{
			Asked: -1, Node: n.Name, Domain: n.Label(labelZone), Up: sign.Up, Comeback: sign.Comeback, Member: members[n.Name],
			Stored: n.Verdict(), StoredNotReady: n.Status != nil && n.Status.PodsNotReady,
		}
		if sign.Heard {
			s.Heard = now - sign.Ago
		}
		for _, p := range perNode[n.Name] {
			if !t.final(p) {
				s.Pods++
			}
		}
		s.LeaseOver = sign.Expired
		t.mu.Lock()
		if ts := t.tests[n.Name]; ts != nil {
			s.Guard, s.GuardAt, s.Asked = ts.guard, ts.guardAt, ts.asked
			for _, w := range ts.witnesses {
				s.Witnesses = append(s.Witnesses, w)
			}
		}
		t.mu.Unlock()
		if n.Verdict() == spec.VerdictReady && n.Facts != nil {
			in.FreePods += max(0, int(n.Facts.MaxPods)-len(perNode[n.Name]))
		}
		in.Nodes = append(in.Nodes, s)
		sealer := t.sealers[n.Name]
		if sealer == nil {
			sealer = &fence.Sealer{}
			t.sealers[n.Name] = sealer
		}
		if n.Lease != nil {
			sealer.See(now, lease.Record(n.Lease), n.LeaseRevision)
		}
	}
	return in
}

func (t *terms) final(p *fleet.Pod) bool {
	h := p.Current()
	return h != nil && h.Status.Phase.Final()
}

// verdicts stores what has changed, one write a node.
func (t *terms) verdicts(v *store.View, nodes []*fleet.Node) {
	var changed []*fleet.Node
	var txns []store.Txn
	for _, n := range nodes {
		st, ok := t.plan.Status[n.Name]
		if !ok {
			continue
		}
		_, revision, _ := store.Get[*spec.NodeStatus](v, statusKey(n.Name))
		changed, txns = append(changed, n), append(txns, store.Txn{
			If:   []store.Cond{{Key: statusKey(n.Name), Revision: revision}},
			Then: []store.Write{{Key: statusKey(n.Name), Value: &st}},
		})
	}
	for i, w := range t.commitAll(txns) {
		n := changed[i]
		st := t.plan.Status[n.Name]
		t.lost(w.err, "store the verdict of node "+n.Name)
		if n.Verdict() == st.Verdict {
			continue
		}
		t.deps.Log.Info("verdict", "node", n.Name, "verdict", st.Verdict, "was", n.Verdict(), "cause", st.Cause)
		ref := spec.ObjectRef{Kind: "Node", Name: n.Name}
		if st.Verdict == spec.VerdictReady {
			t.deps.Events.Record(ref, spec.EventNormal, "NodeReady", "Node is ready")
		} else {
			t.deps.Events.Record(ref, spec.EventWarning, "NodeNotReady", "Node is "+string(st.Verdict)+": "+st.Cause)
		}
	}
}

// lost logs what a write came to: a lost race is no error, for the write that won wakes the loop.
func (t *terms) lost(err error, what string) bool {
	if err == nil {
		return false
	}
	t.failed = true
	if !errors.Is(err, store.ErrConflict) && t.ctx.Err() == nil {
		t.deps.Log.Warn("not written", "what", what, "err", err)
	}
	return true
}

// testAll tests the nodes that are in doubt, and forgets what was asked about the others. While there are more than may be
// tested, each look goes on where the one before has left off.
func (t *terms) testAll(now time.Duration, nodes []*fleet.Node) {
	first := t.tested
	for i := range nodes {
		at := (first + i) % len(nodes)
		n := nodes[at]
		if witnesses := t.plan.Test[n.Name]; witnesses > 0 {
			if t.test(now, n, witnesses) {
				t.tested = at + 1
			}
			continue
		}
		t.mu.Lock()
		if ts := t.tests[n.Name]; ts != nil && !ts.running {
			delete(t.tests, n.Name)
		}
		t.mu.Unlock()
	}
}

// test asks a node's guard and its witnesses, unless that is under way or was done just now, or too many others were
// asked about. It tells whether it does.
func (t *terms) test(now time.Duration, n *fleet.Node, witnesses int) bool {
	t.mu.Lock()
	ts := t.tests[n.Name]
	if ts == nil {
		ts = &test{witnesses: map[string]failover.Witness{}, asked: -1, last: now - failover.TestEvery}
		t.tests[n.Name] = ts
	}
	if ts.running || now-ts.last < failover.TestEvery || n.Facts == nil || !t.testing.rate.AllowN(time.Time{}.Add(now), 1) {
		t.mu.Unlock()
		return false
	}
	ts.running, ts.last = true, now
	t.mu.Unlock()
	node := *n
	t.testing.Go(func() {
		ctx, cancel := context.WithTimeout(t.ctx, 2*time.Second)
		defer cancel()
		asking := sync.WaitGroup{}
		asking.Go(func() {
			g := t.deps.Guards(ctx, node.Facts.GuardAddress)
			t.mu.Lock()
			ts.guard, ts.guardAt = g, t.cfg.Now()
			t.mu.Unlock()
			t.poke()
		})
		asking.Go(func() {
			asked := t.deps.Witnesses(ctx, &node, witnesses, func(w failover.Witness) {
				t.mu.Lock()
				ts.witnesses[w.Member] = w
				t.mu.Unlock()
				t.poke()
			})
			t.mu.Lock()
			ts.asked = asked
			t.mu.Unlock()
		})
		asking.Wait()
		t.mu.Lock()
		ts.running = false
		t.mu.Unlock()
		t.poke()
	})
	return true
}

// seal asks for the end of the leases whose nodes fenced pods may leave, as far as the verdict goes.
func (t *terms) seal(now time.Duration, nodes []*fleet.Node, perNode map[string][]*fleet.Pod) time.Duration {
	recheck := now + atLeast
	var names []string
	var txns []store.Txn
	for _, n := range nodes {
		sealer := t.sealers[n.Name]
		if left, ok := sealer.Left(now); ok {
			recheck = min(recheck, now+left)
		}
		if t.plan.Leave[n.Name] == "" || !t.hasFenced(perNode[n.Name]) {
			continue
		}
		rec, revision, ok := sealer.Seal(now)
		if !ok {
			continue
		}
		key := store.Key{Family: store.NodeLeases, Name: n.Name}
		names = append(names, n.Name)
		txns = append(txns, store.Txn{
			If:   []store.Cond{{Key: key, Revision: revision}},
			Then: []store.Write{{Key: key, Value: lease.Spec(rec)}},
		})
	}
	for i, w := range t.commitAll(txns) {
		if !t.lost(w.err, "seal the lease of node "+names[i]) {
			rec := txns[i].Then[0].Value.(*spec.NodeLease)
			t.deps.Log.Info("sealing lease", "node", names[i], "session", rec.Session, "barred", rec.Barred)
		}
	}
	return recheck
}

func (t *terms) hasFenced(pods []*fleet.Pod) bool {
	for _, p := range pods {
		if p.Binding.Class == spec.Fenced && !t.final(p) {
			return true
		}
	}
	return false
}
