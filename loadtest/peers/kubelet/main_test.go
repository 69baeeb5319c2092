package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// peer runs the program as a function, and asks it.
type peer struct {
	in    io.WriteCloser
	lines *bufio.Reader
	ended chan error
}

func start(t *testing.T, job string) *peer {
	t.Helper()
	in, stdin := io.Pipe()
	stdout, out := io.Pipe()
	p := &peer{in: stdin, lines: bufio.NewReader(stdout), ended: make(chan error, 1)}
	go func() {
		err := run(t.Context(), in, out)
		out.Close()
		p.ended <- err
	}()
	t.Cleanup(func() { stdin.Close() })
	if _, err := io.WriteString(stdin, job+"\n"); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *peer) hear(t *testing.T) map[string]int64 {
	t.Helper()
	line, err := p.lines.ReadBytes('\n')
	if err != nil {
		t.Fatalf("hear: %v", err)
	}
	var told map[string]int64
	if err := json.Unmarshal(line, &told); err != nil {
		t.Fatalf("hear %s: %v", line, err)
	}
	return told
}

func (p *peer) ask(t *testing.T) map[string]int64 {
	t.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		t.Fatal(err)
	}
	return p.hear(t)
}

// until asks until so many attempts more than at first have come to this.
func (p *peer) until(t *testing.T, result string, more int64) {
	t.Helper()
	first := p.ask(t) // Kubernetes counts in a process, not in a manager
	told := first
	for deadline := time.Now().Add(30 * time.Second); told[result]-first[result] < more; time.Sleep(50 * time.Millisecond) {
		if told = p.ask(t); time.Now().After(deadline) {
			t.Fatalf("still %v, at first %v", told, first)
		}
	}
}

func TestEveryPodIsAskedAtAnAddressOfItsOwnAndCounted(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		host, _, _ := net.SplitHostPort(r.Host)
		seen[host+r.URL.Path]++
	}))
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Listener.Close()
	s.Listener = l
	s.Start()
	defer s.Close()
	p := start(t, fmt.Sprintf(`{"Kind":"http","Targets":3,"Period":1000000000,"Base":"127.90.0.1","Port":%d}`, l.Addr().(*net.TCPAddr).Port))
	if told := p.hear(t); told["pods"] != 3 {
		t.Fatalf("said %v, want 3 pods", told)
	}
	p.until(t, "successful", 6)
	mu.Lock()
	defer mu.Unlock()
	for i := range 3 {
		if at := fmt.Sprintf("127.90.0.%d/ready/%d", i+1, i); seen[at] < 1 {
			t.Errorf("%s was never asked: %v", at, seen)
		}
	}
	p.in.Close()
	if err := <-p.ended; err != nil {
		t.Errorf("ended with %v, want nil as stdin has ended", err)
	}
}

func TestAClosedPortIsAFailedTCPProbe(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	p := start(t, fmt.Sprintf(`{"Kind":"tcp","Targets":1,"Period":1000000000,"Base":"127.0.0.1","Port":%d}`, port))
	if told := p.hear(t); told["pods"] != 1 {
		t.Fatalf("said %v, want one pod", told)
	}
	p.until(t, "failed", 2)
}

func TestAJobThatCannotBeIsRefusedByItsField(t *testing.T) {
	for _, c := range []struct{ job, want string }{
		{`{"Kind":"exec","Targets":1,"Period":1000000000,"Base":"127.0.0.1","Port":80}`, "kind"},
		{`{"Kind":"tcp","Targets":0,"Period":1000000000,"Base":"127.0.0.1","Port":80}`, "targets"},
		{`{"Kind":"tcp","Targets":1,"Period":1500000000,"Base":"127.0.0.1","Port":80}`, "period"},
		{`{"Kind":"tcp","Targets":1,"Period":1000000000,"Base":"127.0.0.1"}`, "port"},
		{`{"Kind":"tcp","Targets":1,"Period":1000000000,"Base":"::1","Port":80}`, "base"},
		{`{"Kind":"tcp","Slow":1}`, "Slow"},
	} {
		p := start(t, c.job)
		if err := <-p.ended; err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error that names %s", c.job, err, c.want)
		}
	}
}
