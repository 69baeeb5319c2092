package coordinator

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/restarts"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/telemetry"
)

// metrics are the coordinator's: how failovers went, phase by phase, and how the fleet stands.
type metrics struct {
	phases map[string]metric.Float64Histogram
	total  metric.Float64Histogram
}

// failoverBuckets are in seconds.
var failoverBuckets = []float64{0.05, 0.1, 0.25, 0.5, 1, 2, 3.5, 5, 7.5, 10, 15, 20, 30, 60, 180}

func newMetrics(t *telemetry.Metrics, cache *store.Cache, seen *fleet.Shared) (*metrics, error) {
	meter := t.Meter("coordinator")
	m := &metrics{phases: map[string]metric.Float64Histogram{}}
	buckets := metric.WithExplicitBucketBoundaries(failoverBuckets...)
	for _, phase := range []string{"detect", "confirm", "fence", "place", "deliver", "start", "ready"} {
		h, err := meter.Float64Histogram("muster_failover_"+phase, metric.WithUnit("s"), buckets,
			metric.WithDescription("How long the phase "+phase+" of failovers took."))
		if err != nil {
			return nil, err
		}
		m.phases[phase] = h
	}
	var err error
	if m.total, err = meter.Float64Histogram("muster_failover", metric.WithUnit("s"), buckets,
		metric.WithDescription("How long failovers took, from the last sign of life to ready.")); err != nil {
		return nil, err
	}
	_, err = meter.Int64ObservableGauge("muster_nodes", metric.WithDescription("Nodes by verdict."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			counts := map[spec.Verdict]int64{}
			seen.Look(func(f *fleet.Sight) {
				for _, n := range f.Nodes {
					counts[n.Verdict()]++
				}
			})
			for v, n := range counts {
				o.Observe(n, metric.WithAttributes(attribute.String("verdict", string(v))))
			}
			return nil
		}))
	if err != nil {
		return nil, err
	}
	_, err = meter.Int64ObservableGauge("muster_pods", metric.WithDescription("Pods by phase, as they are shown."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			counts := map[spec.Phase]int64{}
			seen.Look(func(f *fleet.Sight) {
				for _, p := range f.Pods {
					counts[fleet.Shown(f.View, p).Phase]++
				}
			})
			for phase, n := range counts {
				o.Observe(n, metric.WithAttributes(attribute.String("phase", string(phase))))
			}
			return nil
		}))
	if err != nil {
		return nil, err
	}
	_, err = meter.Int64ObservableGauge("muster_store_revision", metric.WithDescription("The newest store revision seen."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(cache.View().Revision())
			return nil
		}))
	return m, err
}

// guardMetrics has how many Deployments, and pods of them, wait because too many fail at once.
func guardMetrics(t *telemetry.Metrics, guards *restarts.Table) error {
	_, err := t.Meter("coordinator").Int64ObservableGauge("muster_restart_guard_held",
		metric.WithDescription("Deployments whose liveness restarts are held, and pods whose restart waits."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			deployments, pods := guards.Held()
			o.Observe(int64(deployments), metric.WithAttributes(attribute.String("kind", "deployments")))
			o.Observe(int64(pods), metric.WithAttributes(attribute.String("kind", "pods")))
			return nil
		}))
	return err
}

// watchBrake shows whether failover is frozen: frozen says why, or nothing.
func watchBrake(t *telemetry.Metrics, frozen func() string) error {
	_, err := t.Meter("coordinator").Int64ObservableGauge("muster_failover_frozen",
		metric.WithDescription("1 while the brake holds failover: muster status says why, muster resume lets it go on."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			n := int64(0)
			if frozen() != "" {
				n = 1
			}
			o.Observe(n)
			return nil
		}))
	return err
}

// Failover takes a failover whose phases are known.
func (m *metrics) Failover(f *spec.Failover) {
	ctx := context.Background()
	class := metric.WithAttributes(attribute.String("class", string(f.Class)), attribute.String("cause", f.Cause))
	var total time.Duration
	p := &f.Phases
	for _, phase := range []struct {
		name string
		took time.Duration
	}{
		{"detect", p.Detect}, {"confirm", p.Confirm}, {"fence", p.Fence}, {"place", p.Place},
		{"deliver", p.Deliver}, {"start", p.Start}, {"ready", p.Ready},
	} {
		if phase.took >= 0 {
			m.phases[phase.name].Record(ctx, phase.took.Seconds(), class)
			total += phase.took
		}
	}
	m.total.Record(ctx, total.Seconds(), class)
}
