package loadtest

import (
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/session"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/clientconfig"
	"github.com/musterhq/muster/internal/spec"
)

func TestAVerdictThatWasRightAndIsNotIsAFlip(t *testing.T) {
	const unknown, failure, success = musterv1.ProbeResult_PROBE_RESULT_UNKNOWN, musterv1.ProbeResult_PROBE_RESULT_FAILURE, musterv1.ProbeResult_PROBE_RESULT_SUCCESS
	for name, c := range map[string]struct {
		saw                         []musterv1.ProbeResult
		each                        time.Duration
		late, flips, missing, wrong int
	}{
		"nothing is told":                {missing: 1, wrong: 1},
		"unknown, then right":            {saw: []musterv1.ProbeResult{unknown, success}},
		"right twice":                    {saw: []musterv1.ProbeResult{success, success}},
		"failing first":                  {saw: []musterv1.ProbeResult{failure, success}, flips: 1},
		"unknown again":                  {saw: []musterv1.ProbeResult{success, unknown, success}, flips: 1},
		"failing, and it stays so":       {saw: []musterv1.ProbeResult{success, failure}, flips: 1, wrong: 1},
		"right after more than a period": {saw: []musterv1.ProbeResult{unknown, unknown, success}, each: 4 * time.Second, late: 1},
		"only unknown":                   {saw: []musterv1.ProbeResult{unknown, unknown}, missing: 1, wrong: 1},
	} {
		j := newJudge(10*time.Second, 1)
		for i, v := range c.saw {
			j.saw(probeKey{uid: "a"}, v, time.Duration(i+1)*c.each)
		}
		if j.late != c.late || j.flips != c.flips || j.missing() != c.missing || j.wrong() != c.wrong {
			t.Errorf("%s: late %d, flips %d, missing %d, wrong %d", name, j.late, j.flips, j.missing(), j.wrong())
		}
	}
}

func TestAnAgentWithoutAnAcknowledgementWithinTheLeaseIsLate(t *testing.T) {
	killed := time.Unix(1000, 0)
	at := func(s int) time.Time { return killed.Add(time.Duration(s) * time.Second) }
	for name, c := range map[string]struct {
		first []time.Time
		last  time.Duration
		late  int
	}{
		"all in time":         {[]time.Time{at(1), at(10)}, 10 * time.Second, 0},
		"one late":            {[]time.Time{at(1), at(11)}, 11 * time.Second, 1},
		"one never":           {[]time.Time{at(3), {}}, 3 * time.Second, 1},
		"none at all":         {[]time.Time{{}}, 0, 1},
		"there are no agents": {nil, 0, 0},
	} {
		if last, late := acknowledged(c.first, killed, 10*time.Second); last != c.last || late != c.late {
			t.Errorf("%s: last %v, late %d", name, last, late)
		}
	}
}

func TestWhatChurnRollsOutAndLosesIsBounded(t *testing.T) {
	given := &clientconfig.Context{}
	for name, c := range map[string]struct {
		job                   fleetJob
		rolling, losing, room int
	}{
		"the largest":         {fleetJob{Agents: MaxFleetAgents, Pods: 30, Churn: true}, mostDeployed, 100, 33},
		"the smallest":        {fleetJob{Agents: 1, Pods: 1, Churn: true}, 1, 0, 1},
		"a few":               {fleetJob{Agents: 20, Pods: 3, Churn: true}, 6, 1, 4},
		"without churn":       {fleetJob{Agents: 20, Pods: 3}, 0, 0, 3},
		"given a coordinator": {fleetJob{Agents: 20, Pods: 3, Churn: true, Given: given}, 0, 0, 3},
	} {
		f := &fleet{job: &c.job}
		if f.rolling() != c.rolling || f.losing() != c.losing || f.room() != c.room {
			t.Errorf("%s: rolls out %d, loses %d, takes %d each", name, f.rolling(), f.losing(), f.room())
		}
	}
}

func TestAnAcknowledgementOfASessionFromBeforeTheKillDoesNotCount(t *testing.T) {
	l := &simulatedLease{}
	_, _ = l.Hello()
	l.expect()
	l.Acked(1, 5, leaseTTL)
	if !l.again().IsZero() {
		t.Error("the old session's counts")
	}
	_, _ = l.Hello()
	l.Acked(2, 0, leaseTTL)
	if l.again().IsZero() {
		t.Error("the new session's does not count")
	}
}

func TestASimulatedPodEndsWhenItIsDeletedOrStopped(t *testing.T) {
	for name, c := range map[string]struct {
		end     func(*session.Assigned)
		stopped bool
	}{
		"nothing": {func(*session.Assigned) {}, false},
		"deleted": {func(a *session.Assigned) { a.Pod.DeleteTime = time.Now() }, true},
		"stopped": {func(a *session.Assigned) { a.Stop = true }, true},
	} {
		p := &simulatedPods{held: map[string]spec.HeldStatus{}, more: make(chan struct{}, 1), believe: func(spec.ProbeState) {}}
		assign := func(end func(*session.Assigned)) {
			a := session.Assigned{Pod: &spec.Pod{Meta: spec.Meta{UID: "a"}}, Epoch: 1}
			end(&a)
			p.Assign(session.Assignments{Assigned: []session.Assigned{a}})
		}
		assign(func(*session.Assigned) {})
		assign(c.end)
		if s := p.held["a"]; s.Stopped != c.stopped {
			t.Errorf("%s: stopped %v, want %v", name, s.Stopped, c.stopped)
		}
	}
}

func TestASteadyFleetWritesNothingAndComesBackWithoutFlips(t *testing.T) {
	t.Parallel()
	cfg := ingestConfig()
	cfg.Agents, cfg.Period, cfg.TempDir = 20, 2*time.Second, t.TempDir()
	cfg.Pods = 3
	test, err := NewFleet(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r, err := test.Run(t.Context(), func(IngestProgress) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range r.Table() {
		t.Log(strings.Join(row, " | "))
	}
	if len(r.Runs) != 1 || r.Writes != 0 || r.ChangeToWatcher == nil || r.ChangeToWatcher.P50 <= 0 {
		t.Errorf("steady: %+v", r)
	}
	if c := r.Churn; c == nil || c.Replaced < 1 || c.Replaced > c.Offered || c.Cuts < 1 || c.Writes <= 0 {
		t.Errorf("churn: %+v", c)
	}
	if c := r.Churn; c != nil && (c.Rolled != 6 || c.RolledIn == nil || *c.RolledIn <= 0 || c.Lost != 1 || c.Left < 3 || c.LeftIn == nil || *c.LeftIn < 500) {
		t.Errorf("rollout and losses: %+v", c)
	}
	s := r.Restart
	if s == nil || s.Flips != 0 || s.NodeFlips != 0 || s.Missing != 0 || s.LateAcks != 0 || s.LastAck <= 0 || s.LastVerdict <= 0 {
		t.Errorf("restart: %+v", s)
	}
}
