package probe

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// How a server ends a connection once it has said all.
const (
	closes = iota
	resets
	hangs
	endings
)

// hostile says text to everybody who asks, in parts that end where splits say, and then ends the connection in one way.
func hostile(t testing.TB, text string, splits []byte, ending int) int32 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				request := make([]byte, 0, 4096)
				for !strings.HasSuffix(string(request), "\r\n\r\n") {
					var b [512]byte
					n, err := c.Read(b[:])
					if err != nil {
						return
					}
					request = append(request, b[:n]...)
				}
				rest := text
				for _, at := range splits {
					n := min(int(at), len(rest))
					if _, err := io.WriteString(c, rest[:n]); err != nil {
						return
					}
					rest = rest[n:]
					time.Sleep(200 * time.Microsecond)
				}
				if _, err := io.WriteString(c, rest); err != nil {
					return
				}
				switch ending {
				case resets:
					_ = c.(*net.TCPConn).SetLinger(0)
				case hangs:
					var b [1]byte
					_, _ = c.Read(b[:])
				}
			}()
		}
	}()
	return int32(l.Addr().(*net.TCPAddr).Port)
}

// ephemeral is the client's own port in an error's text.
var ephemeral = regexp.MustCompile(`(127\.0\.0\.1|\[::1\]):[0-9]+->`)

// both makes an attempt in both ways and holds the quick one to the exact one.
func both(t testing.TB, q *Question) Answer {
	t.Helper()
	quick, exact := New(nil), New(nil)
	exact.exact = true
	got, want := quick.Attempt(context.Background(), q), exact.Attempt(context.Background(), q)
	got.Output, want.Output = ephemeral.ReplaceAllString(got.Output, "$1:0->"), ephemeral.ReplaceAllString(want.Output, "$1:0->")
	if got != want {
		t.Errorf("the quick way: %v %q\nthe exact way: %v %q", got.Outcome, got.Output, want.Outcome, want.Output)
	}
	return got
}

// answers are what servers say, well and badly.
var answers = []string{
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
	"HTTP/1.1 200\r\ncontent-length:0\r\n\r\n",
	"HTTP/1.1 503 No\r\nContent-Length: 3\r\nX-A: b\r\n\r\nbad",
	"HTTP/1.1 200 OK\r\n\r\nuntil the end",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
	"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 204 No Content\r\n\r\n",
	"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
	"HTTP/1.1 302 Found\r\nLocation: http://elsewhere.invalid/\r\nContent-Length: 4\r\n\r\ngone",
	"HTTP/1.1 302 Found\r\nContent-Length: 4\r\n\r\ngone",
	"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
	"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
	"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
	"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nA\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\n: b\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nA: \x00\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nÄ: b\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 999 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nTrailer: X\r\nContent-Length: 2\r\n\r\nok",
	"SSH-2.0-OpenSSH\r\n", "", "\r\n\r\n", "HTTP/1.1 200 OK", "\x15\x03\x01\x00\x02\x02\x16",
	"HTTP/1.1 200 OK\r\nContent-Length: 10240\r\n\r\n" + strings.Repeat("x", 10240),
	"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + strings.Repeat("y", 20000),
	"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + strings.Repeat("z", 10240),
	"HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", 6000) + "\r\nContent-Length: 10240\r\n\r\n" + strings.Repeat("x", 10240),
	"HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", 20000) + "\r\nContent-Length: 2\r\n\r\nok",
}

func TestBothWaysOfAnHTTPAttemptAgree(t *testing.T) {
	for i, answer := range answers {
		for ending := range endings {
			for _, splits := range [][]byte{nil, {1, 7, 5, 1}, {16, 1, 1, 1}} {
				t.Run(fmt.Sprintf("%d %d %v", i, ending, splits), func(t *testing.T) {
					t.Parallel()
					q := get(hostile(t, answer, splits, ending), nil)
					q.Probe.Timeout = 300 * time.Millisecond
					both(t, q)
				})
			}
		}
	}
}

// FuzzBothWaysOfAnHTTPAttemptAgree holds outcome, output and error of the quick way to those of net/http.
func FuzzBothWaysOfAnHTTPAttemptAgree(f *testing.F) {
	for i, answer := range answers {
		f.Add(answer, []byte{byte(i), 3, 200}, uint8(i))
	}
	f.Fuzz(func(t *testing.T, answer string, splits []byte, ending uint8) {
		if len(splits) > 16 {
			return
		}
		q := get(hostile(t, answer, splits, int(ending)%2), nil) // what hangs takes too long to try by the thousand
		q.Probe.Timeout = 2 * time.Second
		both(t, q)
	})
}

