package dispatch

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/musterhq/muster/coordinator/endpoints"
	"github.com/musterhq/muster/coordinator/lease"
	"github.com/musterhq/muster/coordinator/probes"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/memory"
	"github.com/musterhq/muster/coordinator/usage"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// world is the sessions' side on a store in memory, served in this process.
type world struct {
	t         *testing.T
	store     *memory.Store
	cache     *store.Cache
	probes    *probes.Table
	usage     *usage.Table
	endpoints *endpoints.Table
	d         *Dispatch
	client    agentv1.AgentServiceClient

	delivered chan int64

	mu     sync.Mutex
	events []spec.Event
	guards guardTable
}

func (w *world) Write(e ...spec.Event) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e...)
	return 0
}

// authority takes every caller for node-1.
type authority struct{}

func (authority) Join(context.Context, string, string, string, []byte) (cert, ca []byte, err error) {
	return nil, nil, errors.New("no")
}
func (authority) Rotate(string, []byte) ([]byte, error)           { return nil, errors.New("no") }
func (authority) Caller(context.Context) (node string, err error) { return "node-1", nil }

func serve(t *testing.T) *world {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	w := &world{t: t, store: memory.New(), probes: probes.New(), usage: usage.New(), delivered: make(chan int64, 100)}
	w.cache = store.NewCache(w.store, log)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = w.cache.Run(ctx) })
	<-w.cache.Ready()
	w.endpoints = endpoints.New(w.cache)
	wg.Go(func() { _ = w.endpoints.Run(ctx) })
	start := time.Now()
	leases, err := lease.New(lease.Config{Owner: "me", TTL: 5 * time.Second, Now: func() time.Duration { return time.Since(start) + time.Second }}, w.store, w.cache, log)
	if err != nil {
		t.Fatal(err)
	}
	w.d = New(Config{Owner: "me", Version: "0.1.0", GossipSeeds: func() []string { return nil }}, Deps{
		Store: w.store, Cache: w.cache, Leases: leases, Probes: w.probes, Usage: w.usage, Endpoints: w.endpoints, Events: w, Authority: authority{}, Guards: &w.guards,
		Delivered: func(_ string, epoch int64) { w.delivered <- epoch },
		Log:       log,
	})
	wg.Go(func() { _ = leases.Run(ctx) })
	wg.Go(func() { _ = w.d.Run(ctx) })
	l := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	agentv1.RegisterAgentServiceServer(server, w.d)
	wg.Go(func() { _ = server.Serve(l) })
	conn, err := grpc.NewClient("passthrough:///bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	w.client = agentv1.NewAgentServiceClient(conn)
	t.Cleanup(func() {
		conn.Close()
		cancel()
		server.Stop()
		_ = w.store.Close()
		wg.Wait()
	})
	return w
}

func (w *world) put(k store.Key, v store.Value) int64 {
	w.t.Helper()
	rev, err := w.store.Commit(w.t.Context(), store.Txn{Then: []store.Write{{Key: k, Value: v}}})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.cache.Wait(w.t.Context(), rev); err != nil {
		w.t.Fatal(err)
	}
	return rev
}

// bind makes a pod with a liveness probe and binds it to a node; it returns the epoch.
func (w *world) bind(name, node string) int64 {
	n := spec.ObjectName{Namespace: "default", Name: name}
	w.put(store.PodKey(n), &spec.Pod{
		Meta: spec.Meta{Namespace: "default", Name: name, UID: "uid-" + name},
		Spec: spec.PodSpec{Containers: []spec.Container{{Name: "c", Liveness: &spec.Probe{Period: time.Second, Handler: spec.Handler{TCP: &spec.TCPAction{}}}}}},
	})
	return w.put(store.BindingKey(n), &spec.Binding{UID: "uid-" + name, Node: node, Class: spec.Fast})
}

// agent is the other end of a session.
type agent struct {
	w      *world
	number int64
	stream agentv1.AgentService_ConnectClient
}

func (w *world) connect(number int64) *agent {
	w.t.Helper()
	stream, err := w.client.Connect(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	a := &agent{w, number, stream}
	a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: &agentv1.Hello{
		Node: "node-1", Instance: "i", BootId: "b", Session: number, Version: "0.1.0", Facts: &musterv1.NodeFacts{Address: "127.0.0.1"},
	}}})
	return a
}

func (a *agent) send(m *agentv1.ConnectRequest) {
	a.w.t.Helper()
	if err := a.stream.Send(m); err != nil {
		a.w.t.Fatal(err)
	}
}

