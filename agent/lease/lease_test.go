package lease

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/fence"
)

// fakePage is a page that one process has.
type fakePage struct {
	epoch           [MaxSlots + 1]int64
	deadline, armed [MaxSlots + 1]time.Duration
}

func (p *fakePage) Assign(slot int, epoch int64) {
	p.epoch[slot], p.deadline[slot], p.armed[slot] = epoch, 0, 0
}
func (p *fakePage) SetDeadline(slot int, at time.Duration) { p.deadline[slot] = at }
func (p *fakePage) Deadline(slot int, epoch int64) time.Duration {
	if p.epoch[slot] != epoch {
		return 0
	}
	return p.deadline[slot]
}
func (p *fakePage) Armed(slot int) time.Duration { return p.armed[slot] }
func (p *fakePage) Latest() (latest time.Duration) {
	for i := range p.epoch {
		latest = max(latest, p.deadline[i], p.armed[i])
	}
	return latest
}

const (
	t0  = 100 * time.Second
	ttl = 10 * time.Second
)

// bench is a lease with its page and its clock.
type bench struct {
	*Lease
	t    *testing.T
	dir  string
	page *fakePage
	now  time.Duration
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, dir: t.TempDir(), page: &fakePage{}, now: t0}
	b.restart()
	return b
}

// restart is another life of the agent on the same directory.
func (b *bench) restart() {
	b.t.Helper()
	var err error
	cfg := Config{Dir: b.dir, Page: func() Page { return b.page }, Now: func() time.Duration { return b.now }}
	if b.Lease, err = New(cfg, func() string { return "made" }); err != nil {
		b.t.Fatal(err)
	}
}

// session opens a session that assigns these, and has renewal 1 acknowledged.
func (b *bench) session(all ...fence.Binding) int64 {
	b.t.Helper()
	n, err := b.Hello()
	if err != nil {
		b.t.Fatal(err)
	}
	b.Assign(n, true, all)
	b.Sent(n, 1)
	b.Acked(n, 1, ttl)
	return n
}

func (b *bench) slot(x fence.Binding) int {
	b.t.Helper()
	slot, err := b.Slot(x.UID, x.Epoch)
	if err != nil {
		b.t.Fatal(err)
	}
	return slot
}

var web, db = fence.Binding{UID: "web", Epoch: 7}, fence.Binding{UID: "db", Epoch: 9}

func TestSessionNumbersRiseAcrossRestartsAndTheInstanceStays(t *testing.T) {
	b := newBench(t)
	last := int64(0)
	for range 3 {
		for range 2 {
			n, err := b.Hello()
			if err != nil || n <= last {
				t.Fatalf("session %d after %d: %v", n, last, err)
			}
			last = n
		}
		b.restart()
		if b.Instance() != "made" {
			t.Fatalf("instance %q", b.Instance())
		}
	}
}

