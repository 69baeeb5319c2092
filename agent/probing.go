package agent

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/musterhq/muster/agent/history"
	"github.com/musterhq/muster/agent/probe"
	"github.com/musterhq/muster/agent/prober"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/telemetry"
)

// Probing is what probes the pods of a node, and all of an agent's work on a result but the session's: the prober, what it
// remembers and what it counts. An agent and the load test of probes are built of it.
type Probing struct {
	Prober  *prober.Prober
	History *history.History
	// Metrics serves the probes' metrics alone.
	Metrics http.Handler
}

// ProbingConfig is prober.Config, but for what Probing has itself. The functions may be called at once after NewProbing.
type ProbingConfig struct {
	// Attempt makes one attempt, as (*probe.Attempter).Attempt does.
	Attempt func(ctx context.Context, q *probe.Question) probe.Answer
	// Begin is prober.Config's, as (*probe.Attempter).Begin does; nil: there is none.
	Begin func(ctx context.Context, q *probe.Question, done probe.Done) (probe.Answer, probe.Begun)
	// Report and Believe are prober.Config's.
	Report  func(prober.Report)
	Believe func(spec.ProbeState)
	// Overload is prober.Config's.
	Overload func(spec.ProbeLateness)
	// Observe is told of every attempt once history has it.
	Observe func(spec.ProbeID, spec.Attempt)
	// Metrics has the meters of the probes' metrics.
	Metrics *telemetry.Metrics
	// File keeps attempts beyond those in memory; nil: none are kept.
	File *history.File
	Log  *slog.Logger
}

// NewProbing builds it; nothing is asked before Prober.Run.
func NewProbing(cfg ProbingConfig) (*Probing, error) {
	metrics, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	memory := history.New(cfg.File)
	return &Probing{History: memory, Metrics: metrics.handler(), Prober: prober.New(prober.Config{
		Attempt: cfg.Attempt, Begin: cfg.Begin, Report: cfg.Report, Believe: cfg.Believe, Overload: cfg.Overload,
		Result: func(id spec.ProbeID, at spec.Attempt) {
			memory.Add(id, at)
			cfg.Observe(id, at)
		},
		Forgotten: func(id spec.ProbeID) { memory.Forget(id); metrics.Forget(id) }, Metrics: metrics, Log: cfg.Log,
	})}, nil
}
