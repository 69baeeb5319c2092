package containertest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/container"
)

// The part of the suite that holds commands on somebody's streams.

func (s *suite) interact(ctx context.Context, id container.ContainerID, cmd container.Interaction) (code int32, stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &errs, []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	code, err = s.Interact(ctx, id, cmd)
	return code, out.String(), errs.String(), err
}

func interactOutputs(t *testing.T, s *suite) {
	s.pod(t)
	c := s.run(t, "main", 0, s.Forever)
	code, out, errs, err := s.interact(s.ctx, c.ID, container.Interaction{Argv: s.ExecOut})
	if err != nil || code != 7 || out != "out" || errs != "err" {
		t.Errorf("%d, %q, %q, %v; want 7, out and err apart", code, out, errs, err)
	}
}

func interactInput(t *testing.T, s *suite) {
	s.pod(t)
	c := s.run(t, "main", 0, s.Forever)
	text := strings.Repeat("a line of text, \x00 and what is none\n", 100_000) // more than any pipe holds
	code, out, errs, err := s.interact(s.ctx, c.ID, container.Interaction{Argv: s.Echo, Stdin: strings.NewReader(text)})
	if err != nil || code != 0 || out != text || errs != "end" {
		t.Errorf("%d, %d bytes of %d, %q, %v", code, len(out), len(text), errs, err)
	}
	code, out, errs, err = s.interact(s.ctx, c.ID, container.Interaction{Argv: s.Echo})
	if err != nil || code != 0 || out != "" || errs != "end" {
		t.Errorf("without input: %d, %q, %q, %v", code, out, errs, err)
	}
}

func interactTTY(t *testing.T, s *suite) {
	s.pod(t)
	c := s.run(t, "main", 0, s.Forever)
	sizes := make(chan container.TerminalSize, 1)
	sizes <- container.TerminalSize{Columns: 100, Rows: 30}
	code, out, errs, err := s.interact(s.ctx, c.ID, container.Interaction{Argv: s.TTY, TTY: true, Stdin: strings.NewReader(""), Sizes: sizes})
	if err != nil || code != 0 || strings.TrimSpace(out) != "yes" || errs != "" {
		t.Errorf("%d, %q, %q, %v; want a terminal of 100 columns", code, out, errs, err)
	}
	if code, out, _, err := s.interact(s.ctx, c.ID, container.Interaction{Argv: s.TTY}); err != nil || code != 0 || strings.TrimSpace(out) != "no" {
		t.Errorf("without one: %d, %q, %v", code, out, err)
	}
}

func interactCancelled(t *testing.T, s *suite) {
	s.pod(t)
	c := s.run(t, "main", 0, s.Forever)
	ctx, cancel := context.WithTimeout(s.ctx, 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, _, _, err := s.interact(ctx, c.ID, container.Interaction{Argv: s.ExecHang}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

func interactCannotStart(t *testing.T, s *suite) {
	s.pod(t)
	c := s.run(t, "main", 0, s.Forever)
	if _, _, _, err := s.interact(s.ctx, c.ID, container.Interaction{Argv: s.Missing}); !errors.Is(err, container.ErrCannotStart) {
		t.Errorf("got %v, want ErrCannotStart", err)
	}
}

func interactNotRunning(t *testing.T, s *suite) {
	s.pod(t)
	c := s.run(t, "main", 0, s.Exit3)
	s.end(t, c.ID)
	if _, _, _, err := s.interact(s.ctx, c.ID, container.Interaction{Argv: s.ExecOut}); !errors.Is(err, container.ErrNotRunning) {
		t.Errorf("got %v, want ErrNotRunning", err)
	}
	if _, _, _, err := s.interact(s.ctx, "process://other/main/0-1", container.Interaction{Argv: s.ExecOut}); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}
