package api

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

// forward makes one call and says these things; it returns what came, and how the call ended.
func (w *world) forward(t *testing.T, said ...*musterv1.PortForwardPodRequest) (got []*musterv1.PortForwardPodResponse, err error) {
	t.Helper()
	s, err := w.pods.PortForwardPod(t.Context())
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

func toPort(name string, port int32) *musterv1.PortForwardPodRequest {
	return &musterv1.PortForwardPodRequest{Input: &musterv1.PortForwardPodRequest_Start{Start: &musterv1.PortForwardStart{Name: name, Port: port}}}
}

func TestAConnectionIsMadeByThePodsNodeAndEachDirectionEndsForItself(t *testing.T) {
	w := serve(t)
	a := w.create("a")
	_, err := w.forward(t, toPort("a", 80))
	refused(t, "bound nowhere", err, codes.Unavailable, "NODE_UNREACHABLE")
	w.bind(a, "n1")
	w.connected["n1"] = true
	w.command = func(_ context.Context, said <-chan *agentv1.InteractResponse, take func(*agentv1.InteractRequest) error) error {
		_ = take(&agentv1.InteractRequest{})
		_ = take(&agentv1.InteractRequest{Output: &agentv1.InteractRequest_Connected{Connected: true}})
		in := (<-said).GetStdin()
		_ = take(&agentv1.InteractRequest{Output: &agentv1.InteractRequest_Stdout{Stdout: in}})
		_ = take(&agentv1.InteractRequest{Output: &agentv1.InteractRequest_StdoutClosed{StdoutClosed: true}})
		if !(<-said).GetStdinClosed() {
			t.Error("the end of the input was not said")
		}
		return nil
	}
	got, err := w.forward(t, toPort("a", 80), &musterv1.PortForwardPodRequest{Input: &musterv1.PortForwardPodRequest_Data{Data: []byte("text")}},
		&musterv1.PortForwardPodRequest{Input: &musterv1.PortForwardPodRequest_DataClosed{DataClosed: true}})
	if !errors.Is(err, io.EOF) || len(got) != 3 || !got[0].GetConnected() || string(got[1].GetData()) != "text" || !got[2].GetDataClosed() {
		t.Errorf("got %v, %v", got, err)
	}
	if q := w.asked.GetForward(); q.GetPort() != 80 || q.GetUid() != a.GetMeta().GetUid() {
		t.Errorf("asked %v", q)
	}
	if log := w.logged.String(); !strings.Contains(log, "PortForwardPod") {
		t.Errorf("the log has no word of it: %s", log)
	}
}

func TestAConnectionThatCannotBeIsToldByItsReason(t *testing.T) {
	w := serve(t)
	w.bind(w.create("a"), "n1")
	w.connected["n1"] = true
	w.command = func(_ context.Context, _ <-chan *agentv1.InteractResponse, take func(*agentv1.InteractRequest) error) error {
		return take(&agentv1.InteractRequest{Output: &agentv1.InteractRequest_Error{Error: &agentv1.AnswerError{Reason: "CANNOT_CONNECT", Message: "nothing listens there"}}})
	}
	_, err := w.forward(t, toPort("a", 80))
	refused(t, "a port that refuses", err, codes.FailedPrecondition, "CANNOT_CONNECT")
	w.command = func(context.Context, <-chan *agentv1.InteractResponse, func(*agentv1.InteractRequest) error) error {
		return nil
	}
	if _, err := w.forward(t, toPort("a", 80)); err == nil || !strings.Contains(err.Error(), "without a word") {
		t.Errorf("an agent that says nothing: %v", err)
	}
	w.command = func(ctx context.Context, _ <-chan *agentv1.InteractResponse, _ func(*agentv1.InteractRequest) error) error {
		<-ctx.Done()
		return ctx.Err()
	}
	data := &musterv1.PortForwardPodRequest{Input: &musterv1.PortForwardPodRequest_Data{Data: make([]byte, maxInput+1)}}
	for name, c := range map[string]struct {
		said []*musterv1.PortForwardPodRequest
		want string
	}{
		"no start":           {[]*musterv1.PortForwardPodRequest{{}}, "start"},
		"no port":            {[]*musterv1.PortForwardPodRequest{toPort("a", 0)}, "start.port"},
		"a port too high":    {[]*musterv1.PortForwardPodRequest{toPort("a", 65536)}, "start.port"},
		"started twice":      {[]*musterv1.PortForwardPodRequest{toPort("a", 80), toPort("a", 80)}, "start"},
		"too much at a time": {[]*musterv1.PortForwardPodRequest{toPort("a", 80), data}, "data"},
	} {
		_, err := w.forward(t, c.said...)
		refused(t, name, err, codes.InvalidArgument, "INVALID")
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want it to name %s", name, err, c.want)
		}
	}
}
