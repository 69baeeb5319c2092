package coordinator

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/musterhq/muster/coordinator/failover"
	"github.com/musterhq/muster/coordinator/leader"
)

// traces makes a trace of every move that has ended: a span "failover", and below it one for each phase.
type traces struct{ tracer trace.Tracer }

// Moved makes the spans of a move with the times that they had.
func (t *traces) Moved(m *failover.Move, now time.Duration, outcome string) {
	spans := m.Spans(now, time.Now())
	if len(spans) == 0 {
		return
	}
	ctx, root := t.tracer.Start(context.Background(), "failover", trace.WithNewRoot(), trace.WithTimestamp(spans[0].Start), trace.WithAttributes(
		attribute.String("id", m.ID), attribute.String("node", m.From), attribute.String("cause", m.Cause), attribute.String("class", string(m.Class)),
		attribute.String("pod", m.Pod.String()), attribute.String("from", m.From), attribute.String("to", m.To), attribute.String("outcome", outcome),
	))
	for _, s := range spans {
		_, phase := t.tracer.Start(ctx, s.Phase, trace.WithTimestamp(s.Start))
		if !s.Reached {
			phase.SetStatus(codes.Error, outcome)
		}
		phase.End(trace.WithTimestamp(s.End))
	}
	if outcome != leader.OutcomeReady {
		root.SetStatus(codes.Error, outcome)
	}
	root.End(trace.WithTimestamp(spans[len(spans)-1].End))
}
