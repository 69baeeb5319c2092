package dispatch

import (
	"encoding/json"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/coordinator/restored"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

// afterRestore makes the world's store one that comes from a snapshot and still waits.
func (w *world) afterRestore() *restored.Window {
	w.t.Helper()
	w.restored(true)
	start := time.Now()
	window, err := restored.New(w.cache.View(), time.Second, func() time.Duration { return time.Since(start) + time.Second })
	if err != nil {
		w.t.Fatal(err)
	}
	w.d.deps.Restored = window
	return window
}

func (w *world) restored(pending bool) {
	w.t.Helper()
	text, err := json.Marshal(restored.State{Generation: 1000, Longest: time.Minute, Pending: pending})
	if err != nil {
		w.t.Fatal(err)
	}
	w.put(restored.Key, &spec.Blob{Data: text})
}

func (w *world) hello(number, generation int64, says bool) *agent {
	w.t.Helper()
	stream, err := w.client.Connect(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	a := &agent{w, number, stream}
	a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: &agentv1.Hello{
		Node: "node-1", Instance: "i", BootId: "b", Session: number, Version: "0.1.0", Facts: &musterv1.NodeFacts{Address: "127.0.0.1"},
		Generation: generation, SaysHoldings: says,
	}}})
	return a
}

func TestAfterARestoreOnlyWhatAnAgentHoldsIsAssignedUntilTheWaitIsOver(t *testing.T) {
	w := serve(t)
	held, lost := w.bind("held", "node-1"), w.bind("lost", "node-1")
	w.afterRestore()
	a := w.hello(1, 0, true)
	if !a.recv().GetWelcome().GetAskHoldings() {
		t.Fatal("nobody is asked what it holds")
	}
	a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Holdings{Holdings: &agentv1.Holdings{All: []*agentv1.Holding{
		{Uid: "uid-held", Epoch: held, Live: true}, {Uid: "uid-lost", Epoch: lost},
	}}}})
	set := a.full()
	if len(set.GetAssignments()) != 1 || set.GetAssignments()[0].GetEpoch() != held {
		t.Fatalf("set %v, want what is held at epoch %d", set, held)
	}
	w.restored(false)
	if d := a.recv().GetAssignments(); len(d.GetAssignments()) != 1 || d.GetAssignments()[0].GetEpoch() != lost {
		t.Errorf("delta %v, want the other at epoch %d", d, lost)
	}
	if w.hello(2, 0, true).recv().GetWelcome().GetAskHoldings() {
		t.Error("it is still asked when nothing waits any more")
	}
}

func TestAfterARestoreAnAgentThatCannotSayWhatItHoldsGetsNothingYet(t *testing.T) {
	w := serve(t)
	w.bind("held", "node-1")
	w.afterRestore()
	a := w.hello(1, 0, false)
	if a.recv().GetWelcome().GetAskHoldings() {
		t.Fatal("it is asked")
	}
	if set := a.full(); len(set.GetAssignments()) != 0 {
		t.Errorf("set %v, want none", set)
	}
}

func TestAnotherMessageThanHoldingsEndsTheSession(t *testing.T) {
	w := serve(t)
	w.afterRestore()
	for name, m := range map[string]*agentv1.ConnectRequest{
		"statuses": {Message: &agentv1.ConnectRequest_Statuses{Statuses: &agentv1.StatusBatch{}}},
		"too many": {Message: &agentv1.ConnectRequest_Holdings{Holdings: &agentv1.Holdings{All: make([]*agentv1.Holding, maxHoldings+1)}}},
	} {
		if name == "too many" {
			for i := range m.GetHoldings().GetAll() {
				m.GetHoldings().All[i] = &agentv1.Holding{}
			}
		}
		a := w.hello(time.Now().UnixNano(), 0, true)
		a.recv()
		a.send(m)
		if _, err := a.stream.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: got %v, want InvalidArgument", name, err)
		}
	}
}

func TestACoordinatorFromBeforeARestoreGetsNoAgentThatHasSeenIt(t *testing.T) {
	w := serve(t)
	w.d.cfg.Generation = 1
	if _, err := w.hello(1, 1000, true).stream.Recv(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("got %v, want FailedPrecondition", err)
	}
	if w.hello(2, 1, true).recv().GetWelcome() == nil {
		t.Error("one of this generation is refused")
	}
}
