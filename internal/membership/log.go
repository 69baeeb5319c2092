package membership

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// logWriter turns memberlist's lines into records: its errors heal themselves, so they are warnings, and what it tells of
// its daily work is for debugging.
//
// What strangers send to the port is told of too, so a minute has room for maxLines lines that people see; the next
// minute's first line says how many were left out.
type logWriter struct {
	log *slog.Logger

	mu     sync.Mutex
	minute time.Time
	lines  int
}

// maxLines bounds the lines of a minute at levels above debug.
const maxLines = 10

// admit tells whether one more line may be shown, and how many were left out before it.
func (w *logWriter) admit(now time.Time) (ok bool, left int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now.Sub(w.minute) >= time.Minute {
		left = max(0, w.lines-maxLines)
		w.minute, w.lines = now, 0
	}
	w.lines++
	return w.lines <= maxLines, left
}

func (w *logWriter) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	level := slog.LevelDebug
	switch {
	case strings.HasPrefix(text, "[ERR]"):
		level = slog.LevelWarn
		// One a probe while a member is down, which is reported as a change.
		for _, chatter := range []string{"Failed fallback TCP ping", "Failed to send", "Push/Pull with", "Conflicting address"} {
			if strings.Contains(text, chatter) {
				level = slog.LevelDebug
			}
		}
	case strings.HasPrefix(text, "[WARN]"):
		level = slog.LevelInfo
		if strings.Contains(text, "Refuting") || strings.Contains(text, "Got ping for unexpected node") {
			level = slog.LevelDebug
		}
	}
	if _, rest, ok := strings.Cut(text, "] "); ok && strings.HasPrefix(text, "[") {
		text = rest
	}
	says := []any{"says", strings.TrimPrefix(text, "memberlist: ")}
	if level > slog.LevelDebug {
		ok, left := w.admit(time.Now())
		if !ok {
			level = slog.LevelDebug
		} else if left > 0 {
			says = append(says, "left_out", left)
		}
	}
	w.log.Log(context.Background(), level, "gossip", says...)
	return len(line), nil
}
