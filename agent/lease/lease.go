// Package lease owns the deadlines of a node's fenced pods: it numbers the sessions, notes when renewals go out, and
// writes what their acknowledgements allow onto the fence page, from which the pods' supervisors read it. The rules are
// internal/fence's.
package lease

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/atomicfile"
	"github.com/musterhq/muster/internal/fence"
)

// MaxSlots is the number of the last slot of the page; slot 0 is the page's own.
const MaxSlots = 1023

// The errors of a slot.
var (
	// ErrNotAssigned means that this session has not assigned the binding, or that it has no time to start yet.
	ErrNotAssigned = errors.New("not assigned by the present session")
	// ErrNoSlot means that every slot is taken.
	ErrNoSlot = fmt.Errorf("all %d slots of the fence page are taken", MaxSlots)
)

// Page is the fence page; agent/supervisor's MappedPage is one. Times are readings of CLOCK_BOOTTIME.
type Page interface {
	// Assign gives a slot to an epoch, without any time; 0 gives it to none.
	Assign(slot int, epoch int64)
	SetDeadline(slot int, at time.Duration)
	// Deadline is 0 when the slot is not that epoch's.
	Deadline(slot int, epoch int64) time.Duration
	// Armed is the latest that the slot's supervisor may have armed.
	Armed(slot int) time.Duration
	// Latest is the latest of all deadlines and of all that is armed.
	Latest() time.Duration
}

// Config is what a lease works with.
type Config struct {
	// Dir is where the session's number is kept; it exists.
	Dir string
	// Page returns the page to write to. It is another one after a guard has been replaced while no supervisor lived.
	Page func() Page
	// Now reads CLOCK_BOOTTIME.
	Now func() time.Duration
}

type held struct {
	slot int
	// page is where the slot was given to the binding.
	page Page
}

// Lease is a node's claim. Its methods may be called from any goroutine; none but Hello waits for the disk.
type Lease struct {
	cfg Config

	mu       sync.Mutex
	holder   *fence.Holder
	session  int64
	instance string
	slots    map[fence.Binding]*held
	taken    [MaxSlots + 1]bool
}

// identity is the file that numbers the sessions.
type identity struct {
	Instance string `json:"instance"`
	Session  int64  `json:"session"`
}

func (l *Lease) path() string { return filepath.Join(l.cfg.Dir, "session.json") }

// New reads the last session's number; newInstance makes the id of a new data directory.
func New(cfg Config, newInstance func() string) (*Lease, error) {
	l := &Lease{cfg: cfg, holder: fence.NewHolder(), slots: map[fence.Binding]*held{}}
	b, err := os.ReadFile(l.path())
	switch {
	case errors.Is(err, os.ErrNotExist):
		l.instance = newInstance()
		return l, l.save(0)
	case err != nil:
		return nil, err
	}
	var id identity
	if err := json.Unmarshal(b, &id); err != nil || id.Instance == "" || id.Session < 0 {
		return nil, fmt.Errorf("%s is damaged: a session number that may have been used must not be used again; remove the data directory to start anew", l.path())
	}
	l.instance, l.session = id.Instance, id.Session
	return l, nil
}

// Instance is the id that was made with the data directory.
func (l *Lease) Instance() string { return l.instance }

// save writes the file so that it is there, whole, after a power loss.
func (l *Lease) save(session int64) error {
	b, err := json.Marshal(identity{Instance: l.instance, Session: session})
	if err != nil {
		return err
	}
	return atomicfile.WriteDurable(l.path(), b, 0o600)
}

// Hello returns the number of a new session, higher than any before, once it is safe on disk.
func (l *Lease) Hello() (int64, error) {
	l.mu.Lock()
	next := l.session + 1
	l.mu.Unlock()
	if err := l.save(next); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.session = next
	l.holder.Begin(next)
	return next, nil
}

// Sent notes the time before renewal n of a session goes out.
func (l *Lease) Sent(session int64, n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holder.Sent(session, n, l.cfg.Now())
}

// Acked writes new deadlines onto the page: for ttl from when renewal n was sent.
func (l *Lease) Acked(session int64, n uint64, ttl time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.holder.Acked(session, n, ttl, l.cfg.Now()) {
		if h := l.slots[b]; h != nil {
			l.putLocked(b, h)
		}
	}
}

