// Package failover decides whether a node is lost, and whether its pods may leave it. It is pure: signs and the time go
// in, verdicts, questions to ask and permissions come out; what it remembers is in a Tracker that its caller keeps.
//
//	            in time                     agent grace over
//	┌────────── Ready ◀───────────┐        ┌───────────────┐
//	│ late, or    ▲               │        │               ▼
//	│ session     │ heard again   │   AgentDown ────▶    Lost
//	▼ down        │               │        ▲               ▲
//	Unreachable ──┴───────────────┘        │               │
//	│ the guard names a supervisor, the agent is dead or stopped
//	└──────────────────────────────────────┘               │
//	└── refused twice, silent to all who were asked, nothing left, or cut off for longer than its lease ──┘
//
// A verdict is about speed and may be wrong. Nothing here is what a single-instance pod's safety rests on: that is
// internal/fence.
package failover

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// The times of the rules.
const (
	// Late is how old a renewal may be.
	Late = 1600 * time.Millisecond
	// NotReadyAfter is how long a node is unreachable before its pods show it.
	NotReadyAfter = 3 * time.Second
	// MaxLateness is how late the loop of this coordinator may be before it doubts itself.
	MaxLateness = 250 * time.Millisecond
	// TestEvery is how often a node that is in doubt is tested.
	TestEvery = 500 * time.Millisecond
	// returnSlack is how long a coordinator that has just begun to lead gives the agents to come back, while their guards
	// say that they run: they retry within 5 s. A large fleet takes longer: each that comes gives the others as long again, up to
	// returnMost.
	returnSlack, returnMost = 5 * time.Second, 30 * time.Second
	// guardMemory is how long a guard's answer keeps a node that the gossip calls dead from being lost.
	guardMemory = 2 * time.Second
	// window is what the brake counts over.
	window = time.Minute
	// A node lost flapCount times within flapWindow is the last choice for new pods for flapFirst, doubling to flapMost.
	flapCount  = 3
	flapWindow = 10 * time.Minute
	flapFirst  = 2 * time.Minute
	flapMost   = 30 * time.Minute
)

// Guard is what came of asking a node's guard.
type Guard uint8

// The answers of a guard.
const (
	// GuardUnknown means that it was not asked yet.
	GuardUnknown Guard = iota
	// GuardSilent means that nothing came in time, or nothing of sense.
	GuardSilent
	// GuardRefused means that the machine's kernel refused twice: nothing of muster is left there.
	GuardRefused
	// GuardAgentRuns means that the agent's process runs.
	GuardAgentRuns
	// GuardAgentDown means that the agent is dead or stopped and at least one supervisor lives.
	GuardAgentDown
	// GuardNothingLeft means that the agent is dead and no supervisor lives.
	GuardNothingLeft
)

// answered tells whether the machine itself has spoken.
func (g Guard) answered() bool { return g >= GuardAgentRuns }

// Witness is what another member says of a node that it was asked about.
type Witness struct {
	Member, Domain string
	// Guard is what it heard of the guard; AgentAnswered whether one of its pings was answered.
	Guard         Guard
	AgentAnswered bool
}

// silent tells whether the witness has heard nothing at all.
func (w *Witness) silent() bool { return !w.AgentAnswered && !w.Guard.answered() }

// Signs are what is known of one node now.
type Signs struct {
	Node, Domain string
	// Up is whether its session is open. Heard is when the last sign of life came; zero when none did in this run.
	Up    bool
	Heard time.Duration
	// Comeback is how long the agent has still announced to be away.
	Comeback time.Duration
	// Member is the gossip's word: alive, dead, left; empty when it knows nothing.
	Member string
	// Guard is what our own test has brought, at GuardAt; GuardUnknown before the first one since the node was last Ready.
	Guard   Guard
	GuardAt time.Duration
	// Witnesses are the answers since the node was last Ready, the newest of each member.
	Witnesses []Witness
	// Asked is how many members have answered of those who were asked; -1 while not all have had their time. Who does not
	// answer says nothing.
	Asked int
	// Pods is how many pods are bound to it.
	Pods int
	// LeaseOver is whether its lease is over by itself: its last acknowledgement, T and M have passed.
	LeaseOver bool
	// Stored is the verdict that is stored, and StoredNotReady whether the node's pods are shown as not ready.
	Stored         spec.Verdict
	StoredNotReady bool
}

// Input is one look at the fleet.
type Input struct {
	Now time.Duration
	// Wall is the time to show.
	Wall time.Time
	// Lateness is how late this look comes.
	Lateness time.Duration
	// AgentGrace is how long pods of a node whose agent is down may stay.
	AgentGrace time.Duration
	Nodes      []Signs
	// FreePods is how many more pods the Ready nodes could take.
	FreePods int

	// up is how many of Nodes have a session.
	up int
	// returned is when a node was heard for the first time under this leader last, zero for never.
	returned time.Duration
}

