package dispatch

import (
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/spec"
)

// guardTable guards the pods that the test names.
type guardTable struct {
	mu    sync.Mutex
	pods  map[string]spec.PodGuard
	heard chan spec.RestartWord
}

func (g *guardTable) set(uid string, pg spec.PodGuard) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pods == nil {
		g.pods, g.heard = map[string]spec.PodGuard{}, make(chan spec.RestartWord, 10)
	}
	pg.UID, pg.ReleaseAfter = uid, time.Minute
	g.pods[uid] = pg
}

func (g *guardTable) Guarded(_ *store.View, p *fleet.Pod) (spec.PodGuard, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	pg, ok := g.pods[p.UID]
	pg.Epoch = p.Epoch
	return pg, ok
}

func (g *guardTable) Heard(node string, words []spec.RestartWord) {
	for _, w := range words {
		w.UID = node + "/" + w.UID
		g.heard <- w
	}
}

func TestAnAgentHearsWhichOfItsPodsAreGuardedAndHowThatChanges(t *testing.T) {
	w := serve(t)
	w.guards.set("uid-a", spec.PodGuard{Allowed: true, Version: 3})
	w.bind("a", "node-1")
	w.bind("bare", "node-1")
	a := w.connect(1)
	set := a.open()
	for _, as := range set.GetAssignments() {
		if as.GetGuarded() != (as.GetPod().GetMeta().GetName() == "a") {
			t.Errorf("pod %s: guarded %v", as.GetPod().GetMeta().GetName(), as.GetGuarded())
		}
	}
	got := a.recv().GetRestartGuards().GetPods()
	if len(got) != 1 || got[0].GetUid() != "uid-a" || !got[0].GetAllowed() || got[0].GetVersion() != 3 || got[0].GetReleaseAfter().AsDuration() != time.Minute {
		t.Fatalf("guards %v, want a's", got)
	}
	w.guards.set("uid-a", spec.PodGuard{Version: 4, Holding: true})
	w.d.Wake([]string{"node-1", "node-none"})
	if got := a.recv().GetRestartGuards().GetPods(); len(got) != 1 || got[0].GetAllowed() || !got[0].GetHolding() || got[0].GetVersion() != 4 {
		t.Errorf("guards %v, want the change", got)
	}
	w.d.Wake([]string{"node-1"}) // nothing has changed, so nothing comes before what follows
	w.guards.set("uid-b", spec.PodGuard{})
	w.bind("b", "node-1")
	if d := a.recv().GetAssignments(); len(d.GetAssignments()) != 1 || !d.GetAssignments()[0].GetGuarded() {
		t.Errorf("delta %v, want b, guarded", d)
	}
	if got := a.recv().GetRestartGuards().GetPods(); len(got) != 2 {
		t.Errorf("guards %v, want all that there are", got)
	}
}

func TestWordsOfRestartsAreHandedOnAndWrongOnesEndTheSession(t *testing.T) {
	w := serve(t)
	w.guards.set("uid-a", spec.PodGuard{})
	a := w.connect(1)
	a.open()
	say := func(word *agentv1.RestartWord) {
		a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Restarts{Restarts: &agentv1.RestartBatch{Words: []*agentv1.RestartWord{word}}}})
	}
	say(&agentv1.RestartWord{Uid: "uid-a", Epoch: 2, Version: 5, Held: true, RestartedAgo: durationpb.New(time.Second), Live: true})
	want := spec.RestartWord{UID: "node-1/uid-a", Epoch: 2, Version: 5, Held: true, Restarted: true, Ago: time.Second, Live: true}
	if got := <-w.guards.heard; got != want {
		t.Errorf("heard %+v, want %+v", got, want)
	}
	say(&agentv1.RestartWord{Uid: "uid-a", RestartedAgo: durationpb.New(-time.Second)})
	if _, err := a.stream.Recv(); err == nil {
		t.Error("a time before zero was taken")
	}
	if len(w.guards.heard) != 0 {
		t.Error("it was handed on")
	}
}
