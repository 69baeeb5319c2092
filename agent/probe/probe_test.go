package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/internal/spec"
)

type fakeExec struct {
	res container.ExecResult
	err error
	got container.ExecConfig
}

func (f *fakeExec) Exec(_ context.Context, _ container.ContainerID, cmd container.ExecConfig) (container.ExecResult, error) {
	f.got = cmd
	return f.res, f.err
}

func TestCommandsAreJudgedByHowTheyEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		exec   fakeExec
		want   spec.Outcome
		output string
	}{
		"3.2.2 exit 0":                 {fakeExec{res: container.ExecResult{Stdout: []byte("out"), Stderr: []byte("err")}}, spec.OutcomeSuccess, "outerr"},
		"3.2.2 exit 1":                 {fakeExec{res: container.ExecResult{ExitCode: 1, Stderr: []byte("bad")}}, spec.OutcomeFailure, "bad"},
		"3.2.2 time-out":               {fakeExec{err: fmt.Errorf("exec: %w", container.ErrTimeout)}, spec.OutcomeFailure, `command timed out: "cat /x" timed out after 1s`},
		"3.2.4 missing binary":         {fakeExec{err: fmt.Errorf("cat: %w", container.ErrCannotStart)}, spec.OutcomeErrored, "cat: cannot start"},
		"3.2.2 the runtime has failed": {fakeExec{err: errors.New("no answer")}, spec.OutcomeErrored, "no answer"},
		"3.2.3 output is cut":          {fakeExec{res: container.ExecResult{Stdout: make([]byte, MaxOutput), Stderr: []byte("more")}}, spec.OutcomeSuccess, strings.Repeat("\x00", MaxOutput)},
	} {
		t.Run(name, func(t *testing.T) {
			p := &spec.Probe{Handler: spec.Handler{Exec: &spec.ExecAction{Command: []string{"cat", "/x"}}}, Timeout: time.Second}
			got := New(&tc.exec).Attempt(t.Context(), &Question{Probe: p})
			if got.Outcome != tc.want || got.Output != tc.output {
				t.Errorf("got %v %q, want %v %q", got.Outcome, got.Output, tc.want, tc.output)
			}
			if tc.exec.got.Timeout != time.Second {
				t.Errorf("time-out of the command: %v, want 1 s", tc.exec.got.Timeout)
			}
		})
	}
}

// serve answers every connection with raw bytes, and returns its port.
func serve(t *testing.T, answer func(c net.Conn, request string)) int32 {
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
				r := bufio.NewReader(c)
				var head strings.Builder
				for {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					head.WriteString(line)
					if line == "\r\n" {
						break
					}
				}
				answer(c, head.String())
			}()
		}
	}()
	return int32(l.Addr().(*net.TCPAddr).Port)
}

func get(port int32, change func(*spec.HTTPAction)) *Question {
	a := &spec.HTTPAction{Scheme: "HTTP", Path: "/", Port: spec.PortRef{Number: port}}
	if change != nil {
		change(a)
	}
	return &Question{Probe: &spec.Probe{Handler: spec.Handler{HTTP: a}, Timeout: 500 * time.Millisecond}, Address: "127.0.0.1"}
}

