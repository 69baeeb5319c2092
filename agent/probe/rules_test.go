package probe

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// Rule 3.1.2: the pod's address unless a host is given; gRPC knows the pod's alone.
func TestAProbeAsksThePodUnlessItNamesAHost(t *testing.T) {
	asked := make(chan string, 1)
	listen := func(address string, port int) int32 {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.ParseIP(address), Port: port})
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
				asked <- address
				c.Close()
			}
		}()
		return int32(l.Addr().(*net.TCPAddr).Port)
	}
	port := listen("127.0.0.1", 0)
	listen("127.0.0.2", int(port))
	ref := spec.PortRef{Number: port}
	for name, tc := range map[string]struct {
		handler spec.Handler
		want    string
	}{
		"3.1.2 tcp, the pod":    {spec.Handler{TCP: &spec.TCPAction{Port: ref}}, "127.0.0.2"},
		"3.1.2 tcp, a host":     {spec.Handler{TCP: &spec.TCPAction{Port: ref, Host: "127.0.0.1"}}, "127.0.0.1"},
		"3.1.2 http, the pod":   {spec.Handler{HTTP: &spec.HTTPAction{Scheme: "HTTP", Path: "/", Port: ref}}, "127.0.0.2"},
		"3.1.2 http, a host":    {spec.Handler{HTTP: &spec.HTTPAction{Scheme: "HTTP", Path: "/", Port: ref, Host: "127.0.0.1"}}, "127.0.0.1"},
		"3.1.2 grpc, the pod":   {spec.Handler{GRPC: &spec.GRPCAction{Port: port}}, "127.0.0.2"},
		"3.1.2 http, by a name": {spec.Handler{HTTP: &spec.HTTPAction{Scheme: "HTTP", Path: "/", Port: ref, Host: "localhost"}}, "127.0.0.1"},
	} {
		New(nil).Attempt(t.Context(), &Question{Address: "127.0.0.2", Probe: &spec.Probe{Handler: tc.handler, Timeout: time.Second}})
		if got := <-asked; got != tc.want {
			t.Errorf("%s: %s was asked, want %s", name, got, tc.want)
		}
		for len(asked) > 0 { // a second connection of the same attempt
			<-asked
		}
	}
}

// Rule 3.1.4, by other means: the kubelet lingers for a second, muster resets, so that neither leaves connections behind.
func TestAConnectionIsClosedByAReset(t *testing.T) {
	ended := make(chan error, 1)
	port := serve(t, func(c net.Conn, _ string) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, err := c.Read(make([]byte, 1))
		ended <- err
	})
	for name, change := range map[string]func(*Attempter){"3.1.4 the quick way": func(*Attempter) {}, "3.1.4 net/http": func(a *Attempter) { a.exact = true }} {
		a := New(nil)
		change(a)
		if got := a.Attempt(t.Context(), get(port, nil)); got.Outcome != spec.OutcomeSuccess {
			t.Fatalf("%s: %+v", name, got)
		}
		if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: the server saw %v, want a reset", name, err)
		}
	}
}

// Rule 3.3.5.
func TestNoProxyIsAsked(t *testing.T) {
	proxy := serve(t, func(c net.Conn, _ string) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno") })
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"} {
		t.Setenv(name, fmt.Sprintf("http://127.0.0.1:%d", proxy))
	}
	// Nobody answers there; a proxy would. Loopback is never asked through one, so the name is another.
	for name, exact := range map[string]bool{"3.3.5 the quick way": false, "3.3.5 net/http": true} {
		a := New(nil)
		a.exact = exact
		q := get(closedPort(t), func(a *spec.HTTPAction) { a.Host = "0.0.0.0" })
		if got := a.Attempt(t.Context(), q); got.Outcome != spec.OutcomeFailure {
			t.Errorf("%s: %v %q", name, got.Outcome, got.Output)
		}
	}
}
