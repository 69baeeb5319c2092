package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// start runs a verb until the test ends and returns where it listens, where it does.
func start(t *testing.T, verb string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	t.Setenv("POD_IP", "127.0.0.1")
	t.Setenv("PORT", port)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{verb}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", verb, err)
		}
	})
	return l.Addr().String()
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestTheWebServerFailsOnceItIsToldTo(t *testing.T) {
	addr := start(t, "web")
	ask := func(path string) error { return run(t.Context(), []string{"get", "http://" + addr + path}) }
	eventually(t, func() error { return ask("/healthz") })
	for _, path := range []string{"/", "/ready", "/fail"} {
		if err := ask(path); err != nil {
			t.Error(err)
		}
	}
	if err := ask("/healthz"); err == nil {
		t.Error("/healthz is well after /fail")
	}
	if err := ask("/ready"); err != nil {
		t.Errorf("/ready after /fail: %v", err)
	}
}

func TestTheEchoServerSendsBackWhatComes(t *testing.T) {
	addr := start(t, "echo")
	eventually(t, func() error {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 1))
		return err
	})
}

func TestTheCheckFailsWithoutAFreshHeartbeat(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	check := func() error { return run(t.Context(), []string{"check"}) }
	if check() == nil {
		t.Error("check passes before any heartbeat")
	}
	start(t, "worker")
	eventually(t, check)
	old := time.Now().Add(-10 * time.Second)
	stale := filepath.Join(t.TempDir(), "home")
	t.Setenv("HOME", stale)
	if err := os.MkdirAll(stale, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(heartbeat(), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(heartbeat(), old, old); err != nil {
		t.Fatal(err)
	}
	if check() == nil {
		t.Error("check passes with an old heartbeat")
	}
}
