package failover

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/internal/spec"
)

const (
	ms    = time.Millisecond
	sec   = time.Second
	grace = 10 * sec
)

// fleet drives a Tracker: signs are kept from one look to the next, and what Decide stores is stored.
type fleet struct {
	Tracker
	now    time.Duration
	nodes  []Signs
	silent map[string]bool // nodes that say nothing from now on
	late   time.Duration
	free   int
	plan   Plan
	writes int
}

// newFleet has n Ready nodes with a pod each, spread over so many domains.
func newFleet(n, domains int) *fleet {
	f := &fleet{now: 1000 * sec, silent: map[string]bool{}, free: 100}
	for i := range n {
		domain := ""
		if domains > 1 {
			domain = fmt.Sprint("zone", i%domains)
		}
		f.nodes = append(f.nodes, Signs{
			Node: fmt.Sprint("n", i+1), Domain: domain, Up: true, Heard: f.now, Member: "alive", Asked: -1, Pods: 1, Stored: spec.VerdictReady,
		})
	}
	f.look(0)
	return f
}

func (f *fleet) node(name string) *Signs {
	for i := range f.nodes {
		if f.nodes[i].Node == name {
			return &f.nodes[i]
		}
	}
	panic(name)
}

// look decides after d.
func (f *fleet) look(d time.Duration) Plan {
	f.now += d
	for i := range f.nodes {
		if s := &f.nodes[i]; s.Up && !f.silent[s.Node] {
			s.Heard = f.now
		}
	}
	f.plan = f.Decide(Input{Now: f.now, Wall: time.Unix(0, 0).Add(f.now), Lateness: f.late, AgentGrace: grace, Nodes: f.nodes, FreePods: f.free})
	for name, st := range f.plan.Status {
		s := f.node(name)
		s.Stored, s.StoredNotReady = st.Verdict, st.PodsNotReady
		f.writes++
	}
	return f.plan
}

// pass looks every 100 ms for d.
func (f *fleet) pass(d time.Duration) Plan {
	for end := f.now + d; f.now < end; {
		f.look(100 * ms)
	}
	return f.plan
}

// cut breaks a node's session and silences it; its guard says g, and so many witnesses of these domains hear nothing.
func (f *fleet) cut(name string, g Guard, witnesses ...string) {
	s := f.node(name)
	f.silent[name], s.Up, s.Guard, s.GuardAt, s.Member = true, false, g, f.now, "dead"
	s.Witnesses, s.Asked = nil, len(witnesses)
	for i, d := range witnesses {
		s.Witnesses = append(s.Witnesses, Witness{Member: fmt.Sprint("w", i), Domain: d, Guard: GuardSilent})
	}
}

// back brings a node back.
func (f *fleet) back(name string) {
	s := f.node(name)
	delete(f.silent, name)
	s.Up, s.Heard, s.Guard, s.Witnesses, s.Asked, s.Member = true, f.now, GuardUnknown, nil, -1, "alive"
}

