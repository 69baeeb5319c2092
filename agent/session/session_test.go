package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/musterhq/muster/agent/container"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

const renewEvery = time.Second

// link is one session as the coordinator sees it.
type link struct {
	hello  *agentv1.Hello
	at     time.Time
	stream agentv1.AgentService_ConnectServer
	ended  chan error // what the coordinator ends it with
	got    []*agentv1.ConnectRequest
	eof    bool
}

// world is a session, the parts that it speaks for, and a coordinator that does what the test says.
type world struct {
	agentv1.UnimplementedAgentServiceServer

	t *testing.T
	s *Session

	// opening answers each Hello; nil welcomes and sends an empty full set.
	opening func(l *link) error

	mu       sync.Mutex
	links    []*link
	renewals []*agentv1.RenewRequest
	renewed  []time.Time
	answers  map[uint64][]*agentv1.AnswerRequest
	answered map[uint64]error
	// unwanted is closed when nobody wants answers any more.
	unwanted chan struct{}
	// stuck keeps the coordinator from reading its Connect streams.
	stuck bool

	holds     []spec.Holding
	numbers   int64
	sent      []string
	acked     []string
	assigned  []Assignments
	committed []Held
	notYours  []Held
	welcomes  []Welcome
	network   func(Network)
	statuses  chan []spec.HeldStatus
	events    chan []spec.Event
	reopen    chan struct{}
	states    []spec.ProbeState
	logs      func(ctx context.Context, o LogOptions, w io.Writer) error
	command   func(ctx context.Context, cmd container.Interaction) (int32, error)
	dial      func(ctx context.Context, port int) (container.Conn, error)
	// commands has what came of each command that was asked for.
	commands map[uint64][]*agentv1.InteractRequest
	// said is sent to each command at once.
	said  []*agentv1.InteractResponse
	usage Usage
	// attempts are told to whoever follows.
	attempts chan spec.ProbeAttempt
	// unfollowed is closed when nobody follows any more.
	unfollowed chan struct{}
	// guards has what was told of restart guards, and words what there is to say of all pods; restarts has what is new.
	guards   [][]spec.PodGuard
	words    []spec.RestartWord
	restarts chan []spec.RestartWord
	cutOff   int
}

func (w *world) Hello() (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.numbers++
	return w.numbers, nil
}

func (w *world) Sent(session int64, n uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = append(w.sent, fmt.Sprintf("%d/%d", session, n))
}

func (w *world) Longest() time.Duration { return 7 * time.Second }

// lease is apart because its Acked is not that of the pods.
type lease struct{ *world }

func (l lease) Acked(session int64, n uint64, ttl time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked = append(l.acked, fmt.Sprintf("%d/%d %v", session, n, ttl))
}

func (w *world) Configure(Configs) {}

func (w *world) Guard(all []spec.PodGuard) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.guards = append(w.guards, all)
}

func (w *world) CutOff() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cutOff++
}

func (w *world) Holdings(context.Context) []spec.Holding { return w.holds }

func (w *world) NextRestarts(ctx context.Context, all bool) ([]spec.RestartWord, error) {
	if all {
		return w.words, nil
	}
	return next(ctx, w.restarts)
}
func (w *world) Assign(a Assignments) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.assigned = append(w.assigned, a)
}

func (w *world) All(context.Context) ([]spec.HeldStatus, bool) {
	return []spec.HeldStatus{{UID: "u1", Epoch: 3, Status: spec.PodStatus{Phase: spec.PhaseRunning}}}, true
}

func next[T any](ctx context.Context, c chan []T) ([]T, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case v := <-c:
		return v, nil
	}
}

func (w *world) Next(ctx context.Context, _ int) ([]spec.HeldStatus, error) {
	return next(ctx, w.statuses)
}

func (w *world) Acked(committed, notYours []Held) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.committed, w.notYours = append(w.committed, committed...), append(w.notYours, notYours...)
}

func (w *world) Reopen() <-chan struct{} { return w.reopen }

func (w *world) Logs(ctx context.Context, uid, container string, _ bool, o LogOptions, out io.Writer) error {
	if uid != "u1" || container != "c" {
		return fmt.Errorf("container %s of pod %s: %w", container, uid, ErrNotFound)
	}
	return w.logs(ctx, o, out)
}

func (w *world) Evidence(_ context.Context, uid, _ string) ([]spec.ContainerEvidence, error) {
	if uid != "u1" {
		return nil, fmt.Errorf("pod %s: %w", uid, ErrNotFound)
	}
	return []spec.ContainerEvidence{{Container: "c", Backoff: 10 * time.Second, Log: []byte("panic")}, {Container: "d"}}, nil
}

func (w *world) Dial(ctx context.Context, uid string, port int) (container.Conn, error) {
	if uid != "u1" {
		return nil, fmt.Errorf("pod %s: %w", uid, ErrNotFound)
	}
	return w.dial(ctx, port)
}

