package pod

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// How failed actions are tried again, and how often a probe that is not ready is triggered without news.
const (
	retryFirst  = time.Second
	retryMax    = 30 * time.Second
	retryFenced = 200 * time.Millisecond
	resync      = time.Minute
	// stopSlack is how long after its grace a stop may take before the whole sandbox is removed.
	stopSlack = 5 * time.Second
	// maxText bounds what others say in a status or an event.
	maxText = 1024
)

// Machine decides about one binding of one pod. It is not safe for concurrent use.
type Machine struct {
	containers map[string]*container
	status     spec.PodStatus
	stopped    bool
	// fenced: the lease ended the pod, which waits for an assignment; fenceOf is the sandbox that this was read from.
	fenced  bool
	fenceOf time.Time
	// evicted is why the node has ended the pod for good.
	evicted string
	// rebuild: the sandbox is to go before anything else starts.
	rebuild bool
	// resetting: containers are still to end because all of the pod restart; nothing starts meanwhile.
	resetting bool
	// unassigned: a fenced pod that is known from the disk only makes no new sandbox.
	unassigned bool
	deadOf     time.Time
	// stopSince is when the pod began to end, for good or because its regular containers have.
	stopSince time.Time
	seq       int
	inflight  map[int]Action
	retry     retry
	events    []Event
	// news is set when something has changed since the readiness probes were last triggered.
	news      bool
	triggered time.Time
}

// retry spaces the attempts at an action that fails.
type retry struct {
	delay time.Duration
	at    time.Time
}

func (r *retry) failed(now time.Time) {
	r.delay = min(max(2*r.delay, retryFirst), retryMax)
	r.at = now.Add(r.delay)
}

// role is what a container is to its pod.
type role uint8

const (
	regular role = iota
	// initial is an init container that runs to its end before the next one starts.
	initial
	// sidecar is an init container that runs on beside the regular ones.
	sidecar
)

type container struct {
	ContainerMemory
	role role
	// ending is set for a sidecar whose pod is over.
	ending bool
	// kept is the status from before the agent's restart, for the instance it names (rule 11.3).
	kept     spec.ContainerStatus
	verdicts [spec.Startup + 1]verdict
	// ended is when the instance ended, on a scale that a change of the clock does not move.
	ended time.Time
	// stopping is the instance that is being stopped, until the deadline, because of that kind of probe.
	stopping string
	deadline time.Time
	// heldSince is since when its restart waits, heldTold whether that was told, stillHeld whether it does by this decision.
	heldSince           time.Time
	heldTold, stillHeld bool
	// killed is LivenessKill on a scale that a change of the clock does not move; zero if that was before the agent's start.
	killed time.Time
	// hookedStop is the instance whose preStop hook was asked for.
	hookedStop string
	// told is the attempt whose wait was told in an event.
	told int32
	// trouble is why it can't be started now.
	trouble spec.Waiting
	retry   retry
	due     bool
	// owesMemory is set until the memory of the newest end is asked for.
	owesMemory bool
}

// verdict is what is believed of one probe of the newest instance.
type verdict struct {
	result spec.Result
	// errored is why the last attempt could not be made.
	errored string
	// unhealthy: a failure was told since the last success.
	unhealthy bool
}

// New returns a machine for a pod that is new to this node, or with its memory for one that is taken up again. first
// has the restarts of its containers on other nodes and may be nil. assigned is false for a fenced pod that is known
// from the disk only: no sandbox is made for it before AssignedAnew.
func New(p *spec.Pod, m *Memory, first map[string]int32, assigned bool) *Machine {
	mc := &Machine{containers: map[string]*container{}, inflight: map[int]Action{}, unassigned: !assigned, news: true}
	for i, sc := range p.Spec.AllContainers() {
		c := &container{ContainerMemory: ContainerMemory{First: first[sc.Name]}, told: -1}
		switch {
		case i >= len(p.Spec.InitContainers):
		case sc.Sidecar():
			c.role = sidecar
		default:
			c.role = initial
		}
		mc.containers[sc.Name] = c
	}
	if m == nil {
		return mc
	}
	mc.status, mc.stopped, mc.fenced, mc.fenceOf, mc.evicted = m.Status, m.Stopped, m.Fenced, m.FenceOf, m.Evicted
	for name, c := range mc.containers {
		if cm, ok := m.Containers[name]; ok {
			c.ContainerMemory = cm
		}
		if s := m.Status.Container(name); s != nil {
			c.kept = *s
		}
	}
	return mc
}

