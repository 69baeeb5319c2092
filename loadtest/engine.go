package loadtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/probe"
	"github.com/musterhq/muster/agent/prober"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/telemetry"
	"github.com/musterhq/muster/internal/version"
)

const (
	// leastPeriod is the shortest that the API allows: probes of a closed loop have it.
	leastPeriod = 100 * time.Millisecond
	// timeout is that of every probe: Kubernetes' default.
	timeout = time.Second
	// coarse is from which period on the engine's slots are prober.Slot wide, as the prober has it.
	coarse = 2 * time.Second
	// sampleEvery is how often an engine tells how it goes.
	sampleEvery = time.Second
)

// job is what an engine process is told: a line of JSON on its stdin, whose end ends it.
type job struct {
	Kind    string
	Targets int
	// Period is 0 for a closed loop.
	Period, Warmup, Duration time.Duration
	Seed                     uint64
	// Base is the first probe's address; the others' follow it where it is one of loopback. Port is the port of most, SlowPort
	// that of the first Slow probes, FailingPort of the next Failing.
	Base                        netip.Addr
	Port, SlowPort, FailingPort int
	Slow, Failing               int
	// DataDir is where pods are kept, for exec probes; Supervisor starts one where none is embedded.
	DataDir    string
	Supervisor []string
	// Profile is the file that a CPU profile of the window is written to; empty for none.
	Profile string
}

// said is a line that an engine process writes: one of the two.
type said struct {
	Sample *Sample `json:",omitempty"`
	Run    *run    `json:",omitempty"`
}

// Sample is how an engine does, told once a second.
type Sample struct {
	// At is since the engine's start, in seconds; Seconds is what the counts are of.
	At      float64 `json:"at_seconds"`
	Seconds float64 `json:"seconds"`
	WarmUp  bool    `json:"warm_up"`
	// CPU is processor time, in seconds.
	CPU        float64 `json:"cpu_seconds"`
	Attempts   int64   `json:"attempts"`
	Failed     int64   `json:"failed"`
	Missed     int64   `json:"missed"`
	LatencyP99 float64 `json:"latency_p99_ms"`
	LagP99     float64 `json:"lag_p99_ms"`
	LagMax     float64 `json:"lag_max_ms"`
	RSS        int64   `json:"rss_bytes"`
	Anon       int64   `json:"anon_bytes"`
}

// run is what one run has measured.
type run struct {
	// Seconds is how long the window was: 0 where the run ended before it.
	Seconds                  float64
	Ended                    bool
	Attempts, Failed, Missed int64
	// All are the attempts from the start to the end of the engine, Connections what its targets have seen of them; negative where
	// that is unknown.
	All, Connections int64
	CPU, Commands    time.Duration
	// Pods is what supervisors and containers used, the commands among it; negative where that is unknown.
	Pods                 time.Duration
	RSS, Anon, AnonEmpty int64
	Spread               float64
	Lag, Latency         quantiles
	Curve                []Point
}

type quantiles struct{ P50, P99, Max float64 }

// Point is one of a distribution: so many percent of values are at most these, in ms.
type Point struct {
	Percentile float64 `json:"percentile"`
	Latency    float64 `json:"latency_ms"`
	Lag        float64 `json:"lag_ms"`
}

// Engine is the process that probes: it reads its job from in, writes what it measures to out, and returns when it is done or
// in has ended. It is not for people to call.
func Engine(ctx context.Context, in io.Reader, out io.Writer) error {
	signal.Ignore(syscall.SIGPIPE) // who listens may be gone: there are pods to take away nevertheless
	var j job
	ctx, cancel, _, err := told(ctx, in, &j)
	if err != nil {
		return err
	}
	defer cancel()
	var exec probe.Execer
	var pods *pods
	if j.Kind == KindExec {
		if pods, err = startPods(ctx, &j); err != nil {
			ended := ctx.Err() != nil
			if err = errors.Join(err, removePods(j.DataDir, j.Supervisor)); ended {
				return os.RemoveAll(j.DataDir)
			}
			return err
		}
		defer pods.close()
		exec = pods.runtime
	}
	enc := json.NewEncoder(out)
	attempter := probe.New(exec)
	e := &engine{job: &j, pods: pods, attempt: attempter.Attempt, begin: attempter.Begin, tell: func(s said) error { return enc.Encode(s) }}
	return e.run(ctx)
}

