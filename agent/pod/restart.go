package pod

import (
	"slices"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// The restart delays of rule 8.5, and the floor of rule 8.3.
const (
	BackoffFirst = 10 * time.Second
	BackoffMax   = 300 * time.Second
	// BackoffReset is how long an instance must have run for the delays to begin anew.
	BackoffReset = 10 * time.Minute
	// MinGrace is the least time between SIGTERM and SIGKILL.
	MinGrace = 2 * time.Second
)

// Backoff is one container's restart delay. Unlike the kubelet's it sees the instance that was just killed, and it
// outlives the agent, so that a restart of the agent changes nothing.
type Backoff struct {
	// Delay is how long after its end the next instance may start; 0 before the first restart.
	Delay time.Duration
	// Stamp is when the last restart was begun.
	Stamp time.Time
	// Attempt is the instance that the last restart was for: trying to start it again costs no further delay.
	Attempt int32
}

// wait is how much longer an instance that has ended at the given time must wait before the next one may start.
func (b *Backoff) wait(now, ended time.Time, attempt int32) time.Duration {
	if b.Delay == 0 || b.Attempt == attempt || ended.Sub(b.Stamp) > BackoffReset {
		return 0
	}
	return max(0, b.Delay-now.Sub(ended))
}

// begin notes that the instance attempt is being started after one that ended at the given time.
func (b *Backoff) begin(now, ended time.Time, attempt int32) {
	switch {
	case b.Delay > 0 && b.Attempt == attempt: // tried again
	case b.Delay == 0 || ended.Sub(b.Stamp) > BackoffReset:
		b.Delay = BackoffFirst
	default:
		b.Delay = min(2*b.Delay, BackoffMax)
	}
	b.Stamp, b.Attempt = now, attempt
}

// policy is the container's own restart policy, or the pod's (rule 8.1).
func policy(p *spec.Pod, c *spec.Container) spec.RestartPolicy {
	switch {
	case c.RestartPolicy != "":
		return c.RestartPolicy
	case p.Spec.RestartPolicy != "":
		return p.Spec.RestartPolicy
	}
	return spec.RestartAlways
}

// restarts is rule 8.4: whether an exit with this code leads to a restart.
func restarts(p *spec.Pod, c *spec.Container, exitCode int32) bool {
	if c.RestartPolicy != "" {
		for _, r := range c.RestartRules {
			if slices.Contains(r.ExitCodes, exitCode) == r.In {
				return true
			}
		}
	}
	switch policy(p, c) {
	case spec.RestartNever:
		return false
	case spec.RestartOnFailure:
		return exitCode != 0
	}
	return true
}

// grace is rule 8.3. killedBy is the kind of probe that asked for the kill, 0 for none.
func grace(w *Wanted, c *spec.Container, killedBy spec.ProbeKind) time.Duration {
	g := w.Pod.Spec.TerminationGrace
	switch probe := c.Probe(killedBy); {
	case w.Pod.Deleting():
		g = w.Pod.DeleteGrace
	case probe != nil && probe.TerminationGrace != nil:
		g = *probe.TerminationGrace
	}
	return max(g, MinGrace)
}
