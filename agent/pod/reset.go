package pod

import (
	"slices"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// restartsAll tells whether the first rule that an exit code matches restarts all containers of the pod.
func restartsAll(c *spec.Container, exitCode int32) bool {
	for _, r := range c.RestartRules {
		if slices.Contains(r.ExitCodes, exitCode) == r.In {
			return c.RestartPolicy != "" && r.Action == spec.ActionRestartAll
		}
	}
	return false
}

// What is said of containers that end, or wait, because all of their pod restart.
const (
	reasonRestartingAll = "RestartingAllContainers"
	restartingAllText   = "another container's exit restarts all containers of the pod"
)

// reset tells whether the newest instance is done away with: the pod's containers start anew, from the first init container on.
func (c *container) reset() bool { return c.Instance != nil && c.Reset == c.Instance.Attempt+1 }

// resets tells whether any container waits to start anew together with all others.
func (m *Machine) resets() bool {
	for _, c := range m.containers {
		if c.reset() {
			return true
		}
	}
	return false
}

func hasResetRule(c *spec.Container) bool {
	return slices.ContainsFunc(c.RestartRules, func(r spec.RestartRule) bool { return r.Action == spec.ActionRestartAll })
}

// markResets is RestartAllContainers of rule 8.4: an exit that a rule of its container names is the end of all instances that
// the pod has.
func (m *Machine) markResets(w *Wanted) {
	m.resetting = false
	if w.stopping() || m.fenced || m.evicted != "" || m.status.Phase.Final() {
		return
	}
	asked := false
	for _, sc := range w.Pod.Spec.AllContainers() {
		if c := m.containers[sc.Name]; c != nil && c.Instance != nil && !c.Instance.Running && !c.reset() && !c.expired() &&
			restartsAll(sc, c.Instance.ExitCode) {
			asked = true
			if m.pending(StartContainer, "") { // what is being started has to end, too
				continue
			}
			c.Reset, c.Resetter, m.news = c.Instance.Attempt+1, true, true
		}
	}
	if asked && m.pending(StartContainer, "") {
		m.resetting = true
		return
	}
	for _, c := range m.containers {
		if asked && c.Instance != nil && !c.reset() {
			c.Reset, c.Resetter = c.Instance.Attempt+1, false
		}
		m.resetting = m.resetting || c.reset() && c.running()
	}
}

// planResets ends what still runs of a pod whose containers all restart: with no time but the least, and so without hooks.
func (m *Machine) planResets(now time.Time, w *Wanted, plan *Plan) {
	for _, sc := range w.Pod.Spec.AllContainers() {
		if c := m.containers[sc.Name]; c != nil && c.reset() && c.running() {
			c.hookedStop = c.Instance.ID
			m.stop(now, w, sc, c, 0, MinGrace, "killing", plan)
		}
	}
}
