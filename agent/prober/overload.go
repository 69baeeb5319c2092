package prober

import (
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// The prober says when it can not keep up: attempts that begin long after their time. Each is made nevertheless, in the order in
// which they were due, and a time that passes meanwhile counts as one with the next: so all probes are asked more seldom, and
// none is taken for failed that was not asked.
const (
	// lateShare is which part of its period after its time an attempt is late, and lateLeast what is late at least.
	lateShare, lateLeast = 10, 500 * time.Millisecond
	// judgeEvery is how long attempts are counted before it is judged anew whether there are too many late ones: a hundredth, and
	// at least fewLate. It is over once a whole time had none.
	judgeEvery = 10 * time.Second
	fewLate    = 3
)

// overload counts late attempts. Its zero value is ready; all times are those of now.
type overload struct {
	since time.Time
	// begun and late are those since then, and most the most lag.
	begun, late int64
	most        time.Duration
	// over: it has too many.
	over bool
	// told are those since the last reading of Lateness.
	told spec.ProbeLateness
}

// begin counts an attempt that begins with a lag, and says what is to be told where that has changed.
func (o *overload) begin(now time.Time, lag, period time.Duration) (spec.ProbeLateness, bool) {
	o.count(lag, period)
	if o.since.IsZero() {
		o.since = now
	}
	if now.Sub(o.since) < judgeEvery {
		return spec.ProbeLateness{}, false
	}
	said := spec.ProbeLateness{Begun: o.begun, Late: o.late, Most: o.most}
	was := o.over
	switch {
	case o.late >= fewLate && o.late*100 >= o.begun:
		o.over = true
	case o.late == 0:
		o.over = false
	}
	o.since, o.begun, o.late, o.most = now, 0, 0, 0
	said.Overloaded = o.over
	return said, o.over != was
}

func (o *overload) count(lag, period time.Duration) {
	lag = max(lag, 0)
	o.begun++
	o.told.Begun++
	if lag > max(period/lateShare, lateLeast) {
		o.late++
		o.told.Late++
	}
	o.most, o.told.Most = max(o.most, lag), max(o.told.Most, lag)
}

// read is what was counted since the last time.
func (o *overload) read() spec.ProbeLateness {
	told := o.told
	told.Overloaded = o.over
	o.told = spec.ProbeLateness{}
	return told
}
