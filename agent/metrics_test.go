package agent

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/telemetry"
)

func newTestMetrics(t testing.TB) (*metrics, *telemetry.Metrics) {
	t.Helper()
	all, err := telemetry.NewMetrics("agent", "n1", "1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	m, err := newMetrics(all)
	if err != nil {
		t.Fatal(err)
	}
	return m, all
}

// Rules 13 and 13.1.
func TestProbesAreCountedUnderTheKubeletsNamesForAsLongAsTheyLast(t *testing.T) {
	m, all := newTestMetrics(t)
	pod := spec.ObjectName{Namespace: "default", Name: "web"}
	id := spec.ProbeID{PodUID: "u1", Container: "c", Kind: spec.Readiness}
	m.Run(pod, id, spec.ResultSuccess, 20*time.Millisecond)
	m.Run(pod, id, spec.ResultSuccess, 20*time.Second)
	m.Run(pod, id, spec.ResultFailure, time.Millisecond)
	successor := id
	successor.PodUID = "u2" // the same name: one histogram
	m.Run(pod, successor, spec.ResultSuccess, time.Millisecond)

	served := func() string {
		w := httptest.NewRecorder()
		m.handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics/probes", nil))
		whole := httptest.NewRecorder()
		all.Handler().ServeHTTP(whole, httptest.NewRequest("GET", "/metrics", nil))
		if w.Code != 200 || whole.Code != 200 {
			t.Fatalf("%d %s, %d %s", w.Code, w.Body, whole.Code, whole.Body)
		}
		for line := range strings.Lines(w.Body.String()) {
			if !strings.HasPrefix(line, "#") && !strings.Contains(whole.Body.String(), line) {
				t.Errorf("/metrics lacks %s", line)
			}
		}
		return w.Body.String()
	}
	labels := `container="c",namespace="default",pod="web"`
	out := served()
	for _, want := range []string{
		"# TYPE prober_probe_total counter\n",
		"# TYPE prober_probe_duration_seconds histogram\n",
		`prober_probe_total{` + labels + `,pod_uid="u1",probe_type="Readiness",result="successful"} 2`,
		`prober_probe_total{` + labels + `,pod_uid="u1",probe_type="Readiness",result="failed"} 1`,
		`prober_probe_total{` + labels + `,pod_uid="u2",probe_type="Readiness",result="successful"} 1`,
		`prober_probe_duration_seconds_bucket{` + labels + `,probe_type="Readiness",le="0.005"} 1`,
		`prober_probe_duration_seconds_bucket{` + labels + `,probe_type="Readiness",le="0.025"} 2`,
		`prober_probe_duration_seconds_bucket{` + labels + `,probe_type="Readiness",le="+Inf"} 3`,
		`prober_probe_duration_seconds_sum{` + labels + `,probe_type="Readiness"} 20.021`,
		`prober_probe_duration_seconds_count{` + labels + `,probe_type="Readiness"} 3`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	m.Forget(id)
	m.Forget(id)
	if out := served(); strings.Contains(out, `pod_uid="u1"`) || !strings.Contains(out, `prober_probe_duration_seconds_count{`+labels+`,probe_type="Readiness"} 3`) {
		t.Errorf("13.1 after the first has gone:\n%s", out)
	}
	m.Forget(successor)
	if out := served(); strings.Contains(out, "prober_probe") {
		t.Errorf("13.1 after both have gone:\n%s", out)
	}
}

func BenchmarkARunIsCounted(b *testing.B) {
	m, _ := newTestMetrics(b)
	pod, id := spec.ObjectName{Namespace: "default", Name: "web"}, spec.ProbeID{PodUID: "u1", Container: "c", Kind: spec.Readiness}
	b.ReportAllocs()
	for b.Loop() {
		m.Run(pod, id, spec.ResultSuccess, time.Millisecond)
	}
}
