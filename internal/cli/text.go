package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

// now is the time that ages count from.
var now = time.Now

// age is how long ago t was, as tables show it.
func age(t *timestamppb.Timestamp) string {
	if t == nil {
		return "<unknown>"
	}
	return ageText(now().Sub(t.AsTime()))
}

// ageText has at most two units, the coarser the longer it is: 45s, 3m10s, 12m, 5h30m, 3d4h, 40d.
func ageText(d time.Duration) string {
	two := func(n int, unit string, rest int, sub string, both bool) string {
		if both && rest > 0 {
			return fmt.Sprintf("%d%s%d%s", n, unit, rest, sub)
		}
		return fmt.Sprintf("%d%s", n, unit)
	}
	s := int(max(d, 0) / time.Second)
	switch {
	case s < 120:
		return fmt.Sprintf("%ds", s)
	case s < 3*60*60:
		return two(s/60, "m", s%60, "s", s < 10*60)
	case s < 48*60*60:
		return two(s/3600, "h", s%3600/60, "m", s < 8*60*60)
	}
	return two(s/86400, "d", s%86400/3600, "h", s < 8*86400)
}

// shortDuration has about three digits.
func shortDuration(d time.Duration) time.Duration {
	switch {
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	case d > time.Millisecond:
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Microsecond)
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

// oneLine keeps a text from breaking a table or a terminal.
func oneLine(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s))
}

// enumWord turns NODE_VERDICT_AGENT_DOWN with the prefix NODE_VERDICT_ into "agent_down"; "" for the zero value.
func enumWord(name, prefix string) string {
	word := strings.ToLower(strings.TrimPrefix(name, prefix))
	if word == "unspecified" {
		return ""
	}
	return word
}

func probeKindName(k musterv1.ProbeKind) string { return enumWord(k.String(), "PROBE_KIND_") }

func probeOutcome(o musterv1.ProbeOutcome) string { return enumWord(o.String(), "PROBE_OUTCOME_") }

// probeResult is success, failure or unknown.
func probeResult(r musterv1.ProbeResult) string {
	if w := enumWord(r.String(), "PROBE_RESULT_"); w != "" {
		return w
	}
	return "unknown"
}

func failoverClass(c musterv1.FailoverClass) string {
	return orNone(enumWord(c.String(), "FAILOVER_CLASS_"))
}

func leaseState(s musterv1.LeaseState) string { return orNone(enumWord(s.String(), "LEASE_STATE_")) }

func nodeVerdict(v musterv1.NodeVerdict) string {
	switch v {
	case musterv1.NodeVerdict_NODE_VERDICT_READY:
		return "Ready"
	case musterv1.NodeVerdict_NODE_VERDICT_UNREACHABLE:
		return "Unreachable"
	case musterv1.NodeVerdict_NODE_VERDICT_AGENT_DOWN:
		return "AgentDown"
	case musterv1.NodeVerdict_NODE_VERDICT_LOST:
		return "Lost"
	}
	return "Unknown"
}

func podPhase(p musterv1.PodPhase) string {
	word := enumWord(p.String(), "POD_PHASE_")
	if word == "" {
		return "Pending" // no holder has said anything yet
	}
	return strings.ToUpper(word[:1]) + word[1:]
}

func restartPolicy(p musterv1.RestartPolicy) string {
	switch p {
	case musterv1.RestartPolicy_RESTART_POLICY_ON_FAILURE:
		return "OnFailure"
	case musterv1.RestartPolicy_RESTART_POLICY_NEVER:
		return "Never"
	}
	return "Always"
}

// podReady counts the regular containers and the sidecars.
func podReady(p *musterv1.Pod) string {
	ready, of := 0, len(p.GetSpec().GetContainers())
	for _, c := range p.GetStatus().GetContainers() {
		if c.GetReady() {
			ready++
		}
	}
	for i, c := range p.GetSpec().GetInitContainers() {
		if !sidecar(c) {
			continue
		}
		of++
		if s := p.GetStatus().GetInitContainers(); i < len(s) && s[i].GetReady() {
			ready++
		}
	}
	return fmt.Sprintf("%d/%d", ready, of)
}

// sidecar tells whether an init container runs on beside the regular ones.
func sidecar(c *musterv1.Container) bool {
	return c.GetRestartPolicy() == musterv1.RestartPolicy_RESTART_POLICY_ALWAYS
}

