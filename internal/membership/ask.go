package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// pings and pingGap are how a member's agent is looked for: three messages, 150 ms apart.
	pings   = 3
	pingGap = 150 * time.Millisecond
	// askAgain is when a question that may be lost is put once more; a witness looks only once.
	askAgain = 250 * time.Millisecond
	// maxAsks bounds the questions in flight from here, maxLooks those that are worked on for others. What is beyond
	// that is refused here, and not answered there.
	maxAsks, maxLooks = 256, 16
	// keepAnswers is for how many questions a witness remembers its answer.
	keepAnswers = 256
	// maxMessage bounds a message, in bytes: it has to fit into one datagram.
	maxMessage = 1024
)

// The errors of Ask.
var (
	// ErrBusy means that too many questions are in flight.
	ErrBusy = errors.New("too many questions in flight")
	// ErrNoAnswer means that the witness did not answer in time: it says nothing about the target.
	ErrNoAnswer = errors.New("witness did not answer")
)

// Request names whom to look at.
type Request struct {
	// Node is the member's name.
	Node string
	// Gossip and Guard are where its agent and its guard listen, HOST:PORT. Without Gossip the agent is looked for where
	// the looking member knows it; without Guard the guard is not asked, and counts as silent.
	Gossip, Guard string
}

// Sight is what a member sees of another one, its agent and its machine apart.
type Sight struct {
	// Agent tells whether the agent answered one of three pings.
	Agent bool
	// Guard is how the machine's guard behaved.
	Guard GuardSign
}

// Silent tells whether nothing at all was heard.
func (s Sight) Silent() bool { return !s.Agent && s.Guard.State == GuardSilent }

// message is what members say to each other. Exactly one of Request and Sight is set.
type message struct {
	ID      uint64   `json:"id"`
	From    string   `json:"from"`
	Request *Request `json:"ask,omitempty"`
	Sight   *Sight   `json:"see,omitempty"`
}

// asks has the questions of this member and those of others.
type asks struct {
	m *Membership

	mu sync.Mutex
	// waiting has a channel of capacity 1 for each question in flight.
	waiting map[uint64]chan Sight
	// answers remembers, per question of others, the answer: nil while it is being looked for. recent has its keys, the
	// oldest first.
	answers map[question]*Sight
	recent  []question
	looking int
	inbox   chan message
}

// question is one question of one member.
type question struct {
	from string
	id   uint64
}

func newAsks(m *Membership) *asks {
	return &asks{m: m, waiting: map[uint64]chan Sight{}, answers: map[question]*Sight{}, inbox: make(chan message, maxAsks)}
}

// Look looks at a member from here: three pings and the guard at the same time. It takes at most 600 ms.
func (m *Membership) Look(ctx context.Context, r Request) Sight {
	sight := Sight{Guard: GuardSign{State: GuardSilent}}
	var wg sync.WaitGroup
	if r.Guard != "" {
		wg.Go(func() { sight.Guard = m.deps.Guard(ctx, r.Guard) })
	}
	answered := make(chan bool, pings)
	for i := range pings {
		wg.Go(func() {
			select {
			case <-ctx.Done():
			case <-time.After(time.Duration(i) * pingGap):
				_, err := m.ping(r.Node, r.Gossip)
				answered <- err == nil
			}
		})
	}
	wg.Wait()
	close(answered)
	for ok := range answered {
		sight.Agent = sight.Agent || ok
	}
	return sight
}

