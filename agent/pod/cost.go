package pod

import (
	"fmt"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

const (
	// CostWindow is the least time over which the price of probes is measured.
	CostWindow = time.Minute
	// costAgain is how long nothing more is said of an instance whose probes are too dear.
	costAgain = time.Hour
)

// Spent is what a probe has taken since some moment: processor time, and the attempts of which it was measured.
type Spent struct {
	CPU      time.Duration
	Attempts int
}

// ProbeCost measures what the probes of one container take of its CPU limit. The zero value has seen nothing.
type ProbeCost struct {
	// instance is the one that since, spent and said are about.
	instance    string
	since, said time.Time
	spent       map[spec.ProbeKind]Spent
}

// Weigh takes in what each probe of an instance has spent in all, and returns an event when since the time before, but over
// CostWindow at least, that was more than percent of a limit of milliCPU thousandths of a core. It is returned once for an
// instance, and again after an hour when it is still so. Called sooner than CostWindow after the time before it does
// nothing; what was spent on an earlier instance, or before a gap in what is known, counts for nothing.
func (p *ProbeCost) Weigh(now time.Time, instance string, spent map[spec.ProbeKind]Spent, milliCPU int64, percent int) (Event, bool) {
	over := now.Sub(p.since)
	if instance == p.instance && over < CostWindow {
		return Event{}, false
	}
	before := *p
	p.since, p.spent = now, spent
	if instance != before.instance {
		p.instance, p.said = instance, time.Time{}
		return Event{}, false
	}
	var total time.Duration
	var dearest spec.ProbeKind
	var most Spent
	for _, kind := range spec.ProbeKinds {
		took := Spent{spent[kind].CPU - before.spent[kind].CPU, spent[kind].Attempts - before.spent[kind].Attempts}
		if took.CPU < 0 || took.Attempts < 0 {
			return Event{}, false // counted anew meanwhile
		}
		total += took.CPU
		if took.CPU > most.CPU {
			dearest, most = kind, took
		}
	}
	if milliCPU <= 0 || percent <= 0 || instance == "" {
		return Event{}, false
	}
	part := total.Seconds() / over.Seconds() * 1000 / float64(milliCPU) * 100
	if part <= float64(percent) || !p.said.IsZero() && now.Sub(p.said) < costAgain {
		return Event{}, false
	}
	p.said = now
	return Event{Type: spec.EventWarning, Reason: "ProbesExpensive", Message: fmt.Sprintf(
		"Probes take %.1f%% of the CPU limit of %dm (more than %d%%): %v of processor time in %v, of which the %s probe took %v in %d attempts",
		part, milliCPU, percent, total.Round(time.Millisecond), over.Round(time.Second), dearest, most.CPU.Round(time.Millisecond), most.Attempts)}, true
}
