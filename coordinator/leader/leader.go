// Package leader is the loop that runs while this coordinator leads: it looks at one view of the store and at the signs
// of the nodes, asks the pure parts what follows, and writes that, each write on the condition that this coordinator
// still leads and that what was decided on is still so. failover says whether a pod may leave its node, the fence when
// that is safe, placement where it goes, workload what should exist.
package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/musterhq/muster/coordinator/election"
	"github.com/musterhq/muster/coordinator/failover"
	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/lease"
	"github.com/musterhq/muster/coordinator/restored"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/spec"
)

// The errors of what people ask of the leader.
var (
	// ErrRisk means that what was asked for may lead to a second instance, and that nobody has accepted that.
	ErrRisk = errors.New("its node is lost and the old instance may still run")
	// ErrNotBound means that a pod that is bound nowhere can't be moved.
	ErrNotBound = errors.New("is bound to no node")
)

const (
	// minPause is the least time between two passes: changes come in bursts. After a long pass it is as long as that was.
	minPause = 20 * time.Millisecond
	// atLeast is how often everything is looked at, though nothing has changed.
	atLeast = 10 * time.Second
	// writesAtOnce bounds the transactions of the leader that are under way.
	writesAtOnce = 64
	// testsPerSecond bounds how many nodes are tested in a second, testsAtOnce how many of them at a moment: one that has just
	// begun to lead has all of its fleet to ask about, while all of it comes back.
	testsPerSecond, testsAtOnce = 1000, 500
	// avoidFor is how long a pod that was moved by hand keeps off the node it left.
	avoidFor = 30 * time.Second
	// keepFailovers bounds the records of failovers.
	keepFailovers = 1000
)

// Leases is what the leader needs of coordinator/lease.
type Leases interface {
	Sign(node string) lease.Sign
}

// Guards asks a node's guard whether machine and agent live; it is given 400 ms.
type Guards func(ctx context.Context, address string) failover.Guard

// Witnesses asks at most n live members, of other failure domains first, what they hear of a node, and reports each
// answer to heard as it comes. It returns how many have answered.
type Witnesses func(ctx context.Context, node *fleet.Node, n int, heard func(failover.Witness)) (answered int)

// Events takes the coordinator's events; internal/event's Recorder does.
type Events interface {
	Record(ref spec.ObjectRef, kind, reason, message string)
}

// Config is what the leader goes by.
type Config struct {
	// AgentGrace is how long pods of a node whose agent is down may stay.
	AgentGrace time.Duration
	// PodCIDR is what the networks of nodes are cut from; see coordinator/podnet.
	PodCIDR netip.Prefix
	// Now reads a clock that only goes forward; it is the leases' clock.
	Now func() time.Duration
}

// Deps are the parts that the leader works with.
type Deps struct {
	Store store.Store
	Cache *store.Cache
	// Fleet is for questions between the passes.
	Fleet     *fleet.Shared
	Leases    Leases
	Guards    Guards
	Witnesses Witnesses
	// Members returns the gossip's word on each member.
	Members func() map[string]string
	Events  Events
	// Held says why restarts of a Deployment are held, by its uid, empty when they are not; or that this is not known yet. It
	// may be nil.
	Held func(uid string) (why string, known bool)
	// Restored may be nil: then no store comes from a snapshot.
	Restored *restored.Window
	Suffix   func() string
	Log      *slog.Logger
	Metrics  Metrics
	Traces   Traces
}

// Metrics is told of every failover whose phases are known.
type Metrics interface {
	Failover(f *spec.Failover)
}

// Traces is told of every move that has ended, at now by the leader's clock: outcome is Ready, or why it was given up.
type Traces interface {
	Moved(m *failover.Move, now time.Duration, outcome string)
}

// The ways in which a move ends.
const (
	OutcomeReady = "ready"
	// OutcomeSuperseded is that of a pod that was bound anew, or deleted, before it was ready.
	OutcomeSuperseded = "superseded"
	// OutcomeUnled is that of a move that the leader did not see the end of: it leads no more.
	OutcomeUnled = "unled"
)

// Leader leads, term after term. Its methods may be called from any goroutine, also while it does not lead.
type Leader struct {
	cfg     Config
	deps    Deps
	wake    chan struct{}
	outlook outlook
	// wrote is the newest revision of what this leader has written.
	wrote atomic.Int64

	mu        sync.Mutex
	term      election.Term
	leading   bool
	tracker   *failover.Tracker
	frozen    string
	delivered map[int64]time.Duration // by epoch
	accepted  map[int64]bool          // epochs whose second instance somebody has accepted
	avoid     map[spec.ObjectName]avoided
	tests     map[string]*test
}

type avoided struct {
	node  string
	until time.Duration
}

// New builds a leader that does not lead yet.
func New(cfg Config, deps Deps) *Leader {
	return &Leader{
		cfg: cfg, deps: deps, wake: make(chan struct{}, 1), tracker: &failover.Tracker{},
		delivered: map[int64]time.Duration{}, accepted: map[int64]bool{}, avoid: map[spec.ObjectName]avoided{},
		tests: map[string]*test{}, outlook: outlook{fleet: deps.Fleet, now: cfg.Now},
	}
}

func (l *Leader) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Poke has the leader look again, for something outside the store has changed.
func (l *Leader) Poke() { l.poke() }

// Frozen says why failover is frozen; empty when it is not.
func (l *Leader) Frozen() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.frozen
}