func TestBothWaysFailAlikeWhereNobodyAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := int32(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	tcp := func(port int32, address string) *Question {
		return &Question{Probe: &spec.Probe{Handler: spec.Handler{TCP: &spec.TCPAction{Port: spec.PortRef{Number: port}}}, Timeout: 200 * time.Millisecond}, Address: address}
	}
	if a := both(t, tcp(refused, "127.0.0.1")); a.Outcome != spec.OutcomeFailure || a.Output != fmt.Sprintf("dial tcp 127.0.0.1:%d: connect: connection refused", refused) {
		t.Errorf("TCP refused: %v", a)
	}
	if a := both(t, get(refused, nil)); a.Outcome != spec.OutcomeFailure || !strings.HasSuffix(a.Output, "connect: connection refused") {
		t.Errorf("refused: %v", a)
	}
	// A queue that is full takes no more: connections hang.
	full, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	raw, err := full.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = listenOne(int(fd)) }); err != nil {
		t.Fatal(err)
	}
	port := full.Addr().(*net.TCPAddr).Port
	for range 3 {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 100*time.Millisecond)
		if err == nil {
			defer c.Close()
		}
	}
	q := get(int32(port), nil)
	q.Probe.Timeout = 200 * time.Millisecond
	if a := both(t, q); a.Outcome != spec.OutcomeFailure || !strings.HasSuffix(a.Output, "context deadline exceeded") {
		t.Errorf("full: %v", a)
	}
	if a := both(t, tcp(int32(port), "127.0.0.1")); a.Outcome != spec.OutcomeFailure || a.Output != fmt.Sprintf("dial tcp 127.0.0.1:%d: i/o timeout", port) {
		t.Errorf("TCP full: %v", a)
	}
	if v6, err := net.Listen("tcp", "[::1]:0"); err == nil {
		v6.Close()
		q := get(int32(v6.Addr().(*net.TCPAddr).Port), nil)
		q.Address = "::1"
		both(t, q)
		both(t, tcp(q.Probe.HTTP.Port.Number, "::1"))
	}
	q = get(port32(t), nil)
	q.Address = "not-a-name.invalid"
	q.Probe.Timeout = 3 * time.Second
	if a := New(nil).Attempt(t.Context(), q); a.Outcome != spec.OutcomeFailure {
		t.Errorf("a name: %v", a)
	}
}

func port32(t *testing.T) int32 { return hostile(t, answers[0], nil, closes) }

func TestAQuickAttemptLeavesNoDescriptorAndNoGoroutine(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	a, ports := New(nil), []int32{hostile(t, answers[0], nil, closes), hostile(t, answers[5], nil, hangs), hostile(t, answers[13], nil, resets), 1}
	attempt := func() {
		for _, p := range ports {
			a.Attempt(t.Context(), get(p, nil))
		}
	}
	attempt()
	runtime.GC()
	fds, goroutines := count(), runtime.NumGoroutine()
	for range 50 {
		attempt()
	}
	for end := time.Now().Add(5 * time.Second); count() > fds+8 || runtime.NumGoroutine() > goroutines+8; {
		if time.Now().After(end) {
			t.Fatalf("%d descriptors and %d goroutines, before %d and %d", count(), runtime.NumGoroutine(), fds, goroutines)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func TestADialEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	port := hostile(t, "", nil, hangs)
	q := get(port, nil)
	q.Probe.Timeout = 30 * time.Second
	done := make(chan Answer)
	go func() { done <- New(nil).Attempt(ctx, q) }()
	<-time.After(20 * time.Millisecond)
	cancel()
	select {
	case a := <-done:
		if a.Outcome == spec.OutcomeSuccess {
			t.Errorf("it came to %v", a)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on without its context")
	}
	if _, ok := address("fe80::1%lo", 80); ok {
		t.Error("an address with a zone is dialed as one without")
	}
	if a, ok := address("::ffff:127.0.0.1", 80); !ok || a.Addr() != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("an IPv4 address in IPv6 is %v", a)
	}
}

// BenchmarkHTTP is one attempt, target apart: compare quick with exact in one run.
func BenchmarkHTTP(b *testing.B) {
	port := hostile(b, answers[0], nil, hangs)
	for _, way := range []string{"quick", "exact"} {
		b.Run(way, func(b *testing.B) {
			a := New(nil)
			a.exact = way == "exact"
			q := get(port, nil)
			b.ReportAllocs()
			for b.Loop() {
				if got := a.Attempt(context.Background(), q); got.Outcome != spec.OutcomeSuccess {
					b.Fatal(got)
				}
			}
		})
	}
}

// listenOne makes a listener's queue one long.
func listenOne(fd int) error { return syscall.Listen(fd, 0) }