func TestVerdicts(t *testing.T) {
	down := func(s *Signs) { s.Up = false }
	silentTo := func(domains ...string) func(*Signs) {
		return func(s *Signs) {
			s.Up, s.Guard, s.Asked = false, GuardSilent, len(domains)
			for i, d := range domains {
				s.Witnesses = append(s.Witnesses, Witness{Member: fmt.Sprint("w", i), Domain: d, Guard: GuardSilent})
			}
		}
	}
	for _, c := range []struct {
		name   string
		signs  func(*Signs)
		after  time.Duration
		want   spec.Verdict
		leaves string
	}{
		{"in time", func(*Signs) {}, 1500 * ms, spec.VerdictReady, ""},
		{"in time, though dead to the gossip", func(s *Signs) { s.Member = "dead" }, sec, spec.VerdictReady, ""},
		{"late", func(*Signs) {}, 1700 * ms, spec.VerdictUnreachable, ""},
		{"session down", down, 100 * ms, spec.VerdictUnreachable, ""},
		{"session down, and nobody has answered yet", func(s *Signs) { s.Up, s.Guard = false, GuardSilent }, sec, spec.VerdictUnreachable, ""},
		{"the guard says that the agent runs", func(s *Signs) { s.Up, s.Guard = false, GuardAgentRuns }, 5 * sec, spec.VerdictUnreachable, ""},
		{"so for longer than its lease", func(s *Signs) { s.Up, s.Guard, s.LeaseOver = false, GuardAgentRuns, true }, 13 * sec, spec.VerdictLost, "Lost"},
		{"a witness hears the agent", func(s *Signs) {
			silentTo("a", "b")(s)
			s.Witnesses = append(s.Witnesses, Witness{Member: "w9", AgentAnswered: true})
		}, 5 * sec, spec.VerdictUnreachable, ""},
		{"the guard names a supervisor", func(s *Signs) { s.Up, s.Guard = false, GuardAgentDown }, 9 * sec, spec.VerdictAgentDown, ""},
		{"a witness heard it from the guard", func(s *Signs) {
			silentTo("a", "b")(s)
			s.Witnesses = append(s.Witnesses, Witness{Member: "w9", Guard: GuardAgentDown})
		}, 9 * sec, spec.VerdictAgentDown, ""},
		{"for longer than the grace", func(s *Signs) { s.Up, s.Guard = false, GuardAgentDown }, grace, spec.VerdictLost, "AgentDown"},
		{"but it has announced to be back", func(s *Signs) { s.Up, s.Guard, s.Comeback = false, GuardAgentDown, sec }, grace, spec.VerdictAgentDown, ""},
		{"the guard says that nothing is left", func(s *Signs) { s.Up, s.Guard = false, GuardNothingLeft }, 500 * ms, spec.VerdictLost, "Lost"},
		{"the kernel refuses", func(s *Signs) { s.Up, s.Guard = false, GuardRefused }, 500 * ms, spec.VerdictLost, "Lost"},
		{"silent to two domains", func(s *Signs) { silentTo("a", "b")(s); s.Asked = -1 }, 500 * ms, spec.VerdictLost, "Lost"},
		{"silent to two of one domain, a third not heard yet", func(s *Signs) { silentTo("a", "a")(s); s.Asked = -1 }, 500 * ms, spec.VerdictUnreachable, ""},
		{"silent to all there are", silentTo("a", "a"), 500 * ms, spec.VerdictLost, "Lost"},
		{"silent to us, and no witness answers", silentTo(), 500 * ms, spec.VerdictUnreachable, ""},
		{"silent to witnesses, but our own test is not done", func(s *Signs) { silentTo("a", "b")(s); s.Guard = GuardUnknown }, 500 * ms, spec.VerdictUnreachable, ""},
		{"dead to the gossip, and its guard silent just now", func(s *Signs) {
			s.Up, s.Member, s.Guard, s.GuardAt = false, "dead", GuardSilent, 1000*sec
		}, 1900 * ms, spec.VerdictLost, "Lost"},
		{"dead to the gossip, its guard silent long ago", func(s *Signs) {
			s.Up, s.Member, s.Guard, s.GuardAt = false, "dead", GuardSilent, 900*sec
		}, 1900 * ms, spec.VerdictUnreachable, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFleet(4, 1)
			f.silent["n1"] = true
			c.signs(f.node("n1"))
			p := f.look(c.after)
			if got := f.node("n1").Stored; got != c.want {
				t.Errorf("verdict %s, want %s: %+v", got, c.want, p.Status["n1"])
			}
			if got := p.Leave["n1"]; got != c.leaves {
				t.Errorf("leaves for %q, want %q", got, c.leaves)
			}
			if (p.Test["n1"] > 0) != (c.want != spec.VerdictReady) {
				t.Errorf("tests asked: %v", p.Test)
			}
			if p.Recheck <= f.now || p.Recheck > f.now+sec {
				t.Errorf("looks again after %v", p.Recheck-f.now)
			}
		})
	}
}

func TestTheLastNodeIsLostToItsCoordinatorAlone(t *testing.T) {
	f := newFleet(1, 1)
	f.cut("n1", GuardSilent)
	f.node("n1").Member = ""
	if f.look(500 * ms); f.node("n1").Stored != spec.VerdictLost {
		t.Errorf("verdict %s: there is nobody else to ask", f.node("n1").Stored)
	}
}

