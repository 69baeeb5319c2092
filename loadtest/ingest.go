package loadtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/musterhq/muster/internal/clientconfig"
	"github.com/musterhq/muster/internal/version"
)

// The bounds of a test of ingest.
const (
	MaxAgents     = 1000
	MaxAgentPods  = 1000
	MaxAllProbes  = 100_000
	maxPodsProbes = 3
)

// IngestConfig is a test of how many results a coordinator takes in.
type IngestConfig struct {
	// Agents, 1 to MaxAgents, have Pods pods each, 1 to MaxAgentPods, and those Probes probes, 1 to 3; MaxAllProbes in all.
	Agents, Pods, Probes int
	// Period is each probe's, 100 ms to MaxPeriod.
	Period time.Duration
	// Duration is how long is measured, 1 s to MaxDuration, after Warmup, 0 to MaxDuration.
	Duration, Warmup time.Duration
	// Cores pins the coordinator to so many processors, and the agents to the others; 0: neither is pinned.
	Cores int
	// Runs is how often it is measured, on the same fleet, 1 to MaxRuns.
	Runs int
	Seed uint64
	// CoordinatorArgv and FleetArgv start the processes; see CoordinatorPart and Fleet.
	CoordinatorArgv, FleetArgv []string
	// Given is a coordinator to measure, as whose admin; nil: one is started. It is left as it was found.
	Given *clientconfig.Context
	// TempDir is where the coordinator's data is kept; empty: the system's.
	TempDir string
}

// IngestProgress is how a test goes: what is done before it measures, or a sample.
type IngestProgress struct {
	Doing     string
	Run, Runs int
	Sample    *IngestSample
}

// IngestResult is what a test has measured: one JSON object, with the same keys always. Figures are medians of the runs.
type IngestResult struct {
	// Test is "ingest".
	Test    string  `json:"test"`
	Version string  `json:"version"`
	Machine Machine `json:"machine"`
	// ResultsPerSecond is what the coordinator has taken in, by its own table of probes; Offered is what the agents had.
	ResultsPerSecond float64 `json:"results_per_second"`
	Offered          float64 `json:"offered_per_second"`
	// CPU is user and system time of all of the coordinator's process, its store and renewals among it, in µs for each of those
	// results; Busy is how many processors that kept busy. These and RSS are null where a given coordinator's metrics do not tell
	// them, and Anon with every given one.
	CPU  *float64 `json:"cpu_us_per_result"`
	Busy *float64 `json:"busy_cores"`
	RSS  *int64   `json:"rss_bytes"`
	Anon *int64   `json:"anon_bytes"`
	// ChangeToWatcher is how long it takes from an agent's word that a verdict has changed until a client that watches has it; null
	// where none was told.
	ChangeToWatcher *WatcherLatency `json:"change_to_watcher_ms"`
	// Given is the coordinator where it was given; null where it was started. Machine is that of the agents then.
	Given *Given `json:"given_coordinator"`
	Cores int    `json:"cores"`
	// CoordinatorCPUs are those that it was pinned to.
	CoordinatorCPUs []int   `json:"coordinator_cpus"`
	Agents          int     `json:"agents"`
	Pods            int     `json:"pods_per_agent"`
	Probes          int     `json:"probes_per_pod"`
	Period          float64 `json:"period_seconds"`
	Duration        float64 `json:"duration_seconds"`
	WarmUp          float64 `json:"warmup_seconds"`
	// Saturated is whether less than 95 % of what was offered was taken in.
	Saturated   bool        `json:"saturated"`
	Seed        uint64      `json:"seed"`
	Interrupted bool        `json:"interrupted"`
	Runs        []IngestRun `json:"runs"`
	// Spread has null for a figure that is null.
	Spread map[string]*Spread `json:"spread"`

	// Series are the samples, Curve is how changes to the watcher are distributed in the last steady run: for the report.
	Series []IngestSample `json:"-"`
	Curve  []Point        `json:"-"`
}

// WatcherLatency is in ms.
type WatcherLatency struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// latencyOf is the median of the runs; nil without a change.
func latencyOf(runs []ingestRun) *WatcherLatency {
	for i := range runs {
		if runs[i].Watcher.N == 0 {
			return nil
		}
	}
	return &WatcherLatency{
		median(runs, func(r *ingestRun) float64 { return r.Watcher.P50 }), median(runs, func(r *ingestRun) float64 { return r.Watcher.P99 }),
	}
}

func (l *WatcherLatency) text() string {
	if l == nil {
		return "nothing was told"
	}
	return fmt.Sprintf("p50 %.1fms, p99 %.1fms", l.P50, l.P99)
}

