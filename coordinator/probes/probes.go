// Package probes keeps what this coordinator believes of every probe: the verdict, how long the run is, and the last
// few attempts. Agents say it (coordinator/dispatch folds it in), the API reads it. Nothing of it is stored: an agent
// says all of it again in each session, so a coordinator that was away knows it within a round trip.
package probes

import (
	"cmp"
	"iter"
	"maps"
	"math"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

const (
	// Ring is how many attempts of a probe are kept.
	Ring = 8
)

// Key names one probe of the pods of the cluster.
type Key struct {
	spec.ProbeID
	// Epoch is that of the binding, so that a node that has lost the pod can no longer speak of it.
	Epoch int64
}

// Row is one probe with the node that speaks of it.
type Row struct {
	spec.ProbeState
	Node  string
	Epoch int64
}

// Filter says which rows somebody wants. An empty name stands for all.
type Filter struct {
	Namespace, Pod, Node string
	// Match decides about the rows that are left; nil takes all. It is called while the table is locked: it must not wait, nor call it.
	Match func(*Row) bool
}

func (f *Filter) takes(r *Row) bool {
	return (f.Namespace == "" || f.Namespace == r.Pod.Namespace) && (f.Pod == "" || f.Pod == r.Pod.Name) && (f.Node == "" || f.Node == r.Node) &&
		(f.Match == nil || f.Match(r))
}

// ChangeType is what has become of a row, for somebody who wants some rows.
type ChangeType uint8

const (
	// Added is a row that is wanted and was not, or was not there.
	Added ChangeType = iota
	// Modified is one that was wanted already.
	Modified
	// Deleted is one that is gone, or wanted no more.
	Deleted
)

// Change is a row that has changed.
type Change struct {
	Type ChangeType
	Row  Row
}

// entry is one probe. There are hundreds of thousands: its attempts are kept small.
type entry struct {
	row  Row // but for Last, which is the ring's newest
	ring [Ring]sample
	// texts are what attempts of the ring came with besides; nil for nothing, as attempts have texts only when a verdict changes.
	texts *[Ring]text
	n     int
	// heard is when the newest attempt came, by this coordinator's clock.
	heard time.Time
}

// sample is an attempt without its texts. Times are in µs; those that may be unknown are one more, and 0 when they are.
type sample struct {
	start              int64 // ns since 1970
	duration, cpu, lag uint32
	outcome, result    uint8
}

type text struct{ instance, output string }

func micros(d time.Duration) uint32 { return uint32(min(max(d/time.Microsecond, 0), math.MaxUint32)) }

func microsOrNone(d time.Duration) uint32 {
	if d < 0 {
		return 0
	}
	return micros(d + time.Microsecond)
}

func orNone(us uint32) time.Duration {
	if us == 0 {
		return -1
	}
	return time.Duration(us-1) * time.Microsecond
}

// put keeps an attempt as the i-th since the first.
func (e *entry) put(i int, a *spec.Attempt) {
	i %= Ring
	e.ring[i] = sample{
		start: a.Start.UnixNano(), duration: micros(a.Duration), cpu: microsOrNone(a.CPU), lag: microsOrNone(a.Lag), outcome: uint8(a.Outcome), result: uint8(a.Result),
	}
	t := text{a.Instance, a.Output}
	if e.texts == nil && t != (text{}) {
		e.texts = &[Ring]text{}
	}
	if e.texts != nil {
		e.texts[i] = t
	}
}

// at is the i-th attempt since the first, one of the last.
func (e *entry) at(i int) spec.Attempt {
	i %= Ring
	s := &e.ring[i]
	a := spec.Attempt{
		Start: time.Unix(0, s.start), Duration: time.Duration(s.duration) * time.Microsecond, CPU: orNone(s.cpu), Lag: orNone(s.lag),
		Outcome: spec.Outcome(s.outcome), Result: spec.Result(s.result),
	}
	if e.texts != nil {
		a.Instance, a.Output = e.texts[i].instance, e.texts[i].output
	}
	return a
}

// newest is the newest sample; nil before the first.
func (e *entry) newest() *sample {
	if e.n == 0 {
		return nil
	}
	return &e.ring[(e.n-1)%Ring]
}

// shown is the row with its last attempt.
func (e *entry) shown() Row {
	r := e.row
	if e.n > 0 {
		last := e.at(e.n - 1)
		r.Last = &last
	}
	return r
}

// Handle stands for one probe under one epoch, for whoever speaks of it again and again. The zero Handle stands for none.
type Handle struct {
	e     *entry
	epoch int64
}

// live is the entry, nil when the handle's epoch is over.
func (h Handle) live() *entry {
	if h.e == nil || h.e.row.Epoch != h.epoch {
		return nil
	}
	return h.e
}

// Table is the belief about all probes. All methods may be called from any goroutine and never block on a reader.
type Table struct {
	mu   sync.Mutex
	rows map[spec.ProbeID]*entry
	pods map[string][]spec.ProbeID
	subs map[*Subscription]struct{}
	// order has all rows in order; nil when one has come or gone since it was made.
	order []*entry
}

// New returns an empty table.
func New() *Table {
	return &Table{
		rows: map[spec.ProbeID]*entry{},
		pods: map[string][]spec.ProbeID{},
		subs: map[*Subscription]struct{}{},
	}
}

// Declare says which probes a pod has, by the agent of node and under epoch. Probes of an earlier declaration that are
// not named are forgotten; those that are keep what is believed of them while epoch is the same.
func (t *Table) Declare(uid string, name spec.ObjectName, node string, epoch int64, probes []spec.ProbeState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	keep := make(map[spec.ProbeID]bool, len(probes))
	for _, p := range probes {
		keep[p.ID] = true
		e := t.rows[p.ID]
		if e == nil {
			e = &entry{}
			t.rows[p.ID], t.order = e, nil
			t.pods[uid] = append(t.pods[uid], p.ID)
		}
		if e.row.Epoch == epoch && e.row.Node == node {
			e.row.Period, e.row.Handler = p.Period, p.Handler
			continue
		}
		if e.row.Pod != name {
			t.order = nil
		}
		*e = entry{row: Row{ProbeState: p, Node: node, Epoch: epoch}}
		e.row.Pod = name
		t.tell(e)
	}
	t.forget(uid, func(id spec.ProbeID) bool { return !keep[id] })
}

// Forget drops a pod's probes if they are still spoken of under epoch.
func (t *Table) Forget(uid string, epoch int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(uid, func(id spec.ProbeID) bool { return t.rows[id].row.Epoch == epoch })
}

func (t *Table) forget(uid string, drop func(spec.ProbeID) bool) {
	ids := slices.DeleteFunc(t.pods[uid], func(id spec.ProbeID) bool {
		if !drop(id) {
			return false
		}
		t.tell(t.rows[id])
		delete(t.rows, id)
		t.order = nil
		return true
	})
	if len(ids) == 0 {
		delete(t.pods, uid)
		return
	}
	t.pods[uid] = ids
}

// Handle is that of a probe that was declared under k.Epoch; what is said by the handle of any other is dropped.
func (t *Table) Handle(k Key) Handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Handle{t.rows[k.ProbeID], k.Epoch}
}