func (a *agent) recv() *agentv1.ConnectResponse {
	a.w.t.Helper()
	m, err := a.stream.Recv()
	if err != nil {
		a.w.t.Fatalf("receive: %v", err)
	}
	return m
}

// open reads Welcome and the full set.
func (a *agent) open() *agentv1.Assignments {
	a.w.t.Helper()
	if a.recv().GetWelcome() == nil {
		a.w.t.Fatal("the first message is not welcome")
	}
	return a.full()
}

// full reads the full sets: of names, of what pods are made of, and of pods.
func (a *agent) full() *agentv1.Assignments {
	a.w.t.Helper()
	if m := a.recv(); !m.GetServices().GetFull() {
		a.w.t.Fatalf("got %v, want all services", m)
	}
	if m := a.recv(); !m.GetConfigs().GetFull() {
		a.w.t.Fatalf("got %v, want all that pods are made of", m)
	}
	set := a.recv().GetAssignments()
	if !set.GetFull() {
		a.w.t.Fatalf("got %v, want the full set", set)
	}
	return set
}

func (a *agent) say(h *spec.HeldStatus) *agentv1.StatusAck {
	a.w.t.Helper()
	a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Statuses{Statuses: &agentv1.StatusBatch{
		Statuses: []*musterv1.HeldStatus{wire.HeldStatusToProto(h)},
	}}})
	for {
		if m := a.recv(); m.GetStatusAck() != nil {
			return m.GetStatusAck()
		}
	}
}

func TestASessionBeginsWithEverythingThatIsBoundToItsNode(t *testing.T) {
	w := serve(t)
	epoch := w.bind("web", "node-1")
	w.bind("other", "node-2")
	set := w.connect(1).open()
	if len(set.GetAssignments()) != 1 || set.GetMore() {
		t.Fatalf("set %v, want one assignment", set)
	}
	if a := set.GetAssignments()[0]; a.GetEpoch() != epoch || a.GetPod().GetMeta().GetName() != "web" || a.GetFirstProbeHandle() == 0 {
		t.Errorf("assignment %v, want web under epoch %d", a, epoch)
	}
	if rec, err := w.store.Get(t.Context(), store.Key{Family: store.NodeFacts, Name: "node-1"}); err != nil || rec.Value.(*spec.NodeFacts).Address != "127.0.0.1" {
		t.Errorf("facts %v, %v", rec, err)
	}
	if got := <-w.delivered; got != epoch {
		t.Errorf("delivered %d, want %d", got, epoch)
	}
}

func TestASessionOpensWhenThereIsAPlaceForIt(t *testing.T) {
	w := serve(t)
	for range openAtOnce {
		if _, err := w.d.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	w.connect(1).open()
	if took := time.Since(begun); took < openLimit/2 {
		t.Errorf("open after %v, want when the others have had their time, %v", took, openLimit)
	}
	if n := len(w.d.opening); n != 0 {
		t.Errorf("%d places are still taken", n)
	}
}

func TestChangesComeAsDeltas(t *testing.T) {
	w := serve(t)
	a := w.connect(1)
	a.open()
	epoch := w.bind("web", "node-1")
	if d := a.recv().GetAssignments(); d.GetFull() || len(d.GetAssignments()) != 1 || d.GetAssignments()[0].GetEpoch() != epoch {
		t.Fatalf("delta %v, want web", d)
	}
	name := spec.ObjectName{Namespace: "default", Name: "web"}
	w.put(store.StopKey(name), &spec.Stop{Epoch: epoch, Reason: "drain"})
	if d := a.recv().GetAssignments(); len(d.GetAssignments()) != 1 || !d.GetAssignments()[0].GetStop() || d.GetAssignments()[0].GetStopReason() != "drain" {
		t.Fatalf("delta %v, want a stop", d)
	}
	w.put(store.BindingKey(name), &spec.Binding{UID: "uid-web", Node: "node-2", Class: spec.Fast})
	if d := a.recv().GetAssignments(); len(d.GetRemoved()) != 1 || d.GetRemoved()[0].GetEpoch() != epoch {
		t.Errorf("delta %v, want web removed", d)
	}
}

func TestAStatusIsStoredOnlyForTheBindingItSpeaksOf(t *testing.T) {
	w := serve(t)
	epoch := w.bind("web", "node-1")
	theirs := w.bind("other", "node-2")
	a := w.connect(1)
	a.open()
	running := spec.PodStatus{Phase: spec.PhaseRunning}
	for name, tc := range map[string]struct {
		held      spec.HeldStatus
		committed bool
	}{
		"an older epoch":     {spec.HeldStatus{UID: "uid-web", Epoch: epoch - 1, Status: running}, false},
		"another node's pod": {spec.HeldStatus{UID: "uid-other", Epoch: theirs, Status: running}, false},
		"no pod at all":      {spec.HeldStatus{UID: "uid-none", Epoch: 1, Status: running}, false},
		"its own":            {spec.HeldStatus{UID: "uid-web", Epoch: epoch, Status: running}, true},
	} {
		ack := a.say(&tc.held)
		if got := len(ack.GetCommitted()) == 1; got != tc.committed || len(ack.GetNotYours()) == 1 == tc.committed {
			t.Errorf("%s: %v", name, ack)
		}
	}
	rec, err := w.store.Get(t.Context(), store.StatusKey(spec.ObjectName{Namespace: "default", Name: "web"}))
	if err != nil || rec.Value.(*spec.HeldStatus).Epoch != epoch {
		t.Errorf("stored %v, %v", rec, err)
	}
	if _, err := w.store.Get(t.Context(), store.StatusKey(spec.ObjectName{Namespace: "default", Name: "other"})); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the other node's pod has a status: %v", err)
	}
}

