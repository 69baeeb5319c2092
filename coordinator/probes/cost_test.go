package probes

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// every is n attempts, so far apart, that took that much processor time.
func every(n int, period time.Duration, cpu ...time.Duration) (all []spec.Attempt) {
	for i := range n {
		all = append(all, spec.Attempt{Start: time.Unix(1000, 0).Add(time.Duration(i) * period), CPU: cpu[i%len(cpu)]})
	}
	return all
}

func TestAProbesCostIsThatOfItsLastAttempts(t *testing.T) {
	const ms = time.Millisecond
	hung := every(3, 40*time.Second, -1)
	hung[2].Duration = 40 * time.Second
	for name, tc := range map[string]struct {
		attempts      []spec.Attempt
		period, quiet time.Duration
		want          Cost
		minute        time.Duration
	}{
		"commands":                    {every(8, 10*time.Second, 2*ms), 10 * time.Second, 4 * time.Second, Cost{6, 2 * ms}, 12 * ms},
		"unequal ones":                {every(8, time.Second, ms, 3*ms), time.Second, 0, Cost{60, 2 * ms}, 120 * ms},
		"slower than its period":      {every(8, 2*time.Second, 5*ms), time.Second, 0, Cost{30, 5 * ms}, 150 * ms},
		"some that were not measured": {every(8, time.Second, -1, 4*ms), time.Second, 0, Cost{60, 4 * ms}, 240 * ms},
		"none that was":               {every(8, time.Second, -1), time.Second, 0, Cost{60, -1}, -1},
		"a single one":                {every(1, time.Second, ms), time.Second, 0, Cost{-1, ms}, -1},
		"one that rests":              {every(8, time.Second, ms), time.Second, 8 * time.Second, Cost{0, ms}, 0},
		"one that rests after one":    {every(1, time.Second, ms), time.Second, time.Minute, Cost{0, ms}, 0},
		"one that hangs":              {hung, 10 * time.Second, 80 * time.Second, Cost{1.5, -1}, -1},
	} {
		if got := costOf(tc.attempts, tc.period, tc.quiet); got != tc.want || got.PerMinute() != tc.minute {
			t.Errorf("%s: %+v, %v a minute; want %+v, %v", name, got, got.PerMinute(), tc.want, tc.minute)
		}
	}
}

func TestAProbeThatIsNoLongerAskedCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := New()
		id := spec.ProbeID{PodUID: "u", Container: "c", Kind: spec.Liveness}
		if got := table.Cost(id, time.Now()); got != (Cost{-1, -1}) {
			t.Errorf("of an unknown probe: %+v", got)
		}
		table.Declare("u", spec.ObjectName{}, "n1", 5, []spec.ProbeState{{ID: id, Period: 10 * time.Second}})
		if got := table.Cost(id, time.Now()); got != (Cost{-1, -1}) {
			t.Errorf("before its first attempt: %+v", got)
		}
		for range 10 {
			time.Sleep(10 * time.Second)
			// The agent's clock is far from this one.
			observe(table, Key{id, 5}, spec.Attempt{Start: time.Now().Add(-time.Hour), Result: spec.ResultSuccess, CPU: time.Millisecond})
		}
		if got := table.Cost(id, time.Now()); got != (Cost{6, time.Millisecond}) {
			t.Errorf("got %+v, want 6 of 1ms a minute", got)
		}
		time.Sleep(time.Minute)
		if got := table.Cost(id, time.Now()); got.AttemptsPerMinute != 0 || got.PerMinute() != 0 {
			t.Errorf("a minute later: %+v", got)
		}
	})
}
