package runner

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/internal/spec"
)

// Runner runs the pods of a node. Its methods may be called from any goroutine, and before Run.
type Runner struct {
	cfg  Config
	deps Deps

	wg     sync.WaitGroup
	slots  chan struct{}
	disk   chan struct{}
	look   chan struct{} // list the runtime now
	wake   chan struct{} // a recheck comes sooner than was thought, or a report waits
	news   chan struct{} // a status waits for Next
	reopen chan struct{} // a fenced pod waits for a new session
	words  chan struct{} // there is something to say of restarts
	// refreshing is signalled when the files of volumes may have changed.
	refreshing chan struct{}
	configs    configs
	// inventory is closed once complete is set.
	inventory chan struct{}

	mu   sync.Mutex
	ctx  context.Context // Run's; nil before
	pods map[container.PodRef]*held
	// session is the newest one that has assigned anything.
	session int64
	// listing counts the askings of the runtime; complete is set once one has been told in full.
	listing    uint64
	complete   bool
	diskFailed bool
	out        []*held
	// cutOff is since when there is no coordinator; zero while there is one. letGo is when a held restart of an owner was last
	// let go without one.
	cutOff time.Time
	letGo  map[string]time.Time

	// reports has its own lock, so that the prober may report while it is being told.
	reports struct {
		sync.Mutex
		last map[spec.ProbeID]ProbeReport
	}
}

// held is one binding that is here in any way.
type held struct {
	ref container.PodRef
	// pod and machine are nil for an orphan: something that runs, but of which nothing is known.
	pod        *spec.Pod
	machine    *pod.Machine
	class      spec.FailoverClass
	restarts   map[string]int32
	stop       bool
	stopReason string
	// removed: no assignment set has it any more; it is forgotten when it has stopped.
	removed bool

	seen pod.Seen
	// since is the first listing that is new enough to be believed; stale means that it has not come yet.
	since uint64
	stale bool

	status spec.PodStatus
	// stopped is the machine's word, durable that it is on disk and may be said.
	stopped, durable bool
	// fenced waits for an assignment by a session after the one it was noticed in.
	fenced   bool
	fencedIn int64
	slot     int
	// decided is when the machine was last asked, recheck when it is to be asked again without news; zero means never.
	decided, recheck time.Time
	rows             map[spec.ProbeID]rowState
	removing         bool
	// written are the sums of the files that volumes were given.
	written map[string][sha256.Size]byte
	guard   restartGuard
	// costs measure the probes of containers with a CPU limit, by container; weighAt is when to look again.
	costs   map[string]*pod.ProbeCost
	weighAt time.Time
	// hooks end the hooks that are under way, by instance.
	hooks map[string]context.CancelFunc

	dirty, saving bool
	saveAfter     time.Time

	queued bool
	// sent counts the statuses that are not acknowledged, sentAt is when the last one went out.
	sent   int
	sentAt time.Time
}

// rowState is what the prober was last told of a row.
type rowState struct {
	row pod.Probe
	ip  string
}

