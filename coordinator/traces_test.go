package coordinator

import (
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/musterhq/muster/coordinator/failover"
	"github.com/musterhq/muster/coordinator/leader"
	"github.com/musterhq/muster/internal/spec"
)

func traced(m *failover.Move, now time.Duration, outcome string) tracetest.SpanStubs {
	memory := tracetest.NewInMemoryExporter()
	p := sdktrace.NewTracerProvider(sdktrace.WithSyncer(memory))
	(&traces{p.Tracer("test")}).Moved(m, now, outcome)
	return memory.GetSpans()
}

func TestAFailoverIsOneTraceWhosePhasesAreAsItsRecordHasThem(t *testing.T) {
	const sec = time.Second
	m := &failover.Move{
		ID: "web-n1-7", Cause: "Lost", Class: spec.Fast, Pod: spec.ObjectName{Namespace: "shop", Name: "web"}, From: "n1", To: "n2",
		Heard: 100 * sec, Suspected: 102 * sec, Judged: 103 * sec, Free: 103 * sec, Bound: 110 * sec, Delivered: 111 * sec, Running: 113 * sec, Ready: 116 * sec,
	}
	before := time.Now()
	spans := traced(m, 120*sec, leader.OutcomeReady)
	if len(spans) != 8 {
		t.Fatalf("%d spans, want the root and 7 phases", len(spans))
	}
	root := spans[7]
	if root.Name != "failover" || root.Parent.IsValid() || root.Status.Code != codes.Unset || root.EndTime.Sub(root.StartTime) != 16*sec {
		t.Errorf("root %q of %v, parent %v, status %v", root.Name, root.EndTime.Sub(root.StartTime), root.Parent.IsValid(), root.Status)
	}
	if early := before.Sub(root.EndTime); early > 4*sec || early < 3900*time.Millisecond {
		t.Errorf("it ended %v ago, want 4 s", early)
	}
	attributes := map[string]string{}
	for _, a := range root.Attributes {
		attributes[string(a.Key)] = a.Value.AsString()
	}
	for key, want := range map[string]string{
		"id": "web-n1-7", "node": "n1", "cause": "Lost", "class": "fast", "pod": "shop/web", "from": "n1", "to": "n2", "outcome": "ready",
	} {
		if attributes[key] != want {
			t.Errorf("%s is %q, want %q", key, attributes[key], want)
		}
	}
	p, at := m.Record().Phases, root.StartTime
	for i, phase := range []struct {
		name string
		took time.Duration
	}{
		{"detect", p.Detect}, {"confirm", p.Confirm}, {"fence", p.Fence}, {"place", p.Place}, {"deliver", p.Deliver}, {"start", p.Start}, {"ready", p.Ready},
	} {
		s := spans[i]
		if s.Name != phase.name || !s.StartTime.Equal(at) || s.EndTime.Sub(at) != phase.took {
			t.Errorf("phase %d is %s, %v after the one before, of %v; want %s of %v", i, s.Name, s.StartTime.Sub(at), s.EndTime.Sub(at), phase.name, phase.took)
		}
		if s.SpanContext.TraceID() != root.SpanContext.TraceID() || s.Parent.SpanID() != root.SpanContext.SpanID() {
			t.Errorf("%s is not the root's child", s.Name)
		}
		at = s.EndTime
	}
}

func TestAFailoverThatWasGivenUpEndsInThePhaseThatItWasIn(t *testing.T) {
	const sec = time.Second
	// One that a person asked for: nothing was detected.
	m := &failover.Move{ID: "db-n1-9", Cause: "move", Judged: 10 * sec, Free: 10 * sec, Bound: 11 * sec, Delivered: 12 * sec}
	spans := traced(m, 20*sec, leader.OutcomeSuperseded)
	var names []string
	for _, s := range spans {
		names = append(names, s.Name)
	}
	if len(spans) != 5 || names[3] != "start" || names[4] != "failover" {
		t.Fatalf("spans %v, want fence, place, deliver, start and the root", names)
	}
	for _, s := range spans[3:] {
		if s.Status.Code != codes.Error || s.Status.Description != "superseded" {
			t.Errorf("%s has the status %v, want an error that says superseded", s.Name, s.Status)
		}
	}
	if d := spans[3].EndTime.Sub(spans[3].StartTime); d != 8*sec || !spans[4].EndTime.Equal(spans[3].EndTime) {
		t.Errorf("the last phase took %v, want the 8 s until it was given up, and the root to end with it", d)
	}
}
