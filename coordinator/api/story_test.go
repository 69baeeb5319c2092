package api

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/musterhq/muster/coordinator/dispatch"
	"github.com/musterhq/muster/coordinator/probes"
	"github.com/musterhq/muster/coordinator/store"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

func evidence(e *agentv1.ContainerEvidence) *agentv1.AnswerRequest {
	return &agentv1.AnswerRequest{Answer: &agentv1.AnswerRequest_Evidence{Evidence: e}}
}

func TestAStoryIsToldFromWhatTheAgentKeepsElseFromWhatIsHere(t *testing.T) {
	w := serve(t)
	ctx := t.Context()
	w.explain = "0/0 nodes fit"
	a := w.create("a")
	tell := func() *musterv1.PodStory {
		t.Helper()
		r, err := w.pods.GetPodStory(ctx, &musterv1.GetPodStoryRequest{Name: "a"})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetStory()
	}
	if s := tell(); s.GetKind() != musterv1.StoryKind_STORY_KIND_PENDING || !strings.Contains(s.GetSummary(), "0/0 nodes fit") || w.asked != nil {
		t.Errorf("bound nowhere: %v, asked %v", s, w.asked)
	}
	w.bind(a, "n1")
	w.connected["n1"] = true
	end := &agentv1.InstanceEnd{Attempt: 0, Terminated: &musterv1.ContainerTerminated{ExitCode: 3, Id: "i", FinishedAt: timestamppb.Now()}}
	w.answers = []*agentv1.AnswerRequest{evidence(&agentv1.ContainerEvidence{Container: "c", Ends: []*agentv1.InstanceEnd{end}, Log: []byte("bye")})}
	s := tell()
	if s.GetKind() != musterv1.StoryKind_STORY_KIND_CRASHED || !s.GetFromAgent() || len(s.GetNotes()) != 0 || w.asked.GetEvidence().GetUid() != a.GetMeta().GetUid() {
		t.Errorf("%v, asked %v", s, w.asked)
	}
	if !slices.ContainsFunc(s.GetSteps(), func(st *musterv1.StoryStep) bool { return st.GetTerminated().GetExitCode() == 3 }) {
		t.Errorf("its end is not told: %v", s)
	}

	for why, answer := range map[string]*agentv1.AnswerError{
		"not supported":       {Reason: "INTERNAL", Message: "question <nil>: not built yet"},
		"no such pod is here": {Reason: "NOT_FOUND", Message: "no such pod is here"},
	} {
		w.answers = []*agentv1.AnswerRequest{{Answer: &agentv1.AnswerRequest_Error{Error: answer}}}
		if s := tell(); s.GetFromAgent() || len(s.GetNotes()) != 1 || !strings.Contains(s.GetNotes()[0], why) {
			t.Errorf("%s: %v", why, s)
		}
	}
	many := &agentv1.ContainerEvidence{Container: "c"}
	for range spec.KeptEnds + 1 {
		many.Ends = append(many.Ends, end)
	}
	w.answers = []*agentv1.AnswerRequest{evidence(many)}
	if s := tell(); s.GetFromAgent() {
		t.Errorf("more than there may be is taken: %v", s)
	}
	_, err := w.pods.GetPodStory(ctx, &musterv1.GetPodStoryRequest{Name: "a", Container: "nope"})
	refused(t, "no such container", err, codes.InvalidArgument, "INVALID")
	_, err = w.pods.GetPodStory(ctx, &musterv1.GetPodStoryRequest{Name: "b"})
	refused(t, "no such pod", err, codes.NotFound, "NOT_FOUND")
}

func TestWithoutItsAgentAStoryHasTheLastEightAttemptsOfTheCoordinator(t *testing.T) {
	w := serve(t)
	a := w.create("a")
	epoch := w.bind(a, "n1")
	w.following = func(context.Context, func(*agentv1.AnswerRequest) error) error { return dispatch.ErrNoSession }
	id := spec.ProbeID{PodUID: a.GetMeta().GetUid(), Container: "c", Kind: spec.Liveness}
	name := spec.ObjectName{Namespace: "default", Name: "a"}
	w.probes.Declare(id.PodUID, name, "n1", 5, []spec.ProbeState{{ID: id, Pod: name}})
	for i := range 12 {
		w.observe(probes.Key{ProbeID: id, Epoch: 5}, spec.Attempt{Start: time.Unix(int64(i), 0), Outcome: spec.OutcomeFailure, Result: spec.ResultFailure})
	}
	status := spec.PodStatus{Phase: spec.PhaseRunning, Containers: []spec.ContainerStatus{{Name: "c", Restarts: 1,
		State: spec.ContainerState{Waiting: &spec.Waiting{Reason: "CrashLoopBackOff"}},
		Last:  spec.ContainerState{Terminated: &spec.Terminated{ExitCode: 137, Signal: 9, FinishedAt: time.Unix(100, 0), ID: "i"}}}}}
	w.put(store.StatusKey(name), &spec.HeldStatus{UID: id.PodUID, Epoch: epoch, Status: status})
	r, err := w.pods.GetPodStory(t.Context(), &musterv1.GetPodStoryRequest{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	s := r.GetStory()
	if s.GetFromAgent() || len(s.GetNotes()) != 1 || !strings.Contains(s.GetNotes()[0], "no session") {
		t.Errorf("it does not say that its agent was not asked: %v", s.GetNotes())
	}
	var told []int64
	for _, step := range s.GetSteps() {
		if step.GetAttempt() != nil {
			told = append(told, step.GetAttempt().GetTime().GetSeconds())
		}
	}
	if len(told) != probes.Ring || told[0] != 4 || told[7] != 11 {
		t.Errorf("attempts %v are told", told)
	}
}
