// Package prober says when each probe of a node is asked, makes the attempts with a bounded number under way, and tells
// what has come of them. A waiting probe is a row in a wheel, not a goroutine or a timer: rows that are due at nearly
// the same moment are started by one wake-up. What an attempt is, is agent/probe's; what outcomes count for is
// agent/health's.
package prober

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/health"
	"github.com/musterhq/muster/agent/probe"
	"github.com/musterhq/muster/internal/spec"
)

const (
	// Slot is the width of a slot for probes whose period is 2 s or longer, FineSlot for the others: an attempt starts at
	// most so much after its time, while the agent gets processor time.
	Slot, FineSlot = 50 * time.Millisecond, 5 * time.Millisecond
	// coarse is from which period on Slot is enough.
	coarse = 2 * time.Second
	// InFlight bounds the attempts under way; more wait their turn, and their lag says so.
	InFlight = 256
	// attempts is how often an attempt that could not be made is made at most in one run (4.1).
	attempts = 3
	// maxOutput bounds what is kept of an attempt's output, in bytes.
	maxOutput = 1 << 10
)

// Row is one probe and where its container stands.
type Row struct {
	ID      spec.ProbeID
	Pod     spec.ObjectName
	Probe   *spec.Probe
	Address string
	Ports   []spec.Port
	// Instance is the newest instance's id, StartedAt when it started; Running is false once it has ended.
	Instance  container.ContainerID
	StartedAt time.Time
	Running   bool
	// Started opens the gate of liveness and readiness, and shuts that of startup.
	Started bool
	// Adopted means that the instance ran before this agent.
	Adopted bool
	// Guarded has Report told of the first verdict of an instance also when it is the one that was assumed.
	Guarded bool
	// Held means that a failing verdict has no consequence yet: the probe goes on being asked, a period after the last time.
	Held bool
}

// Report is what an attempt has brought that somebody may have to act on.
type Report struct {
	ID       spec.ProbeID
	Instance container.ContainerID
	Outcome  spec.Outcome
	Output   string
	// Verdict is what is believed now; ResultUnknown while no threshold was met since the agent's start.
	Verdict spec.Result
}

// Config is what a prober works with. None of the functions may block or call the prober back.
type Config struct {
	// Attempt makes one attempt; it may block for the probe's timeout.
	Attempt func(ctx context.Context, q *probe.Question) probe.Answer
	// Begin begins an attempt that needs nobody to wait for it, as probe.Attempter's does; nil: there are none.
	Begin func(ctx context.Context, q *probe.Question, done probe.Done) (probe.Answer, probe.Begun)
	// Report is told of every attempt that is no plain success, of every change of a verdict, of the first success after an
	// attempt that could not be made, and of the first verdict of a guarded row.
	Report func(Report)
	// Result is told of every attempt.
	Result func(spec.ProbeID, spec.Attempt)
	// Believe is told of every change of what is believed.
	Believe func(spec.ProbeState)
	// Late says how late this process was while an attempt was under way, which it is told the beginning of; nil measures it.
	Late func(began time.Time) time.Duration
	// Overload is told when attempts have begun to be late, of the last seconds, and when they no longer are; it may be nil.
	Overload func(spec.ProbeLateness)
	// Forgotten is told of probes that are removed.
	Forgotten func(spec.ProbeID)
	Metrics   Metrics
	Log       *slog.Logger
}

// Metrics counts runs, with the kubelet's meaning.
type Metrics interface {
	// Run is told of every run that counts, with how long its last attempt took.
	Run(pod spec.ObjectName, id spec.ProbeID, r spec.Result, took time.Duration)
	// Lag is told how late each attempt began.
	Lag(d time.Duration)
}

// row is a Row in the wheel. Under Prober.mu.
type row struct {
	Row
	tracker health.Tracker
	// met is whether a threshold was met since the agent's start, for this instance.
	met bool
	// at is the row's own time, due the end of the slot that it falls into.
	at, due time.Time
	queued  bool
	running bool
	// again is set when a time has come, or a trigger, while an attempt was under way.
	again   bool
	gone    bool
	errored string
	// doubted is when the first attempt was doubted since one was not; zero when the last was not.
	doubted time.Time
	// last is nil before the first attempt; it is written over by the next.
	last  *spec.Attempt
	phase time.Duration
	// question is what its attempts ask; nil until the next one when that has changed.
	question *probe.Question
}

// Prober asks the probes of a node. Its methods may be called from any goroutine and never block.
type Prober struct {
	cfg   Config
	wake  chan struct{}
	slots chan struct{}
	// runs hands runs to workers that have made one before: their stacks have grown already.
	runs chan *run
	// under are the workers and the runs that need none.
	under sync.WaitGroup

	monitor monitor

	mu    sync.Mutex
	rows  map[spec.ProbeID]*row
	wheel wheel
	// free are runs that are over: at most InFlight.
	free []*run
	// overload knows whether it keeps up.
	overload overload
}

