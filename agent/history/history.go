// Package history holds what the probes of a node have answered: of each the last attempts, in memory, and what all of
// them have cost. Who follows is told of each attempt as it is added.
package history

import (
	"sync"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

const (
	// Keep is how many attempts of a probe are kept.
	Keep = 32
	// MaxOutput bounds what is kept of an attempt's output, in bytes.
	MaxOutput = 1 << 10
)

type ring struct {
	attempts [Keep]spec.Attempt
	n        int
	// cpu is the processor time of all attempts of which it was measured, measured how many those were.
	cpu      time.Duration
	measured int
}

// History is the memory. Its methods may be called from any goroutine. Probes that are forgotten bound it: each holds at
// most Keep attempts of at most MaxOutput bytes.
type History struct {
	mu        sync.Mutex
	rings     map[spec.ProbeID]*ring
	followers map[*follower]struct{}
}

// New returns an empty history.
func New() *History {
	return &History{rings: map[spec.ProbeID]*ring{}, followers: map[*follower]struct{}{}}
}

// Add keeps an attempt.
func (h *History) Add(id spec.ProbeID, a spec.Attempt) {
	a.Output = a.Output[:min(len(a.Output), MaxOutput)]
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.rings[id]
	if r == nil {
		r = &ring{}
		h.rings[id] = r
	}
	if last := &r.attempts[(r.n+Keep-1)%Keep]; r.n > 0 && last.Output == a.Output {
		a.Output = last.Output // equal outputs are kept once
	}
	r.attempts[r.n%Keep] = a
	r.n++
	if a.CPU >= 0 {
		r.cpu += a.CPU
		r.measured++
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

// Last returns the newest n attempts of a probe, oldest first.
func (h *History) Last(id spec.ProbeID, n int) []spec.Attempt {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.rings[id]
	if r == nil {
		return nil
	}
	n = min(n, r.n, Keep)
	out := make([]spec.Attempt, 0, n)
	for i := r.n - n; i < r.n; i++ {
		out = append(out, r.attempts[i%Keep])
	}
	return out
}

// Forget drops a probe.
func (h *History) Forget(id spec.ProbeID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.rings, id)
}
