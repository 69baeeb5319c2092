package session

import (
	"testing"
	"testing/synctest"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

func askFollow(id uint64, q *agentv1.FollowAsk) *agentv1.ConnectResponse {
	m := ask(id)
	m.GetAsk().Question = &agentv1.Ask_Follow{Follow: q}
	return m
}

func TestResultsAreToldAsTheyComeUntilNobodyWantsThem(t *testing.T) {
	bubble(t, func(w *world) { w.attempts, w.unfollowed = make(chan spec.ProbeAttempt), make(chan struct{}) }, func(w *world) {
		w.link(1).send(askFollow(1, &agentv1.FollowAsk{Uid: "u", Container: "c", Kind: musterv1.ProbeKind_PROBE_KIND_READINESS}))
		synctest.Wait()
		pieces := func() []*agentv1.AnswerRequest {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.answers[1]
		}
		if p := pieces(); len(p) != 1 || p[0].GetFollowed() == nil || len(p[0].GetFollowed().GetResults()) != 0 {
			t.Fatalf("at first: %v", p)
		}
		wanted := spec.ProbeID{PodUID: "u", Container: "c", Kind: spec.Readiness}
		for i, id := range []spec.ProbeID{
			{PodUID: "other", Container: "c", Kind: spec.Readiness}, {PodUID: "u", Container: "other", Kind: spec.Readiness},
			{PodUID: "u", Container: "c", Kind: spec.Liveness}, wanted,
		} {
			w.attempts <- spec.ProbeAttempt{ID: id, Attempt: attempt(int64(i))}
		}
		synctest.Wait()
		p := pieces()
		if len(p) != 2 || p[1].GetFollowed().GetDropped() != 7 || len(p[1].GetFollowed().GetResults()) != 1 {
			t.Fatalf("then: %v", p)
		}
		if a := p[1].GetFollowed().GetResults()[0]; a.GetTime().GetSeconds() != 3 || a.GetContainer() != "c" || a.GetKind() != musterv1.ProbeKind_PROBE_KIND_READINESS {
			t.Errorf("%v", a)
		}
		close(w.unwanted)
		synctest.Wait()
		select {
		case <-w.unfollowed:
		default:
			t.Error("it goes on, for nobody")
		}
	})
}
