package pod

import (
	"slices"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// done tells whether a plain init container has completed in the sandbox that is there: a new sandbox is initialized anew.
func (c *container) done(s *Seen) bool {
	return c.Instance != nil && !c.Instance.Running && c.Instance.ExitCode == 0 && c.in(s) && !c.reset()
}

// in tells whether the newest instance is, or was, in the sandbox that is there.
func (c *container) in(s *Seen) bool {
	return c.Instance != nil && s.Exists && !s.Dead && c.Sandbox.Equal(wall(s.CreatedAt))
}

// begun tells whether a regular container has been started in the sandbox that is there: from then on the pod is
// initialized, and a sidecar that restarts holds nothing back.
func (m *Machine) begun(w *Wanted, s *Seen) bool {
	return slices.ContainsFunc(w.Pod.Spec.Containers, func(sc spec.Container) bool {
		c := m.containers[sc.Name]
		return c != nil && c.in(s) && !c.reset()
	})
}

// incomplete names the init containers that still hold the regular ones back (rules 7.3 and 9.1).
func (m *Machine) incomplete(w *Wanted, s *Seen) []string {
	if m.begun(w, s) {
		return nil
	}
	var names []string
	for i := range w.Pod.Spec.InitContainers {
		sc := &w.Pod.Spec.InitContainers[i]
		c := m.containers[sc.Name]
		if c != nil && !c.done(s) && (c.role == initial || !c.started(sc)) {
			names = append(names, sc.Name)
		}
	}
	return names
}

// initFailed tells whether an init container has failed for good (rule 9.4).
func (m *Machine) initFailed(w *Wanted) bool {
	for i := range w.Pod.Spec.InitContainers {
		sc := &w.Pod.Spec.InitContainers[i]
		c := m.containers[sc.Name]
		if c != nil && c.role == initial && c.Instance != nil && !c.Instance.Running && c.Instance.ExitCode != 0 && !c.again(w, sc) {
			return true
		}
	}
	return false
}

// over tells whether no regular container runs or ever will again: the sidecars end then (rule 9.3).
func (m *Machine) over(w *Wanted) bool {
	if m.initFailed(w) {
		return true
	}
	return !slices.ContainsFunc(w.Pod.Spec.Containers, func(sc spec.Container) bool {
		c := m.containers[sc.Name]
		return c != nil && (c.running() || c.again(w, &sc))
	})
}

// markEnding tells the sidecars whether they are still of use.
func (m *Machine) markEnding(w *Wanted) {
	over := m.over(w)
	for _, c := range m.containers {
		c.ending = over && c.role == sidecar
	}
}

// due are the containers to start now, in the order of the spec. Those that must wait are announced.
func (m *Machine) due(now time.Time, w *Wanted, s *Seen, plan *Plan) (due []*spec.Container) {
	want := func(sc *spec.Container, c *container) {
		if c.failed() {
			if wait := c.Backoff.wait(now, c.end(now), c.next()); wait > 0 {
				if c.told != c.next() {
					c.told = c.next()
					m.event(spec.EventWarning, "BackOff", "Back-off restarting failed container "+sc.Name+" in pod "+podText(w.Pod), sc.Name)
				}
				plan.recheck(now.Add(wait))
				return
			}
		}
		c.due = true
		due = append(due, sc)
	}
	begun := m.begun(w, s)
	for _, sc := range w.Pod.Spec.AllContainers() {
		c := m.containers[sc.Name]
		if c == nil {
			continue
		}
		if c.waitsForHook(sc) && c.stopping != c.Instance.ID {
			return due
		}
		switch c.role {
		case initial:
			if begun || c.done(s) {
				continue
			}
			if !c.running() {
				want(sc, c)
			}
			return due
		case sidecar:
			if !c.running() {
				want(sc, c)
			}
			if !begun && !c.started(sc) {
				return due
			}
		case regular:
			if !c.running() && c.again(w, sc) {
				want(sc, c)
			}
		}
	}
	return due
}

// failed tells whether the newest instance ended in a way that makes the next one wait. The lease's doing is no exit, nor is
// what another container's exit has brought about, and an init container that completed runs again only because its sandbox
// was lost.
func (c *container) failed() bool {
	return c.Instance != nil && !c.expired() && (!c.reset() || c.Resetter) && (c.role != initial || c.Instance.ExitCode != 0)
}

// stopSidecar stops the last sidecar that runs: they end one by one in the reverse of their order, within what is left of
// the pod's grace, and each has the least grace in any case (rule 10.4). It returns that one, nil when none runs.
func (m *Machine) stopSidecar(now time.Time, w *Wanted, plan *Plan) *container {
	for _, sc := range slices.Backward(w.Pod.Spec.AllContainers()) {
		c := m.containers[sc.Name]
		if c == nil || c.role == regular || !c.running() {
			continue
		}
		if w.Stop && !w.Pod.Deleting() {
			c.Owed = c.Instance.ID
		}
		m.stop(now, w, sc, c, 0, max(grace(w, sc, 0)-now.Sub(m.stopSince), MinGrace), "Stopping container "+sc.Name, plan)
		return c
	}
	return nil
}