func TestPodsShowThatTheirNodeIsUnreachableAfterThreeSeconds(t *testing.T) {
	for _, c := range []struct {
		guard Guard
		after time.Duration
		want  bool
	}{
		{GuardAgentRuns, NotReadyAfter - 200*ms, false},
		{GuardAgentRuns, NotReadyAfter + 100*ms, true},
		{GuardAgentDown, grace - 200*ms, false},
		{GuardAgentDown, grace + 100*ms, true},
		{GuardNothingLeft, 100 * ms, true},
	} {
		f := newFleet(4, 1)
		f.cut("n1", c.guard)
		f.pass(c.after)
		if got := f.node("n1").StoredNotReady; got != c.want {
			t.Errorf("guard %d after %v: %v, want %v", c.guard, c.after, got, c.want)
		}
		f.back("n1")
		if f.look(100 * ms); f.node("n1").StoredNotReady || f.node("n1").Stored != spec.VerdictReady {
			t.Errorf("back, yet %+v", f.node("n1"))
		}
	}
}

func TestASteadyFleetIsNotWritten(t *testing.T) {
	f := newFleet(5, 1)
	f.cut("n5", GuardRefused)
	f.pass(sec)
	f.writes = 0
	if f.pass(30 * sec); f.writes != 0 {
		t.Errorf("%d writes", f.writes)
	}
}

func TestNobodyIsLateBecauseThisCoordinatorWas(t *testing.T) {
	f := newFleet(3, 1)
	f.silent["n1"], f.silent["n2"], f.silent["n3"] = true, true, true
	f.late = 5 * sec
	if f.look(5 * sec); len(f.plan.Status) != 0 {
		t.Errorf("after a sleep of its own: %+v", f.plan.Status)
	}
	f.late = 0
	if f.pass(Late + 200*ms); f.node("n1").Stored != spec.VerdictUnreachable {
		t.Error("self-doubt has no end")
	}
}

// restart is a new leader, of a new run, on the same stored verdicts.
func (f *fleet) restart() {
	f.Tracker = Tracker{}
	for i := range f.nodes {
		s := &f.nodes[i]
		s.Up, s.Heard, s.Guard, s.Witnesses, s.Asked = false, 0, GuardUnknown, nil, -1
		f.silent[s.Node] = true
	}
}

func TestARestartedCoordinatorFlipsNoVerdictOfAgentsThatComeBack(t *testing.T) {
	f := newFleet(3, 1)
	f.restart()
	f.writes = 0
	f.look(0)
	if f.plan.Test["n1"] == 0 {
		t.Error("its guard isn't asked meanwhile")
	}
	f.node("n1").Guard, f.node("n2").Guard, f.node("n3").Guard = GuardAgentRuns, GuardAgentRuns, GuardAgentRuns
	f.pass(4800 * ms)
	for _, n := range []string{"n1", "n2", "n3"} {
		f.back(n)
	}
	f.pass(sec)
	if f.writes != 0 {
		t.Errorf("%d verdicts written", f.writes)
	}
}

func TestALargeFleetHasTheTimeItTakesToComeBackButNotForEver(t *testing.T) {
	for name, c := range map[string]struct {
		nodes, back int
		every       time.Duration
		unreachable time.Duration // after the restart, 0 for never
	}{
		"all come back one by one":                     {7, 7, 4 * sec, 0},
		"one does not, and the others have":            {11, 10, 800 * ms, 8*sec + returnSlack},
		"there is too long a pause":                    {10, 10, returnSlack + 200*ms, returnSlack},
		"there is no end of those who still come":      {30, 30, 2 * sec, returnMost},
		"nobody comes, though the guards say they run": {3, 0, sec, returnSlack},
	} {
		f := newFleet(c.nodes, 1)
		f.restart()
		f.writes = 0
		f.look(0)
		for i := range f.nodes {
			f.nodes[i].Guard = GuardAgentRuns
		}
		begun, back, fell := f.now, 0, time.Duration(0)
		for f.now-begun < 45*sec && fell == 0 {
			if f.now-begun >= time.Duration(back+1)*c.every && back < c.back {
				back++
				f.back(fmt.Sprint("n", back))
			}
			if f.look(100 * ms); f.writes > 0 {
				fell = f.now - begun
			}
		}
		if d := fell - c.unreachable; d < 0 || d > 300*ms {
			t.Errorf("%s: the first verdict that is not Ready came after %v, want %v", name, fell, c.unreachable)
		}
	}
}

