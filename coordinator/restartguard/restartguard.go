package restartguard

import (
	"cmp"
	"slices"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// patience is how long an agent may take to give an allowance back before another is asked for one too.
const patience = time.Second

// Key names one binding of a pod.
type Key struct {
	UID   string
	Epoch int64
}

// Pod is one pod of the owner that is bound and wanted.
type Pod struct {
	Key
	Node string
	// Fresh means that it was bound since this coordinator's start: nobody else can have allowed it anything.
	Fresh bool
}

// Decision is how the owner stands.
type Decision struct {
	// Holding: more than Most of Pods have failed, and that is not over.
	Holding bool
	// Since is when the holding began.
	Since time.Duration
	// Pods, Most, Failing and Held are numbers of pods.
	Pods, Most, Failing, Held int
	// Unknown is how many pods no agent has spoken of since this coordinator's start, in the time that is given to them.
	Unknown int
	// Recheck is when time alone may change the decision; 0 when it does not.
	Recheck time.Duration
}

// pod is what is known of one binding.
type pod struct {
	Pod
	known bool
	// allowed is what its agent is told; version rises with each change; maybe: its agent may believe that it is allowed.
	allowed, maybe bool
	version        uint64
	// withdrawn is when the allowance was last taken back.
	withdrawn time.Duration
	held      bool
	heldSince time.Duration
	// restarted is set once liveness has restarted it, and at is when last.
	restarted bool
	at        time.Duration
	live      bool
}

// Guard is the restart guard of one owner. It is not safe for concurrent use. Times are durations on one clock that only
// goes forward.
type Guard struct {
	settings spec.RestartGuard
	replicas int
	start    time.Duration
	version  uint64
	pods     map[Key]*pod

	holding bool
	since   time.Duration
	resumed bool
	// calm is since when no more than most fail; calming tells whether that is so.
	calming bool
	calm    time.Duration
	// release is the one that is being let go, since releasedAt.
	release    *Key
	releasedAt time.Duration
}

// New returns the guard of an owner of which nothing is known yet. version is to be higher than any that another
// coordinator has given before.
func New(now time.Duration, version uint64) *Guard {
	return &Guard{start: now, version: version, pods: map[Key]*pod{}}
}

// Set says what the owner wants and which pods it has. Pods that are not named are forgotten.
func (g *Guard) Set(settings spec.RestartGuard, replicas int, pods []Pod) {
	g.settings, g.replicas = settings, replicas
	there := make(map[Key]bool, len(pods))
	for _, p := range pods {
		there[p.Key] = true
		if g.pods[p.Key] == nil {
			g.pods[p.Key] = &pod{Pod: p, known: p.Fresh}
		}
	}
	for k := range g.pods {
		if !there[k] {
			delete(g.pods, k)
		}
	}
}

// Heard takes what an agent says of a pod. Words of pods that the owner has not are dropped, and stale ones do no harm.
func (g *Guard) Heard(now time.Duration, w *spec.RestartWord) {
	p := g.pods[Key{w.UID, w.Epoch}]
	if p == nil {
		return
	}
	switch {
	case w.Allowed:
		p.maybe = true // also by the word of an earlier coordinator
	case w.Version == p.version && !p.allowed:
		p.maybe = false
	}
	p.known = true
	if w.Held && !p.held {
		p.heldSince = now
	}
	p.held = w.Held
	if w.Restarted { // a restart is never taken back
		p.live = w.Live
		if at := now - max(0, w.Ago); !p.restarted || at > p.at {
			p.restarted, p.at = true, at
		}
	}
}

// Resume lets held restarts go on one at a time, whatever fails. False when none are held.
func (g *Guard) Resume() bool {
	if !g.holding {
		return false
	}
	g.resumed = true
	return true
}

// Standing is what the agent of a pod is to be told.
func (g *Guard) Standing(k Key) spec.PodGuard {
	s := spec.PodGuard{UID: k.UID, Epoch: k.Epoch, Holding: g.holding, ReleaseAfter: g.settings.ReleaseAfter}
	if p := g.pods[k]; p != nil {
		s.Allowed, s.Version = p.allowed, p.version
	}
	return s
}

// size is how many pods the owner counts as having: those that are there, but no fewer than a guard needs and no more
// than are wanted.
func (g *Guard) size() int {
	return min(max(len(g.pods), int(g.settings.Min)), g.replicas)
}

// restarting tells whether a restart of the pod still counts.
func (g *Guard) restarting(now time.Duration, p *pod) bool {
	return p.restarted && (!p.live || now < p.at+g.settings.Window)
}

func (g *Guard) failing(now time.Duration, p *pod) bool { return p.held || g.restarting(now, p) }

func (g *Guard) counted(now time.Duration, p *pod) bool {
	return p.allowed || p.maybe || g.restarting(now, p) || g.unknown(now, p)
}

func (g *Guard) unknown(now time.Duration, p *pod) bool {
	return !p.known && now < g.start+g.settings.ReleaseAfter
}

// count counts pods.
func (g *Guard) count(which func(*pod) bool) (n int) {
	for _, p := range g.pods {
		if which(p) {
			n++
		}
	}
	return n
}

// ordered returns the pods that are chosen, in an order.
func (g *Guard) ordered(which func(*pod) bool, order func(a, b *pod) int) (out []*pod) {
	for _, p := range g.pods {
		if which(p) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *pod) int {
		return cmp.Or(order(a, b), cmp.Compare(a.UID, b.UID), cmp.Compare(a.Epoch, b.Epoch))
	})
	return out
}

