package loadtest

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const second = int64(time.Second)

func TestASchedulesTimesDoNotMoveWithTheAttempts(t *testing.T) {
	at := func(s float64) int64 { return 1000*second + int64(s*float64(second)) }
	for _, c := range []struct {
		name   string
		starts []float64
		lags   []float64
		missed int
		end    float64
	}{
		{"punctual", []float64{0, 1, 2}, []float64{0, 0, 0}, 0, 3},
		{"each one late alike", []float64{0, 1.2, 2.2}, []float64{0, .2, .2}, 0, 3},
		{"late, then in time again", []float64{0, 1.9, 2}, []float64{0, .9, 0}, 0, 3},
		{"one is left out", []float64{0, 2.5}, []float64{0, 1.5, .5}, 1, 3},
		{"a stall of three periods", []float64{0, 4, 5}, []float64{0, 3, 2, 1, 0, 0}, 3, 6},
		{"what slips for good stays late", []float64{0, 1.5, 3, 4.5}, []float64{0, .5, 1, 0, .5}, 1, 5},
		{"it is never asked again", []float64{0}, []float64{0, 2, 1}, 2, 3},
		{"it was due earlier all along", []float64{.5, 1, 2}, []float64{0, 0, 0}, 0, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s schedule
			var lags []float64
			missed := 0
			tell := func(l late) {
				lags = append(lags, float64(l.lag)/float64(second))
				if l.missed {
					missed++
				}
			}
			for _, start := range c.starts {
				s.began(at(start), 0, second, tell)
			}
			s.ended(at(c.end), second, tell)
			if !slices.Equal(lags, c.lags) || missed != c.missed {
				t.Errorf("lags %v, %d missed; want %v, %d", lags, missed, c.lags, c.missed)
			}
		})
	}
}

func TestEveryDueAttemptIsToldOnceAndTheLateOnesAreMissed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		period := rapid.Int64Range(grain, 10*second).Draw(t, "period")
		first := 1000 * second
		now, dues := first, []int64{}
		s := schedule{}
		tell := func(l late) {
			dues = append(dues, l.due)
			if l.lag < 0 || l.missed != (l.lag >= period) {
				t.Fatalf("%+v with a period of %d", l, period)
			}
		}
		s.began(now, 0, period, tell)
		for range rapid.IntRange(0, 20).Draw(t, "attempts") {
			// An attempt comes no sooner than the one that is due.
			now = max(now, s.due) + rapid.Int64Range(0, 3*period).Draw(t, "late")
			s.began(now, 0, period, tell)
		}
		end := now + rapid.Int64Range(0, 5*period).Draw(t, "rest")
		s.ended(end, period, tell)
		for i, due := range dues {
			if want := first + int64(i)*period; due != want {
				t.Fatalf("attempt %d was due at %d, want %d", i, due, want)
			}
		}
		if next := dues[len(dues)-1] + period; next < end {
			t.Fatalf("what was due at %d was not told by %d", next, end)
		}
	})
}

func TestALatencyOfAClosedLoopCountsForThoseThatItHeldUp(t *testing.T) {
	h := newHistogram()
	for range 1000 {
		record(h, int64(time.Millisecond))
	}
	record(h, int64(time.Second))
	if p99 := ms(h.ValueAtQuantile(99)); p99 > 2 {
		t.Fatalf("p99 %v ms before", p99)
	}
	c := corrected(h, 1000)
	if p99, most := ms(c.ValueAtQuantile(99)), ms(c.Max()); p99 < 900 || most < 999 || most > 1001 {
		t.Errorf("p99 %v, most %v ms: a stall of a second is hidden", p99, most)
	}
	if n := c.TotalCount(); n < 1990 || n > 2010 {
		t.Errorf("%d values, want the 1001 and the 1000 that were held up", n)
	}
}