// IngestRun are the figures of one run.
type IngestRun struct {
	ResultsPerSecond float64  `json:"results_per_second"`
	Offered          float64  `json:"offered_per_second"`
	CPU              *float64 `json:"cpu_us_per_result"`
	RSS              *int64   `json:"rss_bytes"`
	Duration         float64  `json:"duration_seconds"`
}

// IngestTest is a test of ingest. Make one with NewIngest, and run it once.
type IngestTest struct {
	cfg                        IngestConfig
	coordinatorCPUs, otherCPUs []int
}

// NewIngest checks the configuration.
func NewIngest(cfg IngestConfig) (*IngestTest, error) {
	return newIngest(cfg, MaxAgents, MaxAllProbes)
}

func newIngest(cfg IngestConfig, maxAgents, maxProbes int) (*IngestTest, error) {
	cpus, err := processors()
	if err != nil {
		return nil, err
	}
	within := func(name string, v, most int) error {
		if v < 1 || v > most {
			return fmt.Errorf("%s %d: must be 1 to %d", name, v, most)
		}
		return nil
	}
	between := func(name string, v, least, most time.Duration) error {
		if v < least || v > most {
			return fmt.Errorf("%s %v: must be %v to %v", name, v, least, most)
		}
		return nil
	}
	switch err := errors.Join(within("agents", cfg.Agents, maxAgents), within("pods", cfg.Pods, MaxAgentPods), within("probes", cfg.Probes, maxPodsProbes),
		within("runs", cfg.Runs, MaxRuns), between("period", cfg.Period, leastPeriod, MaxPeriod), between("duration", cfg.Duration, time.Second, MaxDuration),
		between("warm-up", cfg.Warmup, 0, MaxDuration)); {
	case err != nil:
		return nil, err
	case cfg.Agents*cfg.Pods*cfg.Probes > maxProbes:
		return nil, fmt.Errorf("%d agents with %d pods with %d probes: must be %d probes at most", cfg.Agents, cfg.Pods, cfg.Probes, maxProbes)
	case cfg.Cores > 0 && cfg.Given != nil:
		return nil, errors.New("cores: a given coordinator runs where it does")
	case cfg.Cores < 0 || cfg.Cores > len(cpus):
		return nil, fmt.Errorf("cores %d: must be 0 to %d, as many processors as this process may use", cfg.Cores, len(cpus))
	}
	t := &IngestTest{cfg: cfg, coordinatorCPUs: []int{}}
	if cfg.Cores > 0 {
		t.coordinatorCPUs, t.otherCPUs = cpus[len(cpus)-cfg.Cores:], cpus[:len(cpus)-cfg.Cores]
	}
	return t, nil
}

// Run measures, and tells progress. The end of ctx ends it early: the result then has the runs so far, or the error is
// ErrNothing. When it returns, nothing that it has started is left.
func (t *IngestTest) Run(ctx context.Context, progress func(IngestProgress)) (*IngestResult, error) {
	o, err := t.run(ctx, fleetJob{}, progress)
	if err != nil {
		return nil, err
	}
	return t.result(o), nil
}

// outcome is what the processes of a test have told.
type outcome struct {
	machine     Machine
	met         *Given
	runs        []ingestRun
	churned     *churned
	restarted   *restarted
	series      []IngestSample
	interrupted bool
}

