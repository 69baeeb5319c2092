package fence

import (
	"errors"
	"fmt"
	"time"
)

var (
	errUnknown  = errors.New("outcome unknown")
	errConflict = errors.New("conflict")
)

// assigned is what a coordinator tells a node of one binding.
type assigned struct {
	epoch int64
	stop  bool
}

// conn is one session as the coordinator has it.
type conn struct {
	session int64
	opened  int64
	full    bool // the full set is out
	sent    assigned
	stream  []func() // messages on their way
}

// run is one run of the coordinator: the owner of all leases, and the leader.
type run struct {
	process
	w        *world
	id       string
	view     snap
	feedAt   time.Duration
	owners   [modelNodes]*Owner
	sealers  [modelNodes]*Sealer
	conns    [modelNodes]*conn
	wrong    [modelNodes]bool // the verdict Lost without a reason
	lostAt   [modelNodes]time.Duration
	start    time.Duration
	stopping bool
	early    bool // bugEarlyHold
	held     [modelNodes]bool
}

func (w *world) startRun(after time.Duration) {
	w.run = nil
	w.at(w.now+after, func() {
		w.runs++
		r := &run{w: w, id: fmt.Sprint("run", w.runs), view: w.db}
		r.on = w.coord
		w.run = r
		w.logf("%s starts", r.id)
		r.start = r.on.clock()
		for i := range r.owners {
			r.owners[i] = NewOwner(r.id, w.ttl, r.view.leases[i], r.view.leaseAt[i], r.start, r.start)
			r.owners[i].ownerFaults = ownerFaults{
				noMargin: w.bug == bugMargin, ackAfterSeal: w.bug == bugAckAfterSeal, noRestartWait: w.bug == bugNoRestartWait,
			}
		}
		r.newTerm()
		r.w.step(&r.process, ms, r.saw)
		r.w.step(&r.process, 2*ms, r.lead)
	})
}

func (r *run) newTerm() {
	for i := range r.sealers {
		r.sealers[i] = &Sealer{}
		r.sealers[i].inherits = r.w.bug == bugInherited
	}
}

// saw takes in what the watch has brought.
func (r *run) saw() {
	for i := range r.owners {
		r.owners[i].See(r.on.clock(), r.view.leases[i], r.view.leaseAt[i])
		r.answer(i)
		r.push(i)
	}
}

// answer answers a seal.
func (r *run) answer(i int) {
	rec, ok := r.owners[i].Seal(r.on.clock())
	if !ok {
		return
	}
	_, revision := r.owners[i].Record()
	r.writeLease(i, rec, revision, func(rev int64, err error) {
		switch {
		case err == nil:
			r.owners[i].Written(r.on.clock(), rec, rev)
		case errors.Is(err, errUnknown):
			r.w.step(&r.process, 100*ms, func() { r.answer(i) })
		}
	})
}

func (r *run) writeLease(i int, rec Record, revision int64, done func(int64, error)) {
	r.w.commit(&r.process,
		func(s *snap) bool { return s.leaseAt[i] == revision },
		func(s *snap, rev int64) { s.leases[i], s.leaseAt[i] = rec, rev },
		func(rev int64, err error) {
			if errors.Is(err, errUnknown) && r.w.db.leases[i] == rec && r.w.db.leaseAt[i] > revision {
				rev, err = r.w.db.leaseAt[i], nil // read again: it was written
			}
			done(rev, err)
		})
}

// hello is a node that wants to open a session.
func (r *run) hello(n *modelNode, h Hello) {
	if r.stopping {
		return
	}
	r.open(n, h, r.on.clock())
}