// Memory is what to keep for New.
func (m *Machine) Memory() Memory {
	mem := Memory{Status: m.status, Stopped: m.stopped, Fenced: m.fenced, FenceOf: m.fenceOf, Evicted: m.evicted, Containers: map[string]ContainerMemory{}}
	for name, c := range m.containers {
		cm := c.ContainerMemory
		if cm.Instance != nil {
			in := *cm.Instance
			cm.Instance = &in
		}
		if cm.Stop != nil {
			stop := *cm.Stop
			cm.Stop = &stop
		}
		mem.Containers[name] = cm
	}
	return mem
}

// AssignedAnew tells that a session which began after the fence has assigned the pod: it may start again.
func (m *Machine) AssignedAnew() {
	m.unassigned = false
	if m.fenced {
		m.fenced, m.rebuild = false, true
	}
}

// Evict ends the pod for good, because it takes of the node what it must not: once its containers have ended it is Failed, and
// that is why. A pod that is over, or has been evicted already, stays as it is.
func (m *Machine) Evict(why string) {
	if m.evicted != "" || m.stopped || m.status.Phase.Final() {
		return
	}
	m.evicted, m.news = cut(why), true
	m.event(spec.EventWarning, ReasonEvicted, m.evicted, "")
}

// Idle tells whether no action is under way.
func (m *Machine) Idle() bool { return len(m.inflight) == 0 }

// Done tells how an action ended. Facts that are older than its end must not be given to Decide any more.
func (m *Machine) Done(now time.Time, w Wanted, seq int, r Result) {
	a, ok := m.inflight[seq]
	if !ok {
		return
	}
	delete(m.inflight, seq)
	m.news = true
	c := m.containers[a.Container]
	text := cut(r.Text)
	switch a.Kind {
	case EnsureSandbox, RemoveSandbox:
		switch r.Failure {
		case None:
			m.retry = retry{}
			if a.Kind == RemoveSandbox {
				m.rebuild = false
			}
		case Fenced:
			m.retry.at = now.Add(retryFenced)
		default:
			m.retry.failed(now)
			reason := "FailedCreatePodSandBox"
			if a.Kind == RemoveSandbox {
				reason = "FailedKillPod"
			}
			m.event(spec.EventWarning, reason, fmt.Sprintf("%s: %s", a.Kind, text), "")
		}
	case StartContainer:
		m.started(now, c, a, r, text)
	case StopContainer:
		if c.stopping == a.ID && !m.pending(StopContainer, a.Container) {
			c.stopping = ""
			if c.running() {
				c.retry.failed(now)
			}
			if r.Failure != None {
				m.event(spec.EventWarning, "FailedKillPod", "error killing container: "+text, a.Container)
			}
		}
		if r.HookFailed {
			m.event(spec.EventWarning, "FailedPreStopHook", "PreStopHook failed", a.Container)
		}
	case RunPostStart:
		m.hooked(&w, c, a, r)
	}
}