// putLocked writes a binding's deadline onto the page, if it has one. A page that is new since the slot was given out
// knows nothing of it: no supervisor lived when it was made.
func (l *Lease) putLocked(b fence.Binding, h *held) {
	page := l.cfg.Page()
	if page != h.page {
		page.Assign(h.slot, b.Epoch)
		h.page = page
	}
	if at, ok := l.holder.Deadline(b); ok {
		page.SetDeadline(h.slot, at)
	}
}

// Assign takes the fenced bindings of a session: all of them with full, otherwise more. The next acknowledgement gives
// them time to run.
func (l *Lease) Assign(session int64, full bool, bindings []fence.Binding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holder.Assign(session, full, bindings); full {
		l.forgetLocked()
	}
}

// Withdraw says that bindings are no longer assigned: they get no more time.
func (l *Lease) Withdraw(session int64, bindings []fence.Binding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range bindings {
		l.holder.Withdraw(session, b)
	}
	l.forgetLocked()
}

// Slot returns the slot of a binding that this session has assigned and that has time to start, the same at every call
// until Release.
func (l *Lease) Slot(uid string, epoch int64) (int, error) {
	b := fence.Binding{UID: uid, Epoch: epoch}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.holder.Assigned(b) {
		return 0, fmt.Errorf("pod %s epoch %d: %w", uid, epoch, ErrNotAssigned)
	}
	// A supervisor that finds no time on the page ends at once: the next acknowledgement gives it some.
	if at, ok := l.holder.Deadline(b); !ok || at-l.cfg.Now() < fence.StartLead {
		return 0, fmt.Errorf("pod %s epoch %d: no time yet: %w", uid, epoch, ErrNotAssigned)
	}
	if h := l.slots[b]; h != nil {
		l.putLocked(b, h)
		return h.slot, nil
	}
	page, now := l.cfg.Page(), l.cfg.Now()
	for i := 1; i <= MaxSlots; i++ {
		// A supervisor that nobody here knows of yet may have armed by it.
		if l.taken[i] || page.Armed(i) > now {
			continue
		}
		page.Assign(i, epoch)
		h := &held{slot: i, page: page}
		l.taken[i], l.slots[b] = true, h
		l.putLocked(b, h)
		return i, nil
	}
	return 0, ErrNoSlot
}

// Adopt says that a pod which runs already has a slot; it has the time that the page gives it.
func (l *Lease) Adopt(uid string, epoch int64, slot int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := fence.Binding{UID: uid, Epoch: epoch}
	if slot < 1 || slot > MaxSlots || l.taken[slot] || l.slots[b] != nil {
		return
	}
	page := l.cfg.Page()
	h := &held{slot: slot, page: page}
	if page.Deadline(slot, epoch) == 0 && page.Armed(slot) == 0 {
		h.page = nil // the page is newer than the pod, or never gave it time: it is to hear of the epoch first
	}
	l.taken[slot], l.slots[b] = true, h
	l.holder.Adopt(b, page.Deadline(slot, epoch))
}

// Live tells whether a binding's deadline has not passed: nobody can have bound its pod anew elsewhere.
func (l *Lease) Live(uid string, epoch int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.slots[fence.Binding{UID: uid, Epoch: epoch}]
	return h != nil && l.cfg.Page().Deadline(h.slot, epoch) > l.cfg.Now()
}

// Release gives a binding's slot back: no process of it is left.
func (l *Lease) Release(uid string, epoch int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := fence.Binding{UID: uid, Epoch: epoch}
	h := l.slots[b]
	if h == nil {
		return
	}
	l.cfg.Page().Assign(h.slot, 0)
	delete(l.slots, b)
	l.taken[h.slot] = false
	l.forgetLocked()
}

// forgetLocked drops what is neither assigned nor runs here.
func (l *Lease) forgetLocked() {
	for _, b := range l.holder.Unassigned() {
		if l.slots[b] == nil {
			l.holder.Forget(b)
		}
	}
}

// Longest is the longest time that any fenced pod on this node still has, by its deadline or by what its supervisor has
// armed, whether or not it has been adopted yet.
func (l *Lease) Longest() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.cfg.Now()
	return max(0, l.holder.Longest(now), l.cfg.Page().Latest()-now)
}
