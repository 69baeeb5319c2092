// Package story tells what led to where a pod stands: its last restart, unreadiness or move. It is pure: facts in, steps out. Who
// gathers the facts is coordinator/api; who prints the steps is internal/cli.
package story

import (
	"slices"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// MaxSteps bounds the steps of a story; of a longer one the oldest are left out.
const MaxSteps = 64

// Facts are what a story is told from.
type Facts struct {
	Now time.Time
	Pod *spec.Pod
	// Node is the node that the pod is bound to, empty for none.
	Node string
	// Status is the one to show.
	Status spec.PodStatus
	// Stop is set while its holder is asked to stop it.
	Stop *spec.Stop
	// Refusal says why the pod fits on no node; of a pod that is bound nowhere.
	Refusal string
	// NodeStatus is what is believed of the node; nil when nothing is.
	NodeStatus *spec.NodeStatus
	// Moves are the pod's, oldest first.
	Moves []spec.Failover
	// Probes are what is believed of its probes.
	Probes []spec.ProbeState
	// Evidence is what is known of its containers: by the agent, or without its Ends, by what the coordinator has.
	Evidence []spec.ContainerEvidence
	// FromAgent: the agent was asked. Otherwise Unasked says why it could not be.
	FromAgent bool
	Unasked   string
	// Container chooses one; empty: all.
	Container string
}

// Kind is what a story is about.
type Kind uint8

// The kinds of stories, as the API's StoryKind has them.
const (
	Healthy Kind = iota + 1
	Pending
	Starting
	Liveness
	Startup
	OOMKilled
	Crashed
	Hook
	Stopped
	Moved
	Unready
	Node
	Deleting
	Finished
)

// StepKind is what a step tells of.
type StepKind uint8

// The kinds of steps, as the API's StoryStepKind has them.
const (
	Started StepKind = iota + 1
	Attempt
	Kill
	Ended
	Output
	Backoff
	Phase
	Standing
	Asked
)

// Story is what led to where a pod stands.
type Story struct {
	Pod  spec.ObjectName
	UID  string
	Node string
	Kind Kind
	// Summary is one sentence without times.
	Summary string
	// Since is when that happened; zero when it is not known.
	Since time.Time
	Steps []Step
	// Notes say what limits the story.
	Notes     []string
	FromAgent bool
	Time      time.Time
}

// Step is one step.
type Step struct {
	// Time is zero where it is not known.
	Time      time.Time
	Kind      StepKind
	Container string
	Text      string
	// Attempt is set for Attempt, Terminated for Ended, Phase for Phase.
	Attempt    *spec.ProbeAttempt
	Terminated *spec.Terminated
	Phase      string
	// Duration is that of a Phase or a Backoff, or the grace of a Kill.
	Duration time.Duration
}

// Tell makes the story.
func Tell(f *Facts) Story {
	t := &teller{Facts: f, s: Story{Pod: f.Pod.Key(), UID: f.Pod.UID, Node: f.Node, FromAgent: f.FromAgent, Time: f.Now}}
	t.tell()
	if n := len(t.s.Steps); n > MaxSteps {
		t.s.Steps = t.s.Steps[n-MaxSteps:]
		t.note("the story has %d more steps before these", n-MaxSteps)
	}
	return t.s
}

func (t *teller) tell() {
	if !t.FromAgent && t.Node != "" {
		t.note("the agent of node %s was not asked: %s; what follows is what the coordinator last had", t.Node, t.Unasked)
	}
	verdict := spec.Verdict("")
	if t.NodeStatus != nil {
		verdict = t.NodeStatus.Verdict
	}
	switch {
	case t.Pod.Deleting():
		t.deleting()
	case t.Node == "":
		t.pending()
	case verdict != "" && verdict != spec.VerdictReady:
		t.node()
	case t.Status.Phase.Final():
		t.finished()
	case t.held():
	case t.trouble():
	default:
		t.past()
	}
}

func (t *teller) deleting() {
	since := t.Pod.DeleteTime
	t.about(Deleting, since, "the pod is being deleted")
	t.step(Step{Time: since, Kind: Asked, Text: "deletion was asked for, with a grace of " + long(t.Pod.DeleteGrace), Duration: t.Pod.DeleteGrace})
	if c, e := t.lastEnd(); e != nil {
		t.end(c, e)
	}
}

func (t *teller) pending() {
	why := t.Refusal
	if why == "" {
		why = "it was not placed yet"
	}
	since := t.Pod.CreateTime
	if m := t.lastMove(); m != nil && m.To == "" {
		since = m.Time
		t.move(m)
	}
	t.about(Pending, since, "the pod is on no node: "+why)
	t.step(Step{Time: since, Kind: Standing, Text: "waits for a node: " + why})
}

func (t *teller) node() {
	n := t.NodeStatus
	what := "node " + t.Node + " is " + string(n.Verdict)
	if n.Cause != "" {
		what += ": " + n.Cause
	}
	t.about(Node, n.Since, what)
	if c, e := t.lastEnd(); e != nil {
		t.end(c, e)
	}
	for _, sc := range t.containers() {
		t.results(sc, 0, "")
	}
	t.step(Step{Time: n.Since, Kind: Standing, Text: what})
	if m := t.lastMove(); m != nil && m.From == t.Node {
		t.move(m)
	}
}

func (t *teller) finished() {
	word := "succeeded"
	if t.Status.Phase == spec.PhaseFailed {
		word = "failed"
	}
	what := "the pod has " + word + " and is not started again"
	if t.Status.Reason != "" {
		what += ": " + t.Status.Reason
	}
	if t.Status.Message != "" {
		what += ": " + t.Status.Message
	}
	t.about(Finished, time.Time{}, what)
	if c, e := t.lastEnd(); e != nil {
		t.s.Since = e.FinishedAt
		t.end(c, e)
	}
}

// held is for a pod whose liveness fails and whose restart is held; false for others.
func (t *teller) held() bool {
	c := t.Status.Condition(spec.ConditionRestartHeld)
	if c == nil || c.Status != spec.ConditionTrue || t.Container != "" {
		return false
	}
	t.about(Liveness, c.TransitionTime, "a liveness probe fails, and the restart is held: "+c.Message)
	for _, sc := range t.containers() {
		if results := t.resultsOf(sc, spec.Liveness, ""); failures(results) > 0 {
			t.results(sc, spec.Liveness, "")
		}
	}
	t.step(Step{Time: c.TransitionTime, Kind: Standing, Text: "the restart is held: " + c.Message})
	slices.SortStableFunc(t.s.Steps, func(a, b Step) int { return a.Time.Compare(b.Time) })
	return true
}

// past is for a pod that is well: the last thing that has happened to it.
func (t *teller) past() {
	m := t.lastMove()
	c, e := t.lastEnd()
	ready := t.Status.Condition(spec.ConditionReady)
	switch {
	case m != nil && m.To == t.Node && (e == nil || e.FinishedAt.Before(m.Time)):
		t.about(Moved, m.Time, "the pod moved from "+m.From+" to "+m.To+": "+causeText(m))
		t.move(m)
	case e != nil:
		t.ended(c, e)
		t.again(c)
	default:
		since := t.Status.StartTime
		if ready != nil && ready.Status == spec.ConditionTrue {
			since = ready.TransitionTime
		}
		t.about(Healthy, since, "nothing has happened to the pod since it became ready")
		for _, sc := range t.containers() {
			if st := t.Status.Container(sc.Name); st != nil && st.State.Running != nil {
				t.step(Step{Time: st.State.Running.StartedAt, Kind: Started, Container: sc.Name, Text: "started"})
			}
		}
		t.step(Step{Time: since, Kind: Standing, Text: "ready"})
	}
}
