package fence

import (
	"strings"
	"testing"
)

func TestGuardAnswerFitsItsLineAndComesBack(t *testing.T) {
	boot := "3b1c8f60-aaaa-4bbb-8ccc-00000000c0de"
	for _, a := range []GuardAnswer{{boot, AgentRunning, 0}, {boot, AgentStopped, 1000}, {boot, AgentDead, 7}} {
		line := a.String() + "\n"
		if len(line) > MaxGuardAnswer {
			t.Errorf("%q has %d bytes", line, len(line))
		}
		got, err := ParseGuardAnswer(line)
		a.BootID = strings.ReplaceAll(boot, "-", "")
		if err != nil || got != a {
			t.Errorf("got %+v, %v; want %+v", got, err, a)
		}
	}
}

func TestWhatIsNoGuardAnswerIsRefused(t *testing.T) {
	for _, line := range []string{
		"", "\n", "HTTP/1.1 400 Bad Request", "muster-guard/1 b running", "muster-guard/1 b walking 1", "muster-guard/1 b running -1",
		"muster-guard/1 b running x", "muster-guard/2 b running 1", "muster-guard/1 b running 1 " + strings.Repeat("x", 64),
	} {
		if a, err := ParseGuardAnswer(line); err == nil {
			t.Errorf("%q was read as %+v", line, a)
		}
	}
	if _, err := ParseGuardAnswer("muster-guard/1 b running 1 later words"); err != nil {
		t.Errorf("words of a later version: %v", err)
	}
}
