package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

const (
	// shutdownLimit bounds what a server that stops spends on handing over what is queued.
	shutdownLimit = 2 * time.Second
	// quietFor is how long a collector that does not take what it is sent is not mentioned again.
	quietFor = 5 * time.Minute
	// defaultQueue and maxQueue are how many spans may wait, unless OTEL_BSP_MAX_QUEUE_SIZE says so, and at most.
	defaultQueue, maxQueue = 2048, 65536
)

// The protocols that are spoken to a collector.
const (
	protocolGRPC = "grpc"
	protocolHTTP = "http/protobuf"
)

// The variables that more than one function reads.
const (
	envDisabled = "OTEL_SDK_DISABLED"
	envQueue    = "OTEL_BSP_MAX_QUEUE_SIZE"
)

// export reads from the environment how a signal, TRACES or METRICS, is exported by OTLP: the protocol, or "" when it is
// not. It is when OTEL_<signal>_EXPORTER says otlp, or says nothing and there is an endpoint. Endpoint, headers,
// certificates, compression and timeouts are read by the exporters themselves. An error names the variable.
func export(signal string) (protocol string, err error) {
	if disabled, err := disabled(); disabled || err != nil {
		return "", err
	}
	endpoint := false
	for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_" + signal + "_ENDPOINT"} {
		text := os.Getenv(name)
		if text == "" {
			continue
		}
		endpoint = true
		// The exporters take an endpoint that they cannot read for none, and go to localhost.
		if u, err := url.Parse(text); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return "", fmt.Errorf("%s %q: want http://HOST:PORT or https://HOST:PORT", name, text)
		}
	}
	name := "OTEL_" + signal + "_EXPORTER"
	wanted := endpoint
	if text := os.Getenv(name); text != "" {
		wanted = false
		for one := range strings.SplitSeq(text, ",") {
			switch one = strings.TrimSpace(one); {
			case one == "otlp":
				wanted = true
			case one == "none", one == "prometheus" && signal == "METRICS": // /metrics is served in any case
			default:
				return "", fmt.Errorf("%s %q: want otlp or none", name, one)
			}
		}
	}
	if !wanted {
		return "", nil
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_" + signal + "_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		switch text := os.Getenv(name); text {
		case "":
		case protocolGRPC, protocolHTTP:
			return text, nil
		default:
			return "", fmt.Errorf("%s %q: want %s or %s", name, text, protocolGRPC, protocolHTTP)
		}
	}
	return protocolHTTP, nil
}

// CheckExport finds what the variables of OpenTelemetry say that cannot be followed, so that a server ends before it has
// begun anything. An error names the variable.
func CheckExport() error {
	for _, signal := range []string{"TRACES", "METRICS"} {
		if _, err := export(signal); err != nil {
			return err
		}
	}
	if _, err := queueSize(); err != nil {
		return err
	}
	_, err := identify("", "", "")
	return err
}

func disabled() (bool, error) {
	switch text := os.Getenv(envDisabled); strings.ToLower(text) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, fmt.Errorf("%s %q: want true or false", envDisabled, text)
	}
}

// queueSize is how many spans may wait for their export.
func queueSize() (int, error) {
	text := os.Getenv(envQueue)
	if text == "" {
		return defaultQueue, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxQueue {
		return 0, fmt.Errorf("%s %q: want a number from 1 to %d", envQueue, text, maxQueue)
	}
	return n, nil
}

// identify says whose the signals are: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have the last word.
func identify(service, instance, version string) (*resource.Resource, error) {
	r, err := resource.New(context.Background(), resource.WithAttributes(
		attribute.String("service.name", "muster-"+service),
		attribute.String("service.instance.id", instance),
		attribute.String("service.version", version),
	), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: want key=value,key=value: %w", err)
	}
	return r, nil
}

// exportedMetrics is the reader that sends metrics to a collector once a minute (OTEL_METRIC_EXPORT_INTERVAL), nil
// where the environment asks for none.
func exportedMetrics(log *slog.Logger) (sdk.Reader, *collector, error) {
	protocol, err := export("METRICS")
	if err != nil || protocol == "" {
		return nil, nil, err
	}
	var exporter sdk.Exporter
	if protocol == protocolGRPC {
		exporter, err = otlpmetricgrpc.New(context.Background()) // connects when it has something to send
	} else {
		exporter, err = otlpmetrichttp.New(context.Background())
	}
	if err != nil {
		return nil, nil, fmt.Errorf("export of metrics by OTLP: %w", err)
	}
	log.Info("metrics are exported by OTLP", "protocol", protocol)
	c := &collector{signal: "metrics", log: log}
	return sdk.NewPeriodicReader(&metricExporter{exporter, c}), c, nil
}

// Traces has a server's spans. Without an export they cost nothing and go nowhere.
type Traces struct {
	provider trace.TracerProvider
	shutdown func(context.Context) error
}

// NewTraces makes the traces of a server, exported by OTLP when the environment says so; an error names the variable. At
// most 2048 spans wait (OTEL_BSP_MAX_QUEUE_SIZE, up to 65536); those that find no room, or that a collector does not
// take, are dropped and counted in m, as muster_otlp_spans_dropped.
func NewTraces(service, instance, version string, m *Metrics, log *slog.Logger) (*Traces, error) {
	t := &Traces{provider: noop.NewTracerProvider(), shutdown: func(context.Context) error { return nil }}
	if text := os.Getenv("OTEL_LOGS_EXPORTER"); text != "" && text != "none" {
		log.Warn("logs are not exported: they are on stderr", "variable", "OTEL_LOGS_EXPORTER")
	}
	protocol, err := export("TRACES")
	if err != nil || protocol == "" {
		return t, err
	}
	size, err := queueSize()
	if err != nil {
		return nil, err
	}
	from, err := identify(service, instance, version)
	if err != nil {
		return nil, err
	}
	var client otlptrace.Client
	if protocol == protocolGRPC {
		client = otlptracegrpc.NewClient()
	} else {
		client = otlptracehttp.NewClient()
	}
	exporter, err := otlptrace.New(context.Background(), client) // connects when it has something to send
	if err != nil {
		return nil, fmt.Errorf("export of traces by OTLP: %w", err)
	}
	log.Info("traces are exported by OTLP", "protocol", protocol)
	return newTraces(from, exporter, size, m, log)
}

// newTraces sends spans to an exporter.
func newTraces(from *resource.Resource, exporter sdktrace.SpanExporter, size int, m *Metrics, log *slog.Logger) (*Traces, error) {
	q := &spanQueue{size: int64(size)}
	out := &spanExporter{exporter, q, &collector{signal: "traces", log: log}}
	q.SpanProcessor = sdktrace.NewBatchSpanProcessor(out, sdktrace.WithMaxQueueSize(size))
	if err := out.collector.count(m); err != nil {
		return nil, err
	}
	_, err := m.Meter("telemetry").Int64ObservableCounter("muster_otlp_spans_dropped",
		metric.WithDescription("Spans that were not exported: there was no room for them in the queue, or the collector did not take them."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(q.full.Load(), metric.WithAttributes(attribute.String("reason", "queue")))
			o.Observe(q.refused.Load(), metric.WithAttributes(attribute.String("reason", "export")))
			return nil
		}))
	if err != nil {
		return nil, err
	}
	p := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(q), sdktrace.WithResource(from))
	return &Traces{provider: p, shutdown: p.Shutdown}, nil
}