func TestWhatIsSaidAgainIsNotWrittenAgainAndStoppedIsFinal(t *testing.T) {
	w := serve(t)
	epoch := w.bind("web", "node-1")
	a := w.connect(1)
	a.open()
	held := &spec.HeldStatus{UID: "uid-web", Epoch: epoch, Status: spec.PodStatus{Phase: spec.PhaseRunning}}
	a.say(held)
	before := w.cache.View().Revision()
	if ack := a.say(held); len(ack.GetCommitted()) != 1 {
		t.Errorf("said again: %v, want committed", ack)
	}
	if after := w.cache.View().Revision(); after != before {
		t.Errorf("an equal status was written: revision %d after %d", after, before)
	}
	stopped := *held
	stopped.Stopped = true
	a.say(&stopped)
	a.say(held)
	rec, err := w.store.Get(t.Context(), store.StatusKey(spec.ObjectName{Namespace: "default", Name: "web"}))
	if err != nil || !rec.Value.(*spec.HeldStatus).Stopped {
		t.Errorf("stored %+v, %v after Stopped was followed by another status", rec.Value, err)
	}
	if again := w.connect(2).open(); len(again.GetAssignments()) != 0 {
		t.Errorf("a pod that is stopped for good is assigned again: %v", again)
	}
}

func TestANewerSessionReplacesAnOlderOneAndAnOldNumberIsRefused(t *testing.T) {
	w := serve(t)
	old := w.connect(3)
	old.open()
	w.connect(4).open()
	if _, err := old.stream.Recv(); err == nil {
		t.Error("the older session goes on")
	}
	if _, err := w.connect(4).stream.Recv(); err == nil {
		t.Error("a session number was taken twice")
	}
}

func TestRenewalsAreAcknowledgedInTheirSessionOnly(t *testing.T) {
	w := serve(t)
	w.connect(1).open()
	renew, err := w.client.Renew(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := renew.Send(&agentv1.RenewRequest{Session: 1, Number: 1, Held: true}); err != nil {
		t.Fatal(err)
	}
	if m, err := renew.Recv(); err != nil || m.GetNumber() != 1 || m.GetTtl().AsDuration() != 5*time.Second {
		t.Fatalf("answer %v, %v; want 1 for 5 s", m, err)
	}
	if err := renew.Send(&agentv1.RenewRequest{Session: 2, Number: 2, Held: true}); err != nil {
		t.Fatal(err)
	}
	if m, err := renew.Recv(); err == nil {
		t.Errorf("a renewal of another session was answered: %v", m)
	}
}

func TestProbesAreBelievedByTheirHandles(t *testing.T) {
	w := serve(t)
	w.bind("web", "node-1")
	a := w.connect(1)
	handle := a.open().GetAssignments()[0].GetFirstProbeHandle()
	sub := w.probes.Subscribe(probes.Filter{Match: func(*probes.Row) bool { return true }})
	defer sub.Close()
	sub.Take(10)
	a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Results{Results: &agentv1.ResultBatch{Changes: []*agentv1.ProbeChange{
		{Handle: handle + 99, Verdict: musterv1.ProbeResult_PROBE_RESULT_FAILURE, Since: timestamppb.Now()},
		{Handle: handle, Verdict: musterv1.ProbeResult_PROBE_RESULT_FAILURE, Since: timestamppb.Now()},
	}}}})
	<-sub.C()
	if c := sub.Take(2); len(c) != 1 || c[0].Row.ID != (spec.ProbeID{PodUID: "uid-web", Container: "c", Kind: spec.Liveness}) || c[0].Row.Verdict != spec.ResultFailure {
		t.Errorf("changes %+v, want liveness of web failing", c)
	}
}

