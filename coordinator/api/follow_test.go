package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/coordinator/dispatch"
	"github.com/musterhq/muster/coordinator/store"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/reason"
	"github.com/musterhq/muster/internal/spec"
)

// probedPod creates a pod whose container c has a liveness probe.
func (w *world) probedPod(name string) *musterv1.Pod {
	w.t.Helper()
	p := pod(name)
	p.Spec.Containers[0].Liveness = &musterv1.Probe{Handler: &musterv1.Probe_Exec{Exec: &musterv1.ExecAction{Command: []string{"true"}}}}
	p.Spec.Containers = append(p.Spec.Containers, &musterv1.Container{Name: "d", Command: []string{"/bin/true"}})
	r, err := w.pods.CreatePod(w.t.Context(), &musterv1.CreatePodRequest{Pod: p})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.GetPod()
}

func followedPiece(dropped uint64, outputs ...string) *agentv1.AnswerRequest {
	f := &agentv1.FollowedResults{Dropped: dropped}
	for _, o := range outputs {
		f.Results = append(f.Results, &musterv1.ProbeAttempt{Output: o})
	}
	return &agentv1.AnswerRequest{Answer: &agentv1.AnswerRequest_Followed{Followed: f}}
}

// follow watches until the end; each message goes to see, which may be nil.
func (w *world) follow(t *testing.T, req *musterv1.WatchProbeResultsRequest, see func(*musterv1.WatchProbeResultsResponse)) (all []*musterv1.WatchProbeResultsResponse, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := w.probe.WatchProbeResults(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := s.Recv()
		if err != nil {
			return all, err
		}
		all = append(all, m)
		if see != nil {
			see(m)
		}
	}
}

func TestProbesAreFollowedUntilTheirPodEndsOrMoves(t *testing.T) {
	key := spec.ObjectName{Namespace: "default", Name: "a"}
	for name, c := range map[string]struct {
		change func(w *world, p *musterv1.Pod, epoch int64)
		want   string
	}{
		"moved":      {func(w *world, p *musterv1.Pod, _ int64) { w.bind(p, "n2") }, "pod default/a has moved from node n1 to n2"},
		"bound anew": {func(w *world, p *musterv1.Pod, _ int64) { w.bind(p, "n1") }, "pod default/a was bound anew to node n1"},
		"moved by way of nowhere": {func(w *world, p *musterv1.Pod, _ int64) {
			w.put(store.BindingKey(key), nil)
			w.bind(p, "n2")
		}, "pod default/a has moved from node n1 to n2"},
		"unbound": {func(w *world, _ *musterv1.Pod, _ int64) { w.put(store.BindingKey(key), nil) }, "pod default/a has left node n1"},
		"gone":    {func(w *world, _ *musterv1.Pod, _ int64) { w.put(store.PodKey(key), nil) }, "pod default/a is gone"},
		"ended": {func(w *world, p *musterv1.Pod, epoch int64) {
			w.put(store.StatusKey(key), &spec.HeldStatus{UID: p.GetMeta().GetUid(), Epoch: epoch, Status: spec.PodStatus{Phase: spec.PhaseSucceeded}})
		}, "pod default/a has ended: Succeeded"},
	} {
		t.Run(name, func(t *testing.T) {
			w := serve(t)
			p := w.probedPod("a")
			epoch := w.bind(p, "n1")
			w.put(store.StatusKey(key), &spec.HeldStatus{UID: p.GetMeta().GetUid(), Epoch: epoch, Status: spec.PodStatus{Phase: spec.PhaseRunning}})
			w.connected["n1"] = true
			w.following = func(ctx context.Context, take func(*agentv1.AnswerRequest) error) error {
				for _, m := range []*agentv1.AnswerRequest{followedPiece(0), followedPiece(0, "one", "two"), followedPiece(3, "six")} {
					if err := take(m); err != nil {
						return err
					}
				}
				<-ctx.Done()
				return ctx.Err()
			}
			got, err := w.follow(t, &musterv1.WatchProbeResultsRequest{Pod: "a", Kind: musterv1.ProbeKind_PROBE_KIND_LIVENESS}, func(m *musterv1.WatchProbeResultsResponse) {
				if m.GetDropped() != 0 {
					c.change(w, p, epoch)
				}
			})
			if !errors.Is(err, io.EOF) || len(got) != 4 {
				t.Fatalf("%v, ended by %v", got, err)
			}
			for i, want := range []string{"", "one", "six"} {
				if r := got[i].GetResults(); i == 0 && len(r) != 0 || i > 0 && r[0].GetOutput() != want {
					t.Errorf("message %d: %v", i, got[i])
				}
			}
			if got[2].GetDropped() != 3 || got[3].GetEnded() != c.want {
				t.Errorf("dropped %d, then %v", got[2].GetDropped(), got[3])
			}
			want := &agentv1.FollowAsk{Uid: p.GetMeta().GetUid(), Kind: musterv1.ProbeKind_PROBE_KIND_LIVENESS}
			if q := w.asked.GetFollow(); !proto.Equal(q, want) {
				t.Errorf("asked %v, want %v", q, want)
			}
		})
	}
}

