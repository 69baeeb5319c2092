package fence

import (
	"maps"
	"slices"
	"time"
)

// pageSlot is one slot of the page, as the supervisors see it.
type pageSlot struct {
	epoch           int64
	deadline, armed time.Duration
}

// modelNode is a machine with its agent, its supervisors and their kernel.
type modelNode struct {
	*machine
	id       int
	instance string
	boot     int
	session  int64          // on disk
	stopped  map[int64]bool // on disk
	page     [modelSlots]pageSlot
	agent    *agent
	sups     []*sup
	inflight []*launch
	paused   bool
}

// launch is a supervisor on its way: it comes to be whether its agent lives on or not.
type launch struct {
	epoch int64
	slot  int
}

// sup is a supervisor with its pod.
type sup struct {
	process
	n         *modelNode
	epoch     int64
	slot      int
	m         *Supervisor
	killAt    time.Duration
	timer     int
	killing   bool
	starting  bool
	refused   bool // it had too little time: it is tried again
	executing bool
}

// agent is one life of an agent.
type agent struct {
	process
	n       *modelNode
	holder  *Holder
	open    bool // Hello is out, and nothing has ended the session
	full    bool
	helloAt time.Duration
	number  uint64
	want    assigned
	fenced  map[int64]int64 // by epoch: the session in which it was noticed
	slots   map[int64]int   // by epoch
	broken  bool
}

func (n *modelNode) startAgent() {
	a := &agent{n: n, holder: NewHolder(), fenced: map[int64]int64{}, slots: map[int64]int{}}
	a.on = n.machine
	a.holder.holderFaults = holderFaults{
		ackTime: n.w.bug == bugAckTime, ackBeforeSet: n.w.bug == bugAckBeforeSet, anySession: n.w.bug == bugOldSessionSet,
	}
	for _, s := range n.sups {
		a.slots[s.epoch] = s.slot
		a.holder.Adopt(Binding{"u", s.epoch}, n.deadline(s.slot, s.epoch))
	}
	for _, l := range n.inflight {
		a.slots[l.epoch] = l.slot
		a.holder.Adopt(Binding{"u", l.epoch}, n.deadline(l.slot, l.epoch))
	}
	n.agent = a
	n.w.step(&a.process, n.w.between(0, 200*ms), a.tick)
}

func (n *modelNode) killAgent(down time.Duration) {
	if n.agent.dead {
		return
	}
	n.w.logf("agent %d is killed", n.id)
	n.agent.dead = true
	boot := n.boot
	n.w.at(n.w.now+down, func() {
		if n.boot == boot {
			n.startAgent()
		}
	})
}

func (n *modelNode) reboot() {
	n.w.logf("node %d reboots", n.id)
	n.boot++
	for _, s := range n.sups {
		s.dead, s.executing = true, false
	}
	n.sups, n.inflight, n.page = nil, nil, [modelSlots]pageSlot{}
	n.agent.dead = true
	boot := n.boot
	n.w.at(n.w.now+n.w.between(ms, 3*n.w.ttl), func() {
		if n.boot == boot {
			n.startAgent()
		}
	})
}

func (n *modelNode) deadline(slot int, epoch int64) time.Duration {
	if n.page[slot].epoch != epoch {
		return 0
	}
	return n.page[slot].deadline
}

// say sends something to the coordinator.
func (a *agent) say(do func(r *run)) {
	w := a.n.w
	if w.chance(w.f.loss) || w.run == nil {
		return
	}
	r := w.run
	w.step(&r.process, w.latency(), func() { do(r) })
}

// lose ends a session.
func (a *agent) lose(session int64) {
	if session == a.n.session {
		a.open = false
	}
}

// tick is once every renewal's time.
func (a *agent) tick() {
	n, w := a.n, a.n.w
	w.step(&a.process, time.Duration(float64(RenewEvery(w.ttl))/n.rate), a.tick)
	if !a.open || a.broken || !a.full && n.clock()-a.helloAt > 5*second {
		a.hello()
	} else {
		a.renew()
	}
	a.pods()
	if a.full && a.want.epoch != 0 && n.stopped[a.want.epoch] {
		session, epoch := n.session, a.want.epoch
		a.say(func(r *run) { r.status(n, session, epoch) })
	}
}

