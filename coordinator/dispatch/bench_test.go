package dispatch

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/coordinator/probes"
	"github.com/musterhq/muster/coordinator/usage"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// BenchmarkTakeUsage is what a report of a node with 30 containers takes, once it has been received.
func BenchmarkTakeUsage(b *testing.B) {
	d := New(Config{}, Deps{Usage: usage.New()})
	s := &session{node: "node-1", number: 1, ctx: context.Background(), handles: map[uint32]probes.Key{}}
	d.sessions["node-1"] = s
	var containers []wire.HandleUsage
	for i := range uint32(30) {
		handle := 3*i + 1
		s.handles[handle] = probes.Key{ProbeID: spec.ProbeID{PodUID: fmt.Sprintf("uid-%d", i), Container: "main", Kind: spec.Liveness}, Epoch: int64(i)}
		containers = append(containers, wire.HandleUsage{Handle: handle, Usage: spec.Usage{MicroCPU: 12_345, MemoryBytes: 150 << 20}})
	}
	text, err := proto.Marshal(wire.UsageBatchToProto(&spec.NodeUsage{}, 0, containers))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		pb := &agentv1.UsageBatch{}
		if err := proto.Unmarshal(text, pb); err != nil {
			b.Fatal(err)
		}
		if err := d.takeUsage(s, pb); err != nil {
			b.Fatal(err)
		}
	}
}
