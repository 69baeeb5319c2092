package leader

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/coordinator/election"
	"github.com/musterhq/muster/coordinator/failover"
	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/lease"
	"github.com/musterhq/muster/coordinator/restored"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/memory"
	"github.com/musterhq/muster/internal/spec"
)

// world is a leader on a store in memory, with nodes whose signs the test sets.
type world struct {
	window *restored.Window
	t      *testing.T
	store  *memory.Store
	cache  *store.Cache
	leader *Leader
	start  time.Time

	looks atomic.Int64 // at Deployments

	mu    sync.Mutex
	dead  map[string]time.Duration // since when nothing is heard
	guard map[string]failover.Guard
	// guardAsked counts by the guard's address.
	guardAsked map[string]int
	moved      []*spec.Failover
	ended      []string // pod, outcome, last phase
	said       []string
}

func (w *world) now() time.Duration { return time.Since(w.start) + time.Second }

func (w *world) Sign(node string) lease.Sign {
	w.mu.Lock()
	defer w.mu.Unlock()
	if since, ok := w.dead[node]; ok {
		return lease.Sign{Heard: true, Ago: w.now() - since}
	}
	return lease.Sign{Heard: true, Up: true}
}

func (w *world) Record(_ spec.ObjectRef, _, reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, reason+": "+message)
}

// told returns the events.
func (w *world) told() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.said
}

func (w *world) Failover(f *spec.Failover) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.moved = append(w.moved, f)
}

func (w *world) Moved(m *failover.Move, now time.Duration, outcome string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	spans := m.Spans(now, time.Now())
	w.ended = append(w.ended, fmt.Sprint(m.Pod.Name, " ", outcome, " ", spans[len(spans)-1].Phase))
}

// asked is how many tests there were.
func (w *world) asked() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, asked := range w.guardAsked {
		n += asked
	}
	return n
}

func (w *world) kill(node string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead[node], w.guard[node] = w.now(), failover.GuardRefused
}

// lagging is a store whose changes are seen so much later.
type lagging struct {
	store.Store
	lag time.Duration
}

type laggingWatch struct {
	store.Watch
	c chan store.Changes
}

func (w laggingWatch) C() <-chan store.Changes { return w.c }

func (l lagging) Watch(ctx context.Context, after int64) store.Watch {
	type seen struct {
		store.Changes
		at time.Time
	}
	w, all := laggingWatch{l.Store.Watch(ctx, after), make(chan store.Changes)}, make(chan seen, 10_000)
	go func() {
		defer close(all)
		for c := range w.Watch.C() {
			all <- seen{c, time.Now()}
		}
	}()
	go func() {
		defer close(w.c)
		for s := range all {
			time.Sleep(time.Until(s.at.Add(l.lag)))
			select {
			case w.c <- s.Changes:
			case <-ctx.Done():
			}
		}
	}()
	return w
}

// lead runs test beside a leader of so many nodes, in a bubble.
func lead(t *testing.T, nodes int, test func(w *world)) { leadLate(t, nodes, 0, test) }

