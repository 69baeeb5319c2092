package story

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// lagMatters is how late an attempt may begin before it is said; a twentieth of its time-out counts too.
const lagMatters = 20 * time.Millisecond

func attemptText(p *spec.Probe, a *spec.ProbeAttempt) string {
	kind, output := a.ID.Kind.String(), strings.TrimSpace(a.Output)
	if output != "" {
		output = ": " + output
	}
	late := a.Lag >= lagMatters || p != nil && a.Lag > 0 && a.Lag >= p.Timeout/20
	text := ""
	switch a.Outcome {
	case spec.OutcomeInconclusive:
		return fmt.Sprintf("%s probe got no answer in %s, but the agent was %s late: the result did not count", kind, long(a.Duration), long(max(a.Lag, 0)))
	case spec.OutcomeErrored:
		return kind + " probe could not be asked" + output
	case spec.OutcomeFailure:
		text = kind + " probe failed" + output
	case spec.OutcomeWarning:
		text = kind + " probe succeeded with a warning" + output
	default:
		text = kind + " probe succeeded" + output
	}
	text += fmt.Sprintf(" (took %s", long(a.Duration))
	if late {
		text += fmt.Sprintf("; the agent was %s late", long(a.Lag))
	}
	return text + ")"
}

// failures counts the failures in a row at the end; what did not count does not break the row.
func failures(results []spec.ProbeAttempt) (n int) {
	for _, r := range slices.Backward(results) {
		switch r.Result {
		case spec.ResultFailure:
			n++
		case spec.ResultSuccess:
			return n
		}
	}
	return n
}

// rule is the number of failures that make a verdict, and when it is asked.
func rule(p *spec.Probe) string {
	return fmt.Sprintf("%s in a row, asked every %s with a time-out of %s,", times(int(max(p.FailureThreshold, 1)), "failure"), long(p.Period), long(p.Timeout))
}

func times(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if strings.HasSuffix(what, "s") {
		return fmt.Sprintf("%d %ses", n, what)
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func startedText(attempt int32) string {
	if attempt == 0 {
		return "started"
	}
	return fmt.Sprintf("started (restart %d)", attempt)
}

// long is a duration with about three digits.
func long(d time.Duration) string {
	switch {
	case d < 0:
		d = 0
	case d >= time.Minute:
		d = d.Round(time.Second)
	case d >= time.Second:
		d = d.Round(10 * time.Millisecond)
	case d >= time.Millisecond:
		d = d.Round(10 * time.Microsecond)
	default:
		d = d.Round(time.Microsecond)
	}
	return d.String()
}

func bytesText(n int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"Gi", 1 << 30}, {"Mi", 1 << 20}, {"Ki", 1 << 10}} {
		if n >= u.size {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/float64(u.size)), ".0") + u.name
		}
	}
	return fmt.Sprint(n)
}

// causeText says why a pod left its node.
func causeText(m *spec.Failover) string {
	switch m.Cause {
	case string(spec.VerdictLost):
		return "node " + m.From + " was lost"
	case string(spec.VerdictAgentDown):
		return "the agent of node " + m.From + " was down for longer than its grace"
	case "drain":
		return "node " + m.From + " was drained"
	case "move":
		return "somebody asked for it"
	case "taint":
		return "a taint keeps it off node " + m.From
	}
	return m.Cause
}

func (t *teller) lastMove() *spec.Failover {
	if n := len(t.Moves); n > 0 {
		return &t.Moves[n-1]
	}
	return nil
}

// move tells a move, phase by phase.
func (t *teller) move(m *spec.Failover) {
	first := "node " + m.From + " was last heard of"
	if m.Cause != string(spec.VerdictLost) && m.Cause != string(spec.VerdictAgentDown) {
		first = "it was to leave node " + m.From + ": " + causeText(m)
	}
	t.step(Step{Time: m.Time, Kind: Standing, Text: first})
	at, ph := m.Time, &m.Phases
	for _, p := range []struct {
		name string
		took time.Duration
		text string
	}{
		{"detect", ph.Detect, "node " + m.From + " stopped being Ready"},
		{"confirm", ph.Confirm, "its pods could leave: " + causeText(m)},
		{"fence", ph.Fence, fenceText(m)},
		{"place", ph.Place, "bound to node " + cmp.Or(m.To, "<none>")},
		{"deliver", ph.Deliver, "the agent of node " + m.To + " had it"},
		{"start", ph.Start, "its containers ran there"},
		{"ready", ph.Ready, "ready there"},
	} {
		if p.took < 0 {
			continue
		}
		at = at.Add(p.took)
		t.step(Step{Time: at, Kind: Phase, Phase: p.name, Duration: p.took, Text: fmt.Sprintf("%s (%s %s)", p.text, p.name, long(p.took))})
	}
}

func fenceText(m *spec.Failover) string {
	if m.Class == spec.Fast {
		return "its class is fast: nothing to wait for"
	}
	return "its old instance was certainly dead"
}
