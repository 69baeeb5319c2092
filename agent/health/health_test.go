package health

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/internal/spec"
)

var t0 = time.Unix(1000, 0)

func running(id string) Facts {
	return Facts{Instance: id, StartedAt: t0, Running: true, Started: true}
}

func tracker(k spec.ProbeKind, success, failure int32) Tracker {
	return New(k, &spec.Probe{SuccessThreshold: success, FailureThreshold: failure})
}

func TestRulesOfOneStep(t *testing.T) {
	const s, f, u = spec.ResultSuccess, spec.ResultFailure, spec.ResultUnknown
	for name, tc := range map[string]struct {
		kind    spec.ProbeKind
		observe []spec.Result
		want    spec.Result
		open    bool
	}{
		"5.3 liveness starts as success":                    {spec.Liveness, nil, s, true},
		"5.3 readiness starts as failure":                   {spec.Readiness, nil, f, true},
		"5.2.12 one failure too few changes nothing":        {spec.Liveness, []spec.Result{f, f}, s, true},
		"5.2.13 the threshold is met":                       {spec.Liveness, []spec.Result{f, f, f}, f, false},
		"5.4.1 one success between resets the run":          {spec.Liveness, []spec.Result{f, f, s, f, f}, s, true},
		"4.3 a discarded run counts for nothing":            {spec.Liveness, []spec.Result{f, f, u, f}, f, false},
		"4.4 liveness that only errs kills nothing":         {spec.Liveness, []spec.Result{u, u, u, u, u}, s, true},
		"4.4 readiness that only errs stays as it is":       {spec.Readiness, []spec.Result{s, s, u, u, u, u}, s, true},
		"5.2.10 a discarded run breaks no run":              {spec.Readiness, []spec.Result{s, u, s}, s, true},
		"5.2.12 one success too few":                        {spec.Readiness, []spec.Result{s}, f, true},
		"5.2.13 readiness after its successes":              {spec.Readiness, []spec.Result{s, s}, s, true},
		"5.3 readiness goes on probing after a failure":     {spec.Readiness, []spec.Result{s, s, f, f, f}, f, true},
		"5.2.5 liveness is on hold after a failing verdict": {spec.Liveness, []spec.Result{f, f, f, s}, f, false},
	} {
		t.Run(name, func(t *testing.T) {
			tr := tracker(tc.kind, 2, 3)
			if tc.kind == spec.Liveness {
				tr = tracker(tc.kind, 1, 3)
			}
			tr.See(running("a"), t0)
			for _, r := range tc.observe {
				tr.Observe(r, t0)
			}
			if tr.Verdict() != tc.want || tr.Open(t0) != tc.open {
				t.Errorf("verdict %v, open %v; want %v, %v", tr.Verdict(), tr.Open(t0), tc.want, tc.open)
			}
		})
	}
}

func TestStartupIsOnHoldAfterEitherVerdict(t *testing.T) {
	for _, r := range []spec.Result{spec.ResultSuccess, spec.ResultFailure} {
		tr := tracker(spec.Startup, 1, 1)
		f := running("a")
		f.Started = false
		tr.See(f, t0)
		if tr.Verdict() != spec.ResultUnknown || !tr.Open(t0) {
			t.Errorf("5.3: startup begins with %v, open %v; want unknown and open", tr.Verdict(), tr.Open(t0))
		}
		if !tr.Observe(r, t0) || tr.Open(t0) {
			t.Errorf("5.2.13: after %v startup is not on hold", r)
		}
	}
}

func TestGates(t *testing.T) {
	delayed := New(spec.Liveness, &spec.Probe{InitialDelay: 5 * time.Second, FailureThreshold: 1})
	delayed.See(running("a"), t0)
	if delayed.Open(t0.Add(4999*time.Millisecond)) || !delayed.Open(t0.Add(5*time.Second)) {
		t.Error("5.2.8: the initial delay counts from the container's start")
	}
	slow := New(spec.Liveness, &spec.Probe{InitialDelay: 5 * time.Second, FailureThreshold: 1})
	f := running("a")
	f.Started = false
	slow.See(f, t0)
	f.Started = true // long after its start
	if slow.See(f, t0.Add(20*time.Second)); !slow.Open(t0.Add(20 * time.Second)) {
		t.Error("5.3.1: the initial delay counts from the end of startup")
	}
	none := tracker(spec.Liveness, 1, 1)
	if none.Open(t0) {
		t.Error("5.2.1: asked before anything is known")
	}
	if none.See(Facts{Running: true, Started: true}, t0); none.Open(t0) {
		t.Error("5.2.3: asked without an instance")
	}
	live, start := tracker(spec.Liveness, 1, 1), tracker(spec.Startup, 1, 1)
	unstarted := running("a")
	unstarted.Started = false
	live.See(unstarted, t0)
	start.See(running("a"), t0)
	if live.Open(t0) || start.Open(t0) {
		t.Error("5.2.9 startup gate: liveness asks before started, or startup after")
	}
}