func (a *agent) renew() {
	n, w := a.n, a.n.w
	a.number++
	number, session, full, longest := a.number, n.session, a.full, a.longest()
	a.holder.Sent(session, number, n.clock())
	// It may take its time from here to the wire.
	w.step(&a.process, w.between(0, ms), func() {
		a.say(func(r *run) { r.renew(n, session, number, full, longest) })
	})
}

func (a *agent) hello() {
	n := a.n
	n.session++
	a.open, a.full, a.broken, a.number, a.helloAt = true, false, false, 0, n.clock()
	a.holder.Begin(n.session)
	a.holder.Sent(n.session, 0, n.clock())
	h := Hello{Session: n.session, Instance: n.instance, Boot: string(rune('a' + n.boot%26))}
	a.say(func(r *run) { r.hello(n, h) })
}

func (a *agent) longest() time.Duration {
	longest, now := a.holder.Longest(a.n.clock()), a.n.clock()
	for i := range a.n.page {
		longest = max(longest, a.n.page[i].deadline-now)
		if a.n.w.bug != bugLeftUnarmed {
			longest = max(longest, a.n.page[i].armed-now)
		}
	}
	return max(0, longest)
}

func (a *agent) ack(session int64, number uint64, ttl time.Duration) {
	for _, b := range a.holder.Acked(session, number, ttl, a.n.clock()) {
		if slot, ok := a.slots[b.Epoch]; ok {
			at, _ := a.holder.Deadline(b)
			a.n.page[slot].deadline = at
		}
	}
	a.pods()
}

func (a *agent) set(session int64, full bool, is assigned) {
	if session != a.n.session && a.n.w.bug != bugOldSessionSet {
		return
	}
	a.n.w.logf("node %d session %d is assigned %+v", a.n.id, session, is)
	var bs []Binding
	if is.epoch != 0 {
		bs = []Binding{{"u", is.epoch}}
	}
	a.holder.Assign(session, full, bs)
	if a.want.epoch != is.epoch {
		a.holder.Withdraw(session, Binding{"u", a.want.epoch})
	}
	a.want, a.full = is, a.full || full
	for e := range a.n.stopped {
		if e != is.epoch {
			delete(a.n.stopped, e)
		}
	}
	a.pods()
	a.renew() // at once, so that there is time to start
}

func (a *agent) committed(_, epoch int64) {
	if a.n.w.bug == bugStoppedForgot {
		delete(a.n.stopped, epoch)
	}
}

// pods does what the assignments ask for.
func (a *agent) pods() {
	n, w := a.n, a.n.w
	lives := func(epoch int64) bool {
		return slices.ContainsFunc(n.sups, func(s *sup) bool { return s.epoch == epoch })
	}
	starts := func(epoch int64) bool {
		return slices.ContainsFunc(n.inflight, func(l *launch) bool { return l.epoch == epoch })
	}
	if a.full || w.bug == bugOldSessionSet {
		for _, s := range n.sups {
			if s.epoch != a.want.epoch || a.want.stop {
				w.at(w.now+w.between(ms, 50*ms), s.die) // a kill needs no cooperation
			}
		}
		if e := a.want.epoch; e != 0 && a.want.stop && !lives(e) && (!starts(e) || w.bug == bugStartInFlight) {
			n.stopped[e] = true // on disk
		}
	}
	for e, slot := range a.slots {
		if !lives(e) && !starts(e) && e != a.want.epoch {
			n.page[slot] = pageSlot{}
			delete(a.slots, e)
			a.holder.Forget(Binding{"u", e})
		}
	}
	e := a.want.epoch
	if e == 0 || a.want.stop || n.stopped[e] || !a.full || len(n.sups) > 0 || len(n.inflight) > 0 || !a.holder.Assigned(Binding{"u", e}) {
		return
	}
	if at, noticed := a.fenced[e]; noticed && at == n.session {
		return
	}
	slot, ok := a.slots[e]
	if !ok {
		for n.page[slot].armed > n.clock() || slices.Contains(slices.Collect(maps.Values(a.slots)), slot) {
			slot++
		}
		at, _ := a.holder.Deadline(Binding{"u", e})
		a.slots[e] = slot
		n.page[slot] = pageSlot{epoch: e, deadline: at}
	}
	n.launch(e, slot)
}

