package fence

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// A history is one run of a whole small world, single-threaded and repeatable by its seed: one coordinator on a store
// that can fail in every way, three nodes, and one fenced name. Messages and watches are late, lost and out of order
// between sessions; processes stop at any step; machines are suspended, paused, rebooted; clocks differ in offset and
// rate. The judge sees true time and a kernel that kills as late as it may: the name must never execute twice at one
// moment. Afterwards all faults end, and the name must come to run: that is progress.

// bug is an error seeded on purpose; the judge must object to a world that has it.
type bug string

const (
	noBug             bug = ""
	bugMargin         bug = "margin 0"
	bugAckTime        bug = "send time taken at ack"
	bugNoSeal         bug = "no seal"
	bugAckAfterSeal   bug = "ack after seal"
	bugMoveUnchecked  bug = "move without comparing nodelease"
	bugOldSet         bug = "full set older than the open"
	bugAckBeforeSet   bug = "ack extends before the full set"
	bugInherited      bug = "wait inherited by a new leader"
	bugNoRestartWait  bug = "restart without wait"
	bugMonotonic      bug = "monotonic for boot time"
	bugLocalRestart   bug = "local restart after the fence"
	bugStartUnarmed   bug = "start before arming"
	bugEpochUnchecked bug = "epoch unchecked"
	bugRebound        bug = "name rebound before Stopped"
	bugStoppedForgot  bug = "Stopped forgotten at its acknowledgement"
	bugStartInFlight  bug = "a start in flight at Stopped"
	bugSealByState    bug = "seal by state instead of revision"
	bugLeftUnarmed    bug = "left without the armed timer"
	bugPublishLate    bug = "publish after arming"
	bugOldSessionSet  bug = "an older session's full set taken"
	bugEarlyHold      bug = "a hold acknowledged before it is written"
)

const (
	modelNodes = 3
	modelSlots = 6
	second     = time.Second
	ms         = time.Millisecond
)

// event is one thing that happens at a moment of true time.
type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

// events are a heap, the earliest first.
type events []event

func (q events) before(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}

func (q *events) push(e event) {
	*q = append(*q, e)
	h := *q
	for i := len(h) - 1; i > 0 && h.before(i, (i-1)/2); i = (i - 1) / 2 {
		h[i], h[(i-1)/2] = h[(i-1)/2], h[i]
	}
}

func (q *events) pop() event {
	h := *q
	first, last := h[0], len(h)-1
	h[0], h[last] = h[last], event{}
	h = h[:last]
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(h); c++ {
			if h.before(c, least) {
				least = c
			}
		}
		if least == i {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	*q = h
	return first
}

// machine has a clock and may stand still. A suspend is counted by its clock, a hypervisor's pause is not.
type machine struct {
	w         *world
	offset    time.Duration
	rate      float64
	uncounted time.Duration
	still     time.Duration // until when it stands still
	hung      time.Duration // until when no process of muster's runs on it: what it runs for others goes on
}

func (m *machine) clock() time.Duration {
	return m.offset + time.Duration(float64(m.w.now-m.uncounted)*m.rate)
}

// until is when the machine's clock will read at, if nothing comes between.
func (m *machine) until(at time.Duration) time.Duration {
	return max(m.w.now, m.w.now+time.Duration(float64(at-m.clock())/m.rate)+1)
}

// process is something that may be stopped or killed.
type process struct {
	on    *machine
	dead  bool
	still time.Duration
	risk  float64 // how much likelier than others it is to be stopped at a step
}

// faults is what may happen in one history; each history draws its own.
type modelFaults struct {
	freeze, suspend, pause, reboot, kill, loss, storeFault, wrong, drain, restart, hold, term, reconnect, hang float64
	lag                                                                                                        time.Duration
}

// snap is all that is stored.
type snap struct {
	rev     int64
	leases  [modelNodes]Record
	leaseAt [modelNodes]int64
	node    int // of the binding
	epoch   int64
	stop    int64 // epoch
	stopped int64 // epoch whose end is stored
}

type world struct {
	rng    *rand.Rand
	now    time.Duration
	q      events
	seq    uint64
	bug    bug
	f      modelFaults
	ttl    time.Duration
	end    time.Duration // of all faults
	calm   bool
	db     snap
	coord  *machine
	run    *run
	runs   int
	nodes  [modelNodes]*modelNode
	failed string
	trace  []string
	keep   bool
}

func (w *world) logf(format string, args ...any) {
	if w.keep {
		w.trace = append(w.trace, fmt.Sprintf("%10.3f ", w.now.Seconds())+fmt.Sprintf(format, args...))
	}
}

func (w *world) at(t time.Duration, do func()) {
	w.seq++
	w.q.push(event{max(t, w.now), w.seq, do})
}

func (w *world) chance(p float64) bool { return !w.calm && p > 0 && w.rng.Float64() < p }

func (w *world) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)+1))
}