// Ask lets another member look. It takes until the answer comes or ctx ends; a witness needs up to 600 ms to look.
// ErrNotMember, ErrBusy or ErrNoAnswer otherwise.
func (m *Membership) Ask(ctx context.Context, member string, r Request) (Sight, error) {
	witness, ok := m.Member(member)
	m.mu.Lock()
	list := m.list
	m.mu.Unlock()
	if !ok || witness.State != Alive || list == nil {
		return Sight{}, fmt.Errorf("ask %s: %w", member, ErrNotMember)
	}
	id, answer, err := m.asks.open()
	if err != nil {
		return Sight{}, fmt.Errorf("ask %s: %w", member, err)
	}
	defer m.asks.close(id)
	again := time.NewTicker(askAgain)
	defer again.Stop()
	for {
		if err := m.send(list, witness, message{ID: id, From: m.cfg.Name, Request: &r}); err != nil {
			return Sight{}, fmt.Errorf("ask %s: %w", member, err)
		}
		select {
		case <-ctx.Done():
			return Sight{}, fmt.Errorf("ask %s about %s: %w", member, r.Node, ErrNoAnswer)
		case sight := <-answer:
			return sight, nil
		case <-again.C:
		}
	}
}

func (a *asks) open() (uint64, <-chan Sight, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.waiting) >= maxAsks {
		return 0, nil, ErrBusy
	}
	id := rand.Uint64() // not a counter: a witness may remember the questions of this member's last run
	a.waiting[id] = make(chan Sight, 1)
	return id, a.waiting[id], nil
}

func (a *asks) close(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.waiting, id)
}

// send sends one datagram; err is only about this side.
func (m *Membership) send(list *memberlist.Memberlist, to Member, msg message) error {
	b, err := json.Marshal(msg)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("a message of %d bytes, at most %d", len(b), maxMessage)
	}
	return list.SendToAddress(memberlist.Address{Addr: to.Address, Name: to.Name}, b)
}

// receive takes a datagram in. It must not block: with a full inbox a question is dropped, and put once more.
func (a *asks) receive(b []byte) {
	if len(b) > maxMessage {
		return
	}
	var msg message
	if err := json.Unmarshal(b, &msg); err != nil {
		a.m.deps.Log.Debug("gossip: a message that is not understood", "err", err)
		return
	}
	if msg.Sight != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		if c := a.waiting[msg.ID]; c != nil {
			select {
			case c <- *msg.Sight:
			default: // answered already
			}
		}
		return
	}
	if msg.Request == nil {
		return
	}
	select {
	case a.inbox <- msg:
	default:
	}
}

// run answers questions until ctx ends.
func (a *asks) run(ctx context.Context, list *memberlist.Memberlist) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case msg := <-a.inbox:
			if sight, look := a.begin(msg); sight != nil {
				a.reply(list, msg, *sight)
			} else if look {
				wg.Go(func() {
					sight := a.m.Look(ctx, *msg.Request)
					a.finish(msg, sight)
					if ctx.Err() == nil {
						a.reply(list, msg, sight)
					}
				})
			}
		}
	}
}

// begin says what to do about a question: answer it at once as it was answered before, look, or nothing.
func (a *asks) begin(msg message) (known *Sight, look bool) {
	q := question{msg.From, msg.ID}
	a.mu.Lock()
	defer a.mu.Unlock()
	if sight, ok := a.answers[q]; ok {
		return sight, false
	}
	if a.looking >= maxLooks {
		return nil, false
	}
	a.looking++
	a.answers[q] = nil
	if a.recent = append(a.recent, q); len(a.recent) > keepAnswers {
		delete(a.answers, a.recent[0])
		a.recent = a.recent[1:]
	}
	return nil, true
}

func (a *asks) finish(msg message, sight Sight) {
	q := question{msg.From, msg.ID}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.looking--
	if _, ok := a.answers[q]; ok {
		a.answers[q] = &sight
	}
}

// reply sends an answer to who asked, if that is a member: it can not be used to send something anywhere else.
func (a *asks) reply(list *memberlist.Memberlist, msg message, sight Sight) {
	to, ok := a.m.Member(msg.From)
	if !ok {
		return
	}
	if err := a.m.send(list, to, message{ID: msg.ID, From: a.m.cfg.Name, Sight: &sight}); err != nil {
		a.m.deps.Log.Debug("gossip: answer not sent", "to", to.Name, "err", err)
	}
}