// New takes up what is on disk. It fails when StateDir can't be read or made.
func New(cfg Config, deps Deps) (*Runner, error) {
	r := &Runner{
		cfg: cfg, deps: deps, pods: map[container.PodRef]*held{}, slots: make(chan struct{}, starts), disk: make(chan struct{}, writers),
		look: make(chan struct{}, 1), wake: make(chan struct{}, 1), news: make(chan struct{}, 1), reopen: make(chan struct{}, 1),
		inventory: make(chan struct{}), refreshing: make(chan struct{}, 1), words: make(chan struct{}, 1),
		cutOff: time.Now(), letGo: map[string]time.Time{},
	}
	r.configs.values = map[spec.ConfigKey]map[string][]byte{}
	r.reports.last = map[spec.ProbeID]ProbeReport{}
	if err := r.load(); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Runner) newHeld(ref container.PodRef, p *spec.Pod, class spec.FailoverClass) *held {
	h := &held{ref: ref, pod: p, class: class, rows: map[spec.ProbeID]rowState{}, costs: map[string]*pod.ProbeCost{}, hooks: map[string]context.CancelFunc{}}
	r.pods[ref] = h
	return h
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run runs pods until ctx ends. It stops none: they go on without an agent. It returns when its goroutines have ended
// and what is known is on disk.
func (r *Runner) Run(ctx context.Context) error {
	r.mu.Lock()
	r.ctx = ctx
	r.mu.Unlock()
	r.wg.Go(func() { r.list(ctx) })
	r.wg.Go(func() { r.measure(ctx) })
	r.wg.Go(func() { r.refresh(ctx) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-r.wake:
		case <-timer.C:
		}
		next := r.pass()
		timer.Reset(time.Until(next))
	}
	r.wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.pods {
		if h.dirty && h.pod != nil {
			rec := h.record()
			r.wroteLocked(h, &rec, r.write(&rec, h.stopped))
		}
	}
	return nil
}

// pass takes reports in, decides for the pods whose time has come, and says when to pass again.
func (r *Runner) pass() (next time.Time) {
	r.reports.Lock()
	reports := r.reports.last
	r.reports.last = map[spec.ProbeID]ProbeReport{}
	r.reports.Unlock()

	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	byUID := map[string][]ProbeReport{}
	for id, rep := range reports {
		byUID[id.PodUID] = append(byUID[id.PodUID], rep)
	}
	next = now.Add(relist)
	r.letGoLocked(now)
	for _, h := range r.pods {
		due := !h.recheck.IsZero() && !now.Before(h.recheck)
		if h.machine != nil {
			for _, rep := range byUID[h.ref.UID] {
				due = h.machine.Probe(pod.ProbeNews{Container: rep.ID.Container, Kind: rep.ID.Kind, Instance: string(rep.Instance),
					Outcome: rep.Outcome, Output: rep.Output, Verdict: rep.Verdict}) || due
			}
		}
		if due {
			r.stepLocked(h)
		}
		if r.cfg.ProbeCPUWarning > 0 && len(h.rows) > 0 && !now.Before(h.weighAt) {
			r.weighLocked(h, now)
		}
		if h.dirty {
			r.saveLocked(h)
		}
		if h.sent > 0 && now.Sub(h.sentAt) >= resend {
			h.sent = 0
			r.outLocked(h)
		}
		if !h.recheck.IsZero() && h.recheck.Before(next) {
			next = h.recheck
		}
	}
	return next
}

// list asks the runtime what is there, again and again.
func (r *Runner) list(ctx context.Context) {
	tick := time.NewTimer(listEvery)
	defer tick.Stop()
	failed := false
	for {
		r.mu.Lock()
		r.listing++
		n := r.listing
		r.mu.Unlock()
		lctx, cancel := context.WithTimeout(ctx, listTimeout)
		l, err := r.deps.Runtime.List(lctx)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failed:
			r.deps.Log.Error("runtime does not list its pods", "err", err)
		case err == nil:
			if failed {
				r.deps.Log.Info("runtime lists its pods again")
			}
			r.listed(n, l)
		}
		failed = err != nil
		tick.Reset(relistGap)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		tick.Reset(listEvery)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-r.look:
		case <-r.deps.Runtime.Changes():
		}
	}
}

