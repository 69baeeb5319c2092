package story

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

type teller struct {
	*Facts
	s Story
}

func (t *teller) about(k Kind, since time.Time, summary string) {
	t.s.Kind, t.s.Since, t.s.Summary = k, since, summary
}

func (t *teller) step(s Step) { t.s.Steps = append(t.s.Steps, s) }

func (t *teller) note(format string, args ...any) {
	t.s.Notes = append(t.s.Notes, fmt.Sprintf(format, args...))
}

// containers are those that the story is about, in the order of the spec.
func (t *teller) containers() []*spec.Container {
	return slices.DeleteFunc(t.Pod.Spec.AllContainers(), func(c *spec.Container) bool { return t.Container != "" && c.Name != t.Container })
}

func (t *teller) evidence(name string) *spec.ContainerEvidence {
	for i := range t.Evidence {
		if t.Evidence[i].Container == name {
			return &t.Evidence[i]
		}
	}
	return &spec.ContainerEvidence{Container: name}
}

// ends are those of a container, oldest first: as its agent kept them, else the ones that its status has.
func (t *teller) ends(name string) []spec.InstanceEnd {
	if e := t.evidence(name); len(e.Ends) > 0 {
		return e.Ends
	}
	st := t.Status.Container(name)
	if st == nil {
		return nil
	}
	var ends []spec.InstanceEnd
	last := st.Restarts - 1
	if st.State.Running == nil && st.State.Terminated == nil {
		last = st.Restarts // it waits: the newest instance is the one that has ended
	}
	if st.Last.Terminated != nil {
		ends = append(ends, spec.InstanceEnd{Terminated: *st.Last.Terminated, Attempt: max(last, 0)})
	}
	if st.State.Terminated != nil {
		ends = append(ends, spec.InstanceEnd{Terminated: *st.State.Terminated, Attempt: st.Restarts})
	}
	return ends
}

// lastEnd is the newest end of a container, of those that end by design but for failures.
func (t *teller) lastEnd() (c *spec.Container, last *spec.InstanceEnd) {
	for _, sc := range t.containers() {
		ends := t.ends(sc.Name)
		if len(ends) == 0 {
			continue
		}
		e := &ends[len(ends)-1]
		if t.initial(sc) && e.ExitCode == 0 {
			continue
		}
		if last == nil || e.FinishedAt.After(last.FinishedAt) {
			c, last = sc, e
		}
	}
	return c, last
}

// initial tells whether a container is one that runs to its end before the next starts.
func (t *teller) initial(sc *spec.Container) bool {
	for i := range t.Pod.Spec.InitContainers {
		if c := &t.Pod.Spec.InitContainers[i]; c.Name == sc.Name {
			return !c.Sidecar()
		}
	}
	return false
}

// trouble tells of the first container that is not well, or of the gates; false when all is well.
func (t *teller) trouble() bool {
	for _, sc := range t.containers() {
		st := t.Status.Container(sc.Name)
		if st == nil {
			st = &spec.ContainerStatus{Name: sc.Name}
		}
		ends := t.ends(sc.Name)
		var last *spec.InstanceEnd
		if len(ends) > 0 {
			last = &ends[len(ends)-1]
		}
		w := st.State.Waiting
		switch {
		case st.Ready && st.State.Terminated == nil, t.initial(sc) && st.State.Terminated != nil && st.State.Terminated.ExitCode == 0:
		case st.State.Terminated != nil && last != nil:
			t.ended(sc, last)
			return true
		case st.State.Running == nil && last != nil && (w == nil || w.Reason == last.Reason || slices.Contains(patience, w.Reason)):
			t.ended(sc, last)
			t.again(sc)
			return true
		case st.State.Running == nil:
			t.starting(sc, w)
			return true
		case last != nil && t.Now.Sub(st.State.Running.StartedAt) < time.Minute:
			t.ended(sc, last)
			t.again(sc)
			return true
		case !st.Started:
			t.notStarted(sc, st)
			return true
		default:
			t.unready(sc, st)
			return true
		}
	}
	if c := t.Status.Condition(spec.ConditionReady); c != nil && c.Status != spec.ConditionTrue && t.Container == "" {
		t.about(Unready, c.TransitionTime, "the pod is not ready: "+cmp.Or(c.Message, c.Reason, "its agent has not said why"))
		t.step(Step{Time: c.TransitionTime, Kind: Standing, Text: "not ready: " + cmp.Or(c.Message, c.Reason)})
		return true
	}
	return false
}

