package wire

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/spec"
)

func TestAUsageBatchComesBackWithWhatIsNotKnown(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	u := &spec.NodeUsage{
		At: now.Add(-3 * time.Second), Window: 10 * time.Second,
		Machine: spec.Usage{MicroCPU: 1_500_000, MemoryBytes: 1 << 40}, Agent: spec.Usage{MicroCPU: 0, MemoryBytes: 0}, Supervisors: spec.Usage{MicroCPU: 7, MemoryBytes: -1},
		Probes: spec.ProbeLateness{Begun: 1000, Late: 20, Most: 3 * time.Second, Overloaded: true},
	}
	containers := []HandleUsage{
		{Handle: 1, Usage: spec.Usage{MicroCPU: 0, MemoryBytes: 0}}, {Handle: 4, Usage: spec.UnknownUsage}, {Handle: 7, Usage: spec.Usage{MicroCPU: 12345, MemoryBytes: 1 << 35}},
	}
	got, each, err := UsageBatchFromProto(UsageBatchToProto(u, now.Sub(u.At), containers), now)
	if err != nil || cmp.Diff(u, got) != "" || cmp.Diff(containers, each) != "" {
		t.Errorf("%v\n%s\n%s", err, cmp.Diff(u, got), cmp.Diff(containers, each))
	}
}

func TestAUsageBatchOfUnequalColumnsIsRefusedByName(t *testing.T) {
	for field, pb := range map[string]*agentv1.UsageBatch{
		"micro_cpu":    {Handle: []uint32{1}, MemoryBytes: []uint64{1}},
		"memory_bytes": {Handle: []uint32{1}, MicroCpu: []uint64{1}},
		"at most": {
			Handle: make([]uint32, MaxUsages+1), MicroCpu: make([]uint64, MaxUsages+1), MemoryBytes: make([]uint64, MaxUsages+1),
		},
	} {
		if _, _, err := UsageBatchFromProto(pb, time.Now()); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestAUsageBatchTakesAFewBytesAContainer(t *testing.T) {
	const pods = 30
	var containers []HandleUsage
	for i := range uint32(pods) {
		containers = append(containers, HandleUsage{Handle: 3*i + 1, Usage: spec.Usage{MicroCPU: 12_345, MemoryBytes: 150 << 20}})
	}
	u := &spec.NodeUsage{Window: 10 * time.Second, Machine: spec.Usage{MicroCPU: 1_500_000, MemoryBytes: 16 << 30}, Agent: spec.Usage{MicroCPU: 20_000, MemoryBytes: 40 << 20}}
	if size := proto.Size(UsageBatchToProto(u, time.Second, containers)); size > pods*10+100 {
		t.Errorf("%d containers take %d bytes", pods, size)
	} else {
		t.Logf("%d containers take %d bytes", pods, size)
	}
}