// listed takes in the n-th listing.
func (r *Runner) listed(n uint64, l container.List) {
	r.mu.Lock()
	defer r.mu.Unlock()
	there := map[container.PodRef]*container.Pod{}
	for i := range l.Pods {
		p := &l.Pods[i]
		there[p.PodRef] = p
		if r.pods[p.PodRef] == nil && len(r.pods) < maxHeld {
			r.deps.Log.Warn("pod found that nothing is known of: it goes on until the assignments say what it is",
				"pod", p.Namespace+"/"+p.Name, "pod_uid", p.UID, "epoch", p.Epoch)
			r.newHeld(p.PodRef, nil, "")
		}
	}
	if l.Complete && !r.complete {
		r.complete = true
		close(r.inventory)
	}
	for _, h := range r.pods {
		if n < h.since {
			continue
		}
		p := there[h.ref]
		if p == nil && !l.Complete {
			continue // it may be there
		}
		seen := facts(p)
		changed := h.stale || !same(&h.seen, &seen)
		if p != nil && !h.seen.Known && !r.deps.Addresses.Claim(h.ref.UID, p.IP) {
			r.deps.Log.Error("two pods have one address", "pod_uid", h.ref.UID, "address", p.IP)
		}
		h.seen, h.stale = seen, false
		if p != nil && p.FenceSlot != 0 && h.slot == 0 {
			if h.slot = p.FenceSlot; r.deps.Lease != nil {
				r.deps.Lease.Adopt(h.ref.UID, h.ref.Epoch, h.slot)
			}
		}
		// News of one pod is no reason to decide about all others anew, of which there may be hundreds.
		if changed || h.recheck.IsZero() && time.Since(h.decided) >= decideEvery {
			r.stepLocked(h)
		}
	}
}

// facts puts the runtime's words into the machine's. nil means that there is no such pod.
func facts(p *container.Pod) pod.Seen {
	if p == nil {
		return pod.Seen{Known: true}
	}
	s := pod.Seen{Known: true, Exists: true, CreatedAt: p.CreatedAt, Dead: p.Dead, DeadReason: p.DeadReason, Fence: p.Fence, IP: p.IP}
	for i := range p.Containers {
		s.Instances = append(s.Instances, instance(&p.Containers[i]))
	}
	return s
}

func instance(c *container.Container) pod.Instance {
	return pod.Instance{ID: string(c.ID), Name: c.Name, Attempt: c.Attempt, Running: c.Running, StartedAt: c.StartedAt,
		FinishedAt: c.FinishedAt, ExitCode: c.ExitCode, Signal: c.Signal, Reason: c.Reason}
}

func same(a, b *pod.Seen) bool {
	return a.Known == b.Known && a.Exists == b.Exists && a.CreatedAt.Equal(b.CreatedAt) && a.Dead == b.Dead &&
		a.DeadReason == b.DeadReason && a.Fence == b.Fence && a.IP == b.IP && slices.Equal(a.Instances, b.Instances)
}

// blocked tells whether an older binding of the pod, or of its name, has not stopped yet.
func (r *Runner) blocked(h *held) bool {
	for _, o := range r.pods {
		if o.ref.Epoch < h.ref.Epoch && !o.stopped && (o.ref.UID == h.ref.UID || o.pod != nil && o.pod.Key() == h.pod.Key()) {
			return true
		}
	}
	return false
}

func (h *held) wanted(r *Runner) pod.Wanted {
	return pod.Wanted{Pod: h.pod, HostIP: r.cfg.HostIP, Stop: h.stop || h.removed, Guard: h.guard.wanted()}
}