// patience are the reasons of containers that only wait for their turn; others say what is wrong.
var patience = []string{"CrashLoopBackOff", "ContainerCreating", "PodInitializing", "LeaseExpired"}

func (t *teller) starting(sc *spec.Container, w *spec.Waiting) {
	why := "its agent has not said anything of it yet"
	if w != nil {
		why = w.Reason
		if w.Message != "" {
			why += ": " + w.Message
		}
	}
	t.about(Starting, t.Status.StartTime, "container "+sc.Name+" is not started: "+why)
	t.step(Step{Time: t.Status.StartTime, Kind: Standing, Text: "node " + t.Node + " took the pod"})
	t.step(Step{Kind: Standing, Container: sc.Name, Text: "waits: " + why})
}

func (t *teller) notStarted(sc *spec.Container, st *spec.ContainerStatus) {
	at := st.State.Running.StartedAt
	t.step(Step{Time: at, Kind: Started, Container: sc.Name, Text: startedText(st.Restarts)})
	results := t.resultsOf(sc, spec.Startup, st.ID)
	if sc.Startup == nil || len(results) == 0 && sc.PostStart != nil {
		t.about(Hook, at, "container "+sc.Name+" has not started: its postStart hook has not ended")
		t.step(Step{Kind: Standing, Container: sc.Name, Text: "its postStart hook has not ended"})
		return
	}
	t.about(Startup, at, "container "+sc.Name+" has not started: its startup probe has not succeeded yet")
	t.results(sc, spec.Startup, st.ID)
	t.step(Step{Kind: Standing, Container: sc.Name, Text: fmt.Sprintf("%s so far: %s have it killed", times(failures(results), "failure"), rule(sc.Startup))})
}

func (t *teller) unready(sc *spec.Container, st *spec.ContainerStatus) {
	since := time.Time{}
	why := "it is not ready"
	if p := t.probe(sc.Name, spec.Readiness); p != nil {
		since = p.Since
		if p.ErroredReason != "" {
			t.note("its readiness probe could not be asked: %s", p.ErroredReason)
		}
	}
	if c := t.Status.Condition(spec.ConditionReady); since.IsZero() && c != nil {
		since = c.TransitionTime
	}
	if since.IsZero() || since.Before(st.State.Running.StartedAt) {
		since = st.State.Running.StartedAt
		t.step(Step{Time: since, Kind: Started, Container: sc.Name, Text: startedText(st.Restarts)})
	}
	if sc.Readiness != nil {
		why = "its readiness probe fails"
		results := t.resultsOf(sc, spec.Readiness, st.ID)
		if len(results) == 0 {
			why = "its readiness probe was not asked yet"
		} else if failures(results) == 0 {
			why = "its readiness probe has not succeeded yet"
		}
		t.results(sc, spec.Readiness, st.ID)
	}
	t.about(Unready, since, "container "+sc.Name+" is not ready: "+why)
	text := "not ready"
	if sc.Readiness != nil {
		text += ": " + rule(sc.Readiness) + " make it unready, " + times(int(max(sc.Readiness.SuccessThreshold, 1)), "success") + " ready again"
	}
	t.step(Step{Time: since, Kind: Standing, Container: sc.Name, Text: text})
	slices.SortStableFunc(t.s.Steps, func(a, b Step) int { return a.Time.Compare(b.Time) })
}

