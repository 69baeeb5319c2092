package prober

import (
	"sync"
	"time"
)

// The prober doubts itself: an attempt that ran into its time-out while this process got no processor time says nothing about the
// container. Lateness is what tells: how much later than asked for the monitor was woken while the attempt was under way.
const (
	// watchAfter is how long an attempt is under way before the monitor watches it: most are over by then, and wake nobody.
	watchAfter = 30 * time.Millisecond
	// beat is how often the monitor looks at the clock while it watches.
	beat = 20 * time.Millisecond
	// late is how late a beat has to be to count, and leastLate how much of it, in all, an attempt's time-out is doubted for, or a
	// twentieth of the time-out where that is more.
	late, leastLate = 5 * time.Millisecond, 20 * time.Millisecond
	// retryDoubted is the longest pause before a probe is asked again whose attempt was doubted.
	retryDoubted = time.Second
)

// monitor measures how late this process is, while somebody watches. Its zero value is ready.
type monitor struct {
	mu       sync.Mutex
	watching int
	beating  bool
	lastBeat time.Time
	// sum is all lateness so far.
	sum time.Duration
}

// watch is one attempt under way. It can be used again once it is over.
type watch struct {
	m     *monitor
	timer *time.Timer

	// Under m.mu.
	begun  time.Time
	joined bool
	over   bool
	// before is the monitor's sum at the start, own what the watch was late itself.
	before, own time.Duration
}

// begin watches from now on.
func (w *watch) begin() {
	w.m.mu.Lock()
	w.begun, w.joined, w.over, w.before, w.own = time.Now(), false, false, 0, 0
	w.m.mu.Unlock()
	if w.timer == nil {
		w.timer = time.AfterFunc(watchAfter, w.join)
	} else {
		w.timer.Reset(watchAfter)
	}
}

func (w *watch) join() {
	m := w.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if w.over || w.joined { // a timer that fires as it is stopped may find the next attempt under way: that joins early
		return
	}
	now := time.Now()
	if own := now.Sub(w.begun) - watchAfter; own > late {
		w.own = own
	}
	w.joined, w.before = true, m.sum+m.overdueLocked(now)
	m.watching++
	if !m.beating {
		m.beating, m.lastBeat = true, now
		time.AfterFunc(beat, m.tick)
	}
}

// tick is one beat; the last one is that after the last watch.
func (m *monitor) tick() {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.sum += m.overdueLocked(now)
	m.lastBeat = now
	if m.watching == 0 {
		m.beating = false
		return
	}
	time.AfterFunc(beat, m.tick)
}

// overdueLocked is how late the next beat is already.
func (m *monitor) overdueLocked(now time.Time) time.Duration {
	if !m.beating {
		return 0
	}
	if d := now.Sub(m.lastBeat) - beat; d > late {
		return d
	}
	return 0
}

// end is how late this process was since begin.
func (w *watch) end() time.Duration {
	w.timer.Stop()
	m := w.m
	m.mu.Lock()
	defer m.mu.Unlock()
	w.over = true
	now := time.Now()
	if !w.joined {
		// The join itself is what was late.
		if own := now.Sub(w.begun) - watchAfter; own > late {
			return own
		}
		return 0
	}
	m.watching--
	return w.own + max(0, m.sum+m.overdueLocked(now)-w.before)
}

// doubtful tells whether a time-out after so much lateness is to be doubted.
func doubtful(lateness, timeout time.Duration) bool { return lateness >= max(leastLate, timeout/20) }

// doubts tells whether a failure of a row is doubted: it timed out while this process was late, and has not been doubted for as
// long as it takes the threshold to be met. So a container that does not answer is found within twice the time.
func (w *row) doubts(took, lateness time.Duration, now time.Time) bool {
	if took < w.Probe.Timeout || !doubtful(lateness, w.Probe.Timeout) {
		return false
	}
	if w.doubted.IsZero() {
		w.doubted = now
	}
	return now.Sub(w.doubted) < time.Duration(max(w.Probe.FailureThreshold, 1))*w.Probe.Period
}
