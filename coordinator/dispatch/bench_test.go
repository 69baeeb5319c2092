package dispatch

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/probes"
	"github.com/musterhq/muster/coordinator/usage"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// BenchmarkTakeUsage is what a report of a node with 30 containers takes, once it has been received.
func BenchmarkTakeUsage(b *testing.B) {
	d := New(Config{}, Deps{Usage: usage.New()})
	s := &session{node: "node-1", number: 1, ctx: context.Background(), handles: map[uint32]handle{}}
	d.sessions["node-1"] = s
	var containers []wire.HandleUsage
	for i := range uint32(30) {
		number := 3*i + 1
		s.handles[number] = handle{Key: probes.Key{ProbeID: spec.ProbeID{PodUID: fmt.Sprintf("uid-%d", i), Container: "main", Kind: spec.Liveness}, Epoch: int64(i)}}
		containers = append(containers, wire.HandleUsage{Handle: number, Usage: spec.Usage{MicroCPU: 12_345, MemoryBytes: 150 << 20}})
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

// BenchmarkTakeResults is what a result costs once it has been received, decoding among it, of 450,000 probes on 5,000 nodes that
// report in random order: as they come at a period of 10 s, nine a second of each node, and in larger batches.
func BenchmarkTakeResults(b *testing.B) {
	const nodes, pods = 5000, 30
	d := New(Config{}, Deps{Probes: probes.New()})
	sessions := make([]*session, nodes)
	for i := range sessions {
		s := &session{handles: map[uint32]handle{}, nextHandle: 1}
		for j := range pods {
			p := &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: fmt.Sprintf("pod-%d-%d", i, j), UID: fmt.Sprintf("%08d-0000-0000-0000-%012d", i, j)}}
			tcp := &spec.Probe{Handler: spec.Handler{TCP: &spec.TCPAction{}}}
			p.Spec.Containers = []spec.Container{{Name: "main", Liveness: tcp, Readiness: tcp, Startup: tcp}}
			d.deps.Probes.Declare(p.UID, p.Key(), "n", 1, probes.Declared(p, time.Time{}))
			s.declare(&fleet.Pod{Pod: p, Epoch: 1}, d.deps.Probes)
		}
		sessions[i] = s
	}
	for _, size := range []int{9, 90, 1000} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			var batch wire.Results
			for i := range size {
				batch.Results = append(batch.Results, wire.HandleAttempt{Handle: uint32(1 + i%(3*pods)), Attempt: spec.Attempt{
					Start: time.Unix(1000, int64(i)*1000), Outcome: spec.OutcomeSuccess, Result: spec.ResultSuccess, Duration: time.Millisecond, CPU: -1, Lag: time.Millisecond,
				}})
			}
			text, err := proto.Marshal(wire.ResultsToProto(&batch))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				pb := &agentv1.ResultBatch{}
				if err := proto.Unmarshal(text, pb); err != nil {
					b.Fatal(err)
				}
				if err := d.takeResults(sessions[rand.IntN(nodes)], pb); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/result")
		})
	}
}