func TestARestartedCoordinatorStillFindsWhoDiedMeanwhile(t *testing.T) {
	f := newFleet(3, 1)
	f.restart()
	f.look(0)
	f.back("n2")
	f.back("n3")
	f.cut("n1", GuardSilent, "", "")
	f.pass(Late + 200*ms)
	if f.node("n1").Stored != spec.VerdictLost || f.plan.Leave["n1"] == "" {
		t.Errorf("verdict %s", f.node("n1").Stored)
	}
}

func TestAnInheritedVerdictStandsButMovesNothingUntilSomebodyWasAsked(t *testing.T) {
	f := newFleet(3, 1)
	f.cut("n1", GuardSilent, "", "")
	f.pass(sec)
	f.restart()
	f.look(0)
	for _, n := range []string{"n2", "n3"} {
		f.back(n)
	}
	s := f.node("n1")
	for _, g := range []Guard{GuardUnknown, GuardSilent} { // the witnesses have not answered
		s.Guard, s.Member = g, "alive"
		if f.pass(300 * ms); s.Stored != spec.VerdictLost || !s.StoredNotReady || len(f.plan.Leave) != 0 {
			t.Errorf("guard %d: %s, not ready %v, leave %v", g, s.Stored, s.StoredNotReady, f.plan.Leave)
		}
	}
	f.cut("n1", GuardSilent, "", "")
	if f.look(100 * ms); f.plan.Leave["n1"] == "" {
		t.Error("confirmed, and nothing may leave")
	}
}

func TestANodeWithoutPodsIsLeftByNobody(t *testing.T) {
	f := newFleet(3, 1)
	f.node("n1").Pods = 0
	f.cut("n1", GuardRefused)
	if f.pass(sec); len(f.plan.Leave) != 0 || len(f.Tracker.nodes["n1"].lost) != 0 {
		t.Errorf("leave %v, counted %v", f.plan.Leave, f.Tracker.nodes["n1"].lost)
	}
}

func TestANodeLostThreeTimesGetsNoPodsForAWhileAndThenTwiceAsLong(t *testing.T) {
	f := newFleet(3, 1)
	lose := func() {
		f.cut("n1", GuardRefused)
		f.pass(sec)
		f.node("n1").Guard = GuardAgentRuns // it answers for a moment: still the same absence
		f.look(100 * ms)
		f.node("n1").Guard = GuardRefused
		f.look(100 * ms)
		f.back("n1")
		f.look(100 * ms)
	}
	flaps := func() time.Duration {
		begin := f.now
		for f.plan.Flapping["n1"] && f.now-begin < time.Hour {
			f.look(sec)
		}
		return f.now - begin
	}
	lose()
	lose()
	if flaps() != 0 {
		t.Fatal("after two losses")
	}
	for _, want := range []time.Duration{2 * time.Minute, 4 * time.Minute} {
		lose()
		if got := flaps(); got < want-2*sec || got > want+2*sec {
			t.Errorf("kept out for %v, want %v", got, want)
		}
	}
	f.pass(11 * time.Minute)
	lose()
	if flaps() != 0 {
		t.Error("a first loss after a calm time")
	}
	lose()
	lose()
	if got := flaps(); got > flapFirst+2*sec {
		t.Errorf("kept out for %v: it was calm before", got)
	}
}

func TestAFlappingNodeIsKeptOutFromWhenItIsBack(t *testing.T) {
	f := newFleet(3, 1)
	for range 3 {
		f.cut("n1", GuardRefused)
		f.pass(100 * sec)
		f.back("n1")
		f.look(100 * ms)
	}
	if f.pass(flapFirst - sec); !f.plan.Flapping["n1"] {
		t.Error("let in too early")
	}
	if f.pass(2 * sec); f.plan.Flapping["n1"] {
		t.Error("kept out for longer")
	}
}

