package wire

import (
	"fmt"
	"iter"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

// MaxResults bounds the results of one batch.
const MaxResults = 20000

// ProbeStateToProto converts what is believed of a probe.
func ProbeStateToProto(s *spec.ProbeState) *musterv1.ProbeState {
	pb := &musterv1.ProbeState{
		Pod:       &musterv1.ObjectReference{Kind: "Pod", Namespace: s.Pod.Namespace, Name: s.Pod.Name, Uid: s.ID.PodUID},
		Container: s.ID.Container, Kind: probeKinds.to[s.ID.Kind], Handler: s.Handler, Verdict: results.to[s.Verdict],
		Since: stamp(s.Since), RunLength: s.RunLength, Period: durationpb.New(s.Period), ErroredReason: s.ErroredReason,
	}
	if s.Last != nil {
		pb.Last = ProbeAttemptToProto(s.ID, s.Last)
	}
	return pb
}

// ProbeAttemptToProto converts one attempt of a probe.
func ProbeAttemptToProto(id spec.ProbeID, a *spec.Attempt) *musterv1.ProbeAttempt {
	return &musterv1.ProbeAttempt{
		Time: stamp(a.Start), Container: id.Container, Kind: probeKinds.to[id.Kind], Instance: a.Instance,
		Outcome: outcomes.to[a.Outcome], Result: results.to[a.Result], Duration: durationpb.New(a.Duration),
		Cpu: optional(a.CPU), Lag: optional(a.Lag), Output: a.Output,
	}
}

func (p *parser) attempt(field string, pb *musterv1.ProbeAttempt) spec.Attempt {
	return spec.Attempt{
		Start: p.time(field+".time", pb.GetTime()), Outcome: in(p, field+".outcome", outcomes, pb.GetOutcome()),
		Result:   in(p, field+".result", results, pb.GetResult()),
		Duration: p.duration(field+".duration", pb.GetDuration()),
		CPU:      p.optional(field+".cpu", pb.GetCpu()), Lag: p.optional(field+".lag", pb.GetLag()),
		Instance: pb.GetInstance(), Output: pb.GetOutput(),
	}
}

// HandleAttempt is an attempt under the handle that a session has agreed for its probe.
type HandleAttempt struct {
	Handle  uint32
	Attempt spec.Attempt
}

// HandleState is what is believed of a probe, under its handle. Its ID, pod, handler and period are not sent.
type HandleState struct {
	Handle uint32
	State  spec.ProbeState
}

// Results is a batch.
type Results struct {
	Results []HandleAttempt
	Changes []HandleState
	// Dropped counts the results that were lost before this batch.
	Dropped uint64
}

// micros is a duration in microseconds within 32 bits.
func micros(d time.Duration) uint32 {
	return uint32(min(max(d.Microseconds(), 0), math.MaxUint32-1))
}

// plusOne keeps 0 for "not measured".
func plusOne(d time.Duration) uint32 {
	if d < 0 {
		return 0
	}
	return micros(d) + 1
}

func minusOne(v uint32) time.Duration {
	if v == 0 {
		return -1
	}
	return time.Duration(v-1) * time.Microsecond
}

// ResultsToProto writes a batch column by column. Times are cut to microseconds; outputs and instances are not sent.
func ResultsToProto(r *Results) *agentv1.ResultBatch {
	pb := &agentv1.ResultBatch{Dropped: r.Dropped}
	if n := len(r.Results); n > 0 {
		base := r.Results[0].Attempt.Start
		for i := range r.Results {
			if s := r.Results[i].Attempt.Start; s.Before(base) {
				base = s
			}
		}
		pb.Base = timestamppb.New(base)
		pb.Handle, pb.Outcome, pb.StartUs = make([]uint32, n), make([]uint32, n), make([]uint64, n)
		pb.DurationUs, pb.CpuUs, pb.LagUs = make([]uint32, n), make([]uint32, n), make([]uint32, n)
		for i := range r.Results {
			a := &r.Results[i].Attempt
			pb.Handle[i] = r.Results[i].Handle
			pb.Outcome[i] = uint32(outcomes.to[a.Outcome]) | uint32(results.to[a.Result])<<4
			pb.StartUs[i] = uint64(a.Start.Sub(base).Microseconds())
			pb.DurationUs[i], pb.CpuUs[i], pb.LagUs[i] = micros(a.Duration), plusOne(a.CPU), plusOne(a.Lag)
		}
	}
	for i := range r.Changes {
		c := &r.Changes[i]
		change := &agentv1.ProbeChange{
			Handle: c.Handle, Verdict: results.to[c.State.Verdict], Since: stamp(c.State.Since), RunLength: c.State.RunLength,
			ErroredReason: c.State.ErroredReason,
		}
		if c.State.Last != nil {
			change.Last = ProbeAttemptToProto(c.State.ID, c.State.Last)
			change.Last.Container, change.Last.Kind = "", 0 // the handle says it
		}
		pb.Changes = append(pb.Changes, change)
	}
	return pb
}

// ReceivedResults is a batch that has been checked, with its attempts still in columns.
type ReceivedResults struct {
	Changes []HandleState
	Dropped uint64

	pb   *agentv1.ResultBatch
	base time.Time
}

// counted is what an outcome's number stands for; ok is false for one that nobody knows.
type counted struct {
	outcome spec.Outcome
	result  spec.Result
	ok      bool
}

// known are the numbers of outcomes with their results.
var known = func() (all [256]counted) {
	for o := range all {
		p := &parser{}
		c := counted{outcome: in(p, "outcome", outcomes, musterv1.ProbeOutcome(o&15)), result: in(p, "outcome", results, musterv1.ProbeResult(o>>4))}
		c.ok = p.err == nil
		all[o] = c
	}
	return all
}()

// Attempts yields the attempts with their handles. Each is in the place of the one before.
func (r *ReceivedResults) Attempts() iter.Seq2[uint32, *spec.Attempt] {
	return func(yield func(uint32, *spec.Attempt) bool) {
		pb := r.pb
		var a spec.Attempt
		for i, handle := range pb.GetHandle() {
			c := known[pb.GetOutcome()[i]]
			a.Start = r.base.Add(time.Duration(min(pb.GetStartUs()[i], math.MaxInt64/1000)) * time.Microsecond)
			a.Outcome, a.Result = c.outcome, c.result
			a.Duration = time.Duration(pb.GetDurationUs()[i]) * time.Microsecond
			a.CPU, a.Lag = minusOne(pb.GetCpuUs()[i]), minusOne(pb.GetLagUs()[i])
			if !yield(handle, &a) {
				return
			}
		}
	}
}

// ResultsFromProto is the inverse of ResultsToProto. It refuses columns of unequal length, more than MaxResults, and
// unknown outcomes. What it returns shares the columns with pb.
func ResultsFromProto(pb *agentv1.ResultBatch) (*ReceivedResults, error) {
	p := &parser{}
	n := len(pb.GetHandle())
	for _, column := range []struct {
		name string
		len  int
	}{
		{"outcome", len(pb.GetOutcome())}, {"start_us", len(pb.GetStartUs())}, {"duration_us", len(pb.GetDurationUs())},
		{"cpu_us", len(pb.GetCpuUs())}, {"lag_us", len(pb.GetLagUs())},
	} {
		if column.len != n {
			return nil, fmt.Errorf("%s: %d entries, handle has %d", column.name, column.len, n)
		}
	}
	if n > MaxResults || len(pb.GetChanges()) > MaxResults {
		return nil, fmt.Errorf("%d results and %d changes, at most %d each", n, len(pb.GetChanges()), MaxResults)
	}
	for _, o := range pb.GetOutcome() {
		if o >= uint32(len(known)) || !known[o].ok {
			in(p, "outcome", outcomes, musterv1.ProbeOutcome(o&15))
			in(p, "outcome", results, musterv1.ProbeResult(o>>4))
			return nil, p.err
		}
	}
	out := &ReceivedResults{Dropped: pb.GetDropped(), pb: pb, base: p.time("base", pb.GetBase())}
	for i, c := range pb.GetChanges() {
		field := fmt.Sprintf("changes[%d]", i)
		st := spec.ProbeState{
			Verdict: in(p, field+".verdict", results, c.GetVerdict()), Since: p.time(field+".since", c.GetSince()),
			RunLength: c.GetRunLength(), ErroredReason: c.GetErroredReason(),
		}
		if c.GetLast() != nil {
			last := p.attempt(field+".last", c.GetLast())
			st.Last = &last
		}
		out.Changes = append(out.Changes, HandleState{Handle: c.GetHandle(), State: st})
	}
	return out, p.err
}
