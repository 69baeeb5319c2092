// Package history holds what the probes of a node have answered: of each the last attempts, in memory, older ones in a file that
// outlives the agent, and what all of them have cost. Who follows is told of each attempt as it is added.
package history

import (
	"sync"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

const (
	// Keep is how many attempts of a probe are kept.
	Keep = 32
	// MaxOutput bounds what is kept of an attempt's output, MaxOutputs all that is kept of outputs, each different one counted
	// once; both in bytes.
	MaxOutput, MaxOutputs = 1 << 10, 16 << 20
)

// History is the memory. Its methods may be called from any goroutine. Probes that are forgotten bound it: each holds at
// most Keep attempts, in a kilobyte, and all of them MaxOutputs of what was said.
type History struct {
	mu        sync.Mutex
	rings     map[spec.ProbeID]*ring
	outputs   outputs
	file      *File
	followers map[*follower]struct{}
}

// New returns a history that has in memory what is added to it, and with a file also what is in that, where everything is put; file
// may be nil.
func New(file *File) *History {
	return &History{file: file, rings: map[spec.ProbeID]*ring{}, outputs: outputs{numbers: map[string]uint32{}}, followers: map[*follower]struct{}{}}
}

// Add keeps an attempt. Its durations are kept in microseconds, up to 71 minutes.
func (h *History) Add(id spec.ProbeID, a spec.Attempt) {
	a.Output = a.Output[:min(len(a.Output), MaxOutput)]
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.rings[id]
	if r == nil {
		r = &ring{}
		h.rings[id] = r
	}
	e := entry{start: a.Start.UnixNano(), took: micros(a.Duration), cpu: micros(a.CPU), lag: micros(a.Lag), outcome: a.Outcome, result: a.Result}
	if last := r.newest(); last != nil && h.outputs.text(last.output) == a.Output { // the common case, without a look-up
		e.output = last.output
		h.outputs.again(e.output)
	} else {
		e.output = h.outputs.keep(a.Output)
	}
	h.outputs.drop(r.add(e, a.Instance))
	if a.CPU >= 0 {
		r.cpu += a.CPU
		r.measured++
	}
	if h.file != nil {
		h.file.Add(id, &a)
	}
	h.tellLocked(id, &a)
}

// Spent returns the processor time of a probe's attempts, those no longer kept included, and how many they were: attempts
// of which it was not measured do not count.
func (h *History) Spent(id spec.ProbeID) (cpu time.Duration, attempts int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r := h.rings[id]; r != nil {
		return r.cpu, r.measured
	}
	return 0, 0
}

// Last returns the newest n attempts of a probe, oldest first: those in memory, and if there is a file and they are not enough,
// those in it, which may be of an agent before this one.
func (h *History) Last(id spec.ProbeID, n int) []spec.Attempt {
	recent := h.recent(id, n)
	if h.file == nil || len(recent) >= n {
		return recent
	}
	if all := h.file.Last(id, n); len(all) > len(recent) {
		return all
	}
	return recent
}

func (h *History) recent(id spec.ProbeID, n int) []spec.Attempt {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.rings[id]
	if r == nil {
		return nil
	}
	n = min(n, len(r.entries))
	out := make([]spec.Attempt, 0, n)
	for i := len(r.entries) - n; i < len(r.entries); i++ {
		e := r.at(i)
		out = append(out, spec.Attempt{
			Start: time.Unix(0, e.start), Outcome: e.outcome, Result: e.result, Duration: duration(e.took), CPU: duration(e.cpu),
			Lag: duration(e.lag), Instance: r.instances[e.instance], Output: h.outputs.text(e.output),
		})
	}
	return out
}

// Forget drops a probe.
func (h *History) Forget(id spec.ProbeID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.rings[id]
	if r == nil {
		return
	}
	for i := range r.entries {
		h.outputs.drop(r.entries[i].output)
	}
	delete(h.rings, id)
}
