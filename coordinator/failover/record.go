package failover

import (
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// Move is one pod's way from one node to another, with the moments at which its phases ended; zero while one has not.
type Move struct {
	ID       string
	Cause    string
	Class    spec.FailoverClass
	Pod      spec.ObjectName
	UID      string
	From, To string
	Epoch    int64
	// Wall is the time to show: when the node was last heard.
	Wall time.Time
	// Heard is when the node was last heard, Suspected when it stopped being Ready, Judged when its pods could leave as
	// far as the verdict goes, Free when the old instance was certainly dead, Bound when the new binding was written,
	// Delivered when the new node's agent was sent it, Running when its containers ran, Ready when it was ready.
	Heard, Suspected, Judged, Free, Bound, Delivered, Running, Ready time.Duration
}

// Record is what is stored of a move.
func (m *Move) Record() *spec.Failover {
	phase := func(from, to time.Duration) time.Duration {
		if to == 0 || from == 0 {
			return -1
		}
		return max(0, to-from)
	}
	return &spec.Failover{
		ID: m.ID, Cause: m.Cause, Class: m.Class, Pod: m.Pod, PodUID: m.UID, From: m.From, To: m.To, Time: m.Wall, Epoch: m.Epoch,
		Phases: spec.FailoverPhases{
			Detect: phase(m.Heard, m.Suspected), Confirm: phase(m.Suspected, m.Judged), Fence: phase(m.Judged, m.Free),
			Place: phase(m.Free, m.Bound), Deliver: phase(m.Bound, m.Delivered), Start: phase(m.Delivered, m.Running),
			Ready: phase(m.Running, m.Ready),
		},
	}
}

// Span is a phase of a move in time.
type Span struct {
	// Phase is detect, confirm, fence, place, deliver, start or ready.
	Phase      string
	Start, End time.Time
	// Reached is false of the phase that was under way when the move was given up.
	Reached bool
}

// Spans are the phases as they were, in their order, without those of which an end is not known. now, and wall beside it,
// is when the move ended: one that did not get ready was given up then, in the phase that followed the last moment known.
func (m *Move) Spans(now time.Duration, wall time.Time) []Span {
	at := func(moment time.Duration) time.Time { return wall.Add(moment - now) }
	moments := [...]time.Duration{m.Heard, m.Suspected, m.Judged, m.Free, m.Bound, m.Delivered, m.Running, m.Ready}
	last := 0
	for i, moment := range moments {
		if moment != 0 {
			last = i
		}
	}
	var spans []Span
	for i, phase := range [...]string{"detect", "confirm", "fence", "place", "deliver", "start", "ready"} {
		from, to := moments[i], moments[i+1]
		switch {
		case from == 0:
		case to != 0:
			spans = append(spans, Span{Phase: phase, Start: at(from), End: at(max(from, to)), Reached: true})
		case i == last:
			spans = append(spans, Span{Phase: phase, Start: at(from), End: at(max(from, now))})
		}
	}
	return spans
}

// Observe takes what is seen of the moved pod under its new epoch, and reports whether a phase has ended. A pod that is
// seen ready was running before that.
func (m *Move) Observe(now time.Duration, held *spec.HeldStatus) bool {
	if held == nil || held.Epoch != m.Epoch || held.UID != m.UID {
		return false
	}
	changed := false
	if m.Running == 0 && running(&held.Status) {
		m.Running, changed = now, true
		if m.Delivered == 0 {
			m.Delivered = now
		}
	}
	if m.Ready == 0 && m.Running != 0 && held.Status.Ready() {
		m.Ready, changed = now, true
	}
	return changed
}

func running(s *spec.PodStatus) bool {
	for i := range s.Containers {
		if s.Containers[i].State.Running == nil {
			return false
		}
	}
	return len(s.Containers) > 0
}
