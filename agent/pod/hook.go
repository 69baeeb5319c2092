package pod

import "github.com/musterhq/muster/internal/spec"

// waitsForHook tells whether the newest instance runs and its postStart hook has not ended: until then it has not started, no
// probe of it is asked (rule 5.3.4), and the containers after it wait.
func (c *container) waitsForHook(sc *spec.Container) bool {
	return sc.PostStart != nil && c.running() && c.Instance.ID != "" && c.Hooked != c.Instance.ID
}

// hookFailed tells whether the newest instance runs and its postStart hook has failed.
func (c *container) hookFailed() bool {
	return c.running() && c.HookFailed && c.Hooked == c.Instance.ID
}

// planHooks has the postStart hooks done of instances that have started. After a restart of the agent one that was under way
// is done again: whether it ended is not known.
func (m *Machine) planHooks(w *Wanted, plan *Plan) {
	for _, sc := range w.Pod.Spec.AllContainers() {
		c := m.containers[sc.Name]
		if c != nil && c.waitsForHook(sc) && c.stopping != c.Instance.ID && !m.pending(RunPostStart, sc.Name) {
			m.act(plan, Action{Kind: RunPostStart, Container: sc.Name, ID: c.Instance.ID})
		}
	}
}

// hooked takes in how a postStart hook ended. One of an instance that is ending anyway, or has been replaced, says nothing.
func (m *Machine) hooked(w *Wanted, c *container, a Action, r Result) {
	if c.Instance == nil || c.Instance.ID != a.ID {
		return
	}
	c.Hooked = a.ID
	if r.Failure == None || c.stopping == a.ID || w.stopping() {
		return
	}
	// Why is left out, as the kubelet does: a server's words may hold secrets.
	m.event(spec.EventWarning, "FailedPostStartHook", "PostStartHook failed", a.Container)
	c.HookFailed = true
}