func TestPodsOnceShownAsNotReadyStaySoWhileTheirNodeIsNot(t *testing.T) {
	f := newFleet(4, 1)
	f.cut("n1", GuardRefused)
	f.look(500 * ms)
	f.node("n1").Guard = GuardAgentRuns
	if f.look(100 * ms); f.node("n1").Stored != spec.VerdictUnreachable || !f.node("n1").StoredNotReady {
		t.Errorf("%s, not ready %v", f.node("n1").Stored, f.node("n1").StoredNotReady)
	}
}

// The brake's table: how many nodes of how many domains are lost, what the others say, and whether that freezes.
func TestTheBrake(t *testing.T) {
	for _, c := range []struct {
		nodes, domains, lost int
		confirmed            bool // by everybody who is left
		frozen               bool
		paced                bool
	}{
		{1, 1, 1, false, false, false}, // nothing to guard: there is nowhere to go
		{2, 1, 1, true, false, false},
		{2, 1, 2, false, false, false},
		{3, 1, 1, true, false, false},
		{3, 1, 2, true, false, false},
		{3, 1, 3, false, true, false}, // all: this coordinator is alone
		{3, 3, 2, true, false, false},
		{3, 3, 3, false, true, false},
		{6, 1, 2, false, false, false}, // not more than two
		{6, 1, 3, true, false, true},
		{6, 1, 3, false, true, false},
		{6, 3, 2, true, false, false}, // a zone without power
		{6, 3, 3, true, false, true},
		{6, 3, 4, true, true, false}, // it reaches fewer than half itself
		{6, 1, 6, false, true, false},
		{9, 3, 3, false, false, false}, // not more than a third
		{9, 3, 4, true, false, true},
		{9, 3, 4, false, true, false},
		{9, 1, 4, true, false, true},
		{9, 1, 4, false, true, false},
		{9, 3, 6, true, true, false},
		{9, 3, 9, false, true, false},
	} {
		t.Run(fmt.Sprintf("%d nodes of %d domains, %d lost, confirmed %v", c.nodes, c.domains, c.lost, c.confirmed), func(t *testing.T) {
			f := newFleet(c.nodes, c.domains)
			f.pass(5 * sec)
			for i := range c.lost {
				var w []string
				if c.confirmed {
					for j := c.lost; j < c.nodes; j++ {
						w = append(w, f.nodes[j].Domain)
					}
				}
				f.cut(f.nodes[i].Node, GuardSilent, w...)
			}
			p := f.look(500 * ms)
			if (p.Frozen != "") != c.frozen {
				t.Fatalf("frozen %q", p.Frozen)
			}
			if c.frozen && (len(p.Leave) != 0 || !strings.Contains(p.Frozen, fmt.Sprintf("%d of %d nodes", c.lost, c.nodes))) {
				t.Errorf("leave %v, because %q", p.Leave, p.Frozen)
			}
			if !c.frozen && len(p.Leave) != c.lost {
				t.Errorf("leave %v", p.Leave)
			}
			if want := map[bool]int{true: f.free / 5}[c.paced]; p.PerSecond != want {
				t.Errorf("%d a second, want %d", p.PerSecond, want)
			}
		})
	}
}

func TestHalfOfTheOtherDomainsConfirmALoss(t *testing.T) {
	// Two nodes of zone0 and two of zone1 are lost; one of each is left, and three of zone2. So four are of other domains.
	for _, c := range []struct {
		witnesses []string
		frozen    bool
	}{
		{[]string{"zone2", "zone2"}, false},
		{[]string{"zone2"}, true},
		{[]string{"zone2", "zone0"}, true}, // n1's own domain says nothing about n1, and n2's nothing about n2
	} {
		f := newFleet(9, 3)
		f.pass(sec)
		for _, n := range []string{"n1", "n2", "n4", "n5"} {
			w := c.witnesses
			if f.node(n).Domain == "zone1" && len(w) == 2 && w[1] == "zone0" {
				w = []string{"zone2", "zone1"}
			}
			f.cut(n, GuardSilent, w...)
		}
		if p := f.look(500 * ms); (p.Frozen != "") != c.frozen {
			t.Errorf("confirmed by %v: frozen %q", c.witnesses, p.Frozen)
		}
	}
}

