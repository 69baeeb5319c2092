package probes

import (
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// restSlack is how much longer than it ought to be a pause is before a probe counts as one that rests: results come once a
// second, and a busy agent's later.
const restSlack = 5 * time.Second

// Cost is what a probe takes, on average over the attempts that are kept.
type Cost struct {
	// AttemptsPerMinute is how often it is asked, 0 while it rests; negative when that is not known.
	AttemptsPerMinute float64
	// CPU is the processor time of an attempt, over those of which it was measured; negative when it was of none.
	CPU time.Duration
}

// PerMinute is the processor time a minute; negative when it is not known.
func (c Cost) PerMinute() time.Duration {
	if c.AttemptsPerMinute < 0 || c.CPU < 0 {
		return -1
	}
	return time.Duration(c.AttemptsPerMinute * float64(c.CPU))
}

// Cost is what a probe takes now; nothing is known of one that is not here.
func (t *Table) Cost(id spec.ProbeID, now time.Time) Cost {
	recent := t.Recent(id)
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.rows[id]
	if e == nil || len(recent) == 0 {
		return Cost{-1, -1}
	}
	return costOf(recent, e.row.Period, now.Sub(e.heard))
}

// costOf is the cost of a probe by its last attempts, oldest first, of which the newest came quiet ago. A probe rests when
// none has come for longer than two of its periods, or of its longest attempts.
func costOf(attempts []spec.Attempt, period, quiet time.Duration) Cost {
	c := Cost{AttemptsPerMinute: -1, CPU: -1}
	measured, total := 0, time.Duration(0)
	longest := period
	for i := range attempts {
		longest = max(longest, attempts[i].Duration)
		if attempts[i].CPU >= 0 {
			measured++
			total += attempts[i].CPU
		}
	}
	if measured > 0 {
		c.CPU = total / time.Duration(measured)
	}
	n := len(attempts)
	if quiet > 2*longest+restSlack {
		c.AttemptsPerMinute = 0
	} else if span := attempts[n-1].Start.Sub(attempts[0].Start); span > 0 {
		c.AttemptsPerMinute = float64(n-1) / span.Minutes()
	}
	return c
}
