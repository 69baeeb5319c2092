package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/telemetry"
)

// metrics has the probes' metrics, under the kubelet's names and labels.
type metrics struct {
	total    metric.Int64Counter
	duration metric.Float64Histogram
	lag      metric.Float64Histogram
	// labels are those of each probe that there is, made once: *probeLabels by spec.ProbeID.
	labels sync.Map
}

type probeLabels struct {
	runs     [spec.ResultFailure + 1]metric.MeasurementOption // by result
	duration metric.MeasurementOption
}

func newMetrics(t *telemetry.Metrics) (*metrics, error) {
	meter := t.Meter("agent/prober")
	m := &metrics{}
	var err error
	if m.total, err = meter.Int64Counter("prober_probe",
		metric.WithDescription("Runs of probes that count, by kind and result.")); err != nil {
		return nil, err
	}
	if m.duration, err = meter.Float64Histogram("prober_probe_duration", metric.WithUnit("s"),
		metric.WithDescription("How long runs of probes took that were a success.")); err != nil {
		return nil, err
	}
	m.lag, err = meter.Float64Histogram("muster_prober_lag", metric.WithUnit("s"),
		metric.WithDescription("How late attempts of probes began."),
		metric.WithExplicitBucketBoundaries(0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5))
	return m, err
}

var resultLabels = map[spec.Result]string{spec.ResultSuccess: "successful", spec.ResultFailure: "failed", spec.ResultUnknown: "unknown"}

// Run counts a run, with the kubelet's labels (13).
func (m *metrics) Run(pod spec.ObjectName, id spec.ProbeID, r spec.Result, took time.Duration) {
	ctx := context.Background()
	l, ok := m.labels.Load(id)
	if !ok {
		l, _ = m.labels.LoadOrStore(id, labelsOf(pod, id))
	}
	labels := l.(*probeLabels)
	m.total.Add(ctx, 1, labels.runs[r])
	if r == spec.ResultSuccess {
		m.duration.Record(ctx, took.Seconds(), labels.duration)
	}
}

func labelsOf(pod spec.ObjectName, id spec.ProbeID) *probeLabels {
	common := []attribute.KeyValue{
		attribute.String("probe_type", id.Kind.Title()), attribute.String("container", id.Container),
		attribute.String("pod", pod.Name), attribute.String("namespace", pod.Namespace),
	}
	l := &probeLabels{duration: metric.WithAttributeSet(attribute.NewSet(common...))}
	for r, text := range resultLabels {
		l.runs[r] = metric.WithAttributeSet(attribute.NewSet(append(slices.Clip(common),
			attribute.String("result", text), attribute.String("pod_uid", id.PodUID))...))
	}
	return l
}

// Forget lets go of the labels of a probe that has gone.
func (m *metrics) Forget(id spec.ProbeID) { m.labels.Delete(id) }

// Lag takes how late an attempt began.
func (m *metrics) Lag(d time.Duration) { m.lag.Record(context.Background(), d.Seconds()) }
