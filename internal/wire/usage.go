package wire

import (
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

// MaxUsages bounds the containers of one UsageBatch.
const MaxUsages = 64000

// UsageToProto converts a usage; what is not known is unset.
func UsageToProto(u spec.Usage) *musterv1.Usage {
	pb := &musterv1.Usage{}
	if u.MicroCPU >= 0 {
		pb.MicroCpu = &u.MicroCPU
	}
	if u.MemoryBytes >= 0 {
		pb.MemoryBytes = &u.MemoryBytes
	}
	return pb
}

func usageFromProto(pb *musterv1.Usage) spec.Usage {
	u := spec.UnknownUsage
	if pb.GetMicroCpu() >= 0 && pb != nil && pb.MicroCpu != nil {
		u.MicroCPU = pb.GetMicroCpu()
	}
	if pb.GetMemoryBytes() >= 0 && pb != nil && pb.MemoryBytes != nil {
		u.MemoryBytes = pb.GetMemoryBytes()
	}
	return u
}

// HandleUsage is what a container uses, under the handle of its liveness probe.
type HandleUsage struct {
	Handle uint32
	Usage  spec.Usage
}

// UsageBatchToProto writes what a node used at a moment that is age ago, its containers column by column. u.Containers is
// not sent.
func UsageBatchToProto(u *spec.NodeUsage, age time.Duration, containers []HandleUsage) *agentv1.UsageBatch {
	n := len(containers)
	pb := &agentv1.UsageBatch{
		Age: durationpb.New(age), Window: durationpb.New(u.Window),
		Machine: UsageToProto(u.Machine), Agent: UsageToProto(u.Agent), Supervisors: UsageToProto(u.Supervisors),
		Handle: make([]uint32, n), MicroCpu: make([]uint64, n), MemoryBytes: make([]uint64, n),
	}
	pb.Probes = LatenessToProto(u.Probes)
	for i, c := range containers {
		pb.Handle[i], pb.MicroCpu[i], pb.MemoryBytes[i] = c.Handle, knownPlusOne(c.Usage.MicroCPU), knownPlusOne(c.Usage.MemoryBytes)
	}
	return pb
}

// UsageBatchFromProto is the inverse of UsageBatchToProto; At is age before now. It refuses columns of unequal length and
// more than MaxUsages containers.
func UsageBatchFromProto(pb *agentv1.UsageBatch, now time.Time) (*spec.NodeUsage, []HandleUsage, error) {
	n := len(pb.GetHandle())
	switch {
	case len(pb.GetMicroCpu()) != n:
		return nil, nil, fmt.Errorf("micro_cpu: %d entries, handle has %d", len(pb.GetMicroCpu()), n)
	case len(pb.GetMemoryBytes()) != n:
		return nil, nil, fmt.Errorf("memory_bytes: %d entries, handle has %d", len(pb.GetMemoryBytes()), n)
	case n > MaxUsages:
		return nil, nil, fmt.Errorf("%d containers, at most %d", n, MaxUsages)
	}
	p := &parser{}
	u := &spec.NodeUsage{
		At: now.Add(-max(p.duration("age", pb.GetAge()), 0)), Window: p.duration("window", pb.GetWindow()),
		Machine: usageFromProto(pb.GetMachine()), Agent: usageFromProto(pb.GetAgent()), Supervisors: usageFromProto(pb.GetSupervisors()),
		Probes: spec.ProbeLateness{
			Begun: max(pb.GetProbes().GetBegun(), 0), Late: max(pb.GetProbes().GetLate(), 0),
			Most: max(p.duration("probes.most", pb.GetProbes().GetMost()), 0), Overloaded: pb.GetProbes().GetOverloaded(),
		},
	}
	containers := make([]HandleUsage, n)
	for i := range containers {
		containers[i] = HandleUsage{Handle: pb.GetHandle()[i], Usage: spec.Usage{
			MicroCPU: knownMinusOne(pb.GetMicroCpu()[i]), MemoryBytes: knownMinusOne(pb.GetMemoryBytes()[i]),
		}}
	}
	return u, containers, p.err
}

// LatenessToProto converts how late probes were asked.
func LatenessToProto(l spec.ProbeLateness) *musterv1.ProbeLateness {
	return &musterv1.ProbeLateness{Begun: l.Begun, Late: l.Late, Most: durationpb.New(l.Most), Overloaded: l.Overloaded}
}

// knownPlusOne keeps 0 for what is not known.
func knownPlusOne(v int64) uint64 {
	if v < 0 {
		return 0
	}
	return uint64(v) + 1
}

func knownMinusOne(v uint64) int64 {
	return int64(min(v, math.MaxInt64)) - 1
}
