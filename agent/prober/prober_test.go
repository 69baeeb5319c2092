package prober

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/agent/probe"
	"github.com/musterhq/muster/internal/spec"
)

// recorder is a prober with what it has told.
type recorder struct {
	*Prober
	mu       sync.Mutex
	starts   map[spec.ProbeID][]time.Duration
	reports  []Report
	reported []time.Duration
	states   []spec.ProbeState
	runs     map[spec.Result]int
	began    time.Time
}

func (r *recorder) Run(_ spec.ObjectName, _ spec.ProbeID, result spec.Result, _ time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.runs == nil {
		r.runs = map[spec.Result]int{}
	}
	r.runs[result]++
}
func (r *recorder) Lag(time.Duration) {}

// probing runs a prober for so long, in a bubble, after set has given it rows.
func probing(t *testing.T, d time.Duration, attempt func(ctx context.Context, q *probe.Question) probe.Answer, set func(r *recorder)) *recorder {
	t.Helper()
	r := &recorder{starts: map[spec.ProbeID][]time.Duration{}}
	synctest.Test(t, func(t *testing.T) {
		r.began = time.Now()
		r.Prober = New(Config{
			Attempt: attempt,
			Report: func(rep Report) {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.reports, r.reported = append(r.reports, rep), append(r.reported, time.Since(r.began))
			},
			Result: func(id spec.ProbeID, a spec.Attempt) {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.starts[id] = append(r.starts[id], a.Start.Sub(r.began))
			},
			Believe:   func(s spec.ProbeState) { r.mu.Lock(); defer r.mu.Unlock(); r.states = append(r.states, s) },
			Forgotten: func(spec.ProbeID) {}, Metrics: r, Log: slog.New(slog.DiscardHandler),
		})
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		done := make(chan struct{})
		go func() { _ = r.Prober.Run(ctx); close(done) }()
		synctest.Wait()
		set(r)
		<-done
	})
	return r
}

func always(o spec.Outcome) func(context.Context, *probe.Question) probe.Answer {
	return func(context.Context, *probe.Question) probe.Answer { return probe.Answer{Outcome: o, CPU: -1} }
}

func hanging(ctx context.Context, q *probe.Question) probe.Answer {
	select {
	case <-ctx.Done():
	case <-time.After(q.Probe.Timeout):
	}
	return probe.Answer{Outcome: spec.OutcomeFailure, CPU: -1}
}

func live(name string, period time.Duration) Row {
	return Row{
		ID: spec.ProbeID{PodUID: name, Container: "c", Kind: spec.Liveness}, Instance: "a", Running: true, Started: true, StartedAt: time.Now(),
		Probe: &spec.Probe{Period: period, Timeout: time.Second, SuccessThreshold: 1, FailureThreshold: 3},
	}
}

func TestHangingProbeFailsAfterThreshold(t *testing.T) {
	r := probing(t, time.Minute, hanging, func(r *recorder) { r.Set(live("p", 10*time.Second)) })
	for i, rep := range r.reports {
		if rep.Verdict == spec.ResultFailure {
			if at := r.reported[i]; at < 21*time.Second || at > 21*time.Second+Slot {
				t.Errorf("failed after %v, want 21 s to a slot more", at)
			}
			if n := len(r.starts[rep.ID]); n != 3 {
				t.Errorf("%d attempts, want 3: a failing liveness probe is on hold", n)
			}
			return
		}
	}
	t.Error("never failed")
}

func TestPeriodsAreExactOnceTheyHaveDriftedApart(t *testing.T) {
	for _, period := range []time.Duration{100 * time.Millisecond, 333 * time.Millisecond, time.Second, 10 * time.Second} {
		row := Row{}
		r := probing(t, 1000*period+Slot, always(spec.OutcomeSuccess), func(r *recorder) { row = live("p", period); r.Set(row) })
		starts := r.starts[row.ID]
		if len(starts) < 999 || len(starts) > 1001 {
			t.Errorf("period %v: %d attempts in 1000 periods", period, len(starts))
		}
		width := FineSlot
		if period >= coarse {
			width = Slot
		}
		for i, at := range starts[1:] {
			if gap := at - starts[i]; gap < period-width || gap > period+period/10+width {
				t.Fatalf("period %v: attempt %d comes %v after the one before", period, i+1, gap)
			}
		}
		for i, at := range starts[11:] {
			if want := starts[10] + time.Duration(i+1)*period; at < want-width || at > want+width {
				t.Fatalf("period %v: attempt %d after %v, want %v: it drifts on", period, i+11, at, want)
			}
		}
	}
}

