// Package lease owns the leases of the nodes whose sessions this coordinator holds: it opens them, acknowledges
// renewals, answers a leader that seals one, and leaves a hold behind on an orderly stop. The rules are
// internal/fence's; this package gives them the clock, the store and the critical section of each node.
package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/fence"
	"github.com/musterhq/muster/internal/spec"
)

// The reasons for which a session is refused or ended.
var (
	ErrNodeNameTaken = fence.ErrNameTaken
	ErrSessionStale  = fence.ErrStale
	ErrBarred        = fence.ErrBarred
	ErrSealed        = fence.ErrNotOpen
	// ErrSeveral means that a lease was written by one of several coordinators, which count how certain they are.
	ErrSeveral = errors.New("lease of a cluster with several coordinators: not built yet")
)

// Config is this run of the coordinator.
type Config struct {
	// Owner is this run's id, never the coordinator's name.
	Owner string
	// TTL is T; 3 s to 10 min.
	TTL time.Duration
	// Now reads a clock that only goes forward; the readings are this run's.
	Now func() time.Duration
	// Certain tells whether nobody else can have taken this run's place; nil: always. It is asked in each node's critical section.
	Certain func() bool
}

// ErrUncertain means that another coordinator may have taken this one's place.
var ErrUncertain = errors.New("another coordinator may have taken this one's place")

// Hello is what an agent says of itself.
type Hello struct {
	Node, Instance, Boot string
	Session              int64
}

// Opened is what a session has been given.
type Opened struct {
	// Revision is that of the lease's record: assignments come from a view at it or later.
	Revision int64
	// TTL is how long an acknowledgement lasts at most, RenewEvery how often to renew.
	TTL, RenewEvery time.Duration
}

// Ack is the answer to a renewal.
type Ack struct{ TTL time.Duration }

// Sign is when a node was last heard, for the leader.
type Sign struct {
	// Ago is how long ago the last sign of life came in this run; Heard is false when none did.
	Ago   time.Duration
	Heard bool
	// Up is whether a session is open.
	Up bool
	// Expired is whether its lease is over by itself: the last acknowledgement of this run, or of an earlier one, has run
	// out by every clock.
	Expired bool
	// Comeback is how long the agent has still announced to be away; 0 when it has not, or the time is over.
	Comeback time.Duration
}

// slot is one node. Its mutex is the critical section of the protocol: nothing in it waits.
type slot struct {
	mu       sync.Mutex
	owner    *fence.Owner
	up       int64 // the session that is up; 0 for none
	heard    time.Duration
	known    bool
	comeback time.Duration
	lower    *lowered // waits to be written
	acked    bool     // since the hold
}

// lowered is a record that takes a hold back, in place of the one at revision.
type lowered struct {
	rec      fence.Record
	revision int64
}

// Leases holds every node's slot.
type Leases struct {
	cfg   Config
	store store.Store
	cache *store.Cache
	log   *slog.Logger
	start time.Duration
	wake  chan struct{}

	mu      sync.Mutex
	slots   map[string]*slot
	holding bool // Hold has begun: what opens now is held, too
}

// New begins a run: nothing has been acknowledged by it. The cache must have been filled.
func New(cfg Config, s store.Store, c *store.Cache, log *slog.Logger) (*Leases, error) {
	if err := fence.CheckTTL(cfg.TTL); err != nil {
		return nil, err
	}
	if cfg.Certain == nil {
		cfg.Certain = func() bool { return true }
	}
	return &Leases{
		cfg: cfg, store: s, cache: c, log: log, start: cfg.Now(), wake: make(chan struct{}, 1), slots: map[string]*slot{},
	}, nil
}

func key(node string) store.Key { return store.Key{Family: store.NodeLeases, Name: node} }

// Record is a stored lease as the fence sees it; nil is the lease of a node that never had one.
func Record(l *spec.NodeLease) fence.Record {
	if l == nil {
		return fence.Record{}
	}
	return fence.Record{
		State: fence.State(l.State), Owner: l.Owner, Session: l.Session, Instance: l.Instance, Boot: l.Boot,
		TTL: l.TTL, Remaining: l.Remaining, Barred: l.Barred,
	}
}

// Spec is a record as it is stored. With one embedded member a coordinator is always certain of being the owner, so the
// certainty counts nothing.
func Spec(r fence.Record) *spec.NodeLease {
	return &spec.NodeLease{
		State: spec.LeaseState(r.State), Owner: r.Owner, Session: r.Session, Instance: r.Instance, Boot: r.Boot,
		TTL: r.TTL, Remaining: r.Remaining, Barred: r.Barred,
	}
}

// slot returns a node's slot as this run found it.
func (l *Leases) slot(node string) *slot {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.slots[node]
	if s == nil {
		rec, revision, _ := store.Get[*spec.NodeLease](l.cache.View(), key(node))
		s = &slot{owner: fence.NewOwner(l.cfg.Owner, l.cfg.TTL, Record(rec), revision, l.start, l.cfg.Now())}
		l.slots[node] = s
	}
	return s
}