// New builds a prober; nothing is asked before Run.
func New(cfg Config) *Prober {
	return &Prober{cfg: cfg, wake: make(chan struct{}, 1), slots: make(chan struct{}, InFlight), runs: make(chan *run), rows: map[spec.ProbeID]*row{}}
}

// phaseOf spreads probes over their period, the same at every start.
func phaseOf(id spec.ProbeID, period time.Duration) time.Duration {
	h := fnv.New64a()
	h.Write([]byte(id.PodUID))
	h.Write([]byte(id.Container))
	h.Write([]byte{byte(id.Kind)})
	return time.Duration(h.Sum64() % uint64(max(period, 1)))
}

// untilPhase is how long after at the row's phase comes, less than a period.
func (w *row) untilPhase(at time.Time) time.Duration {
	period := max(w.Probe.Period, 1)
	return (w.phase - time.Duration(at.UnixNano()%int64(period)) + period) % period
}

// Set adds a row, or replaces the one of the same ID. A new instance resets what was counted.
func (p *Prober) Set(r Row) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.rows[r.ID]
	if w == nil {
		w = &row{Row: r, tracker: health.New(r.ID.Kind, r.Probe), phase: phaseOf(r.ID, r.Probe.Period)}
		p.rows[r.ID] = w
	}
	fresh := r.Instance != w.Instance || w.tracker.Instance() == ""
	if fresh || r.Probe != w.Probe || r.Address != w.Address || !slices.Equal(r.Ports, w.Ports) {
		w.question = nil
	}
	w.Row = r
	changed := w.tracker.See(health.Facts{
		Instance: string(r.Instance), StartedAt: r.StartedAt, Running: r.Running, Started: r.Started, Adopted: r.Adopted, Held: r.Held,
	}, now)
	if fresh {
		w.met, w.errored, w.doubted = false, "", time.Time{}
	}
	if changed || fresh {
		p.cfg.Believe(w.state())
	}
	// The first attempt comes as soon as the gate opens, not up to a period later.
	if w.tracker.Waiting() && !w.running && (fresh || !w.queued) {
		at := w.tracker.OpensAt()
		if r.Held && at.Before(w.at.Add(r.Probe.Period)) {
			at = w.at.Add(r.Probe.Period)
		}
		if !at.After(now) {
			at = now
			if r.Adopted {
				at = now.Add(w.untilPhase(now)) // a restart of the agent does not ask everything at once
			}
		}
		p.queue(w, at)
	}
}

// Remove ends a row; unknown ones are no error.
func (p *Prober) Remove(id spec.ProbeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.rows[id]; w != nil {
		w.gone = true
		delete(p.rows, id)
		p.cfg.Forgotten(id)
	}
}

// Trigger asks a probe at once, unless its gate is shut, and starts its period anew (5.5).
func (p *Prober) Trigger(id spec.ProbeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.rows[id]
	if w == nil || !w.tracker.Open(time.Now()) {
		return
	}
	if w.running {
		w.again = true
		return
	}
	p.queue(w, time.Now())
}

// Lateness is how late attempts began since it was asked last.
func (p *Prober) Lateness() spec.ProbeLateness {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.overload.read()
}

// States returns what is believed of every probe.
func (p *Prober) States() []spec.ProbeState {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]spec.ProbeState, 0, len(p.rows))
	for _, w := range p.rows {
		out = append(out, w.state())
	}
	return out
}

func (w *row) state() spec.ProbeState {
	var last *spec.Attempt
	if w.last != nil {
		is := *w.last
		last = &is
	}
	return spec.ProbeState{
		ID: w.ID, Pod: w.Pod, Handler: w.Probe.HandlerName(), Period: w.Probe.Period, Verdict: w.tracker.Verdict(),
		Since: w.tracker.Since(), RunLength: w.tracker.Run(), Last: last, ErroredReason: w.errored,
	}
}