// leadLate is lead with a leader that sees what happens only so much later.
func leadLate(t *testing.T, nodes int, lag time.Duration, test func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, store: memory.New(), start: time.Now(), dead: map[string]time.Duration{}, guard: map[string]failover.Guard{}, guardAsked: map[string]int{}}
		defer w.store.Close()
		log := slog.New(slog.DiscardHandler)
		w.cache = store.NewCache(lagging{w.store, lag}, log)
		n := 0
		var err error
		if w.window, err = restored.New(w.cache.View(), 5*time.Second, w.now); err != nil {
			t.Fatal(err)
		}
		w.leader = New(Config{AgentGrace: 5 * time.Second, PodCIDR: netip.MustParsePrefix("10.77.0.0/22"), Now: w.now}, Deps{
			Store: w.store, Cache: w.cache, Fleet: fleet.Share(w.cache), Leases: w, Events: w, Metrics: w, Traces: w, Log: log,
			Guards: func(_ context.Context, address string) failover.Guard {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.guardAsked[address]++
				return w.guard[address]
			},
			Witnesses: func(context.Context, *fleet.Node, int, func(failover.Witness)) int { return 0 },
			Members:   func() map[string]string { return nil },
			Held:      func(string) (string, bool) { w.looks.Add(1); return "", true },
			Restored:  w.window,
			Suffix:    func() string { n++; return fmt.Sprintf("%05d", n) },
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = w.cache.Run(ctx) })
		for i := range nodes {
			name := fmt.Sprint("n", i)
			w.put(store.Key{Family: store.NodeFacts, Name: name}, &spec.NodeFacts{GuardAddress: name, MaxPods: 10, Images: "ignore"})
			w.put(store.Key{Family: store.NodeLeases, Name: name}, &spec.NodeLease{State: spec.LeaseOpen, Owner: "me", Session: 1, TTL: 5 * time.Second})
		}
		wg.Go(func() { _ = election.New(election.Config{Owner: "me"}, w.store, log).Run(ctx, w.leader.Run) })
		time.Sleep(3 * time.Second)
		test(w)
		cancel()
		wg.Wait()
	})
}

func (w *world) put(k store.Key, v store.Value) int64 {
	w.t.Helper()
	rev, err := w.store.Commit(w.t.Context(), store.Txn{Then: []store.Write{{Key: k, Value: v}}})
	if err != nil {
		w.t.Fatal(err)
	}
	return rev
}

func (w *world) pod(name string, class spec.FailoverClass) {
	p := &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: name, UID: name, Annotations: map[string]string{spec.AnnotationFailover: string(class)}}}
	p.Spec.Containers = []spec.Container{{Name: "c", Command: []string{"x"}}}
	w.put(store.PodKey(p.Key()), p)
	time.Sleep(500 * time.Millisecond)
}

func (w *world) look(name string) *fleet.Pod {
	w.t.Helper()
	p, _ := fleet.LookupPod(w.cache.View(), spec.ObjectName{Namespace: "default", Name: name})
	return &p
}

// say is what the pod's holder reports.
func (w *world) say(name string, stopped bool) {
	p := w.look(name)
	st := spec.PodStatus{
		Phase:      spec.PhaseRunning,
		Conditions: []spec.Condition{{Type: spec.ConditionReady, Status: spec.ConditionTrue}},
		Containers: []spec.ContainerStatus{{Name: "c", Ready: true, State: spec.ContainerState{Running: &spec.Running{}}}},
	}
	w.put(store.StatusKey(p.Key()), &spec.HeldStatus{UID: p.UID, Epoch: p.Epoch, Stopped: stopped, Status: st})
	time.Sleep(500 * time.Millisecond)
}

func TestAPendingPodIsBoundAndASteadyFleetWritesNothing(t *testing.T) {
	lead(t, 3, func(w *world) {
		w.pod("web", spec.Fast)
		if w.look("web").Node() == "" {
			t.Fatal("not bound")
		}
		w.say("web", false)
		before := w.cache.View().Revision()
		time.Sleep(time.Minute)
		if after := w.cache.View().Revision(); after != before {
			t.Errorf("revision went from %d to %d in a minute of steady state", before, after)
		}
	})
}

func TestACalmLeaderLooksAtEverythingEveryTenSecondsAndAtOnceWhenPoked(t *testing.T) {
	lead(t, 3, func(w *world) {
		d := &spec.Deployment{Meta: spec.Meta{Namespace: "default", Name: "web", UID: "d", Generation: 1}}
		d.Spec.Replicas, d.Spec.Template.Labels = 2, map[string]string{"app": "web"}
		d.Spec.Template.Spec.Containers = []spec.Container{{Name: "c", Command: []string{"x"}}}
		w.put(store.Key{Family: store.Deployments, Namespace: "default", Name: "web"}, d)
		time.Sleep(10 * time.Second)
		looks := func(during time.Duration) int64 {
			before := w.looks.Load()
			time.Sleep(during)
			return w.looks.Load() - before
		}
		if n := looks(time.Minute); n < 5 || n > 7 {
			t.Errorf("it looks %d times a minute", n)
		}
		time.Sleep(3 * time.Second) // between two of those
		w.leader.Poke()
		if n := looks(100 * time.Millisecond); n != 1 {
			t.Errorf("it looks %d times when poked", n)
		}
		w.put(store.Key{Family: store.Nodes, Name: "n1"}, &spec.Node{Meta: spec.Meta{Name: "n1"}})
		if n := looks(100 * time.Millisecond); n != 1 {
			t.Errorf("it looks %d times after a change", n)
		}
	})
}

