package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/musterhq/muster/internal/telemetry/collectortest"
)

// noVariables takes what the machine that runs the test has set away.
func noVariables(t *testing.T) {
	t.Helper()
	for _, e := range os.Environ() {
		if name, value, _ := strings.Cut(e, "="); strings.HasPrefix(name, "OTEL_") {
			os.Unsetenv(name)
			t.Cleanup(func() { os.Setenv(name, value) })
		}
	}
}

func signals(t *testing.T, log *slog.Logger) (*Metrics, *Traces) {
	t.Helper()
	m, err := NewMetrics("coordinator", "c1", "1.2.3", log)
	if err != nil {
		t.Fatal(err)
	}
	traces, err := NewTraces("coordinator", "c1", "1.2.3", m, log)
	if err != nil {
		t.Fatal(err)
	}
	return m, traces
}

func scraped(t *testing.T, m *Metrics) string {
	t.Helper()
	request, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
	w := &response{header: http.Header{}}
	m.Handler().ServeHTTP(w, request)
	return w.body.String()
}

func TestACollectorGetsTracesAndMetricsByEitherProtocolUnderTheNameOfTheVariables(t *testing.T) {
	for _, protocol := range []string{"grpc", "http/protobuf", ""} {
		t.Run(protocol, func(t *testing.T) {
			noVariables(t)
			c := collectortest.New(t)
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", map[bool]string{true: c.GRPC, false: c.HTTP}[protocol == "grpc"])
			if protocol != "" {
				t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
			}
			t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-test=secret")
			t.Setenv("OTEL_SERVICE_NAME", "fleet")
			t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=lab")
			m, traces := signals(t, quiet)
			n, err := m.Meter("test").Int64Counter("muster_test")
			if err != nil {
				t.Fatal(err)
			}
			n.Add(t.Context(), 1)
			_, span := traces.Tracer("test").Start(t.Context(), "failover")
			span.End()
			Shutdown(quiet, m, traces)

			spans := c.Spans()
			if len(spans) != 1 || spans[0].GetName() != "failover" {
				t.Fatalf("spans %v, want one", spans)
			}
			for what, got := range map[string]map[string]string{"span": spans[0].Resource, "metric": c.Metric("muster_test")} {
				for key, want := range map[string]string{
					"service.name": "fleet", "service.instance.id": "c1", "service.version": "1.2.3", "deployment.environment.name": "lab",
				} {
					if got[key] != want {
						t.Errorf("%s: %s is %q, want %q", what, key, got[key], want)
					}
				}
			}
			if c.Header() != "secret" {
				t.Errorf("header %q, want secret", c.Header())
			}
		})
	}
}

func TestNothingIsExportedUnlessTheVariablesSaySo(t *testing.T) {
	for name, row := range map[string]struct {
		env             map[string]string
		traces, metrics string
	}{
		"nothing is set":                    {nil, "", ""},
		"an endpoint":                       {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http/protobuf", "http/protobuf"},
		"an endpoint of one signal":         {map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, "http/protobuf", ""},
		"a protocol alone":                  {map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "", ""},
		"an exporter by name":               {map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}, "http/protobuf", ""},
		"none, for all the endpoint":        {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_METRICS_EXPORTER": "none"}, "http/protobuf", ""},
		"prometheus, which is there anyway": {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_METRICS_EXPORTER": "prometheus"}, "http/protobuf", ""},
		"two exporters":                     {map[string]string{"OTEL_METRICS_EXPORTER": "prometheus, otlp"}, "", "http/protobuf"},
		"a protocol of one signal": {map[string]string{
			"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc",
		}, "http/protobuf", "grpc"},
		"the whole switched off": {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "TRUE"}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			noVariables(t)
			for k, v := range row.env {
				t.Setenv(k, v)
			}
			traces, err := export("TRACES")
			if err != nil {
				t.Fatal(err)
			}
			metrics, err := export("METRICS")
			if err != nil {
				t.Fatal(err)
			}
			if traces != row.traces || metrics != row.metrics {
				t.Errorf("traces by %q, metrics by %q; want %q, %q", traces, metrics, row.traces, row.metrics)
			}
		})
	}
}

