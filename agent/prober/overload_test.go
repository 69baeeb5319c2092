package prober

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/agent/probe"
	"github.com/musterhq/muster/internal/spec"
)

func TestTooManyLateAttemptsAreToldOnceAndTheirEndOnceNoneIsLate(t *testing.T) {
	var o overload
	now := time.Unix(1000, 0)
	// second has a hundred attempts begin, so many of them late, and says what was told.
	second := func(late int, lag, period time.Duration) (told []spec.ProbeLateness) {
		for i := range 100 {
			is := time.Duration(0)
			if i < late {
				is = lag
			}
			if said, changed := o.begin(now, is, period); changed {
				told = append(told, said)
			}
			now = now.Add(10 * time.Millisecond)
		}
		return told
	}
	var told []spec.ProbeLateness
	for _, late := range slices.Concat(slices.Repeat([]int{0}, 20), slices.Repeat([]int{2}, 30), slices.Repeat([]int{0}, 30)) {
		told = append(told, second(late, 1001*time.Millisecond, 10*time.Second)...)
	}
	if len(told) != 2 || !told[0].Overloaded || told[0].Late < 3 || told[0].Begun < 900 || told[0].Most != 1001*time.Millisecond || told[1].Overloaded {
		t.Errorf("told %+v", told)
	}
	for name, c := range map[string]struct {
		late        int
		lag, period time.Duration
	}{
		"less than a tenth of the period": {50, 999 * time.Millisecond, 10 * time.Second},
		"less than 500 ms":                {50, 499 * time.Millisecond, time.Second},
		"before its time":                 {50, -time.Hour, time.Second},
	} {
		o = overload{}
		for range 40 {
			if told := second(c.late, c.lag, c.period); len(told) != 0 {
				t.Errorf("%s: told %+v", name, told)
			}
		}
	}
	if read := o.read(); read.Begun != 4000 || o.read().Begun != 0 {
		t.Errorf("read %+v", read)
	}
}

// TestAnOverloadedProberAsksAllEvenlyAndFailsNone has 1,024 probes of a second whose attempts take 400 ms: 640 a second fit.
func TestAnOverloadedProberAsksAllEvenlyAndFailsNone(t *testing.T) {
	const rows = 4 * InFlight
	var mu sync.Mutex
	asked, failed := map[string]int{}, 0
	var told []spec.ProbeLateness
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{
			Attempt: func(ctx context.Context, _ *probe.Question) probe.Answer {
				select {
				case <-ctx.Done():
				case <-time.After(400 * time.Millisecond):
				}
				return probe.Answer{Outcome: spec.OutcomeSuccess, CPU: -1}
			},
			Report: func(r Report) {
				mu.Lock()
				defer mu.Unlock()
				if r.Outcome != spec.OutcomeSuccess {
					failed++
				}
			},
			Result: func(id spec.ProbeID, _ spec.Attempt) {
				mu.Lock()
				defer mu.Unlock()
				asked[id.PodUID]++
			},
			Overload: func(l spec.ProbeLateness) { told = append(told, l) }, Believe: func(spec.ProbeState) {}, Forgotten: func(spec.ProbeID) {},
			Metrics: &recorder{}, Log: slog.New(slog.DiscardHandler),
		})
		for i := range rows {
			p.Set(Row{
				ID: spec.ProbeID{PodUID: strings.Repeat("x", i), Container: "main", Kind: spec.Liveness}, Instance: "i", Running: true, Started: true,
				Probe: &spec.Probe{Period: time.Second, Timeout: time.Second, SuccessThreshold: 1, FailureThreshold: 1, Handler: spec.Handler{TCP: &spec.TCPAction{}}},
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_ = p.Run(ctx)
		if l := p.Lateness(); l.Begun < 60*640*9/10 || l.Late == 0 || !l.Overloaded {
			t.Errorf("lateness %+v", l)
		}
	})
	least, most := rows, 0
	for _, n := range asked {
		least, most = min(least, n), max(most, n)
	}
	if failed != 0 || len(asked) != rows || most-least > 2 || most > 45 {
		t.Errorf("%d failed; %d rows were asked %d to %d times", failed, len(asked), least, most)
	}
	if len(told) != 1 || !told[0].Overloaded || told[0].Late < 3 {
		t.Errorf("told %+v", told)
	}
}
