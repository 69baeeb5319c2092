package wire

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

func TestEvidenceComesBackAsItWas(t *testing.T) {
	at := time.Unix(100, 5).UTC()
	attempt := spec.Attempt{Start: at, Outcome: spec.OutcomeFailure, Result: spec.ResultFailure, Duration: time.Second, CPU: -1, Lag: 3, Instance: "i", Output: "no"}
	e := &spec.ContainerEvidence{Container: "c", RestartTime: at, Backoff: time.Minute, Log: []byte("x"),
		Ends: []spec.InstanceEnd{
			{Terminated: spec.Terminated{ExitCode: 1, Reason: "Error", ID: "h", StartedAt: at, FinishedAt: at}},
			{Terminated: spec.Terminated{ExitCode: 137, Signal: 9, Message: "m", ID: "i", StartedAt: at, FinishedAt: at}, Attempt: 1, Probe: spec.Liveness,
				HookFailed: true, Why: "w", StopTime: at, Grace: time.Second, Attempts: []spec.Attempt{attempt}, MemoryBytes: 5, MemoryTime: at},
		},
		Results: []spec.ProbeAttempt{{ID: spec.ProbeID{Container: "c", Kind: spec.Readiness}, Attempt: attempt}},
	}
	got, err := EvidenceFromProto(EvidenceToProto(e))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e, got); diff != "" {
		t.Error(diff)
	}
}

func TestEvidenceOverItsBoundsIsRefused(t *testing.T) {
	a := &musterv1.ProbeAttempt{}
	many := func(n int) (all []*musterv1.ProbeAttempt) {
		for range n {
			all = append(all, a)
		}
		return all
	}
	for name, pb := range map[string]*agentv1.ContainerEvidence{
		"ends":            {Ends: make([]*agentv1.InstanceEnd, spec.KeptEnds+1)},
		"results":         {Results: many(len(spec.ProbeKinds)*spec.KeptEndAttempts + 1)},
		"an end's":        {Ends: []*agentv1.InstanceEnd{{Results: many(spec.KeptEndAttempts + 1)}}},
		"unknown outcome": {Results: many(1)},
	} {
		if got, err := EvidenceFromProto(pb); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
