package loadtest

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/agent/probe"
	"github.com/musterhq/muster/internal/spec"
)

// measure runs an engine in a bubble, with attempts that take so long.
func measure(t *testing.T, j job, attempt func(n int) time.Duration) (r *run, samples []Sample) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := make(chan int, 1)
		n <- 0
		j.Kind, j.Base, j.Port = KindHTTP, netip.MustParseAddr("127.80.0.1"), 80
		e := &engine{job: &j, tell: func(s said) error {
			if s.Run != nil {
				r = s.Run
			} else {
				samples = append(samples, *s.Sample)
			}
			return nil
		}, attempt: func(context.Context, *probe.Question) probe.Answer {
			i := <-n
			n <- i + 1
			time.Sleep(attempt(i))
			return probe.Answer{Outcome: spec.OutcomeSuccess, CPU: -1}
		}}
		if err := e.run(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if r == nil {
		t.Fatal("no run")
	}
	return r, samples
}

func always(d time.Duration) func(int) time.Duration { return func(int) time.Duration { return d } }

func TestAnEngineThatKeepsUpMissesNothingAndHasNoLag(t *testing.T) {
	j := job{Targets: 50, Period: time.Second, Warmup: 3 * time.Second, Duration: 20 * time.Second}
	r, samples := measure(t, j, always(5*time.Millisecond))
	if r.Attempts < 999 || r.Attempts > 1001 || r.Missed != 0 || r.Failed != 0 || r.Lag.Max > 1 || !r.Ended {
		t.Errorf("%+v, want 1000 attempts in time", r)
	}
	if r.Latency.P50 < 4.9 || r.Latency.Max > 5.1 {
		t.Errorf("latency %+v, want 5 ms", r.Latency)
	}
	if r.Spread < 1 || r.Spread > 20 {
		t.Errorf("spread %v", r.Spread)
	}
	if len(samples) < 22 || !samples[0].WarmUp || samples[len(samples)-1].WarmUp {
		t.Errorf("%d samples of 23 s", len(samples))
	}
}

func TestAnAttemptLongerThanThePeriodMissesThoseThatItHoldsUp(t *testing.T) {
	j := job{Targets: 1, Period: time.Second, Warmup: 5 * time.Second, Duration: 100 * time.Second}
	r, _ := measure(t, j, always(2500*time.Millisecond))
	if r.Attempts < 39 || r.Attempts > 41 || r.Missed < 58 || r.Missed > 62 {
		t.Errorf("%d attempts, %d missed of 100, want 40 and 60", r.Attempts, r.Missed)
	}
	if r.Lag.Max < 1490 || r.Lag.Max > 2510 {
		t.Errorf("lag %+v", r.Lag)
	}
}

func TestOneStallIsLagForAllThatWereDueMeanwhile(t *testing.T) {
	j := job{Targets: 1, Period: time.Second, Warmup: 5 * time.Second, Duration: 100 * time.Second}
	r, _ := measure(t, j, func(n int) time.Duration {
		if n == 50 {
			return 10500 * time.Millisecond
		}
		return time.Millisecond
	})
	// Nine of the ten that were due meanwhile are missed, and the one after, as the engine drifts back to its phase.
	if r.Missed < 9 || r.Missed > 10 || r.Attempts < 89 || r.Attempts > 92 {
		t.Errorf("%d attempts, %d missed; want 90 and 9 or 10", r.Attempts, r.Missed)
	}
	if r.Lag.Max < 9400 || r.Lag.Max > 9600 {
		t.Errorf("lag %+v, want 9.5 s at most", r.Lag)
	}
}

func TestInAClosedLoopAllAttemptsAreUnderWayAllTheTime(t *testing.T) {
	r, _ := measure(t, job{Targets: 2000, Duration: 10 * time.Second, Warmup: time.Second}, always(100*time.Millisecond))
	if rate := r.rate(); rate < 2300 || rate > 2600 {
		t.Errorf("%v attempts a second, want 256 each 100 ms", rate)
	}
	if r.Spread != 0 || r.Missed != 0 {
		t.Errorf("%+v: nothing is due in a closed loop", r)
	}
}

func TestAnEngineThatIsToldToEndTellsWhatItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r *run
		ctx, cancel := context.WithTimeout(t.Context(), 5500*time.Millisecond)
		defer cancel()
		e := &engine{
			job: &job{Kind: KindTCP, Targets: 10, Period: time.Second, Warmup: 2 * time.Second, Duration: time.Hour, Base: base, Port: 80},
			tell: func(s said) error {
				if s.Run != nil {
					r = s.Run
				}
				return nil
			},
			attempt: func(context.Context, *probe.Question) probe.Answer {
				return probe.Answer{Outcome: spec.OutcomeFailure, CPU: -1}
			},
		}
		if err := e.run(ctx); err != nil {
			t.Fatal(err)
		}
		if r == nil || r.Ended || r.Seconds < 3.4 || r.Seconds > 3.6 || r.Attempts < 30 || r.Failed != r.Attempts {
			t.Errorf("%+v, want 3.5 s of failures", r)
		}
	})
}
