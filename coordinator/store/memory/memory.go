// Package memory is the least implementation of store.Store: everything in maps, nothing on disk. Tests run on it, in
// fake time too.
package memory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/musterhq/muster/coordinator/store"
)

// history is how many revisions a watch may start in the past; older ones are compacted.
const history = 10000

// Store keeps records in memory. Make one with New.
type Store struct {
	mu       sync.Mutex
	closed   bool
	revision int64
	records  map[store.Key]store.Record
	leases   map[store.LeaseID]*lease
	byLease  map[store.Key]store.LeaseID
	next     store.LeaseID
	log      []store.Changes // one a revision
	oldest   int64           // the log has every change after this revision
	moved    chan struct{}   // closed and replaced at each revision
	done     chan struct{}   // closed by Close
	watches  sync.WaitGroup
}

type lease struct {
	ttl   time.Duration
	timer *time.Timer
	keys  map[store.Key]bool
}

// New returns an empty store.
func New() *Store {
	return &Store{
		records: map[store.Key]store.Record{}, leases: map[store.LeaseID]*lease{},
		byLease: map[store.Key]store.LeaseID{}, moved: make(chan struct{}), done: make(chan struct{}),
	}
}

var _ store.Store = (*Store)(nil)

func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return store.ErrClosed
	}
	return nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, k store.Key) (store.Record, error) {
	if err := s.enter(ctx); err != nil {
		return store.Record{}, err
	}
	defer s.mu.Unlock()
	r, ok := s.records[k]
	if !ok {
		return store.Record{}, fmt.Errorf("%s: %w", k, store.ErrNotFound)
	}
	return r, nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, families ...store.Family) ([]store.Record, int64, error) {
	if err := s.enter(ctx); err != nil {
		return nil, 0, err
	}
	defer s.mu.Unlock()
	var out []store.Record
	for k, r := range s.records {
		if len(families) == 0 || slices.Contains(families, k.Family) {
			out = append(out, r)
		}
	}
	return out, s.revision, nil
}

// Commit implements store.Store.
func (s *Store) Commit(ctx context.Context, t store.Txn) (int64, error) {
	revision, errs, err := s.CommitEach(ctx, []store.Txn{t})
	if err == nil {
		err = errs[0]
	}
	return revision, err
}

// CommitEach implements store.Store.
func (s *Store) CommitEach(ctx context.Context, ts []store.Txn) (int64, []error, error) {
	if err := store.CheckTxns(ts); err != nil {
		return 0, nil, err
	}
	if err := s.enter(ctx); err != nil {
		return 0, nil, err
	}
	defer s.mu.Unlock()
	errs := make([]error, len(ts))
	var writes []store.Write
	for i, t := range ts {
		if s.holds(t.If) {
			writes = append(writes, t.Then...)
		} else {
			errs[i] = store.ErrConflict
		}
	}
	for _, w := range writes {
		if w.Lease != 0 && s.leases[w.Lease] == nil {
			return 0, nil, fmt.Errorf("lease %d: %w", w.Lease, store.ErrNotFound)
		}
	}
	revision := s.revision + 1
	var changes []store.Change
	for _, w := range writes {
		changes = append(changes, s.write(w, revision)...)
	}
	if len(changes) > 0 {
		s.advance(revision, changes)
	}
	return s.revision, errs, nil
}

func (s *Store) holds(conds []store.Cond) bool {
	for _, c := range conds {
		if s.records[c.Key].Revision != c.Revision {
			return false
		}
	}
	return true
}

func (s *Store) write(w store.Write, revision int64) []store.Change {
	old, was := s.records[w.Key]
	if id := s.byLease[w.Key]; id != 0 {
		delete(s.leases[id].keys, w.Key)
		delete(s.byLease, w.Key)
	}
	if w.Value == nil {
		if !was {
			return nil
		}
		delete(s.records, w.Key)
		return []store.Change{{Key: w.Key, Revision: revision}}
	}
	r := store.Record{Key: w.Key, Value: w.Value, Revision: revision, Created: revision}
	if was {
		r.Created = old.Created
	}
	s.records[w.Key] = r
	if w.Lease != 0 {
		s.leases[w.Lease].keys[w.Key] = true
		s.byLease[w.Key] = w.Lease
	}
	return []store.Change{{Key: w.Key, Record: &r, Revision: revision}}
}

