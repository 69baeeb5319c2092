package loadtest

import "github.com/musterhq/muster/agent/prober"

// schedule is when one probe is due, in ns of the wall clock: once a period, counted from its first attempt. The schedule
// does not move with the engine: an attempt that comes late makes no later one due later, and one that never comes is
// missed. Only an attempt before its time shows that the probe was due earlier all along. The zero schedule is a probe that
// has not been asked.
type schedule struct {
	// due is when the next attempt is.
	due int64
}

// grain is how exactly the due time of a first attempt is known, in ns: engines start attempts at multiples of it.
const grain = int64(prober.FineSlot)

// late is an attempt that was due, and how late it began; one that had not begun a period later is missed.
type late struct {
	due, lag int64
	missed   bool
}

// began takes an attempt that began at that time, when by its engine's word it was to begin lag earlier, and tells tell of every
// attempt that was due until then.
func (s *schedule) began(at, lag, period int64, tell func(late)) {
	if s.due == 0 || at < s.due {
		s.due = (at - max(lag, 0)) / grain * grain
	}
	for ; at-s.due >= period; s.due += period {
		tell(late{s.due, at - s.due, true})
	}
	tell(late{s.due, at - s.due, false})
	s.due += period
}

// ended tells of every attempt that was due before the end and has not begun by then.
func (s *schedule) ended(end, period int64, tell func(late)) {
	for ; s.due != 0 && s.due < end; s.due += period {
		tell(late{s.due, end - s.due, end-s.due >= period})
	}
}
