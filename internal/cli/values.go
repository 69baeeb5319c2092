package cli

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

// This file has muster's own JSON: what has no Kubernetes shape.

// timeText is RFC 3339 with fractions; null without a time.
func timeText(t *timestamppb.Timestamp) *string {
	if t == nil {
		return nil
	}
	s := t.AsTime().UTC().Format(time.RFC3339Nano)
	return &s
}

// micros is null where nothing was measured, never 0.
func micros(d *durationpb.Duration) *float64 {
	if d == nil {
		return nil
	}
	us := float64(d.AsDuration()) / float64(time.Microsecond)
	return &us
}

func millis(d *durationpb.Duration) *float64 {
	if d == nil {
		return nil
	}
	ms := float64(d.AsDuration()) / float64(time.Millisecond)
	return &ms
}

// attemptJSON is a line of "probe history".
type attemptJSON struct {
	Time       *string  `json:"time"`
	Container  string   `json:"container"`
	Kind       string   `json:"kind"`
	Instance   string   `json:"instance"`
	Outcome    string   `json:"outcome"`
	Result     string   `json:"result"`
	DurationUS *float64 `json:"duration_us"`
	CPUUS      *float64 `json:"cpu_us"`
	LagUS      *float64 `json:"lag_us"`
	Output     string   `json:"output"`
}

func attemptValue(a *musterv1.ProbeAttempt) *attemptJSON {
	if a == nil {
		return nil
	}
	return &attemptJSON{
		Time: timeText(a.GetTime()), Container: a.GetContainer(), Kind: probeKindName(a.GetKind()), Instance: a.GetInstance(),
		Outcome: probeOutcome(a.GetOutcome()), Result: probeResult(a.GetResult()),
		DurationUS: micros(a.GetDuration()), CPUUS: micros(a.GetCpu()), LagUS: micros(a.GetLag()), Output: a.GetOutput(),
	}
}

type podRefJSON struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
}

type probeJSON struct {
	Pod           podRefJSON   `json:"pod"`
	Node          string       `json:"node"`
	Container     string       `json:"container"`
	Kind          string       `json:"kind"`
	Handler       string       `json:"handler"`
	Verdict       string       `json:"verdict"`
	Since         *string      `json:"since"`
	RunLength     int32        `json:"run_length"`
	Last          *attemptJSON `json:"last"`
	PeriodMS      *float64     `json:"period_ms"`
	ErroredReason string       `json:"errored_reason"`
}

func probeValue(p *musterv1.ProbeState) probeJSON {
	v := probeJSON{
		Pod:  podRefJSON{p.GetPod().GetNamespace(), p.GetPod().GetName(), p.GetPod().GetUid()},
		Node: p.GetNode(), Container: p.GetContainer(), Kind: probeKindName(p.GetKind()), Handler: p.GetHandler(),
		Verdict: probeResult(p.GetVerdict()), Since: timeText(p.GetSince()), RunLength: p.GetRunLength(),
		Last: attemptValue(p.GetLast()), PeriodMS: millis(p.GetPeriod()), ErroredReason: p.GetErroredReason(),
	}
	return v
}

// phase is one phase of a failover; took is nil where it was not reached.
type phase struct {
	name string
	took *durationpb.Duration
}

// phasesOf lists the phases in their order.
func phasesOf(f *musterv1.Failover) []phase {
	p := f.GetPhases()
	return []phase{
		{"detect", p.GetDetect()}, {"confirm", p.GetConfirm()}, {"fence", p.GetFence()}, {"place", p.GetPlace()},
		{"deliver", p.GetDeliver()}, {"start", p.GetStart()}, {"ready", p.GetReady()},
	}
}

// totalOf is the time of all phases that were reached; false where none was.
func totalOf(f *musterv1.Failover) (total time.Duration, ok bool) {
	for _, p := range phasesOf(f) {
		if p.took != nil {
			total, ok = total+p.took.AsDuration(), true
		}
	}
	return total, ok
}

type failoverJSON struct {
	ID    string `json:"id"`
	Node  string `json:"node"`
	Cause string `json:"cause"`
	Class string `json:"class"`
	// Pod is the name alone.
	Namespace string              `json:"namespace"`
	Pod       string              `json:"pod"`
	UID       string              `json:"uid"`
	From      string              `json:"from"`
	To        string              `json:"to"`
	Time      *string             `json:"time"`
	PhasesMS  map[string]*float64 `json:"phases_ms"`
	TotalMS   *float64            `json:"total_ms"`
}

func failoverValue(f *musterv1.Failover) failoverJSON {
	v := failoverJSON{
		ID: f.GetId(), Node: f.GetFrom(), Cause: f.GetCause(), Class: enumWord(f.GetClass().String(), "FAILOVER_CLASS_"),
		Namespace: f.GetNamespace(), Pod: f.GetPod(), UID: f.GetUid(), From: f.GetFrom(), To: f.GetTo(), Time: timeText(f.GetTime()),
		PhasesMS: map[string]*float64{},
	}
	for _, p := range phasesOf(f) {
		v.PhasesMS[p.name] = millis(p.took)
	}
	if t, ok := totalOf(f); ok {
		v.TotalMS = millis(durationpb.New(t))
	}
	return v
}

type memberJSON struct {
	Name    string  `json:"name"`
	State   string  `json:"state"`
	Address string  `json:"address"`
	Role    string  `json:"role"`
	BootID  string  `json:"boot_id"`
	Since   *string `json:"since"`
}

func memberValue(m *musterv1.Member) memberJSON {
	return memberJSON{m.GetName(), m.GetState(), m.GetAddress(), m.GetRole(), m.GetBootId(), timeText(m.GetSince())}
}

type tokenJSON struct {
	ID         string  `json:"id"`
	Role       string  `json:"role"`
	ExpireTime *string `json:"expire_time"`
	CreateTime *string `json:"create_time"`
	UsesLeft   int32   `json:"uses_left"`
}

func tokenValue(t *musterv1.Token) tokenJSON {
	return tokenJSON{t.GetId(), enumWord(t.GetRole().String(), "ROLE_"), timeText(t.GetExpireTime()), timeText(t.GetCreateTime()), t.GetUsesLeft()}
}

type statusJSON struct {
	Version      string            `json:"version"`
	ClusterID    string            `json:"cluster_id"`
	Leader       string            `json:"leader"`
	Revision     int64             `json:"revision"`
	Nodes        map[string]int32  `json:"nodes"`
	Pods         map[string]int32  `json:"pods"`
	Frozen       bool              `json:"frozen"`
	FrozenReason string            `json:"frozen_reason"`
	Writable     bool              `json:"writable"`
	LeaseTTLMS   *float64          `json:"lease_ttl_ms"`
	Addresses    map[string]string `json:"addresses"`
	Warnings     []string          `json:"warnings"`
}

func statusValue(s *musterv1.GetStatusResponse) statusJSON {
	return statusJSON{
		s.GetVersion(), s.GetClusterId(), s.GetLeader(), s.GetRevision(), s.GetNodes(), s.GetPods(), s.GetFrozen(),
		s.GetFrozenReason(), s.GetWritable(), millis(s.GetLeaseTtl()), s.GetAddresses(), s.GetWarnings(),
	}
}
