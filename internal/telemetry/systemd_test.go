package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestSystemdHearsOfTheStartOfEveryChangeAndOfTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Health{}
		var down atomic.Bool
		h.Check("session", func(context.Context) error {
			if down.Load() {
				return errors.New("no session\nwith a coordinator")
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		var said []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			tell(ctx, h, func(s string) { said = append(said, s) })
		}()
		time.Sleep(time.Hour)
		down.Store(true)
		time.Sleep(time.Hour)
		down.Store(false)
		time.Sleep(time.Hour)
		cancel()
		<-done
		want := []string{
			"READY=1\nSTATUS=serves: [+]session ok", "STATUS=serves: [-]session: no session with a coordinator", "STATUS=serves: [+]session ok",
			"STATUS=serves no more",
		}
		if got := strings.Join(said, "|"); got != strings.Join(want, "|") {
			t.Errorf("systemd heard %q, want %q", said, want)
		}
	})
}

func TestWhatSystemdIsToldGoesToItsSocketAndNowhereWithoutOne(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := TellSystemd(t.Context(), &Health{}, quiet); err != nil { // returns though nothing has ended
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- TellSystemd(ctx, &Health{}, quiet) }()
	heard := func() string {
		b := make([]byte, 1000)
		_ = l.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := l.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	if got := heard(); !strings.HasPrefix(got, "READY=1\n") {
		t.Errorf("heard %q first", got)
	}
	cancel()
	if got := heard(); got != "STATUS=serves no more" {
		t.Errorf("heard %q at the end", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	TellSystemdWaits("for its turn", quiet)
	if got := heard(); got != "READY=1\nSTATUS=waits: for its turn" {
		t.Errorf("heard %q of one that waits", got)
	}
	l.Close()
	var b buffer
	ctx, cancel = context.WithCancel(t.Context())
	go func() { done <- TellSystemd(ctx, &Health{}, slog.New(slog.NewTextHandler(&b, nil))) }()
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := strings.Count(b.String(), "systemd not told"); got != 1 {
		t.Errorf("the log has it %d times, want once:\n%s", got, b.String())
	}
}