func (w *world) RunCommand(ctx context.Context, uid, name string, cmd container.Interaction) (int32, error) {
	if uid != "u1" || name != "c" {
		return 0, fmt.Errorf("container %s of pod %s: %w", name, uid, ErrNotFound)
	}
	return w.command(ctx, cmd)
}

type eventQueue chan []spec.Event

func (q eventQueue) Next(ctx context.Context, _ int) ([]spec.Event, error) { return next(ctx, q) }

func (w *world) States() []spec.ProbeState { return w.states }

func (w *world) Results(id spec.ProbeID, n int) []spec.Attempt {
	as := []spec.Attempt{attempt(1), attempt(2), attempt(3)}
	return as[max(0, len(as)-n):]
}

// Follow tells of what the test sends.
func (w *world) Follow(ctx context.Context, match func(spec.ProbeID) bool, take func([]spec.ProbeAttempt, uint64) error) error {
	defer close(w.unfollowed)
	if err := take(nil, 0); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case a := <-w.attempts:
			if !match(a.ID) {
				continue
			}
			if err := take([]spec.ProbeAttempt{a}, 7); err != nil {
				return err
			}
		}
	}
}

func attempt(second int64) spec.Attempt {
	return spec.Attempt{Start: time.Unix(second, 0), Outcome: spec.OutcomeSuccess, Result: spec.ResultSuccess, CPU: -1, Lag: -1}
}

// bubble runs f with a session that Run holds in fake time, until f returns.
func bubble(t *testing.T, prepare, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, answers: map[uint64][]*agentv1.AnswerRequest{}, answered: map[uint64]error{}, unwanted: make(chan struct{}),
			statuses: make(chan []spec.HeldStatus), events: make(chan []spec.Event), reopen: make(chan struct{}, 1),
			restarts: make(chan []spec.RestartWord),
		}
		if prepare != nil {
			prepare(w)
		}
		l := bufconn.Listen(1 << 20)
		server := grpc.NewServer()
		agentv1.RegisterAgentServiceServer(server, w)
		go func() { _ = server.Serve(l) }()
		w.s = New(Config{
			Node: "node-1", Instance: "i", BootID: "b", Version: "1.2.3",
			Facts: func() spec.NodeFacts { return spec.NodeFacts{Address: "192.0.2.1"} },
			Dial: func(context.Context) (*grpc.ClientConn, error) {
				return grpc.NewClient("passthrough:///bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
					grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
			},
			Network:  w.network,
			Welcomed: func(welcome Welcome) { w.welcomes = append(w.welcomes, welcome) },
		}, Deps{Lease: lease{w}, Pods: w, Probes: w, Events: eventQueue(w.events), Usage: w.usage, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.s.Run(ctx) }()
		synctest.Wait()
		f(w)
		cancel()
		begun := time.Now()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("it took %v to stop", took)
		}
		if up, _ := w.s.Up(); up {
			t.Error("it is up after its end")
		}
		server.Stop()
		synctest.Wait()
	})
}

func (w *world) Connect(stream agentv1.AgentService_ConnectServer) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	l := &link{hello: m.GetHello(), at: time.Now(), stream: stream, ended: make(chan error, 1)}
	w.mu.Lock()
	w.links = append(w.links, l)
	opening := w.opening
	w.mu.Unlock()
	if opening == nil {
		opening = func(l *link) error {
			l.welcome()
			l.assign(&agentv1.Assignments{Full: true})
			return nil
		}
	}
	if err := opening(l); err != nil {
		return err
	}
	go func() {
		for !w.stuck {
			m, err := stream.Recv()
			w.mu.Lock()
			if err != nil {
				if l.eof = errors.Is(err, io.EOF); l.eof {
					l.ended <- nil
				}
				w.mu.Unlock()
				return
			}
			l.got = append(l.got, m)
			w.mu.Unlock()
		}
	}()
	select {
	case <-stream.Context().Done():
		return stream.Context().Err()
	case err := <-l.ended:
		return err
	}
}

func (l *link) send(m *agentv1.ConnectResponse) { _ = l.stream.Send(m) } // a broken stream shows in what follows

func (l *link) welcome() {
	l.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Welcome{Welcome: &agentv1.Welcome{
		Owner: "me", ClusterId: "c1", Generation: 4, RenewEvery: durationpb.New(renewEvery), LeaseTtl: durationpb.New(5 * time.Second),
		GossipKey: []byte("key"), GossipSeeds: []string{"192.0.2.2:7946"},
	}}})
}

func (l *link) assign(a *agentv1.Assignments) {
	l.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Assignments{Assignments: a}})
}

// assign is link.assign for the test itself: it waits until the agent has taken it in.
func (w *world) assign(l *link, a *agentv1.Assignments) {
	l.assign(a)
	synctest.Wait()
}

