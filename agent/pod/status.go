package pod

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// describe makes the status from what is known now.
func (m *Machine) describe(now time.Time, w *Wanted, s *Seen) spec.PodStatus {
	st := spec.PodStatus{Phase: m.status.Phase, Reason: m.status.Reason, Message: m.status.Message, HostIP: w.HostIP,
		PodIP: m.status.PodIP, StartTime: m.status.StartTime, Fence: m.status.Fence}
	if s.Exists {
		st.PodIP, st.Fence = s.IP, s.Fence
	}
	for _, sc := range w.Pod.Spec.AllContainers() {
		c := m.containers[sc.Name]
		switch {
		case c == nil:
		case c.role == regular:
			st.Containers = append(st.Containers, m.containerStatus(now, w, sc, c))
		default:
			st.InitContainers = append(st.InitContainers, m.containerStatus(now, w, sc, c))
		}
	}
	st.Phase = m.phase(w, s)
	if m.evicted != "" && st.Phase == spec.PhaseFailed {
		st.Reason, st.Message = ReasonEvicted, m.evicted
	}
	m.conditions(now, w, s, &st)
	return st
}

func (m *Machine) containerStatus(now time.Time, w *Wanted, sc *spec.Container, c *container) spec.ContainerStatus {
	st := spec.ContainerStatus{Name: sc.Name, Image: sc.Image, Restarts: c.First, Started: c.started(sc), Ready: c.ready(sc)}
	waiting := c.trouble
	if c.Instance == nil {
		if waiting.Reason == "" {
			waiting.Reason = "ContainerCreating"
			if len(w.Pod.Spec.InitContainers) > 0 {
				waiting.Reason = "PodInitializing"
			}
		}
		if m.fenced || m.unassigned {
			waiting = waitsForAssignment()
		}
		st.State.Waiting = &waiting
		return st
	}
	st.ID, st.Restarts = c.Instance.ID, c.Instance.Attempt
	if c.Last != nil {
		st.Last.Terminated = c.Last
	}
	if c.running() {
		st.State.Running = &spec.Running{StartedAt: c.Instance.StartedAt}
		return st
	}
	end := terminated(c.Instance)
	again := c.again(w, sc) && !m.status.Phase.Final()
	delay := c.Backoff.Delay
	switch {
	case m.stopped || !again && !c.expired():
		waiting = spec.Waiting{}
	case m.fenced || c.expired():
		waiting = waitsForAssignment()
	case !c.due && c.failed():
		if c.Backoff.wait(now, c.end(now), c.next()) > 0 {
			waiting = spec.Waiting{Reason: "CrashLoopBackOff",
				Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", delay, sc.Name, podText(w.Pod))}
		}
	}
	if waiting.Reason == "" && again && c.reset() {
		waiting = spec.Waiting{Reason: reasonRestartingAll, Message: restartingAllText}
	}
	if waiting.Reason == "" {
		st.State.Terminated = end
		return st
	}
	st.State.Waiting, st.Last.Terminated = &waiting, end
	return st
}

func waitsForAssignment() spec.Waiting {
	return spec.Waiting{Reason: ReasonLeaseExpired, Message: "waits for a coordinator to assign the pod anew"}
}

func terminated(in *Instance) *spec.Terminated {
	return &spec.Terminated{ExitCode: in.ExitCode, Signal: in.Signal, Reason: in.Reason, Message: in.Message,
		StartedAt: in.StartedAt, FinishedAt: in.FinishedAt, ID: in.ID}
}

// phase is rules 7.7 and 7.8. A pod that is stopped without being deleted keeps its phase: it goes on elsewhere.
// A pod whose end is certain keeps its phase until the last sidecar is gone: what is final has no process left.
func (m *Machine) phase(w *Wanted, s *Seen) spec.Phase {
	if m.status.Phase.Final() {
		return m.status.Phase
	}
	if w.stopping() {
		switch {
		case m.stopped && w.Pod.Deleting():
			if m.allExitedZero() {
				return spec.PhaseSucceeded
			}
			return spec.PhaseFailed
		case m.status.Phase == "":
			return spec.PhasePending
		}
		return m.status.Phase
	}
	over, running := m.over(w), m.pending(StartContainer, "")
	for _, c := range m.containers {
		running = running || c.running()
	}
	switch {
	case m.evicted != "" && !running:
		return spec.PhaseFailed
	case m.evicted != "":
		return cmp.Or(m.status.Phase, spec.PhasePending)
	case over && running:
		return cmp.Or(m.status.Phase, spec.PhasePending)
	case m.initFailed(w):
		return spec.PhaseFailed
	case !over && len(m.incomplete(w, s)) > 0:
		return spec.PhasePending
	}
	for i := range w.Pod.Spec.Containers {
		if c := m.containers[w.Pod.Spec.Containers[i].Name]; c != nil && c.Instance == nil {
			return spec.PhasePending
		}
	}
	switch {
	case !over:
		return spec.PhaseRunning
	case m.allExitedZero():
		return spec.PhaseSucceeded
	}
	return spec.PhaseFailed
}

func (m *Machine) allExitedZero() bool {
	for _, c := range m.containers {
		if c.role != regular {
			continue
		}
		if c.Instance == nil || c.Instance.Running || c.Instance.ExitCode != 0 {
			return false
		}
	}
	return true
}

// conditions is rules 7.3 to 7.6.
func (m *Machine) conditions(now time.Time, w *Wanted, s *Seen, st *spec.PodStatus) {
	set := func(kind string, status spec.Truth, reason, message string) {
		c := spec.Condition{Type: kind, Status: status, Reason: reason, Message: message, TransitionTime: wall(now)}
		if old := m.status.Condition(kind); old != nil && old.Status == status {
			c.TransitionTime = old.TransitionTime
		}
		st.Conditions = append(st.Conditions, c)
	}
	set(spec.ConditionPodScheduled, spec.ConditionTrue, "", "")
	if s.Exists && !s.Dead {
		set(spec.ConditionPodReadyToStart, spec.ConditionTrue, "", "")
	} else {
		set(spec.ConditionPodReadyToStart, spec.ConditionFalse, "PodSandboxNotReady", "")
	}
	old := m.status.Condition(spec.ConditionInitialized)
	switch incomplete := m.incomplete(w, s); {
	case st.Phase == spec.PhaseSucceeded:
		set(spec.ConditionInitialized, spec.ConditionTrue, "PodCompleted", "")
	case old != nil && (st.Phase.Final() || w.stopping()): // what is being taken away undoes nothing
		set(spec.ConditionInitialized, old.Status, old.Reason, old.Message)
	case old != nil && old.Status == spec.ConditionTrue && m.resets(): // and what starts anew stays initialized
		set(spec.ConditionInitialized, old.Status, old.Reason, old.Message)
	case len(incomplete) > 0:
		set(spec.ConditionInitialized, spec.ConditionFalse, "ContainersNotInitialized",
			fmt.Sprintf("containers with incomplete status: [%s]", strings.Join(incomplete, " ")))
	default:
		set(spec.ConditionInitialized, spec.ConditionTrue, "", "")
	}

	status, reason, message := spec.ConditionTrue, "", ""
	var unready []string
	for i := range st.InitContainers {
		if c := &st.InitContainers[i]; !c.Ready && m.containers[c.Name].role == sidecar {
			unready = append(unready, c.Name)
		}
	}
	for i := range st.Containers {
		if !st.Containers[i].Ready {
			unready = append(unready, st.Containers[i].Name)
		}
	}
	switch {
	case st.Phase.Final():
		status, reason = spec.ConditionFalse, podOver[st.Phase]
	case len(unready) > 0:
		status, reason = spec.ConditionFalse, "ContainersNotReady"
		message = fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))
	}
	set(spec.ConditionContainersReady, status, reason, message)
	if status == spec.ConditionTrue {
		if blocked := m.gates(w); len(blocked) > 0 {
			status, reason, message = spec.ConditionFalse, "ReadinessGatesNotReady", strings.Join(blocked, ", ")
		}
	}
	set(spec.ConditionReady, status, reason, message)

	if slices.ContainsFunc(w.Pod.Spec.AllContainers(), hasResetRule) {
		if m.resetting {
			set("AllContainersRestarting", spec.ConditionTrue, "RestartAllContainersStarted", "container exited with restart policy rule")
		} else {
			set("AllContainersRestarting", spec.ConditionFalse, podOver[st.Phase], "")
		}
	}

	own := len(st.Conditions)
	if errored := m.errored(w); errored != "" {
		set(spec.ConditionProbeErrored, spec.ConditionTrue, "ProbeErrored", errored)
	} else if m.status.Condition(spec.ConditionProbeErrored) != nil {
		set(spec.ConditionProbeErrored, spec.ConditionFalse, "", "")
	}
	if m.heldIsTold() {
		reason, text := heldText(w)
		set(spec.ConditionRestartHeld, spec.ConditionTrue, reason, text)
	} else if m.status.Condition(spec.ConditionRestartHeld) != nil && !m.heldBefore(w) {
		set(spec.ConditionRestartHeld, spec.ConditionFalse, "", "")
	}
	for _, c := range m.status.Conditions { // those of others stay
		if st.Condition(c.Type) == nil {
			st.Conditions = append(st.Conditions, c)
		}
	}
	slices.SortFunc(st.Conditions[own:], func(a, b spec.Condition) int { return cmp.Compare(a.Type, b.Type) })
}

// podOver are the reasons of conditions of a pod that has ended.
var podOver = map[spec.Phase]string{spec.PhaseSucceeded: "PodCompleted", spec.PhaseFailed: "PodFailed"}

// gates is rule 7.4.
func (m *Machine) gates(w *Wanted) []string {
	var blocked []string
	for _, gate := range w.Pod.Spec.ReadinessGates {
		switch c := m.status.Condition(gate); {
		case c == nil:
			blocked = append(blocked, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate))
		case c.Status != spec.ConditionTrue:
			blocked = append(blocked, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %s", gate, c.Status))
		}
	}
	return blocked
}

// errored says which probes of running containers could not be attempted the last time.
func (m *Machine) errored(w *Wanted) string {
	var all []string
	for _, sc := range w.Pod.Spec.AllContainers() {
		name := sc.Name
		c := m.containers[name]
		if c == nil || !c.running() {
			continue
		}
		for _, kind := range spec.ProbeKinds {
			if e := c.verdicts[kind].errored; e != "" {
				all = append(all, fmt.Sprintf("%s probe of container %s: %s", kind.Title(), name, e))
			}
		}
	}
	return cut(strings.Join(all, "; "))
}
