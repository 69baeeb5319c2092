package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/internal/fence"
	"github.com/musterhq/muster/internal/simnet"
)

var key = []byte("0123456789abcdef0123456789abcdef")

// cluster is some members on a network in a bubble.
type cluster struct {
	t    *testing.T
	net  *simnet.Network
	seed string
	log  *slog.Logger
	// asked counts the questions to guards.
	asked atomic.Int32
	// guard is what every member's guard question gets; by address.
	guard map[string]GuardSign
}

// member is one of them.
type member struct {
	*Membership
	endpoint *simnet.Endpoint
	stop     func()

	mu      sync.Mutex
	changes []Change
}

func newCluster(t *testing.T) *cluster {
	// memberlist's last probes end by themselves; fake time goes on only while the test does.
	t.Cleanup(func() { time.Sleep(30 * time.Second) })
	return &cluster{t: t, net: simnet.New(time.Millisecond), seed: "10.0.0.1:7702", log: logger(), guard: map[string]GuardSign{}}
}

func logger() *slog.Logger {
	if os.Getenv("MUSTER_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

func (c *cluster) start(name, address string, edit ...func(*Config)) *member {
	c.t.Helper()
	endpoint, err := c.net.Listen(address)
	if err != nil {
		c.t.Fatal(err)
	}
	m := &member{endpoint: endpoint}
	cfg := Config{
		Name: name, Cluster: "c1", Key: key, Transport: endpoint, Meta: Meta{Role: Agent, BootID: "boot"},
		Seeds: func() []string { return []string{c.seed} },
	}
	for _, f := range edit {
		f(&cfg)
	}
	m.Membership, err = New(cfg, Deps{
		Log: c.log,
		Changed: func(ch Change) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.changes = append(m.changes, ch)
		},
		Guard: func(_ context.Context, at string) GuardSign {
			c.asked.Add(1)
			return c.guard[at]
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	var once sync.Once
	m.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				c.t.Errorf("%s: Run: %v", name, err)
			}
		})
	}
	c.t.Cleanup(m.stop)
	return m
}

// crash ends a member as a process that is killed.
func (m *member) crash() {
	m.endpoint.Crash()
	m.stop()
}

func (m *member) state(name string) State {
	got, _ := m.Member(name)
	return got.State
}

func (m *member) history(name string) []Change {
	m.mu.Lock()
	defer m.mu.Unlock()
	var of []Change
	for _, c := range m.changes {
		if c.Name == name {
			of = append(of, c)
		}
	}
	return of
}

// until waits for something in fake time, and returns how long it took.
func until(t *testing.T, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(start)
}

// five starts a coordinator and four agents that see each other.
func five(t *testing.T) (*cluster, []*member) {
	c := newCluster(t)
	ms := []*member{c.start("c", c.seed, func(cfg *Config) { cfg.Meta.Role = Coordinator })}
	for i := range 4 {
		ms = append(ms, c.start(fmt.Sprintf("n%d", i+1), fmt.Sprintf("10.0.0.%d:7702", i+2)))
	}
	took := until(t, 5*time.Second, "all see all", func() bool {
		for _, m := range ms {
			for _, other := range []string{"c", "n1", "n2", "n3", "n4"} {
				if m.state(other) != Alive {
					return false
				}
			}
		}
		return true
	})
	t.Logf("all see all after %v", took)
	return c, ms
}

func TestMembersFindEachOtherThroughASeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ms := five(t)
		if got, _ := ms[1].Member("c"); got.Meta.Role != Coordinator || got.Address != "10.0.0.1:7702" || got.Meta.Run == "" {
			t.Errorf("n1 sees the coordinator as %+v", got)
		}
		if got := len(ms[1].Members()); got != 5 {
			t.Errorf("n1 lists %d members, want 5", got)
		}
		if h := ms[0].history("c"); len(h) != 0 {
			t.Errorf("a member is told of itself: %v", h)
		}
	})
}

func TestACrashedMemberIsDeadWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ms := five(t)
		ms[4].crash()
		took := until(t, 15*time.Second, "n4 is dead", func() bool { return ms[0].state("n4") == Dead })
		t.Logf("dead after %v", took)
		time.Sleep(time.Second)
		if h := ms[0].history("n4"); h[len(h)-1].State != Dead {
			t.Errorf("last change is %+v, want dead", h[len(h)-1])
		}
		for _, m := range ms[:4] {
			if got := m.state("n1"); got != Alive {
				t.Errorf("%s sees n1 %s, want alive", m.cfg.Name, got)
			}
		}
	})
}

func TestALeavingMemberIsLeftAndNotDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ms := five(t)
		start := time.Now()
		ms[4].stop()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("leaving took %v, want at most 2s", took)
		}
		until(t, 5*time.Second, "n4 has left", func() bool { return ms[0].state("n4") == Left })
		time.Sleep(30 * time.Second)
		for _, c := range ms[0].history("n4") {
			if c.State == Dead {
				t.Errorf("an orderly stop was shown as %+v", c)
			}
		}
	})
}

func TestAQuickRestartIsSeenByItsRunAndBoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, ms := five(t)
		before, _ := ms[0].Member("n4")
		ms[4].crash()
		c.start("n4", "10.0.0.5:7702", func(cfg *Config) { cfg.Meta.BootID = "boot-2" })
		took := until(t, 10*time.Second, "the new run is seen", func() bool {
			got, _ := ms[0].Member("n4")
			return got.Meta.Run != before.Meta.Run && got.Meta.BootID == "boot-2"
		})
		t.Logf("seen after %v", took)
		time.Sleep(20 * time.Second)
		for _, ch := range ms[0].history("n4") {
			if ch.State != Alive {
				t.Errorf("a quick restart on the same address was shown as %+v", ch)
			}
		}
	})
}

func TestARestartAtAnotherAddressIsTakenInOnceTheFormerRunIsDead(t *testing.T) {
	for _, pause := range []time.Duration{0, 2 * time.Second, 4 * time.Second} {
		t.Run(pause.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, ms := five(t)
				ms[4].crash()
				time.Sleep(pause)
				n4 := c.start("n4", "10.0.0.99:7702")
				took := until(t, 20*time.Second, "all see n4 at its new address", func() bool {
					for _, m := range ms[:4] {
						if got, _ := m.Member("n4"); got.State != Alive || got.Address != "10.0.0.99:7702" {
							return false
						}
					}
					return true
				})
				t.Logf("taken in %v after the restart", took)
				time.Sleep(time.Minute)
				if got, _ := ms[0].Member("n4"); got.State != Alive || n4.state("c") != Alive {
					t.Errorf("later: n4 is %+v", got)
				}
			})
		})
	}
}

func TestAPartitionHealsByItself(t *testing.T) {
	for _, lasts := range []time.Duration{20 * time.Second, 3 * time.Minute} {
		t.Run(lasts.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, ms := five(t)
				c.net.Isolate("10.0.0.5:7702")
				until(t, 20*time.Second, "n4 is dead for the others", func() bool {
					return ms[0].state("n4") == Dead && ms[1].state("n4") == Dead
				})
				until(t, 40*time.Second, "the others are dead for n4", func() bool { return ms[4].state("c") == Dead && ms[4].state("n1") == Dead })
				time.Sleep(lasts)
				c.net.Cut(nil)
				took := until(t, 35*time.Second, "all see all again", func() bool {
					return ms[0].state("n4") == Alive && ms[1].state("n4") == Alive && ms[4].state("c") == Alive && ms[4].state("n1") == Alive
				})
				t.Logf("healed %v after the network", took)
			})
		})
	}
}

func TestALateSeedIsJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n1 := c.start("n1", "10.0.0.2:7702")
		time.Sleep(5 * time.Minute)
		c.start("c", c.seed)
		took := until(t, 31*time.Second, "n1 sees the seed", func() bool { return n1.state("c") == Alive })
		t.Logf("joined after %v", took)
	})
}