func (n *modelNode) launch(epoch int64, slot int) {
	w := n.w
	l := &launch{epoch, slot}
	n.inflight = append(n.inflight, l)
	boot, d := n.boot, w.between(ms, 20*ms)
	if w.chance(0.1) {
		d = w.between(ms, 2*w.ttl)
	}
	w.at(w.now+d, func() {
		if n.boot != boot {
			return
		}
		n.inflight = slices.DeleteFunc(n.inflight, func(x *launch) bool { return x == l })
		s := &sup{n: n, epoch: epoch, slot: slot, m: NewSupervisor(0)}
		if w.rng.IntN(2) == 0 {
			s.m = NewSupervisor(30 * second)
		}
		s.on, s.risk = n.machine, 9
		s.m.supervisorFaults = supervisorFaults{
			startBeforeArming: w.bug == bugStartUnarmed, publishAfterArming: w.bug == bugPublishLate,
		}
		n.sups = append(n.sups, s)
		w.step(&s.process, 0, s.loop)
	})
}

// loop is one step of a supervisor.
func (s *sup) loop() {
	n, w := s.n, s.n.w
	now, page := n.clock(), n.deadline(s.slot, s.epoch)
	if !s.executing && !s.starting && s.m.MayStart(now, page) {
		s.starting = true
		w.step(&s.process, time.Duration(w.rng.IntN(2))*w.between(0, 5*ms), func() {
			s.executing = true
			w.logf("epoch %d executes on node %d", s.epoch, n.id)
			w.judge()
		})
	}
	const soon = 50 * time.Microsecond
	if w.chance(w.f.hang * 0.05) {
		n.hung = max(n.hung, w.now+w.hang())
	}
	switch st := s.m.Next(now, page); st.Do {
	case Publish:
		n.page[s.slot].armed = st.At
		w.step(&s.process, soon, s.loop)
	case Arm:
		s.arm(st.At - KillLead)
		w.step(&s.process, soon, s.loop)
	case Term:
		if w.rng.IntN(2) == 0 { // else it ignores that
			w.step(&s.process, w.between(0, 200*ms), s.die)
		}
	case Refuse:
		s.refused = true
		s.die()
	case Wait:
		w.step(&s.process, n.until(st.Again)-w.now, s.loop)
	}
}

// arm is the kernel's timer.
func (s *sup) arm(at time.Duration) {
	n, w := s.n, s.n.w
	s.killAt = at
	s.timer++
	timer := s.timer
	var check func()
	check = func() {
		switch {
		case s.dead || s.killing || timer != s.timer:
		case n.still > w.now:
			w.at(n.still, check)
		case n.clock() < s.killAt:
			w.at(n.until(s.killAt), check)
		default:
			s.killing = true
			late := w.between(0, KillLead*9/10)
			if n.clock()-s.killAt > 10*ms || w.calm {
				late = 0 // it was due while the machine stood still
			}
			w.at(w.now+late, s.die)
		}
	}
	w.at(n.until(at), check)
}

// die is the end of a supervisor and everything in it, at the kernel's hand.
func (s *sup) die() {
	n, w := s.n, s.n.w
	if s.dead {
		return
	}
	if n.still > w.now {
		w.at(n.still, s.die)
		return
	}
	w.logf("epoch %d ends on node %d", s.epoch, n.id)
	s.dead, s.executing = true, false
	n.sups = slices.DeleteFunc(n.sups, func(x *sup) bool { return x == s })
	a := n.agent
	w.step(&a.process, w.between(ms, 20*ms), func() {
		if s.refused || a.want.epoch != s.epoch || a.want.stop {
			return
		}
		if w.bug == bugLocalRestart {
			n.page[s.slot].deadline = n.clock() + w.ttl
			n.launch(s.epoch, s.slot)
			return
		}
		// The lease has ended it: only a newer session lets it go on.
		a.fenced[s.epoch] = n.session
		a.hello()
	})
}