func (m *Machine) started(now time.Time, c *container, a Action, r Result, text string) {
	switch r.Failure {
	case None:
		m.event(spec.EventNormal, "Created", "Container created", a.Container)
		m.event(spec.EventNormal, "Started", "Container started", a.Container)
		m.see(now, c, r.Instance)
	case CannotStart:
		m.event(spec.EventWarning, "Failed", "Error: "+text, a.Container)
		m.see(now, c, Instance{Name: a.Container, Attempt: a.Attempt, StartedAt: now, FinishedAt: now, ExitCode: 128,
			Reason: ReasonStartError, Message: text})
	case Fenced:
		c.retry.at = now.Add(retryFenced)
		c.trouble = spec.Waiting{Reason: ReasonLeaseExpired, Message: "the node's lease has too little time left"}
	case Misconfigured:
		c.retry.failed(now)
		c.trouble = spec.Waiting{Reason: "CreateContainerConfigError", Message: text}
		m.event(spec.EventWarning, "Failed", "Error: "+text, a.Container)
	case Other:
		c.retry.failed(now)
		c.trouble = spec.Waiting{Reason: "RunContainerError", Message: text}
		m.event(spec.EventWarning, "Failed", "Error: "+text, a.Container)
	}
}

// Probe takes in what an attempt has brought. Decide should follow when it returns true.
func (m *Machine) Probe(n ProbeNews) (changed bool) {
	c := m.containers[n.Container]
	if c == nil || n.Kind < spec.Liveness || n.Kind > spec.Startup || c.Instance == nil || c.Instance.ID == "" ||
		c.Instance.ID != n.Instance || !c.Instance.Running {
		return false
	}
	v, output, title := &c.verdicts[n.Kind], cut(n.Output), n.Kind.Title()
	errored := ""
	switch n.Outcome {
	case spec.OutcomeFailure:
		m.event(spec.EventWarning, "Unhealthy", title+" probe failed: "+output, n.Container)
		v.unhealthy = true
	case spec.OutcomeErrored:
		m.event(spec.EventWarning, "Unhealthy", title+" probe errored and resulted in unknown state: "+output, n.Container)
		errored = output
	case spec.OutcomeWarning:
		m.event(spec.EventWarning, "ProbeWarning", title+" probe warning: "+output, n.Container)
	case spec.OutcomeInconclusive:
		errored = v.errored
	}
	if (v.errored == "") != (errored == "") { // the text of the first stays: attempts must not become writes
		v.errored, changed = errored, true
	}
	if n.Kind == spec.Liveness && n.Verdict == spec.ResultSuccess {
		c.Lived = !c.LivenessKill.IsZero()
	}
	if n.Verdict != spec.ResultUnknown && n.Verdict != v.result {
		v.result, changed = n.Verdict, true
		if n.Verdict == spec.ResultSuccess && v.unhealthy && n.Outcome != spec.OutcomeFailure {
			v.unhealthy = false
			m.event(spec.EventNormal, "Healthy", title+" probe succeeded again", n.Container)
		}
	}
	m.news = m.news || changed
	return changed || len(m.events) > 0
}

// Decide folds in the facts and says what is to be done.
func (m *Machine) Decide(now time.Time, w Wanted, s Seen) Plan {
	var plan Plan
	if m.status.StartTime.IsZero() {
		m.status.StartTime = wall(now)
	}
	if s.Known && !m.stopped {
		m.observe(now, &w, &s)
		m.markResets(&w)
		m.markEnding(&w)
		switch {
		case w.stopping():
			m.planStop(now, &w, &s, &plan)
		case m.status.Phase.Final():
		case m.evicted != "":
			m.planEviction(now, &w, &plan)
		default:
			m.planRun(now, &w, &s, &plan)
		}
		m.letGo()
	}
	status := m.status
	if s.Known {
		status = m.describe(now, &w, &s)
	} else if status.Phase == "" {
		status.Phase = spec.PhasePending
	}
	plan.StatusChanged = !reflect.DeepEqual(status, m.status)
	m.status, plan.Status = status, status
	plan.Stopped, plan.Fenced = m.stopped, m.fenced
	if !m.stopped && !status.Phase.Final() {
		m.planProbes(now, &w, &plan)
	}
	m.askMemory(&plan)
	plan.Events, m.events = m.events, nil
	return plan
}