func TestACoordinatorThatWasAwayShortlyFindsTheAgentsThatDidNotNotice(t *testing.T) {
	for _, address := range []string{"10.0.0.1:7702", "10.0.0.77:7702"} {
		t.Run(address, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, ms := five(t)
				before, _ := ms[1].Member("c")
				ms[0].crash()
				time.Sleep(300 * time.Millisecond)
				back := c.start("c", address, func(cfg *Config) {
					cfg.Meta.Role = Coordinator
					cfg.Seeds = func() []string { return []string{"10.0.0.9:7702", "10.0.0.3:7702", "10.0.0.4:7702"} }
				})
				took := until(t, 2*time.Second, "c sees the agents", func() bool { return back.state("n1") == Alive && back.state("n4") == Alive })
				took2 := until(t, 10*time.Second, "the agents see the new c", func() bool {
					got, _ := ms[1].Member("c")
					return got.State == Alive && got.Meta.Run != before.Meta.Run && got.Address == address
				})
				t.Logf("sees them after %v, is seen after %v", took, took+took2)
			})
		})
	}
}

func TestUnreachableSeedsAreTriedLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		var asked atomic.Int32
		c.start("n1", "10.0.0.2:7702", func(cfg *Config) {
			cfg.Seeds = func() []string { asked.Add(1); return []string{c.seed} }
		})
		time.Sleep(10 * time.Minute)
		if n := asked.Load(); n < 20 || n > 26 { // 1, 2, 4, 8, 16, then every 30 s
			t.Errorf("%d times in 10 min, want about 24", n)
		}
	})
}

func TestOtherClustersAndOtherKeysAreNotHeard(t *testing.T) {
	for name, edit := range map[string]func(*Config){
		"cluster": func(cfg *Config) { cfg.Cluster = "c2" },
		"key":     func(cfg *Config) { cfg.Key = []byte("fedcba9876543210fedcba9876543210") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				seed := c.start("c", c.seed)
				stranger := c.start("n1", "10.0.0.2:7702", edit)
				time.Sleep(time.Minute)
				if got := seed.state("n1"); got != "" {
					t.Errorf("the stranger is %s here", got)
				}
				if got := stranger.state("c"); got != "" {
					t.Errorf("the stranger sees the seed %s", got)
				}
			})
		})
	}
}

func TestASecondMemberOfOneNameIsNotHeardAndComplains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, ms := five(t)
		var log strings.Builder
		var mu sync.Mutex
		c.log = slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, &slog.HandlerOptions{Level: slog.LevelError}))
		c.start("n4", "10.0.0.66:7702")
		time.Sleep(3 * time.Minute)
		if got, _ := ms[0].Member("n4"); got.State != Alive || got.Address != "10.0.0.5:7702" {
			t.Errorf("n4 is %+v, want the first one", got)
		}
		mu.Lock()
		defer mu.Unlock()
		if !strings.Contains(log.String(), "another member has this one's name") || !strings.Contains(log.String(), "10.0.0.5:7702") {
			t.Errorf("log of the second: %q", log.String())
		}
	})
}

type lockedWriter struct {
	mu *sync.Mutex
	b  *strings.Builder
}

func (w lockedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(b)
}

