package supervisor

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/musterhq/muster/internal/fence"
)

const (
	// maxTermLead is how long before the kill SIGTERM comes at most.
	maxTermLead = 500 * time.Millisecond
	// startLead is how much time must be left for anything to start.
	startLead = time.Second
	// guardLimit is how long the guard may take to hand out the page.
	guardLimit = 5 * time.Second
)

// podFence keeps a pod from executing past its deadline. The kernel's timer is armed at every moment at which anything of
// the pod executes, and never for later than the page has said.
type podFence struct {
	pod   *pod
	page  *MappedPage
	timer *killTimer
	armed time.Duration
}

// startFence gets the page and arms the timer. It refuses with CodeFenced when there is under a second.
func startFence(p *pod) (*podFence, error) {
	ctx, cancel := context.WithTimeout(context.Background(), guardLimit)
	defer cancel()
	page, err := FetchPage(ctx, p.data)
	if err != nil {
		return nil, errors.New("get the fence page from the guard: " + err.Error())
	}
	if p.rec.FenceSlot < 1 || p.rec.FenceSlot >= PageBytes/8/slotWords {
		return nil, errors.New("fence slot is not in the page")
	}
	f := &podFence{pod: p, page: page}
	if f.timer, err = newKillTimer(); err != nil {
		return nil, err
	}
	if err := f.arm(); err != nil {
		return nil, err
	}
	if err := f.mayStart(); err != nil {
		return nil, err
	}
	go f.run()
	return f, nil
}

func (f *podFence) deadline() time.Duration {
	return f.page.Deadline(f.pod.rec.FenceSlot, f.pod.rec.Epoch)
}

// arm publishes what the page allows and then arms exactly that, or less if it has fallen meanwhile.
func (f *podFence) arm() error {
	at := f.deadline()
	if at == 0 {
		return refusal(CodeFenced, "lease expired")
	}
	f.page.publish(f.pod.rec.FenceSlot, max(at, f.armed))
	if again := f.deadline(); again < at {
		at = again
	}
	if err := f.timer.set(at - fence.KillLead); err != nil {
		return err
	}
	f.armed = at
	f.page.publish(f.pod.rec.FenceSlot, at)
	return nil
}

// mayStart refuses with under a second left.
func (f *podFence) mayStart() error {
	if f.deadline()-Boottime() < startLead {
		return refusal(CodeFenced, "lease expired, or ends within "+startLead.String())
	}
	return nil
}

// run follows the page at half of the remaining time, and asks the pod to end when no more comes.
func (f *podFence) run() {
	lead := fence.KillLead + min(max(f.pod.rec.Grace, 0), maxTermLead)
	for {
		left := f.armed - lead - Boottime()
		if at := f.deadline(); at != f.armed && at != 0 {
			if err := f.arm(); err == nil {
				left = f.armed - lead - Boottime()
			}
		}
		if left <= 0 {
			break
		}
		time.Sleep(max(left/2, 10*time.Millisecond))
	}
	p := f.pod
	p.mu.Lock()
	p.fenced = true
	all := make([]*instance, 0, len(p.newest))
	for _, in := range p.newest {
		all = append(all, in)
	}
	p.changedLocked()
	p.mu.Unlock()
	for _, in := range all {
		in.term()
	}
	WriteFileAtomic(FencedFile, nil, os.FileMode(0o600)) // a sign only: the page says the same
}