func TestALittleLessThanHalfIsNotEnough(t *testing.T) {
	for confirm, frozen := range map[int]bool{3: true, 4: false} { // of seven members of other domains
		f := newFleet(12, 3)
		f.pass(sec)
		var w []string
		for range confirm {
			w = append(w, "zone2")
		}
		for _, n := range []string{"n1", "n4", "n7", "n10", "n2"} {
			f.cut(n, GuardSilent, w...)
		}
		if p := f.look(500 * ms); (p.Frozen != "") != frozen {
			t.Errorf("%d of seven: frozen %q", confirm, p.Frozen)
		}
	}
	f := freeze(t)
	for i := range 4 {
		f.cut(f.nodes[i].Node, GuardSilent, "", "") // two of the five that are left
	}
	if f.look(100 * ms); f.plan.Frozen == "" {
		t.Error("two of five")
	}
}

// freeze is a fleet of nine, frozen by four losses that nobody confirms.
func freeze(t *testing.T) *fleet {
	t.Helper()
	f := newFleet(9, 1)
	f.pass(sec)
	for i := range 4 {
		f.cut(f.nodes[i].Node, GuardSilent)
	}
	if f.look(500 * ms); f.plan.Frozen == "" {
		t.Fatal("not frozen")
	}
	return f
}

func TestAFreezeOutlastsItsWindow(t *testing.T) {
	f := freeze(t)
	if f.pass(10 * time.Minute); f.plan.Frozen == "" || len(f.plan.Leave) != 0 {
		t.Errorf("frozen %q, leave %v", f.plan.Frozen, f.plan.Leave)
	}
	if f.plan.Test["n1"] < 5 {
		t.Errorf("%d are asked to confirm, want everybody", f.plan.Test["n1"])
	}
}

func TestAFreezeThawsWhenEnoughAnswer(t *testing.T) {
	f := freeze(t)
	f.pass(2 * time.Minute)
	f.back("n1")
	if f.pass(sec); f.plan.Frozen != "" || len(f.plan.Leave) != 3 || f.plan.Leave["n1"] != "" {
		t.Errorf("frozen %q, leave %v", f.plan.Frozen, f.plan.Leave)
	}
}

func TestAFreezeThawsWhenTheLossIsConfirmed(t *testing.T) {
	f := freeze(t)
	for i := range 4 {
		f.cut(f.nodes[i].Node, GuardSilent, "", "", "")
	}
	if f.look(100 * ms); f.plan.Frozen != "" || len(f.plan.Leave) != 4 || f.plan.PerSecond == 0 {
		t.Errorf("frozen %q, leave %v, %d a second", f.plan.Frozen, f.plan.Leave, f.plan.PerSecond)
	}
}

func TestAFreezeThawsWhenSomebodyResumes(t *testing.T) {
	f := freeze(t)
	if !f.Resume(f.now) {
		t.Fatal("there was nothing to resume")
	}
	if f.pass(5 * time.Minute); f.plan.Frozen != "" || len(f.plan.Leave) != 4 {
		t.Errorf("frozen %q, leave %v", f.plan.Frozen, f.plan.Leave)
	}
	if f.Resume(f.now) {
		t.Error("resumed what was not frozen")
	}
}

func TestNodesLostEarlierAndDeletedOnesDoNotCountForTheBrake(t *testing.T) {
	f := newFleet(6, 1)
	f.cut("n1", GuardRefused)
	f.cut("n2", GuardRefused)
	f.pass(2 * time.Minute)
	f.cut("n3", GuardSilent, "", "", "")
	if f.pass(sec); f.plan.Frozen != "" || len(f.plan.Leave) != 3 {
		t.Errorf("frozen %q, leave %v", f.plan.Frozen, f.plan.Leave)
	}
	f.nodes = f.nodes[2:]
	if f.look(100 * ms); len(f.plan.Leave) != 1 || f.Tracker.nodes["n1"] != nil {
		t.Errorf("deleted nodes are remembered: %v", f.plan.Leave)
	}
}

