package pod

import (
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// evidenceMachine is a machine of a pod with one container that has a liveness probe and runs.
func evidenceMachine(t *testing.T) (*Machine, Wanted, *Seen, time.Time) {
	t.Helper()
	p := &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: "web", UID: "u"}, Spec: spec.PodSpec{TerminationGrace: 30 * time.Second,
		Containers: []spec.Container{{Name: "c", Liveness: &spec.Probe{Period: time.Second, FailureThreshold: 3}}}}}
	now := time.Unix(1000, 0)
	s := &Seen{Known: true, Exists: true, CreatedAt: now, Instances: []Instance{{ID: "i0", Name: "c", Running: true, StartedAt: now}}}
	m := New(p, nil, nil, true)
	m.Decide(now, Wanted{Pod: p}, *s)
	return m, Wanted{Pod: p}, s, now
}

func TestWhatLedToAKillIsKeptWithTheEnd(t *testing.T) {
	m, w, s, now := evidenceMachine(t)
	m.Probe(ProbeNews{Container: "c", Kind: spec.Liveness, Instance: "i0", Outcome: spec.OutcomeFailure, Verdict: spec.ResultFailure})
	now = now.Add(10 * time.Second)
	plan := m.Decide(now, w, *s)
	want := Asked{Container: "c", Instance: "i0", Probe: spec.Liveness}
	if len(plan.Asked) != 1 || plan.Asked[0] != want {
		t.Fatalf("asked %+v, want %+v", plan.Asked, want)
	}
	var attempts []spec.Attempt
	for i := range spec.KeptEndAttempts + 3 {
		attempts = append(attempts, spec.Attempt{Start: now.Add(time.Duration(i)), Instance: "i0"})
	}
	m.Keep(plan.Asked[0], attempts, 0, time.Time{})
	mem := m.Memory() // the agent is killed here
	m = New(w.Pod, &mem, nil, true)
	in := s.Instances[0]
	in.Running, in.FinishedAt, in.ExitCode, in.Signal, in.Reason = false, now.Add(2*time.Second), 143, 15, "Error"
	s.Instances = []Instance{in}
	m.Decide(now.Add(3*time.Second), w, *s)
	e := m.Evidence(now.Add(3*time.Second), "c")
	if len(e.Ends) != 1 {
		t.Fatalf("%d ends are kept", len(e.Ends))
	}
	end := e.Ends[0]
	if end.Probe != spec.Liveness || end.Grace != 30*time.Second || !end.StopTime.Equal(now) || end.ExitCode != 143 || !strings.Contains(end.Why, "failed liveness probe") {
		t.Errorf("kept %+v", end)
	}
	if n := len(end.Attempts); n != spec.KeptEndAttempts || !end.Attempts[n-1].Start.Equal(attempts[len(attempts)-1].Start) {
		t.Errorf("%d attempts are kept, want the newest %d", n, spec.KeptEndAttempts)
	}
}

func TestTheLastThreeEndsAreKeptOnceEachAndTheMemoryOfThoseThatLackedIt(t *testing.T) {
	m, w, s, now := evidenceMachine(t)
	for i := range int32(5) {
		id := string(rune('a' + i))
		now = now.Add(time.Hour)
		s.Instances = []Instance{{ID: id, Name: "c", Attempt: i + 1, StartedAt: now, FinishedAt: now.Add(time.Second), ExitCode: 137, Signal: 9, Reason: "OOMKilled"}}
		asked := 0
		for range 3 { // it is listed again and again
			plan := m.Decide(now.Add(2*time.Second), w, *s)
			for _, a := range plan.Asked {
				asked++
				m.Keep(a, nil, int64(i+1)<<20, now)
			}
		}
		if asked != 1 {
			t.Errorf("end %d: asked %d times", i, asked)
		}
	}
	ends := m.Evidence(now, "c").Ends
	if len(ends) != spec.KeptEnds {
		t.Fatalf("%d ends are kept", len(ends))
	}
	for i, e := range ends {
		if want := int32(i + 3); e.Attempt != want || e.MemoryBytes != int64(want)<<20 {
			t.Errorf("end %d: %+v, want attempt %d", i, e, want)
		}
	}
}

func TestEvidenceSaysWhenAContainerStartsAgain(t *testing.T) {
	m, w, s, now := evidenceMachine(t)
	m.containers["c"].Backoff = Backoff{Delay: 40 * time.Second, Stamp: now}
	in := s.Instances[0]
	in.Running, in.FinishedAt, in.ExitCode = false, now.Add(10*time.Second), 1
	s.Instances = []Instance{in}
	m.Decide(now.Add(11*time.Second), w, *s)
	e := m.Evidence(now.Add(20*time.Second), "c")
	if want := now.Add(50 * time.Second); !e.RestartTime.Equal(want) || e.Backoff != 40*time.Second {
		t.Errorf("restart at %v after %v, want %v after 40s", e.RestartTime, e.Backoff, want)
	}
}