func (s *Store) advance(revision int64, changes []store.Change) {
	s.revision = revision
	s.log = append(s.log, store.Changes{Revision: revision, Changes: changes})
	if len(s.log) > history {
		s.compactLocked(s.log[0].Revision)
	}
	close(s.moved)
	s.moved = make(chan struct{})
}

// Compact forgets the changes up to a revision, as etcd does by and by.
func (s *Store) Compact(revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compactLocked(revision)
}

func (s *Store) compactLocked(revision int64) {
	for len(s.log) > 0 && s.log[0].Revision <= revision {
		s.oldest = s.log[0].Revision
		s.log = s.log[1:]
	}
}

// watch is a running watch.
type watch struct {
	c   chan store.Changes
	mu  sync.Mutex
	err error
}

func (w *watch) C() <-chan store.Changes { return w.c }

func (w *watch) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (w *watch) end(err error) {
	w.mu.Lock()
	w.err = err
	w.mu.Unlock()
	close(w.c)
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, after int64) store.Watch {
	w := &watch{c: make(chan store.Changes)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		w.end(store.ErrClosed)
		return w
	}
	s.watches.Go(func() { w.end(s.feed(ctx, w.c, after)) }) // ends with ctx or the store
	return w
}

func (s *Store) feed(ctx context.Context, c chan<- store.Changes, after int64) error {
	for {
		s.mu.Lock()
		if after < s.oldest {
			s.mu.Unlock()
			return fmt.Errorf("watch after revision %d: %w", after, store.ErrCompacted)
		}
		first, _ := slices.BinarySearchFunc(s.log, after+1, func(c store.Changes, r int64) int { return cmp.Compare(c.Revision, r) })
		out, moved := slices.Clone(s.log[first:]), s.moved
		s.mu.Unlock()
		for _, changes := range out {
			select {
			case c <- changes:
				after = changes.Revision
			case <-ctx.Done():
				return nil
			case <-s.done:
				return store.ErrClosed
			}
		}
		if len(out) > 0 {
			continue
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil
		case <-s.done:
			return store.ErrClosed
		}
	}
}

// minTTL is the shortest lease.
const minTTL = 2 * time.Second

// Grant implements store.Store.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (store.LeaseID, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	s.next++
	id := s.next
	ttl = max(minTTL, (ttl + time.Second - 1).Truncate(time.Second))
	s.leases[id] = &lease{ttl: ttl, keys: map[store.Key]bool{}, timer: time.AfterFunc(ttl, func() { s.expire(id) })}
	return id, nil
}

// KeepAlive implements store.Store.
func (s *Store) KeepAlive(ctx context.Context, id store.LeaseID) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	l := s.leases[id]
	if l == nil {
		return fmt.Errorf("lease %d: %w", id, store.ErrNotFound)
	}
	l.timer.Reset(l.ttl)
	return nil
}

// Revoke implements store.Store.
func (s *Store) Revoke(ctx context.Context, id store.LeaseID) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	known := s.leases[id] != nil
	s.mu.Unlock()
	if !known {
		return fmt.Errorf("lease %d: %w", id, store.ErrNotFound)
	}
	s.expire(id)
	return nil
}

func (s *Store) expire(id store.LeaseID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[id]
	if l == nil || s.closed {
		return
	}
	l.timer.Stop()
	var changes []store.Change
	for k := range l.keys {
		changes = append(changes, s.write(store.Write{Key: k}, s.revision+1)...)
	}
	delete(s.leases, id)
	if len(changes) > 0 {
		s.advance(s.revision+1, changes)
	}
}

// Writable implements store.Store.
func (s *Store) Writable(ctx context.Context) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	s.mu.Unlock()
	return nil
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		for _, l := range s.leases {
			l.timer.Stop()
		}
		close(s.done)
	}
	s.mu.Unlock()
	s.watches.Wait()
	return nil
}
