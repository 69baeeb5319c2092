package loadtest

import (
	"slices"

	"github.com/musterhq/muster/agent/prober"
	"github.com/musterhq/muster/internal/version"
)

// Result is what a test has measured: one JSON object, with the same keys always. Figures are medians of the runs, each
// figure's own, but for Missed and Failed, which are sums over them. A figure that there is not is null.
type Result struct {
	// Test is "probes".
	Test    string `json:"test"`
	Kind    string `json:"kind"`
	Version string `json:"version"`
	machine Machine
	Machine *Machine `json:"machine"`

	// ProbesPerSecond counts the attempts that ended in the window.
	ProbesPerSecond float64 `json:"probes_per_second"`
	// CPU is user and system time of the engine's process alone, in µs for each of those attempts. Of exec probes all that
	// supervisors and containers use comes beside it, and how much of that the commands themselves are; null for others.
	CPU         float64  `json:"cpu_us_per_probe"`
	CPUPods     *float64 `json:"pods_cpu_us_per_probe"`
	CPUCommands *float64 `json:"commands_cpu_us_per_probe"`
	// RSS and Anon are all that the engine's process has, the most of a look each second of the window; AnonEmpty is Anon
	// before it had a probe.
	RSS       int64 `json:"rss_bytes"`
	Anon      int64 `json:"anon_bytes"`
	AnonEmpty int64 `json:"anon_empty_bytes"`
	// Lag is how long after it was due an attempt began, attempts that never began included. A probe is due once a period from
	// its first attempt on, whatever the engine does; null in a closed loop.
	Lag latencies `json:"lag_ms"`
	// Latency is how long attempts took. In a closed loop it is corrected for coordinated omission.
	Latency latencies `json:"latency_ms"`
	// Missed attempts had not begun a period after they were due; null in a closed loop.
	Missed *int64 `json:"missed"`
	// Failed attempts were no success, those of failing targets included.
	Failed int64 `json:"failed"`
	// ConnectionsPerAttempt is what the targets have seen over what the engine has told, from its start to its end: about 1, for the
	// attempts that the end cuts short are not told; null where the targets are not ours.
	ConnectionsPerAttempt *float64 `json:"connections_per_attempt"`
	// SlotMaxOverMean is how uneven probes lie in their period: most in a slot over the average; null in a closed loop.
	SlotMaxOverMean *float64 `json:"slot_max_over_mean"`
	Targets         int      `json:"targets"`
	// Period is what was asked for, 0 in a closed loop; EnginePeriod is what the engine was given.
	Period       float64 `json:"period_seconds"`
	EnginePeriod float64 `json:"engine_period_seconds"`
	// Duration is one run's, the median.
	Duration float64 `json:"duration_seconds"`
	WarmUp   float64 `json:"warmup_seconds"`
	// ClosedLoop asks as fast as the engine can; Saturated is whether it could not ask as often as it was to: in a closed loop
	// false means that more targets are needed.
	ClosedLoop  bool   `json:"closed_loop"`
	Saturated   bool   `json:"saturated"`
	InFlight    int    `json:"in_flight_limit"`
	Cores       int    `json:"cores"`
	EngineCPUs  []int  `json:"engine_cpus"`
	Slow        int    `json:"slow_percent"`
	Failing     int    `json:"failing_percent"`
	Body        int    `json:"body_bytes"`
	Seed        uint64 `json:"seed"`
	Interrupted bool   `json:"interrupted"`
	// Runs are what each run has measured, Spread the least and the most of them.
	Runs   []RunFigures      `json:"runs"`
	Spread map[string]Spread `json:"spread"`

	// Series are the samples of each run, Curves its distributions: for the report.
	Series [][]Sample `json:"-"`
	Curves [][]Point  `json:"-"`
}

type latencies struct {
	P50 *float64 `json:"p50"`
	P99 *float64 `json:"p99"`
	Max *float64 `json:"max"`
}

// RunFigures are those of one run.
type RunFigures struct {
	ProbesPerSecond float64  `json:"probes_per_second"`
	CPU             float64  `json:"cpu_us_per_probe"`
	RSS             int64    `json:"rss_bytes"`
	Anon            int64    `json:"anon_bytes"`
	LagP99          *float64 `json:"lag_p99_ms"`
	LatencyP99      float64  `json:"latency_p99_ms"`
	Missed          *int64   `json:"missed"`
	Failed          int64    `json:"failed"`
	Duration        float64  `json:"duration_seconds"`
}

// Spread is of one figure over the runs.
type Spread struct {
	Least float64 `json:"min"`
	Most  float64 `json:"max"`
}

