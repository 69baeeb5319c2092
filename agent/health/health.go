// Package health turns the outcomes of one probe's attempts into a verdict: thresholds, gates and holds, by the rules of
// docs/probes.md, sections 4 and 5. It is pure and knows no container but by the id of its newest instance; what a
// verdict leads to is for agent/pod to say.
package health

import (
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// Facts are where the probe's container stands.
type Facts struct {
	// Instance is the newest instance's id; empty before the first.
	Instance  string
	StartedAt time.Time
	Running   bool
	// Started is whether the container counts as started: it opens the gate of liveness and readiness, and shuts that of
	// startup.
	Started bool
	// Adopted means that the instance ran before this agent did.
	Adopted bool
	// Held means that a failing verdict of liveness has no consequence yet: the probe goes on being asked, and a success ends it.
	Held bool
}

// Tracker is what is believed of one probe. The zero Tracker is no probe: use New.
type Tracker struct {
	kind     spec.ProbeKind
	success  int32
	failure  int32
	delay    time.Duration
	facts    Facts
	last     spec.Result
	run      int32
	verdict  spec.Result
	since    time.Time
	held     bool
	hasValue bool
}

// New returns the tracker of a probe of which nothing is known.
func New(kind spec.ProbeKind, p *spec.Probe) Tracker {
	return Tracker{kind: kind, success: max(1, p.SuccessThreshold), failure: max(1, p.FailureThreshold), delay: p.InitialDelay}
}

// See takes the container's facts and reports whether the verdict has changed. A new instance starts with the kind's
// initial value, a full run before it, and no hold (5.2.4, 5.3); one that ran before this agent has none (11.2). A
// container that does not run is a failure (5.2.6).
func (t *Tracker) See(f Facts, now time.Time) (changed bool) {
	before := t.verdict
	if f.Instance != t.facts.Instance {
		t.last, t.run, t.held, t.hasValue = spec.ResultUnknown, 0, false, false
		t.verdict = spec.ResultUnknown
		if f.Instance != "" && !f.Adopted {
			t.verdict = initial(t.kind)
			t.hasValue = true
		}
		t.since = now
	}
	if t.kind == spec.Liveness && t.verdict == spec.ResultFailure && f.Held != t.facts.Held {
		t.held = !f.Held
	}
	t.facts = f
	if f.Instance != "" && !f.Running && !t.held {
		t.set(spec.ResultFailure, now)
	}
	return t.verdict != before
}

func initial(k spec.ProbeKind) spec.Result {
	switch k {
	case spec.Liveness:
		return spec.ResultSuccess
	case spec.Readiness:
		return spec.ResultFailure
	}
	return spec.ResultUnknown
}

func (t *Tracker) set(v spec.Result, now time.Time) {
	if !t.hasValue || v != t.verdict {
		t.since = now
	}
	t.verdict, t.hasValue = v, true
}

// Open tells whether an attempt may be made now: there is a running instance, its initial delay is over (5.2.8), it is
// not on hold (5.2.5), and the startup gate is open for this kind (5.2.9).
func (t *Tracker) Open(now time.Time) bool {
	return t.Waiting() && now.Sub(t.facts.StartedAt) >= t.delay
}

// Waiting is Open but for the initial delay.
func (t *Tracker) Waiting() bool {
	if t.held || !t.facts.Running || t.facts.Instance == "" {
		return false
	}
	return t.facts.Started != (t.kind == spec.Startup)
}

// OpensAt is when the initial delay is over.
func (t *Tracker) OpensAt() time.Time { return t.facts.StartedAt.Add(t.delay) }

// Observe folds in what a run counts as, and reports whether the verdict has changed. A verdict changes after an unbroken
// run of its threshold (5.2.11 to 5.2.13). After a failing liveness verdict, and after any of startup, the probe is on
// hold until there is a new instance.
func (t *Tracker) Observe(r spec.Result, now time.Time) (changed bool) {
	if r == spec.ResultUnknown || t.held {
		return false // discarded (4.3)
	}
	if r != t.last {
		t.last, t.run = r, 0
	}
	t.run++
	threshold := t.success
	if r == spec.ResultFailure {
		threshold = t.failure
	}
	if t.run < threshold {
		return false
	}
	changed = t.verdict != r
	t.set(r, now)
	if t.kind == spec.Startup || t.kind == spec.Liveness && r == spec.ResultFailure && !t.facts.Held {
		t.held, t.run = true, 0
	}
	return changed
}

// Verdict is what is believed; ResultUnknown while nothing is.
func (t *Tracker) Verdict() spec.Result { return t.verdict }

// Since is when the verdict was reached.
func (t *Tracker) Since() time.Time { return t.since }

// Run is how many equal results there were in a row.
func (t *Tracker) Run() int32 { return t.run }

// Instance is the newest instance's id.
func (t *Tracker) Instance() string { return t.facts.Instance }
