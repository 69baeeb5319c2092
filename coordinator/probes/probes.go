// Package probes keeps what this coordinator believes of every probe: the verdict, how long the run is, and the last
// few attempts. Agents say it (coordinator/dispatch folds it in), the API reads it. Nothing of it is stored: an agent
// says all of it again in each session, so a coordinator that was away knows it within a round trip.
package probes

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

const (
	// Ring is how many attempts of a probe are kept.
	Ring = 8
	// subscriberBuffer is how many changes a watcher may be behind before it is cut.
	subscriberBuffer = 1024
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

// Change is a row that was set, or with Gone one that went away.
type Change struct {
	Row  Row
	Gone bool
}

type entry struct {
	row  Row
	ring [Ring]spec.Attempt
	n    int
	// heard is when the newest attempt came, by this coordinator's clock.
	heard time.Time
}

// Table is the belief about all probes. All methods may be called from any goroutine and never block on a reader.
type Table struct {
	mu   sync.Mutex
	rows map[spec.ProbeID]*entry
	pods map[string][]spec.ProbeID
	subs map[*Subscription]struct{}
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
			t.rows[p.ID] = e
			t.pods[uid] = append(t.pods[uid], p.ID)
		}
		if e.row.Epoch == epoch && e.row.Node == node {
			e.row.Period, e.row.Handler = p.Period, p.Handler
			continue
		}
		*e = entry{row: Row{ProbeState: p, Node: node, Epoch: epoch}}
		e.row.Pod = name
		t.tell(Change{Row: e.row})
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
		t.tell(Change{Row: t.rows[id].row, Gone: true})
		delete(t.rows, id)
		return true
	})
	if len(ids) == 0 {
		delete(t.pods, uid)
		return
	}
	t.pods[uid] = ids
}

// Observe folds in one attempt. It changes no verdict: those come with Believe.
func (t *Table) Observe(k Key, a spec.Attempt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.rows[k.ProbeID]
	if e == nil || e.row.Epoch != k.Epoch {
		return
	}
	if a.Output == "" && e.row.Last != nil && e.row.Last.Start.Equal(a.Start) {
		return // the same attempt came with a change of verdict, and with its output
	}
	e.add(a)
}

func (e *entry) add(a spec.Attempt) {
	e.ring[e.n%Ring] = a
	e.n++
	e.heard = time.Now()
	if a.Result != spec.ResultUnknown {
		if e.row.Last != nil && e.row.Last.Result == a.Result {
			e.row.RunLength++
		} else {
			e.row.RunLength = 1
		}
	}
	e.row.Last = &a
}

// Believe sets what is believed of a probe, as its agent says.
func (t *Table) Believe(k Key, s spec.ProbeState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.rows[k.ProbeID]
	if e == nil || e.row.Epoch != k.Epoch {
		return
	}
	changed := e.row.Verdict != s.Verdict || e.row.ErroredReason != s.ErroredReason || !e.row.Since.Equal(s.Since)
	e.row.Verdict, e.row.Since, e.row.ErroredReason = s.Verdict, s.Since, s.ErroredReason
	if s.Last != nil && (e.row.Last == nil || !e.row.Last.Start.After(s.Last.Start)) {
		last := *s.Last
		if e.row.Last != nil && e.row.Last.Start.Equal(last.Start) {
			e.ring[(e.n-1)%Ring] = last
		} else {
			e.ring[e.n%Ring] = last
			e.n++
			e.heard = time.Now()
		}
		e.row.Last = &last
	}
	e.row.RunLength = s.RunLength
	if changed {
		t.tell(Change{Row: e.row})
	}
}

// List returns the rows that match, by namespace, pod, container and kind.
func (t *Table) List(match func(*Row) bool) []Row {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.list(match)
}

func (t *Table) list(match func(*Row) bool) []Row {
	var rows []Row
	for _, e := range t.rows {
		if match(&e.row) {
			rows = append(rows, e.row)
		}
	}
	slices.SortFunc(rows, compare)
	return rows
}

func compare(a, b Row) int {
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
		out = append(out, e.ring[i%Ring])
	}
	return out
}

// Subscription delivers changes to one watcher until it is closed or cut.
type Subscription struct {
	t *Table
	c chan Change
}

// Subscribe returns the rows that match and, from then on, every change of any row. A watcher that is more than 1024
// changes behind is cut: its channel is closed.
func (t *Table) Subscribe(match func(*Row) bool) ([]Row, *Subscription) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &Subscription{t: t, c: make(chan Change, subscriberBuffer)}
	t.subs[s] = struct{}{}
	return t.list(match), s
}

// C delivers the changes; it is closed when the watcher was too slow.
func (s *Subscription) C() <-chan Change { return s.c }

// Close ends the subscription; its channel is left open.
func (s *Subscription) Close() {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	delete(s.t.subs, s)
}

func (t *Table) tell(c Change) {
	for s := range t.subs {
		select {
		case s.c <- c:
		default:
			close(s.c)
			delete(t.subs, s)
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
