package membership

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
)

// logWriter turns memberlist's lines into records: its errors heal themselves, so they are warnings, and what it tells of
// its daily work is for debugging.
type logWriter struct{ log *slog.Logger }

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
	w.log.Log(context.Background(), level, "gossip", "says", strings.TrimPrefix(text, "memberlist: "))
	return len(line), nil
}
