package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
)

// maxAsks bounds the questions under way to one node, but for connections to its pods, which maxForwards bounds: they may
// last long, and are to leave room for the others.
const (
	maxAsks     = 64
	maxForwards = 256
)

// ErrNoSession means that a node can't be asked: there is no session with it.
var ErrNoSession = errors.New("no session with the node")

// ErrTooManyAsks means that a node has as many questions under way as it may.
var ErrTooManyAsks = fmt.Errorf("over %d questions under way", maxAsks)

// ErrTooManyForwards means that there are as many connections to a node's pods as there may be.
var ErrTooManyForwards = fmt.Errorf("over %d connections to the node's pods under way", maxForwards)

// answer is one piece of an answer, an AnswerRequest or InteractRequest, or its end.
type answer struct {
	piece proto.Message
	err   error
}

type question struct {
	to     *session
	pieces chan answer
	done   chan struct{} // closed when the asker has gone
	// said is what goes to a command; nil where an Answer is asked for, not an Interact.
	said <-chan *agentv1.InteractResponse
	// forward is set for a connection to a pod.
	forward bool
	// taken is how much of what was written to the command has been taken since say last looked, which more tells it to.
	taken atomic.Int64
	more  chan struct{}
}

// room is how many bytes of what is written to a command may be under way to it: one piece more is sent while there is any.
const room = 32 << 10

type asks struct {
	mu   sync.Mutex
	next uint64
	open map[uint64]*question
}

func newAsks() *asks { return &asks{open: map[uint64]*question{}} }

// Ask puts a question to a node and hands each piece of the answer to take, in order, until the answer ends, take
// fails, or ctx ends. ErrNoSession where the node has no session, or loses it.
func (d *Dispatch) Ask(ctx context.Context, node string, ask *agentv1.Ask, take func(*agentv1.AnswerRequest) error) error {
	return d.put(ctx, node, ask, nil, func(piece proto.Message) error { return take(piece.(*agentv1.AnswerRequest)) })
}

// Exec asks a node to run a command, hands it what is said, and take each piece of what it writes, as Ask does.
func (d *Dispatch) Exec(ctx context.Context, node string, ask *agentv1.Ask, said <-chan *agentv1.InteractResponse, take func(*agentv1.InteractRequest) error) error {
	return d.put(ctx, node, ask, said, func(piece proto.Message) error { return take(piece.(*agentv1.InteractRequest)) })
}

func (d *Dispatch) put(ctx context.Context, node string, ask *agentv1.Ask, said <-chan *agentv1.InteractResponse, take func(proto.Message) error) error {
	d.mu.Lock()
	s := d.sessions[node]
	d.mu.Unlock()
	if s == nil {
		return fmt.Errorf("ask node %s: %w", node, ErrNoSession)
	}
	q, id, err := d.ask.add(s, said, ask.GetForward() != nil)
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

func (a *asks) add(s *session, said <-chan *agentv1.InteractResponse, forward bool) (*question, uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, q := range a.open {
		if q.to == s && q.forward == forward {
			n++
		}
	}
	switch {
	case forward && n >= maxForwards:
		return nil, 0, ErrTooManyForwards
	case !forward && n >= maxAsks:
		return nil, 0, ErrTooManyAsks
	}
	a.next++
	q := &question{to: s, pieces: make(chan answer), done: make(chan struct{}), said: said, forward: forward, more: make(chan struct{}, 1)}
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

// errUnwanted ends a stream that nobody wants.
var errUnwanted = status.Error(codes.Canceled, "nobody wants this answer")

// Answer implements AgentService: it hands the pieces to whoever asked, and ends when nobody wants more.
func (d *Dispatch) Answer(stream agentv1.AgentService_AnswerServer) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	q, err := d.wanted(stream.Context(), m.GetId(), false)
	if err != nil {
		return err
	}
	err = q.until(stream.Context(), func() error {
		for m, err := m, error(nil); ; m, err = stream.Recv() {
			if err == nil {
				err = q.hand(stream.Context(), answer{piece: m})
			}
			if err != nil {
				return err
			}
		}
	})
	if err != nil {
		return err
	}
	return stream.SendAndClose(&agentv1.AnswerResponse{})
}

// wanted is the question of that number, if it was put to the node that answers, and is one for such an answer.
func (d *Dispatch) wanted(ctx context.Context, id uint64, command bool) (*question, error) {
	node, err := d.deps.Authority.Caller(ctx)
	if err != nil {
		return nil, err
	}
	if q := d.ask.get(id); q != nil && q.to.node == node && command == (q.said != nil) {
		return q, nil
	}
	return nil, errUnwanted
}

// until waits for take to end, and tells whoever asked how it has, or for those to go: who answers may have nothing to say for
// long. take ends with its stream, which ends with the handler that calls this. nil means that all was said.
func (q *question) until(ctx context.Context, take func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- take() }()
	select {
	case err := <-ended:
		if herr := q.hand(ctx, answer{err: err}); herr != nil || errors.Is(err, io.EOF) {
			return herr
		}
		return err
	case <-q.done:
		return errUnwanted
	}
}

// hand gives whoever asked a piece, and waits until it is taken.
func (q *question) hand(ctx context.Context, a answer) error {
	select {
	case q.pieces <- a:
		return nil
	case <-q.done:
		return errUnwanted
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Interact implements AgentService: it moves what is said to a command, and what the command writes, until it has ended or
// nobody wants it any more.
func (d *Dispatch) Interact(stream agentv1.AgentService_InteractServer) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	q, err := d.wanted(stream.Context(), m.GetId(), true)
	if err != nil {
		return err
	}
	go q.say(stream) // ends with the stream, which ends with this handler
	return q.until(stream.Context(), func() error {
		for m, err := m, error(nil); ; m, err = stream.Recv() {
			if err != nil {
				return err
			}
			switch o := m.GetOutput().(type) {
			case nil: // it names the question
			case *agentv1.InteractRequest_Taken:
				q.taken.Add(int64(o.Taken))
				select {
				case q.more <- struct{}{}:
				default:
				}
			default:
				if err := q.hand(stream.Context(), answer{piece: m}); err != nil {
					return err
				}
			}
		}
	})
}

// say sends on what is said to the command, as there is room for it.
func (q *question) say(stream agentv1.AgentService_InteractServer) {
	free := int64(room)
	for {
		said := q.said
		if free <= 0 {
			said = nil
		}
		select {
		case m := <-said:
			free -= int64(len(m.GetStdin()))
			if stream.Send(m) != nil {
				return
			}
		case <-q.more:
			free += q.taken.Swap(0)
		case <-q.done:
			return
		case <-stream.Context().Done():
			return
		}
	}
}