// Observe folds attempts in, each probe's in order. It changes no verdict: those come with Believe. What it is given may be used
// again for the next attempt.
func (t *Table) Observe(attempts iter.Seq2[Handle, *spec.Attempt]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for h, a := range attempts {
		e := h.live()
		if e == nil {
			continue
		}
		last := e.newest()
		if last != nil && a.Output == "" && last.start == a.Start.UnixNano() {
			continue // the same attempt came with a change of verdict, and with its output
		}
		if a.Result != spec.ResultUnknown {
			if last != nil && last.result == uint8(a.Result) {
				e.row.RunLength++
			} else {
				e.row.RunLength = 1
			}
		}
		e.put(e.n, a)
		e.n++
		e.heard = now
	}
}

// Believe sets what is believed of a probe, as its agent says.
func (t *Table) Believe(h Handle, s *spec.ProbeState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := h.live()
	if e == nil {
		return
	}
	changed := e.row.Verdict != s.Verdict || e.row.ErroredReason != s.ErroredReason || !e.row.Since.Equal(s.Since)
	e.row.Verdict, e.row.Since, e.row.ErroredReason = s.Verdict, s.Since, s.ErroredReason
	if last := e.newest(); s.Last != nil && (last == nil || last.start <= s.Last.Start.UnixNano()) {
		if last == nil || last.start != s.Last.Start.UnixNano() {
			e.n++
			e.heard = time.Now()
		}
		e.put(e.n-1, s.Last)
	}
	e.row.RunLength = s.RunLength
	if changed {
		t.tell(e)
	}
}

// List returns the rows that match, by namespace, pod, container and kind.
func (t *Table) List(f Filter) []Row { return t.Page(f, nil, -1) }

// Page returns the first rows that match after those that come no later than after says, nil: from the first on; n at most, negative:
// all.
func (t *Table) Page(f Filter, noLater func(*Row) bool, n int) []Row {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pageLocked(&f, noLater, n)
}