func (w *world) Renew(stream agentv1.AgentService_RenewServer) error {
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		w.mu.Lock()
		w.renewals, w.renewed = append(w.renewals, r), append(w.renewed, time.Now())
		w.mu.Unlock()
		if err := stream.Send(&agentv1.RenewResponse{Number: r.GetNumber(), Ttl: durationpb.New(5 * time.Second)}); err != nil {
			return err
		}
	}
}

func (w *world) Answer(stream agentv1.AgentService_AnswerServer) error {
	received := make(chan error)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			w.mu.Lock()
			w.answers[m.GetId()] = append(w.answers[m.GetId()], m)
			w.mu.Unlock()
		}
	}()
	select {
	case err := <-received:
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&agentv1.AnswerResponse{})
		}
		return err
	case <-w.unwanted:
		go func() { <-received }()
		return status.Error(codes.Canceled, "nobody wants this answer any more")
	}
}

func (w *world) Interact(stream agentv1.AgentService_InteractServer) error {
	go func() {
		for _, m := range w.said {
			_ = stream.Send(m) // it may be over
		}
	}()
	received := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			w.mu.Lock()
			if w.commands == nil {
				w.commands = map[uint64][]*agentv1.InteractRequest{}
			}
			if _, taken := m.GetOutput().(*agentv1.InteractRequest_Taken); m.GetOutput() != nil && !taken {
				w.commands[m.GetId()] = append(w.commands[m.GetId()], m)
			}
			w.mu.Unlock()
		}
	}()
	select {
	case <-received:
		return nil
	case <-w.unwanted:
		return status.Error(codes.Canceled, "nobody wants this answer")
	}
}

// link returns the newest session, of which there have been n.
func (w *world) link(n int) *link {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.links) != n {
		w.t.Fatalf("%d sessions, want %d", len(w.links), n)
	}
	return w.links[n-1]
}

func (w *world) opened() int {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.links)
}

// took returns what a session said, by kind, and forgets it.
func (w *world) took(l *link) (said []*agentv1.ConnectRequest) {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	said, l.got = l.got, nil
	return said
}

func pod(name string) *spec.Pod {
	return &spec.Pod{
		Meta: spec.Meta{Namespace: "default", Name: name, UID: "u-" + name},
		Spec: spec.PodSpec{Containers: []spec.Container{{Name: "c"}}},
	}
}

func assignment(p *spec.Pod, epoch int64, handle uint32) *agentv1.Assignment {
	return &agentv1.Assignment{
		Pod: wire.PodToProto(p), Epoch: epoch, Class: musterv1.FailoverClass_FAILOVER_CLASS_FAST, FirstProbeHandle: handle,
	}
}

func liveness(p *spec.Pod) spec.ProbeID {
	return spec.ProbeID{PodUID: p.UID, Container: "c", Kind: spec.Liveness}
}

func TestASessionSaysWhoItIsAndThenEverythingItHolds(t *testing.T) {
	bubble(t, nil, func(w *world) {
		l := w.link(1)
		if h := l.hello; h.GetNode() != "node-1" || h.GetInstance() != "i" || h.GetBootId() != "b" || h.GetSession() != 1 ||
			h.GetVersion() != "1.2.3" || h.GetFacts().GetAddress() != "192.0.2.1" || h.GetGeneration() != 0 {
			t.Errorf("hello: %v", h)
		}
		if up, err := w.s.Up(); !up || err != nil {
			t.Errorf("up %v, %v", up, err)
		}
		if want := (Welcome{ClusterID: "c1", Generation: 4, LeaseTTL: 5 * time.Second}); len(w.welcomes) != 1 ||
			w.welcomes[0].ClusterID != want.ClusterID || w.welcomes[0].LeaseTTL != want.LeaseTTL || string(w.welcomes[0].GossipKey) != "key" {
			t.Errorf("welcomed %+v", w.welcomes)
		}
		said := w.took(l)
		if len(said) != 1 || !said[0].GetStatuses().GetComplete() || said[0].GetStatuses().GetStatuses()[0].GetUid() != "u1" {
			t.Errorf("said %v, want the whole of what is held", said)
		}
		// The generation that it was told goes into the next Hello.
		l.ended <- status.Error(codes.Unavailable, "restart")
		time.Sleep(time.Second)
		if h := w.link(2).hello; h.GetGeneration() != 4 || h.GetSession() != 2 {
			t.Errorf("second hello: %v", h)
		}
	})
}

func TestARenewalGoesOutEveryInterval(t *testing.T) {
	bubble(t, nil, func(w *world) {
		time.Sleep(10*renewEvery + renewEvery/2)
		synctest.Wait()
		// One at once, one for the full set, then one an interval.
		if n := len(w.renewals); n != 12 {
			t.Fatalf("%d renewals", n)
		}
		for i := 3; i < len(w.renewed); i++ {
			if d := w.renewed[i].Sub(w.renewed[i-1]); d != renewEvery {
				t.Errorf("renewal %d came after %v", i+1, d)
			}
		}
		for i, r := range w.renewals {
			if r.GetNumber() != uint64(i+1) || r.GetSession() != 1 || r.GetLongest().AsDuration() != 7*time.Second || i > 1 && !r.GetHeld() {
				t.Errorf("renewal %d: %v", i+1, r)
			}
		}
		if w.sent[0] != "1/0" || w.sent[1] != "1/1" || w.sent[12] != "1/12" || w.acked[11] != "1/12 5s" {
			t.Errorf("sent %v, acked %v", w.sent, w.acked)
		}
	})
}