func TestAnswersOfHTTPAreJudgedByTheirStatus(t *testing.T) {
	for name, tc := range map[string]struct {
		answer string
		want   spec.Outcome
		output string
	}{
		"3.3.8 200":                   {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", spec.OutcomeSuccess, "hi"},
		"3.3.8 299":                   {"HTTP/1.1 299 X\r\n\r\n", spec.OutcomeSuccess, ""},
		"3.3.8 404":                   {"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\nsecret", spec.OutcomeFailure, "HTTP probe failed with statuscode: 404"},
		"3.3.8 500":                   {"HTTP/1.1 500 X\r\n\r\n", spec.OutcomeFailure, "HTTP probe failed with statuscode: 500"},
		"3.3.7 304":                   {"HTTP/1.1 304 X\r\n\r\n", spec.OutcomeWarning, "Probe terminated redirects, Response body: "},
		"3.3.7 another host":          {"HTTP/1.1 302 X\r\nLocation: http://elsewhere.test/\r\nContent-Length: 2\r\n\r\ngo", spec.OutcomeWarning, "Probe terminated redirects, Response body: go"},
		"3.3.9 more than is read":     {"HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 2*MaxOutput), spec.OutcomeSuccess, strings.Repeat("x", MaxOutput)},
		"3.3.8 nothing":               {"", spec.OutcomeFailure, "EOF"},
		"3.3.8 no HTTP":               {"220 ready\r\n\r\n", spec.OutcomeFailure, "malformed HTTP"},
		"3.3.10 a body that is short": {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", spec.OutcomeFailure, "reading the body"},
	} {
		t.Run(name, func(t *testing.T) {
			port := serve(t, func(c net.Conn, _ string) { _, _ = io.WriteString(c, tc.answer) })
			got := New(nil).Attempt(t.Context(), get(port, nil))
			if got.Outcome != tc.want || got.Output != tc.output && (tc.output == "" || !strings.Contains(got.Output, tc.output)) {
				t.Errorf("got %v %.80q, want %v %.80q", got.Outcome, got.Output, tc.want, tc.output)
			}
		})
	}
}

// Rules 3.1.1, 3.3.10 and 3.3.11.
func TestAServerThatStallsIsAFailureWithinTheTimeout(t *testing.T) {
	for name, answer := range map[string]string{
		"before the header":    "",
		"3.3.10 in the body":   "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhi",
		"3.3.10 in a chunk":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhi", // net/http's
		"3.3.11 in the header": "HTTP/1.1 200 OK\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			stop := make(chan struct{})
			port := serve(t, func(c net.Conn, _ string) { _, _ = io.WriteString(c, answer); <-stop })
			defer close(stop)
			start := time.Now()
			got := New(nil).Attempt(t.Context(), get(port, nil))
			if took := time.Since(start); got.Outcome != spec.OutcomeFailure || took > 2500*time.Millisecond {
				t.Errorf("got %v %q after %v, want failure within 0.5 s", got.Outcome, got.Output, took)
			}
		})
	}
}

func TestWhatIsSentIsWhatTheKubeletSends(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*spec.HTTPAction)
		want   string
	}{
		"3.3.2 nothing given": {nil, "GET / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nUser-Agent: kube-probe/1.37\r\nAccept: */*\r\nConnection: close\r\n\r\n"},
		"3.3.2 own headers": {
			func(a *spec.HTTPAction) {
				a.Headers = []spec.Header{{Name: "host", Value: "web"}, {Name: "Host", Value: "not this"}, {Name: "x-a", Value: "1"}, {Name: "x-a", Value: "2"}, {Name: "User-Agent", Value: ""}, {Name: "Accept", Value: ""}}
			},
			"GET / HTTP/1.1\r\nHost: web\r\nX-A: 1\r\nX-A: 2\r\nConnection: close\r\n\r\n",
		},
		"3.3.1 path with a query":                    {func(a *spec.HTTPAction) { a.Path = "/a?x=1" }, "GET /a?x=1 HTTP/1.1\r\n"},
		"3.3.1 path without a slash":                 {func(a *spec.HTTPAction) { a.Path = "healthz" }, "GET /healthz HTTP/1.1\r\n"},
		"3.3.1 an absolute URL keeps path and query": {func(a *spec.HTTPAction) { a.Path = "http://other/a?b=c" }, "GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n"},
		"3.3.1 a path that is no URL":                {func(a *spec.HTTPAction) { a.Path = "/%zz" }, "GET /%25zz HTTP/1.1\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			requests := make(chan string, 1)
			port := serve(t, func(c net.Conn, request string) {
				requests <- request
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			})
			if got := New(nil).Attempt(t.Context(), get(port, tc.change)); got.Outcome != spec.OutcomeSuccess {
				t.Fatalf("got %v %q", got.Outcome, got.Output)
			}
			want := strings.ReplaceAll(tc.want, "PORT", fmt.Sprint(port))
			if got := <-requests; !strings.HasPrefix(got, want) || strings.HasSuffix(want, "\r\n\r\n") && got != want {
				t.Errorf("sent %q, want %q", got, want)
			}
		})
	}
}

func TestRedirectsToTheSameHostAreFollowedNineTimes(t *testing.T) {
	for n, want := range map[int]spec.Outcome{9: spec.OutcomeSuccess, 10: spec.OutcomeFailure} {
		hops := 0
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if hops < n {
				hops++
				http.Redirect(w, r, fmt.Sprint("/", hops), http.StatusFound)
			}
		}))
		port := srv.Listener.Addr().(*net.TCPAddr).Port
		got := New(nil).Attempt(t.Context(), get(int32(port), nil))
		if got.Outcome != want || want == spec.OutcomeFailure && !strings.Contains(got.Output, "stopped after 10 redirects") {
			t.Errorf("3.3.6: %d redirects: %v %q, want %v", n, got.Outcome, got.Output, want)
		}
		srv.Close()
	}
}

func TestCertificatesAreNotVerified(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer srv.Close()
	port := srv.Listener.Addr().(*net.TCPAddr).Port
	got := New(nil).Attempt(t.Context(), get(int32(port), func(a *spec.HTTPAction) { a.Scheme = "HTTPS" }))
	if got.Outcome != spec.OutcomeSuccess {
		t.Errorf("3.3.3: %v %q", got.Outcome, got.Output)
	}
}

func TestHTTP2IsSpokenWhereTLSOffersItAndNowhereElse(t *testing.T) {
	for scheme, want := range map[string]string{"HTTPS": "HTTP/2.0", "HTTP": "HTTP/1.1"} {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) }))
		if srv.EnableHTTP2 = true; scheme == "HTTPS" {
			srv.StartTLS()
		} else {
			srv.Start()
		}
		port := srv.Listener.Addr().(*net.TCPAddr).Port
		got := New(nil).Attempt(t.Context(), get(int32(port), func(a *spec.HTTPAction) { a.Scheme = scheme }))
		if got.Outcome != spec.OutcomeSuccess || got.Output != want {
			t.Errorf("3.3.4 %s: %v %q, want %s", scheme, got.Outcome, got.Output, want)
		}
		srv.Close()
	}
}