// engine is an agent's probing, and what is counted of it.
type engine struct {
	job     *job
	pods    *pods
	attempt func(context.Context, *probe.Question) probe.Answer
	// begin may be nil.
	begin func(context.Context, *probe.Question, probe.Done) (probe.Answer, probe.Begun)
	tell  func(said) error
}

// rows are the probes: each with a pod, an address and a spec of its own.
func (e *engine) rows(now time.Time) []prober.Row {
	j := e.job
	rows := make([]prober.Row, j.Targets)
	address := j.Base
	period := j.Period
	if period == 0 {
		period = leastPeriod
	}
	for i := range rows {
		port := int32(j.Port)
		switch {
		case i < j.Slow:
			port = int32(j.SlowPort)
		case i < j.Slow+j.Failing:
			port = int32(j.FailingPort)
		}
		id := uid(i, j.Seed)
		rows[i] = prober.Row{
			ID:  spec.ProbeID{PodUID: id, Container: "main", Kind: spec.Readiness},
			Pod: spec.ObjectName{Namespace: "loadtest", Name: fmt.Sprintf("pod-%d", i)},
			Probe: &spec.Probe{
				Handler: handler(j.Kind, port, i), Period: period, Timeout: timeout, SuccessThreshold: 1, FailureThreshold: 3,
			},
			Address: address.String(), Instance: container.ContainerID("loadtest://" + id + "/main/0"), StartedAt: now, Running: true, Started: true,
			// An agent's own start spreads probes at once; pods that start together drift apart over ten periods.
			Adopted: true,
		}
		if e.pods != nil {
			rows[i].Instance = e.pods.instance(i)
		}
		if address.IsLoopback() {
			address = address.Next()
		}
	}
	return rows
}

func handler(kind string, port int32, i int) spec.Handler {
	at := spec.PortRef{Number: port}
	switch kind {
	case KindHTTP, KindHTTPS:
		scheme := map[string]string{KindHTTP: "HTTP", KindHTTPS: "HTTPS"}[kind]
		return spec.Handler{HTTP: &spec.HTTPAction{Scheme: scheme, Port: at, Path: fmt.Sprintf("/ready/%d", i)}}
	case KindTCP:
		return spec.Handler{TCP: &spec.TCPAction{Port: at}}
	case KindGRPC:
		return spec.Handler{GRPC: &spec.GRPCAction{Port: port}}
	}
	return spec.Handler{Exec: &spec.ExecAction{Command: []string{"true"}}}
}

// run probes for the warm-up and the window, and tells samples and the run. The end of ctx ends it early, with what was
// measured so far.
func (e *engine) run(ctx context.Context) error {
	j := e.job
	log := slog.New(slog.DiscardHandler)
	metrics, err := telemetry.NewMetrics("agent", "loadtest", version.Version, log)
	if err != nil {
		return err
	}
	defer func() { _ = metrics.Shutdown(context.WithoutCancel(ctx)) }()
	rec := newRecorder(j.Targets, j.Period)
	probing, err := agent.NewProbing(agent.ProbingConfig{
		Attempt: e.attempt, Begin: e.begin, Report: func(prober.Report) {}, Believe: func(spec.ProbeState) {}, Metrics: metrics, Log: log,
		Observe: func(id spec.ProbeID, a spec.Attempt) { rec.observe(id, &a) },
	})
	if err != nil {
		return err
	}
	_, empty := memory()
	probes, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = probing.Prober.Run(probes) // nil: only its context ends it
	}()
	defer func() { stop(); <-ended }()

	w := &watch{rec: rec, start: time.Now(), tell: e.tell}
	w.since, w.cpu = w.start, processorTime()
	for _, r := range e.rows(w.start) {
		probing.Prober.Set(r)
	}
	set := time.Now()
	if !w.until(ctx, w.start.Add(j.Warmup), true) {
		return e.tell(said{Run: &run{}})
	}
	if err := w.sample(true); err != nil {
		return err
	}
	pods := e.spent(ctx)
	if j.Profile != "" {
		f, err := os.Create(j.Profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
	}
	from, cpu := time.Now(), processorTime()
	rec.begin(from)
	whole := w.until(ctx, from.Add(j.Duration), false)
	to := time.Now()
	rec.end(to)
	r := &run{Seconds: to.Sub(from).Seconds(), Ended: whole, CPU: processorTime() - cpu, AnonEmpty: empty}
	if j.Profile != "" {
		pprof.StopCPUProfile()
	}
	if err := w.sample(false); err != nil && whole {
		return err
	}
	r.Pods = -1
	if after := e.spent(context.WithoutCancel(ctx)); pods >= 0 && after >= 0 {
		r.Pods = after - pods
	}
	if j.Period > 0 && whole { // attempts that began in time are still to tell so
		sleep(ctx, timeout)
	}
	e.fill(r, rec.result(set.Add(j.Period)), rec)
	r.RSS, r.Anon = w.rss, w.anon
	stop()
	<-ended
	r.All = rec.total()
	return e.tell(said{Run: r})
}