func TestNothingIsHeldBeforeTheWholeFullSet(t *testing.T) {
	p, q := pod("a"), pod("b")
	bubble(t, func(w *world) {
		w.opening = func(l *link) error {
			l.welcome()
			l.assign(&agentv1.Assignments{Full: true, More: true, Assignments: []*agentv1.Assignment{assignment(p, 5, 1)}})
			return nil
		}
	}, func(w *world) {
		time.Sleep(2 * renewEvery)
		l := w.link(1)
		if r := w.renewals[len(w.renewals)-1]; r.GetHeld() || len(w.assigned) != 0 || len(w.took(l)) != 0 {
			t.Errorf("half a set is held: %v, assigned %v", r, w.assigned)
		}
		n := len(w.renewals)
		w.assign(l, &agentv1.Assignments{Full: true, Assignments: []*agentv1.Assignment{assignment(q, 6, 4)}})
		if len(w.assigned) != 1 || !w.assigned[0].Full || w.assigned[0].Session != 1 || len(w.assigned[0].Assigned) != 2 ||
			w.assigned[0].Assigned[1].Epoch != 6 || w.assigned[0].Assigned[1].Pod.Name != "b" {
			t.Errorf("assigned %+v", w.assigned)
		}
		if len(w.renewals) != n+1 || !w.renewals[n].GetHeld() {
			t.Error("the full set is not followed by a renewal at once")
		}
	})
}

func TestWithoutAFullSetInTimeTheSessionIsOpenedAnew(t *testing.T) {
	bubble(t, func(w *world) {
		w.opening = func(l *link) error {
			l.welcome()
			return nil
		}
	}, func(w *world) {
		time.Sleep(fullSetTimeout - time.Millisecond)
		w.link(1)
		time.Sleep(2*time.Millisecond + minRetry)
		w.link(2)
	})
}

func TestACoordinatorMayTakeItsTimeToWelcomeButNotForEver(t *testing.T) {
	for name, tc := range map[string]struct {
		welcome  time.Duration
		sessions int
	}{
		"in time":  {welcomeTimeout - time.Millisecond, 1},
		"too late": {welcomeTimeout + time.Millisecond, 2},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				w.opening = func(l *link) error {
					select {
					case <-time.After(tc.welcome):
						l.welcome()
					case <-l.stream.Context().Done():
					}
					return nil
				}
			}, func(w *world) {
				time.Sleep(welcomeTimeout + fullSetTimeout/2)
				w.link(tc.sessions)
			})
		})
	}
}

func TestWithTheFullSetASessionGoesOn(t *testing.T) {
	bubble(t, nil, func(w *world) {
		time.Sleep(10 * fullSetTimeout)
		w.link(1)
	})
}

func TestASecondFullSetEndsTheSession(t *testing.T) {
	bubble(t, nil, func(w *world) {
		w.assign(w.link(1), &agentv1.Assignments{Full: true})
		if _, err := w.s.Up(); err == nil || !strings.Contains(err.Error(), "second full set") {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestASessionThatEndsSoonIsNotReopenedInALoop(t *testing.T) {
	bad := assignment(pod("a"), 1, 1)
	bad.Class = 99
	for name, opening := range map[string]func(l *link) error{
		"after welcome": func(l *link) error {
			l.welcome()
			return status.Error(codes.Internal, "no")
		},
		"on an assignment that is not understood": func(l *link) error {
			l.welcome()
			l.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Assignments{
				Assignments: &agentv1.Assignments{Full: true, Assignments: []*agentv1.Assignment{bad}},
			}})
			return nil
		},
		"refused": func(*link) error { return status.Error(codes.PermissionDenied, "no") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) { w.opening = opening }, func(w *world) {
				time.Sleep(time.Minute)
				// Pauses are random below 0.1, 0.2, … 5 s: about 24 + 7 attempts.
				if n := w.opened(); n < 10 || n > 100 {
					t.Errorf("%d sessions in a minute", n)
				}
			})
		})
	}
}

func TestASessionThatWasWellIsFollowedByTheNextAtOnce(t *testing.T) {
	bubble(t, nil, func(w *world) {
		for n := 1; n <= 5; n++ {
			time.Sleep(10 * time.Second)
			w.link(n).ended <- status.Error(codes.Unavailable, "restart")
			time.Sleep(time.Millisecond)
			w.link(n + 1)
		}
	})
}