func TestProbesOfPodsThatStartTogetherDriftApart(t *testing.T) {
	const rows, period = 1000, 10 * time.Second
	r := probing(t, 25*period, always(spec.OutcomeSuccess), func(r *recorder) {
		for i := range rows {
			r.Set(live(strconv.Itoa(i), period))
		}
	})
	slots := map[int]int{}
	most := 0
	for _, starts := range r.starts {
		for _, at := range starts {
			if at > 12*period && at <= 22*period {
				slots[int(at/Slot)]++
			}
		}
	}
	for _, n := range slots {
		most = max(most, n)
	}
	mean := float64(rows) / float64(period/Slot)
	if t.Logf("fullest slot: %d, mean %.1f", most, mean); most > 20 {
		t.Errorf("%d attempts in one slot of %v", most, Slot)
	}
}

func TestAProbeThatFailsKeepsItsPeriod(t *testing.T) {
	row := Row{}
	r := probing(t, 5*time.Minute, always(spec.OutcomeFailure), func(r *recorder) {
		row = live("p", 10*time.Second)
		row.Probe.FailureThreshold = 1000
		r.Set(row)
	})
	for i, at := range r.starts[row.ID] {
		if want := time.Duration(i) * 10 * time.Second; at < want || at > want+Slot {
			t.Fatalf("attempt %d after %v, want %v: a failure is not to be seen later", i, at, want)
		}
	}
}

// Rules 5.1.2, 5.3.1 and 5.3.3, the first and the last of which differ from the kubelet on purpose.
func TestTheInitialDelayCountsFromTheStartAndNoFirstProbeComesAPeriodLate(t *testing.T) {
	row := Row{}
	r := probing(t, time.Minute, always(spec.OutcomeSuccess), func(r *recorder) {
		row = live("p", 30*time.Second)
		row.Probe.InitialDelay = 7 * time.Second
		r.Set(row)
	})
	if first := r.starts[row.ID][0]; first < 7*time.Second || first > 7*time.Second+Slot {
		t.Errorf("first attempt after %v, want 7 s", first)
	}
}

// Rule 11.4 for the spread of first attempts.
func TestAThousandWaitingProbesNeedNoGoroutineEach(t *testing.T) {
	most := 0
	var mu sync.Mutex
	r := probing(t, time.Minute, func(context.Context, *probe.Question) probe.Answer {
		mu.Lock()
		defer mu.Unlock()
		most = max(most, runtime.NumGoroutine())
		return probe.Answer{Outcome: spec.OutcomeSuccess}
	}, func(r *recorder) {
		for i := range 1000 {
			row := live(fmt.Sprint(i), 10*time.Second)
			row.Adopted = true
			r.Set(row)
		}
	})
	if most > 500 {
		t.Errorf("%d goroutines", most)
	}
	inSecond := map[int]int{}
	for _, starts := range r.starts {
		inSecond[int(starts[0]/time.Second)]++
	}
	for s := range 10 {
		if n := inSecond[s]; n < 50 || n > 150 {
			t.Errorf("%d of 1000 first attempts after a restart of the agent in second %d of 10, want about 100: %v", n, s, inSecond)
		}
	}
}

func TestAttemptsUnderWayAreBounded(t *testing.T) {
	under, most := 0, 0
	var mu sync.Mutex
	probing(t, 30*time.Second, func(ctx context.Context, q *probe.Question) probe.Answer {
		mu.Lock()
		under++
		most = max(most, under)
		mu.Unlock()
		defer func() { mu.Lock(); under--; mu.Unlock() }()
		return hanging(ctx, q)
	}, func(r *recorder) {
		for i := range 3 * InFlight {
			r.Set(live(fmt.Sprint(i), 10*time.Second))
		}
	})
	if most != InFlight {
		t.Errorf("%d attempts at once, want %d", most, InFlight)
	}
}

// Rules 4.1, 4.2 and 4.3.
func TestAnAttemptThatCannotBeMadeIsTriedThriceAndCountsForNothing(t *testing.T) {
	n := 0 // of one probe, so one at a time
	r := probing(t, 15*time.Second, func(context.Context, *probe.Question) probe.Answer {
		n++
		if n > 3 {
			return probe.Answer{Outcome: spec.OutcomeSuccess}
		}
		return probe.Answer{Outcome: spec.OutcomeErrored, Output: "no such file"}
	}, func(r *recorder) { r.Set(live("p", 10*time.Second)) })
	if n != 4 {
		t.Errorf("%d attempts, want 3 in the first run and 1 in the second", n)
	}
	if len(r.reports) != 2 || r.reports[0].Outcome != spec.OutcomeErrored || r.reports[0].Verdict != spec.ResultUnknown || r.reports[1].Outcome != spec.OutcomeSuccess {
		t.Errorf("reports %+v, want the errored run and the recovery", r.reports)
	}
	if last := r.states[len(r.states)-1]; last.ErroredReason != "" || last.Verdict != spec.ResultSuccess {
		t.Errorf("state %+v, want success without a reason", last)
	}
}

