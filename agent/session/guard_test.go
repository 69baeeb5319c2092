package session

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

// restartsSaid has the words about restarts that came in the n-th session.
func (w *world) restartsSaid(n int) (words []*agentv1.RestartWord) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.links[n]
	for _, m := range l.got {
		words = append(words, m.GetRestarts().GetWords()...)
	}
	return words
}

func TestRestartGuardsComeDownAndWordsOfRestartsGoUp(t *testing.T) {
	held := spec.RestartWord{UID: "u1", Epoch: 3, Version: 4, Held: true}
	bubble(t, func(w *world) { w.words = []spec.RestartWord{held} }, func(w *world) {
		l := w.links[0]
		if got := w.restartsSaid(0); len(got) != 1 || got[0].GetUid() != "u1" || got[0].GetVersion() != 4 || !got[0].GetHeld() || got[0].GetRestartedAgo() != nil {
			t.Fatalf("at the start: %v, want what there is to say of all", got)
		}
		l.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_RestartGuards{RestartGuards: &agentv1.RestartGuards{Pods: []*agentv1.RestartGuard{
			{Uid: "u1", Epoch: 3, Allowed: true, Version: 5, Holding: true, ReleaseAfter: durationpb.New(time.Minute)}, {Uid: "u2", Epoch: 1},
		}}}})
		synctest.Wait()
		want := spec.PodGuard{UID: "u1", Epoch: 3, Allowed: true, Version: 5, Holding: true, ReleaseAfter: time.Minute}
		if len(w.guards) != 1 || len(w.guards[0]) != 2 || w.guards[0][0] != want || w.guards[0][1].ReleaseAfter != 10*time.Minute {
			t.Errorf("told: %+v", w.guards)
		}
		w.restarts <- []spec.RestartWord{{UID: "u1", Epoch: 3, Version: 5, Allowed: true, Restarted: true, Ago: time.Second, Live: true}}
		synctest.Wait()
		if got := w.restartsSaid(0); len(got) != 2 || got[1].GetRestartedAgo().AsDuration() != time.Second || !got[1].GetLive() || !got[1].GetAllowed() {
			t.Errorf("then: %v", got)
		}
		if w.cutOff != 0 {
			t.Error("cut off while the session is open")
		}
		l.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_RestartGuards{RestartGuards: &agentv1.RestartGuards{Pods: []*agentv1.RestartGuard{
			{Uid: "u1", ReleaseAfter: durationpb.New(time.Millisecond)},
		}}}})
		time.Sleep(10 * time.Second)
		w.mu.Lock()
		cutOff, links, told := w.cutOff, len(w.links), len(w.guards)
		w.mu.Unlock()
		if cutOff != 1 || links != 2 || told != 1 {
			t.Errorf("cut off %d times, %d sessions, told %d times; want what is out of bounds to end the session", cutOff, links, told)
		}
		if got := w.restartsSaid(1); len(got) != 1 || got[0].GetVersion() != 4 {
			t.Errorf("in the next session: %v, want all once more", got)
		}
	})
}

func TestAnAssignmentSaysWhetherItsPodIsGuarded(t *testing.T) {
	bubble(t, nil, func(w *world) {
		pod := &musterv1.Pod{Meta: &musterv1.ObjectMeta{Namespace: "default", Name: "a", Uid: "u1"}, Spec: &musterv1.PodSpec{}}
		w.assign(w.links[0], &agentv1.Assignments{Assignments: []*agentv1.Assignment{
			{Pod: pod, Epoch: 1, Class: musterv1.FailoverClass_FAILOVER_CLASS_FAST, Guarded: true},
		}})
		if last := w.assigned[len(w.assigned)-1]; len(last.Assigned) != 1 || !last.Assigned[0].Guarded {
			t.Errorf("assigned %+v", last)
		}
	})
}