func (r *run) open(n *modelNode, h Hello, heard time.Duration) {
	s := r.w.db
	r.w.step(&r.process, r.w.between(ms/10, ms), func() {
		o := r.owners[n.id]
		o.See(r.on.clock(), s.leases[n.id], s.leaseAt[n.id])
		rec, err := o.Admit(r.on.clock(), h)
		if err != nil {
			r.w.logf("node %d session %d: %v", n.id, h.Session, err)
			r.close(n, h.Session)
			return
		}
		_, revision := o.Record()
		before := r.view
		r.writeLease(n.id, rec, revision, func(rev int64, err error) {
			switch {
			case errors.Is(err, errConflict):
				r.open(n, h, heard)
			case err != nil || !o.Opened(heard, rec, rev):
				r.close(n, h.Session)
			default:
				r.w.logf("node %d session %d opened at %d, ttl %v", n.id, h.Session, rev, rec.TTL)
				c := &conn{session: h.Session, opened: rev}
				r.conns[n.id] = c
				if r.w.bug == bugOldSet {
					r.set(n.id, c, true, &before)
				}
				r.push(n.id)
			}
		})
	})
}

// push sends the full set once the view has reached the open, and what changes after that.
func (r *run) push(i int) {
	c := r.conns[i]
	if c == nil || r.view.rev < c.opened {
		return
	}
	if !c.full || c.sent != r.assigned(i, &r.view) {
		r.set(i, c, !c.full, &r.view)
	}
}

func (r *run) assigned(i int, s *snap) assigned {
	if s.epoch == 0 || s.node != i || s.stopped == s.epoch {
		return assigned{}
	}
	return assigned{s.epoch, s.stop == s.epoch}
}

func (r *run) set(i int, c *conn, full bool, s *snap) {
	n := r.w.nodes[i]
	c.full, c.sent = true, r.assigned(i, s)
	a, session := c.sent, c.session
	if r.w.chance(r.w.f.loss) { // a stream that loses something is broken
		r.w.at(r.w.now+r.w.latency(), func() { n.agent.lose(session) })
		return
	}
	agent := n.agent
	c.stream = append(c.stream, func() { agent.set(session, full, a) })
	r.w.step(&agent.process, r.w.latency(), func() { // whichever comes first, they are read in order
		next := c.stream[0]
		c.stream = c.stream[1:]
		next()
	})
}

func (r *run) close(n *modelNode, session int64) {
	agent := n.agent
	r.w.step(&agent.process, r.w.latency(), func() { agent.lose(session) })
}

// renew is a renewal that has come in.
func (r *run) renew(n *modelNode, session int64, number uint64, held bool, longest time.Duration) {
	c, o := r.conns[n.id], r.owners[n.id]
	if c == nil || c.session != session {
		r.close(n, session)
		return
	}
	ttl, err := o.Renew(r.on.clock(), session)
	if err != nil {
		r.close(n, session)
		return
	}
	if r.early {
		ttl = HoldTTL
	}
	r.held[n.id] = true
	if !r.w.chance(r.w.f.loss) {
		agent := n.agent
		r.w.step(&agent.process, r.w.latency(), func() { agent.ack(session, number, ttl) })
	}
	if rec, ok := o.Lower(longest); ok {
		_, revision := o.Record()
		r.writeLease(n.id, rec, revision, func(rev int64, err error) {
			if err == nil {
				o.Written(r.on.clock(), rec, rev)
			}
		})
	}
}

// status is the end of a binding that its holder reports.
func (r *run) status(n *modelNode, session, epoch int64) {
	revision, ok := r.owners[n.id].Revision(session)
	if !ok {
		return
	}
	r.w.commit(&r.process,
		func(s *snap) bool {
			if r.w.bug == bugEpochUnchecked {
				return s.epoch != 0
			}
			return s.epoch == epoch && s.node == n.id && s.leaseAt[n.id] == revision
		},
		func(s *snap, _ int64) { s.stopped = s.epoch },
		func(_ int64, err error) {
			if err == nil {
				agent := n.agent
				r.w.step(&agent.process, r.w.latency(), func() { agent.committed(session, epoch) })
			}
		})
}

