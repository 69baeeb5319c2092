package session

import (
	"context"
	"io"
	"sync"

	"github.com/musterhq/muster/agent/container"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

// maxInbox bounds what is written to a command and not taken yet, in bytes: more is not sent.
const maxInbox = 64 << 10

// interact runs one command on the streams of whoever has asked, through a stream of its own. What is not read or written by
// one end holds up the other.
func (o *open) interact(ctx context.Context, id uint64, q *agentv1.ExecAsk) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := o.client.Interact(ctx)
	if err != nil {
		return // the session is over, and the question with it
	}
	w := &interactWriter{stream: stream, id: id}
	over := make(chan struct{})
	cmd := container.Interaction{
		Argv: q.GetCommand(), TTY: q.GetTty(),
		Stdout: outputWriter{w, func(p []byte) *agentv1.InteractRequest {
			return &agentv1.InteractRequest{Output: &agentv1.InteractRequest_Stdout{Stdout: p}}
		}},
		Stderr: outputWriter{w, func(p []byte) *agentv1.InteractRequest {
			return &agentv1.InteractRequest{Output: &agentv1.InteractRequest_Stderr{Stderr: p}}
		}},
	}
	in := &inbox{more: make(chan struct{}, 1), took: func(n int) {
		_ = w.send(&agentv1.InteractRequest{Output: &agentv1.InteractRequest_Taken{Taken: uint32(n)}}) // Recv sees the end
	}}
	if q.GetStdin() {
		cmd.Stdin = in
	}
	sizes := make(chan container.TerminalSize, 1)
	cmd.Sizes = sizes
	if q.GetSize() != nil {
		sizes <- terminalSize(q.GetSize())
	}
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
			case *agentv1.InteractResponse_Size:
				select { // the newest is what counts
				case <-sizes:
				default:
				}
				sizes <- terminalSize(m.Size)
			}
		}
	}()
	_ = w.send(&agentv1.InteractRequest{}) // names the question
	code, err := o.deps.Pods.RunCommand(ctx, q.GetUid(), q.GetContainer(), cmd)
	last := &agentv1.InteractRequest{Output: &agentv1.InteractRequest_ExitCode{ExitCode: code}}
	if err != nil {
		last.Output = &agentv1.InteractRequest_Error{Error: answerError(err)}
	}
	in.close(io.ErrClosedPipe) // nobody reads it any more
	_ = w.send(last)
	w.close()
	<-over
}

func terminalSize(pb *musterv1.TerminalSize) container.TerminalSize {
	return container.TerminalSize{Columns: uint16(min(pb.GetColumns(), 1<<16-1)), Rows: uint16(min(pb.GetRows(), 1<<16-1))}
}

// interactWriter sends what a command writes; its methods may be called from any goroutine.
type interactWriter struct {
	id     uint64
	mu     sync.Mutex
	stream agentv1.AgentService_InteractClient
}

func (w *interactWriter) send(m *agentv1.InteractRequest) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	m.Id = w.id
	return w.stream.Send(m)
}

func (w *interactWriter) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.stream.CloseSend() // it ends either way
}

// inbox is what is written to a command. One reads, others put.
type inbox struct {
	more chan struct{}
	took func(n int)

	mu   sync.Mutex
	kept []byte
	err  error // why nothing more comes
}

func (b *inbox) signal() {
	select {
	case b.more <- struct{}{}:
	default:
	}
}

// put keeps what was written; false if that is too much.
func (b *inbox) put(p []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return true // it is not read any more
	}
	if len(b.kept)+len(p) > maxInbox {
		return false
	}
	b.kept = append(b.kept, p...)
	b.signal()
	return true
}

// close says that nothing more comes; the first time counts.
func (b *inbox) close(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
	b.signal()
}

// Read implements io.Reader.
func (b *inbox) Read(p []byte) (int, error) {
	for {
		b.mu.Lock()
		n := copy(p, b.kept)
		b.kept = b.kept[n:]
		err := b.err
		b.mu.Unlock()
		if n > 0 {
			b.took(n)
			return n, nil
		}
		if err != nil {
			return 0, err
		}
		<-b.more
	}
}

// outputWriter sends what is written to it in pieces.
type outputWriter struct {
	*interactWriter
	message func([]byte) *agentv1.InteractRequest
}

func (w outputWriter) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		end := min(n+pieceBytes, len(p))
		if err := w.send(w.message(p[n:end])); err != nil {
			return n, err
		}
		n = end
	}
	return len(p), nil
}
