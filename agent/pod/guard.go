package pod

import (
	"fmt"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// heldTold is how long a restart waits before anybody is told: mostly a coordinator answers at once.
const heldTold = time.Second

// Guard is how the restart guard of the pod's owner stands; see coordinator/restartguard. The zero Guard is off: liveness
// restarts at once.
type Guard struct {
	On bool
	// Allowed: liveness may restart without asking.
	Allowed bool
	// Holding: too many pods of the owner fail.
	Holding bool
}

// Restarts is what there is to say to the guard.
type Restarts struct {
	// Held is the time since when a restart waits; zero when none does.
	Held time.Time
	// Last is when liveness restarted a container of the pod last while the guard was on; zero for never.
	Last time.Time
	// Live: the liveness of each container that was restarted has succeeded since.
	Live bool
}

// Restarts says how the pod stands with its restarts as of the last decision.
func (m *Machine) Restarts() Restarts {
	r := Restarts{Live: true}
	for _, c := range m.containers {
		if !c.heldSince.IsZero() && (r.Held.IsZero() || c.heldSince.Before(r.Held)) {
			r.Held = c.heldSince
		}
		if c.LivenessKill.IsZero() {
			continue
		}
		at := c.killed
		if at.IsZero() { // before the agent's start
			at = c.LivenessKill
		}
		if at.After(r.Last) {
			r.Last = at
		}
		r.Live = r.Live && c.Lived
	}
	return r
}

// holds tells whether the restart of a container whose liveness fails has to wait.
func (m *Machine) holds(now time.Time, w *Wanted, sc *spec.Container, c *container, plan *Plan) bool {
	if !w.Guard.On || w.Guard.Allowed || c.stopping == c.Instance.ID {
		return false
	}
	c.stillHeld = true
	if c.heldSince.IsZero() {
		c.heldSince = now
	}
	if told := c.heldSince.Add(heldTold); now.Before(told) {
		plan.recheck(told)
	} else if !c.heldTold {
		c.heldTold = true
		_, text := heldText(w)
		m.event(spec.EventWarning, ReasonRestartHeld, fmt.Sprintf("Container %s failed liveness probe, its restart is held: %s", sc.Name, text), sc.Name)
	}
	return true
}

// killedByLiveness notes a restart that the guard counts.
func (c *container) killedByLiveness(now time.Time, w *Wanted) {
	if w.Guard.On && c.stopping != c.Instance.ID {
		c.killed, c.LivenessKill, c.Lived = now, wall(now), false
	}
}

// letGo forgets which restarts waited, but for those that still do.
func (m *Machine) letGo() {
	for _, c := range m.containers {
		if !c.stillHeld {
			c.heldSince, c.heldTold = time.Time{}, false
		}
		c.stillHeld = false
	}
}

func heldText(w *Wanted) (reason, text string) {
	owner := "its owner"
	if o := w.Pod.Owner; o != nil {
		owner = "deployment " + o.Name
	}
	if w.Guard.Holding {
		return "TooManyFail", "too many pods of " + owner + " fail at once"
	}
	return "NotAllowed", "the coordinator has not allowed it"
}

// heldBefore tells whether a restart may have waited before this agent's start, of which its probe has not said anything yet:
// then what was told stays.
func (m *Machine) heldBefore(w *Wanted) bool {
	for _, sc := range w.Pod.Spec.AllContainers() {
		c := m.containers[sc.Name]
		if c != nil && sc.Liveness != nil && c.running() && c.kept.ID == c.Instance.ID && c.verdicts[spec.Liveness].result == spec.ResultUnknown {
			return true
		}
	}
	return false
}

// heldIsTold tells whether anybody was told of a restart that waits.
func (m *Machine) heldIsTold() bool {
	for _, c := range m.containers {
		if c.heldTold {
			return true
		}
	}
	return false
}
