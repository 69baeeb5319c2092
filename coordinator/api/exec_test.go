package api

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

// exec makes one call and says these things; it returns what came, and how the call ended.
func (w *world) exec(t *testing.T, said ...*musterv1.ExecPodRequest) (got []*musterv1.ExecPodResponse, err error) {
	t.Helper()
	s, err := w.pods.ExecPod(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range said {
		_ = s.Send(m) // Recv says why it could not be
	}
	for {
		m, err := s.Recv()
		if err != nil {
			return got, err
		}
		got = append(got, m)
	}
}

func starting(s *musterv1.ExecStart) *musterv1.ExecPodRequest {
	return &musterv1.ExecPodRequest{Input: &musterv1.ExecPodRequest_Start{Start: s}}
}

func TestACommandRunsOnThePodsNode(t *testing.T) {
	w := serve(t)
	a := w.create("a")
	start := &musterv1.ExecStart{Name: "a", Command: []string{"cat"}, Stdin: true}
	_, err := w.exec(t, starting(start))
	refused(t, "bound nowhere", err, codes.Unavailable, "NODE_UNREACHABLE")
	w.bind(a, "n1")
	w.connected["n1"] = true
	w.command = func(_ context.Context, said <-chan *agentv1.InteractResponse, take func(*agentv1.InteractRequest) error) error {
		in := (<-said).GetStdin()
		if !(<-said).GetStdinClosed() {
			t.Error("the end of the input was not said")
		}
		_ = take(&agentv1.InteractRequest{})
		_ = take(&agentv1.InteractRequest{Output: &agentv1.InteractRequest_Stdout{Stdout: in}})
		_ = take(&agentv1.InteractRequest{Output: &agentv1.InteractRequest_Stderr{Stderr: []byte("e")}})
		return take(&agentv1.InteractRequest{Output: &agentv1.InteractRequest_ExitCode{ExitCode: 3}})
	}
	got, _ := w.exec(t, starting(start), &musterv1.ExecPodRequest{Input: &musterv1.ExecPodRequest_Stdin{Stdin: []byte("text")}},
		&musterv1.ExecPodRequest{Input: &musterv1.ExecPodRequest_StdinClosed{StdinClosed: true}})
	if len(got) != 4 || got[0].GetContainer() != "c" || string(got[1].GetStdout()) != "text" || string(got[2].GetStderr()) != "e" || got[3].GetExitCode() != 3 {
		t.Errorf("got %v", got)
	}
	if q := w.asked.GetExec(); q.GetContainer() != "c" || q.GetUid() != a.GetMeta().GetUid() || !q.GetStdin() || q.GetTty() {
		t.Errorf("asked %v", q)
	}
}

func TestACommandThatIsNotAskedForRightIsRefused(t *testing.T) {
	w := serve(t)
	w.bind(w.create("a"), "n1")
	w.connected["n1"] = true
	w.command = func(ctx context.Context, _ <-chan *agentv1.InteractResponse, _ func(*agentv1.InteractRequest) error) error {
		<-ctx.Done()
		return ctx.Err()
	}
	right := starting(&musterv1.ExecStart{Name: "a", Command: []string{"cat"}})
	for name, c := range map[string]struct {
		said []*musterv1.ExecPodRequest
		want string
	}{
		"no start":           {[]*musterv1.ExecPodRequest{{}}, "start"},
		"no command":         {[]*musterv1.ExecPodRequest{starting(&musterv1.ExecStart{Name: "a"})}, "start.command"},
		"too many words":     {[]*musterv1.ExecPodRequest{starting(&musterv1.ExecStart{Name: "a", Command: make([]string, maxCommand+1)})}, "start.command"},
		"another container":  {[]*musterv1.ExecPodRequest{starting(&musterv1.ExecStart{Name: "a", Container: "x", Command: []string{"cat"}})}, `no container "x", it has [c]`},
		"started twice":      {[]*musterv1.ExecPodRequest{right, right}, "start"},
		"too much at a time": {[]*musterv1.ExecPodRequest{right, {Input: &musterv1.ExecPodRequest_Stdin{Stdin: make([]byte, maxInput+1)}}}, "stdin"},
	} {
		_, err := w.exec(t, c.said...)
		refused(t, name, err, codes.InvalidArgument, "INVALID")
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want it to name %s", name, err, c.want)
		}
	}
	w.command = func(_ context.Context, _ <-chan *agentv1.InteractResponse, take func(*agentv1.InteractRequest) error) error {
		return take(&agentv1.InteractRequest{Output: &agentv1.InteractRequest_Error{Error: &agentv1.AnswerError{Reason: "CANNOT_START", Message: "no such file"}}})
	}
	_, err := w.exec(t, right)
	refused(t, "cannot start", err, codes.FailedPrecondition, "CANNOT_START")
	w.command = func(context.Context, <-chan *agentv1.InteractResponse, func(*agentv1.InteractRequest) error) error {
		return nil
	}
	_, err = w.exec(t, right)
	refused(t, "no end", err, codes.Unavailable, "")
}