// median is that of what of gives; the mean of the two in the middle where there are two.
func median[R any, T int64 | float64](runs []R, of func(*R) T) T {
	all := make([]T, len(runs))
	for i := range runs {
		all[i] = of(&runs[i])
	}
	slices.Sort(all)
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2
}

func (r *run) rate() float64 { return float64(r.Attempts) / max(r.Seconds, 1e-9) }

// perProbe is a processor time in µs an attempt.
func (r *run) perProbe(ns int64) float64 { return float64(ns) / 1000 / float64(max(r.Attempts, 1)) }

func (r *run) cpu() float64 { return r.perProbe(int64(r.CPU)) }

// fill makes the result of the runs, of which there is one at least.
func (r *Result) fill(t *Test, runs []run, series [][]Sample, interrupted bool) {
	cfg := &t.cfg
	closed := cfg.Period == 0
	r.Test, r.Kind, r.Version, r.Machine = "probes", cfg.Kind, version.Version, &r.machine
	r.ProbesPerSecond, r.CPU = median(runs, (*run).rate), median(runs, (*run).cpu)
	r.RSS = median(runs, func(r *run) int64 { return r.RSS })
	r.Anon = median(runs, func(r *run) int64 { return r.Anon })
	r.AnonEmpty = median(runs, func(r *run) int64 { return r.AnonEmpty })
	r.Latency = medians(runs, func(r *run) quantiles { return r.Latency })
	r.Duration = median(runs, func(r *run) float64 { return r.Seconds })
	r.Targets, r.Period, r.WarmUp, r.ClosedLoop = cfg.Targets, cfg.Period.Seconds(), cfg.Warmup.Seconds(), closed
	r.EnginePeriod, r.InFlight = max(cfg.Period, leastPeriod).Seconds(), prober.InFlight
	r.Saturated = r.ProbesPerSecond < 0.95*float64(r.Targets)/r.EnginePeriod
	r.Cores, r.EngineCPUs, r.Slow, r.Failing, r.Seed, r.Interrupted = cfg.Cores, append([]int{}, t.engineCPUs...), cfg.Slow, cfg.Failing, cfg.Seed, interrupted
	r.Body = cfg.Body
	if cfg.Kind == KindExec {
		commands := median(runs, func(r *run) float64 { return r.perProbe(int64(r.Commands)) })
		r.CPUCommands = &commands
		if !slices.ContainsFunc(runs, func(r run) bool { return r.Pods < 0 }) {
			pods := median(runs, func(r *run) float64 { return r.perProbe(int64(r.Pods)) })
			r.CPUPods = &pods
		}
	}
	if runs[0].Connections >= 0 {
		seen := median(runs, func(r *run) float64 { return float64(r.Connections) / float64(max(r.All, 1)) })
		r.ConnectionsPerAttempt = &seen
	}
	if !closed {
		missed, spread := int64(0), median(runs, func(r *run) float64 { return r.Spread })
		for i := range runs {
			missed += runs[i].Missed
		}
		r.Missed, r.SlotMaxOverMean = &missed, &spread
		r.Lag = medians(runs, func(r *run) quantiles { return r.Lag })
	}
	for i := range runs {
		at := &runs[i]
		f := RunFigures{
			ProbesPerSecond: at.rate(), CPU: at.cpu(), RSS: at.RSS, Anon: at.Anon, LatencyP99: at.Latency.P99, Failed: at.Failed, Duration: at.Seconds,
		}
		if !closed {
			f.LagP99, f.Missed = &at.Lag.P99, &at.Missed
		}
		r.Runs, r.Curves, r.Failed = append(r.Runs, f), append(r.Curves, at.Curve), r.Failed+at.Failed
	}
	r.Series = series
	r.Spread = map[string]Spread{
		"probes_per_second": spreadOf(runs, (*run).rate), "cpu_us_per_probe": spreadOf(runs, (*run).cpu),
		"anon_bytes": spreadOf(runs, func(r *run) float64 { return float64(r.Anon) }),
	}
}

func medians(runs []run, of func(*run) quantiles) latencies {
	p50 := median(runs, func(r *run) float64 { return of(r).P50 })
	p99 := median(runs, func(r *run) float64 { return of(r).P99 })
	most := median(runs, func(r *run) float64 { return of(r).Max })
	return latencies{&p50, &p99, &most}
}

func spreadOf[R any](runs []R, of func(*R) float64) Spread {
	s := Spread{of(&runs[0]), of(&runs[0])}
	for i := range runs {
		s.Least, s.Most = min(s.Least, of(&runs[i])), max(s.Most, of(&runs[i]))
	}
	return s
}
