package failover

import (
	"testing"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

func TestVerdictsAtTheirEdges(t *testing.T) {
	silent := Witness{Member: "w0", Guard: GuardSilent}
	for _, c := range []struct {
		name  string
		signs func(*Signs)
		want  spec.Verdict
	}{
		{"a witness heard from the guard that nothing is left", func(s *Signs) {
			s.Up, s.Guard, s.Witnesses = false, GuardSilent, []Witness{silent, {Member: "w1", Guard: GuardNothingLeft}}
		}, spec.VerdictLost},
		{"silent to one of the two that answered", func(s *Signs) {
			s.Up, s.Guard, s.Asked, s.Witnesses = false, GuardSilent, 2, []Witness{silent}
		}, spec.VerdictUnreachable},
		{"dead to the gossip, its guard silent, but its session stands", func(s *Signs) {
			s.Member, s.Guard, s.GuardAt = "dead", GuardSilent, 1000*sec
		}, spec.VerdictUnreachable},
		{"a witness finds the port refused, others nothing", func(s *Signs) {
			s.Up, s.Guard, s.Witnesses = false, GuardSilent, []Witness{{Member: "w1", Guard: GuardRefused}}
		}, spec.VerdictUnreachable},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFleet(4, 1)
			f.silent["n1"] = true
			c.signs(f.node("n1"))
			f.look(Late + 100*ms)
			if got := f.node("n1").Stored; got != c.want {
				t.Errorf("verdict %s, want %s", got, c.want)
			}
		})
	}
}

func TestALittleLatenessForgivesNothing(t *testing.T) {
	f := newFleet(3, 1)
	f.late, f.silent["n1"] = MaxLateness, true
	if f.pass(Late + 200*ms); f.node("n1").Stored != spec.VerdictUnreachable {
		t.Errorf("verdict %s", f.node("n1").Stored)
	}
}

func TestGreatLatenessForgivesNothingThatIsToCome(t *testing.T) {
	f := newFleet(3, 1)
	f.late = time.Hour
	f.look(time.Hour)
	f.late, f.silent["n1"] = 0, true
	if f.pass(Late + 200*ms); f.node("n1").Stored != spec.VerdictUnreachable {
		t.Errorf("verdict %s: an hour's sleep is no hour's grace", f.node("n1").Stored)
	}
}

func TestAFlappingNodeIsKeptOutForHalfAnHourAtMost(t *testing.T) {
	f := newFleet(3, 1)
	for range 9 {
		f.cut("n1", GuardRefused)
		f.look(sec)
		f.back("n1")
		f.look(sec)
	}
	if f.pass(flapMost - sec); !f.plan.Flapping["n1"] {
		t.Error("let in too early")
	}
	if f.pass(2 * sec); f.plan.Flapping["n1"] {
		t.Error("kept out for longer")
	}
}

func TestAMachinesOwnWordConfirmsItsLoss(t *testing.T) {
	for _, g := range []Guard{GuardRefused, GuardNothingLeft} {
		f := newFleet(9, 1)
		f.pass(sec)
		for i := range 4 {
			f.cut(f.nodes[i].Node, g)
		}
		if p := f.look(500 * ms); p.Frozen != "" || len(p.Leave) != 4 || p.PerSecond == 0 {
			t.Errorf("guard %d: frozen %q, leave %v, %d a second", g, p.Frozen, p.Leave, p.PerSecond)
		}
	}
}

func TestAFreezeThawsWhenALostNodesMachineAnswers(t *testing.T) {
	f := freeze(t)
	f.pass(2 * time.Minute)
	f.node("n1").Guard = GuardAgentRuns // cut off from us, yet alive
	if p := f.look(100 * ms); p.Frozen != "" || len(p.Leave) != 3 || p.Leave["n1"] != "" {
		t.Errorf("frozen %q, leave %v", p.Frozen, p.Leave)
	}
}

func TestWhoResumesHasAMinute(t *testing.T) {
	f := freeze(t)
	f.Resume(f.now)
	f.look(10 * sec)
	for i := 4; i < 8; i++ {
		f.cut(f.nodes[i].Node, GuardSilent)
		f.nodes[i].Witnesses = []Witness{{Member: "w0", Guard: GuardSilent}}
		f.nodes[i].Asked = 1
	}
	if p := f.look(500 * ms); p.Frozen != "" || len(p.Leave) != 8 {
		t.Errorf("frozen %q, leave %v", p.Frozen, p.Leave)
	}
}

// What a coordinator that has just started does with a node that answers its guard but does not come back to it.
func TestARestartedCoordinatorLeavesANodeThatIsCutOffOnceItsLeaseIsOver(t *testing.T) {
	f := newFleet(3, 1)
	f.restart()
	f.look(0)
	f.back("n2")
	f.back("n3")
	s := f.node("n1")
	s.Guard = GuardAgentRuns
	if f.pass(9 * sec); s.Stored != spec.VerdictUnreachable || len(f.plan.Leave) != 0 {
		t.Errorf("%s, leave %v: its lease may live", s.Stored, f.plan.Leave)
	}
	s.LeaseOver = true
	if f.look(100 * ms); s.Stored != spec.VerdictLost || f.plan.Leave["n1"] == "" {
		t.Errorf("%s, leave %v", s.Stored, f.plan.Leave)
	}
}
