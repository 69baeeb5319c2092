package prober

import (
	"context"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/agent/probe"
	"github.com/musterhq/muster/internal/spec"
)

// What is no UTF-8 fits into no message: a session would end at it, each time anew.
func TestAnOutputIsTextHoweverItIsCut(t *testing.T) {
	for name, output := range map[string]string{
		"binary": "\xff\xfe\x00", "cut within a character": strings.Repeat("x", maxOutput-1) + "é", "nothing but binary": strings.Repeat("\xffa", maxOutput),
	} {
		t.Run(name, func(t *testing.T) {
			attempt := func(context.Context, *probe.Question) probe.Answer {
				return probe.Answer{Outcome: spec.OutcomeErrored, Output: output, CPU: -1}
			}
			r := probing(t, time.Second, attempt, func(r *recorder) { r.Set(live("p", time.Second)) })
			last := r.states[len(r.states)-1]
			for _, s := range []string{r.reports[0].Output, last.Last.Output, last.ErroredReason} {
				if !utf8.ValidString(s) || s == "" || len(s) > maxOutput {
					t.Errorf("%d bytes: %.20q", len(s), s)
				}
			}
		})
	}
	rapid.Check(t, func(t *rapid.T) {
		in := string(rapid.SliceOfN(rapid.Byte(), 0, 2*maxOutput).Draw(t, "output"))
		switch got := text(in); {
		case !utf8.ValidString(got) || len(got) > maxOutput:
			t.Errorf("%q", got)
		case utf8.ValidString(in) && !strings.HasPrefix(in, got):
			t.Errorf("%q is no beginning of %q", got, in)
		}
	})
}
