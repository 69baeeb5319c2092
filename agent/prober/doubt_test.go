package prober

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/agent/probe"
	"github.com/musterhq/muster/internal/spec"
)

// doubting runs a prober for so long in a bubble, whose process is as late as late says, and returns what it reported and when.
func doubting(t *testing.T, d time.Duration, row Row, attempt func(context.Context, *probe.Question) probe.Answer, late func(began time.Time) time.Duration) (reports []Report, at []time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		p := New(Config{
			Attempt: attempt, Late: late,
			Report: func(rep Report) { reports, at = append(reports, rep), append(at, time.Since(began)) },
			Result: func(spec.ProbeID, spec.Attempt) {}, Believe: func(spec.ProbeState) {}, Forgotten: func(spec.ProbeID) {},
			Metrics: &recorder{}, Log: slog.New(slog.DiscardHandler),
		})
		row.StartedAt = time.Now()
		p.Set(row)
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		_ = p.Run(ctx)
	})
	return reports, at
}

func TestATimeOutOfALateAgentIsInconclusiveAndTheEndIsFoundInTwiceTheTimeAllTheSame(t *testing.T) {
	for _, c := range []struct {
		period    time.Duration
		threshold int32
	}{{10 * time.Second, 3}, {10 * time.Second, 1}, {time.Second, 3}} {
		row := live("p", c.period)
		row.Probe.FailureThreshold = c.threshold
		reports, at := doubting(t, 5*time.Minute, row, hanging, func(time.Time) time.Duration { return 100 * time.Millisecond })
		normal := time.Duration(c.threshold)*c.period + row.Probe.Timeout
		doubts := 0
		for i, r := range reports {
			if r.Outcome == spec.OutcomeInconclusive {
				if doubts++; r.Verdict == spec.ResultFailure || !strings.HasPrefix(r.Output, "the agent was 100ms late itself: ") {
					t.Errorf("a doubted attempt brings %v %q", r.Verdict, r.Output)
				}
			}
			if r.Verdict != spec.ResultFailure {
				continue
			}
			// From the first attempt: one that dies has up to a period before it.
			if most := 2*normal + time.Second - c.period; at[i] > most+Slot || doubts == 0 {
				t.Errorf("period %v, threshold %d: failed after %v and %d doubts, want at most %v", c.period, c.threshold, at[i], doubts, most)
			}
			break
		}
		if len(reports) == 0 || reports[len(reports)-1].Verdict != spec.ResultFailure {
			t.Errorf("period %v, threshold %d: never found", c.period, c.threshold)
		}
	}
}

func TestAHealthyContainerOfALateAgentStaysSo(t *testing.T) {
	n := 0
	// Two of three attempts time out while the agent is late.
	attempt := func(ctx context.Context, q *probe.Question) probe.Answer {
		if n++; n%3 == 0 {
			return probe.Answer{Outcome: spec.OutcomeSuccess, CPU: -1}
		}
		return hanging(ctx, q)
	}
	row := live("p", 10*time.Second)
	row.Probe.FailureThreshold = 1
	reports, at := doubting(t, 10*time.Minute, row, attempt, func(time.Time) time.Duration { return time.Second })
	for i, r := range reports {
		if r.Verdict == spec.ResultFailure || r.Outcome == spec.OutcomeFailure {
			t.Fatalf("after %v: %+v", at[i], r)
		}
	}
	if n < 100 {
		t.Errorf("%d attempts: it is not asked again soon", n)
	}
}

func TestOnlyATimeOutIsDoubtedAndOnlyWhileTheAgentIsLate(t *testing.T) {
	refused := func(context.Context, *probe.Question) probe.Answer {
		return probe.Answer{Outcome: spec.OutcomeFailure, Output: "refused", CPU: -1}
	}
	for name, c := range map[string]struct {
		attempt func(context.Context, *probe.Question) probe.Answer
		late    time.Duration
	}{"refused": {refused, time.Second}, "in time": {hanging, 49 * time.Millisecond}} {
		reports, _ := doubting(t, time.Minute, live("p", 10*time.Second), c.attempt, func(time.Time) time.Duration { return c.late })
		for _, r := range reports {
			if r.Outcome != spec.OutcomeFailure {
				t.Errorf("%s: %+v", name, r)
			}
		}
		if len(reports) != 3 {
			t.Errorf("%s: %d reports", name, len(reports))
		}
	}
}

func TestTheMonitorMeasuresNothingWhereNothingIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m monitor
		for _, d := range []time.Duration{0, watchAfter, time.Second} {
			w := watch{m: &m}
			w.begin()
			time.Sleep(d)
			if late := w.end(); late != 0 {
				t.Errorf("over %v it was %v late", d, late)
			}
		}
		time.Sleep(10 * beat)
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.beating {
			t.Error("it goes on without an attempt")
		}
	})
}