// Resume lets a frozen failover go on; false when it was not frozen.
func (l *Leader) Resume() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.tracker.Resume(l.cfg.Now()) {
		return false
	}
	l.frozen = ""
	l.poke()
	return true
}

// Delivered says that an agent was sent a binding for the first time.
func (l *Leader) Delivered(_ string, epoch int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leading && len(l.delivered) < 100_000 {
		l.delivered[epoch] = l.cfg.Now()
	}
}

// lead returns the condition of this term's writes.
func (l *Leader) lead() (store.Cond, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.leading {
		return store.Cond{}, election.ErrNotLeader
	}
	return l.term.Cond(), nil
}

// commit writes t while this term lasts.
func (l *Leader) commit(ctx context.Context, t store.Txn) (int64, error) {
	cond, err := l.lead()
	if err != nil {
		return 0, err
	}
	t.If = append([]store.Cond{cond}, t.If...)
	rev, err := l.deps.Store.Commit(ctx, t)
	for was := l.wrote.Load(); err == nil && rev > was && !l.wrote.CompareAndSwap(was, rev); was = l.wrote.Load() {
	}
	return rev, err
}

// written is what a write has come to.
type written struct {
	revision int64
	err      error
}

// commitAll writes transactions that do not depend on each other, many at a time: the store syncs them to disk together.
func (t *terms) commitAll(txns []store.Txn) []written {
	all := make([]written, len(txns))
	var g errgroup.Group
	g.SetLimit(writesAtOnce)
	for i := range txns {
		g.Go(func() error {
			all[i].revision, all[i].err = t.commit(t.ctx, txns[i])
			return nil
		})
	}
	_ = g.Wait() // each has its own error
	return all
}

// Move binds a pod anew elsewhere: its holder is asked to stop it first. A pod whose node is lost moves by itself, but
// for one of the class stay: that needs acceptRisk.
func (l *Leader) Move(ctx context.Context, name spec.ObjectName, acceptRisk bool) error {
	v := l.deps.Cache.View()
	p, ok := fleet.LookupPod(v, name)
	switch {
	case !ok:
		return fmt.Errorf("pod %s: %w", name, store.ErrNotFound)
	case p.Binding == nil:
		return fmt.Errorf("pod %s %w", name, ErrNotBound)
	}
	n, _ := fleet.LookupNode(v, p.Node())
	if n.Verdict() == spec.VerdictLost {
		if p.Binding.Class != spec.Stay {
			return nil // it moves by itself as soon as that is safe
		}
		if !acceptRisk {
			return fmt.Errorf("pod %s: %w", name, ErrRisk)
		}
		l.mu.Lock()
		l.accepted[p.Epoch] = true
		l.mu.Unlock()
		l.poke()
		return nil
	}
	l.mu.Lock()
	l.avoid[name] = avoided{node: p.Node(), until: l.cfg.Now() + avoidFor}
	l.mu.Unlock()
	if p.Stop != nil {
		return nil
	}
	_, err := l.commit(ctx, stop(&p, stopMove))
	return err
}

// Forget takes a deleted pod on a lost node away without waiting for the end of its binding. Elsewhere its holder ends
// it, and there is nothing to forget.
func (l *Leader) Forget(ctx context.Context, name spec.ObjectName) error {
	v := l.deps.Cache.View()
	p, ok := fleet.LookupPod(v, name)
	if !ok {
		return nil
	}
	if n, _ := fleet.LookupNode(v, p.Node()); n.Verdict() != spec.VerdictLost {
		return nil
	}
	l.deps.Log.Warn("pod given up without its fence: a second copy may run", "pod", name.String(), "node", p.Node(), "epoch", p.Epoch)
	rev, err := l.commit(ctx, forget(&p))
	if err != nil {
		return fmt.Errorf("forget pod %s: %w", name, err)
	}
	return l.deps.Cache.Wait(ctx, rev)
}

// Run leads until ctx, which ends with the term.
func (l *Leader) Run(ctx context.Context, term election.Term) error {
	l.mu.Lock()
	l.term, l.leading, l.tracker = term, true, &failover.Tracker{}
	clear(l.delivered)
	clear(l.tests)
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.leading, l.frozen = false, ""
		l.mu.Unlock()
	}()
	if err := l.deps.Cache.Wait(ctx, term.Revision); err != nil {
		return nil // the term has ended
	}
	t := l.newTerm(ctx)
	defer t.testing.Wait()
	defer func() {
		for _, m := range t.moves {
			l.deps.Traces.Moved(m, l.cfg.Now(), OutcomeUnled)
		}
	}()
	due, poked := l.cfg.Now(), true
	for {
		changed := l.deps.Cache.Changed()
		now := l.cfg.Now()
		recheck := t.pass(now, max(0, now-due), poked)
		pause := max(minPause, l.cfg.Now()-now)
		due, poked = min(recheck, now+time.Second), false
		wait := time.NewTimer(max(pause, due-l.cfg.Now()))
		select {
		case <-ctx.Done():
		case <-wait.C:
		case <-changed:
			due = l.cfg.Now() + pause
		case <-l.wake:
			due, poked = l.cfg.Now(), true
		}
		wait.Stop()
		if ctx.Err() != nil {
			return nil
		}
		if d := due - l.cfg.Now(); d > 0 && d <= pause {
			time.Sleep(d)
		}
	}
}