// stepLocked decides about one pod and sets the decision going.
func (r *Runner) stepLocked(h *held) {
	if h.machine == nil {
		r.stepOrphanLocked(h)
		return
	}
	if r.ctx != nil && r.ctx.Err() != nil {
		return
	}
	now, w, seen := time.Now(), h.wanted(r), h.seen
	h.decided = now
	w.Blocked = !seen.Exists && r.blocked(h)
	seen.Known = seen.Known && !h.stale && r.ctx != nil
	plan := h.machine.Decide(now, w, seen)
	for _, e := range plan.Events {
		r.record(h, e)
	}
	fenced := plan.Fenced && !h.fenced
	if fenced {
		h.fenced, h.fencedIn = true, r.session
		r.deps.Log.Warn("pod stopped by its lease", "pod", h.pod.Key().String(), "epoch", h.ref.Epoch)
		poke(r.reopen)
	}
	r.keepLocked(h, plan.Asked)
	if plan.StatusChanged || fenced || plan.Stopped != h.stopped {
		h.status, h.stopped = plan.Status, plan.Stopped
		r.saveLocked(h)
		r.outLocked(h)
	}
	r.guardedLocked(h)
	r.probesLocked(h, &plan)
	if h.recheck = plan.Recheck; w.Blocked && h.recheck.IsZero() {
		h.recheck = now.Add(relist)
	}
	if !h.recheck.IsZero() {
		if soon := now.Add(minRecheck); h.recheck.Before(soon) {
			h.recheck = soon
		}
		poke(r.wake)
	}
	endHooks(h, &seen)
	for _, a := range plan.Actions {
		if a.Kind == pod.RunPostStart || a.Kind == pod.StopContainer {
			r.hookLocked(h, w, a)
			continue
		}
		r.wg.Go(func() { r.do(r.ctx, h, w, a) })
	}
	if h.stopped && h.durable && h.removed {
		r.forgetLocked(h)
	}
}

// stepOrphanLocked removes what runs without being known once the assignments are without it.
func (r *Runner) stepOrphanLocked(h *held) {
	switch {
	case h.seen.Known && !h.seen.Exists && !h.removing:
		r.forgetLocked(h)
	case h.removed && h.seen.Exists && !h.removing && r.ctx != nil && r.ctx.Err() == nil:
		h.removing = true
		r.deps.Log.Info("pod removed that nothing is known of", "pod_uid", h.ref.UID, "epoch", h.ref.Epoch)
		r.wg.Go(func() {
			ctx, cancel := context.WithTimeout(r.ctx, callTimeout)
			defer cancel()
			err := r.deps.Runtime.RemovePod(ctx, h.ref)
			r.mu.Lock()
			defer r.mu.Unlock()
			h.removing, h.since, h.stale = false, r.listing+1, true
			if err != nil && r.ctx.Err() == nil {
				r.deps.Log.Warn("pod not removed", "pod_uid", h.ref.UID, "err", err)
			}
			poke(r.look)
		})
	}
}

// probesLocked tells the prober what has changed of the pod's rows.
func (r *Runner) probesLocked(h *held, plan *pod.Plan) {
	if len(plan.Probes) == 0 && len(h.rows) == 0 {
		return
	}
	gone := maps.Clone(h.rows)
	for _, row := range plan.Probes {
		id := spec.ProbeID{PodUID: h.ref.UID, Container: row.Container, Kind: row.Kind}
		state := rowState{row, plan.Status.PodIP}
		delete(gone, id)
		if h.rows[id] == state {
			continue
		}
		h.rows[id] = state
		sc := h.pod.Spec.Container(row.Container)
		r.deps.Prober.Set(ProbeRow{ID: id, Pod: h.pod.Key(), Probe: probe(sc, row.Kind), Address: state.ip, Ports: sc.Ports,
			Instance: container.ContainerID(row.Instance), StartedAt: row.StartedAt, Running: row.Running, Started: row.Started, Adopted: row.Adopted,
			Guarded: row.Guarded, Held: row.Held})
	}
	for id := range gone {
		delete(h.rows, id)
		r.deps.Prober.Remove(id)
	}
	for _, row := range plan.Trigger {
		r.deps.Prober.Trigger(spec.ProbeID{PodUID: h.ref.UID, Container: row.Container, Kind: row.Kind})
	}
}

func (r *Runner) record(h *held, e pod.Event) {
	ref := spec.ObjectRef{Kind: "Pod", Namespace: h.pod.Namespace, Name: h.pod.Name, UID: h.ref.UID}
	if e.Container != "" {
		list := "containers"
		if slices.ContainsFunc(h.pod.Spec.InitContainers, func(c spec.Container) bool { return c.Name == e.Container }) {
			list = "initContainers"
		}
		ref.FieldPath = "spec." + list + "{" + e.Container + "}"
	}
	r.deps.Events.Record(ref, e.Type, e.Reason, e.Message)
}