func TestHTTP2WithoutTLSIsSpokenWhereItIsAskedFor(t *testing.T) {
	asked := func(a *spec.HTTPAction) { a.Protocol = spec.ProtocolHTTP2 }
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.Redirect(w, r, "/", http.StatusFound)
			return
		}
		fmt.Fprint(w, r.Proto, " ", r.UserAgent())
	}))
	srv.Config.Protocols = &http.Protocols{}
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	defer srv.Close()
	port := int32(srv.Listener.Addr().(*net.TCPAddr).Port)
	for _, path := range []string{"/", "/elsewhere"} {
		got := New(nil).Attempt(t.Context(), get(port, func(a *spec.HTTPAction) { asked(a); a.Path = path }))
		if want := "HTTP/2.0 " + UserAgent; got.Outcome != spec.OutcomeSuccess || got.Output != want {
			t.Errorf("3.3.4 %s: %v %q, want %q", path, got.Outcome, got.Output, want)
		}
	}
	if err := New(nil).Notify(t.Context(), get(port, asked).Probe.HTTP, "127.0.0.1", nil); err != nil {
		t.Errorf("a hook: %v", err)
	}
	if got := New(nil).Attempt(t.Context(), get(port, nil)); got.Outcome != spec.OutcomeFailure {
		t.Errorf("3.3.4 without being asked: %v %q", got.Outcome, got.Output)
	}
	old := serve(t, func(c net.Conn, _ string) { fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") })
	if got := New(nil).Attempt(t.Context(), get(old, asked)); got.Outcome != spec.OutcomeFailure {
		t.Errorf("3.3.4 a server that only knows HTTP/1.1: %v %q", got.Outcome, got.Output)
	}
}

func TestAConnectionThatOpensIsEnough(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp := func() Answer {
		p := &spec.Probe{Handler: spec.Handler{TCP: &spec.TCPAction{Port: spec.PortRef{Name: "db"}}}, Timeout: time.Second}
		return New(nil).Attempt(t.Context(), &Question{Probe: p, Address: "127.0.0.1", Ports: []spec.Port{{Name: "db", Number: int32(l.Addr().(*net.TCPAddr).Port)}}})
	}
	if got := tcp(); got.Outcome != spec.OutcomeSuccess {
		t.Errorf("3.4.1: %v %q, want success", got.Outcome, got.Output)
	}
	l.Close()
	if got := tcp(); got.Outcome != spec.OutcomeFailure || !strings.Contains(got.Output, "connection refused") {
		t.Errorf("3.4.1 refused: %v %q, want failure", got.Outcome, got.Output)
	}
}

func TestAPortThatIsNotDeclaredIsNoAnswer(t *testing.T) {
	for name, tc := range map[string]struct {
		port spec.PortRef
		want string
	}{
		"3.1.3 unknown name": {spec.PortRef{Name: "web"}, `port "web" not found`},
		"3.1.3 out of range": {spec.PortRef{Number: 70000}, "invalid port number: 70000"},
	} {
		got := New(nil).Attempt(t.Context(), get(1, func(a *spec.HTTPAction) { a.Port = tc.port }))
		if got.Outcome != spec.OutcomeErrored || got.Output != tc.want {
			t.Errorf("%s: %v %q, want errored %q", name, got.Outcome, got.Output, tc.want)
		}
	}
}

func TestAHooksGETIsContentWithAnyAnswer(t *testing.T) {
	requests := make(chan string, 1)
	port := serve(t, func(c net.Conn, request string) {
		requests <- request
		_, _ = io.WriteString(c, "HTTP/1.1 503 X\r\nContent-Length: 2\r\n\r\nno")
	})
	a, action := New(nil), &spec.HTTPAction{Scheme: "HTTP", Path: "/bye", Port: spec.PortRef{Name: "web"}}
	if err := a.Notify(t.Context(), action, "127.0.0.1", []spec.Port{{Name: "web", Number: port}}); err != nil {
		t.Error(err)
	}
	if got := <-requests; !strings.HasPrefix(got, "GET /bye HTTP/1.1\r\n") || !strings.Contains(got, "User-Agent: kube-lifecycle/1.37\r\n") {
		t.Errorf("sent %q", got)
	}
	if err := a.Notify(t.Context(), action, "127.0.0.1", nil); err == nil || err.Error() != `port "web" not found` {
		t.Errorf("a port that is not declared: %v", err)
	}
	action.Port = spec.PortRef{Number: closedPort(t)}
	if err := a.Notify(t.Context(), action, "127.0.0.1", nil); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("no answer: %v", err)
	}
}