// run starts the processes, and the agents with a job that has Churn and Restart.
func (t *IngestTest) run(ctx context.Context, j fleetJob, progress func(IngestProgress)) (o *outcome, err error) {
	cfg := &t.cfg
	o = &outcome{machine: thisMachine()}
	var c *part
	dir, client := "", ""
	if j.Given = cfg.Given; j.Given == nil {
		if dir, err = os.MkdirTemp(cfg.TempDir, "muster-loadtest-"); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }() // a coordinator that was killed has left it
		if c, err = t.startCoordinator(coordinatorJob{dir, "127.0.0.1:0"}); err != nil {
			return nil, err
		}
		defer func() { _ = c.stop() }()
		client = filepath.Join(dir, "client.yaml")
		j.Config, j.Coordinator = client, c.cmd.Process.Pid
	}
	agents, err := startPart(cfg.FleetArgv, t.otherCPUs)
	if err != nil {
		return nil, err
	}
	if cfg.Given != nil {
		agents.patience += cleanLimit(cfg.Agents * cfg.Pods)
	}
	defer func() {
		if stopped := agents.stop(); stopped != nil && err == nil {
			err = fmt.Errorf("the agents: %w", stopped)
		}
	}()
	defer context.AfterFunc(ctx, agents.ask)()
	j.Agents, j.Pods, j.Probes = cfg.Agents, cfg.Pods, cfg.Probes
	j.Period, j.Warmup, j.Duration, j.Runs, j.Seed = cfg.Period, cfg.Warmup, cfg.Duration, cfg.Runs, cfg.Seed
	if err := agents.say(j); err != nil {
		return nil, fmt.Errorf("start the agents: %w", err)
	}
	for len(o.runs) < cfg.Runs || j.Churn && o.churned == nil || j.Restart && o.restarted == nil {
		line, err := agents.lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if ctx.Err() != nil {
				break
			}
			return nil, fmt.Errorf("the agents ended early: %w", agents.died())
		}
		var s fleetSaid
		if err == nil {
			err = json.Unmarshal(line, &s)
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("hear from the agents: %w", err)
		case s.Met != nil:
			o.met = s.Met
		case s.Refused != "":
			return nil, errors.New(s.Refused)
		case s.Run != nil:
			o.runs = append(o.runs, *s.Run)
		case s.Churned != nil:
			o.churned = s.Churned
		case s.Restarted != nil:
			o.restarted = s.Restarted
		case s.Kill:
			target, err := server(client)
			if err != nil {
				return nil, err
			}
			_ = c.cmd.Process.Kill()
			_ = c.stop() // it was killed
			if err := os.Remove(client); err != nil {
				return nil, err
			}
			next, err := t.startCoordinator(coordinatorJob{dir, target})
			if err != nil {
				return nil, err
			}
			*c = *next
			if err := agents.say(fleetTold{c.cmd.Process.Pid}); err != nil {
				return nil, fmt.Errorf("tell the agents: %w", err)
			}
		default:
			if s.Sample != nil {
				if n := len(o.series); n > 0 {
					s.Sample.At = o.series[n-1].At + s.Sample.Seconds
				}
				if s.Sample.Phase = phase(len(o.runs), cfg.Runs, o.churned != nil, &j, s.Sample.WarmUp); s.Sample.Phase == measuring {
					s.Sample.Run = len(o.runs) + 1
				}
				if len(o.series) < maxSeries {
					o.series = append(o.series, *s.Sample)
				}
			}
			progress(IngestProgress{Doing: s.Doing, Run: min(len(o.runs)+1, cfg.Runs), Runs: cfg.Runs, Sample: s.Sample})
		}
	}
	if len(o.runs) == 0 {
		return nil, ErrNothing
	}
	o.machine.LoadAfter, o.interrupted = load(), ctx.Err() != nil
	return o, nil
}

// maxSeries bounds the samples that a report has.
const maxSeries = 20_000

const measuring = "measuring"

// phase is what a sample belongs to.
func phase(done, runs int, churned bool, j *fleetJob, warmUp bool) string {
	switch {
	case warmUp:
		return "warming up"
	case done < runs:
		return measuring
	case j.Churn && !churned:
		return "churn"
	}
	return "restart"
}

// startCoordinator returns once it serves.
func (t *IngestTest) startCoordinator(j coordinatorJob) (*part, error) {
	c, err := startPart(t.cfg.CoordinatorArgv, t.coordinatorCPUs)
	if err != nil {
		return nil, err
	}
	if err := c.say(j); err != nil {
		return nil, fmt.Errorf("start the coordinator: %w", errors.Join(err, c.stop()))
	}
	if _, err := c.hear(); err != nil {
		return nil, fmt.Errorf("start the coordinator: %w", c.died())
	}
	return c, nil
}

// server is where a client config leads.
func server(config string) (string, error) {
	conf, err := clientconfig.Load(config)
	if err != nil {
		return "", err
	}
	at, err := conf.Context("")
	return at.Server, err
}

func (r *ingestRun) rate() float64    { return float64(r.Taken) / r.Seconds }
func (r *ingestRun) offered() float64 { return float64(r.Offered) / r.Seconds }
func (r *ingestRun) busy() *float64 {
	return known(r.CPU, r.CPU.Seconds()/r.CPUSeconds)
}

func (r *ingestRun) cpu() *float64 {
	if r.Taken <= 0 {
		return nil
	}
	return known(r.CPU, r.CPU.Seconds()/r.CPUSeconds*1e6/r.rate())
}

func (r *ingestRun) rss() *int64  { return known(r.RSS, r.RSS) }
func (r *ingestRun) anon() *int64 { return known(r.Anon, r.Anon) }

// known is a figure of something that is negative where it is unknown; nil then.
func known[N int64 | time.Duration, T any](of N, figure T) *T {
	if of < 0 {
		return nil
	}
	return &figure
}