// Rule 5.1.3 for triggers.
func TestATriggerAsksAtOnceAndStartsThePeriodAnew(t *testing.T) {
	row := Row{}
	r := probing(t, 20*time.Second, always(spec.OutcomeSuccess), func(r *recorder) {
		row = live("p", 10*time.Second)
		row.ID.Kind = spec.Readiness
		r.Set(row)
		time.Sleep(4 * time.Second)
		r.Trigger(row.ID)
	})
	starts := r.starts[row.ID]
	if len(starts) != 3 || starts[1] < 4*time.Second || starts[1] > 4*time.Second+Slot || starts[2] < 14*time.Second || starts[2] > 15*time.Second+2*Slot {
		t.Errorf("attempts at %v, want 0, 4 s, and a period and at most a tenth later", starts)
	}
}

func TestTheStartupGateOpensWithoutAPeriodsWait(t *testing.T) {
	row := Row{}
	r := probing(t, time.Minute, always(spec.OutcomeSuccess), func(r *recorder) {
		row = live("p", 30*time.Second)
		row.Started = false
		r.Set(row)
		time.Sleep(5 * time.Second)
		row.Started = true
		r.Set(row)
	})
	if starts := r.starts[row.ID]; len(starts) == 0 || starts[0] < 5*time.Second || starts[0] > 5*time.Second+Slot {
		t.Errorf("attempts at %v, want the first at 5 s", starts)
	}
}

// Rule 5.1.4.
func TestARemovedProbeIsAskedNoMore(t *testing.T) {
	row := Row{}
	r := probing(t, time.Minute, always(spec.OutcomeSuccess), func(r *recorder) {
		row = live("p", time.Second)
		r.Set(row)
		time.Sleep(2500 * time.Millisecond)
		r.Remove(row.ID)
	})
	if n := len(r.starts[row.ID]); n != 3 {
		t.Errorf("%d attempts, want 3", n)
	}
	if left := r.States(); len(left) != 0 {
		t.Errorf("states %v, want none", left)
	}
}

// Rule 5.1.3, and section 6.
func TestASlowProbeHoldsNoOther(t *testing.T) {
	slow, quick := Row{}, Row{}
	r := probing(t, 10500*time.Millisecond, func(ctx context.Context, q *probe.Question) probe.Answer {
		if q.Probe.Timeout == 5*time.Second {
			return hanging(ctx, q)
		}
		return probe.Answer{Outcome: spec.OutcomeSuccess}
	}, func(r *recorder) {
		slow, quick = live("slow", time.Second), live("quick", time.Second)
		slow.Probe.Timeout = 5 * time.Second
		r.Set(slow)
		r.Set(quick)
	})
	if n := len(r.starts[quick.ID]); n < 10 || n > 11 {
		t.Errorf("quick probe: %d attempts, want one a second", n)
	}
	if starts := r.starts[slow.ID]; len(starts) != 2 || starts[1] < 5*time.Second {
		t.Errorf("slow probe: attempts at %v, want 0 and 5 s: its steps never overlap, and times that pass count as one", starts)
	}
}

func TestAHeldLivenessIsAskedAPeriodAfterTheLastTimeAndOn(t *testing.T) {
	row := Row{}
	var well atomic.Bool
	r := probing(t, time.Minute, func(context.Context, *probe.Question) probe.Answer {
		if well.Load() {
			return probe.Answer{Outcome: spec.OutcomeSuccess, CPU: -1}
		}
		return probe.Answer{Outcome: spec.OutcomeFailure, CPU: -1}
	}, func(r *recorder) {
		row = live("p", 10*time.Second)
		r.Set(row)
		time.Sleep(20*time.Second + time.Millisecond)
		row.Held = true
		r.Set(row)
		time.Sleep(15 * time.Second)
		well.Store(true)
	})
	if got := r.starts[row.ID]; len(got) != 6 || got[3] < 30*time.Second || got[3] > 30*time.Second+Slot {
		t.Errorf("asked at %v, want each 10 s", got)
	}
	if last := r.reports[len(r.reports)-1]; last.Outcome != spec.OutcomeSuccess || last.Verdict != spec.ResultSuccess {
		t.Errorf("the last report is %+v, want that it succeeds", last)
	}
}

func TestTheFirstSuccessOfAGuardedRowIsReportedAndOthersAreNot(t *testing.T) {
	for _, guarded := range []bool{false, true} {
		r := probing(t, time.Minute, always(spec.OutcomeSuccess), func(r *recorder) {
			row := live("p", 10*time.Second)
			row.Guarded = guarded
			r.Set(row)
			time.Sleep(35 * time.Second)
			row.Instance = "b"
			r.Set(row)
		})
		want := 0
		if guarded {
			want = 2
		}
		if len(r.reports) != want {
			t.Errorf("guarded %v: %d reports, want %d: one an instance", guarded, len(r.reports), want)
		}
	}
}
