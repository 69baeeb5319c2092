package history

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

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
	h := New(nil)
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
	h := New(nil)
	h.Add(id, spec.Attempt{Output: strings.Repeat("x", MaxOutput+1)})
	h.Add(id, spec.Attempt{Output: "short"})
	if got := h.Last(id, 2); len(got[0].Output) != MaxOutput || got[1].Output != "short" {
		t.Errorf("%d bytes, then %q", len(got[0].Output), got[1].Output)
	}
}

func TestAForgottenProbeLeavesNothingBehindAndNoOtherGoes(t *testing.T) {
	h := New(nil)
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
	h := New(nil)
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
	h := New(nil)
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

// However attempts come and go, what is told of them is what was added, and texts that nobody has take no room.
func TestWhatIsToldIsWhatWasAdded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := New(nil)
		ids := []spec.ProbeID{{PodUID: "u"}, {PodUID: "v"}, {PodUID: "w", Kind: spec.Startup}}
		added := map[spec.ProbeID][]spec.Attempt{}
		second, instances := int64(0), map[spec.ProbeID]int{}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			id := rapid.SampledFrom(ids).Draw(t, "probe")
			if rapid.IntRange(0, 60).Draw(t, "forget") == 0 {
				h.Forget(id)
				delete(added, id)
				continue
			}
			if rapid.IntRange(0, 3).Draw(t, "restart") == 0 {
				instances[id]++
			}
			second++
			a := spec.Attempt{
				Start: time.Unix(second, second), Outcome: spec.OutcomeFailure, Result: spec.ResultFailure,
				Duration: time.Duration(rapid.IntRange(0, 1<<20).Draw(t, "took")) * time.Microsecond, CPU: -1, Lag: -1,
				Instance: fmt.Sprint(instances[id]), Output: rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "output"),
			}
			if rapid.Bool().Draw(t, "measured") {
				a.CPU, a.Lag = 3*time.Microsecond, 0
			}
			h.Add(id, a)
			added[id] = append(added[id], a)
		}
		texts := map[string]bool{}
		for _, id := range ids {
			want := added[id][max(0, len(added[id])-Keep):]
			for _, a := range want {
				if a.Output != "" {
					texts[a.Output] = true
				}
			}
			if diff := cmp.Diff(want, h.Last(id, 100), cmpopts.EquateEmpty()); diff != "" {
				t.Fatal(diff)
			}
		}
		if len(h.outputs.numbers) != len(texts) || h.outputs.bytes != len(texts) {
			t.Fatalf("%d texts in %d bytes, want %d", len(h.outputs.numbers), h.outputs.bytes, len(texts))
		}
	})
}

func TestOutputsOfANodeAreBounded(t *testing.T) {
	h := New(nil)
	long := strings.Repeat("x", MaxOutput-8)
	probe := func(i int) spec.ProbeID { return spec.ProbeID{PodUID: fmt.Sprint(i / Keep)} }
	for i := range MaxOutputs/MaxOutput + 100 {
		h.Add(probe(i), spec.Attempt{Output: fmt.Sprintf("%08d", i) + long})
	}
	if got := h.Last(probe(0), 1)[0].Output; !strings.HasPrefix(got, "0000") {
		t.Errorf("the first: %.20q", got)
	}
	last := probe(MaxOutputs/MaxOutput + 99)
	if got := h.Last(last, 1)[0].Output; got != LostOutput {
		t.Errorf("the last: %.20q", got)
	}
	h.Forget(probe(0))
	h.Add(last, spec.Attempt{Output: "there is room again"})
	if got := h.Last(last, 1)[0].Output; got != "there is room again" {
		t.Errorf("after some have gone: %.20q", got)
	}
}

func BenchmarkAdd(b *testing.B) {
	h := New(nil)
	ids := make([]spec.ProbeID, 10000)
	for i := range ids {
		ids[i] = spec.ProbeID{PodUID: fmt.Sprint(i), Container: "c"}
	}
	a := spec.Attempt{Start: time.Unix(1, 0), Outcome: spec.OutcomeSuccess, Output: "ok", Instance: "process://u/c/0-1"}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		h.Add(ids[i%len(ids)], a)
	}
}