// forgetLocked lets go of a pod of which nothing is left.
func (r *Runner) forgetLocked(h *held) {
	for id := range h.rows {
		r.deps.Prober.Remove(id)
	}
	delete(r.pods, h.ref)
	if !h.stopped {
		r.releaseLocked(h)
	}
	r.unlinkLocked(h)
	for _, o := range r.pods { // it may have been in the way
		if o.ref.UID == h.ref.UID || h.pod != nil && o.pod != nil && o.pod.Key() == h.pod.Key() {
			o.recheck = time.Now()
			poke(r.wake)
		}
	}
}

// releaseLocked gives back what a pod of which no process is left had of the node.
func (r *Runner) releaseLocked(h *held) {
	shared := false
	for _, o := range r.pods {
		shared = shared || o != h && o.ref.UID == h.ref.UID && !o.stopped
	}
	if !shared {
		r.deps.Addresses.Release(h.ref.UID)
	}
	if h.slot != 0 && r.deps.Lease != nil {
		r.deps.Lease.Release(h.ref.UID, h.ref.Epoch)
		h.slot = 0
	}
}

// Assign takes assignments in. It decides at once and blocks for no runtime call. Assignments of an older session than
// the newest are ignored.
func (r *Runner) Assign(set Assignments) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if set.Session < r.session {
		return
	}
	r.session = set.Session
	touched := map[*held]bool{}
	named := map[container.PodRef]bool{}
	for i := range set.Assigned {
		a := &set.Assigned[i]
		ref := container.PodRef{UID: a.Pod.UID, Epoch: a.Epoch}
		named[ref] = true
		if h := r.assignLocked(ref, a); h != nil {
			touched[h] = true
			for _, o := range r.pods { // the holder of an older epoch stops first
				if o.ref.UID == ref.UID && o.ref.Epoch < ref.Epoch && !o.removed {
					o.removed, touched[o] = true, true
				}
			}
		}
	}
	for _, ref := range set.Removed {
		if h := r.pods[ref]; h != nil && !named[ref] {
			h.removed, touched[h] = true, true
		}
	}
	if set.Full {
		for ref, h := range r.pods {
			if !named[ref] {
				h.removed, touched[h] = true, true
			}
		}
	}
	for _, h := range slices.SortedFunc(maps.Keys(touched), func(a, b *held) int {
		return cmp.Or(cmp.Compare(a.ref.Epoch, b.ref.Epoch), cmp.Compare(a.ref.UID, b.ref.UID))
	}) {
		r.saveLocked(h)
		r.stepLocked(h)
	}
	poke(r.refreshing) // labels may have changed
}

func (r *Runner) assignLocked(ref container.PodRef, a *Assigned) *held {
	h := r.pods[ref]
	switch {
	case !uidForm.MatchString(ref.UID) || ref.Epoch <= 0 || len(a.Pod.Spec.Containers) == 0:
		r.deps.Log.Error("assignment refused: it names no pod", "pod", a.Pod.Key().String(), "pod_uid", ref.UID, "epoch", ref.Epoch)
		return nil
	case len(a.Pod.Spec.AllContainers()) > container.MaxContainers:
		r.deps.Log.Error("assignment refused: too many containers", "pod", a.Pod.Key().String(), "containers", len(a.Pod.Spec.AllContainers()), "most", container.MaxContainers)
		return nil
	case h == nil && len(r.pods) >= maxHeld:
		r.deps.Log.Error("assignment refused: too many pods", "pod", a.Pod.Key().String(), "most", maxHeld)
		return nil
	case h == nil:
		h = r.newHeld(ref, a.Pod, a.Class)
		// What is not in a complete listing does not exist; otherwise the next one tells.
		h.seen.Known, h.since, h.stale = r.complete, r.listing+1, !r.complete
	}
	if h.machine == nil { // new, or an orphan no more
		h.class, h.restarts = a.Class, a.Restarts
		h.machine = pod.New(a.Pod, nil, a.Restarts, true)
	}
	if a.Stop && !h.stop {
		r.deps.Log.Info("pod is to stop", "pod", a.Pod.Key().String(), "epoch", a.Epoch, "why", a.StopReason)
	}
	h.pod, h.stop, h.stopReason, h.removed = a.Pod, a.Stop, a.StopReason, false
	h.guard.begin(a.Guarded)
	if !h.fenced || r.session > h.fencedIn {
		h.machine.AssignedAnew()
		h.fenced = false
	}
	if h.stopped {
		r.outLocked(h) // final: it is said again
	}
	return h
}

