package dispatch

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/musterhq/muster/coordinator/usage"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

func (a *agent) uses(containers ...wire.HandleUsage) {
	a.w.t.Helper()
	u := &spec.NodeUsage{Window: 10 * time.Second, Machine: spec.Usage{MicroCPU: 1000, MemoryBytes: 2000}, Agent: spec.UnknownUsage, Supervisors: spec.UnknownUsage,
		Probes: spec.ProbeLateness{Begun: 7, Late: 1}}
	a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Usage{Usage: wire.UsageBatchToProto(u, 0, containers)}})
}

// reported polls for what is known of node-1.
func (w *world) reported(what string, wanted func(*usage.Report) bool) *usage.Report {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; {
		r := w.usage.Node("node-1", time.Now())
		if wanted(r) {
			return r
		}
		if time.Now().After(end) {
			w.t.Fatalf("%s: %+v", what, r)
		}
		<-time.After(time.Millisecond)
	}
}

func TestWhatIsUsedIsKeptByPodUntilItsSessionEnds(t *testing.T) {
	w := serve(t)
	epoch := w.bind("web", "node-1")
	a := w.connect(1)
	handle := a.open().GetAssignments()[0].GetFirstProbeHandle()
	of := spec.Usage{MicroCPU: 12_000, MemoryBytes: 5 << 20}
	a.uses(wire.HandleUsage{Handle: handle, Usage: of}, wire.HandleUsage{Handle: handle + 99, Usage: of})
	r := w.reported("after it was said", func(r *usage.Report) bool { return r != nil })
	if len(r.Containers) != 1 || r.Container("uid-web", epoch, "c") != of || r.Machine.MicroCPU != 1000 || r.Agent != spec.UnknownUsage || r.Probes.Begun != 7 || r.Probes.Late != 1 || r.Window != 10*time.Second {
		t.Errorf("known is %+v", r)
	}
	b := w.connect(2)
	b.open()
	w.reported("after the session was replaced", func(r *usage.Report) bool { return r == nil })
	b.uses()
	w.reported("said anew", func(r *usage.Report) bool { return r != nil && r.Session == 2 && len(r.Containers) == 0 })
	if err := b.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	w.reported("after the end of the session", func(r *usage.Report) bool { return r == nil })
}

func TestAUsageThatMakesNoSenseEndsTheSession(t *testing.T) {
	w := serve(t)
	a := w.connect(1)
	a.open()
	a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Usage{Usage: &agentv1.UsageBatch{Age: durationpb.New(0), Handle: []uint32{1}}}})
	if _, err := a.stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v, want InvalidArgument", err)
	}
}