// queue puts a row into the wheel for a moment, taking it from where it was.
func (p *Prober) queue(w *row, at time.Time) {
	slot := FineSlot
	if w.Probe.Period >= coarse {
		slot = Slot
	}
	w.at, w.queued = at, true
	if p.wheel.add(w, at, slot) {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// Run asks until ctx ends, and returns when no attempt is under way.
func (p *Prober) Run(ctx context.Context) error {
	defer p.under.Wait()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var waiting []*row
	for {
		p.mu.Lock()
		now := time.Now()
		waiting = p.wheel.take(now, waiting)
		next, any := p.wheel.next()
		p.mu.Unlock()
		begun := 0
		for begun < len(waiting) && p.begin(ctx, waiting[begun]) {
			begun++
		}
		waiting = slices.Delete(waiting, 0, begun)
		pause := time.Hour
		if any {
			pause = time.Until(next)
		}
		timer.Reset(max(0, pause))
		free := p.slots
		if len(waiting) == 0 {
			free = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-p.wake:
		case free <- struct{}{}:
			<-p.slots // there is room: begin takes it
		}
	}
}

// begin starts a row's run if there is room.
func (p *Prober) begin(ctx context.Context, w *row) bool {
	now := time.Now()
	r, room := p.admit(w, now)
	if r == nil {
		return room
	}
	r.ctx, r.began = ctx, now
	if p.cfg.Begin != nil {
		p.under.Add(1)
		r.watch()
		switch answer, begun := p.cfg.Begin(ctx, r.question, r); begun {
		case probe.Over:
			r.Done(answer)
			return true
		case probe.UnderWay:
			return true
		}
		r.lateness() // its watch ends; the attempts to come have their own
		p.under.Done()
	}
	p.hand(r)
	return true
}

// admit makes a run of a row that is due; nil where there is none to make, and false where there is no room for it.
func (p *Prober) admit(w *row, now time.Time) (*run, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.gone || w.running || !w.queued || w.due.After(now) {
		return nil, true // it has been moved, or has gone
	}
	if !w.tracker.Open(now) {
		w.queued = false
		if w.tracker.Waiting() {
			p.queue(w, w.tracker.OpensAt())
		}
		return nil, true
	}
	select {
	case p.slots <- struct{}{}:
	default:
		return nil, false
	}
	w.running, w.queued = true, false
	if w.question == nil {
		w.question = &probe.Question{Probe: w.Probe, Address: w.Address, Ports: w.Ports, Instance: w.Instance}
	}
	var r *run
	if n := len(p.free); n > 0 {
		r, p.free = p.free[n-1], p.free[:n-1]
	} else {
		r = &run{p: p, watched: watch{m: &p.monitor}}
	}
	r.row, r.question, r.lag, r.made = w, w.question, now.Sub(w.due), 0
	if said, changed := p.overload.begin(now, r.lag, w.Probe.Period); changed && p.cfg.Overload != nil {
		p.cfg.Overload(said)
	}
	return r, true
}

// run is one run under way.
type run struct {
	p        *Prober
	ctx      context.Context
	row      *row
	question *probe.Question
	// began is when it began, and lag how late that was; made is how many attempts have been made of it.
	began time.Time
	lag   time.Duration
	made  int
	// watched measures how late this process is while the attempt is under way, unless Config.Late does.
	watched watch
}

// watch has the lateness of this process measured from now on.
func (r *run) watch() {
	if r.p.cfg.Late == nil {
		r.watched.begin()
	}
}

// lateness is how late this process was since watch.
func (r *run) lateness() time.Duration {
	if r.p.cfg.Late != nil {
		return r.p.cfg.Late(r.began)
	}
	return r.watched.end()
}

// Done takes the answer of an attempt that was begun by Config.Begin.
func (r *run) Done(answer probe.Answer) {
	p, lateness := r.p, r.lateness()
	defer p.under.Done()
	if r.made++; answer.Outcome == spec.OutcomeErrored && r.ctx.Err() == nil {
		p.hand(r)
		return
	}
	r.end(&answer, lateness)
}

// hand has a worker make the attempts of a run that are left.
func (p *Prober) hand(r *run) {
	select {
	case p.runs <- r:
	default:
		p.under.Go(func() { p.work(r) })
	}
}

// work makes runs, one after the other, until their context ends. There are never more workers than InFlight.
func (p *Prober) work(r *run) {
	for ctx := r.ctx; ; {
		r.attempts()
		select {
		case r = <-p.runs:
		case <-ctx.Done():
			return
		}
	}
}

// attempts makes the attempts of a run that are left, and ends it.
func (r *run) attempts() {
	for {
		r.began = time.Now()
		r.watch()
		answer := r.p.ask(r.ctx, r.question)
		lateness := r.lateness()
		if r.made++; answer.Outcome != spec.OutcomeErrored || r.made >= attempts || r.ctx.Err() != nil {
			r.end(&answer, lateness)
			return
		}
	}
}

// end takes the answer of the last attempt in, and frees the run's slot.
func (r *run) end(answer *probe.Answer, lateness time.Duration) {
	p := r.p
	p.mu.Lock()
	r.take(answer, lateness)
	r.ctx, r.row, r.question = nil, nil, nil
	p.free = append(p.free, r)
	p.mu.Unlock()
	<-p.slots
}

// take folds an answer in, unless nobody waits for it any more.
func (r *run) take(answer *probe.Answer, lateness time.Duration) {
	p, w := r.p, r.row
	took := time.Since(r.began)
	w.running = false
	if w.gone || r.ctx.Err() != nil {
		return
	}
	if w.Instance == r.question.Instance {
		if answer.Outcome == spec.OutcomeFailure && w.doubts(took, lateness, r.began.Add(took)) {
			answer.Outcome = spec.OutcomeInconclusive
			answer.Output = fmt.Sprintf("the agent was %v late itself: %s", lateness.Round(time.Millisecond), answer.Output)
		} else if answer.Outcome == spec.OutcomeSuccess || answer.Outcome == spec.OutcomeWarning {
			w.doubted = time.Time{}
		}
		p.fold(w, answer, r.began, took, r.lag)
	}
	p.plan(w)
}

// ask makes an attempt. One that panics could not be made: a bug in one handler ends no agent (5.1.5).
func (p *Prober) ask(ctx context.Context, q *probe.Question) (answer probe.Answer) {
	defer func() {
		if r := recover(); r != nil {
			p.cfg.Log.Error("an attempt panicked", "handler", q.Probe.HandlerName(), "panic", r, "stack", string(debug.Stack()))
			answer = probe.Answer{Outcome: spec.OutcomeErrored, Output: fmt.Sprintf("a bug in muster: panic: %v", r), CPU: -1}
		}
	}()
	return p.cfg.Attempt(ctx, q)
}

// fold takes an answer in.
func (p *Prober) fold(w *row, answer *probe.Answer, start time.Time, took, lag time.Duration) {
	now := time.Now()
	result := resultOf(answer.Outcome)
	a := spec.Attempt{
		Start: start, Outcome: answer.Outcome, Result: result, Duration: took, CPU: answer.CPU, Lag: lag,
		Instance: string(w.Instance), Output: text(answer.Output),
	}
	if w.last == nil {
		w.last = &spec.Attempt{}
	}
	*w.last = a
	p.cfg.Result(w.ID, a)
	p.cfg.Metrics.Lag(lag)
	changed := w.tracker.Observe(result, now)
	met := w.met
	w.met = w.met || changed || result != spec.ResultUnknown && w.tracker.Verdict() == result
	recovered := false
	switch {
	case answer.Outcome == spec.OutcomeErrored && w.errored == "":
		w.errored, changed = a.Output, true
	case answer.Outcome != spec.OutcomeErrored && w.errored != "":
		w.errored, changed, recovered = "", true, true
	}
	if changed {
		p.cfg.Believe(w.state())
	}
	if result != spec.ResultUnknown {
		p.cfg.Metrics.Run(w.Pod, w.ID, result, took)
	}
	if changed || recovered || answer.Outcome != spec.OutcomeSuccess || w.Guarded && !met && w.met {
		verdict := spec.ResultUnknown
		if w.met {
			verdict = w.tracker.Verdict()
		}
		p.cfg.Report(Report{ID: w.ID, Instance: w.Instance, Outcome: answer.Outcome, Output: a.Output, Verdict: verdict})
	}
}

// text cuts an output to maxOutput, at the end of a character, and puts U+FFFD in the place of what is no UTF-8.
func text(output string) string {
	output = strings.ToValidUTF8(output[:min(len(output), maxOutput+utf8.UTFMax-1)], "\uFFFD")
	for len(output) > maxOutput {
		_, n := utf8.DecodeLastRuneInString(output)
		output = output[:len(output)-n]
	}
	return output
}

// resultOf is what an outcome counts as (4.2).
func resultOf(o spec.Outcome) spec.Result {
	switch o {
	case spec.OutcomeSuccess, spec.OutcomeWarning:
		return spec.ResultSuccess
	case spec.OutcomeFailure:
		return spec.ResultFailure
	}
	return spec.ResultUnknown
}

// plan puts a row that has been asked into the wheel again, a period after its last time. Times that have passed
// meanwhile count as one. Pods that started together would be asked together for ever, so a row that succeeds comes later
// by at most a tenth of its period until it has drifted to its phase.
func (p *Prober) plan(w *row) {
	if !w.tracker.Waiting() {
		return // Set wakes it when its gate opens
	}
	now := time.Now()
	if w.again {
		w.again = false
		p.queue(w, now)
		return
	}
	next := w.at.Add(w.Probe.Period)
	if w.last != nil && w.last.Result == spec.ResultSuccess {
		next = next.Add(min(w.untilPhase(next), w.Probe.Period/10))
	}
	if w.last != nil && w.last.Outcome == spec.OutcomeInconclusive {
		next = w.at.Add(min(w.Probe.Period, retryDoubted))
	}
	if next.Before(now) {
		next = now
	}
	p.queue(w, next)
}