// Plan is what follows.
type Plan struct {
	// Status has what to store of each node whose verdict has changed.
	Status map[string]spec.NodeStatus
	// Test has the nodes to test, with how many witnesses to ask.
	Test map[string]int
	// Leave has the nodes that pods may leave, with the cause.
	Leave map[string]string
	// Flapping has the nodes that are the last choice for new pods for a while.
	Flapping map[string]bool
	// Frozen says why nothing may leave; empty when the brake is off.
	Frozen string
	// PerSecond bounds the moves a second after a mass loss; 0 means no bound.
	PerSecond int
	// Recheck is when to look again at the latest.
	Recheck time.Duration
}

// Tracker remembers what Decide has to know from one look to the next. The zero Tracker has seen nothing.
type Tracker struct {
	nodes   map[string]*node
	started time.Duration
	begun   bool
	// returned is when a node was heard for the first time last.
	returned time.Duration
	frozen   string
	// held are the nodes whose loss froze failover, out of the number that was Ready.
	held    map[string]bool
	of      int
	resumed time.Duration // the brake stays off until then; what was lost a window before does not count after it
}

type node struct {
	verdict spec.Verdict
	since   time.Duration
	// wall is since, as shown.
	wall     time.Time
	heard    time.Duration // with what self-doubt has added
	cause    string
	notReady bool
	member   string
	// inherited is set while the verdict is that of the leader before: nothing leaves for that.
	inherited bool
	// graced is set on a node that is lost because its agent was down for too long.
	graced bool
	first  time.Duration // when this tracker first saw it
	// returned is whether it was heard since.
	returned bool
	// unreachable is when it stopped being Ready.
	unreachable time.Duration
	lost        []time.Duration // times of losses with pods, within flapWindow
	counted     bool            // this absence is in lost
	flapUntil   time.Duration
	flapFor     time.Duration
	wasReady    time.Duration // when it was Ready last; negative for never
}

// Timing is when a node that is not Ready was last heard, first suspected and judged, for the record of its failovers.
func (t *Tracker) Timing(name string) (heard, suspected, judged time.Duration, ok bool) {
	n := t.nodes[name]
	if n == nil || n.verdict == spec.VerdictReady {
		return 0, 0, 0, false
	}
	return n.heard, n.unreachable, n.since, true
}

// Resume lets a frozen failover go on: the brake stays off for a minute, and what is lost now does not count later. False
// when it is not frozen.
func (t *Tracker) Resume(now time.Duration) bool {
	if t.frozen == "" {
		return false
	}
	t.frozen, t.held, t.resumed = "", nil, now+window
	return true
}

// Decide looks at the fleet.
func (t *Tracker) Decide(in Input) Plan {
	p := Plan{
		Status: map[string]spec.NodeStatus{}, Test: map[string]int{}, Leave: map[string]string{}, Flapping: map[string]bool{},
		Recheck: in.Now + time.Second,
	}
	if !t.begun {
		t.begun, t.started, t.nodes = true, in.Now, map[string]*node{}
	}
	present := map[string]bool{}
	lost := map[string]string{}
	for i := range in.Nodes {
		if in.Nodes[i].Up {
			in.up++
		}
	}
	for i := range in.Nodes {
		s := &in.Nodes[i]
		present[s.Node] = true
		n := t.see(s, &in)
		in.returned = t.returned
		verdict, cause := n.judge(s, &in)
		changed := n.set(verdict, cause, s, &in)
		if notReady := n.notReadyNow(in.Now); changed || s.Stored != verdict || notReady != n.notReady {
			n.notReady = notReady
			p.Status[s.Node] = n.status()
		}
		if verdict != spec.VerdictReady || s.Heard == 0 {
			p.Test[s.Node] = 3
			p.Recheck = min(p.Recheck, in.Now+TestEvery)
		} else {
			p.Recheck = min(p.Recheck, max(n.heard+Late, in.Now+time.Millisecond))
		}
		if why := n.leave(s, &in); why != "" {
			lost[s.Node] = why
		}
		if in.Now < n.flapUntil {
			p.Flapping[s.Node] = true
			p.Recheck = min(p.Recheck, n.flapUntil)
		}
	}
	for name := range t.nodes {
		if !present[name] {
			delete(t.nodes, name)
		}
	}
	t.brake(&p, &in, lost)
	return p
}

