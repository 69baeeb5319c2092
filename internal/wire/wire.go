// Package wire converts between the plain values of internal/spec and the messages of the API, the session and the
// store. It knows nothing of Kubernetes. What comes in is checked for what a plain value could not hold: unknown enum
// values, times and durations out of range. Whether it makes sense is for internal/spec to say.
package wire

import (
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

// enum is a table between the values of a proto enum and plain ones.
type enum[P ~int32, S comparable] struct {
	name string
	to   map[S]P
	from map[P]S
}

func newEnum[P ~int32, S comparable](name string, to map[S]P) enum[P, S] {
	e := enum[P, S]{name: name, to: to, from: make(map[P]S, len(to))}
	for s, p := range to {
		e.from[p] = s
	}
	return e
}

func (e enum[P, S]) parse(p P) (S, error) {
	s, ok := e.from[p]
	if !ok {
		return s, fmt.Errorf("%s: unknown value %d", e.name, p)
	}
	return s, nil
}

var (
	failoverClasses = newEnum("failover class", map[spec.FailoverClass]musterv1.FailoverClass{
		spec.Fast:   musterv1.FailoverClass_FAILOVER_CLASS_FAST,
		spec.Fenced: musterv1.FailoverClass_FAILOVER_CLASS_FENCED,
		spec.Stay:   musterv1.FailoverClass_FAILOVER_CLASS_STAY,
	})
	restartPolicies = newEnum("restart_policy", map[spec.RestartPolicy]musterv1.RestartPolicy{
		"":                    musterv1.RestartPolicy_RESTART_POLICY_UNSPECIFIED,
		spec.RestartAlways:    musterv1.RestartPolicy_RESTART_POLICY_ALWAYS,
		spec.RestartOnFailure: musterv1.RestartPolicy_RESTART_POLICY_ON_FAILURE,
		spec.RestartNever:     musterv1.RestartPolicy_RESTART_POLICY_NEVER,
	})
	phases = newEnum("phase", map[spec.Phase]musterv1.PodPhase{
		"":                  musterv1.PodPhase_POD_PHASE_UNSPECIFIED,
		spec.PhasePending:   musterv1.PodPhase_POD_PHASE_PENDING,
		spec.PhaseRunning:   musterv1.PodPhase_POD_PHASE_RUNNING,
		spec.PhaseSucceeded: musterv1.PodPhase_POD_PHASE_SUCCEEDED,
		spec.PhaseFailed:    musterv1.PodPhase_POD_PHASE_FAILED,
	})
	probeKinds = newEnum("probe kind", map[spec.ProbeKind]musterv1.ProbeKind{
		spec.Liveness:  musterv1.ProbeKind_PROBE_KIND_LIVENESS,
		spec.Readiness: musterv1.ProbeKind_PROBE_KIND_READINESS,
		spec.Startup:   musterv1.ProbeKind_PROBE_KIND_STARTUP,
	})
	outcomes = newEnum("outcome", map[spec.Outcome]musterv1.ProbeOutcome{
		spec.OutcomeSuccess:      musterv1.ProbeOutcome_PROBE_OUTCOME_SUCCESS,
		spec.OutcomeWarning:      musterv1.ProbeOutcome_PROBE_OUTCOME_WARNING,
		spec.OutcomeFailure:      musterv1.ProbeOutcome_PROBE_OUTCOME_FAILURE,
		spec.OutcomeErrored:      musterv1.ProbeOutcome_PROBE_OUTCOME_ERRORED,
		spec.OutcomeInconclusive: musterv1.ProbeOutcome_PROBE_OUTCOME_INCONCLUSIVE,
	})
	results = newEnum("result", map[spec.Result]musterv1.ProbeResult{
		spec.ResultUnknown: musterv1.ProbeResult_PROBE_RESULT_UNKNOWN,
		spec.ResultSuccess: musterv1.ProbeResult_PROBE_RESULT_SUCCESS,
		spec.ResultFailure: musterv1.ProbeResult_PROBE_RESULT_FAILURE,
	})
	verdicts = newEnum("verdict", map[spec.Verdict]musterv1.NodeVerdict{
		"":                      musterv1.NodeVerdict_NODE_VERDICT_UNSPECIFIED,
		spec.VerdictReady:       musterv1.NodeVerdict_NODE_VERDICT_READY,
		spec.VerdictUnreachable: musterv1.NodeVerdict_NODE_VERDICT_UNREACHABLE,
		spec.VerdictAgentDown:   musterv1.NodeVerdict_NODE_VERDICT_AGENT_DOWN,
		spec.VerdictLost:        musterv1.NodeVerdict_NODE_VERDICT_LOST,
	})
	leaseStates = newEnum("lease state", map[spec.LeaseState]musterv1.LeaseState{
		spec.LeaseOpen:    musterv1.LeaseState_LEASE_STATE_OPEN,
		spec.LeaseSealing: musterv1.LeaseState_LEASE_STATE_SEALING,
		spec.LeaseSealed:  musterv1.LeaseState_LEASE_STATE_SEALED,
	})
	operators = newEnum("operator", map[spec.SelectorOperator]musterv1.LabelExpression_Operator{
		spec.In:           musterv1.LabelExpression_OPERATOR_IN,
		spec.NotIn:        musterv1.LabelExpression_OPERATOR_NOT_IN,
		spec.Exists:       musterv1.LabelExpression_OPERATOR_EXISTS,
		spec.DoesNotExist: musterv1.LabelExpression_OPERATOR_DOES_NOT_EXIST,
	})
)

// FailoverClassToProto converts a class; "" becomes unspecified.
func FailoverClassToProto(c spec.FailoverClass) musterv1.FailoverClass { return failoverClasses.to[c] }

// FailoverClassFromProto refuses unspecified.
func FailoverClassFromProto(c musterv1.FailoverClass) (spec.FailoverClass, error) {
	return failoverClasses.parse(c)
}

// ProbeKindToProto converts a kind.
func ProbeKindToProto(k spec.ProbeKind) musterv1.ProbeKind { return probeKinds.to[k] }

// ProbeKindFromProto refuses unspecified.
func ProbeKindFromProto(k musterv1.ProbeKind) (spec.ProbeKind, error) { return probeKinds.parse(k) }

// ProbeResultFromProto refuses unspecified.
func ProbeResultFromProto(r musterv1.ProbeResult) (spec.Result, error) { return results.parse(r) }

// stamp leaves a zero time unset.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// parser collects the first thing that a message has wrong.
type parser struct{ err error }

func (p *parser) fail(field string, err error) {
	if p.err == nil {
		p.err = fmt.Errorf("%s: %w", field, err)
	}
}

func (p *parser) time(field string, t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	if err := t.CheckValid(); err != nil {
		p.fail(field, err)
		return time.Time{}
	}
	return t.AsTime()
}

func (p *parser) duration(field string, d *durationpb.Duration) time.Duration {
	if d == nil {
		return 0
	}
	if err := d.CheckValid(); err != nil {
		p.fail(field, err)
		return 0
	}
	if s := d.GetSeconds(); s > math.MaxInt64/int64(time.Second)-1 || s < math.MinInt64/int64(time.Second)+1 {
		p.fail(field, fmt.Errorf("%d s is out of range", s))
		return 0
	}
	return d.AsDuration()
}

// in parses an enum's value of a field.
func in[P ~int32, S comparable](p *parser, field string, e enum[P, S], v P) S {
	s, err := e.parse(v)
	if err != nil {
		p.fail(field, err)
	}
	return s
}

// optional leaves a negative duration, which means "not measured" or "not reached", unset.
func optional(d time.Duration) *durationpb.Duration {
	if d < 0 {
		return nil
	}
	return durationpb.New(d)
}

func (p *parser) optional(field string, d *durationpb.Duration) time.Duration {
	if d == nil {
		return -1
	}
	return p.duration(field, d)
}

// MetaToProto converts an object's meta.
func MetaToProto(m spec.Meta) *musterv1.ObjectMeta {
	pb := &musterv1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, Uid: m.UID, Labels: m.Labels, Annotations: m.Annotations,
		CreateTime: stamp(m.CreateTime), DeleteTime: stamp(m.DeleteTime), Generation: m.Generation, Revision: m.Revision,
	}
	if m.Deleting() {
		pb.DeleteGrace = durationpb.New(m.DeleteGrace)
	}
	if m.Owner != nil {
		pb.Owner = &musterv1.OwnerReference{Kind: m.Owner.Kind, Name: m.Owner.Name, Uid: m.Owner.UID}
	}
	return pb
}