// knownMedian is the runs' median, and the spread; nil where one run's figure is unknown.
func knownMedian[T int64 | float64](runs []ingestRun, of func(*ingestRun) *T) (*T, *Spread) {
	for i := range runs {
		if of(&runs[i]) == nil {
			return nil, nil
		}
	}
	m, s := median(runs, func(r *ingestRun) T { return *of(r) }), spreadOf(runs, func(r *ingestRun) float64 { return float64(*of(r)) })
	return &m, &s
}

func (t *IngestTest) result(o *outcome) *IngestResult {
	cfg, runs := &t.cfg, o.runs
	r := &IngestResult{
		Test: "ingest", Version: version.Version, Machine: o.machine, ResultsPerSecond: median(runs, (*ingestRun).rate), Offered: median(runs, (*ingestRun).offered),
		ChangeToWatcher: latencyOf(runs), Given: o.met, Cores: cfg.Cores, CoordinatorCPUs: t.coordinatorCPUs,
		Agents: cfg.Agents, Pods: cfg.Pods, Probes: cfg.Probes, Period: cfg.Period.Seconds(),
		Duration: median(runs, func(r *ingestRun) float64 { return r.Seconds }), WarmUp: cfg.Warmup.Seconds(), Seed: cfg.Seed, Interrupted: o.interrupted,
		Series: o.series, Curve: runs[len(runs)-1].Watcher.Curve,
	}
	rate, cpu := spreadOf(runs, (*ingestRun).rate), (*Spread)(nil)
	r.CPU, cpu = knownMedian(runs, (*ingestRun).cpu)
	r.Busy, _ = knownMedian(runs, (*ingestRun).busy)
	r.RSS, _ = knownMedian(runs, (*ingestRun).rss)
	r.Anon, _ = knownMedian(runs, (*ingestRun).anon)
	r.Spread = map[string]*Spread{"results_per_second": &rate, "cpu_us_per_result": cpu}
	r.Saturated = r.ResultsPerSecond < 0.95*r.Offered
	for i := range runs {
		at := &runs[i]
		r.Runs = append(r.Runs, IngestRun{at.rate(), at.offered(), at.cpu(), at.rss(), at.Seconds})
	}
	return r
}

const unknownText = "unknown"

// Table is the result for people: rows of cells, the header first.
func (r *IngestResult) Table() [][]string {
	spread := func(key string) string {
		if len(r.Runs) < 2 || r.Spread[key] == nil {
			return ""
		}
		return fmt.Sprintf("%.1f to %.1f", r.Spread[key].Least, r.Spread[key].Most)
	}
	on := "unpinned"
	switch {
	case r.Given != nil:
		on = fmt.Sprintf("at %s, muster %s", r.Given.Server, r.Given.Version)
	case r.Cores > 0:
		on = fmt.Sprintf("pinned to processors %v", r.CoordinatorCPUs)
	}
	cpu, memory := unknownText, unknownText
	if r.CPU != nil {
		cpu = fmt.Sprintf("%.2fµs, %.2f processors in all", *r.CPU, *r.Busy)
	}
	if r.RSS != nil {
		memory = fmt.Sprintf("%.1f MiB resident", float64(*r.RSS)/(1<<20))
	}
	if r.Anon != nil {
		memory += fmt.Sprintf(", %.1f MiB anonymous", float64(*r.Anon)/(1<<20))
	}
	rows := [][]string{
		{"FIGURE", "VALUE", "RUNS"},
		{"test", fmt.Sprintf("%d agents, %d pods each, %d probes each, one each %gs", r.Agents, r.Pods, r.Probes, r.Period), ""},
		{"measured", fmt.Sprintf("%.1fs after a warm-up of %gs, the coordinator %s", r.Duration, r.WarmUp, on), strconv.Itoa(len(r.Runs))},
		{"results a second", fmt.Sprintf("%.0f of %.0f offered", r.ResultsPerSecond, r.Offered), spread("results_per_second")},
		{"cpu a result", cpu, spread("cpu_us_per_result")},
		{"change to watcher", r.ChangeToWatcher.text(), ""},
		{"memory", memory, ""},
	}
	if r.Given != nil && r.Given.Unmeasured != "" {
		rows = append(rows, []string{"note", "of the coordinator's process nothing is known: " + r.Given.Unmeasured, ""})
	}
	if r.Given != nil {
		rows = append(rows, []string{"note", "the coordinator was given: its process does all else that it has to do, too; the machine is that of the agents", ""})
	}
	if r.Saturated {
		rows = append(rows, []string{"note", "not all was taken in that was offered", ""})
	}
	if r.Interrupted {
		rows = append(rows, []string{"note", "ended early", ""})
	}
	return slices.Concat(rows, about(&r.Machine, r.Version))
}
