package spec

import (
	"slices"
	"time"
)

// Hook is what is done at a moment of a container's life; exactly one is set.
type Hook struct {
	// Exec runs a command in the container; $(NAME) is not expanded.
	Exec *ExecAction
	// HTTP sends a GET, to which any answer will do.
	HTTP *HTTPAction
	// Sleep waits.
	Sleep *SleepAction
}

// SleepAction waits.
type SleepAction struct {
	// Duration is at least 0 and at most the pod's grace period.
	Duration time.Duration
}

func (h *Hook) clone() *Hook {
	if h == nil {
		return nil
	}
	out := *h
	if h.Exec != nil {
		out.Exec = &ExecAction{Command: slices.Clone(h.Exec.Command)}
	}
	if h.HTTP != nil {
		out.HTTP = clonePtr(h.HTTP)
		out.HTTP.Headers = slices.Clone(h.HTTP.Headers)
	}
	out.Sleep = clonePtr(h.Sleep)
	return &out
}

func (a *HTTPAction) setDefaults() {
	if a == nil {
		return
	}
	if a.Path == "" {
		a.Path = "/"
	}
	if a.Scheme == "" {
		a.Scheme = "HTTP"
	}
	if a.Protocol == ProtocolHTTP1 {
		a.Protocol = ""
	}
}