// step runs do on p after d of true time, unless p is dead by then; later if p or its machine stands still. Before any
// step the process may be stopped.
func (w *world) step(p *process, d time.Duration, do func()) {
	var try func()
	try = func() {
		if p.dead {
			return
		}
		if until := max(p.still, p.on.still, p.on.hung); until > w.now {
			w.at(until+w.between(time.Microsecond, ms), try) // after the kernel's timers
			return
		}
		if w.chance(w.f.freeze * (1 + p.risk)) {
			p.still = w.now + w.hang()
			w.at(p.still, try)
			return
		}
		do()
	}
	w.at(w.now+d, try)
}

// hang is how long a process is stopped: mostly about as long as a lease, sometimes as long as a hold.
func (w *world) hang() time.Duration {
	most := 3 * w.ttl
	if w.f.hold > 0 && w.rng.IntN(2) == 0 {
		most = HoldTTL
	}
	return min(w.between(ms, most), max(0, w.end-w.now))
}

// latency is how long a message takes.
func (w *world) latency() time.Duration {
	if w.chance(0.05) {
		return w.between(0, w.f.lag)
	}
	return w.between(200*time.Microsecond, 5*ms)
}

// commit writes apply if cond holds at that moment, and tells p.
func (w *world) commit(p *process, cond func(*snap) bool, apply func(s *snap, rev int64), done func(rev int64, err error)) {
	write := func() (int64, error) {
		if p.dead { // the store is in the coordinator's process
			return 0, errUnknown
		}
		if !cond(&w.db) {
			return 0, errConflict
		}
		w.db.rev++
		apply(&w.db, w.db.rev)
		w.feed()
		return w.db.rev, nil
	}
	d := w.between(ms/2, 4*ms)
	switch {
	case w.chance(w.f.storeFault / 2): // applied but unanswered, or not applied
		w.at(w.now+d, func() {
			if w.rng.IntN(2) == 0 {
				write()
			}
			w.step(p, 100*ms, func() { done(0, errUnknown) })
		})
	case w.chance(w.f.storeFault / 2): // applied late
		w.step(p, d+100*ms, func() { done(0, errUnknown) })
		w.at(w.now+w.between(d, 2*w.ttl), func() { write() })
	default:
		w.at(w.now+d, func() {
			rev, err := write()
			w.step(p, w.between(ms/10, ms), func() { done(rev, err) })
		})
	}
}

// feed gives the present state to the coordinator's watch.
func (w *world) feed() {
	r := w.run
	if r == nil || r.dead {
		return
	}
	s := w.db
	d := w.between(ms/10, 2*ms)
	if w.chance(0.1) {
		d = w.between(0, w.f.lag)
	}
	r.feedAt = max(r.feedAt, w.now+d) // in order
	w.step(&r.process, r.feedAt-w.now, func() {
		if s.rev > r.view.rev {
			r.view = s
			r.saw()
		}
	})
}

// judge objects when the name executes twice.
func (w *world) judge() {
	first := ""
	for _, n := range w.nodes {
		if n.still >= w.now {
			continue // nothing executes on a machine that stands still, or whose kernel is just waking
		}
		for _, s := range n.sups {
			if !s.executing {
				continue
			}
			is := fmt.Sprintf("epoch %d on node %d", s.epoch, n.id)
			if first != "" && w.failed == "" {
				w.failed = fmt.Sprintf("at %v: %s and %s execute", w.now, first, is)
			}
			first = is
		}
	}
}

func (w *world) running() bool {
	for _, n := range w.nodes {
		for _, s := range n.sups {
			if s.executing && s.epoch == w.db.epoch {
				return true
			}
		}
	}
	return false
}

// play runs one history of n events at most, and returns what the judge says: empty when there was nothing.
func play(seed uint64, b bug, keep bool) (verdict string, trace []string, steps int) {
	w := newWorld(seed, b, keep)
	for len(w.q) > 0 && w.failed == "" {
		e := w.q.pop()
		w.now = e.at
		e.do()
		steps++
		if !w.calm && w.now >= w.end {
			w.heal()
		}
		if w.calm {
			if w.running() && w.now > w.end+2*second {
				return "", nil, steps
			}
			if w.now > w.end+HoldTTL+Margin(HoldTTL)+4*w.ttl+30*second {
				w.failed = fmt.Sprintf("no progress: nothing runs %v after the last fault", w.now-w.end)
			}
		}
	}
	return w.failed, w.trace, steps
}

