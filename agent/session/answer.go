package session

import (
	"context"
	"errors"

	"github.com/musterhq/muster/agent/container"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/reason"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// ErrNotFound means that what was asked for is not held here.
var ErrNotFound = errors.New("not found on this node")

// Bounds of one piece of an answer.
const pieceBytes, pieceResults = 32 << 10, 1000

// answerWriter sends what is written to it as pieces of an answer.
type answerWriter struct {
	stream agentv1.AgentService_AnswerClient
	id     uint64
	over   chan struct{} // closed when the stream has ended
	began  bool
}

func (w *answerWriter) send(m *agentv1.AnswerRequest) error {
	m.Id, w.began = w.id, true
	return w.stream.Send(m)
}

func (w *answerWriter) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		end := min(n+pieceBytes, len(p))
		if err := w.send(&agentv1.AnswerRequest{Answer: &agentv1.AnswerRequest_Data{Data: p[n:end]}}); err != nil {
			return n, err
		}
		n = end
	}
	return len(p), nil
}

func (w *answerWriter) results(all []*musterv1.ProbeAttempt) error {
	for len(all) > 0 {
		n := min(pieceResults, len(all))
		piece := &agentv1.ProbeResults{Results: all[:n]}
		if err := w.send(&agentv1.AnswerRequest{Answer: &agentv1.AnswerRequest_Results{Results: piece}}); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// followed sends results as they come.
func (w *answerWriter) followed(attempts []spec.ProbeAttempt, dropped uint64) error {
	piece := &agentv1.FollowedResults{Dropped: dropped}
	for i := range attempts {
		piece.Results = append(piece.Results, wire.ProbeAttemptToProto(attempts[i].ID, &attempts[i].Attempt))
	}
	return w.send(&agentv1.AnswerRequest{Answer: &agentv1.AnswerRequest_Followed{Followed: piece}})
}

// answerError puts an error into words that travel.
func answerError(err error) *agentv1.AnswerError {
	why := reason.Internal
	for _, known := range []struct {
		err    error
		reason string
	}{
		{ErrNotFound, reason.NotFound}, {container.ErrNotRunning, reason.NotRunning}, {container.ErrCannotStart, reason.CannotStart},
		{container.ErrUnsupported, reason.Unsupported}, {container.ErrCannotConnect, reason.CannotConnect},
	} {
		if errors.Is(err, known.err) {
			why = known.reason
			break
		}
	}
	return &agentv1.AnswerError{Reason: why, Message: err.Error()}
}

// end closes the answer, with the reason when it could not be given.
func (w *answerWriter) end(err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		_ = w.send(&agentv1.AnswerRequest{Answer: &agentv1.AnswerRequest_Error{Error: answerError(err)}})
	} else if !w.began {
		_ = w.send(&agentv1.AnswerRequest{}) // names the question
	}
	_ = w.stream.CloseSend() // it ends either way
	<-w.over
}