func TestAFastPodLeavesALostNodeAtOnceWithItsPhasesRecorded(t *testing.T) {
	lead(t, 3, func(w *world) {
		w.pod("web", spec.Fast)
		w.say("web", false)
		from := w.look("web").Node()
		w.kill(from)
		time.Sleep(3500 * time.Millisecond)
		p := w.look("web")
		if p.Node() == from || p.Node() == "" {
			t.Fatalf("on node %q 3.5 s after %s has died", p.Node(), from)
		}
		w.leader.Delivered(p.UID, p.Epoch)
		w.say("web", false)
		time.Sleep(time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.moved) != 1 || w.moved[0].From != from || w.moved[0].Phases.Detect < 0 || w.moved[0].Phases.Ready < 0 || w.moved[0].Phases.Fence != 0 {
			t.Errorf("failovers %+v, want one with every phase, the fence's 0", w.moved)
		}
	})
}

func TestAMoveIsTracedOnceWhenItHasFinishedOrIsGivenUp(t *testing.T) {
	var w *world
	lead(t, 3, func(in *world) {
		w = in
		for _, name := range []string{"good", "again", "open"} {
			w.pod(name, spec.Fast)
			w.say(name, false)
		}
		move := func(name string) {
			from := w.look(name).Node()
			if err := w.leader.Move(t.Context(), w.look(name).Key(), false); err != nil {
				t.Fatal(err)
			}
			w.say(name, true)
			time.Sleep(time.Second)
			if p := w.look(name); p.Node() == from {
				t.Fatalf("%s is still on %s", name, from)
			}
			w.leader.Delivered("", w.look(name).Epoch)
			time.Sleep(2 * time.Second)
		}
		move("good")
		w.say("good", false)
		move("again")
		w.kill(w.look("again").Node())
		time.Sleep(10 * time.Second)
		w.say("again", false)
		move("open")
		w.mu.Lock()
		defer w.mu.Unlock()
		if got, want := fmt.Sprint(w.ended), "[good ready ready again superseded start again ready ready]"; got != want {
			t.Errorf("ended: %s, want %s", got, want)
		}
	})
	if got := w.ended[len(w.ended)-1]; len(w.ended) != 4 || got != "open unled start" {
		t.Errorf("ended: %v, want last what the leader left open", w.ended)
	}
}

func TestAFencedPodWaitsForTheSealedLeaseAndLeavesOnlyIfItIsStillThat(t *testing.T) {
	lead(t, 2, func(w *world) {
		w.pod("db", spec.Fenced)
		from := w.look("db").Node()
		key := store.Key{Family: store.NodeLeases, Name: from}
		w.kill(from)
		time.Sleep(2 * time.Second)
		l, revision, _ := store.Get[*spec.NodeLease](w.cache.View(), key)
		if l.State != spec.LeaseSealing {
			t.Fatalf("lease is %s, want sealing", l.State)
		}
		time.Sleep(20 * time.Second)
		if got := w.look("db").Node(); got != from {
			t.Fatalf("on %s though the lease's owner has not sealed it", got)
		}
		sealed := *l
		sealed.State, sealed.Remaining = spec.LeaseSealed, 4*time.Second
		w.put(key, &sealed)
		time.Sleep(3900 * time.Millisecond)
		if got := w.look("db").Node(); got != from {
			t.Fatalf("moved to %s before the wait was over", got)
		}
		time.Sleep(time.Second)
		if got := w.look("db").Node(); got == from {
			t.Errorf("still on %s after the wait (lease revision %d)", from, revision)
		}
	})
}

