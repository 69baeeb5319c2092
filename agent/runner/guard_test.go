package runner_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/runner"
	"github.com/musterhq/muster/internal/spec"
)

// replica is an assigned pod of the Deployment "site" with a liveness probe; its epoch is 1.
func replica(uid string) runner.Assigned {
	p := pod(uid)
	p.Owner = &spec.OwnerRef{Kind: "Deployment", Name: "site", UID: "d"}
	p.Spec.Containers[0].Liveness = &spec.Probe{Handler: spec.Handler{TCP: &spec.TCPAction{}}, Period: time.Second}
	a := fast(p, 1)
	a.Guarded = true
	return a
}

// fail says that the liveness of a pod's newest instance fails, or no more.
func (b *bench) fail(uid string, fails bool) {
	b.t.Helper()
	b.mu.Lock()
	row := b.rows[spec.ProbeID{PodUID: uid, Container: "web", Kind: spec.Liveness}]
	b.mu.Unlock()
	rep := runner.ProbeReport{ID: row.ID, Instance: row.Instance, Outcome: spec.OutcomeSuccess, Verdict: spec.ResultSuccess}
	if fails {
		rep.Outcome, rep.Verdict = spec.OutcomeFailure, spec.ResultFailure
	}
	b.r.Report(rep)
	b.settle(10 * time.Millisecond)
}

// words returns what the runner has to say, new or of all pods, in the pods' order.
func (b *bench) words(all bool) []spec.RestartWord {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Millisecond)
	defer cancel()
	words, _ := b.r.NextRestarts(ctx, all)
	slices.SortFunc(words, func(a, b spec.RestartWord) int { return strings.Compare(a.UID, b.UID) })
	return words
}

func (b *bench) word(uid string) (found spec.RestartWord) {
	b.t.Helper()
	for _, w := range b.words(true) {
		if w.UID == uid {
			return w
		}
	}
	b.t.Fatalf("nothing is said of pod %s", uid)
	return found
}

func guard(uid string, version uint64, allowed bool) spec.PodGuard {
	return spec.PodGuard{UID: uid, Epoch: 1, Allowed: allowed, Version: version, ReleaseAfter: 10 * time.Minute}
}

func TestAGuardedPodIsRestartedWhenItIsAllowedAndSaysSo(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.full(1, replica("a"), replica("b"))
		b.r.Guard([]spec.PodGuard{guard("a", 7, true), guard("b", 0, false)})
		b.settle(time.Second)
		if got := b.words(true); len(got) != 2 || !got[0].Allowed || got[0].Version != 7 || got[1].Allowed || got[0].Restarted {
			t.Errorf("at first: %+v", got)
		}
		b.fail("a", true)
		b.fail("b", true)
		got := b.words(false)
		if len(got) != 2 || !got[0].Restarted || got[0].Live || got[0].Held || !got[1].Held || got[1].Restarted {
			t.Errorf("when both fail: %+v, want a restarted and b held", got)
		}
		if b.words(false) != nil {
			t.Error("it is said twice")
		}
		b.settle(30 * time.Second)
		if w := b.word("a"); w.Ago < 29*time.Second || w.Ago > 31*time.Second {
			t.Errorf("restarted %v ago, want half a minute", w.Ago)
		}
		b.r.Guard([]spec.PodGuard{guard("a", 8, false), guard("b", 9, true)})
		b.settle(time.Second)
		if w := b.word("b"); !w.Restarted || w.Held || w.Version != 9 || b.calls("StartContainer") != 4 {
			t.Errorf("allowed at last: %+v, %d starts", w, b.calls("StartContainer"))
		}
		b.fail("a", false)
		b.fail("a", true)
		if w := b.word("a"); !w.Live || !w.Held || w.Allowed || w.Version != 8 {
			t.Errorf("failing again after it was live: %+v", w)
		}
		b.r.Guard(nil)
		b.settle(time.Minute) // of which the back-off takes some
		if b.calls("StartContainer") != 5 || len(b.words(true)) != 0 {
			t.Errorf("the guard is off: %d starts, %+v said", b.calls("StartContainer"), b.words(true))
		}
	})
}

func TestAPodWithoutAGuardIsRestartedAtOnce(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		a := replica("a")
		a.Guarded = false
		b.full(1, a)
		b.settle(time.Second)
		b.fail("a", true)
		if b.calls("StartContainer") != 2 || len(b.words(true)) != 0 {
			t.Errorf("%d starts, %+v said", b.calls("StartContainer"), b.words(true))
		}
	})
}

func TestWithoutACoordinatorTheAllowanceStaysAndHeldOnesAreLetGoSlowly(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.full(1, replica("a"), replica("b"), replica("c"))
		b.r.Guard([]spec.PodGuard{guard("a", 1, true), guard("b", 0, false), guard("c", 0, false)})
		b.settle(time.Second)
		b.r.CutOff()
		b.settle(time.Hour)
		for _, uid := range []string{"a", "b", "c"} {
			b.fail(uid, true)
		}
		starts := func(want int, when string) {
			t.Helper()
			if n := b.calls("StartContainer"); n != want {
				t.Fatalf("%s: %d starts, want %d", when, n, want)
			}
		}
		starts(4, "what is allowed is restarted")
		b.settle(9*time.Minute + 55*time.Second)
		starts(4, "before 10 minutes")
		b.settle(10 * time.Second)
		starts(5, "after 10 minutes one is let go")
		b.settle(9 * time.Minute)
		starts(5, "and no other")
		b.settle(time.Minute)
		starts(6, "but 10 minutes later")
		// It was for one restart: b fails again, and c.
		b.fail("b", true)
		b.settle(time.Minute)
		starts(6, "failing again")
		b.r.Guard([]spec.PodGuard{guard("a", 1, true), guard("b", 0, false), guard("c", 0, false)})
		b.settle(time.Hour)
		starts(6, "with a coordinator it alone lets go")
		if w := b.word("b"); !w.Restarted || !w.Held {
			t.Errorf("what was restarted meanwhile is not said: %+v", w)
		}
	})
}

func TestAnAgentThatStartsWithoutACoordinatorKnowsThatPodsAreGuarded(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.full(1, replica("a"), fast(pod("bare"), 2))
		b.r.Guard([]spec.PodGuard{guard("a", 1, true)})
		b.settle(time.Second)
		b.fail("a", true)
		b.settle(time.Minute)
		b.stop()
		b.start()
		b.settle(time.Second)
		if w := b.word("a"); w.Allowed || w.Version != 0 || !w.Restarted || w.Ago < time.Minute || w.Ago > 62*time.Second {
			t.Errorf("%+v, want that it was restarted a minute ago and may not be now", w)
		}
		starts := b.calls("StartContainer")
		b.fail("a", true)
		b.settle(time.Minute)
		if n := b.calls("StartContainer"); n != starts {
			t.Error("it was restarted, though nobody has allowed it")
		}
	})
}