func (g *Guard) set(now time.Duration, p *pod, allowed bool) {
	if p.allowed == allowed {
		return
	}
	g.version++
	p.allowed, p.version = allowed, g.version
	if allowed {
		p.maybe = true
	} else {
		p.withdrawn = now
	}
}

func byName(*pod, *pod) int { return 0 } // which is what ordered does at last

func longestHeld(a, b *pod) int { return cmp.Compare(a.heldSince, b.heldSince) }

// Decide changes the allowances as far as that is due, and says how the owner stands. Deciding again at the same time
// changes nothing.
func (g *Guard) Decide(now time.Duration) Decision {
	d := Decision{Pods: g.size(), Recheck: 0}
	d.Most = d.Pods * g.settings.Share / 100
	d.Failing = g.count(func(p *pod) bool { return g.failing(now, p) })
	d.Held = g.count(func(p *pod) bool { return p.held })
	d.Unknown = g.count(func(p *pod) bool { return g.unknown(now, p) })
	switch {
	case !g.holding && d.Failing > d.Most && d.Held > 0:
		g.holding, g.since, g.resumed, g.calming, g.release = true, now, false, false, nil
	case g.holding && d.Failing <= d.Most && d.Held == 0:
		g.holding, g.release = false, nil
	}
	if g.holding {
		g.hold(now, &d)
	} else {
		g.allow(now, &d)
	}
	d.Holding, d.Since = g.holding, g.since
	for _, p := range g.pods {
		if p.restarted {
			d.recheck(now, p.at+g.settings.Window)
		}
		if !p.known {
			d.recheck(now, g.start+g.settings.ReleaseAfter)
		}
	}
	return d
}

func (d *Decision) recheck(now, at time.Duration) {
	if at > now && (d.Recheck == 0 || at < d.Recheck) {
		d.Recheck = at
	}
}

