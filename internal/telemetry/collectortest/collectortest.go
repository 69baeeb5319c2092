// Package collectortest is a collector for tests: it takes traces and metrics by OTLP on loopback, over gRPC and over
// HTTP, and keeps them.
package collectortest

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	metricscollector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracecollector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // OTEL_EXPORTER_OTLP_COMPRESSION
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// maxBody bounds a request over HTTP, in bytes.
const maxBody = 8 << 20

// Span is one span as it came, with the resource that it belongs to.
type Span struct {
	*tracepb.Span
	Resource map[string]string
}

// Attributes are the span's, those that are text.
func (s *Span) Attributes() map[string]string { return texts(s.Span.GetAttributes()) }

// Collector keeps what it is sent. Its methods may be called from any goroutine.
type Collector struct {
	// GRPC and HTTP are where it serves, as http://HOST:PORT.
	GRPC, HTTP string

	mu      sync.Mutex
	spans   []Span
	metrics map[string]map[string]string
	header  string
}

// New starts a collector that ends with the test.
func New(t testing.TB) *Collector {
	t.Helper()
	c := &Collector{metrics: map[string]map[string]string{}}
	g, h := listen(t), listen(t)
	c.GRPC, c.HTTP = "http://"+g.Addr().String(), "http://"+h.Addr().String()

	rpc := grpc.NewServer()
	tracecollector.RegisterTraceServiceServer(rpc, traces{c: c})
	metricscollector.RegisterMetricsServiceServer(rpc, metrics{c: c})
	web := &http.Server{Handler: c.handler()} //nolint:gosec // on loopback, for a test
	var wg sync.WaitGroup
	wg.Go(func() { _ = rpc.Serve(g) })
	wg.Go(func() { _ = web.Serve(h) })
	t.Cleanup(func() {
		rpc.Stop()
		_ = web.Close()
		wg.Wait()
	})
	return c
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Spans returns the spans that have come, in their order.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Span(nil), c.spans...)
}

// Metric returns the resource of a metric that has come, nil when none of that name has.
func (c *Collector) Metric(name string) map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.metrics[name]
}

// Header returns the last value of the header x-test.
func (c *Collector) Header() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.header
}

func (c *Collector) takeTraces(all []*tracepb.ResourceSpans, header string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.header = header
	for _, r := range all {
		for _, scope := range r.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				c.spans = append(c.spans, Span{s, named(r.GetResource())})
			}
		}
	}
}

func (c *Collector) takeMetrics(all []*metricspb.ResourceMetrics, header string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.header = header
	for _, r := range all {
		for _, scope := range r.GetScopeMetrics() {
			for _, m := range scope.GetMetrics() {
				c.metrics[m.GetName()] = named(r.GetResource())
			}
		}
	}
}

func named(r *resourcepb.Resource) map[string]string { return texts(r.GetAttributes()) }

// handler takes OTLP over HTTP, in protobuf.
func (c *Collector) handler() http.Handler {
	mux := http.NewServeMux()
	take := func(path string, request func() proto.Message, took func(proto.Message, string)) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
			m := request()
			if err == nil {
				err = proto.Unmarshal(body, m)
			}
			if err != nil || r.Header.Get("Content-Type") != "application/x-protobuf" {
				http.Error(w, "not OTLP", http.StatusBadRequest)
				return
			}
			took(m, r.Header.Get("x-test"))
			w.Header().Set("Content-Type", "application/x-protobuf")
		})
	}
	take("/v1/traces", func() proto.Message { return &tracecollector.ExportTraceServiceRequest{} }, func(m proto.Message, header string) {
		c.takeTraces(m.(*tracecollector.ExportTraceServiceRequest).GetResourceSpans(), header)
	})
	take("/v1/metrics", func() proto.Message { return &metricscollector.ExportMetricsServiceRequest{} }, func(m proto.Message, header string) {
		c.takeMetrics(m.(*metricscollector.ExportMetricsServiceRequest).GetResourceMetrics(), header)
	})
	return mux
}

type traces struct {
	tracecollector.UnimplementedTraceServiceServer
	c *Collector
}

func (s traces) Export(ctx context.Context, r *tracecollector.ExportTraceServiceRequest) (*tracecollector.ExportTraceServiceResponse, error) {
	s.c.takeTraces(r.GetResourceSpans(), header(ctx))
	return &tracecollector.ExportTraceServiceResponse{}, nil
}

type metrics struct {
	metricscollector.UnimplementedMetricsServiceServer
	c *Collector
}

func (s metrics) Export(ctx context.Context, r *metricscollector.ExportMetricsServiceRequest) (*metricscollector.ExportMetricsServiceResponse, error) {
	s.c.takeMetrics(r.GetResourceMetrics(), header(ctx))
	return &metricscollector.ExportMetricsServiceResponse{}, nil
}

func header(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	return strings.Join(md.Get("x-test"), ",")
}

// texts are the attributes whose values are text.
func texts(all []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, a := range all {
		if v, ok := a.GetValue().GetValue().(*commonpb.AnyValue_StringValue); ok {
			m[a.GetKey()] = v.StringValue
		}
	}
	return m
}