// spent is the processor time of the pods so far; negative where it is unknown, or there are none.
func (e *engine) spent(ctx context.Context) time.Duration {
	if e.pods == nil {
		return -1
	}
	return e.pods.spent(ctx)
}

// fill puts what was counted into the run.
func (e *engine) fill(r *run, t totals, rec *recorder) {
	r.Attempts, r.Failed, r.Missed, r.Commands = t.attempts, t.failed, t.missed, t.commands
	latency := t.latency
	if e.job.Period == 0 && t.attempts > 0 {
		latency = corrected(latency, int64(prober.InFlight*r.Seconds*1e6)/t.attempts)
	} else {
		slot := prober.FineSlot
		if e.job.Period >= coarse {
			slot = prober.Slot
		}
		r.Spread = rec.spread(slot)
	}
	for _, q := range percentiles {
		r.Curve = append(r.Curve, Point{q, ms(latency.ValueAtQuantile(q)), ms(t.lag.ValueAtQuantile(q))})
	}
	r.Latency = quantiles{ms(latency.ValueAtQuantile(50)), ms(latency.ValueAtQuantile(99)), ms(latency.Max())}
	r.Lag = quantiles{ms(t.lag.ValueAtQuantile(50)), ms(t.lag.ValueAtQuantile(99)), ms(t.lag.Max())}
}

// percentiles are the points of a distribution, in percent.
var percentiles = []float64{1, 5, 10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 92.5, 95, 96, 97, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.99, 100}

// watch takes samples.
type watch struct {
	rec   *recorder
	tell  func(said) error
	start time.Time
	since time.Time
	cpu   time.Duration
	// rss and anon are the most that a sample of the window has seen.
	rss, anon int64
}

// until samples until then, and reports false when ctx ended before, or nobody listens any more.
func (w *watch) until(ctx context.Context, then time.Time, warmUp bool) bool {
	for {
		left := time.Until(then)
		if left <= 0 {
			return ctx.Err() == nil
		}
		if !sleep(ctx, min(left, sampleEvery)) {
			return false
		}
		if time.Since(w.since) >= sampleEvery && w.sample(warmUp) != nil {
			return false
		}
	}
}

// sample tells of the time since the last one.
func (w *watch) sample(warmUp bool) error {
	now, cpu := time.Now(), processorTime()
	s := Sample{At: now.Sub(w.start).Seconds(), Seconds: now.Sub(w.since).Seconds(), WarmUp: warmUp, CPU: (cpu - w.cpu).Seconds()}
	w.since, w.cpu = now, cpu
	s.RSS, s.Anon = memory()
	if !warmUp {
		w.rss, w.anon = max(w.rss, s.RSS), max(w.anon, s.Anon)
	}
	w.rec.sample(&s)
	if s.Seconds < 0.01 {
		return nil // too short to say anything
	}
	return w.tell(said{Sample: &s})
}

// sleep waits, or returns false when ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