func TestAVariableThatCannotBeFollowedIsNamed(t *testing.T) {
	for variable, value := range map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT":         "collector:4317",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT":  "unix:///run/collector",
		"OTEL_TRACES_EXPORTER":                "zipkin",
		"OTEL_METRICS_EXPORTER":               "console",
		"OTEL_EXPORTER_OTLP_PROTOCOL":         "http/json",
		"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "tcp",
		"OTEL_SDK_DISABLED":                   "yes",
		"OTEL_RESOURCE_ATTRIBUTES":            "nonsense",
		"OTEL_BSP_MAX_QUEUE_SIZE":             "65537",
	} {
		t.Run(variable, func(t *testing.T) {
			noVariables(t)
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
			t.Setenv(variable, value)
			early := CheckExport()
			m, err := NewMetrics("agent", "n1", "1", quiet)
			if err == nil {
				_, err = NewTraces("agent", "n1", "1", m, quiet)
			}
			if fmt.Sprint(early) != fmt.Sprint(err) {
				t.Errorf("found early: %v, at the end: %v", early, err)
			}
			if err == nil || !strings.Contains(err.Error(), variable) || !strings.Contains(err.Error(), "want ") {
				t.Errorf("error %v, want one that names the variable and what it may be", err)
			}
		})
	}
}

func TestACollectorThatHangsOrIsNotThereDelaysAStopByTwoSecondsAtMost(t *testing.T) {
	hung, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for name, address := range map[string]string{"hangs": hung.Addr().String(), "is not there": closed.Addr().String()} {
		for _, protocol := range []string{"grpc", "http/protobuf"} {
			t.Run(name+" "+protocol, func(t *testing.T) {
				noVariables(t)
				t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+address)
				t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
				m, traces := signals(t, quiet)
				start := time.Now()
				for range 100 {
					_, span := traces.Tracer("test").Start(t.Context(), "failover")
					span.End()
				}
				if took := time.Since(start); took > 500*time.Millisecond {
					t.Errorf("100 spans took %v", took)
				}
				start = time.Now()
				Shutdown(quiet, m, traces)
				if took := time.Since(start); took > shutdownLimit+500*time.Millisecond {
					t.Errorf("the stop took %v", took)
				}
			})
		}
	}
}

// stuck takes the first spans and holds on to them until it is let go, then refuses all.
type stuck struct{ free chan struct{} }

func (s stuck) ExportSpans(ctx context.Context, _ []sdktrace.ReadOnlySpan) error {
	select {
	case <-s.free:
	case <-ctx.Done():
	}
	return errors.New("down\nfor long")
}

func (s stuck) Shutdown(context.Context) error { return nil }

func TestSpansThatFindNoRoomOrAreNotTakenAreCountedAndTheLogSaysSoOnce(t *testing.T) {
	noVariables(t)
	var b buffer
	log := slog.New(slog.NewTextHandler(&b, nil))
	m, err := NewMetrics("coordinator", "c1", "1", log)
	if err != nil {
		t.Fatal(err)
	}
	from, err := identify("coordinator", "c1", "1")
	if err != nil {
		t.Fatal(err)
	}
	s := stuck{make(chan struct{})}
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
	traces, err := newTraces(from, s, 30, m, log)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		_, span := traces.Tracer("test").Start(t.Context(), "failover")
		span.End()
	}
	close(s.free)
	if err := traces.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	out := scraped(t, m)
	for _, want := range []string{
		`muster_otlp_spans_dropped_total{reason="queue"} 70`, `muster_otlp_spans_dropped_total{reason="export"} 30`,
		`muster_otlp_failed_exports_total{signal="traces"} 3`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if got := strings.Count(b.String(), "export by OTLP failed"); got != 1 || strings.Count(b.String(), "\n") != 1 {
		t.Errorf("the log has it %d times, want once, on one line:\n%s", got, b.String())
	}
}

// buffer is a log that goroutines write.
type buffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestAFailingCollectorIsMentionedEveryFiveMinutesAndWhenItIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b buffer
		c := &collector{signal: "traces", log: slog.New(slog.NewTextHandler(&b, nil))}
		for range 720 { // an hour, every 5 s
			c.answered(errors.New("down"))
			time.Sleep(5 * time.Second)
		}
		if got := strings.Count(b.String(), "failed"); got != 2*12 { // the message and its attribute
			t.Errorf("an hour has %d lines, want 12:\n%s", got/2, b.String())
		}
		c.answered(nil)
		c.answered(nil)
		if got := strings.Count(b.String(), "works again"); got != 1 {
			t.Errorf("it is back %d times, want once", got)
		}
	})
}
