package pod

import (
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// Asked is something that the machine wants to keep of an instance and that others know: answer with Keep.
type Asked struct {
	Container, Instance string
	// Probe asks for its last attempts; 0 asks for the memory that the instance was last seen with.
	Probe spec.ProbeKind
}

// Stop is how an instance was asked to end.
type Stop struct {
	// Instance is its id.
	Instance string
	Probe    spec.ProbeKind
	Hook     bool
	Why      string
	Time     time.Time
	Grace    time.Duration
	Attempts []spec.Attempt
}

// asks notes that an instance was asked to end, and what led to it. A grace that is shortened is noted, the first reason stays.
func (c *container) asks(now time.Time, g time.Duration, why string, probe spec.ProbeKind) (first bool) {
	if c.Stop != nil && c.Stop.Instance == c.Instance.ID {
		c.Stop.Grace = now.Add(g).Sub(c.Stop.Time)
		return false
	}
	c.Stop = &Stop{Instance: c.Instance.ID, Probe: probe, Hook: c.hookFailed(), Why: why, Time: wall(now), Grace: g}
	return true
}

// ends keeps how an instance has ended.
func (c *container) ends(in *Instance) {
	if n := len(c.Ends); n > 0 && c.Ends[n-1].Attempt >= in.Attempt {
		return
	}
	end := spec.InstanceEnd{Terminated: *terminated(in), Attempt: in.Attempt}
	if s := c.Stop; s != nil && s.Instance == in.ID {
		end.Probe, end.HookFailed, end.Why, end.StopTime, end.Grace, end.Attempts = s.Probe, s.Hook, s.Why, s.Time, s.Grace, s.Attempts
	}
	c.Stop, c.owesMemory = nil, in.Reason == reasonOOMKilled
	// A new array: Memory may have given the old one away.
	c.Ends = append(append([]spec.InstanceEnd(nil), c.Ends[max(0, len(c.Ends)-spec.KeptEnds+1):]...), end)
}

// Keep answers Asked: the attempts of the instance that was asked for, oldest first, of which the newest are kept; or its memory.
func (m *Machine) Keep(a Asked, attempts []spec.Attempt, memory int64, at time.Time) {
	c := m.containers[a.Container]
	if c == nil {
		return
	}
	if a.Probe != 0 {
		if c.Stop != nil && c.Stop.Instance == a.Instance {
			s := *c.Stop
			s.Attempts = attempts[max(0, len(attempts)-spec.KeptEndAttempts):]
			c.Stop = &s
		}
		return
	}
	if n := len(c.Ends); n > 0 && c.Ends[n-1].ID == a.Instance && memory > 0 {
		c.Ends = append([]spec.InstanceEnd(nil), c.Ends...)
		c.Ends[n-1].MemoryBytes, c.Ends[n-1].MemoryTime = memory, wall(at)
	}
}

// askMemory asks for the memory of instances that were killed for want of it.
func (m *Machine) askMemory(plan *Plan) {
	for name, c := range m.containers {
		if c.owesMemory {
			c.owesMemory = false
			plan.Asked = append(plan.Asked, Asked{Container: name, Instance: c.Ends[len(c.Ends)-1].ID})
		}
	}
}

// reasonOOMKilled is the runtime's word for an instance that took more memory than it may.
const reasonOOMKilled = "OOMKilled"

// Evidence is what is kept of a container at a moment; nil for one that there is not.
func (m *Machine) Evidence(now time.Time, name string) *spec.ContainerEvidence {
	c := m.containers[name]
	if c == nil {
		return nil
	}
	e := &spec.ContainerEvidence{Container: name, Ends: c.Ends, Backoff: c.Backoff.Delay}
	if c.running() && now.Sub(c.Backoff.Stamp) > BackoffReset {
		e.Backoff = 0
	}
	if c.Instance != nil && !c.Instance.Running {
		if w := c.Backoff.wait(now, c.end(now), c.next()); w > 0 {
			e.RestartTime = wall(now.Add(w))
		}
	}
	return e
}

// DropAttempts gives up the attempts that are kept with ends, for a record that would become too large.
func (m *Memory) DropAttempts() {
	for name, cm := range m.Containers {
		ends := append([]spec.InstanceEnd(nil), cm.Ends...)
		for i := range ends {
			ends[i].Attempts = nil
		}
		cm.Ends = ends
		if cm.Stop != nil {
			s := *cm.Stop
			s.Attempts = nil
			cm.Stop = &s
		}
		m.Containers[name] = cm
	}
}
