package clustertest

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/telemetry/collectortest"
)

func TestAFailoverReachesTheCollectorAsOneTraceWithTheTimesOfItsRecord(t *testing.T) {
	t.Parallel()
	collector := collectortest.New(t)
	c := Start(t, 2, WithEnv("OTEL_EXPORTER_OTLP_ENDPOINT="+collector.GRPC, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_METRIC_EXPORT_INTERVAL=1000"))
	c.Apply(sleepers("web", 1))
	c.Eventually(30*time.Second, "the pod is ready", func() bool { return c.running("app=web", 1) })
	from := c.Pods("app=web")[0].Spec.NodeName
	c.KillMachine(from)
	var list struct {
		Items []struct {
			ID, Node, Cause, Class, From, To string
			Phases                           map[string]*float64 `json:"phases_ms"`
		}
	}
	c.Eventually(30*time.Second, "a failover with all its phases", func() bool {
		if err := c.JSON(&list, "get", "failovers"); err != nil {
			t.Fatal(err)
		}
		return len(list.Items) == 1 && list.Items[0].Phases["ready"] != nil
	})
	record := list.Items[0]
	c.Eventually(10*time.Second, "its metrics come", func() bool {
		return collector.Metric("muster_failover_ready") != nil
	})
	// What has not been exported yet is at the stop, which has 10 s.
	start := time.Now()
	p := c.Process("coordinator")
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.Wait(t, 10*time.Second)
	t.Logf("stopped in %v", time.Since(start).Round(time.Millisecond))

	byName := map[string]collectortest.Span{}
	for _, s := range collector.Spans() {
		if _, twice := byName[s.GetName()]; twice {
			t.Errorf("two spans %s", s.GetName())
		}
		byName[s.GetName()] = s
	}
	root, ok := byName["failover"]
	if !ok {
		t.Fatalf("no span failover in %v", byName)
	}
	if got := root.Resource["service.name"]; got != "muster-coordinator" {
		t.Errorf("service.name is %q", got)
	}
	got := root.Attributes()
	for key, want := range map[string]string{
		"id": record.ID, "node": record.Node, "cause": record.Cause, "class": record.Class, "from": from, "to": record.To, "outcome": "ready",
	} {
		if got[key] != want || want == "" {
			t.Errorf("%s is %q, want %q", key, got[key], want)
		}
	}
	for phase, ms := range record.Phases {
		s, ok := byName[phase]
		if !ok || ms == nil {
			t.Errorf("phase %s: span %v, recorded %v", phase, ok, ms)
			continue
		}
		took := float64(s.GetEndTimeUnixNano()-s.GetStartTimeUnixNano()) / 1e6
		if took < *ms-1 || took > *ms+1 {
			t.Errorf("%s took %.1f ms in the trace, %.1f ms in the record", phase, took, *ms)
		}
		if fmt.Sprintf("%x", s.GetTraceId()) != fmt.Sprintf("%x", root.GetTraceId()) || fmt.Sprintf("%x", s.GetParentSpanId()) != fmt.Sprintf("%x", root.GetSpanId()) {
			t.Errorf("%s is not a child of the failover", phase)
		}
	}
}