// MetaFromProto is the inverse of MetaToProto.
func MetaFromProto(pb *musterv1.ObjectMeta) (spec.Meta, error) {
	p := &parser{}
	m := p.meta(pb)
	return m, p.err
}

func (p *parser) meta(pb *musterv1.ObjectMeta) spec.Meta {
	m := spec.Meta{
		Namespace: pb.GetNamespace(), Name: pb.GetName(), UID: pb.GetUid(), Labels: pb.GetLabels(), Annotations: pb.GetAnnotations(),
		CreateTime:  p.time("meta.create_time", pb.GetCreateTime()),
		DeleteTime:  p.time("meta.delete_time", pb.GetDeleteTime()),
		DeleteGrace: p.duration("meta.delete_grace", pb.GetDeleteGrace()),
		Generation:  pb.GetGeneration(), Revision: pb.GetRevision(),
	}
	if o := pb.GetOwner(); o != nil {
		m.Owner = &spec.OwnerRef{Kind: o.GetKind(), Name: o.GetName(), UID: o.GetUid()}
	}
	return m
}

func conditionsToProto(cs []spec.Condition) []*musterv1.Condition {
	var out []*musterv1.Condition
	for _, c := range cs {
		out = append(out, &musterv1.Condition{
			Type: c.Type, Status: string(c.Status), Reason: c.Reason, Message: c.Message, TransitionTime: stamp(c.TransitionTime),
		})
	}
	return out
}