func TestASlowReaderDelaysNothingAndMissesNoMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		block := make(chan struct{})
		last := map[string]State{}
		endpoint, err := c.net.Listen(c.seed)
		if err != nil {
			t.Fatal(err)
		}
		m, err := New(Config{Name: "c", Cluster: "c1", Key: key, Transport: endpoint, Meta: Meta{Role: Coordinator}}, Deps{
			Log: logger(), Changed: func(ch Change) { <-block; last[ch.Name] = ch.State },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		n1 := c.start("n1", "10.0.0.2:7702")
		for i := range 20 {
			c.start(fmt.Sprintf("m%d", i), fmt.Sprintf("10.0.1.%d:7702", i+1))
		}
		time.Sleep(20 * time.Second)
		n1.crash()
		time.Sleep(40 * time.Second)
		if got, _ := m.Member("n1"); got.State != Dead {
			t.Errorf("behind a reader that is stuck n1 is %+v, want dead", got)
		}
		m.mu.Lock()
		if n := len(m.order); n > 21 {
			t.Errorf("%d changes wait for 21 members", n)
		}
		m.mu.Unlock()
		close(block)
		time.Sleep(time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(last) != 21 || last["n1"] != Dead || last["m7"] != Alive {
			t.Errorf("the reader was told of %d members, n1 %s, m7 %s", len(last), last["n1"], last["m7"])
		}
	})
}

func TestAWitnessTellsAgentAndMachineApart(t *testing.T) {
	answered := GuardSign{State: GuardAnswered, Answer: fence.GuardAnswer{BootID: "b", Agent: fence.AgentDead, Supervisors: 2}}
	for _, row := range []struct {
		name  string
		crash bool
		guard GuardSign
		want  Sight
	}{
		{"all well", false, answered, Sight{Agent: true, Guard: answered}},
		{"agent dead", true, answered, Sight{Guard: answered}},
		{"machine refuses", true, GuardSign{State: GuardRefused}, Sight{Guard: GuardSign{State: GuardRefused}}},
		{"machine dead", true, GuardSign{State: GuardSilent}, Sight{Guard: GuardSign{State: GuardSilent}}},
		{"guard cut off", false, GuardSign{State: GuardSilent}, Sight{Agent: true, Guard: GuardSign{State: GuardSilent}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, ms := five(t)
				c.guard["10.0.0.5:7704"] = row.guard
				if row.crash {
					ms[4].crash()
				}
				start := time.Now()
				got, err := ms[0].Ask(t.Context(), "n1", Request{Node: "n4", Guard: "10.0.0.5:7704"})
				took := time.Since(start)
				if err != nil || got != row.want {
					t.Errorf("n1 sees %+v, %v, want %+v", got, err, row.want)
				}
				if took > 700*time.Millisecond {
					t.Errorf("took %v, want at most 0.7s", took)
				}
				if got.Silent() != (row.name == "machine dead") {
					t.Errorf("silent: %v", got.Silent())
				}
			})
		})
	}
}

func TestAWitnessBehindTheCutSeesWhatTheAskerCannot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, ms := five(t)
		c.net.Cut(func(a, b string) bool { return a == c.seed && b == "10.0.0.5:7702" })
		r := Request{Node: "n4", Gossip: "10.0.0.5:7702"}
		if s := ms[0].Look(t.Context(), r); s.Agent {
			t.Errorf("the coordinator sees %+v across the cut", s)
		}
		s, err := ms[0].Ask(t.Context(), "n1", r)
		if err != nil || !s.Agent {
			t.Errorf("n1 sees %+v, %v, want the agent", s, err)
		}
	})
}

func TestAWitnessThatIsCutOffGivesNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, ms := five(t)
		c.net.Isolate("10.0.0.2:7702")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := ms[0].Ask(ctx, "n1", Request{Node: "n4"}); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("err %v, want ErrNoAnswer", err)
		}
		if _, err := ms[0].Ask(ctx, "nobody", Request{Node: "n4"}); !errors.Is(err, ErrNotMember) {
			t.Errorf("err %v, want ErrNotMember", err)
		}
		if n := len(ms[0].asks.waiting); n != 0 {
			t.Errorf("%d questions are still open", n)
		}
	})
}

