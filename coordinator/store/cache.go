package store

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// buckets is how many maps a family is spread over: a change copies one of them.
	buckets = 256
	// recent is how many batches of changes the cache remembers for watches that resume.
	recent = 4096
	// relistPause is the pause before a broken watch is begun again.
	relistPause = 100 * time.Millisecond
)

// ErrSlow means that a subscriber did not keep up and was cut: resume after the last revision it has seen.
var ErrSlow = errors.New("subscriber too slow")

var hashSeed = maphash.MakeSeed()

func bucketOf(k Key) int {
	return int(maphash.Comparable(hashSeed, k) % buckets)
}

// View is the whole store at one revision. It never changes; reading it needs no lock.
type View struct {
	revision int64
	families map[Family]*family
}

type family struct {
	maps [buckets]map[Key]*Record
	size int
}

var emptyView = &View{families: map[Family]*family{}}

// Revision is the revision that the view is of.
func (v *View) Revision() int64 { return v.revision }

// Lookup returns a record, nil when it is absent.
func (v *View) Lookup(k Key) *Record {
	f := v.families[k.Family]
	if f == nil {
		return nil
	}
	return f.maps[bucketOf(k)][k]
}

// Len is the number of records of a family.
func (v *View) Len(f Family) int {
	if fam := v.families[f]; fam != nil {
		return fam.size
	}
	return 0
}

// All yields the records of a family, in no order.
func (v *View) All(f Family) iter.Seq[*Record] {
	return func(yield func(*Record) bool) {
		fam := v.families[f]
		if fam == nil {
			return
		}
		for _, m := range fam.maps {
			for _, r := range m {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// Get returns the value and revision of a record; ok is false when it is absent.
func Get[T any](v *View, k Key) (value T, revision int64, ok bool) {
	r := v.Lookup(k)
	if r == nil {
		return value, 0, false
	}
	value, ok = r.Value.(T)
	return value, r.Revision, ok
}

// with returns the view after changes; it copies only the maps that they touch.
func (v *View) with(c Changes) *View {
	next := &View{revision: max(v.revision, c.Revision), families: make(map[Family]*family, len(v.families)+1)}
	maps.Copy(next.families, v.families)
	copied := map[Family]*[buckets]bool{}
	for i := range c.Changes {
		change := &c.Changes[i]
		name, b := change.Key.Family, bucketOf(change.Key)
		if copied[name] == nil {
			copied[name] = &[buckets]bool{}
			f := family{}
			if old := v.families[name]; old != nil {
				f = *old
			}
			next.families[name] = &f
		}
		f := next.families[name]
		if !copied[name][b] {
			copied[name][b] = true
			m := make(map[Key]*Record, len(f.maps[b])+1)
			maps.Copy(m, f.maps[b])
			f.maps[b] = m
		}
		if _, was := f.maps[b][change.Key]; was {
			f.size--
		}
		if change.Record == nil {
			delete(f.maps[b], change.Key)
			continue
		}
		f.maps[b][change.Key] = change.Record
		f.size++
	}
	return next
}

// Cache is a copy of everything in a store, fed by one watch, that all readers are served from.
type Cache struct {
	store Store
	log   *slog.Logger
	view  atomic.Pointer[View]

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when the view has moved
	subs    map[*Subscription]struct{}
	ring    []Changes // the last batches, oldest first
	from    int64     // the ring has every change after this revision
	ready   chan struct{}
	once    sync.Once
}

// NewCache returns an empty cache of s; it fills in Run.
func NewCache(s Store, log *slog.Logger) *Cache {
	c := &Cache{store: s, log: log, changed: make(chan struct{}), subs: map[*Subscription]struct{}{}, ready: make(chan struct{})}
	c.view.Store(emptyView)
	return c
}

// Ready is closed once the cache has been filled for the first time.
func (c *Cache) Ready() <-chan struct{} { return c.ready }

// View is the newest view. It never blocks.
func (c *Cache) View() *View { return c.view.Load() }

// Run keeps the copy until ctx ends. A broken watch is begun again where it broke; a compacted one by a new list.
func (c *Cache) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := c.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, ErrClosed) {
			return err
		}
		c.log.Warn("watch of the store broken", "revision", c.View().Revision(), "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(relistPause):
		}
	}
	return nil
}

func (c *Cache) follow(ctx context.Context) error {
	recs, revision, err := c.store.List(ctx)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	c.relist(recs, revision)
	for {
		w := c.store.Watch(ctx, c.View().Revision())
		for changes := range w.C() {
			c.apply(changes)
		}
		err := w.Err()
		if ctx.Err() != nil || err != nil && (errors.Is(err, ErrCompacted) || errors.Is(err, ErrClosed)) {
			return err
		}
		c.log.Debug("watch of the store begun again", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(relistPause):
		}
	}
}

// relist turns a list into the changes that lead to it, so that subscribers need not know of it.
func (c *Cache) relist(recs []Record, revision int64) {
	old := c.View()
	now := make(map[Key]bool, len(recs))
	changes := Changes{Revision: revision}
	for i := range recs {
		r := &recs[i]
		now[r.Key] = true
		if was := old.Lookup(r.Key); was == nil || was.Revision != r.Revision {
			changes.Changes = append(changes.Changes, Change{Key: r.Key, Record: r, Revision: r.Revision})
		}
	}
	for f := range old.families {
		for r := range old.All(f) {
			if !now[r.Key] {
				changes.Changes = append(changes.Changes, Change{Key: r.Key, Revision: revision})
			}
		}
	}
	c.apply(changes)
	c.once.Do(func() {
		c.mu.Lock()
		c.ring, c.from = nil, revision
		c.mu.Unlock()
		close(c.ready)
	})
}

func (c *Cache) apply(changes Changes) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.view.Store(c.View().with(changes))
	close(c.changed)
	c.changed = make(chan struct{})
	if len(c.ring) == recent {
		c.from = c.ring[0].Revision
		c.ring = c.ring[1:]
	}
	c.ring = append(c.ring, changes)
	for s := range c.subs {
		s.deliver(changes)
	}
}