// hold takes every allowance back but that of the pod which is let go, and lets the next one go when it is time.
func (g *Guard) hold(now time.Duration, d *Decision) {
	if g.release != nil && g.released(now, d) {
		g.release = nil
	}
	for _, p := range g.ordered(func(p *pod) bool { return g.release == nil || p.Key != *g.release }, byName) {
		g.set(now, p, false)
	}
	overdue := g.since + g.settings.ReleaseAfter
	forced := g.resumed || now >= overdue
	d.recheck(now, overdue)
	// What has made them fail may just be over: those that recover by themselves need no restart.
	if calming := d.Failing <= d.Most; calming != g.calming {
		g.calming, g.calm = calming, now
	}
	if g.calming {
		d.recheck(now, g.calm+g.settings.Window)
	}
	if g.release != nil || !forced && (!g.calming || now < g.calm+g.settings.Window) {
		return
	}
	waiting := g.ordered(func(p *pod) bool { return p.held }, longestHeld)
	if len(waiting) == 0 {
		return
	}
	next := waiting[0]
	if !forced && g.count(func(p *pod) bool { return p != next && g.counted(now, p) }) >= d.Most {
		return // an allowance is on its way back
	}
	g.set(now, next, true)
	g.release, g.releasedAt = &next.Key, now
	d.recheck(now, now+g.settings.Window)
}

// released tells whether the pod that was let go is over it: it has gone, has recovered by itself, has been restarted and
// is live, or has had a window's time. Its allowance is for one restart.
func (g *Guard) released(now time.Duration, d *Decision) bool {
	p := g.pods[*g.release]
	if p == nil || now >= g.releasedAt+g.settings.Window {
		return true
	}
	d.recheck(now, g.releasedAt+g.settings.Window)
	if !p.restarted || p.at < g.releasedAt {
		return !p.held
	}
	g.set(now, p, false)
	return p.live
}

// allow gives allowances: to pods that ask by being held, then ahead of need. What it gives it has.
func (g *Guard) allow(now time.Duration, d *Decision) {
	counted := g.count(func(p *pod) bool { return g.counted(now, p) })
	if counted <= d.Most { // what an earlier coordinator has given stays
		for _, p := range g.ordered(func(p *pod) bool { return p.maybe && p.version == 0 }, byName) {
			g.set(now, p, true)
		}
	}
	wanting := 0
	for _, p := range g.ordered(func(p *pod) bool { return p.held && !p.allowed }, longestHeld) {
		switch {
		case g.counted(now, p) && counted <= d.Most:
			g.set(now, p, true)
		case g.counted(now, p): // so are too many others
		case counted < d.Most:
			counted++
			g.set(now, p, true)
		default:
			wanting++
		}
	}
	coming := g.count(func(p *pod) bool {
		if p.allowed || !p.maybe || g.restarting(now, p) {
			return false
		}
		d.recheck(now, p.withdrawn+patience)
		return now < p.withdrawn+patience
	})
	onNode := map[string]int{}
	for _, p := range g.pods {
		if p.allowed {
			onNode[p.Node]++
		}
	}
	over := wanting + max(0, counted-d.Most) - coming
	if over > 0 {
		unused := g.ordered(func(p *pod) bool { return p.allowed && !g.failing(now, p) },
			func(a, b *pod) int { return cmp.Compare(onNode[b.Node], onNode[a.Node]) })
		for _, p := range unused[:min(over, len(unused))] {
			g.set(now, p, false)
			d.recheck(now, now+patience)
		}
		return
	}
	if wanting == 0 && counted < d.Most {
		free := g.ordered(func(p *pod) bool { return !g.counted(now, p) }, byName)
		turn := make(map[*pod]int, len(free)) // how many of its node are allowed before it
		for _, p := range free {
			turn[p] = onNode[p.Node]
			onNode[p.Node]++
		}
		slices.SortStableFunc(free, func(a, b *pod) int { return cmp.Compare(turn[a], turn[b]) })
		for _, p := range free[:min(len(free), d.Most-counted)] {
			g.set(now, p, true)
			counted++
		}
	}
	// A pod that was restarted and is counted for it may be restarted again.
	if wanting == 0 && counted <= d.Most {
		for _, p := range g.ordered(func(p *pod) bool { return g.restarting(now, p) }, byName) {
			g.set(now, p, true)
		}
	}
}