// orderLocked has all rows in order.
func (t *Table) orderLocked() []*entry {
	if t.order == nil {
		t.order = slices.SortedFunc(maps.Values(t.rows), func(a, b *entry) int { return compare(&a.row, &b.row) })
	}
	return t.order
}

func (t *Table) pageLocked(f *Filter, noLater func(*Row) bool, n int) []Row {
	order := t.orderLocked()
	from := 0
	if noLater != nil {
		from = sort.Search(len(order), func(i int) bool { return !noLater(&order[i].row) })
	}
	var rows []Row
	for _, e := range order[from:] {
		if len(rows) == n {
			break
		}
		if f.takes(&e.row) {
			rows = append(rows, e.shown())
		}
	}
	return rows
}

func compare(a, b *Row) int {
	return cmp.Or(
		cmp.Compare(a.Pod.Namespace, b.Pod.Namespace),
		cmp.Compare(a.Pod.Name, b.Pod.Name),
		cmp.Compare(a.ID.Container, b.ID.Container),
		cmp.Compare(a.ID.Kind, b.ID.Kind),
		cmp.Compare(a.ID.PodUID, b.ID.PodUID),
	)
}

// Recent returns up to Ring attempts of a probe, oldest first.
func (t *Table) Recent(id spec.ProbeID) []spec.Attempt {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.rows[id]
	if e == nil {
		return nil
	}
	out := make([]spec.Attempt, 0, Ring)
	for i := max(0, e.n-Ring); i < e.n; i++ {
		out = append(out, e.at(i))
	}
	return out
}

// Subscription tells one watcher what has changed, until it is closed. One that is behind is told of each row once, as it is
// then: what it may be behind is bounded by the rows, and none is cut.
type Subscription struct {
	t      *Table
	c      chan struct{}
	filter Filter
	// told has the rows that the watcher has; changed those it may have to be told of, in the order of their first change.
	told    map[spec.ProbeID]bool
	changed map[spec.ProbeID]*entry
	order   []spec.ProbeID
	// first is how many of order were there when it began.
	first int
}

// Subscribe begins a subscription, to which all that match count as changed, in order.
func (t *Table) Subscribe(f Filter) *Subscription {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &Subscription{t: t, c: make(chan struct{}, 1), filter: f, told: map[spec.ProbeID]bool{}, changed: map[spec.ProbeID]*entry{}}
	t.subs[s] = struct{}{}
	for _, e := range t.orderLocked() {
		if f.takes(&e.row) {
			s.changed[e.row.ID] = e
			s.order = append(s.order, e.row.ID)
		}
	}
	s.first = len(s.order)
	return s
}

// C is signalled when there is something to take.
func (s *Subscription) C() <-chan struct{} { return s.c }

// Take returns at most n changes, none when there are no more.
func (s *Subscription) Take(n int) (changes []Change) {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	for len(s.order) > 0 && len(changes) < n {
		id := s.order[0]
		s.order, s.first = s.order[1:], max(0, s.first-1)
		e := s.changed[id]
		delete(s.changed, id)
		was, is := s.told[id], s.t.rows[id] == e && s.filter.takes(&e.row)
		switch {
		case was && is:
			changes = append(changes, Change{Modified, e.shown()})
		case is:
			s.told[id] = true
			changes = append(changes, Change{Added, e.shown()})
		case was:
			delete(s.told, id)
			changes = append(changes, Change{Deleted, e.shown()})
		}
	}
	return changes
}

// Synced tells whether all that was there when the subscription began has been taken.
func (s *Subscription) Synced() bool {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	return s.first == 0
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	delete(s.t.subs, s)
}

// tell notes for the watchers who may want it that a row has changed, or is gone.
func (t *Table) tell(e *entry) {
	for s := range t.subs {
		if !s.told[e.row.ID] && !s.filter.takes(&e.row) {
			continue
		}
		if s.changed[e.row.ID] == nil {
			s.order = append(s.order, e.row.ID)
		}
		s.changed[e.row.ID] = e
		select {
		case s.c <- struct{}{}:
		default:
		}
	}
}

// Declared returns the probes that a pod's spec declares, as they stand before anything is known.
func Declared(p *spec.Pod, now time.Time) []spec.ProbeState {
	var out []spec.ProbeState
	for _, c := range p.Spec.AllContainers() {
		for _, kind := range spec.ProbeKinds {
			if probe := c.Probe(kind); probe != nil {
				out = append(out, spec.ProbeState{
					ID:      spec.ProbeID{PodUID: p.UID, Container: c.Name, Kind: kind},
					Pod:     p.Key(),
					Handler: probe.HandlerName(),
					Period:  probe.Period,
					Since:   now,
				})
			}
		}
	}
	return out
}