// lead is one pass of the leader.
func (r *run) lead() {
	w := r.w
	next := w.between(20*ms, 500*ms)
	if left, ok := r.sealers[r.view.node].Left(r.on.clock()); ok && left > 0 {
		next = min(next, r.on.until(r.on.clock()+left)-w.now)
	}
	w.step(&r.process, next, r.lead)
	if w.chance(w.f.term * 0.1) {
		r.newTerm()
	}
	now := r.on.clock()
	lost := [modelNodes]bool{}
	for i := range r.sealers {
		r.sealers[i].See(now, r.view.leases[i], r.view.leaseAt[i])
		if w.chance(w.f.wrong * 0.1) {
			r.wrong[i] = !r.wrong[i]
		}
		at, ok := r.owners[i].Received()
		if !ok {
			at = r.start
		}
		lost[i] = now-at > 2500*ms || r.wrong[i] && !w.calm
		if !lost[i] {
			r.lostAt[i] = 0
		} else if r.lostAt[i] == 0 {
			r.lostAt[i] = now
		}
	}
	v := r.view
	bind := func(cond func(*snap) bool) {
		to := w.rng.IntN(modelNodes)
		for range modelNodes {
			if !lost[to] && v.leases[to].State == Open && (v.epoch == 0 || to != v.node) {
				break
			}
			to = (to + 1) % modelNodes
		}
		w.commit(&r.process, cond, func(s *snap, rev int64) { s.node, s.epoch, s.stop, s.stopped = to, rev, 0, 0 },
			func(rev int64, err error) {
				if err == nil {
					w.logf("bound to node %d, epoch %d", to, rev)
				}
			})
	}
	same := func(s *snap) bool { return s.epoch == v.epoch }
	end := func(s *snap, _ int64) { s.epoch, s.stop, s.stopped = 0, 0, 0 }
	switch {
	case v.epoch == 0:
		bind(same)
		return
	case v.stopped == v.epoch:
		w.commit(&r.process, same, end, func(int64, error) {})
		return
	case w.chance(w.f.drain * 0.2):
		asked := v.stop == v.epoch
		w.commit(&r.process, same, func(s *snap, _ int64) {
			s.stop = s.epoch
			if asked { // the drain is called off
				s.stop = 0
			}
			if w.bug == bugRebound {
				end(s, 0)
			}
		}, func(int64, error) {})
		return
	}
	i := v.node
	if !lost[i] {
		return
	}
	if w.bug == bugNoSeal {
		if now-r.lostAt[i] > w.ttl+Margin(w.ttl) {
			bind(same)
		}
		return
	}
	if rec, revision, ok := r.sealers[i].Seal(now); ok {
		w.logf("sealing node %d, session %d", i, rec.Session)
		w.commit(&r.process,
			func(s *snap) bool {
				return s.leaseAt[i] == revision || w.bug == bugSealByState && s.leases[i].State == Open
			},
			func(s *snap, rev int64) { s.leases[i], s.leaseAt[i] = rec, rev },
			func(int64, error) {})
	}
	if revision, ok := r.sealers[i].Over(now); ok {
		bind(func(s *snap) bool {
			return s.epoch == v.epoch && (s.leaseAt[i] == revision || w.bug == bugMoveUnchecked)
		})
	}
}

// hold is an orderly stop.
func (r *run) hold() {
	w := r.w
	w.logf("%s stops in order", r.id)
	r.stopping, r.held = true, [modelNodes]bool{}
	r.early = w.bug == bugEarlyHold
	for i, o := range r.owners {
		rec, ok := o.Hold()
		if !ok {
			continue
		}
		_, revision := o.Record()
		r.writeLease(i, rec, revision, func(rev int64, err error) {
			if err == nil {
				o.Written(r.on.clock(), rec, rev)
				r.held[i] = false
			}
		})
	}
	w.step(&r.process, w.between(10*ms, 3*second), func() {
		r.dead = true
		w.startRun(w.between(ms, 5*second))
	})
}
