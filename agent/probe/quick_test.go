package probe

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/internal/spec"
)

// told counts the answers of one attempt.
type told struct {
	mu      sync.Mutex
	answers []Answer
	at      time.Time
	over    chan struct{}
}

func newTold() *told { return &told{over: make(chan struct{})} }

func (d *told) Done(a Answer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answers, d.at = append(d.answers, a), time.Now()
	if len(d.answers) == 1 {
		close(d.over)
	}
}

func (d *told) wait(t *testing.T) Answer {
	t.Helper()
	select {
	case <-d.over:
	case <-time.After(20 * time.Second):
		t.Fatal("an attempt does not end")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.answers[0]
}

func TestOnlyAddressesAreAskedQuickly(t *testing.T) {
	a := New(nil)
	port := port32(t)
	quick := func(name string, q *Question, want Begun) {
		t.Helper()
		d := newTold()
		_, got := a.Begin(t.Context(), q, d)
		if got == UnderWay {
			d.wait(t)
		}
		if got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	quick("a GET", get(port, nil), UnderWay)
	quick("a connection", &Question{Address: "127.0.0.1", Probe: &spec.Probe{Timeout: time.Second, Handler: spec.Handler{TCP: &spec.TCPAction{Port: spec.PortRef{Number: port}}}}}, Over)
	quick("TLS", get(port, func(h *spec.HTTPAction) { h.Scheme = "HTTPS" }), NotBegun)
	quick("HTTP/2", get(port, func(h *spec.HTTPAction) { h.Protocol = spec.ProtocolHTTP2 }), NotBegun)
	quick("a name", get(port, func(h *spec.HTTPAction) { h.Host = "localhost" }), NotBegun)
	quick("a header of the connection's own", get(port, func(h *spec.HTTPAction) { h.Headers = []spec.Header{{Name: "Upgrade", Value: "x"}} }), NotBegun)
	quick("a port that is not declared", get(port, func(h *spec.HTTPAction) { h.Port = spec.PortRef{Name: "none"} }), NotBegun)
	quick("gRPC", check("127.0.0.1", port, "", time.Second), NotBegun)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, got := a.Begin(ended, get(port, nil), newTold()); got != NotBegun {
		t.Errorf("after the end: %v", got)
	}
}

func TestManyAttemptsAtOnceEachHaveTheirOwnAnswerOnce(t *testing.T) {
	a := New(nil)
	ports := []int32{hostile(t, answers[0], nil, closes), hostile(t, answers[3], []byte{1, 2, 30}, resets), hostile(t, answers[5], nil, closes), 1, hostile(t, "", nil, hangs)}
	want := []string{"ok", "HTTP probe failed with statuscode: 503", "ok", "connection refused", "context deadline exceeded"}
	for range 3 {
		var dones []*told
		var began []time.Time
		for i := range 300 {
			q := get(ports[i%len(ports)], nil)
			q.Probe.Timeout = 2 * time.Second
			d := newTold()
			began = append(began, time.Now())
			if answer, begun := a.Begin(t.Context(), q, d); begun == Over {
				d.Done(answer)
			} else if begun == NotBegun {
				t.Fatal("it was not begun")
			}
			dones = append(dones, d)
		}
		for i, d := range dones {
			answer := d.wait(t)
			if !strings.HasSuffix(answer.Output, want[i%len(want)]) {
				t.Errorf("%d: %q, want %q", i, answer.Output, want[i%len(want)])
			}
			took := d.at.Sub(began[i])
			if hung := i%len(want) == 4; hung && took < 1990*time.Millisecond || took > 12*time.Second {
				t.Errorf("%d took %v", i, took)
			}
		}
		for i, d := range dones {
			d.mu.Lock()
			if len(d.answers) != 1 {
				t.Errorf("%d was answered %d times", i, len(d.answers))
			}
			d.mu.Unlock()
		}
	}
	a.waiting.mu.Lock()
	defer a.waiting.mu.Unlock()
	if a.waiting.count != 0 || len(a.waiting.places) > 300 {
		t.Errorf("%d wait, %d places", a.waiting.count, len(a.waiting.places))
	}
}

func TestAnAnswerThatComesAfterTheTimeIsNone(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			time.AfterFunc(200*time.Millisecond, func() { _, _ = c.Write([]byte(answers[0])) })
		}
	}()
	q := get(int32(l.Addr().(*net.TCPAddr).Port), nil)
	q.Probe.Timeout = 190 * time.Millisecond
	if a := New(nil).Attempt(t.Context(), q); a.Outcome != spec.OutcomeFailure || !strings.Contains(a.Output, "context deadline exceeded") {
		t.Errorf("%v", a)
	}
}

