package telemetry

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// The checks are asked so often for systemd's status, the second while one of them fails.
const (
	statusEvery = 30 * time.Second
	failedEvery = time.Second
)

// TellSystemd tells systemd that the server serves, and what the checks say (systemctl status shows it), until ctx ends. It
// returns then, or at once where no systemd listens (NOTIFY_SOCKET). A message that does not get through is logged once:
// nothing depends on it but the unit's start. What serves anew after an outage may tell it again.
func TellSystemd(ctx context.Context, h *Health, log *slog.Logger) error {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	warned := false
	tell(ctx, h, func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil && !warned {
			warned = true
			log.Warn("systemd not told", "err", err)
		}
	})
	return nil
}

// TellSystemdWaits tells systemd that the server has started and waits for its turn, which may take for ever; what says for
// what. Without it systemd would take the unit's start for failed.
func TellSystemdWaits(what string, log *slog.Logger) {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady+"\nSTATUS=waits: "+what); err != nil {
		log.Warn("systemd not told", "err", err)
	}
}

// tell sends what has changed.
func tell(ctx context.Context, h *Health, send func(state string)) {
	said := ""
	for {
		wait := failedEvery
		ok, lines := h.Ready(ctx)
		if ok {
			wait = statusEvery
		}
		switch status := "STATUS=serves: " + strings.Join(lines, ", "); {
		case ctx.Err() != nil:
		case said == "":
			send(daemon.SdNotifyReady + "\n" + status)
			said = status
		case status != said:
			send(status)
			said = status
		}
		select {
		case <-ctx.Done():
			send("STATUS=serves no more") // not STOPPING=1, after which systemd lets nothing begin anew
			return
		case <-time.After(wait):
		}
	}
}