// observe brings what is remembered of the instances in line with what is there.
func (m *Machine) observe(now time.Time, w *Wanted, s *Seen) {
	expired := s.Dead && s.DeadReason == ReasonLeaseExpired
	seen := map[string]bool{}
	for _, in := range s.Instances {
		c := m.containers[in.Name]
		if c == nil {
			continue
		}
		if s.Dead && in.Running {
			in.Running, in.FinishedAt, in.ExitCode, in.Signal, in.Reason = false, wall(now), 137, 9, s.DeadReason
		}
		expired = expired || (!in.Running && in.Reason == ReasonLeaseExpired)
		seen[in.Name] = true
		m.see(now, c, in)
		c.Sandbox = wall(s.CreatedAt)
	}
	for name, c := range m.containers {
		if c.Instance == nil || !c.Instance.Running || seen[name] {
			continue
		}
		in := *c.Instance
		in.Running, in.FinishedAt, in.ExitCode, in.Signal, in.Reason = false, wall(now), 137, 9, ReasonUnknown
		switch {
		case s.Dead:
			in.Reason = s.DeadReason
		case w.stopping():
			in.Reason = "Error"
		default:
			in.Message = "nothing is left of the container: the machine or the pod's supervisor was restarted"
		}
		m.see(now, c, in)
	}
	if s.Exists && expired && !m.fenceOf.Equal(s.CreatedAt) && !m.status.Phase.Final() {
		m.fenced, m.fenceOf, m.news = true, s.CreatedAt, true
		m.event(spec.EventWarning, ReasonLeaseExpired, "The node's lease ran out: the pod was stopped and waits to be assigned anew", "")
	}
	if s.Exists && s.Dead && !expired && !m.deadOf.Equal(s.CreatedAt) && !m.status.Phase.Final() {
		m.deadOf, m.news = s.CreatedAt, true
		m.event(spec.EventWarning, ReasonSupervisorDied, "The pod's supervisor died and its containers with it: its sandbox is made anew", "")
	}
}

// see takes in the state of an instance. Older instances than the one that is known are passed over.
func (m *Machine) see(now time.Time, c *container, in Instance) {
	in.StartedAt, in.FinishedAt = wall(in.StartedAt), wall(in.FinishedAt)
	if !in.Running && c.Reset == in.Attempt+1 && !c.Resetter {
		in.Reason, in.Message = reasonRestartingAll, restartingAllText
	}
	old := c.Instance
	switch {
	case old == nil:
	case old.ID == in.ID && old.Attempt == in.Attempt:
		if !old.Running || *old == in {
			return // an end is final
		}
	case in.Attempt <= old.Attempt:
		return
	default:
		if old.Running {
			old.Running, old.FinishedAt, old.ExitCode, old.Reason = false, wall(now), 137, ReasonUnknown
			c.ends(old)
		}
		c.Last = terminated(old)
		c.verdicts = [spec.Startup + 1]verdict{}
		c.stopping, c.Owed, c.HookFailed = "", "", false
	}
	c.Instance = &in
	c.retry, c.trouble = retry{}, spec.Waiting{}
	m.news = true
	if !in.Running {
		c.ended = now.Add(-max(0, now.Sub(in.FinishedAt)))
		c.ends(&in)
	}
}

// end is when the newest instance ended.
func (c *container) end(now time.Time) time.Time {
	if c.ended.IsZero() { // it had ended before the agent's start
		c.ended = now.Add(-max(0, now.Sub(c.Instance.FinishedAt)))
	}
	return c.ended
}

func (c *container) running() bool { return c.Instance != nil && c.Instance.Running }

func (c *container) next() int32 {
	if c.Instance == nil {
		return c.First
	}
	return c.Instance.Attempt + 1
}

// expired tells whether the lease ended the newest instance. That is no exit.
func (c *container) expired() bool {
	return c.Instance != nil && !c.Instance.Running && c.Instance.Reason == ReasonLeaseExpired
}

