package wire

import (
	"fmt"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

// EvidenceToProto converts what an agent keeps of a container.
func EvidenceToProto(e *spec.ContainerEvidence) *agentv1.ContainerEvidence {
	pb := &agentv1.ContainerEvidence{Container: e.Container, RestartTime: stamp(e.RestartTime), Backoff: durationpb.New(e.Backoff), Log: e.Log}
	for i := range e.Ends {
		end := &e.Ends[i]
		id := spec.ProbeID{Container: e.Container, Kind: end.Probe}
		one := &agentv1.InstanceEnd{
			Attempt: end.Attempt, Terminated: terminatedToProto(&end.Terminated), Probe: probeKinds.to[end.Probe], HookFailed: end.HookFailed,
			Why: end.Why, StopTime: stamp(end.StopTime), Grace: durationpb.New(end.Grace), MemoryBytes: end.MemoryBytes, MemoryTime: stamp(end.MemoryTime),
		}
		for j := range end.Attempts {
			one.Results = append(one.Results, ProbeAttemptToProto(id, &end.Attempts[j]))
		}
		pb.Ends = append(pb.Ends, one)
	}
	for i := range e.Results {
		pb.Results = append(pb.Results, ProbeAttemptToProto(e.Results[i].ID, &e.Results[i].Attempt))
	}
	return pb
}

// EvidenceFromProto is the inverse of EvidenceToProto, but for the uids of its probes' pod. What is over the bounds is refused.
func EvidenceFromProto(pb *agentv1.ContainerEvidence) (*spec.ContainerEvidence, error) {
	if len(pb.GetEnds()) > spec.KeptEnds || len(pb.GetResults()) > len(spec.ProbeKinds)*spec.KeptEndAttempts {
		return nil, fmt.Errorf("%d ends and %d results, at most %d and %d", len(pb.GetEnds()), len(pb.GetResults()),
			spec.KeptEnds, len(spec.ProbeKinds)*spec.KeptEndAttempts)
	}
	p := &parser{}
	e := &spec.ContainerEvidence{Container: pb.GetContainer(), RestartTime: p.time("restart_time", pb.GetRestartTime()),
		Backoff: p.duration("backoff", pb.GetBackoff()), Log: pb.GetLog()}
	for i, one := range pb.GetEnds() {
		field := fmt.Sprintf("ends[%d]", i)
		end := spec.InstanceEnd{
			Terminated: *p.terminated(field+".terminated", one.GetTerminated()), Attempt: one.GetAttempt(), Probe: p.anyKind(field+".probe", one.GetProbe()),
			HookFailed: one.GetHookFailed(), Why: one.GetWhy(), StopTime: p.time(field+".stop_time", one.GetStopTime()),
			Grace: p.duration(field+".grace", one.GetGrace()), MemoryBytes: one.GetMemoryBytes(), MemoryTime: p.time(field+".memory_time", one.GetMemoryTime()),
		}
		if len(one.GetResults()) > spec.KeptEndAttempts {
			return nil, fmt.Errorf("%s.results: %d, at most %d", field, len(one.GetResults()), spec.KeptEndAttempts)
		}
		for j, a := range one.GetResults() {
			end.Attempts = append(end.Attempts, p.attempt(fmt.Sprintf("%s.results[%d]", field, j), a))
		}
		e.Ends = append(e.Ends, end)
	}
	for i, a := range pb.GetResults() {
		field := fmt.Sprintf("results[%d]", i)
		e.Results = append(e.Results, spec.ProbeAttempt{
			ID:      spec.ProbeID{Container: a.GetContainer(), Kind: in(p, field+".kind", probeKinds, a.GetKind())},
			Attempt: p.attempt(field, a),
		})
	}
	return e, p.err
}

// anyKind is a kind of probes, or 0 for none.
func (p *parser) anyKind(field string, k musterv1.ProbeKind) spec.ProbeKind {
	if k == musterv1.ProbeKind_PROBE_KIND_UNSPECIFIED {
		return 0
	}
	return in(p, field, probeKinds, k)
}
