package history

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

var id = spec.ProbeID{PodUID: "u", Container: "c", Kind: spec.Liveness}

func starts(as []spec.Attempt) (text string) {
	for _, a := range as {
		text += fmt.Sprint(a.Start.Unix(), " ")
	}
	return text
}

func TestTheNewestAttemptsAreKeptOldestFirst(t *testing.T) {
	h := New()
	if got := h.Last(id, 5); len(got) != 0 {
		t.Errorf("of an unknown probe: %v", got)
	}
	for i := range 3 {
		h.Add(id, spec.Attempt{Start: time.Unix(int64(i), 0)})
	}
	for n, want := range map[int]string{0: "", 2: "1 2 ", 3: "0 1 2 ", 100: "0 1 2 "} {
		if got := starts(h.Last(id, n)); got != want {
			t.Errorf("last %d: %q, want %q", n, got, want)
		}
	}
	for i := range 3 * Keep {
		h.Add(id, spec.Attempt{Start: time.Unix(int64(i), 0)})
	}
	if got := h.Last(id, 10*Keep); len(got) != Keep || got[0].Start.Unix() != 2*Keep || got[Keep-1].Start.Unix() != 3*Keep-1 {
		t.Errorf("%d kept: %s", len(got), starts(got))
	}
}

func TestOutputsAreCutToTheirBound(t *testing.T) {
	h := New()
	h.Add(id, spec.Attempt{Output: strings.Repeat("x", MaxOutput+1)})
	h.Add(id, spec.Attempt{Output: "short"})
	if got := h.Last(id, 2); len(got[0].Output) != MaxOutput || got[1].Output != "short" {
		t.Errorf("%d bytes, then %q", len(got[0].Output), got[1].Output)
	}
}

func TestAForgottenProbeLeavesNothingBehindAndNoOtherGoes(t *testing.T) {
	h := New()
	other := id
	other.Kind = spec.Readiness
	h.Add(id, spec.Attempt{})
	h.Add(other, spec.Attempt{})
	h.Forget(id)
	if len(h.Last(id, 1)) != 0 || len(h.Last(other, 1)) != 1 || len(h.rings) != 1 {
		t.Errorf("%d probes are kept", len(h.rings))
	}
}

func TestWhatWasReadIsNotOverwritten(t *testing.T) {
	h := New()
	h.Add(id, spec.Attempt{Start: time.Unix(1, 0)})
	got := h.Last(id, 1)
	for i := range Keep {
		h.Add(id, spec.Attempt{Start: time.Unix(int64(100+i), 0)})
	}
	if got[0].Start.Unix() != 1 {
		t.Errorf("it became %v", got[0].Start)
	}
}

func TestWhatAttemptsHaveCostIsKeptLongerThanTheyAre(t *testing.T) {
	h := New()
	for range 10 * Keep {
		h.Add(id, spec.Attempt{CPU: time.Millisecond})
		h.Add(id, spec.Attempt{CPU: -1})
	}
	if cpu, n := h.Spent(id); cpu != 10*Keep*time.Millisecond || n != 10*Keep {
		t.Errorf("%v in %d attempts, want %v in %d", cpu, n, 10*Keep*time.Millisecond, 10*Keep)
	}
	h.Forget(id)
	if cpu, n := h.Spent(id); cpu != 0 || n != 0 {
		t.Errorf("of a probe that is forgotten: %v in %d attempts", cpu, n)
	}
}