// again tells whether a container that does not run now is to start, if not at once then later.
func (c *container) again(w *Wanted, sc *spec.Container) bool {
	switch {
	case w.stopping():
		return false
	case c.Instance == nil, c.expired():
		return true
	case c.Owed != "" && c.Owed == c.Instance.ID, c.reset():
		return true
	case c.role == initial && c.Instance.ExitCode == 0:
		return false
	}
	if c.role == sidecar {
		return !c.ending
	}
	return restarts(w.Pod, sc, c.Instance.ExitCode)
}

// planRun is for a pod that is wanted.
func (m *Machine) planRun(now time.Time, w *Wanted, s *Seen, plan *Plan) {
	for _, c := range m.containers {
		c.due = false
	}
	if m.fenced {
		m.stopSince = time.Time{}
		return
	}
	if m.over(w) {
		if m.stopSince.IsZero() {
			m.stopSince, m.news = now, true
		}
		m.stopSidecar(now, w, plan)
		return
	}
	m.stopSince = time.Time{}
	if m.resetting {
		m.planResets(now, w, plan)
		return
	}
	m.planKills(now, w, plan)
	m.planHooks(w, plan)
	due := m.due(now, w, s, plan)
	if len(due) == 0 || m.pending(EnsureSandbox, "") || m.pending(RemoveSandbox, "") {
		return
	}
	if s.Exists && (s.Dead || m.rebuild) {
		if m.Idle() && m.mayRetry(now, &m.retry, plan) {
			m.act(plan, Action{Kind: RemoveSandbox, Why: "it is to be made anew"})
		}
		return
	}
	m.rebuild = false
	if !s.Exists {
		if !w.Blocked && !m.unassigned && m.Idle() && m.mayRetry(now, &m.retry, plan) {
			m.act(plan, Action{Kind: EnsureSandbox})
		}
		return
	}
	for _, sc := range due { // one after the other, in the order of the spec
		c := m.containers[sc.Name]
		if m.pending(StartContainer, "") {
			return
		}
		if !m.mayRetry(now, &c.retry, plan) {
			continue
		}
		if c.failed() {
			c.Backoff.begin(wall(now), c.end(now), c.next())
		}
		m.act(plan, Action{Kind: StartContainer, Container: sc.Name, Attempt: c.next()})
	}
}

// planEviction stops whatever runs.
func (m *Machine) planEviction(now time.Time, w *Wanted, plan *Plan) {
	for _, sc := range w.Pod.Spec.AllContainers() {
		if c := m.containers[sc.Name]; c != nil && c.running() {
			m.stop(now, w, sc, c, 0, MinGrace, "Stopping container "+sc.Name, plan)
		}
	}
}

// planKills is rule 8.1 with 8.3.1: what the verdicts of probes lead to.
func (m *Machine) planKills(now time.Time, w *Wanted, plan *Plan) {
	type kill struct {
		sc   *spec.Container
		kind spec.ProbeKind
	}
	var kills []kill
	anyLeft := false
	for _, sc := range w.Pod.Spec.AllContainers() {
		c := m.containers[sc.Name]
		if c == nil {
			continue
		}
		kind := spec.ProbeKind(0)
		if c.running() {
			switch spec.ResultFailure {
			case c.verdicts[spec.Liveness].result:
				kind = spec.Liveness
			case c.verdicts[spec.Startup].result:
				kind = spec.Startup
			}
		}
		restarted := policy(w.Pod, sc) != spec.RestartNever
		if kind == spec.Liveness {
			if m.holds(now, w, sc, c, plan) {
				anyLeft = true
				continue
			}
			c.killedByLiveness(now, w)
		}
		if kind == 0 && c.hookFailed() {
			anyLeft = true
			m.stop(now, w, sc, c, 0, grace(w, sc, 0), "FailedPostStartHook", plan)
			continue
		}
		switch {
		case c.role != regular: // rule 9.2; a plain init container has no probes
			if kind != 0 {
				m.stop(now, w, sc, c, kind, grace(w, sc, kind), fmt.Sprintf("Init container %s failed %s probe", sc.Name, kind), plan)
			}
		case kind != 0:
			kills = append(kills, kill{sc, kind})
			anyLeft = anyLeft || restarted
		case c.running() || c.again(w, sc):
			anyLeft = true
		}
	}
	for _, k := range kills {
		c := m.containers[k.sc.Name]
		if !anyLeft {
			m.stop(now, w, k.sc, c, k.kind, grace(w, k.sc, 0), "Stopping container "+k.sc.Name, plan)
			continue
		}
		why := fmt.Sprintf("Container %s failed %s probe", k.sc.Name, k.kind)
		if policy(w.Pod, k.sc) != spec.RestartNever {
			why += ", will be restarted"
			c.Owed = c.Instance.ID
		}
		m.stop(now, w, k.sc, c, k.kind, grace(w, k.sc, k.kind), why, plan)
	}
}