// see folds the signs in and doubts this coordinator first: nobody is late because we slept.
func (t *Tracker) see(s *Signs, in *Input) *node {
	n := t.nodes[s.Node]
	if n == nil {
		// Nobody is late because we have just begun to look.
		n = &node{
			verdict: s.Stored, inherited: true, notReady: s.StoredNotReady, first: in.Now, heard: in.Now, since: in.Now, wall: in.Wall,
			unreachable: in.Now, wasReady: -1,
		}
		if s.Stored == spec.VerdictReady {
			n.wasReady = in.Now // as the leader before said
		}
		t.nodes[s.Node] = n
	}
	if s.Heard > 0 && !n.returned {
		n.returned, t.returned = true, in.Now
	}
	n.heard = max(n.heard, s.Heard)
	if in.Lateness > MaxLateness {
		n.heard = min(in.Now, n.heard+in.Lateness)
	}
	n.member = s.Member
	return n
}

// judge applies the table of verdicts.
func (n *node) judge(s *Signs, in *Input) (spec.Verdict, string) {
	ago := in.Now - n.heard
	awaited := in.Now-n.first < returnMost && in.Now-max(n.first, in.returned) < returnSlack
	coming := ago <= Late || s.Heard == 0 && awaited && (s.Guard == GuardUnknown || s.Guard == GuardAgentRuns)
	switch {
	case s.Up && ago <= Late:
		n.inherited = false
		if s.Member == "dead" {
			return spec.VerdictReady, "the gossip calls it dead: is UDP blocked?"
		}
		return spec.VerdictReady, ""
	case n.inherited && n.verdict == spec.VerdictReady && coming:
		return spec.VerdictReady, "" // as it was
	case n.inherited && n.verdict != "" && n.verdict != spec.VerdictReady && s.Guard == GuardUnknown:
		return n.verdict, n.cause // nobody has been asked yet
	}
	verdict, cause, known := n.absent(s, in)
	n.inherited = n.inherited && !known
	n.graced = verdict == spec.VerdictAgentDown && ago >= in.AgentGrace && s.Comeback == 0
	if n.graced {
		return spec.VerdictLost, cause + " for longer than its grace"
	}
	return verdict, cause
}

// absent applies it to a node that is not heard. known is false for a verdict that stands for want of news.
func (n *node) absent(s *Signs, in *Input) (v spec.Verdict, cause string, known bool) {
	why := "session down"
	if s.Up {
		why = "renewals late"
	}
	silent, domains, others := 0, map[string]bool{}, in.up
	if s.Up {
		others--
	}
	for i := range s.Witnesses {
		w := &s.Witnesses[i]
		switch {
		case w.Guard == GuardAgentDown:
			return spec.VerdictAgentDown, why + ", the guard says that the agent is down", true
		case w.Guard == GuardNothingLeft:
			return spec.VerdictLost, why + ", the guard says that nothing is left", true
		case w.silent():
			silent++
			domains[w.Domain] = true
		}
	}
	cutOff := s.Guard == GuardAgentRuns || slices.ContainsFunc(s.Witnesses, func(w Witness) bool { return !w.silent() })
	switch {
	case s.Guard == GuardAgentDown:
		return spec.VerdictAgentDown, why + ", the guard says that the agent is down", true
	case s.Guard == GuardNothingLeft:
		return spec.VerdictLost, why + ", the guard says that nothing is left", true
	case s.Guard == GuardRefused:
		return spec.VerdictLost, why + ", its machine answers but nothing of muster does", true
	case cutOff && s.LeaseOver:
		return spec.VerdictLost, why + ", cut off from us for longer than its lease", true
	case cutOff:
		return spec.VerdictUnreachable, why + ", cut off from us", true
	case s.Guard == GuardSilent && (len(domains) >= 2 || s.Asked > 0 && silent >= s.Asked || s.Asked == 0 && others == 0):
		return spec.VerdictLost, fmt.Sprintf("%s, silent to us and to %d witnesses", why, silent), true
	case s.Member == "dead" && !s.Up && s.Guard == GuardSilent && in.Now-s.GuardAt <= guardMemory:
		return spec.VerdictLost, why + ", dead to the gossip, and its guard is silent", true
	}
	switch { // no news is no reason to think better of it
	case n.graced:
		return spec.VerdictAgentDown, why + ", the guard said that the agent is down", true
	case n.verdict == spec.VerdictLost || n.verdict == spec.VerdictAgentDown:
		return n.verdict, n.cause, false
	}
	return spec.VerdictUnreachable, why, true
}