func TestAStayPodWaitsForAPerson(t *testing.T) {
	lead(t, 2, func(w *world) {
		w.pod("disk", spec.Stay)
		from := w.look("disk").Node()
		w.kill(from)
		time.Sleep(time.Minute)
		name := spec.ObjectName{Namespace: "default", Name: "disk"}
		if got := w.look("disk").Node(); got != from {
			t.Fatalf("moved to %s by itself", got)
		}
		if err := w.leader.Move(t.Context(), name, false); err == nil {
			t.Error("moved without anybody accepting the risk")
		}
		if err := w.leader.Move(t.Context(), name, true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if got := w.look("disk").Node(); got == from {
			t.Error("not moved though the risk was accepted")
		}
	})
}

func TestADeletedPodGoesWhenItsHolderHasStoppedIt(t *testing.T) {
	lead(t, 1, func(w *world) {
		w.pod("web", spec.Fenced)
		p := w.look("web")
		del := p.Pod.Clone()
		del.DeleteTime = time.Now()
		w.put(store.PodKey(p.Key()), del)
		time.Sleep(10 * time.Second)
		if w.look("web").Pod == nil {
			t.Fatal("gone before its holder has said Stopped")
		}
		w.say("web", true)
		if p := w.look("web"); p.Pod != nil || w.cache.View().Len(store.Bindings)+w.cache.View().Len(store.PodStatuses) != 0 {
			t.Errorf("pod %v, %d bindings, %d statuses are left", p.Pod, w.cache.View().Len(store.Bindings), w.cache.View().Len(store.PodStatuses))
		}
	})
}

func TestAMovedPodIsStoppedFirstAndStartsElsewhere(t *testing.T) {
	lead(t, 2, func(w *world) {
		w.pod("web", spec.Fenced)
		w.say("web", false)
		p := w.look("web")
		if err := w.leader.Move(t.Context(), p.Key(), false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if got := w.look("web"); got.Stop == nil || got.Epoch != p.Epoch {
			t.Fatalf("stop %v, epoch %d; want its holder asked, and the binding as it was", got.Stop, got.Epoch)
		}
		w.say("web", true)
		time.Sleep(time.Second)
		if got := w.look("web"); got.Node() == p.Node() || got.Node() == "" || got.Epoch <= p.Epoch || got.Stop != nil {
			t.Errorf("on %q under epoch %d, stop %v; want elsewhere, above %d, none", got.Node(), got.Epoch, got.Stop, p.Epoch)
		}
	})
}

func TestADeploymentsPodsAreMadeAndTakenAway(t *testing.T) {
	lead(t, 2, func(w *world) {
		d := &spec.Deployment{Meta: spec.Meta{Namespace: "default", Name: "web", UID: "d"}, Spec: spec.DeploymentSpec{
			Replicas: 3, Template: spec.PodTemplate{Labels: map[string]string{"app": "web"}, Spec: spec.PodSpec{Containers: []spec.Container{{Name: "c"}}}},
		}}
		key := store.Key{Family: store.Deployments, Namespace: "default", Name: "web"}
		w.put(key, d)
		time.Sleep(time.Second)
		perNode := map[string]int{}
		for _, p := range fleet.Pods(w.cache.View()) {
			perNode[p.Node()]++
		}
		if perNode["n0"]+perNode["n1"] != 3 || perNode["n0"] == 0 || perNode["n1"] == 0 {
			t.Fatalf("pods by node %v, want 3 spread over both", perNode)
		}
		gone := d.Clone()
		gone.DeleteTime = time.Now()
		w.put(key, gone)
		time.Sleep(time.Second)
		for _, p := range fleet.Pods(w.cache.View()) {
			w.say(p.Name, true)
		}
		time.Sleep(time.Second)
		if v := w.cache.View(); v.Len(store.Pods)+v.Len(store.Deployments)+v.Len(store.DeployState)+v.Len(store.DeployRevisions) != 0 {
			t.Errorf("%d pods, %d deployments, %d states, %d revisions are left",
				v.Len(store.Pods), v.Len(store.Deployments), v.Len(store.DeployState), v.Len(store.DeployRevisions))
		}
	})
}

func TestManyNodesInDoubtAreTestedInTurnAndNoMoreASecondThanMayBe(t *testing.T) {
	const nodes = 1200
	lead(t, nodes, func(w *world) {
		w.mu.Lock()
		for i := range nodes {
			w.dead[fmt.Sprint("n", i)], w.guard[fmt.Sprint("n", i)] = w.now(), failover.GuardAgentRuns
		}
		w.mu.Unlock()
		for w.asked() == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		for second := range 6 {
			before := w.asked()
			if second == 0 {
				before = 0
			}
			time.Sleep(time.Second)
			if n := w.asked() - before; n > testsPerSecond+testsAtOnce || second > 0 && n > testsPerSecond+100 || n < testsPerSecond-100 {
				t.Errorf("%d tests in second %d", n, second)
			}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		least, most := nodes, 0
		for i := range nodes {
			n := w.guardAsked[fmt.Sprint("n", i)]
			least, most = min(least, n), max(most, n)
		}
		if least < 3 || most-least > 2 {
			t.Errorf("one was tested %d times, another one %d times", least, most)
		}
	})
}

func TestTheOldestRecordsOfFailoversMakeRoomForNewOnes(t *testing.T) {
	lead(t, 1, func(w *world) {
		key := func(name string) store.Key { return store.Key{Family: store.Failovers, Name: name} }
		for i := range keepFailovers {
			w.put(key(fmt.Sprint("old-", i)), &spec.Failover{ID: fmt.Sprint("old-", i)})
		}
		time.Sleep(100 * time.Millisecond)
		term := w.leader.newTerm(w.t.Context())
		// The first is the oldest, and changes; two are new.
		term.record([]*failover.Move{{ID: "old-0"}, {ID: "new-0"}, {ID: "new-1"}})
		time.Sleep(100 * time.Millisecond)
		v := w.cache.View()
		if n := v.Len(store.Failovers); n != keepFailovers {
			t.Errorf("%d records", n)
		}
		for name, want := range map[string]bool{"old-0": true, "old-1": false, "old-2": false, "old-3": true, "new-0": true, "new-1": true} {
			if _, _, ok := store.Get[*spec.Failover](v, key(name)); ok != want {
				t.Errorf("%s is there: %v", name, ok)
			}
		}
	})
}

func TestAMassLossFreezesFailoverUntilSomebodyResumesIt(t *testing.T) {
	lead(t, 6, func(w *world) {
		for i := range 12 {
			w.pod(fmt.Sprint("p", i), spec.Fast)
		}
		before := map[string]string{}
		for _, p := range fleet.Pods(w.cache.View()) {
			before[p.Name] = p.Node()
		}
		for i := range 5 {
			w.kill(fmt.Sprint("n", i))
		}
		time.Sleep(30 * time.Second)
		if w.leader.Frozen() == "" {
			t.Fatal("5 of 6 nodes are lost, and failover is not frozen")
		}
		// The first two losses are no mass loss yet, so pods of two nodes may have left.
		left := map[string]bool{}
		for _, p := range fleet.Pods(w.cache.View()) {
			if p.Node() != before[p.Name] {
				left[before[p.Name]] = true
			}
		}
		if len(left) > 2 {
			t.Errorf("pods left %d nodes (%v) while frozen, want at most 2", len(left), left)
		}
		if !w.leader.Resume() {
			t.Fatal("not resumed")
		}
		time.Sleep(20 * time.Second)
		moved := 0
		for _, p := range fleet.Pods(w.cache.View()) {
			if p.Node() != before[p.Name] {
				moved++
			}
		}
		if moved < 8 {
			t.Errorf("%d pods moved after resume, want those that fit on the last node", moved)
		}
	})
}
