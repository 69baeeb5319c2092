package session

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"

	"github.com/musterhq/muster/agent/container"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
)

// line is a connection to a pod.
type line struct {
	io.Reader
	to, from io.Closer
	io.Writer
}

func (l *line) CloseWrite() error { return l.to.Close() }
func (l *line) Close() error      { l.to.Close(); return l.from.Close() }

// lineTo connects to a pod that does this with what it reads and writes.
func lineTo(pod func(in io.Reader, out io.WriteCloser)) *line {
	in, to := io.Pipe()
	from, out := io.Pipe()
	go pod(in, out)
	return &line{from, to, from, to}
}

func askForward(id uint64, uid string) *agentv1.ConnectResponse {
	return &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Ask{Ask: &agentv1.Ask{
		Id: id, Question: &agentv1.Ask_Forward{Forward: &agentv1.ForwardAsk{Uid: uid, Port: 80}},
	}}}
}

func TestAConnectionMovesWhatComesAndEachDirectionEndsForItself(t *testing.T) {
	bubble(t, func(w *world) {
		w.said = []*agentv1.InteractResponse{
			{Input: &agentv1.InteractResponse_Stdin{Stdin: []byte("one ")}},
			{Input: &agentv1.InteractResponse_Stdin{Stdin: []byte("two")}},
			{Input: &agentv1.InteractResponse_StdinClosed{StdinClosed: true}},
		}
		w.dial = func(_ context.Context, port int) (container.Conn, error) {
			if port != 80 {
				t.Errorf("port %d", port)
			}
			return lineTo(func(in io.Reader, out io.WriteCloser) {
				text, _ := io.ReadAll(in) // to the end of that direction
				_, _ = out.Write(append(text, make([]byte, pieceBytes)...))
				out.Close()
			}), nil
		}
	}, func(w *world) {
		l := w.link(1)
		l.send(askForward(1, "u1"))
		l.send(askForward(2, "u9"))
		synctest.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		c := w.commands[1]
		if len(c) < 3 || !c[0].GetConnected() || !c[len(c)-1].GetStdoutClosed() {
			t.Fatalf("got %v", c)
		}
		var text []byte
		for _, m := range c {
			if len(m.GetStdout()) > pieceBytes {
				t.Errorf("a piece of %d bytes", len(m.GetStdout()))
			}
			text = append(text, m.GetStdout()...)
		}
		if len(text) != pieceBytes+7 || string(text[:7]) != "one two" {
			t.Errorf("%d bytes came, %q first", len(text), text[:min(7, len(text))])
		}
		if c := w.commands[2]; len(c) != 1 || c[0].GetError().GetReason() != "NOT_FOUND" {
			t.Errorf("in no pod: %v", c)
		}
	})
}

func TestAConnectionThatIsRefusedSaysWhy(t *testing.T) {
	bubble(t, func(w *world) {
		w.dial = func(context.Context, int) (container.Conn, error) {
			return nil, fmt.Errorf("%w: nothing listens there", container.ErrCannotConnect)
		}
	}, func(w *world) {
		w.link(1).send(askForward(1, "u1"))
		synctest.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		if c := w.commands[1]; len(c) != 1 || c[0].GetError().GetReason() != "CANNOT_CONNECT" {
			t.Errorf("got %v", c)
		}
	})
}

func TestAConnectionThatNobodyWantsIsClosedThoughThePodWritesOn(t *testing.T) {
	var ended chan struct{}
	bubble(t, func(w *world) {
		ended = make(chan struct{})
		for range maxInbox / pieceBytes { // as much as may be under way
			w.said = append(w.said, &agentv1.InteractResponse{Input: &agentv1.InteractResponse_Stdin{Stdin: make([]byte, pieceBytes)}})
		}
		w.dial = func(context.Context, int) (container.Conn, error) {
			return lineTo(func(_ io.Reader, out io.WriteCloser) {
				_, err := out.Write(make([]byte, 1))
				for err == nil {
					_, err = out.Write(make([]byte, 1))
				}
				close(ended)
			}), nil
		}
	}, func(w *world) {
		w.link(1).send(askForward(1, "u1"))
		close(w.unwanted)
		synctest.Wait()
		select {
		case <-ended:
		default:
			t.Error("it goes on, for nobody")
		}
	})
}
