package probe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

func command(timeout time.Duration, argv ...string) *Question {
	return &Question{Probe: &spec.Probe{Timeout: timeout, Handler: spec.Handler{Exec: &spec.ExecAction{Command: argv}}}}
}

func TestALocalCommandIsJudgedLikeOneInAContainer(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "healthy"), []byte("#!/bin/sh\necho $WHO in $(pwd)\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	l := Local{Env: []string{"PATH=/nowhere", "WHO=me", "PATH=" + dir + ":/usr/bin:/bin"}, Dir: dir}
	for name, tc := range map[string]struct {
		argv   []string
		want   spec.Outcome
		output string
	}{
		"3.2.2 exit 0":                    {[]string{"sh", "-c", "echo err >&2; echo out"}, spec.OutcomeSuccess, "out\nerr\n"},
		"3.2.2 exit 3":                    {[]string{"sh", "-c", "echo bad; exit 3"}, spec.OutcomeFailure, "bad\n"},
		"3.2.2 death by signal":           {[]string{"sh", "-c", "kill -9 $$"}, spec.OutcomeFailure, ""},
		"3.2.4 missing binary":            {[]string{"no-such-program"}, spec.OutcomeErrored, "no-such-program: cannot start: executable file not found in $PATH"},
		"3.2.4 missing file":              {[]string{"/no/such"}, spec.OutcomeErrored, "/no/such: cannot start: fork/exec /no/such: no such file or directory"},
		"3.2.3 output is cut":             {[]string{"sh", "-c", "head -c 20000 /dev/zero | tr '\\0' x"}, spec.OutcomeSuccess, strings.Repeat("x", MaxOutput)},
		"3.2.5 a child holds the pipe":    {[]string{"sh", "-c", "sleep 3 & echo bad; exit 1"}, spec.OutcomeFailure, "bad\n"},
		"its own environment, and PATH":   {[]string{"healthy"}, spec.OutcomeSuccess, "me in " + dir + "\n"},
		"relative to its own directory":   {[]string{"./healthy"}, spec.OutcomeSuccess, "me in " + dir + "\n"},
		"nothing to read from the caller": {[]string{"cat"}, spec.OutcomeSuccess, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			got := New(l).Attempt(t.Context(), command(10*time.Second, tc.argv...))
			if got.Outcome != tc.want || got.Output != tc.output {
				t.Errorf("got %v %.200q, want %v %.200q", got.Outcome, got.Output, tc.want, tc.output)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("after %v", took)
			}
		})
	}
}

func TestALocalCommandThatHangsIsKilledWithAllItStarted(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	start := time.Now()
	got := New(Local{Env: os.Environ(), Dir: "/"}).Attempt(t.Context(), command(300*time.Millisecond, "sh", "-c", "(sleep 1; touch "+mark+") & wait"))
	if got.Outcome != spec.OutcomeFailure || !strings.HasSuffix(got.Output, "timed out after 300ms") {
		t.Errorf("got %v %q", got.Outcome, got.Output)
	}
	if took := time.Since(start); took < 300*time.Millisecond || took > 900*time.Millisecond {
		t.Errorf("after %v, want 0.3 s", took)
	}
	<-time.After(1200*time.Millisecond - time.Since(start))
	if _, err := os.Stat(mark); err == nil {
		t.Error("what it started has gone on")
	}
}