// stop asks for the end of a running instance, because of that kind of probe if it is not 0, or for a shorter grace of one that is being stopped.
func (m *Machine) stop(now time.Time, w *Wanted, sc *spec.Container, c *container, probe spec.ProbeKind, g time.Duration, why string, plan *Plan) {
	deadline, hook := now.Add(g), false
	if c.stopping == c.Instance.ID {
		if !w.stopping() || !deadline.Before(c.deadline) {
			return
		}
	} else {
		if !m.mayRetry(now, &c.retry, plan) {
			return
		}
		m.event(spec.EventNormal, "Killing", why, sc.Name)
		// No time was given where the deletion's grace is 0 (rule 8.2).
		hook = sc.PreStop != nil && c.hookedStop != c.Instance.ID && (!w.Pod.Deleting() || w.Pod.DeleteGrace > 0)
	}
	if c.asks(now, g, why, probe) && probe != 0 {
		plan.Asked = append(plan.Asked, Asked{Container: sc.Name, Instance: c.Instance.ID, Probe: probe})
	}
	c.stopping, c.deadline = c.Instance.ID, deadline
	if hook {
		c.hookedStop = c.Instance.ID
	}
	m.act(plan, Action{Kind: StopContainer, Container: sc.Name, ID: c.Instance.ID, Grace: g, PreStop: hook, Why: why})
}

// planStop is section 10: a pod that is to end here.
func (m *Machine) planStop(now time.Time, w *Wanted, s *Seen, plan *Plan) {
	if m.stopSince.IsZero() {
		m.stopSince, m.news = now, true
	}
	if !s.Exists {
		if m.Idle() {
			m.stopped = true
		}
		return
	}
	if m.pending(RemoveSandbox, "") {
		return
	}
	last, alive := m.stopSince, false
	for _, sc := range w.Pod.Spec.AllContainers() {
		c := m.containers[sc.Name]
		if c == nil || s.Dead || !c.running() || c.role == sidecar {
			continue
		}
		alive = true
		if !w.Pod.Deleting() {
			c.Owed = c.Instance.ID // should the stop be called off, it was no exit
		}
		m.stop(now, w, sc, c, 0, grace(w, sc, 0), "Stopping container "+sc.Name, plan)
		if c.deadline.After(last) {
			last = c.deadline
		}
	}
	if !alive && !s.Dead {
		if c := m.stopSidecar(now, w, plan); c != nil {
			alive = true
			if c.deadline.After(last) {
				last = c.deadline
			}
		}
	}
	if m.pending(EnsureSandbox, "") || m.pending(StartContainer, "") {
		return
	}
	overdue := last.Add(stopSlack)
	if alive && now.Before(overdue) {
		plan.recheck(overdue)
		return
	}
	if m.mayRetry(now, &m.retry, plan) {
		m.act(plan, Action{Kind: RemoveSandbox, Why: "the pod is stopped"})
	}
}

func (m *Machine) act(plan *Plan, a Action) {
	m.seq++
	a.Seq = m.seq
	m.inflight[a.Seq] = a
	plan.Actions = append(plan.Actions, a)
}