func TestTimingIsThatOfTheAbsence(t *testing.T) {
	f := newFleet(3, 1)
	if _, _, _, ok := f.Timing("n1"); ok {
		t.Error("of a Ready node")
	}
	heard := f.now
	f.cut("n1", GuardSilent)
	f.node("n1").Member = "alive"
	f.look(200 * ms)
	f.cut("n1", GuardSilent, "", "")
	f.look(300 * ms)
	h, s, j, ok := f.Timing("n1")
	if !ok || h != heard || s != heard+200*ms || j != heard+500*ms {
		t.Errorf("heard %v, suspected %v, judged %v", h-heard, s-heard, j-heard)
	}
}

// Whatever the signs, nothing leaves a node that is heard in time or whose agent is only down, nothing leaves while
// frozen, and looking again at the same signs changes nothing.
func TestNothingLeavesWithoutReason(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(t, "nodes")
		f := newFleet(n, rapid.IntRange(1, 3).Draw(t, "domains"))
		for range rapid.IntRange(1, 30).Draw(t, "looks") {
			for i := range f.nodes {
				s := &f.nodes[i]
				switch rapid.IntRange(0, 9).Draw(t, "what") {
				case 0:
					f.back(s.Node)
				case 1:
					var w []string
					for range rapid.IntRange(0, 3).Draw(t, "witnesses") {
						w = append(w, rapid.SampledFrom([]string{"", "zone0", "zone1"}).Draw(t, "domain"))
					}
					f.cut(s.Node, rapid.SampledFrom([]Guard{
						GuardUnknown, GuardSilent, GuardRefused, GuardAgentRuns, GuardAgentDown, GuardNothingLeft,
					}).Draw(t, "guard"), w...)
				case 2:
					s.Pods = rapid.IntRange(0, 2).Draw(t, "pods")
				case 3:
					s.LeaseOver = rapid.Bool().Draw(t, "over")
				}
			}
			p := f.look(time.Duration(rapid.IntRange(1, 4000).Draw(t, "ms")) * ms)
			if p.Frozen != "" && len(p.Leave) > 0 {
				t.Fatalf("%v leave while frozen", p.Leave)
			}
			for name := range p.Leave {
				s := f.node(name)
				heard := f.now - s.Heard
				switch {
				case s.Pods == 0, s.Up && heard <= Late:
					t.Fatalf("%s is left: %+v", name, s)
				case s.Guard == GuardAgentDown && len(s.Witnesses) == 0 && heard < grace:
					t.Fatalf("%s is left within its grace: %+v", name, s)
				case s.Guard == GuardAgentRuns && !s.LeaseOver:
					t.Fatalf("%s is left though its agent runs under its lease: %+v", name, s)
				case s.Guard == GuardUnknown && s.Stored != spec.VerdictLost:
					t.Fatalf("%s is left untested: %+v", name, s)
				}
			}
			again := f.look(0)
			if len(again.Status) != 0 || !maps.Equal(again.Leave, p.Leave) || again.Frozen != p.Frozen {
				t.Fatalf("a second look changes: %+v, then %+v", p, again)
			}
			if again.Recheck <= f.now {
				t.Fatalf("looks again at once for ever")
			}
		}
	})
}

// Progress: a machine that is dead to everyone is left within 2.5 s, unless the brake holds.
func TestADeadMachineIsLeftSoon(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 9).Draw(t, "nodes")
		f := newFleet(n, rapid.IntRange(1, 3).Draw(t, "domains"))
		f.pass(time.Duration(rapid.IntRange(0, 20).Draw(t, "calm")) * 100 * ms)
		name := f.nodes[rapid.IntRange(0, n-1).Draw(t, "which")].Node
		f.silent[name] = true // its connection is not reset
		f.pass(Late + 100*ms)
		if f.plan.Test[name] == 0 {
			t.Fatal("not tested")
		}
		var w []string
		for i := range min(3, n-1) {
			w = append(w, fmt.Sprint("zone", i%2))
		}
		s := f.node(name)
		up := s.Up
		f.cut(name, GuardSilent, w...)
		s.Up, s.Member = up, "suspect"
		if f.look(800 * ms); f.plan.Leave[name] == "" {
			t.Fatalf("not left: %+v", s)
		}
	})
}