func TestTheEndOfItsContextEndsAnAttemptThatWaits(t *testing.T) {
	a := New(nil)
	ctx, cancel := context.WithCancel(t.Context())
	q := get(hostile(t, "", nil, hangs), nil)
	q.Probe.Timeout = time.Hour
	d := newTold()
	if _, begun := a.Begin(ctx, q, d); begun != UnderWay {
		t.Fatalf("%v", begun)
	}
	time.Sleep(3 * look)
	cancel()
	began := time.Now()
	if answer := d.wait(t); answer.Outcome != spec.OutcomeFailure || !strings.HasSuffix(answer.Output, "context canceled") {
		t.Errorf("%v", answer)
	}
	if took := time.Since(began); took > 5*look+5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestASocketThatIsConnectedToItselfIsNoConnection(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	own, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, own); err != nil {
		t.Fatal(err)
	}
	port := int32(own.(*unix.SockaddrInet4).Port)
	q := &Question{Address: "127.0.0.1", Probe: &spec.Probe{Handler: spec.Handler{TCP: &spec.TCPAction{Port: spec.PortRef{Number: port}}}}}
	c := &conn{q: q, fd: fd}
	q.prepared = prepare(q)
	if !c.toItself() {
		t.Error("it takes itself for its peer")
	}
	q.Address = "127.0.0.2"
	q.prepared = prepare(q)
	if c.toItself() {
		t.Error("it takes another for itself")
	}
}

func TestABugInAnAttemptEndsThatAttemptAlone(t *testing.T) {
	c := &conn{q: &Question{Probe: &spec.Probe{}}} // there is nothing prepared
	if next := c.safely(nil); next != over || c.answer.Outcome != spec.OutcomeErrored || !strings.HasPrefix(c.answer.Output, "a bug in muster: panic: ") {
		t.Errorf("%v %+v", next, c.answer)
	}
}

func TestWithoutDescriptorsAnAttemptFailsAsNetsDoes(t *testing.T) {
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	port := port32(t)
	a := New(nil)
	a.Attempt(t.Context(), get(port, nil)) // what is opened once is open
	none := was
	none.Cur = 3
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	answer := a.Attempt(t.Context(), get(port, nil))
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if answer.Outcome != spec.OutcomeFailure || !strings.HasSuffix(answer.Output, "socket: too many open files") {
		t.Errorf("%v", answer)
	}
	if a := a.Attempt(t.Context(), get(port, nil)); a.Outcome != spec.OutcomeSuccess {
		t.Errorf("afterwards: %v", a)
	}
}

// BenchmarkQuick has many attempts under way, as an agent has: what one costs beside the work of those that answer.
func BenchmarkQuick(b *testing.B) {
	port := hostile(b, answers[0], nil, hangs)
	tcp := &spec.Probe{Timeout: time.Second, Handler: spec.Handler{TCP: &spec.TCPAction{Port: spec.PortRef{Number: port}}}}
	for name, p := range map[string]*spec.Probe{"HTTP": get(port, nil).Probe, "TCP": tcp} {
		b.Run(name, func(b *testing.B) {
			a, room := New(nil), make(chan struct{}, 64)
			b.ReportAllocs()
			questions := make([]Question, 64)
			for i := 0; b.Loop(); i++ {
				room <- struct{}{}
				q := &questions[i%len(questions)]
				*q = Question{Probe: p, Address: "127.0.0.1", prepared: q.prepared, judged: q.judged}
				if answer, begun := a.Begin(context.Background(), q, release(room)); begun == Over {
					release(room).Done(answer)
				} else if begun == NotBegun {
					b.Fatal(errors.New("not begun"))
				}
			}
			for range cap(room) {
				room <- struct{}{}
			}
			runtime.KeepAlive(a)
		})
	}
}

type release chan struct{}

func (r release) Done(a Answer) {
	if a.Outcome != spec.OutcomeSuccess {
		panic(a.Output)
	}
	<-r
}