// Report takes in what an attempt of a probe has brought. It never blocks. Attempts that succeed as the one before did
// need not be reported. While a report waits, a newer one of the same probe takes its place.
func (r *Runner) Report(rep ProbeReport) {
	r.reports.Lock()
	r.reports.last[rep.ID] = rep
	r.reports.Unlock()
	poke(r.wake)
}

// Reopen is signalled when a pod was stopped by its lease: only a new session can let it go on.
func (r *Runner) Reopen() <-chan struct{} { return r.reopen }

// outLocked puts a pod's status in line for Next.
func (r *Runner) outLocked(h *held) {
	if h.pod == nil || h.queued || r.pods[h.ref] != h {
		return
	}
	h.queued = true
	r.out = append(r.out, h)
	poke(r.news)
}

func (h *held) heldStatus() spec.HeldStatus {
	s := spec.HeldStatus{UID: h.ref.UID, Epoch: h.ref.Epoch, Stopped: h.stopped && h.durable, Status: h.status}
	if h.pod == nil {
		s.Status = spec.PodStatus{Phase: spec.PhaseRunning, PodIP: h.seen.IP, Fence: h.seen.Fence}
	}
	return s
}

// All returns the status of everything that is held and takes it out of Next's line. complete means that the runtime has
// been listed in full since New, so that what is not named does not run here; All waits for that, but at most 2 s.
func (r *Runner) All(ctx context.Context) (statuses []spec.HeldStatus, complete bool) {
	wait := time.NewTimer(inventoryWait)
	defer wait.Stop()
	select {
	case <-r.inventory:
	case <-wait.C:
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for _, h := range r.out {
		h.queued = false
	}
	r.out = nil
	for _, h := range r.pods {
		statuses = append(statuses, h.heldStatus())
		h.sent, h.sentAt = 1, now
	}
	slices.SortFunc(statuses, func(a, b spec.HeldStatus) int {
		return cmp.Or(cmp.Compare(a.UID, b.UID), cmp.Compare(a.Epoch, b.Epoch))
	})
	return statuses, r.complete
}

// Holdings is every binding that is held, as it stands now. Like All it waits for the runtime's list.
func (r *Runner) Holdings(ctx context.Context) []spec.Holding {
	wait := time.NewTimer(inventoryWait)
	defer wait.Stop()
	select {
	case <-r.inventory:
	case <-wait.C:
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []spec.Holding
	for _, h := range r.pods {
		one := spec.Holding{UID: h.ref.UID, Epoch: h.ref.Epoch}
		if h.machine != nil && !h.stopped && !h.removed && !h.fenced {
			one.Final = h.status.Phase.Final()
			if h.class == spec.Fenced {
				one.Live = r.deps.Lease != nil && r.deps.Lease.Live(h.ref.UID, h.ref.Epoch)
			} else {
				one.Live = h.seen.Known && h.seen.Exists && !h.seen.Dead
			}
		}
		all = append(all, one)
	}
	return all
}

// Next waits for statuses that have changed since they were last returned, and returns at most n. Of each pod the latest
// is returned; one that is not acknowledged within 10 s is returned again. It fails only when ctx ends.
func (r *Runner) Next(ctx context.Context, n int) ([]spec.HeldStatus, error) {
	for {
		if s := r.take(n); len(s) > 0 {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-r.news:
		}
	}
}

func (r *Runner) take(n int) (statuses []spec.HeldStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for len(r.out) > 0 && len(statuses) < n {
		h := r.out[0]
		r.out, h.queued = r.out[1:], false
		if r.pods[h.ref] != h {
			continue
		}
		h.sent++
		h.sentAt = now
		statuses = append(statuses, h.heldStatus())
	}
	if len(r.out) > 0 {
		poke(r.news)
	}
	return statuses
}

// Acked says which statuses are stored, and which are of bindings that this node does not have: what runs of those is
// stopped.
func (r *Runner) Acked(committed, notYours []container.PodRef) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ref := range committed {
		if h := r.pods[ref]; h != nil && h.sent > 0 {
			h.sent--
		}
	}
	for _, ref := range notYours {
		if h := r.pods[ref]; h != nil {
			h.sent, h.removed = 0, true
			r.saveLocked(h)
			r.stepLocked(h)
		}
	}
}

// newestLocked is the newest binding of a pod here. ErrNotFound.
func (r *Runner) newestLocked(uid string) (newest *held, err error) {
	for _, h := range r.pods {
		if h.ref.UID == uid && h.pod != nil && (newest == nil || newest.ref.Epoch < h.ref.Epoch) {
			newest = h
		}
	}
	if newest == nil {
		return nil, fmt.Errorf("pod %s: %w", uid, ErrNotFound)
	}
	return newest, nil
}

// Dial connects to a TCP port of a pod. ErrNotFound, or the runtime's errors.
func (r *Runner) Dial(ctx context.Context, uid string, port int) (container.Conn, error) {
	r.mu.Lock()
	h, err := r.newestLocked(uid)
	r.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return r.deps.Runtime.Dial(ctx, h.ref, port)
}

// find returns the container's status in the newest binding of the pod here.
func (r *Runner) find(uid, name string) (spec.ContainerStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	newest, err := r.newestLocked(uid)
	if err != nil {
		return spec.ContainerStatus{}, err
	}
	if newest.pod.Spec.Container(name) == nil {
		return spec.ContainerStatus{}, fmt.Errorf("container %s of pod %s: %w", name, newest.pod.Key(), ErrNotFound)
	}
	if c := newest.status.Container(name); c != nil {
		return *c, nil
	}
	return spec.ContainerStatus{Name: name}, nil
}

// newest is the newest instance of a container. ErrNotFound or ErrNotStarted.
func (r *Runner) newest(uid, name string) (container.ContainerID, error) {
	c, err := r.find(uid, name)
	if err == nil && c.ID == "" {
		err = fmt.Errorf("container %s: %w", name, ErrNotStarted)
	}
	return container.ContainerID(c.ID), err
}

// Exec runs a command in the newest instance of a container. ErrNotFound, ErrNotStarted, or the runtime's errors.
func (r *Runner) Exec(ctx context.Context, uid, name string, cmd container.ExecConfig) (container.ExecResult, error) {
	id, err := r.newest(uid, name)
	if err != nil {
		return container.ExecResult{}, err
	}
	return r.deps.Runtime.Exec(ctx, id, cmd)
}

// Interact runs a command in the newest instance of a container on the streams given. ErrNotFound, ErrNotStarted, or the
// runtime's errors.
func (r *Runner) Interact(ctx context.Context, uid, name string, cmd container.Interaction) (int32, error) {
	id, err := r.newest(uid, name)
	if err != nil {
		return 0, err
	}
	return r.deps.Runtime.Interact(ctx, id, cmd)
}