func TestAFencedPodThatNeedsANewSessionGetsOne(t *testing.T) {
	bubble(t, nil, func(w *world) {
		time.Sleep(10 * time.Second)
		w.link(1)
		w.reopen <- struct{}{}
		time.Sleep(time.Millisecond)
		w.link(2)
	})
}

func TestResultsRideOnRenewals(t *testing.T) {
	p := pod("a")
	bubble(t, nil, func(w *world) {
		l := w.link(1)
		w.assign(l, &agentv1.Assignments{Assignments: []*agentv1.Assignment{assignment(p, 5, 7)}})
		w.took(l)
		n := len(w.renewals)
		w.s.Observe(liveness(p), attempt(1))
		w.s.Observe(spec.ProbeID{PodUID: "unknown"}, attempt(2))
		time.Sleep(renewEvery + renewEvery/2)
		synctest.Wait()
		var got []uint32
		for _, r := range w.renewals[n:] {
			got = append(got, r.GetResults().GetHandle()...)
		}
		if len(got) != 1 || got[0] != 7 {
			t.Errorf("renewals had the results of handles %v", got)
		}
		if said := w.took(l); len(said) != 0 {
			t.Errorf("the other stream had %v", said)
		}
	})
}

func TestManyResultsTakeTheOtherStreamAndRenewalsStaySmall(t *testing.T) {
	p := pod("a")
	bubble(t, nil, func(w *world) {
		l := w.link(1)
		w.assign(l, &agentv1.Assignments{Assignments: []*agentv1.Assignment{assignment(p, 5, 7)}})
		w.took(l)
		n := len(w.renewals)
		for range 5000 {
			w.s.Observe(liveness(p), attempt(1))
		}
		time.Sleep(2 * renewEvery)
		results := 0
		for _, m := range w.took(l) {
			results += len(m.GetResults().GetHandle())
		}
		if results != 5000 {
			t.Errorf("the other stream had %d results", results)
		}
		for _, r := range w.renewals[n:] {
			if r.GetResults() != nil {
				t.Errorf("a renewal has %d results", len(r.GetResults().GetHandle()))
			}
		}
	})
}

func TestResultsBeyondTheBoundDropTheOldestAndAreCounted(t *testing.T) {
	p := pod("a")
	bubble(t, func(w *world) {
		w.opening = func(l *link) error {
			l.welcome()
			time.Sleep(time.Second)
			l.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Assignments{
				Assignments: &agentv1.Assignments{Full: true, Assignments: []*agentv1.Assignment{assignment(p, 5, 7)}},
			}})
			return nil
		}
	}, func(w *world) {
		for i := range maxWaiting + 10 {
			w.s.Observe(liveness(p), attempt(int64(i)))
		}
		time.Sleep(3 * time.Second)
		var results int
		var dropped uint64
		var base time.Time
		for _, m := range w.took(w.link(1)) {
			if b := m.GetResults(); len(b.GetHandle()) > 0 {
				got, err := wire.ResultsFromProto(b)
				if err != nil {
					t.Fatal(err)
				}
				for _, a := range got.Attempts() {
					if results == 0 {
						base = a.Start
					}
					results++
				}
				dropped += got.Dropped
			}
		}
		if results != maxWaiting || dropped != 10 || base.Unix() != 10 {
			t.Errorf("%d results from %v on, %d dropped", results, base.Unix(), dropped)
		}
	})
}

func TestTheCountOfDroppedResultsWaitsForABatch(t *testing.T) {
	o := &open{Session: New(Config{}, Deps{}), held: true, handles: map[spec.ProbeID]uint32{{PodUID: "a"}: 1}}
	for range maxWaiting + 3 {
		o.Observe(spec.ProbeID{PodUID: "gone"}, attempt(1))
	}
	if b := o.batch(true); b != nil {
		t.Fatalf("batch %v", b)
	}
	o.Observe(spec.ProbeID{PodUID: "a"}, attempt(1))
	if b := o.batch(true); b.GetDropped() != 3 {
		t.Errorf("%d dropped, want 3", b.GetDropped())
	}
}

func TestVerdictsGoOutAtOnceAndAgainInTheNextSession(t *testing.T) {
	p := pod("a")
	state := spec.ProbeState{ID: liveness(p), Verdict: spec.ResultFailure}
	bubble(t, func(w *world) {
		w.opening = func(l *link) error {
			l.welcome()
			l.assign(&agentv1.Assignments{Full: true, Assignments: []*agentv1.Assignment{assignment(p, 5, 7)}})
			return nil
		}
	}, func(w *world) {
		time.Sleep(10 * time.Second)
		l := w.link(1)
		w.took(l)
		w.s.Believe(state)
		changes := func(l *link) (handles []uint32) {
			for _, m := range w.took(l) {
				for _, c := range m.GetResults().GetChanges() {
					handles = append(handles, c.GetHandle())
				}
			}
			return handles
		}
		if got := changes(l); !slices.Equal(got, []uint32{7}) { // no time has passed
			t.Errorf("changes of %v", got)
		}
		w.states = []spec.ProbeState{state}
		l.ended <- status.Error(codes.Unavailable, "restart")
		time.Sleep(time.Millisecond)
		if got := changes(w.link(2)); !slices.Equal(got, []uint32{7}) {
			t.Errorf("in the next session, changes of %v", got)
		}
	})
}

