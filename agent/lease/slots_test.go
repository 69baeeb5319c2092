package lease

import (
	"testing"
	"time"
)

func TestAReleasedSlotAllowsNothing(t *testing.T) {
	b := newBench(t)
	b.session(web)
	slot := b.slot(web)
	b.page.armed[slot] = t0 + ttl
	b.Release(web.UID, web.Epoch)
	if got := b.page.Deadline(slot, web.Epoch); got != 0 {
		t.Errorf("deadline %v", got)
	}
	if got := b.page.Latest(); got != 0 {
		t.Errorf("%v counts as the latest: a hold would never be taken back for it", got)
	}
	b.Release(web.UID, web.Epoch) // again: nothing
	if b.taken[slot] {
		t.Error("taken")
	}
}

func TestAPodIsAdoptedOnceAndNoSlotTwice(t *testing.T) {
	b := newBench(t)
	b.page.epoch[3], b.page.deadline[3] = web.Epoch, t0+time.Second
	b.page.epoch[4], b.page.deadline[4] = web.Epoch, t0+2*time.Second
	for _, slot := range []int{0, MaxSlots + 1, 3, 4} {
		b.Adopt(web.UID, web.Epoch, slot)
	}
	b.Adopt(db.UID, db.Epoch, 3)
	if len(b.slots) != 1 || b.slots[web].slot != 3 || b.taken[4] {
		t.Errorf("slots %v, the fourth taken %v", b.slots, b.taken[4])
	}
	b.session(web, db)
	if b.slot(web) != 3 || b.slot(db) == 3 {
		t.Error("another slot than it was adopted with")
	}
}

func TestAnAdoptedPodGetsTimeOnAPageThatIsNewerThanItself(t *testing.T) {
	b := newBench(t) // its page knows of no epoch, as after a reboot
	b.Adopt(web.UID, web.Epoch, 3)
	b.session(web)
	if got := b.slot(web); got != 3 || b.page.Deadline(got, web.Epoch) == 0 {
		t.Errorf("slot %d, deadline %v: its supervisor would refuse to start for ever", got, b.page.Deadline(3, web.Epoch))
	}
}

func TestABindingIsLiveUntilItsDeadlineAndAtItsEpochOnly(t *testing.T) {
	b := newBench(t)
	b.session(web)
	b.slot(web)
	if !b.Live(web.UID, web.Epoch) || b.Live(web.UID, web.Epoch+1) || b.Live(db.UID, db.Epoch) {
		t.Error("live is not what has time, and only that")
	}
	b.now = t0 + ttl
	if b.Live(web.UID, web.Epoch) {
		t.Error("live at its deadline")
	}
	b.now = t0
	b.Release(web.UID, web.Epoch)
	if b.Live(web.UID, web.Epoch) {
		t.Error("live though it has ended")
	}
}
