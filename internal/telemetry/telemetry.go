// Package telemetry is how a server shows itself: its log, its metrics and traces (OpenTelemetry; read by Prometheus,
// exported by OTLP where the environment says so) and its health, and the HTTPS listener that serves them. What is
// measured is each part's business: a part takes the meter or tracer that is handed to it.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/pflag"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	"github.com/musterhq/muster/internal/identity"
)

// LogConfig says how a server logs.
type LogConfig struct {
	// Format is text or json; Level is debug, info, warn or error.
	Format, Level string
}

// AddFlags declares --log-format and --log-level.
func (c *LogConfig) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&c.Format, "log-format", "text", "how to log on stderr: text or json")
	flags.StringVar(&c.Level, "log-level", "info", "what to log: debug, info, warn or error, and what is worse")
}

// NewLogger makes the log of a server. An error names the flag.
func NewLogger(w io.Writer, c LogConfig) (*slog.Logger, error) {
	var level slog.Level
	switch strings.ToLower(c.Level) {
	case "debug", "info", "warn", "error":
		if err := level.UnmarshalText([]byte(c.Level)); err != nil {
			return nil, fmt.Errorf("--log-level %q: %w", c.Level, err)
		}
	default:
		return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", c.Level)
	}
	o := &slog.HandlerOptions{Level: level}
	switch c.Format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, fmt.Errorf("--log-format %q: want text or json", c.Format)
}

// Metrics has a server's meters and its registry, which is its own: nothing that a library registers by itself is in it.
type Metrics struct {
	provider *sdk.MeterProvider
	registry *prometheus.Registry
}

// NewMetrics makes the metrics of a server: service is coordinator or agent, instance its name. Those of the process and
// of Go's runtime are there from the start, on Handler only. Where the environment asks for it (OTEL_METRICS_EXPORTER,
// OTEL_EXPORTER_OTLP_ENDPOINT and their kin) all others are exported by OTLP too; an error names the variable.
func NewMetrics(service, instance, version string, log *slog.Logger) (*Metrics, error) {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	exporter, err := otelprom.New(otelprom.WithRegisterer(m.registry), otelprom.WithoutScopeInfo())
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	from, err := identify(service, instance, version)
	if err != nil {
		return nil, err
	}
	exported, other, err := exportedMetrics(log)
	if err != nil {
		return nil, err
	}
	options := []sdk.Option{sdk.WithReader(exporter), sdk.WithResource(from)}
	if exported != nil {
		options = append(options, sdk.WithReader(exported))
	}
	m.provider = sdk.NewMeterProvider(options...)
	if other != nil {
		err = other.count(m)
	}
	return m, err
}

// Meter returns the meter of a part, named by its package.
func (m *Metrics) Meter(name string) metric.Meter { return m.provider.Meter(name) }

// Registerer takes collectors that are Prometheus' own.
func (m *Metrics) Registerer() prometheus.Registerer { return m.registry }

// Certificate shows until when the server's certificate is valid, as a Unix time in seconds. It is replaced at two thirds
// of its life, so a time that comes near means that this fails.
func (m *Metrics) Certificate(holder *identity.Holder) error {
	_, err := m.Meter("telemetry").Int64ObservableGauge("muster_certificate_not_after_timestamp", metric.WithUnit("s"),
		metric.WithDescription("When the server's certificate ends, as a Unix time."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			if c := holder.Get(); c != nil {
				o.Observe(c.Leaf.NotAfter.Unix())
			}
			return nil
		}))
	return err
}

// Handler serves the metrics, in Prometheus' text format or OpenMetrics'.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: 8})
}

// Shutdown ends the metrics, after one last export where there is one: what is measured later is lost.
func (m *Metrics) Shutdown(ctx context.Context) error {
	// A second shutdown is no error.
	if err := m.provider.Shutdown(ctx); err != nil && !errors.Is(err, sdk.ErrReaderShutdown) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}