func TestAQuestionIsAnsweredThroughAStreamOfItsOwn(t *testing.T) {
	w := serve(t)
	a := w.connect(1)
	a.open()
	if err := w.d.Ask(t.Context(), "node-2", &agentv1.Ask{}, nil); !errors.Is(err, ErrNoSession) {
		t.Errorf("ask a node without a session: %v, want ErrNoSession", err)
	}
	go func() {
		id := a.recv().GetAsk().GetId()
		stream, err := w.client.Answer(context.Background())
		if err != nil {
			return
		}
		for _, piece := range []string{"one ", "two"} {
			_ = stream.Send(&agentv1.AnswerRequest{Id: id, Answer: &agentv1.AnswerRequest_Data{Data: []byte(piece)}})
		}
		_, _ = stream.CloseAndRecv()
	}()
	got := ""
	err := w.d.Ask(t.Context(), "node-1", &agentv1.Ask{Question: &agentv1.Ask_Logs{Logs: &agentv1.LogsAsk{}}}, func(m *agentv1.AnswerRequest) error {
		got += string(m.GetData())
		return nil
	})
	if err != nil || got != "one two" {
		t.Errorf("answer %q, %v", got, err)
	}
	// An answer that has nothing to say ends when whoever asked has gone.
	ctx, cancel := context.WithCancel(t.Context())
	silent := make(chan error, 1)
	go func() {
		stream, err := w.client.Answer(context.Background())
		if err == nil {
			_ = stream.Send(&agentv1.AnswerRequest{Id: a.recv().GetAsk().GetId()})
			cancel()
			err = stream.RecvMsg(&agentv1.AnswerResponse{})
		}
		silent <- err
	}()
	if err := w.d.Ask(ctx, "node-1", &agentv1.Ask{Question: &agentv1.Ask_Logs{Logs: &agentv1.LogsAsk{}}}, func(*agentv1.AnswerRequest) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if err := <-silent; status.Code(err) != codes.Canceled {
		t.Errorf("the silent answer ended with %v", err)
	}
	stream, err := w.client.Answer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(&agentv1.AnswerRequest{Id: 77})
	if _, err := stream.CloseAndRecv(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("an answer that nobody wants was taken: %v", err)
	}
}

func TestACommandIsHeardThroughAStreamOfItsOwn(t *testing.T) {
	w := serve(t)
	a := w.connect(1)
	a.open()
	said := make(chan *agentv1.InteractResponse, 1)
	said <- &agentv1.InteractResponse{Input: &agentv1.InteractResponse_Stdin{Stdin: []byte("hello")}}
	ids := make(chan uint64, 2)
	go func() {
		for range 2 {
			id := a.recv().GetAsk().GetId()
			ids <- id
			stream, err := w.client.Interact(context.Background())
			if err != nil {
				return
			}
			_ = stream.Send(&agentv1.InteractRequest{Id: id})
			m, err := stream.Recv()
			if err != nil {
				return
			}
			_ = stream.Send(&agentv1.InteractRequest{Id: id, Output: &agentv1.InteractRequest_Stdout{Stdout: m.GetStdin()}})
			_ = stream.Send(&agentv1.InteractRequest{Id: id, Output: &agentv1.InteractRequest_ExitCode{ExitCode: 5}})
			_ = stream.CloseSend()
		}
	}()
	ask := func() *agentv1.Ask { return &agentv1.Ask{Question: &agentv1.Ask_Exec{Exec: &agentv1.ExecAsk{}}} }
	var got []*agentv1.InteractRequest
	err := w.d.Exec(t.Context(), "node-1", ask(), said, func(m *agentv1.InteractRequest) error {
		got = append(got, m)
		return nil
	})
	if err != nil || len(got) != 2 || string(got[0].GetStdout()) != "hello" || got[1].GetExitCode() != 5 {
		t.Errorf("%v, %v", got, err)
	}
	<-ids
	// A log is no command, and a command no log.
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.d.Exec(ctx, "node-1", ask(), said, nil) }()
	wrong, err := w.client.Answer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = wrong.Send(&agentv1.AnswerRequest{Id: <-ids, Answer: &agentv1.AnswerRequest_Data{Data: []byte("x")}})
	if _, err := wrong.CloseAndRecv(); err == nil {
		t.Error("a command was answered as a log is")
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

func TestANodeSpeaksOfItselfAndItsPodsOnly(t *testing.T) {
	w := serve(t)
	epoch := w.bind("web", "node-1")
	w.bind("other", "node-2")
	a := w.connect(1)
	a.open()
	event := func(kind, name string) *musterv1.Event {
		return &musterv1.Event{Reason: name, Involved: &musterv1.ObjectReference{Kind: kind, Namespace: "default", Name: name}}
	}
	a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Events{Events: &agentv1.EventBatch{Events: []*musterv1.Event{
		event("Pod", "web"), event("Pod", "other"), event("Node", "node-1"), event("Node", "node-2"), event("Deployment", "web"),
	}}}})
	a.say(&spec.HeldStatus{UID: "uid-web", Epoch: epoch}) // what came before it has been taken in
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) != 2 || w.events[0].Involved.Name != "web" || w.events[1].Involved.Name != "node-1" || w.events[0].Node != "node-1" {
		t.Errorf("events %+v, want those of web and node-1", w.events)
	}
}