func TestFollowingIsRefusedWhereNothingCanCome(t *testing.T) {
	w := serve(t)
	_, err := w.follow(t, &musterv1.WatchProbeResultsRequest{Pod: "a"}, nil)
	refused(t, "no pod", err, codes.NotFound, "NOT_FOUND")
	p := w.probedPod("a")
	_, err = w.follow(t, &musterv1.WatchProbeResultsRequest{Pod: "a"}, nil)
	refused(t, "bound nowhere", err, codes.Unavailable, "NODE_UNREACHABLE")
	w.bind(p, "n1")
	w.connected["n1"] = true
	for field, req := range map[string]*musterv1.WatchProbeResultsRequest{
		"container": {Pod: "a", Container: "x"},
		"pod":       {Pod: "a", Container: "d"},
		"kind":      {Pod: "a", Kind: 99},
	} {
		_, err = w.follow(t, req, nil)
		refused(t, field, err, codes.InvalidArgument, "INVALID")
		if got := violations(err); len(got) != 1 || got[0] != field {
			t.Errorf("%v: fields %q, want %s", req, got, field)
		}
	}
	_, err = w.follow(t, &musterv1.WatchProbeResultsRequest{Pod: "a", Kind: musterv1.ProbeKind_PROBE_KIND_STARTUP}, nil)
	refused(t, "no such probe", err, codes.InvalidArgument, "INVALID")

	w.answers = []*agentv1.AnswerRequest{{Answer: &agentv1.AnswerRequest_Error{Error: &agentv1.AnswerError{Reason: reason.NotFound, Message: "no such"}}}}
	_, err = w.follow(t, &musterv1.WatchProbeResultsRequest{Pod: "a"}, nil)
	refused(t, "the agent refuses", err, codes.NotFound, "NOT_FOUND")
	w.answers = nil
	_, err = w.follow(t, &musterv1.WatchProbeResultsRequest{Pod: "a"}, nil)
	refused(t, "the agent ends it", err, codes.Unavailable, "")
	w.answers = []*agentv1.AnswerRequest{followedPiece(0, make([]string, maxFollowed+1)...)}
	_, err = w.follow(t, &musterv1.WatchProbeResultsRequest{Pod: "a"}, nil)
	refused(t, "too much at once", err, codes.Internal, "INTERNAL")
	w.following = func(context.Context, func(*agentv1.AnswerRequest) error) error {
		return fmt.Errorf("ask node n1: %w", dispatch.ErrNoSession)
	}
	_, err = w.follow(t, &musterv1.WatchProbeResultsRequest{Pod: "a"}, nil)
	refused(t, "the session ends", err, codes.Unavailable, "NODE_UNREACHABLE")
}