// set takes a verdict and reports whether it has changed.
func (n *node) set(v spec.Verdict, cause string, s *Signs, in *Input) bool {
	if v == spec.VerdictReady {
		n.wasReady = in.Now
		if n.counted && len(n.lost) >= flapCount {
			n.flapUntil = in.Now + n.flapFor
		}
		n.counted = false
	}
	if v == n.verdict {
		changed := v == spec.VerdictReady && cause != n.cause ||
			strings.Contains(cause, "cut off") != strings.Contains(n.cause, "cut off")
		n.cause = cause
		return changed
	}
	if n.verdict == spec.VerdictReady || n.verdict == "" {
		n.unreachable = in.Now
	}
	if v == spec.VerdictLost && s.Pods > 0 && !n.counted {
		n.counted = true
		n.lost = append(slices.DeleteFunc(n.lost, func(at time.Duration) bool { return in.Now-at > flapWindow }), in.Now)
		if len(n.lost) < flapCount {
			n.flapFor = 0
		} else {
			n.flapFor = min(max(flapFirst, 2*n.flapFor), flapMost)
			n.flapUntil = in.Now + n.flapFor
		}
	}
	n.verdict, n.cause, n.since, n.wall = v, cause, in.Now, in.Wall
	return true
}

func (n *node) notReadyNow(now time.Duration) bool {
	switch n.verdict {
	case spec.VerdictLost:
		return true
	case spec.VerdictUnreachable:
		return n.notReady || now-n.unreachable >= NotReadyAfter
	}
	return false
}

func (n *node) status() spec.NodeStatus {
	return spec.NodeStatus{Verdict: n.verdict, Since: n.wall, Cause: n.cause, PodsNotReady: n.notReady, Member: n.member}
}

// leave says why pods may leave the node, empty when they may not.
func (n *node) leave(s *Signs, in *Input) string {
	switch {
	case s.Pods == 0 || n.inherited || n.verdict != spec.VerdictLost:
		return ""
	case n.graced:
		return string(spec.VerdictAgentDown)
	}
	return string(spec.VerdictLost)
}

// brake guards against our own error, not against large outages. Once it holds it does so until enough of the nodes
// answer, until the loss is confirmed, or until somebody resumes: not until the window has passed.
func (t *Tracker) brake(p *Plan, in *Input, lost map[string]string) {
	ready, up := 0, 0
	recent := map[string]bool{}
	for i := range in.Nodes {
		name := in.Nodes[i].Node
		n := t.nodes[name]
		if n.verdict == spec.VerdictReady {
			up++
		}
		switch {
		case lost[name] != "" && (t.held[name] || n.wasReady >= 0 && n.since >= in.Now-window && n.since > t.resumed-window):
			recent[name] = true
			ready++
		case n.wasReady >= 0 && n.wasReady >= in.Now-window:
			ready++
		}
	}
	if t.held != nil {
		ready = max(ready, t.of)
	}
	mass := len(recent) > 2 && 3*len(recent) > ready
	confirmed := true
	if mass {
		for i := range in.Nodes {
			if s := &in.Nodes[i]; recent[s.Node] && !t.corroborated(s, in) {
				confirmed = false
				p.Test[s.Node] = max(p.Test[s.Node], up) // ask everybody
			}
		}
	}
	t.frozen = ""
	switch {
	case in.Now < t.resumed:
	case mass && 2*up < ready:
		t.frozen = fmt.Sprintf("%d of %d nodes lost, and this coordinator reaches only %d: the fault may be ours", len(recent), ready, up)
	case mass && !confirmed:
		t.frozen = fmt.Sprintf("%d of %d nodes lost, and fewer than half of the others confirm it", len(recent), ready)
	}
	if t.frozen != "" {
		t.held, t.of = recent, ready
		p.Frozen = t.frozen
		p.Recheck = min(p.Recheck, in.Now+TestEvery)
		return
	}
	t.held = nil
	if mass {
		p.PerSecond = max(1, in.FreePods/5)
	}
	p.Leave = lost
}

// corroborated tells whether at least half of the live members of other domains (of all, where there is one domain)
// confirm that a node is silent, or whether its own machine has said so.
func (t *Tracker) corroborated(s *Signs, in *Input) bool {
	if s.Guard == GuardRefused || s.Guard.answered() {
		return true
	}
	others, all := 0, 0
	for i := range in.Nodes {
		o := &in.Nodes[i]
		if t.nodes[o.Node].verdict != spec.VerdictReady {
			continue
		}
		all++
		if o.Domain != s.Domain {
			others++
		}
	}
	confirm, confirmOthers := 0, 0
	for i := range s.Witnesses {
		if w := &s.Witnesses[i]; w.silent() {
			confirm++
			if w.Domain != s.Domain {
				confirmOthers++
			}
		}
	}
	if others > 0 {
		return 2*confirmOthers >= others
	}
	return all > 0 && 2*confirm >= all
}