func newWorld(seed uint64, b bug, keep bool) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 0x6d7573746572)), bug: b, keep: keep}
	w.ttl = []time.Duration{3 * second, 3 * second, 5 * second, 10 * second}[w.rng.IntN(4)]
	some := func(most float64) float64 {
		if w.rng.IntN(2) == 0 {
			return 0
		}
		return most * w.rng.Float64()
	}
	w.f = modelFaults{
		freeze: some(0.01), suspend: some(0.2), pause: some(0.2), reboot: some(0.1), kill: some(0.2), loss: some(0.2),
		storeFault: some(0.2), wrong: some(0.5), drain: some(0.3), restart: some(0.2), term: some(0.2), reconnect: some(0.3), hang: some(0.2),
		lag: time.Duration(some(float64(2 * w.ttl))),
	}
	if w.rng.IntN(8) == 0 {
		w.f.hold = 0.3
	}
	w.end = w.between(15*second, 45*second)
	if w.f.hold > 0 {
		w.end += 60 * second
	}
	w.coord = w.newMachine()
	w.db.rev = 10
	for i := range w.nodes {
		w.nodes[i] = &modelNode{machine: w.newMachine(), id: i, instance: fmt.Sprint("i", i), stopped: map[int64]bool{}}
		w.nodes[i].startAgent()
	}
	w.startRun(0)
	w.at(0, w.chaos)
	return w
}

func (w *world) newMachine() *machine {
	rates := []float64{0.952, 1.048, 0.952 + 0.096*w.rng.Float64()}
	return &machine{w: w, offset: w.between(0, 1000*second) + 1, rate: rates[w.rng.IntN(len(rates))]}
}

// stand makes a machine stand still.
func (m *machine) stand(d time.Duration, counted bool) {
	if m.still > m.w.now {
		return
	}
	d = min(d, max(0, m.w.end-m.w.now))
	m.still = m.w.now + d
	if !counted {
		m.uncounted += d
	}
	m.w.at(m.still+1, m.w.judge) // after the kernel's timers
}

// chaos does something bad now and then.
func (w *world) chaos() {
	if w.calm {
		return
	}
	w.at(w.now+w.between(100*ms, second), w.chaos)
	n := w.nodes[w.rng.IntN(modelNodes)]
	if w.chance(w.f.suspend) {
		w.logf("node %d is suspended", n.id)
		n.stand(w.between(ms, 3*w.ttl), w.bug != bugMonotonic)
	}
	if w.chance(w.f.pause) && !n.paused {
		n.paused = true // once: what is paused stays under a third of the margin
		n.stand(w.between(0, Margin(w.ttl)/3), false)
	}
	if w.chance(w.f.reboot) {
		n.reboot()
	}
	if w.chance(w.f.kill) {
		n.killAgent(w.between(ms, w.ttl))
	}
	if w.chance(w.f.kill) && len(n.sups) > 0 {
		s := n.sups[w.rng.IntN(len(n.sups))]
		if s.still <= w.now {
			w.logf("supervisor of epoch %d on node %d is stopped", s.epoch, n.id)
			s.still = w.now + w.hang()
		}
	}
	if a := n.agent; w.chance(w.f.kill) && !a.dead && a.still <= w.now {
		w.logf("agent %d is stopped", n.id)
		a.still = w.now + w.between(ms, 3*w.ttl)
	}
	if w.chance(w.f.hang) && n.hung <= w.now {
		w.logf("agent and supervisors of node %d are stopped", n.id)
		n.hung = w.now + w.hang()
	}
	if w.chance(w.f.reconnect) && !n.agent.dead {
		n.agent.broken = true
	}
	r := w.run
	if r == nil || r.dead {
		return
	}
	if w.chance(w.f.restart) {
		w.logf("coordinator is killed")
		r.dead = true
		w.startRun(w.between(ms, 2*second))
	} else if w.chance(w.f.hold) && !r.stopping {
		w.step(&r.process, 0, r.hold)
	}
}

// heal ends all faults.
func (w *world) heal() {
	w.logf("all faults end")
	w.calm = true
}

// trail is the end of a trace.
func trail(trace []string, n int) string { return strings.Join(trace[max(0, len(trace)-n):], "\n") }