// pending tells whether such an action is under way, for that container or with "" for any.
func (m *Machine) pending(k ActionKind, name string) bool {
	for _, a := range m.inflight {
		if a.Kind == k && (name == "" || a.Container == name) {
			return true
		}
	}
	return false
}

func (m *Machine) mayRetry(now time.Time, r *retry, plan *Plan) bool {
	if now.Before(r.at) {
		plan.recheck(r.at)
		return false
	}
	return true
}

func (m *Machine) event(kind, reason, message, name string) {
	m.events = append(m.events, Event{Type: kind, Reason: reason, Message: message, Container: name})
}

func (p *Plan) recheck(t time.Time) {
	if p.Recheck.IsZero() || t.Before(p.Recheck) {
		p.Recheck = t
	}
}

// planProbes says which rows the prober should have, and is rule 5.5.1.
func (m *Machine) planProbes(now time.Time, w *Wanted, plan *Plan) {
	trigger := m.news || now.Sub(m.triggered) >= resync
	for _, sc := range w.Pod.Spec.AllContainers() {
		c := m.containers[sc.Name]
		if c == nil || c.Instance == nil || c.Instance.ID == "" {
			continue
		}
		for _, kind := range spec.ProbeKinds {
			// Rules 5.1.4 and 10.1: an end for good ends the probes; deletion ends all but readiness.
			if sc.Probe(kind) == nil || c.waitsForHook(sc) || (w.stopping() && kind != spec.Readiness) || (!c.running() && !c.again(w, sc)) {
				continue
			}
			row := Probe{Container: sc.Name, Kind: kind, Instance: c.Instance.ID, StartedAt: c.Instance.StartedAt,
				Running: c.running(), Started: c.started(sc), Adopted: c.kept.ID == c.Instance.ID,
				Guarded: kind == spec.Liveness && w.Guard.On, Held: kind == spec.Liveness && !c.heldSince.IsZero()}
			plan.Probes = append(plan.Probes, row)
			if kind != spec.Readiness || !row.Started || c.ready(sc) {
				continue
			}
			if trigger {
				plan.Trigger = append(plan.Trigger, row)
				m.triggered = now
			}
			plan.recheck(m.triggered.Add(resync))
		}
	}
	m.news = false
}

// started is rule 7.1 with 11.3: a new instance is never started before its own startup probe succeeded.
func (c *container) started(sc *spec.Container) bool {
	switch {
	case !c.running(), c.waitsForHook(sc):
		return false
	case c.verdicts[spec.Startup].result != spec.ResultUnknown:
		return c.verdicts[spec.Startup].result == spec.ResultSuccess
	case c.kept.ID == c.Instance.ID && c.kept.Started:
		return true
	}
	return sc.Startup == nil
}

// ready is rule 7.2. What was ready before the agent's restart stays so until its probe says otherwise; unlike 11.3 this
// looks at the container's own standing and not at the pod's, so that the restart changes nothing that can be seen.
func (c *container) ready(sc *spec.Container) bool {
	switch {
	case c.role == initial:
		return c.Instance != nil && !c.Instance.Running && c.Instance.ExitCode == 0 // rule 7.3
	case !c.running() || !c.started(sc):
		return false
	case sc.Readiness == nil:
		return true
	case c.verdicts[spec.Readiness].result == spec.ResultUnknown:
		return c.kept.ID == c.Instance.ID && c.kept.Ready
	}
	return c.verdicts[spec.Readiness].result == spec.ResultSuccess
}

// podText is how the texts of events name a pod.
func podText(p *spec.Pod) string { return fmt.Sprintf("%s_%s(%s)", p.Name, p.Namespace, p.UID) }

// wall is t as it would come back from being stored: in UTC and without the monotonic part.
func wall(t time.Time) time.Time { return t.Round(0).UTC() }

// cut bounds what others say, and makes it text.
func cut(s string) string {
	if len(s) > maxText {
		s = s[:maxText-len("…")] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
