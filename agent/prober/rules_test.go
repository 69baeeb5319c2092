package prober

import (
	"context"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/probe"
	"github.com/musterhq/muster/internal/spec"
)

// Rule 3.2.6.
func TestAnAttemptUnderWayIsNotCutShortByTheEndOfItsProbe(t *testing.T) {
	cut, over := false, false
	r := probing(t, 5*time.Second, func(ctx context.Context, _ *probe.Question) probe.Answer {
		select {
		case <-ctx.Done():
			cut = true
		case <-time.After(2 * time.Second):
			over = true
		}
		return probe.Answer{Outcome: spec.OutcomeFailure, CPU: -1}
	}, func(r *recorder) {
		row := live("p", time.Second)
		r.Set(row)
		time.Sleep(time.Second)
		r.Remove(row.ID)
	})
	if cut || !over || len(r.reports) != 0 {
		t.Errorf("cut short %v, over %v, reports %v", cut, over, r.reports)
	}
}

// Rule 5.1.5.
func TestAPanicInAnAttemptEndsNeitherTheProbeNorTheAgent(t *testing.T) {
	n := 0
	r := probing(t, 15*time.Second, func(context.Context, *probe.Question) probe.Answer {
		if n++; n <= attempts {
			panic("a bug")
		}
		return probe.Answer{Outcome: spec.OutcomeSuccess, CPU: -1}
	}, func(r *recorder) { r.Set(live("p", 10*time.Second)) })
	if n != attempts+1 || len(r.reports) != 2 || r.reports[0].Outcome != spec.OutcomeErrored || r.reports[1].Outcome != spec.OutcomeSuccess {
		t.Errorf("%d attempts, reports %+v; want an errored run and the recovery", n, r.reports)
	}
}

// Rules 5.2.10, 5.2.11 and 13: a run counts once, however many attempts it took, and one that errored does not count.
func TestARunIsCountedOnceUnlessItErrored(t *testing.T) {
	n := 0
	outcomes := []spec.Outcome{
		spec.OutcomeErrored, spec.OutcomeErrored, spec.OutcomeErrored, // the first run
		spec.OutcomeErrored, spec.OutcomeFailure, // the second
		spec.OutcomeWarning, spec.OutcomeSuccess, // two more
	}
	r := probing(t, 35*time.Second, func(context.Context, *probe.Question) probe.Answer {
		o := outcomes[min(n, len(outcomes)-1)]
		n++
		return probe.Answer{Outcome: o, CPU: -1}
	}, func(r *recorder) { r.Set(live("p", 10*time.Second)) })
	if want := (map[spec.Result]int{spec.ResultFailure: 1, spec.ResultSuccess: 2}); len(r.runs) != 2 || r.runs[spec.ResultFailure] != 1 || r.runs[spec.ResultSuccess] != 2 {
		t.Errorf("runs %v, want %v", r.runs, want)
	}
	if last := r.states[len(r.states)-1]; last.Verdict != spec.ResultSuccess || last.ErroredReason != "" {
		t.Errorf("state %+v", last)
	}
}

// Rules 5.5.3, and 5.2.8 and 5.2.9 for a trigger.
func TestATriggerOpensNoGate(t *testing.T) {
	delayed, gated := Row{}, Row{}
	r := probing(t, 8*time.Second, always(spec.OutcomeSuccess), func(r *recorder) {
		delayed, gated = live("delayed", 30*time.Second), live("gated", 30*time.Second)
		delayed.ID.Kind, gated.ID.Kind = spec.Readiness, spec.Readiness
		delayed.Probe.InitialDelay = 5 * time.Second
		gated.Started = false
		r.Set(delayed)
		r.Set(gated)
		time.Sleep(time.Second)
		r.Trigger(delayed.ID)
		r.Trigger(gated.ID)
		r.Trigger(spec.ProbeID{PodUID: "nobody"})
	})
	if starts := r.starts[delayed.ID]; len(starts) != 1 || starts[0] < 5*time.Second {
		t.Errorf("5.2.8 attempts at %v, want one after the delay", starts)
	}
	if starts := r.starts[gated.ID]; len(starts) != 0 {
		t.Errorf("5.2.9 attempts at %v of a container that has not started", starts)
	}
}

// Rule 5.6.1.
func TestWhatIsBelievedIsToldWhenItChangesAndOnlyThen(t *testing.T) {
	n := 0
	r := probing(t, 95*time.Second, func(context.Context, *probe.Question) probe.Answer {
		n++
		o := spec.OutcomeSuccess
		if n > 3 && n <= 6 {
			o = spec.OutcomeFailure
		}
		return probe.Answer{Outcome: o, CPU: -1}
	}, func(r *recorder) {
		row := live("p", 10*time.Second)
		row.ID.Kind = spec.Readiness
		r.Set(row)
	})
	var told []spec.Result
	for _, s := range r.states {
		told = append(told, s.Verdict)
	}
	want := []spec.Result{spec.ResultFailure, spec.ResultSuccess, spec.ResultFailure, spec.ResultSuccess}
	if len(told) != len(want) {
		t.Fatalf("told of %v, want %v: the initial value, and each change", told, want)
	}
	for i := range want {
		if told[i] != want[i] {
			t.Errorf("told of %v, want %v", told, want)
		}
	}
}

// Rule 5.3.2: unlike the kubelet's, which knows the start to the second, a delay never ends early.
func TestAnInitialDelayIsNotCutByTheFractionOfASecond(t *testing.T) {
	row := Row{}
	r := probing(t, 10*time.Second, always(spec.OutcomeSuccess), func(r *recorder) {
		time.Sleep(900 * time.Millisecond)
		row = live("p", 30*time.Second) // started at a time with a fraction
		row.Probe.InitialDelay = 2 * time.Second
		r.Set(row)
	})
	if first := r.starts[row.ID][0]; first < 2900*time.Millisecond || first > 2900*time.Millisecond+Slot {
		t.Errorf("first attempt at %v, want 2.9 s", first)
	}
}

// Rule 5.1.3: what comes while a step is under way counts, once, and at its end.
func TestATriggerDuringAnAttemptAsksOnceMoreAtItsEnd(t *testing.T) {
	row := Row{}
	r := probing(t, 20*time.Second, func(ctx context.Context, q *probe.Question) probe.Answer {
		select {
		case <-ctx.Done():
		case <-time.After(3 * time.Second):
		}
		return probe.Answer{Outcome: spec.OutcomeSuccess, CPU: -1}
	}, func(r *recorder) {
		row = live("p", 60*time.Second)
		row.ID.Kind = spec.Readiness
		r.Set(row)
		time.Sleep(time.Second)
		r.Trigger(row.ID)
		r.Trigger(row.ID)
	})
	if starts := r.starts[row.ID]; len(starts) != 2 || starts[1] < 3*time.Second || starts[1] > 3*time.Second+2*Slot {
		t.Errorf("attempts at %v, want one more at the end of the first", starts)
	}
}
