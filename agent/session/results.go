package session

import (
	"slices"
	"sync"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// maxWaiting bounds the results that wait to be sent; beyond it the oldest are dropped and counted.
const maxWaiting = 16384

type observed struct {
	id spec.ProbeID
	a  spec.Attempt
}

// results holds what is to be reported of probes: attempts in a ring, and of verdicts the latest of each probe.
type results struct {
	// changed is signalled when a verdict waits.
	changed chan struct{}

	mu       sync.Mutex
	attempts []observed // a ring from head
	head     int
	dropped  uint64
	verdicts map[spec.ProbeID]spec.ProbeState
}

func newResults() *results {
	return &results{changed: make(chan struct{}, 1), verdicts: map[spec.ProbeID]spec.ProbeState{}}
}

func (r *results) observe(id spec.ProbeID, a spec.Attempt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a.Output = "" // outputs stay with the agent, but for those that come with a verdict
	if len(r.attempts) < maxWaiting {
		r.attempts = append(r.attempts, observed{id, a})
		return
	}
	r.attempts[r.head] = observed{id, a}
	r.head = (r.head + 1) % maxWaiting
	r.dropped++
}

func (r *results) believe(s spec.ProbeState) {
	r.mu.Lock()
	r.verdicts[s.ID] = s
	r.mu.Unlock()
	r.signal()
}

// begin makes sure that a new session hears of every verdict.
func (r *results) begin(states []spec.ProbeState) {
	r.mu.Lock()
	r.verdicts = make(map[spec.ProbeID]spec.ProbeState, len(states))
	for _, s := range states {
		r.verdicts[s.ID] = s
	}
	r.mu.Unlock()
	r.signal()
}

func (r *results) signal() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// waiting is how many attempts wait.
func (r *results) waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.attempts)
}

// batch takes the attempts that wait, and the verdicts if they are asked for, as far as this session has handles for
// them; nil when there is nothing. Verdicts of probes whose pod has no handle yet wait on; those of pods that are gone
// are dropped at the next session.
func (o *open) batch(verdicts bool) *agentv1.ResultBatch {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.held {
		return nil
	}
	r := o.results
	r.mu.Lock()
	defer r.mu.Unlock()
	var out wire.Results
	for i := range r.attempts {
		at := &r.attempts[(r.head+i)%len(r.attempts)]
		if h, ok := o.handles[at.id]; ok {
			out.Results = append(out.Results, wire.HandleAttempt{Handle: h, Attempt: at.a})
		}
	}
	r.attempts, r.head = r.attempts[:0], 0
	for id, s := range r.verdicts {
		if h, ok := o.handles[id]; ok && verdicts {
			out.Changes = append(out.Changes, wire.HandleState{Handle: h, State: s})
			delete(r.verdicts, id)
		}
	}
	if len(out.Results) == 0 && len(out.Changes) == 0 {
		return nil
	}
	out.Dropped, r.dropped = r.dropped, 0
	return wire.ResultsToProto(&out)
}

func sortAttempts(as []*musterv1.ProbeAttempt) {
	slices.SortStableFunc(as, func(a, b *musterv1.ProbeAttempt) int {
		return a.GetTime().AsTime().Compare(b.GetTime().AsTime())
	})
}