func TestVersionsMoreThanOneMinorApartAreRefused(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"0.1.0", "0.1.9", false}, {"0.1.0", "0.2.0", false}, {"0.3.0", "0.1.0", true}, {"1.0.0", "0.9.0", true}, {"devel", "0.1.0", false},
	} {
		if got := skewed(tc.a, tc.b); got != tc.want {
			t.Errorf("skewed(%s, %s) = %v, want %v", tc.a, tc.b, got, tc.want)
		}
	}
}

func TestAStatusThatIsTooLargeHoldsNoOther(t *testing.T) {
	w := serve(t)
	w.d.deps.Store = tight{w.store}
	big, small := w.bind("big", "node-1"), w.bind("small", "node-1")
	a := w.connect(1)
	a.open()
	status := spec.PodStatus{Phase: spec.PhaseRunning}
	large := status
	large.Message = "too large"
	a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Statuses{Statuses: &agentv1.StatusBatch{Statuses: []*musterv1.HeldStatus{
		wire.HeldStatusToProto(&spec.HeldStatus{UID: "uid-big", Epoch: big, Status: large}),
		wire.HeldStatusToProto(&spec.HeldStatus{UID: "uid-small", Epoch: small, Status: status}),
	}}}})
	for {
		if ack := a.recv().GetStatusAck(); ack != nil {
			if len(ack.GetCommitted()) != 1 || ack.GetCommitted()[0].GetUid() != "uid-small" {
				t.Errorf("acknowledged %v, want small", ack)
			}
			return
		}
	}
}

// tight is a store that has no room for a status with a message.
type tight struct{ store.Store }

func (s tight) CommitEach(ctx context.Context, ts []store.Txn) (int64, []error, error) {
	for _, t := range ts {
		if h, ok := t.Then[0].Value.(*spec.HeldStatus); ok && h.Status.Message != "" {
			return 0, nil, store.ErrTooLarge
		}
	}
	return s.Store.CommitEach(ctx, ts)
}

func TestWhatCouldNotBeWrittenDoesNotReplaceWhatWasSaidSince(t *testing.T) {
	name := spec.ObjectName{Namespace: "default", Name: "web"}
	said := func(phase spec.Phase, epoch int64, stopped bool) pending {
		return pending{name: name, held: &spec.HeldStatus{UID: "uid-web", Epoch: epoch, Stopped: stopped, Status: spec.PodStatus{Phase: phase}}}
	}
	const earlier, later = spec.PhasePending, spec.PhaseRunning
	for what, tc := range map[string]struct {
		said, back pending
		want       spec.Phase
	}{
		"a later word stays":                    {said(later, 1, false), said(earlier, 1, false), later},
		"a later binding's word stays":          {said(later, 2, false), said(earlier, 1, true), later},
		"Stopped is the last word of a binding": {said(later, 1, false), said(earlier, 1, true), earlier},
		"what was not said anew is there again": {pending{}, said(earlier, 1, false), earlier},
		"a later Stopped stays":                 {said(later, 1, true), said(earlier, 1, false), later},
	} {
		q := newStatusQueue()
		if tc.said.held != nil {
			q.put(tc.said)
		}
		q.putBack(tc.back)
		if batch := q.take(10); len(batch) != 1 || batch[0].held.Status.Phase != tc.want {
			t.Errorf("%s: %+v, want one status of phase %s", what, batch, tc.want)
		}
	}
}