func TestALostQuestionIsPutAgainAndLookedIntoOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, ms := five(t)
		c.guard["10.0.0.5:7704"] = GuardSign{State: GuardRefused}
		c.net.Cut(func(a, b string) bool { return a == c.seed && b == "10.0.0.2:7702" })
		time.AfterFunc(600*time.Millisecond, func() { c.net.Cut(nil) })
		if s, err := ms[0].Ask(t.Context(), "n1", Request{Node: "n4", Guard: "10.0.0.5:7704"}); err != nil || !s.Agent {
			t.Errorf("sees %+v, %v", s, err)
		}
		// To look for a dead member takes longer than until the question comes again.
		ms[4].crash()
		asked := c.asked.Load()
		if s, err := ms[0].Ask(t.Context(), "n1", Request{Node: "n4", Guard: "10.0.0.5:7704"}); err != nil || s.Agent {
			t.Errorf("sees %+v, %v", s, err)
		}
		if n := c.asked.Load() - asked; n != 1 {
			t.Errorf("one question was looked into %d times", n)
		}
	})
}

func TestQuestionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, ms := five(t)
		c.net.Isolate("10.0.0.2:7702") // n1 never answers
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for range maxAsks {
			wg.Go(func() { _, _ = ms[0].Ask(ctx, "n1", Request{Node: "n4"}) })
		}
		synctest.Wait()
		if _, err := ms[0].Ask(ctx, "n1", Request{Node: "n4"}); !errors.Is(err, ErrBusy) {
			t.Errorf("err %v, want ErrBusy", err)
		}
		wg.Wait()
	})
}

func TestAWitnessWorksOnFewQuestionsAtOnce(t *testing.T) {
	a := newAsks(&Membership{})
	looks := 0
	for i := range 2 * maxLooks {
		if _, look := a.begin(message{ID: uint64(i), From: "n1"}); look {
			looks++
		}
	}
	if looks != maxLooks {
		t.Errorf("%d at once, want %d", looks, maxLooks)
	}
	for i := range 4 * keepAnswers {
		a.looking = 0
		a.begin(message{ID: uint64(i), From: "n2"})
	}
	if len(a.answers) > keepAnswers || len(a.recent) > keepAnswers {
		t.Errorf("remembers %d answers, want at most %d", len(a.answers), keepAnswers)
	}
}

func TestMessagesFromOutsideAreBoundedAndHarmless(t *testing.T) {
	m := &Membership{deps: Deps{Log: logger()}}
	m.asks = newAsks(m)
	for _, b := range []string{"", "{", "null", "{}", `{"id":1}`, `{"id":1,"see":{}}`, `{"id":-1,"ask":{}}`, `{"ask":{"Node":"` + strings.Repeat("x", maxMessage) + `"}}`} {
		m.asks.receive([]byte(b))
	}
	if n := len(m.asks.inbox); n != 0 {
		t.Errorf("%d questions came of garbage", n)
	}
	for i := range 2 * maxAsks {
		m.asks.receive(fmt.Appendf(nil, `{"id":%d,"from":"n1","ask":{"Node":"n2"}}`, i))
	}
	if n := len(m.asks.inbox); n != maxAsks {
		t.Errorf("%d questions wait, want %d", n, maxAsks)
	}
}

func TestConfigsThatCannotWorkAreRefusedByName(t *testing.T) {
	good := Config{Name: "n1", Cluster: "c1", Key: key, Listen: "127.0.0.1:0", Meta: Meta{Role: Agent}}
	for want, edit := range map[string]func(*Config){
		"name":                           func(c *Config) { c.Name = "Not A Name" },
		"cluster id":                     func(c *Config) { c.Cluster = "" },
		"key of 5 bytes":                 func(c *Config) { c.Key = c.Key[:5] },
		"role":                           func(c *Config) { c.Meta.Role = "" },
		"want HOST:PORT":                 func(c *Config) { c.Listen = "localhost" },
		"how others reach":               func(c *Config) { c.Listen = ":0" },
		"at most 512":                    func(c *Config) { c.Meta.Zone = strings.Repeat("z", 600) },
		"advertised address":             func(c *Config) { c.Listen = "0.0.0.0:0" },
		"no address of that name":        func(c *Config) { c.Advertise = "no-such-host.invalid" },
		"cannot assign requested addres": func(c *Config) { c.Listen = "192.0.2.1:0" },
	} {
		cfg := good
		edit(&cfg)
		m, err := New(cfg, Deps{Log: logger()})
		if err == nil {
			m.Close()
			t.Errorf("%s: accepted", want)
			continue
		}
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %q, want one line with %q", err, want)
		}
	}
}

func TestAPortInUseIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = New(Config{Name: "n1", Cluster: "c1", Key: key, Listen: l.Addr().String(), Meta: Meta{Role: Agent}}, Deps{Log: logger()})
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()+" is in use") {
		t.Errorf("error %v", err)
	}
}

func TestTwoMembersMeetOnLoopback(t *testing.T) {
	var seeds []string
	ms := map[string]*Membership{}
	for name, listen := range map[string]string{"c": ":0", "n1": "localhost:0"} {
		m, err := New(Config{
			Name: name, Cluster: "c1", Key: key, Listen: listen, Advertise: "127.0.0.1", Meta: Meta{Role: Agent}, Seeds: func() []string { return seeds },
		}, Deps{Log: logger()})
		if err != nil {
			t.Fatal(err)
		}
		ms[name] = m
	}
	seeds = []string{ms["c"].Address()}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, m := range ms {
		wg.Go(func() {
			if err := m.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	start := time.Now()
	for {
		if got, _ := ms["c"].Member("n1"); got.State == Alive {
			break
		}
		if time.Since(start) > 10*time.Second {
			t.Fatal("no meeting within 10 s")
		}
		<-time.After(5 * time.Millisecond)
	}
	rtt, err := ms["c"].Ping("n1")
	if err != nil {
		t.Error(err)
	}
	if _, err := ms["c"].Ping("n2"); !errors.Is(err, ErrNotMember) {
		t.Errorf("ping of nobody: %v", err)
	}
	t.Logf("met after %v, ping %v", time.Since(start), rtt)
	cancel()
	wg.Wait()
	if _, err := ms["c"].Ping("n1"); !errors.Is(err, ErrNotMember) {
		t.Errorf("ping after Run: %v", err)
	}
	if l, err := net.Listen("tcp", seeds[0]); err != nil {
		t.Errorf("the port is still taken: %v", err)
	} else {
		l.Close()
	}
}

func TestAGuardIsHeardSilentOrRefusing(t *testing.T) {
	serve := func(line string, wait time.Duration) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				time.AfterFunc(wait, func() { fmt.Fprint(conn, line); conn.Close() })
			}
		}()
		return l.Addr().String()
	}
	refusing := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	answer := fence.GuardAnswer{BootID: "abc", Agent: fence.AgentStopped, Supervisors: 3}
	for _, row := range []struct {
		name, address string
		want          GuardSign
	}{
		{"answers", serve(answer.String()+"\n", 0), GuardSign{GuardAnswered, answer}},
		{"only accepts", serve("", time.Hour), GuardSign{State: GuardSilent}},
		{"says something else", serve("HTTP/1.1 400 Bad Request\n", 0), GuardSign{State: GuardSilent}},
		{"says too much", serve(strings.Repeat("x", 1<<16), 0), GuardSign{State: GuardSilent}},
		{"closes", serve("", 0), GuardSign{State: GuardSilent}},
		{"too late", serve(answer.String()+"\n", 2*time.Second), GuardSign{State: GuardSilent}},
		{"refuses", refusing(), GuardSign{State: GuardRefused}},
		{"no address", "nonsense", GuardSign{State: GuardSilent}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			if got := AskGuard(t.Context(), row.address); got != row.want {
				t.Errorf("got %+v, want %+v", got, row.want)
			}
			took := time.Since(start)
			if took > 5*guardLimit || row.want.State == GuardRefused && took < refusedAgain {
				t.Errorf("took %v", took)
			}
		})
	}
}
