package loadtest

import (
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/musterhq/muster/internal/spec"
)

// longest is the longest lag and latency that histograms tell apart, in µs; longer ones count as this.
const longest = int64(time.Hour / time.Microsecond)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, longest, 3) }

// record takes a value in ns.
func record(h *hdrhistogram.Histogram, ns int64) {
	_ = h.RecordValue(min(max(ns/1000, 0), longest)) // within the bounds: it can't fail
}

// totals are what has been counted since some moment.
type totals struct {
	attempts, failed, missed int64
	// commands is the processor time of exec probes' commands.
	commands     time.Duration
	lag, latency *hdrhistogram.Histogram
}

func newTotals() totals { return totals{lag: newHistogram(), latency: newHistogram()} }

// recorder counts what an engine's attempts come to. Attempts count in the window in which they end, lags and misses in the
// one in which the attempt was due.
type recorder struct {
	// period is in ns; 0 in a closed loop, where nothing is due.
	period int64

	mu        sync.Mutex
	schedules []schedule
	// from and to bound the window, in ns of the wall clock; 0: not yet.
	from, to int64
	window   totals
	// lately is since the last sample.
	lately totals
	// all counts attempts from the start to the end.
	all int64
}

func newRecorder(probes int, period time.Duration) *recorder {
	return &recorder{period: int64(period), schedules: make([]schedule, probes), window: newTotals(), lately: newTotals()}
}

// uid is the uid of the pod of probe i; it has the form of one. The seed makes other phases.
func uid(i int, seed uint64) string {
	b := make([]byte, 0, 36)
	b = append(b, hex8(uint32(i))...)
	b = append(b, "-6d75-4573-8465-"...)
	b = append(b, hex8(uint32(seed>>32) &^ 0xffff0000)[4:]...)
	return string(append(b, hex8(uint32(seed))...))
}

func hex8(v uint32) string { return strconv.FormatUint(1<<32|uint64(v), 16)[1:] }

// number is the probe that a uid was made for; -1 for another's.
func number(uid string) int {
	if len(uid) < 8 {
		return -1
	}
	i, err := strconv.ParseUint(uid[:8], 16, 32)
	if err != nil {
		return -1
	}
	return int(i)
}

// observe takes an attempt that has just ended.
func (r *recorder) observe(id spec.ProbeID, a *spec.Attempt) {
	now, start := time.Now().UnixNano(), a.Start.UnixNano()
	i := number(id.PodUID)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all++
	if r.period > 0 && i >= 0 && i < len(r.schedules) && (r.to == 0 || start < r.to) {
		r.schedules[i].began(start, int64(a.Lag), r.period, r.lateLocked)
	}
	if r.to != 0 && now >= r.to {
		return
	}
	failed := a.Outcome != spec.OutcomeSuccess && a.Outcome != spec.OutcomeWarning
	r.lately.add(a, failed)
	if r.from != 0 {
		r.window.add(a, failed)
	}
}

func (t *totals) add(a *spec.Attempt, failed bool) {
	t.attempts++
	if failed {
		t.failed++
	}
	t.commands += max(a.CPU, 0)
	record(t.latency, int64(a.Duration))
}

func (r *recorder) lateLocked(l late) {
	r.lately.late(l)
	if r.from != 0 && l.due >= r.from && (r.to == 0 || l.due < r.to) {
		r.window.late(l)
	}
}

func (t *totals) late(l late) {
	record(t.lag, l.lag)
	if l.missed {
		t.missed++
	}
}

// begin opens the window.
func (r *recorder) begin(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.from = at.UnixNano()
}

// end closes the window: what began before may still be told of.
func (r *recorder) end(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = at.UnixNano()
}

// result is what the window has come to. Probes that have never been asked were due by latest, a period after they were set.
func (r *recorder) result(latest time.Time) totals {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.period > 0 {
		for i := range r.schedules {
			if r.schedules[i].due == 0 {
				r.schedules[i].due = latest.UnixNano()
			}
			r.schedules[i].ended(r.to, r.period, r.lateLocked)
		}
	}
	return r.window
}

// total is how many attempts have ended.
func (r *recorder) total() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all
}

// sample puts what came since the last one into s.
func (r *recorder) sample(s *Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &r.lately
	s.Attempts, s.Failed, s.Missed = t.attempts, t.failed, t.missed
	s.LatencyP99, s.LagP99, s.LagMax = ms(t.latency.ValueAtQuantile(99)), ms(t.lag.ValueAtQuantile(99)), ms(t.lag.Max())
	t.attempts, t.failed, t.missed = 0, 0, 0
	t.latency.Reset()
	t.lag.Reset()
}

// ms is a histogram's value in ms.
func ms(us int64) float64 { return float64(us) / 1000 }

// spread is how many more probes than on average are due in the slot of a period in which most are: 1 is even. 0 where nothing
// is due.
func (r *recorder) spread(slot time.Duration) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	slots := int(time.Duration(r.period) / slot)
	if slots < 1 {
		return 0
	}
	counts, asked := make([]int, slots), 0
	for _, s := range r.schedules {
		if s.due != 0 {
			counts[min(int(s.due%r.period/int64(slot)), slots-1)]++
			asked++
		}
	}
	if asked == 0 {
		return 0
	}
	return float64(slices.Max(counts)) * float64(slots) / float64(asked)
}

// corrected is a histogram of latencies of a closed loop as a steady one would have had it: an attempt that lasts longer than
// interval (in µs) held up others that would have begun meanwhile.
func corrected(h *hdrhistogram.Histogram, interval int64) *hdrhistogram.Histogram {
	out := newHistogram()
	for _, bar := range h.Distribution() {
		if bar.Count == 0 {
			continue
		}
		_ = out.RecordValues(bar.To, bar.Count)
		for v := bar.To - interval; interval > 0 && v >= interval; v -= interval {
			_ = out.RecordValues(v, bar.Count)
		}
	}
	return out
}
