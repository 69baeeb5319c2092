package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
)

// maxAsks bounds the questions under way to one node.
const maxAsks = 64

// ErrNoSession means that a node can't be asked: there is no session with it.
var ErrNoSession = errors.New("no session with the node")

// ErrTooManyAsks means that a node has as many questions under way as it may.
var ErrTooManyAsks = fmt.Errorf("over %d questions under way", maxAsks)

// Answer is one piece of an answer, or its end.
type answer struct {
	piece *agentv1.AnswerRequest
	err   error
}

type question struct {
	to     *session
	pieces chan answer
	done   chan struct{} // closed when the asker has gone
}

type asks struct {
	mu   sync.Mutex
	next uint64
	open map[uint64]*question
}

func newAsks() *asks { return &asks{open: map[uint64]*question{}} }

// Ask puts a question to a node and hands each piece of the answer to take, in order, until the answer ends, take
// fails, or ctx ends. ErrNoSession where the node has no session, or loses it.
func (d *Dispatch) Ask(ctx context.Context, node string, ask *agentv1.Ask, take func(*agentv1.AnswerRequest) error) error {
	d.mu.Lock()
	s := d.sessions[node]
	d.mu.Unlock()
	if s == nil {
		return fmt.Errorf("ask node %s: %w", node, ErrNoSession)
	}
	q, id, err := d.ask.add(s)
	if err != nil {
		return fmt.Errorf("ask node %s: %w", node, err)
	}
	defer d.ask.remove(id)
	ask.Id = id
	s.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Ask{Ask: ask}})
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return fmt.Errorf("ask node %s: %w", node, ErrNoSession)
		case a := <-q.pieces:
			if errors.Is(a.err, io.EOF) {
				return nil
			}
			if a.err != nil {
				return a.err
			}
			if err := take(a.piece); err != nil {
				return err
			}
		}
	}
}

func (a *asks) add(s *session) (*question, uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, q := range a.open {
		if q.to == s {
			n++
		}
	}
	if n >= maxAsks {
		return nil, 0, ErrTooManyAsks
	}
	a.next++
	q := &question{to: s, pieces: make(chan answer), done: make(chan struct{})}
	a.open[a.next] = q
	return q, a.next, nil
}

func (a *asks) remove(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if q := a.open[id]; q != nil {
		close(q.done)
		delete(a.open, id)
	}
}

func (a *asks) get(id uint64) *question {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.open[id]
}

// drop forgets the questions of a session; their askers see that it has ended.
func (a *asks) drop(s *session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, q := range a.open {
		if q.to == s {
			close(q.done)
			delete(a.open, id)
		}
	}
}

// Answer implements AgentService: it hands the pieces to whoever asked, and ends when nobody wants more.
func (d *Dispatch) Answer(stream agentv1.AgentService_AnswerServer) error {
	node, err := d.deps.Authority.Caller(stream.Context())
	if err != nil {
		return err
	}
	var q *question
	for {
		m, err := stream.Recv()
		if err != nil && q == nil {
			return err
		}
		if q == nil {
			if q = d.ask.get(m.GetId()); q == nil || q.to.node != node {
				return status.Error(codes.Canceled, "nobody wants this answer")
			}
		}
		a := answer{piece: m, err: err}
		select {
		case q.pieces <- a:
		case <-q.done:
			return status.Error(codes.Canceled, "nobody wants this answer any more")
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&agentv1.AnswerResponse{})
		}
		if err != nil {
			return err
		}
	}
}
