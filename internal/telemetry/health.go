package telemetry

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// checkTimeout is how long the checks of one request may take, all together.
const checkTimeout = 2 * time.Second

// Health has the checks that say whether a server is ready. It is safe for concurrent use; the zero value has none and
// is ready.
type Health struct {
	mu     sync.Mutex
	checks []check
}

type check struct {
	name string
	ask  func(context.Context) error
}

// Check adds a named check, or replaces the one of that name. ask is called with every request for readiness, together
// with the others, and says what is wrong, in one line, or nil. It should end with its context.
func (h *Health) Check(name string, ask func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := check{name, ask}
	i := slices.IndexFunc(h.checks, func(c check) bool { return c.name == name })
	if i >= 0 {
		h.checks[i] = c
		return
	}
	h.checks = append(h.checks, c)
}

// Ready asks all checks and returns a line for each, in the order in which they were added: "[+]store ok" or
// "[-]store: READ-ONLY". One that takes longer than 2 s has failed.
func (h *Health) Ready(ctx context.Context) (ok bool, lines []string) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	h.mu.Lock()
	checks := slices.Clone(h.checks)
	h.mu.Unlock()
	answers := make([]chan error, len(checks))
	for i, c := range checks {
		answers[i] = make(chan error, 1)
		go func() { answers[i] <- c.ask(ctx) }() // one that hangs ends when its part does
	}
	ok = true
	for i, c := range checks {
		var err error
		select {
		case err = <-answers[i]:
		case <-ctx.Done():
			err = fmt.Errorf("no answer within %v", checkTimeout)
		}
		if err != nil {
			ok = false
			lines = append(lines, fmt.Sprintf("[-]%s: %s", c.name, strings.ReplaceAll(err.Error(), "\n", " ")))
			continue
		}
		lines = append(lines, fmt.Sprintf("[+]%s ok", c.name))
	}
	return ok, lines
}

// live says that the process serves.
func live(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, "ok")
}

// ready says whether the server is, and why not: status 200 or 503.
func (h *Health) ready(w http.ResponseWriter, r *http.Request) {
	ok, lines := h.Ready(r.Context())
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	for _, line := range lines {
		fmt.Fprintln(w, line)
	}
	if ok {
		fmt.Fprintln(w, "ready")
	} else {
		fmt.Fprintln(w, "not ready")
	}
}