func TestARenewalWaitsForNoOtherStream(t *testing.T) {
	p := pod("a")
	bubble(t, func(w *world) { w.stuck = true }, func(w *world) {
		l := w.link(1)
		w.assign(l, &agentv1.Assignments{Assignments: []*agentv1.Assignment{assignment(p, 5, 7)}})
		n := len(w.renewals)
		for range 10 {
			for range maxWaiting {
				w.s.Observe(liveness(p), attempt(1<<30))
			}
			time.Sleep(renewEvery)
		}
		synctest.Wait()
		if got := len(w.renewals) - n; got < 9 {
			t.Errorf("%d renewals in 10 intervals while the coordinator does not read the other stream", got)
		}
	})
}

func TestWhatIsTakenAwayLeavesNothingBehind(t *testing.T) {
	o := &open{Session: New(Config{}, Deps{}), handles: map[spec.ProbeID]uint32{}}
	set := Assignments{}
	for i := range int64(3) {
		if err := o.gather(&set, &agentv1.Assignments{Assignments: []*agentv1.Assignment{assignment(pod("a"), i, 1), assignment(pod("b"), i, 4)}}); err != nil {
			t.Fatal(err)
		}
		if err := o.gather(&set, &agentv1.Assignments{Removed: []*agentv1.HeldKey{{Uid: "u-a", Epoch: i}}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, gone := o.handles[liveness(pod("a"))]; gone || len(o.handles) != len(spec.ProbeKinds) {
		t.Errorf("handles left: %v", o.handles)
	}
	if len(set.Removed) != 3 {
		t.Errorf("removed %v", set.Removed)
	}
}

func TestChangedStatusesAndEventsAreReportedAndAcknowledged(t *testing.T) {
	bubble(t, nil, func(w *world) {
		l := w.link(1)
		w.took(l)
		many := make([]spec.HeldStatus, batchStatuses+1)
		for i := range many {
			many[i] = spec.HeldStatus{UID: fmt.Sprint(i), Status: spec.PodStatus{Phase: spec.PhaseRunning}}
		}
		w.statuses <- many
		w.events <- []spec.Event{{Reason: "Started"}}
		var sizes []int
		var reasons []string
		for _, m := range w.took(l) {
			if b := m.GetStatuses(); b != nil {
				sizes = append(sizes, len(b.GetStatuses()))
				if b.GetComplete() {
					t.Error("a change is said to be everything")
				}
			}
			for _, e := range m.GetEvents().GetEvents() {
				reasons = append(reasons, e.GetReason())
			}
		}
		if !slices.Equal(sizes, []int{batchStatuses, 1}) || !slices.Equal(reasons, []string{"Started"}) {
			t.Errorf("batches of %v, events %v", sizes, reasons)
		}
		l.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_StatusAck{StatusAck: &agentv1.StatusAck{
			Committed: []*agentv1.HeldKey{{Uid: "u1", Epoch: 3}}, NotYours: []*agentv1.HeldKey{{Uid: "u2", Epoch: 4}},
		}}})
		synctest.Wait()
		if !slices.Equal(w.committed, []Held{{"u1", 3}}) || !slices.Equal(w.notYours, []Held{{"u2", 4}}) {
			t.Errorf("committed %v, not yours %v", w.committed, w.notYours)
		}
	})
}

func TestAnOrderlyStopSaysByeLast(t *testing.T) {
	var l *link
	var w *world
	bubble(t, nil, func(world *world) { w, l = world, world.link(1) })
	if len(l.got) == 0 {
		t.Fatal("nothing was said")
	}
	if bye := l.got[len(l.got)-1].GetBye(); bye.GetRestart().AsDuration() != 30*time.Second || !l.eof {
		t.Errorf("last said %v, closed %v", l.got[len(l.got)-1], l.eof)
	}
	if n := len(w.links); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

func ask(id uint64) *agentv1.ConnectResponse {
	return &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Ask{Ask: &agentv1.Ask{Id: id}}}
}

func askLogs(id uint64, uid string) *agentv1.ConnectResponse {
	m := ask(id)
	m.GetAsk().Question = &agentv1.Ask_Logs{Logs: &agentv1.LogsAsk{Uid: uid, Container: "c", Follow: true}}
	return m
}

func TestQuestionsAreAnsweredInPieces(t *testing.T) {
	p := pod("a")
	bubble(t, func(w *world) {
		w.states = []spec.ProbeState{{ID: liveness(p)}}
		w.logs = func(_ context.Context, o LogOptions, out io.Writer) error {
			if o.Tail != -1 || !o.Follow || !o.Since.IsZero() {
				t.Errorf("asked with %+v", o)
			}
			_, err := out.Write(make([]byte, pieceBytes+1))
			return err
		}
	}, func(w *world) {
		l := w.link(1)
		l.send(askLogs(1, "u1"))
		l.send(askLogs(2, "u9"))
		l.send(ask(3))
		results := ask(4)
		results.GetAsk().Question = &agentv1.Ask_Results{Results: &agentv1.ResultsAsk{Uid: p.UID, Limit: 2}}
		l.send(results)
		none := ask(5)
		none.GetAsk().Question = &agentv1.Ask_Results{Results: &agentv1.ResultsAsk{Uid: "u9", Limit: 2}}
		l.send(none)
		negative := ask(6)
		negative.GetAsk().Question = &agentv1.Ask_Results{Results: &agentv1.ResultsAsk{Uid: p.UID, Limit: -5}}
		l.send(negative)
		kept := ask(7)
		kept.GetAsk().Question = &agentv1.Ask_Evidence{Evidence: &agentv1.EvidenceAsk{Uid: "u1"}}
		l.send(kept)
		synctest.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		if a := w.answers[7]; len(a) != 2 || a[0].GetEvidence().GetContainer() != "c" || string(a[0].GetEvidence().GetLog()) != "panic" ||
			a[0].GetEvidence().GetBackoff().AsDuration() != 10*time.Second || a[1].GetEvidence().GetContainer() != "d" {
			t.Errorf("what is kept of containers: %v", a)
		}
		if a := w.answers[1]; len(a) != 2 || len(a[0].GetData()) != pieceBytes || len(a[1].GetData()) != 1 {
			t.Errorf("%d pieces of a log", len(a))
		}
		if a := w.answers[2]; len(a) != 1 || a[0].GetError().GetReason() != "NOT_FOUND" || !strings.Contains(a[0].GetError().GetMessage(), "u9") {
			t.Errorf("of no pod: %v", a)
		}
		if a := w.answers[3]; len(a) != 1 || !strings.Contains(a[0].GetError().GetMessage(), "not built yet") {
			t.Errorf("an unknown question: %v", a)
		}
		if a := w.answers[4]; len(a) != 1 || len(a[0].GetResults().GetResults()) != 2 || a[0].GetResults().GetResults()[1].GetTime().GetSeconds() != 3 {
			t.Errorf("results: %v", a)
		}
		for _, id := range []uint64{5, 6} {
			if a := w.answers[id]; len(a) != 1 || a[0].GetAnswer() != nil {
				t.Errorf("no results: %v", a)
			}
		}
	})
}

func TestAnAnswerThatNobodyWantsEndsWithoutAnotherLine(t *testing.T) {
	var ended chan struct{}
	bubble(t, func(w *world) {
		ended = make(chan struct{})
		w.logs = func(ctx context.Context, _ LogOptions, out io.Writer) error {
			_, _ = out.Write([]byte("one\n"))
			<-ctx.Done() // a log that is followed and stays silent
			close(ended)
			return ctx.Err()
		}
	}, func(w *world) {
		w.link(1).send(askLogs(1, "u1"))
		synctest.Wait()
		select {
		case <-ended:
			t.Fatal("it ended by itself")
		default:
		}
		close(w.unwanted)
		synctest.Wait()
		select {
		case <-ended:
		default:
			t.Error("the log is followed on, for nobody")
		}
	})
}

func TestARenewalWithAllThatMayRideStaysSmall(t *testing.T) {
	o := &open{Session: New(Config{}, Deps{}), held: true, handles: map[spec.ProbeID]uint32{{PodUID: "a"}: 1 << 31}}
	for i := range maxRiding {
		o.Observe(spec.ProbeID{PodUID: "a"}, spec.Attempt{
			Start: time.Unix(int64(i)*100, 0), Outcome: spec.OutcomeSuccess, Result: spec.ResultSuccess,
			Duration: time.Hour, CPU: time.Hour, Lag: time.Hour,
		})
	}
	if n := proto.Size(&agentv1.RenewRequest{Results: o.batch(false)}); n > 4<<10 {
		t.Errorf("%d bytes", n)
	}
}

func askExec(id uint64, uid string, q *agentv1.ExecAsk) *agentv1.ConnectResponse {
	m := ask(id)
	q.Uid, q.Container = uid, "c"
	m.GetAsk().Question = &agentv1.Ask_Exec{Exec: q}
	return m
}

func TestACommandHearsWhatIsSaidAndItsOutputComesInPieces(t *testing.T) {
	bubble(t, func(w *world) {
		w.said = []*agentv1.InteractResponse{
			{Input: &agentv1.InteractResponse_Stdin{Stdin: []byte("one ")}},
			{Input: &agentv1.InteractResponse_Size{Size: &musterv1.TerminalSize{Columns: 90, Rows: 20}}},
			{Input: &agentv1.InteractResponse_Size{Size: &musterv1.TerminalSize{Columns: 100_000, Rows: 30}}},
			{Input: &agentv1.InteractResponse_Stdin{Stdin: []byte("two")}},
			{Input: &agentv1.InteractResponse_StdinClosed{StdinClosed: true}},
		}
		w.command = func(_ context.Context, cmd container.Interaction) (int32, error) {
			if cmd.Argv[0] == "broken" {
				return 0, fmt.Errorf("container c: %w: no such file", container.ErrCannotStart)
			}
			if first := <-cmd.Sizes; first.Columns != 80 || !cmd.TTY {
				t.Errorf("at first %+v, terminal %v", first, cmd.TTY)
			}
			text, err := io.ReadAll(cmd.Stdin)
			if err != nil || string(text) != "one two" {
				t.Errorf("read %q, %v", text, err)
			}
			if last := <-cmd.Sizes; last.Columns != 65535 || last.Rows != 30 {
				t.Errorf("at last %+v: the newest counts", last)
			}
			_, _ = cmd.Stdout.Write(make([]byte, pieceBytes+1))
			_, _ = cmd.Stderr.Write([]byte("err"))
			return 7, nil
		}
	}, func(w *world) {
		l := w.link(1)
		l.send(askExec(1, "u1", &agentv1.ExecAsk{Command: []string{"x"}, Stdin: true, Tty: true, Size: &musterv1.TerminalSize{Columns: 80, Rows: 24}}))
		l.send(askExec(2, "u9", &agentv1.ExecAsk{Command: []string{"x"}}))
		l.send(askExec(3, "u1", &agentv1.ExecAsk{Command: []string{"broken"}}))
		synctest.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		if c := w.commands[1]; len(c) != 4 || len(c[0].GetStdout()) != pieceBytes || len(c[1].GetStdout()) != 1 || string(c[2].GetStderr()) != "err" || c[3].GetExitCode() != 7 {
			t.Errorf("got %d messages: %v", len(c), c[max(0, len(c)-2):])
		}
		if c := w.commands[2]; len(c) != 1 || c[0].GetError().GetReason() != "NOT_FOUND" {
			t.Errorf("in no pod: %v", c)
		}
		if c := w.commands[3]; len(c) != 1 || c[0].GetError().GetReason() != "CANNOT_START" {
			t.Errorf("that cannot start: %v", c)
		}
	})
}

func TestACommandThatNobodyWantsIsEndedThoughItNeitherReadsNorWrites(t *testing.T) {
	var ended chan struct{}
	bubble(t, func(w *world) {
		ended = make(chan struct{})
		for range maxInbox / pieceBytes { // as much as may be under way
			w.said = append(w.said, &agentv1.InteractResponse{Input: &agentv1.InteractResponse_Stdin{Stdin: make([]byte, pieceBytes)}})
		}
		w.command = func(ctx context.Context, _ container.Interaction) (int32, error) {
			<-ctx.Done()
			close(ended)
			return 0, ctx.Err()
		}
	}, func(w *world) {
		w.link(1).send(askExec(1, "u1", &agentv1.ExecAsk{Command: []string{"x"}, Stdin: true}))
		synctest.Wait()
		close(w.unwanted)
		synctest.Wait()
		select {
		case <-ended:
		default:
			t.Error("it goes on, for nobody")
		}
	})
}

func TestWhatIsHeldIsSaidOnceWhenTheCoordinatorAsksForIt(t *testing.T) {
	for _, ask := range []bool{true, false} {
		var said *agentv1.Holdings
		bubble(t, func(w *world) {
			w.holds = []spec.Holding{{UID: "a", Epoch: 5, Live: true}, {UID: "b", Epoch: 6, Final: true}}
			w.opening = func(l *link) error {
				if !l.hello.GetSaysHoldings() {
					return errors.New("hello does not say that it can")
				}
				welcome := &agentv1.Welcome{RenewEvery: durationpb.New(renewEvery), LeaseTtl: durationpb.New(5 * time.Second), AskHoldings: ask}
				if err := l.stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Welcome{Welcome: welcome}}); err != nil {
					return err
				}
				if ask {
					m, err := l.stream.Recv()
					if err != nil {
						return err
					}
					said = m.GetHoldings()
				}
				l.assign(&agentv1.Assignments{Full: true})
				return nil
			}
		}, func(w *world) {
			time.Sleep(2 * renewEvery)
			l := w.link(1)
			if got := len(said.GetAll()); ask && (got != 2 || said.GetAll()[0].GetEpoch() != 5 || !said.GetAll()[0].GetLive() || !said.GetAll()[1].GetFinal()) {
				t.Errorf("said %v", said)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, m := range l.got {
				if m.GetHoldings() != nil {
					t.Error("said without being asked, or twice")
				}
			}
		})
	}
}