func (t *teller) probe(name string, kind spec.ProbeKind) *spec.ProbeState {
	for i := range t.Probes {
		if p := &t.Probes[i]; p.ID.Container == name && p.ID.Kind == kind {
			return p
		}
	}
	return nil
}

// resultsOf are the newest results of a container's probes: of one kind, or with 0 of all; of one instance, or with "" of any.
func (t *teller) resultsOf(sc *spec.Container, kind spec.ProbeKind, instance string) []spec.ProbeAttempt {
	return slices.DeleteFunc(slices.Clone(t.evidence(sc.Name).Results), func(a spec.ProbeAttempt) bool {
		return kind != 0 && a.ID.Kind != kind || instance != "" && a.Instance != "" && a.Instance != instance
	})
}

func (t *teller) results(sc *spec.Container, kind spec.ProbeKind, instance string) {
	for _, a := range t.resultsOf(sc, kind, instance) {
		t.attempt(sc, a)
	}
}

func (t *teller) attempt(sc *spec.Container, a spec.ProbeAttempt) {
	t.step(Step{Time: a.Start, Kind: Attempt, Container: sc.Name, Text: attemptText(sc.Probe(a.ID.Kind), &a), Attempt: &a})
}

// ended tells how an instance ended, as what the story is about.
func (t *teller) ended(sc *spec.Container, e *spec.InstanceEnd) {
	kind, what := endKind(e)
	t.about(kind, e.FinishedAt, "container "+sc.Name+" "+what)
	ends := t.ends(sc.Name)
	for i := range ends {
		if ends[i].Attempt >= e.Attempt {
			break
		}
		_, what := endKind(&ends[i])
		t.step(Step{Time: ends[i].FinishedAt, Kind: Ended, Container: sc.Name, Text: "earlier: it " + what + exitNote(&ends[i]), Terminated: &ends[i].Terminated})
	}
	t.end(sc, e)
}

// end tells how one instance ended, step by step.
func (t *teller) end(sc *spec.Container, e *spec.InstanceEnd) {
	if !e.StartedAt.IsZero() {
		t.step(Step{Time: e.StartedAt, Kind: Started, Container: sc.Name, Text: startedText(e.Attempt)})
	}
	p := sc.Probe(e.Probe)
	attempts := e.Attempts
	if e.Probe == 0 && !t.FromAgent { // the coordinator does not know what killed it, but has seen its probes fail
		for _, a := range t.resultsOf(sc, 0, "") {
			if a.Start.Before(e.FinishedAt) && a.Result == spec.ResultFailure {
				t.attempt(sc, a)
			}
		}
	}
	for _, a := range attempts {
		t.attempt(sc, spec.ProbeAttempt{ID: spec.ProbeID{PodUID: t.Pod.UID, Container: sc.Name, Kind: e.Probe}, Attempt: a})
	}
	if !e.StopTime.IsZero() {
		why := e.Why
		switch {
		case p != nil:
			why = fmt.Sprintf("its %s probe failed: %s have it killed", e.Probe, rule(p))
		case e.HookFailed:
			why = "its postStart hook failed; the agent's log says why"
		}
		t.step(Step{Time: e.StopTime, Kind: Kill, Container: sc.Name, Duration: e.Grace,
			Text: fmt.Sprintf("asked to end (SIGTERM, and SIGKILL after %s): %s", long(e.Grace), why)})
	}
	if e.Reason == "OOMKilled" && e.MemoryBytes > 0 {
		t.step(Step{Time: e.MemoryTime, Kind: Standing, Container: sc.Name, Text: "was last measured with " + bytesText(e.MemoryBytes) + " of memory in use"})
	}
	t.step(Step{Time: e.FinishedAt, Kind: Ended, Container: sc.Name, Text: t.endText(sc, e), Terminated: &e.Terminated})
	if own := t.ends(sc.Name); e.StopTime.IsZero() && len(own) > 0 && own[len(own)-1].ID == e.ID {
		for line := range strings.Lines(string(t.evidence(sc.Name).Log)) {
			if line = strings.TrimRight(line, "\r\n"); line != "" {
				t.step(Step{Time: e.FinishedAt, Kind: Output, Container: sc.Name, Text: "wrote last: " + line})
			}
		}
	}
}

