package loadtest

import (
	"math"
	"time"
)

// Results of tests that nobody has made: what their pages show is the same each time.

// aMachine is where they were made.
func aMachine() Machine {
	return Machine{
		CPU: "A processor with a rather long name @ 2.50GHz", CPUs: 2, MemoryBytes: 8 << 30, Kernel: "6.18.0", Arch: "amd64", Go: "go1.26.8",
		LoadBefore: 0.1, LoadAfter: 1.4,
	}
}

// wave goes up and down about mean.
func wave(mean float64, i int) float64 { return mean * (1 + 0.2*math.Sin(float64(i)/3)) }

// aCurve grows towards its end, as latencies do.
func aCurve(most float64) (c []Point) {
	for _, q := range percentiles {
		at := most * math.Pow(q/100, 8)
		c = append(c, Point{Percentile: q, Latency: 0.2 + at, Lag: 0.1 + at/2})
	}
	return c
}

// aResult is one of probes, of two runs, aClosedLoop another.
func aResult() *Result     { return aResultOf(10 * time.Second) }
func aClosedLoop() *Result { return aResultOf(0) }

func aResultOf(period time.Duration) *Result {
	var runs []run
	var series [][]Sample
	for n := range 2 {
		var samples []Sample
		for i := range 32 {
			samples = append(samples, Sample{
				At: float64(i + 1), Seconds: 1, WarmUp: i < 12, CPU: wave(0.09, i+n), Attempts: int64(wave(1000, i+n)), LatencyP99: wave(3, i), LagP99: wave(4, i+n),
				LagMax: wave(9, i+2*n), RSS: int64(wave(60<<20, i)), Anon: int64(wave(40<<20, i+n)),
			})
		}
		runs = append(runs, run{
			Seconds: 20, Ended: true, Attempts: 20_000, All: 32_000, Connections: 32_000, CPU: time.Duration(1800+n) * time.Millisecond, RSS: 62 << 20, Anon: 41 << 20,
			AnonEmpty: 6 << 20, Spread: 1.4, Lag: quantiles{1, 4, 9}, Latency: quantiles{0.4, 3, 12}, Curve: aCurve(12 + float64(n)),
		})
		series = append(series, samples)
	}
	t := &Test{cfg: Config{Kind: KindHTTP, Targets: 10_000, Period: period, Warmup: 12 * time.Second, Duration: 20 * time.Second, Runs: 2, Seed: 1}}
	r := &Result{machine: aMachine()}
	r.fill(t, runs, series, false)
	return r
}

// aFailoverResult has moves of every sort.
func aFailoverResult() *FailoverResult {
	r := &FailoverResult{Test: "failover", Version: "v0.0.0", Machine: aMachine(), Agents: 3, Pods: 3, Rounds: 2, Lease: 5, Seed: 1, Losses: []Loss{
		{Kind: LossKill, Node: "node-2", Shown: 590, Doubled: 1, Moves: []Move{
			{Pod: "fast-7d9c5b7f6c-x2k4v", Class: ClassFast, To: "node-1", Bound: 800, Started: 1290, Ready: 920},
			{Pod: "fast-7d9c5b7f6c-q8s1z", Class: ClassFast, To: "node-3", Bound: 810, Started: 1370, Ready: 1230, Doubled: true},
			{Pod: "single-2", Class: ClassFenced, To: "node-1", Bound: 5440, Started: 5760, Ready: 5670, Doubled: true},
		}},
		{Kind: LossHang, Node: "node-1", Shown: 1450, Moves: []Move{
			{Pod: "fast-7d9c5b7f6c-x2k4v", Class: ClassFast, To: "node-2", Bound: 1940, Started: 2250, Ready: 2060},
			{Pod: "single-2", Class: ClassFenced, To: "node-3", Bound: 5820, Started: 6270, Ready: 5940},
		}},
	}}
	r.account(Losses)
	return r
}

// aRun is a coordinator's.
var aRun = ingestRun{
	Seconds: 20, Offered: 180_000, Taken: 179_000, CPU: 6 * time.Second, CPUSeconds: 20, RSS: 751 << 20, Anon: 700 << 20,
	Watcher: watcherTimes{P50: 0.9, P99: 51, N: 200, Curve: aCurve(60)},
}

// aSample is one of its, at so many seconds.
func aSample(i int) IngestSample {
	return IngestSample{
		At: float64(i), Seconds: 1, Offered: wave(9000, i), CPU: wave(0.3, i), RSS: int64(wave(700<<20, i)), WarmUp: i < 10, Changes: int64(i % 7),
		WatcherP50: wave(1, i), WatcherMax: wave(20, i),
	}
}

// anIngestResult is one of two runs, aGivenIngestResult of a coordinator whose process nothing is known of.
func anIngestResult() *IngestResult { return anIngestResultOf(nil, aRun.CPU) }
func aGivenIngestResult() *IngestResult {
	return anIngestResultOf(&Given{Server: "10.0.0.1:7400", Version: "0.1.0", Unmeasured: "read the coordinator's metrics: refused"}, -1)
}

func anIngestResultOf(met *Given, cpu time.Duration) *IngestResult {
	t := &IngestTest{cfg: IngestConfig{
		Agents: 100, Pods: 30, Probes: 3, Period: time.Second, Warmup: 10 * time.Second, Duration: 20 * time.Second, Runs: 2, Seed: 1,
	}}
	o := &outcome{machine: aMachine(), met: met, runs: []ingestRun{aRun, aRun}}
	o.runs[1].Taken -= 20_000
	for i := range o.runs {
		if o.runs[i].CPU = cpu; cpu < 0 {
			o.runs[i].RSS, o.runs[i].Anon = -1, -1
		}
	}
	for i := range 50 {
		s := aSample(i)
		if s.Run, s.Phase = (i+10)/20, measuring; s.WarmUp {
			s.Run, s.Phase = 0, "warming up"
		}
		o.series = append(o.series, s)
	}
	return t.result(o)
}

// aFleetResult has all phases.
func aFleetResult() *FleetResult {
	t := &FleetTest{&IngestTest{cfg: IngestConfig{
		Agents: 1000, Pods: 30, Probes: 3, Period: 10 * time.Second, Warmup: 10 * time.Second, Duration: 20 * time.Second, Runs: 1, Seed: 1,
	}}}
	o := &outcome{
		machine: aMachine(), runs: []ingestRun{aRun}, churned: &churned{Run: aRun, Replaced: 600, Cuts: 20, Settled: 300 * time.Millisecond},
		restarted: &restarted{
			Serves: 5200 * time.Millisecond, LastAck: 7600 * time.Millisecond, LastVerdict: 21_700 * time.Millisecond, LateVerdicts: 90_000, NodeFlips: 647, Watches: 2,
		},
	}
	for i := range 80 {
		s := aSample(i)
		if s.Phase = []string{"warming up", measuring, measuring, "churn", "churn", "restart", "restart", "restart"}[i/10]; s.Phase == measuring {
			s.Run = 1
		}
		o.series = append(o.series, s)
	}
	return t.fleetResult(o)
}