func TestANewInstanceStartsAfresh(t *testing.T) {
	tr := tracker(spec.Liveness, 1, 3)
	tr.See(running("a"), t0)
	tr.Observe(spec.ResultFailure, t0)
	tr.Observe(spec.ResultFailure, t0)
	tr.See(running("b"), t0)
	tr.Observe(spec.ResultFailure, t0)
	if tr.Verdict() != spec.ResultSuccess {
		t.Error("5.4.2, different on purpose: counters of the old instance count for the new one")
	}
	tr.Observe(spec.ResultFailure, t0)
	tr.Observe(spec.ResultFailure, t0)
	if tr.Open(t0) {
		t.Fatal("not on hold")
	}
	if !tr.See(running("c"), t0) || tr.Verdict() != spec.ResultSuccess || !tr.Open(t0) {
		t.Error("5.2.4: the hold or the verdict of the old instance stands for the new one")
	}
}

func TestAnInstanceFromBeforeTheAgentHasNoVerdictAtFirst(t *testing.T) {
	tr := tracker(spec.Readiness, 1, 1)
	f := running("a")
	f.Adopted = true
	tr.See(f, t0)
	if tr.Verdict() != spec.ResultUnknown {
		t.Errorf("11.2: verdict %v, want none", tr.Verdict())
	}
	if !tr.Observe(spec.ResultSuccess, t0) || tr.Verdict() != spec.ResultSuccess {
		t.Error("11.2: a full run gives the verdict")
	}
}

func TestAContainerThatHasEndedIsAFailure(t *testing.T) {
	tr := tracker(spec.Readiness, 1, 1)
	tr.See(running("a"), t0)
	tr.Observe(spec.ResultSuccess, t0)
	f := running("a")
	f.Running = false
	if !tr.See(f, t0) || tr.Verdict() != spec.ResultFailure || tr.Open(t0) {
		t.Errorf("5.2.6: verdict %v, open %v; want failure and shut", tr.Verdict(), tr.Open(t0))
	}
}

func TestNoVerdictFlipsWithoutAFullRun(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]spec.ProbeKind{spec.Liveness, spec.Readiness, spec.Startup}).Draw(t, "kind")
		success, failure := rapid.Int32Range(1, 4).Draw(t, "success"), rapid.Int32Range(1, 4).Draw(t, "failure")
		tr := tracker(kind, success, failure)
		f := running("a")
		f.Started = kind != spec.Startup
		tr.See(f, t0)
		var counted []spec.Result
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			r := rapid.SampledFrom([]spec.Result{spec.ResultSuccess, spec.ResultFailure, spec.ResultUnknown}).Draw(t, "result")
			before := tr.Verdict()
			changed := tr.Observe(r, t0)
			if r != spec.ResultUnknown {
				counted = append(counted, r)
			}
			if changed != (tr.Verdict() != before) {
				t.Fatalf("changed = %v, verdict %v after %v", changed, tr.Verdict(), before)
			}
			if !changed {
				continue
			}
			need := success
			if r == spec.ResultFailure {
				need = failure
			}
			if len(counted) < int(need) {
				t.Fatalf("%v after %d results, threshold %d", r, len(counted), need)
			}
			for _, c := range counted[len(counted)-int(need):] {
				if c != r {
					t.Fatalf("verdict %v after %v, threshold %d", r, counted, need)
				}
			}
		}
	})
}

func TestAFailingVerdictThatIsHeldGoesOnBeingAskedAndASuccessEndsIt(t *testing.T) {
	const s, f = spec.ResultSuccess, spec.ResultFailure
	tr := tracker(spec.Liveness, 1, 2)
	tr.See(running("a"), t0)
	tr.Observe(f, t0)
	tr.Observe(f, t0)
	held := running("a")
	held.Held = true
	if tr.See(held, t0) || !tr.Open(t0) || tr.Verdict() != f {
		t.Fatalf("held: open %v, verdict %v; want it asked, and failing", tr.Open(t0), tr.Verdict())
	}
	if tr.Observe(f, t0) || !tr.Open(t0) {
		t.Error("one more failure ends the asking")
	}
	if !tr.Observe(s, t0) || tr.Verdict() != s {
		t.Error("a success does not end the failing verdict")
	}
	tr.See(running("a"), t0)
	if tr.Observe(f, t0) || tr.Verdict() != s || !tr.Observe(f, t0) || tr.Open(t0) {
		t.Error("afterwards a verdict takes no full run, or does not end the asking")
	}
	tr.See(held, t0)
	if tr.See(running("a"), t0); tr.Open(t0) || tr.Verdict() != f {
		t.Error("let go, it is asked on")
	}
	if tr.See(running("b"), t0); !tr.Open(t0) || tr.Verdict() != s {
		t.Error("a new instance does not begin anew")
	}
}