// initStatus says how far a pod's init containers have come, in the words of kubectl; empty once they let the rest run.
func initStatus(p *musterv1.Pod) string {
	inits := p.GetSpec().GetInitContainers()
	for _, c := range p.GetStatus().GetConditions() {
		if c.GetType() == spec.ConditionInitialized && c.GetStatus() == string(spec.ConditionTrue) {
			return ""
		}
	}
	for i, s := range p.GetStatus().GetInitContainers() {
		w, t := s.GetState().GetWaiting(), s.GetState().GetTerminated()
		switch {
		case i >= len(inits):
			return ""
		case t != nil && t.GetExitCode() == 0, sidecar(inits[i]) && s.GetStarted():
			continue
		case t.GetReason() != "":
			return "Init:" + t.GetReason()
		case t != nil:
			return fmt.Sprintf("Init:ExitCode:%d", t.GetExitCode())
		case w.GetReason() != "" && w.GetReason() != "PodInitializing":
			return "Init:" + w.GetReason()
		}
		return fmt.Sprintf("Init:%d/%d", i, len(inits))
	}
	return ""
}

// podStatus is the one word about a pod that says most: why it does not run, else its phase.
func podStatus(p *musterv1.Pod) string {
	word := podPhase(p.GetStatus().GetPhase())
	if r := p.GetStatus().GetReason(); r != "" {
		word = r
	}
	for _, c := range slices.Backward(p.GetStatus().GetContainers()) {
		w, t := c.GetState().GetWaiting(), c.GetState().GetTerminated()
		switch {
		case w.GetReason() != "":
			word = w.GetReason()
		case t.GetReason() != "":
			word = t.GetReason()
		case t != nil && t.GetSignal() != 0:
			word = fmt.Sprintf("Signal:%d", t.GetSignal())
		case t != nil:
			word = fmt.Sprintf("ExitCode:%d", t.GetExitCode())
		}
	}
	if s := initStatus(p); s != "" {
		word = s
	}
	if p.GetNode() == "" && p.GetStatus().GetPhase() <= musterv1.PodPhase_POD_PHASE_PENDING {
		word = "Pending" // nothing is being created before there is a node
	}
	if p.GetMeta().GetDeleteTime() != nil {
		word = "Terminating"
	}
	return word
}

// podRestarts is the number of restarts and how long ago the last one was.
func podRestarts(p *musterv1.Pod) string {
	restarts, last := int32(0), time.Time{}
	for _, c := range slices.Concat(p.GetStatus().GetInitContainers(), p.GetStatus().GetContainers()) {
		restarts += c.GetRestarts()
		if t := c.GetLast().GetTerminated().GetFinishedAt(); t != nil && t.AsTime().After(last) {
			last = t.AsTime()
		}
	}
	if restarts == 0 || last.IsZero() {
		return fmt.Sprint(restarts)
	}
	return fmt.Sprintf("%d (%s ago)", restarts, ageText(now().Sub(last)))
}

// selectorText is a selector in the syntax of -l.
func selectorText(s *musterv1.LabelSelector) string {
	terms := labelTerms(s.GetMatchLabels())
	for _, e := range s.GetMatchExpressions() {
		values := strings.Join(e.GetValues(), ",")
		switch e.GetOperator() {
		case musterv1.LabelExpression_OPERATOR_IN:
			terms = append(terms, fmt.Sprintf("%s in (%s)", e.GetKey(), values))
		case musterv1.LabelExpression_OPERATOR_NOT_IN:
			terms = append(terms, fmt.Sprintf("%s notin (%s)", e.GetKey(), values))
		case musterv1.LabelExpression_OPERATOR_EXISTS:
			terms = append(terms, e.GetKey())
		case musterv1.LabelExpression_OPERATOR_DOES_NOT_EXIST:
			terms = append(terms, "!"+e.GetKey())
		}
	}
	return orNone(strings.Join(terms, ","))
}

// labelTerms are the labels as k=v, sorted.
func labelTerms(labels map[string]string) []string {
	var terms []string
	for k, v := range labels {
		terms = append(terms, k+"="+v)
	}
	slices.Sort(terms)
	return terms
}
