package history

import (
	"context"

	"github.com/musterhq/muster/internal/spec"
)

// Queue is how many attempts wait for one that follows; one more, and the oldest of them is dropped.
const Queue = 256

// follower is somebody who is told of attempts. Under History.mu, but for match and more.
type follower struct {
	match   func(spec.ProbeID) bool
	more    chan struct{}
	waiting []spec.ProbeAttempt
	dropped uint64
}

// Follow hands take what matching probes answer from now on, in that order, until ctx ends or take fails, and returns why.
// The first call has nothing: what is added after it began is told. dropped counts what was lost before what it comes with,
// as take was too slow. match must not block. Probes that are forgotten and come back are followed like others.
func (h *History) Follow(ctx context.Context, match func(spec.ProbeID) bool, take func(attempts []spec.ProbeAttempt, dropped uint64) error) error {
	f := &follower{match: match, more: make(chan struct{}, 1)}
	h.mu.Lock()
	h.followers[f] = struct{}{}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.followers, f)
	}()
	for err := take(nil, 0); ; {
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.more:
		}
		h.mu.Lock()
		attempts, dropped := f.waiting, f.dropped
		f.waiting, f.dropped = nil, 0
		h.mu.Unlock()
		err = take(attempts, dropped)
	}
}

// tellLocked puts an attempt in line for those that follow its probe.
func (h *History) tellLocked(id spec.ProbeID, a *spec.Attempt) {
	for f := range h.followers {
		if !f.match(id) {
			continue
		}
		if len(f.waiting) == Queue {
			f.waiting = f.waiting[1:]
			f.dropped++
		}
		f.waiting = append(f.waiting, spec.ProbeAttempt{ID: id, Attempt: *a})
		select {
		case f.more <- struct{}{}:
		default:
		}
	}
}