func (t *teller) endText(sc *spec.Container, e *spec.InstanceEnd) string {
	_, what := endKind(e)
	text := what + exitNote(e)
	if e.Reason == "OOMKilled" {
		text = "the kernel killed it for want of memory" + exitNote(e)
		if limit := sc.Resources.Limits.MemoryBytes; limit > 0 {
			text += "; its limit is " + bytesText(limit)
		}
	}
	if !e.StopTime.IsZero() {
		took := e.FinishedAt.Sub(e.StopTime)
		text = "ended" + exitNote(e)
		if e.Signal == 9 && took >= e.Grace {
			text += fmt.Sprintf(": it did not end by itself within its grace of %s", long(e.Grace))
		} else {
			text += fmt.Sprintf(", %s after it was asked, of a grace of %s", long(took), long(e.Grace))
		}
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// again tells what came after the newest end of a container: that it waits, runs, or is not ready yet.
func (t *teller) again(sc *spec.Container) {
	st, e := t.Status.Container(sc.Name), t.evidence(sc.Name)
	ends := t.ends(sc.Name)
	last := &ends[len(ends)-1]
	if st == nil || st.State.Running == nil {
		switch {
		case !e.RestartTime.IsZero():
			t.s.Summary += " and waits to be started again"
			t.step(Step{Time: e.RestartTime, Kind: Backoff, Container: sc.Name, Duration: e.Backoff, Text: "is to start again, after a back-off of " + long(e.Backoff)})
		case st != nil && st.State.Waiting != nil:
			t.s.Summary += " and waits to be started again"
			t.step(Step{Kind: Backoff, Container: sc.Name, Text: "waits: " + cmp.Or(st.State.Waiting.Message, st.State.Waiting.Reason)})
		}
		return
	}
	started := st.State.Running.StartedAt
	t.s.Summary += " and was started again"
	text := fmt.Sprintf("%s, %s after the end", startedText(st.Restarts), long(started.Sub(last.FinishedAt)))
	if e.Backoff > 0 {
		text += "; the next failure waits " + long(e.Backoff)
	}
	t.step(Step{Time: started, Kind: Started, Container: sc.Name, Text: text})
	if !st.Ready {
		t.s.Summary += ", but is not ready yet"
		kind := spec.Readiness
		if !st.Started {
			kind = spec.Startup
		}
		t.results(sc, kind, st.ID)
	}
}

// endKind is what an end was, and words for it.
func endKind(e *spec.InstanceEnd) (Kind, string) {
	switch {
	case e.Probe == spec.Liveness:
		return Liveness, "was killed by its liveness probe"
	case e.Probe == spec.Startup:
		return Startup, "was killed by its startup probe"
	case e.HookFailed:
		return Hook, "was killed because its postStart hook failed"
	case e.Reason == "OOMKilled":
		return OOMKilled, "took more memory than it may"
	case e.Why != "":
		return Stopped, "was stopped: " + e.Why
	case e.Reason == "LeaseExpired":
		return Stopped, "was stopped: the lease of its node ran out"
	case e.Reason == "SupervisorDied":
		return Stopped, "was stopped: the supervisor of its pod died"
	case e.Reason == "StartError":
		return Crashed, "could not be started"
	case e.Reason == "ContainerStatusUnknown":
		return Stopped, "is gone without a trace"
	case e.Signal != 0:
		return Crashed, "was killed by a signal"
	case e.ExitCode == 0:
		return Crashed, "ended by itself"
	}
	return Crashed, "crashed"
}

func exitNote(e *spec.InstanceEnd) string {
	if e.Signal != 0 {
		return fmt.Sprintf(" (signal %d, exit code %d)", e.Signal, e.ExitCode)
	}
	return fmt.Sprintf(" (exit code %d)", e.ExitCode)
}