// read brings the slot up to what is stored.
func (l *Leases) read(ctx context.Context, node string, s *slot) error {
	rec, err := l.store.Get(ctx, key(node))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read lease of node %s: %w", node, err)
	}
	stored := rec.Value.(*spec.NodeLease)
	if stored.Certainty != 0 {
		return fmt.Errorf("node %s: %w", node, ErrSeveral)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owner.See(l.cfg.Now(), Record(stored), rec.Revision)
	return nil
}

// Open opens a session's lease, or says why not. Hello counts as a renewal received.
func (l *Leases) Open(ctx context.Context, h Hello) (Opened, error) {
	heard := l.cfg.Now()
	s := l.slot(h.Node)
	for {
		if !l.cfg.Certain() {
			return Opened{}, fmt.Errorf("node %s: %w", h.Node, ErrUncertain)
		}
		if err := l.read(ctx, h.Node, s); err != nil {
			return Opened{}, err
		}
		s.mu.Lock()
		rec, err := s.owner.Admit(l.cfg.Now(), fence.Hello{Session: h.Session, Instance: h.Instance, Boot: h.Boot})
		_, revision := s.owner.Record()
		s.mu.Unlock()
		if err != nil {
			return Opened{}, fmt.Errorf("node %s: %w", h.Node, err)
		}
		opened, err := l.write(ctx, h.Node, rec, revision)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return Opened{}, fmt.Errorf("open lease of node %s: %w", h.Node, err)
		}
		if err := l.up(ctx, h, s, heard, rec, opened); err != nil {
			return Opened{}, fmt.Errorf("node %s: %w", h.Node, err)
		}
		return Opened{Revision: opened, TTL: rec.TTL, RenewEvery: fence.RenewEvery(l.cfg.TTL)}, nil
	}
}

// up notes that a session is open, unless a newer record has been seen.
func (l *Leases) up(ctx context.Context, h Hello, s *slot, heard time.Duration, rec fence.Record, revision int64) error {
	s.mu.Lock()
	if !s.owner.Opened(heard, rec, revision) {
		s.mu.Unlock()
		return ErrSealed
	}
	s.up, s.heard, s.known, s.comeback = h.Session, heard, true, 0
	s.mu.Unlock()
	l.mu.Lock()
	holding := l.holding
	l.mu.Unlock()
	if holding {
		l.holdOne(ctx, h.Node, s)
	}
	return nil
}

// write stores a lease that is still at revision. An unknown outcome is read again: it was written if it says so.
func (l *Leases) write(ctx context.Context, node string, rec fence.Record, revision int64) (int64, error) {
	rev, err := l.store.Commit(ctx, store.Txn{
		If:   []store.Cond{{Key: key(node), Revision: revision}},
		Then: []store.Write{{Key: key(node), Value: Spec(rec)}},
	})
	if !errors.Is(err, store.ErrUnknown) {
		return rev, err
	}
	now, readErr := l.store.Get(ctx, key(node))
	if readErr == nil && now.Revision > revision && Record(now.Value.(*spec.NodeLease)) == rec {
		return now.Revision, nil
	}
	return 0, err
}

// Renew acknowledges a renewal, or says why the session is over. It touches the node's slot only and never waits.
func (l *Leases) Renew(node string, session int64, _ uint64, held bool, longest time.Duration) (Ack, error) {
	s := l.slot(node)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !l.cfg.Certain() {
		return Ack{}, fmt.Errorf("node %s session %d: %w", node, session, ErrUncertain)
	}
	now := l.cfg.Now()
	ttl, err := s.owner.Renew(now, session)
	if err != nil {
		return Ack{}, fmt.Errorf("node %s session %d: %w", node, session, err)
	}
	// Without the full set a renewal is no sign of life: the agent can do nothing yet.
	if held {
		s.heard, s.known = now, true
	}
	s.acked = true
	if rec, ok := s.owner.Lower(longest); ok && s.lower == nil {
		_, revision := s.owner.Record()
		s.lower = &lowered{rec, revision}
		l.signal()
	}
	return Ack{TTL: ttl}, nil
}

// Revision is that of a session's lease record now, false when the session is over. A hold, and its end, change it:
// what is to hold only while the session does is conditioned on this one.
func (l *Leases) Revision(node string, session int64) (int64, bool) {
	s := l.slot(node)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owner.Revision(session)
}

func (l *Leases) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Closed says that a session's streams are gone. Its lease lives on until it is over.
func (l *Leases) Closed(node string, session int64) {
	s := l.slot(node)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.up == session {
		s.up = 0
	}
}

