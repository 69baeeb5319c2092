package session

import (
	"context"
	"fmt"
	"io"

	"github.com/musterhq/muster/agent/container"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
)

// forward makes one connection to a port of a pod for whoever has asked, through a stream of its own. What is not read or
// written by one end holds up the other; the end of one direction leaves the other standing.
func (o *open) forward(ctx context.Context, id uint64, q *agentv1.ForwardAsk) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := o.client.Interact(ctx)
	if err != nil {
		return // the session is over, and the question with it
	}
	w := &interactWriter{stream: stream, id: id}
	in := &inbox{more: make(chan struct{}, 1), took: func(n int) {
		_ = w.send(&agentv1.InteractRequest{Output: &agentv1.InteractRequest_Taken{Taken: uint32(n)}}) // Recv sees the end
	}}
	over := make(chan struct{})
	go func() {
		defer close(over)
		defer cancel()
		for {
			m, err := stream.Recv()
			if err != nil {
				in.close(io.ErrUnexpectedEOF)
				return
			}
			switch m := m.GetInput().(type) {
			case *agentv1.InteractResponse_Stdin:
				if !in.put(m.Stdin) {
					return // more than it was asked for
				}
			case *agentv1.InteractResponse_StdinClosed:
				in.close(io.EOF)
			}
		}
	}()
	_ = w.send(&agentv1.InteractRequest{}) // names the question
	if err := o.connect(ctx, q, in, w); err != nil {
		_ = w.send(&agentv1.InteractRequest{Output: &agentv1.InteractRequest_Error{Error: answerError(err)}})
	}
	w.close()
	<-over
}

// connect moves what comes and goes until both directions have ended, one has failed, or ctx has ended.
func (o *open) connect(ctx context.Context, q *agentv1.ForwardAsk, in *inbox, w *interactWriter) error {
	conn, err := o.deps.Pods.Dial(ctx, q.GetUid(), int(q.GetPort()))
	if err != nil {
		in.close(io.ErrClosedPipe)
		return err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := w.send(&agentv1.InteractRequest{Output: &agentv1.InteractRequest_Connected{Connected: true}}); err != nil {
		conn.Close()
		return err
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if _, err := io.Copy(conn, in); err == nil {
			_ = conn.CloseWrite() // else it is closed already
		}
		in.close(io.ErrClosedPipe) // nobody reads it any more
	}()
	_, err = io.Copy(outputWriter{w, func(p []byte) *agentv1.InteractRequest {
		return &agentv1.InteractRequest{Output: &agentv1.InteractRequest_Stdout{Stdout: p}}
	}}, conn)
	if err == nil {
		err = w.send(&agentv1.InteractRequest{Output: &agentv1.InteractRequest_StdoutClosed{StdoutClosed: true}})
	}
	if err != nil {
		in.close(io.ErrClosedPipe)
		conn.Close()
		err = fmt.Errorf("%w any longer: %w", container.ErrCannotConnect, err)
	}
	<-sent
	conn.Close()
	return err
}
