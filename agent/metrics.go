package agent

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/metric"

	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/telemetry"
)

// metrics has the probes' metrics, under the kubelet's names and labels. They are Prometheus' own, and not meters': the series of
// a probe go with the probe (13.1), and a probe costs a few hundred bytes.
type metrics struct {
	lag metric.Float64Histogram
	// series is *probeSeries by spec.ProbeID.
	series sync.Map

	mu sync.Mutex
	// durations are shared by probes of one name, as those of a pod and of the one that takes its place.
	durations map[durationLabels]*durations
}

// probeSeries are the series of one probe.
type probeSeries struct {
	labels [4]string // as in durationLabels
	uid    string
	runs   [spec.ResultFailure + 1]atomic.Uint64 // by result
	took   *durations
}

// durationLabels are the labels of a histogram, in the order of their names in the description.
type durationLabels struct{ kind, container, pod, namespace string }

// durations is a histogram that costs no lock: how many were in each bucket, and their sum.
type durations struct {
	buckets [len(buckets) + 1]atomic.Uint64
	nanos   atomic.Int64
	users   int // under metrics.mu
}

// buckets are the kubelet's, which are Prometheus' defaults, in seconds.
var buckets = [...]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

var (
	totalDesc = prometheus.NewDesc("prober_probe_total", "Runs of probes that count, by kind and result.",
		[]string{"probe_type", "container", "pod", "namespace", "result", "pod_uid"}, nil)
	durationDesc = prometheus.NewDesc("prober_probe_duration_seconds", "How long runs of probes took that were a success.",
		[]string{"probe_type", "container", "pod", "namespace"}, nil)
)

func newMetrics(t *telemetry.Metrics) (*metrics, error) {
	m := &metrics{durations: map[durationLabels]*durations{}}
	if err := t.Registerer().Register(m); err != nil {
		return nil, err
	}
	var err error
	m.lag, err = t.Meter("agent/prober").Float64Histogram("muster_prober_lag", metric.WithUnit("s"),
		metric.WithDescription("How late attempts of probes began."),
		metric.WithExplicitBucketBoundaries(0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5))
	return m, err
}

// watchSession shows whether there is a session with a coordinator.
func watchSession(t *telemetry.Metrics, up func() (bool, error)) error {
	_, err := t.Meter("agent").Int64ObservableGauge("muster_session_up",
		metric.WithDescription("1 while the agent has a session with a coordinator."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			n := int64(0)
			if ok, _ := up(); ok {
				n = 1
			}
			o.Observe(n)
			return nil
		}))
	return err
}

var resultLabels = [...]string{spec.ResultUnknown: "unknown", spec.ResultSuccess: "successful", spec.ResultFailure: "failed"}

// Run counts a run, with the kubelet's labels (13).
func (m *metrics) Run(pod spec.ObjectName, id spec.ProbeID, r spec.Result, took time.Duration) {
	s, known := m.series.Load(id)
	if !known {
		s = m.add(pod, id)
	}
	p := s.(*probeSeries)
	p.runs[r].Add(1)
	if r == spec.ResultSuccess {
		p.took.add(took)
	}
}

func (m *metrics) add(pod spec.ObjectName, id spec.ProbeID) any {
	l := durationLabels{id.Kind.Title(), id.Container, pod.Name, pod.Namespace}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, known := m.series.Load(id); known {
		return s
	}
	d := m.durations[l]
	if d == nil {
		d = &durations{}
		m.durations[l] = d
	}
	d.users++
	s := &probeSeries{labels: [4]string{l.kind, l.container, l.pod, l.namespace}, uid: id.PodUID, took: d}
	m.series.Store(id, s)
	return s
}

func (d *durations) add(took time.Duration) {
	i := 0
	for seconds := took.Seconds(); i < len(buckets) && seconds > buckets[i]; {
		i++
	}
	d.buckets[i].Add(1)
	d.nanos.Add(int64(took))
}

// Forget lets the series of a probe go that has gone (13.1).
func (m *metrics) Forget(id spec.ProbeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, known := m.series.LoadAndDelete(id)
	if !known {
		return
	}
	p := s.(*probeSeries)
	if p.took.users--; p.took.users == 0 {
		delete(m.durations, durationLabels{p.labels[0], p.labels[1], p.labels[2], p.labels[3]})
	}
}

// Lag takes how late an attempt began.
func (m *metrics) Lag(d time.Duration) { m.lag.Record(context.Background(), d.Seconds()) }

// Describe is prometheus.Collector's.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	to <- totalDesc
	to <- durationDesc
}

// Collect is prometheus.Collector's.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	m.series.Range(func(_, s any) bool {
		p := s.(*probeSeries)
		for r := range p.runs {
			if n := p.runs[r].Load(); n > 0 {
				to <- prometheus.MustNewConstMetric(totalDesc, prometheus.CounterValue, float64(n),
					p.labels[0], p.labels[1], p.labels[2], p.labels[3], resultLabels[r], p.uid)
			}
		}
		return true
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	for l, d := range m.durations {
		below, sum := make(map[float64]uint64, len(buckets)), uint64(0)
		for i := range buckets {
			sum += d.buckets[i].Load()
			below[buckets[i]] = sum
		}
		if sum += d.buckets[len(buckets)].Load(); sum > 0 {
			to <- prometheus.MustNewConstHistogram(durationDesc, sum, time.Duration(d.nanos.Load()).Seconds(), below, l.kind, l.container, l.pod, l.namespace)
		}
	}
}

// handler serves the probes' metrics alone, as the kubelet does at /metrics/probes.
func (m *metrics) handler() http.Handler {
	alone := prometheus.NewRegistry()
	alone.MustRegister(m)
	return promhttp.HandlerFor(alone, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: 8})
}
