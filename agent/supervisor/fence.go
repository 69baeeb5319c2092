package supervisor

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/internal/atomicfile"
	"github.com/musterhq/muster/internal/fence"
)

// guardLimit is how long the guard may take to hand out the page.
const guardLimit = 5 * time.Second

// podFence keeps a pod from executing past its deadline: it does what fence.Supervisor says. The kernel's timer is armed
// at every moment at which anything of the pod executes, and never for later than the page has said.
type podFence struct {
	pod   *pod
	page  *MappedPage
	timer *killTimer

	mu    sync.Mutex // held while a step is done: what steps believes to be armed is armed
	steps *fence.Supervisor
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
	f := &podFence{pod: p, page: page, steps: fence.NewSupervisor(p.rec.Grace)}
	if f.timer, err = newKillTimer(); err != nil {
		return nil, err
	}
	if _, err := f.advance(); err != nil {
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

// advance does one step after the other, each from what the page says then, until there is nothing to do but wait or end.
func (f *podFence) advance() (fence.Step, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch step := f.steps.Next(Boottime(), f.deadline()); step.Do {
		case fence.Publish:
			f.page.publish(f.pod.rec.FenceSlot, step.At)
		case fence.Arm:
			if err := f.timer.set(step.At - fence.KillLead); err != nil {
				return step, err
			}
		case fence.Refuse:
			return step, refusal(CodeFenced, "lease expired, or ends within "+fence.StartLead.String())
		default:
			return step, nil
		}
	}
}

// mayStart refuses with under a second left.
func (f *podFence) mayStart() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.steps.MayStart(Boottime(), f.deadline()) {
		return refusal(CodeFenced, "lease expired, or ends within "+fence.StartLead.String())
	}
	return nil
}

// run follows the page, and asks the pod to end when no more comes.
func (f *podFence) run() {
	for {
		step, err := f.advance()
		if err != nil { // what is armed is not known any more
			unix.Kill(os.Getpid(), unix.SIGKILL)
		}
		if step.Do == fence.Term {
			break
		}
		time.Sleep(step.Again - Boottime())
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
	atomicfile.Write(FencedFile, nil, 0o600) // a sign only: the page says the same
}