// Wait blocks until the view is at revision or later.
func (c *Cache) Wait(ctx context.Context, revision int64) error {
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if c.View().Revision() >= revision {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// Changed returns a channel that is closed when the view moves on from what it is now.
func (c *Cache) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Subscription delivers every change after the view that it came with.
type Subscription struct {
	cache *Cache
	c     chan Changes
	// Under cache.mu.
	cut bool
}

// Subscribe returns the newest view and a subscription to every change after it. One that is more than buffer batches
// behind is cut.
func (c *Cache) Subscribe(buffer int) (*View, *Subscription) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.View(), c.subscribeLocked(buffer)
}

func (c *Cache) subscribeLocked(buffer int) *Subscription {
	s := &Subscription{cache: c, c: make(chan Changes, buffer)}
	c.subs[s] = struct{}{}
	return s
}

// SubscribeAfter is Subscribe for someone who has seen everything up to a revision. ErrCompacted when the changes since
// then are no longer remembered.
func (c *Cache) SubscribeAfter(revision int64, buffer int) (*Subscription, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if revision < c.from {
		return nil, ErrCompacted
	}
	var missed []Changes
	for _, batch := range c.ring {
		if batch.Revision > revision {
			missed = append(missed, batch)
		}
	}
	s := c.subscribeLocked(buffer + len(missed))
	for _, batch := range missed {
		s.deliver(batch)
	}
	return s, nil
}

// deliver runs with cache.mu held.
func (s *Subscription) deliver(c Changes) {
	select {
	case s.c <- c:
	default:
		s.cut = true
		delete(s.cache.subs, s)
		close(s.c)
	}
}

// C yields the changes until ctx ends or the subscription is cut.
func (s *Subscription) C(ctx context.Context) iter.Seq[Changes] {
	return func(yield func(Changes) bool) {
		for {
			select {
			case <-ctx.Done():
				return
			case c, ok := <-s.c:
				if !ok || !yield(c) {
					return
				}
			}
		}
	}
}

// Err is ErrSlow once the subscription was cut.
func (s *Subscription) Err() error {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	if s.cut {
		return ErrSlow
	}
	return nil
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	delete(s.cache.subs, s)
}