// Bye says that an agent stops on purpose and means to be back within restart.
func (l *Leases) Bye(node string, session int64, restart time.Duration) {
	s := l.slot(node)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.up == session {
		s.comeback = l.cfg.Now() + restart
	}
}

// Sign is what is known of a node's life.
func (l *Leases) Sign(node string) Sign {
	s := l.slot(node)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := l.cfg.Now()
	sign := Sign{Up: s.up != 0, Heard: s.known, Expired: s.owner.Expired(now), Comeback: max(0, s.comeback-now)}
	if s.known {
		sign.Ago = now - s.heard
	}
	return sign
}

// Run follows the stored leases until ctx ends: it answers seals and lowers a hold that is over.
func (l *Leases) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		v, sub := l.cache.Subscribe(4096)
		for rec := range v.All(store.NodeLeases) {
			l.see(ctx, rec)
		}
		l.follow(ctx, sub)
		sub.Close()
	}
	return nil
}

func (l *Leases) follow(ctx context.Context, sub *store.Subscription) {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for changes := range sub.C(ctx) {
			for _, c := range changes.Changes {
				if c.Key.Family == store.NodeLeases && c.Record != nil {
					l.see(ctx, c.Record)
				}
			}
		}
		return errors.New("subscription ended")
	})
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-l.wake:
				l.lowerAll(ctx)
			}
		}
	})
	_ = g.Wait() // Run subscribes again
}

// see takes a stored lease, and answers it when it asks for an end. This run answers for earlier ones on its data
// directory as well.
func (l *Leases) see(ctx context.Context, r *store.Record) {
	node := r.Key.Name
	s := l.slot(node)
	for ctx.Err() == nil {
		s.mu.Lock()
		s.owner.See(l.cfg.Now(), Record(r.Value.(*spec.NodeLease)), r.Revision)
		rec, ok := s.owner.Seal(l.cfg.Now())
		_, revision := s.owner.Record()
		s.mu.Unlock()
		if !ok {
			return
		}
		rev, err := l.write(ctx, node, rec, revision)
		switch {
		case err == nil:
			s.mu.Lock()
			s.owner.Written(l.cfg.Now(), rec, rev)
			s.mu.Unlock()
			l.log.Info("lease sealed", "node", node, "remaining", rec.Remaining, "barred", rec.Barred)
			return
		case errors.Is(err, store.ErrConflict):
			return // a newer record comes through the watch
		}
		l.log.Warn("lease not sealed yet", "node", node, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (l *Leases) each(f func(node string, s *slot)) {
	l.mu.Lock()
	slots := maps.Clone(l.slots)
	l.mu.Unlock()
	for n, s := range slots {
		f(n, s)
	}
}

func (l *Leases) lowerAll(ctx context.Context) {
	l.each(func(node string, s *slot) {
		s.mu.Lock()
		low := s.lower
		s.lower = nil
		s.mu.Unlock()
		if low == nil {
			return
		}
		rev, err := l.write(ctx, node, low.rec, low.revision)
		if err != nil {
			return // the next renewal asks for it again
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.owner.Written(l.cfg.Now(), low.rec, rev)
	})
}

// Hold leaves a long T behind before an orderly stop, and waits until every node that is up has been acknowledged with
// it, or ctx ends. It returns how many nodes have it. Renewals must go on meanwhile.
func (l *Leases) Hold(ctx context.Context) int {
	l.mu.Lock()
	l.holding = true
	l.mu.Unlock()
	var held []*slot
	var mu sync.Mutex
	g := errgroup.Group{}
	g.SetLimit(32)
	l.each(func(node string, s *slot) {
		g.Go(func() error {
			if l.holdOne(ctx, node, s) {
				mu.Lock()
				defer mu.Unlock()
				held = append(held, s)
			}
			return nil
		})
	})
	_ = g.Wait() // its functions return no error
	n := 0
	for _, s := range held {
		for {
			s.mu.Lock()
			acked, up := s.acked, s.up != 0
			s.mu.Unlock()
			if acked {
				n++
			}
			if acked || !up || ctx.Err() != nil {
				break
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return n
}

// holdOne writes the hold of one node, and tells whether its next renewal is acknowledged with it.
func (l *Leases) holdOne(ctx context.Context, node string, s *slot) bool {
	for {
		s.mu.Lock()
		rec, ok := s.owner.Hold()
		_, revision := s.owner.Record()
		s.mu.Unlock()
		if !ok {
			return false
		}
		rev, err := l.write(ctx, node, rec, revision)
		if err == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.owner.Written(l.cfg.Now(), rec, rev)
			s.acked = false
			return s.up != 0
		}
		if errors.Is(err, store.ErrConflict) {
			err = l.read(ctx, node, s) // it was sealed, opened anew, or lowered
		}
		if err != nil {
			l.log.Warn("hold not written", "node", node, "err", err)
			return false
		}
	}
}