// Tracer returns the tracer of a part, named by its package.
func (t *Traces) Tracer(name string) trace.Tracer { return t.provider.Tracer(name) }

// Shutdown hands over what is queued, for as long as ctx lasts. What is left then is dropped.
func (t *Traces) Shutdown(ctx context.Context) error { return t.shutdown(ctx) }

// Shutdown ends signals at the same time. It takes at most 2 s, also when a collector hangs, and logs what fails.
func Shutdown(log *slog.Logger, signals ...interface{ Shutdown(context.Context) error }) {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownLimit)
	defer cancel()
	done := make(chan error, len(signals))
	for _, s := range signals {
		go func() { done <- s.Shutdown(ctx) }() // one that hangs ends with the process
	}
	for range signals {
		select {
		case err := <-done:
			if err != nil {
				log.Warn("telemetry not handed over", "err", err)
			}
		case <-ctx.Done():
			log.Warn("telemetry not handed over", "err", ctx.Err())
			return
		}
	}
}

// spanQueue counts the spans that wait, so that the processor behind it, which drops without a word, never has to.
type spanQueue struct {
	sdktrace.SpanProcessor
	size                   int64
	waiting, full, refused atomic.Int64
}

// OnEnd never waits.
func (q *spanQueue) OnEnd(s sdktrace.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	if q.waiting.Add(1) > q.size {
		q.waiting.Add(-1)
		q.full.Add(1)
		return
	}
	q.SpanProcessor.OnEnd(s)
}

// spanExporter keeps a failed export from the SDK's own log, which knows no bound.
type spanExporter struct {
	sdktrace.SpanExporter
	queue     *spanQueue
	collector *collector
}

func (e *spanExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	e.queue.waiting.Add(-int64(len(spans)))
	if err != nil {
		e.queue.refused.Add(int64(len(spans)))
	}
	e.collector.answered(err)
	return nil
}

type metricExporter struct {
	sdk.Exporter
	collector *collector
}

func (e *metricExporter) Export(ctx context.Context, data *metricdata.ResourceMetrics) error {
	e.collector.answered(e.Exporter.Export(ctx, data))
	return nil
}

// collector is what is known of the other end: it speaks of it once when exports begin to fail, then every five minutes,
// and once when they work again.
type collector struct {
	signal string
	log    *slog.Logger
	failed atomic.Int64

	mu    sync.Mutex
	down  bool
	spoke time.Time
}

// count puts the failed exports among the metrics.
func (c *collector) count(m *Metrics) error {
	_, err := m.Meter("telemetry").Int64ObservableCounter("muster_otlp_failed_exports",
		metric.WithDescription("Exports by OTLP that failed, retries within their time included."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(c.failed.Load(), metric.WithAttributes(attribute.String("signal", c.signal)))
			return nil
		}))
	return err
}

// answered takes how an export went.
func (c *collector) answered(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		if c.down {
			c.down = false
			c.log.Info("export by OTLP works again", "signal", c.signal)
		}
		return
	}
	c.failed.Add(1)
	if now := time.Now(); !c.down || now.Sub(c.spoke) >= quietFor {
		c.down, c.spoke = true, now
		c.log.Warn("export by OTLP failed", "signal", c.signal, "failed", c.failed.Load(), "err", brief(err))
	}
}

// brief is the first of what an error says, on one line: a collector's answer may be long.
func brief(err error) error {
	const most = 300
	text := strings.ReplaceAll(err.Error(), "\n", " ")
	if len(text) > most {
		text = text[:most] + "…"
	}
	return errors.New(text)
}