func (p *parser) conditions(field string, pbs []*musterv1.Condition) []spec.Condition {
	if len(pbs) == 0 {
		return nil
	}
	out := make([]spec.Condition, len(pbs))
	for i, c := range pbs {
		out[i] = spec.Condition{
			Type: c.GetType(), Status: spec.Truth(c.GetStatus()), Reason: c.GetReason(), Message: c.GetMessage(),
			TransitionTime: p.time(field+".transition_time", c.GetTransitionTime()),
		}
	}
	return out
}

func refToProto(r spec.ObjectRef) *musterv1.ObjectReference {
	return &musterv1.ObjectReference{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name, Uid: r.UID, FieldPath: r.FieldPath}
}

func refFromProto(pb *musterv1.ObjectReference) spec.ObjectRef {
	return spec.ObjectRef{
		Kind: pb.GetKind(), Namespace: pb.GetNamespace(), Name: pb.GetName(), UID: pb.GetUid(), FieldPath: pb.GetFieldPath(),
	}
}

// EventToProto converts an event.
func EventToProto(e *spec.Event) *musterv1.Event {
	return &musterv1.Event{
		Meta: MetaToProto(e.Meta), Type: e.Type, Reason: e.Reason, Message: e.Message, Involved: refToProto(e.Involved),
		Count: e.Count, FirstTime: stamp(e.FirstTime), LastTime: stamp(e.LastTime), Source: e.Source, Node: e.Node,
	}
}

// EventFromProto is the inverse of EventToProto.
func EventFromProto(pb *musterv1.Event) (*spec.Event, error) {
	p := &parser{}
	e := &spec.Event{
		Meta: p.meta(pb.GetMeta()), Type: pb.GetType(), Reason: pb.GetReason(), Message: pb.GetMessage(),
		Involved: refFromProto(pb.GetInvolved()), Count: pb.GetCount(),
		FirstTime: p.time("first_time", pb.GetFirstTime()), LastTime: p.time("last_time", pb.GetLastTime()),
		Source: pb.GetSource(), Node: pb.GetNode(),
	}
	return e, p.err
}

// FailoverToProto converts a failover.
func FailoverToProto(f *spec.Failover) *musterv1.Failover {
	return &musterv1.Failover{
		Id: f.ID, Cause: f.Cause, Class: failoverClasses.to[f.Class], Namespace: f.Pod.Namespace, Pod: f.Pod.Name, Uid: f.PodUID,
		From: f.From, To: f.To, Time: stamp(f.Time), Epoch: f.Epoch,
		Phases: &musterv1.FailoverPhases{
			Detect: optional(f.Phases.Detect), Confirm: optional(f.Phases.Confirm), Fence: optional(f.Phases.Fence),
			Place: optional(f.Phases.Place), Deliver: optional(f.Phases.Deliver), Start: optional(f.Phases.Start),
			Ready: optional(f.Phases.Ready),
		},
	}
}

// FailoverFromProto is the inverse of FailoverToProto.
func FailoverFromProto(pb *musterv1.Failover) (*spec.Failover, error) {
	p := &parser{}
	ph := pb.GetPhases()
	f := &spec.Failover{
		ID: pb.GetId(), Cause: pb.GetCause(), Class: in(p, "class", failoverClasses, pb.GetClass()),
		Pod: spec.ObjectName{Namespace: pb.GetNamespace(), Name: pb.GetPod()}, PodUID: pb.GetUid(),
		From: pb.GetFrom(), To: pb.GetTo(), Time: p.time("time", pb.GetTime()), Epoch: pb.GetEpoch(),
		Phases: spec.FailoverPhases{
			Detect: p.optional("phases.detect", ph.GetDetect()), Confirm: p.optional("phases.confirm", ph.GetConfirm()),
			Fence: p.optional("phases.fence", ph.GetFence()), Place: p.optional("phases.place", ph.GetPlace()),
			Deliver: p.optional("phases.deliver", ph.GetDeliver()), Start: p.optional("phases.start", ph.GetStart()),
			Ready: p.optional("phases.ready", ph.GetReady()),
		},
	}
	return f, p.err
}