func TestASessionThatCanNotBeNumberedOnDiskIsNotBegun(t *testing.T) {
	b := newBench(t)
	n := b.session(web)
	if err := os.Mkdir(filepath.Join(b.dir, "session.json.new"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Hello(); err == nil {
		t.Fatal("numbered without a disk")
	}
	if b.Sent(n, 2); b.slot(web) == 0 {
		t.Error("the session before is gone")
	}
}

func TestADamagedSessionFileIsRefused(t *testing.T) {
	for _, content := range []string{"", "{", `{"session":4}`, `{"instance":"i","session":-1}`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "session.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := New(Config{Dir: dir}, func() string { return "made" })
		if err == nil || !strings.Contains(err.Error(), "session.json is damaged") {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestAnAcknowledgementMovesTheDeadlineOnThePage(t *testing.T) {
	b := newBench(t)
	n := b.session(web)
	slot := b.slot(web)
	if got := b.page.Deadline(slot, web.Epoch); got != t0+ttl {
		t.Errorf("at first %v", got)
	}
	b.now += time.Second
	b.Sent(n, 2)
	b.now += time.Second
	b.Acked(n, 2, ttl)
	if got, want := b.page.Deadline(slot, web.Epoch), t0+time.Second+ttl; got != want {
		t.Errorf("then %v, want %v: from when it was sent", got, want)
	}
	if b.slot(web) != slot {
		t.Error("another slot at the second call")
	}
	b.Withdraw(n, []fence.Binding{web})
	b.Sent(n, 3)
	b.Acked(n, 3, ttl)
	if got, want := b.page.Deadline(slot, web.Epoch), t0+time.Second+ttl; got != want {
		t.Errorf("withdrawn, yet %v", got)
	}
}

func TestNoSlotBeforeThisSessionHasAssignedAndGivenTime(t *testing.T) {
	b := newBench(t)
	n, err := b.Hello()
	if err != nil {
		t.Fatal(err)
	}
	refused := func(when string) {
		t.Helper()
		if _, err := b.Slot(web.UID, web.Epoch); !errors.Is(err, ErrNotAssigned) {
			t.Errorf("%s: %v", when, err)
		}
	}
	refused("before the full set")
	b.Assign(n, false, []fence.Binding{web})
	refused("before the full set is whole")
	b.Assign(n, true, []fence.Binding{web})
	refused("before an acknowledgement")
	b.Sent(n, 1)
	b.Acked(n, 1, ttl)
	b.slot(web)
	b.now += ttl - fence.StartLead + 1
	refused("with under a second left")
	if _, err := b.Hello(); err != nil {
		t.Fatal(err)
	}
	refused("under a newer session")
}

func TestEverySlotIsGivenOnceAndThenNoMore(t *testing.T) {
	b := newBench(t)
	all := make([]fence.Binding, MaxSlots+1)
	for i := range all {
		all[i] = fence.Binding{UID: "p", Epoch: int64(i + 1)}
	}
	b.session(all...)
	seen := map[int]bool{}
	for _, x := range all[:MaxSlots] {
		slot := b.slot(x)
		if slot < 1 || slot > MaxSlots || seen[slot] {
			t.Fatalf("slot %d", slot)
		}
		seen[slot] = true
	}
	if _, err := b.Slot("p", MaxSlots+1); !errors.Is(err, ErrNoSlot) {
		t.Errorf("one more: %v", err)
	}
	b.Release("p", 5)
	b.slot(all[MaxSlots])
}

func TestASlotThatSomebodyUnknownHasArmedIsNotGivenAway(t *testing.T) {
	b := newBench(t)
	b.page.armed[1] = t0 + time.Second // by a supervisor of the agent before
	b.session(web)
	if slot := b.slot(web); slot != 2 {
		t.Errorf("slot %d", slot)
	}
}

func TestAnAdoptedPodKeepsItsSlotAndItsTime(t *testing.T) {
	b := newBench(t)
	b.session(web)
	slot := b.slot(web)
	b.now += time.Second
	b.restart()
	b.Adopt(web.UID, web.Epoch, slot)
	b.session(web, db)
	if b.slot(db) == slot || b.slot(web) != slot {
		t.Error("its slot was given away")
	}
	if got, want := b.page.Deadline(slot, web.Epoch), t0+time.Second+ttl; got != want {
		t.Errorf("deadline %v, want %v", got, want)
	}
}

func TestLongestCountsDeadlinesTimersAndPodsThatAreNotAdoptedYet(t *testing.T) {
	b := newBench(t)
	if got := b.Longest(); got != 0 {
		t.Errorf("without pods %v", got)
	}
	b.session(web)
	slot := b.slot(web)
	b.now += 4 * time.Second
	if got := b.Longest(); got != 6*time.Second {
		t.Errorf("by the deadline %v", got)
	}
	b.page.armed[slot] = b.now + 100*time.Second
	if got := b.Longest(); got != 100*time.Second {
		t.Errorf("by the timer %v", got)
	}
	b.restart()
	if got := b.Longest(); got != 100*time.Second {
		t.Errorf("after a restart, before it is adopted %v", got)
	}
}

func TestAPageMadeAnewIsToldWhatHoldsItsSlots(t *testing.T) {
	b := newBench(t)
	n := b.session(web)
	slot := b.slot(web)
	b.page = &fakePage{}
	if b.slot(web) != slot || b.page.Deadline(slot, web.Epoch) != t0+ttl {
		t.Errorf("asked for a slot: %v", b.page.Deadline(slot, web.Epoch))
	}
	b.page = &fakePage{}
	b.now += time.Second
	b.Sent(n, 2)
	b.Acked(n, 2, ttl)
	if got := b.page.Deadline(slot, web.Epoch); got != t0+time.Second+ttl {
		t.Errorf("acknowledged: %v", got)
	}
}

func TestNothingIsKeptOfPodsThatAreGone(t *testing.T) {
	b := newBench(t)
	for i := range int64(1000) {
		x := fence.Binding{UID: "p", Epoch: i + 1}
		n := b.session(x, db)
		if i%2 == 0 {
			b.slot(x)
			b.Withdraw(n, []fence.Binding{x})
			b.Release(x.UID, x.Epoch)
		}
	}
	b.session(db)
	if left := b.holder.Unassigned(); len(left) != 0 || len(b.slots) != 0 {
		t.Errorf("kept %d bindings, %d slots", len(left), len(b.slots))
	}
}
