package storetest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/musterhq/muster/coordinator/store"
)

// Op is a call that a fault can be ordered for.
type Op string

// The calls.
const (
	Get        Op = "get"
	List       Op = "list"
	Commit     Op = "commit"
	CommitEach Op = "commit each"
	Grant      Op = "grant"
	KeepAlive  Op = "keep alive"
	Revoke     Op = "revoke"
	Writable   Op = "writable"
)

// Call is a call on its way into the store.
type Call struct {
	Op Op
	// Key is what Get reads; Txns what Commit (one) and CommitEach write; Lease what KeepAlive and Revoke are about.
	Key   store.Key
	Txns  []store.Txn
	Lease store.LeaseID
}

// Fault is what happens to one call. The zero Fault lets it through.
type Fault struct {
	// Delay holds the call up before it reaches the store; one whose context ends meanwhile does not reach it.
	Delay time.Duration
	// Refuse, if set, is what the call fails with; it does not reach the store.
	Refuse error
	// Unanswered lets the call reach the store, but its answer is lost: it fails with ErrUnknown.
	Unanswered bool
	// Late, with Unanswered, is how long after the caller was told ErrUnknown the call reaches the store.
	Late time.Duration
}

// Faults is a store that misbehaves on order in front of one that does not. It is made with NewFaults.
type Faults struct {
	inner   store.Store
	done    chan struct{} // closed by Close
	running sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	decide  func(Call) Fault
	held    chan struct{} // open while watches are held
	broken  error
	breaker chan struct{} // closed and replaced when watches break
}

var _ store.Store = (*Faults)(nil)

// NewFaults returns s without any fault, yet.
func NewFaults(s store.Store) *Faults {
	return &Faults{inner: s, done: make(chan struct{}), decide: func(Call) Fault { return Fault{} }, breaker: make(chan struct{})}
}

// On asks decide about each call from now on; nil ends all faults. It is called from the callers' goroutines, one at a
// time, and must not call the store.
func (f *Faults) On(decide func(Call) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if decide == nil {
		decide = func(Call) Fault { return Fault{} }
	}
	f.decide = decide
}

// HoldWatches makes watches stale: but for a batch that is on its way, they deliver nothing until ReleaseWatches.
func (f *Faults) HoldWatches() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held == nil {
		f.held = make(chan struct{})
	}
}

// ReleaseWatches lets held watches deliver what they have missed.
func (f *Faults) ReleaseWatches() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held != nil {
		close(f.held)
		f.held = nil
	}
}

// BreakWatches ends all watches that run, with err: ErrCompacted for one that must list again.
func (f *Faults) BreakWatches(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = err
	close(f.breaker)
	f.breaker = make(chan struct{})
}

// through takes one call through its fault.
func through[T any](ctx context.Context, f *Faults, c Call, do func(context.Context) (T, error)) (T, error) {
	var none T
	f.mu.Lock()
	fault := f.decide(c)
	f.mu.Unlock()
	if err := f.wait(ctx, fault.Delay); err != nil {
		return none, err
	}
	if fault.Refuse != nil {
		return none, fault.Refuse
	}
	if !fault.Unanswered {
		return do(ctx)
	}
	if fault.Late == 0 {
		_, _ = do(ctx) // its answer is lost
	} else {
		f.later(func() {
			ctx := context.WithoutCancel(ctx)
			if f.wait(ctx, fault.Late) == nil {
				_, _ = do(ctx)
			}
		})
	}
	return none, fmt.Errorf("%s: the answer was lost: %w", c.Op, store.ErrUnknown)
}

// failing is through for what has no result but its error.
func failing(ctx context.Context, f *Faults, c Call, do func(context.Context) error) error {
	_, err := through(ctx, f, c, func(ctx context.Context) (struct{}, error) { return struct{}{}, do(ctx) })
	return err
}

// later runs do unless the store is closed; Close waits for it.
func (f *Faults) later(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.running.Go(do)
	}
}

func (f *Faults) wait(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-f.done:
		return store.ErrClosed
	}
}

// Get implements store.Store.
func (f *Faults) Get(ctx context.Context, k store.Key) (store.Record, error) {
	return through(ctx, f, Call{Op: Get, Key: k}, func(ctx context.Context) (store.Record, error) { return f.inner.Get(ctx, k) })
}

// List implements store.Store.
func (f *Faults) List(ctx context.Context, families ...store.Family) ([]store.Record, int64, error) {
	type listed struct {
		recs     []store.Record
		revision int64
	}
	out, err := through(ctx, f, Call{Op: List}, func(ctx context.Context) (l listed, err error) {
		l.recs, l.revision, err = f.inner.List(ctx, families...)
		return l, err
	})
	return out.recs, out.revision, err
}

// Commit implements store.Store.
func (f *Faults) Commit(ctx context.Context, t store.Txn) (int64, error) {
	return through(ctx, f, Call{Op: Commit, Txns: []store.Txn{t}}, func(ctx context.Context) (int64, error) { return f.inner.Commit(ctx, t) })
}

// CommitEach implements store.Store.
func (f *Faults) CommitEach(ctx context.Context, ts []store.Txn) (int64, []error, error) {
	type round struct {
		revision int64
		errs     []error
	}
	out, err := through(ctx, f, Call{Op: CommitEach, Txns: ts}, func(ctx context.Context) (r round, err error) {
		r.revision, r.errs, err = f.inner.CommitEach(ctx, ts)
		return r, err
	})
	return out.revision, out.errs, err
}

// Grant implements store.Store.
func (f *Faults) Grant(ctx context.Context, ttl time.Duration) (store.LeaseID, error) {
	return through(ctx, f, Call{Op: Grant}, func(ctx context.Context) (store.LeaseID, error) { return f.inner.Grant(ctx, ttl) })
}

// KeepAlive implements store.Store.
func (f *Faults) KeepAlive(ctx context.Context, id store.LeaseID) error {
	return failing(ctx, f, Call{Op: KeepAlive, Lease: id}, func(ctx context.Context) error { return f.inner.KeepAlive(ctx, id) })
}

// Revoke implements store.Store.
func (f *Faults) Revoke(ctx context.Context, id store.LeaseID) error {
	return failing(ctx, f, Call{Op: Revoke, Lease: id}, func(ctx context.Context) error { return f.inner.Revoke(ctx, id) })
}

// Writable implements store.Store.
func (f *Faults) Writable(ctx context.Context) error {
	return failing(ctx, f, Call{Op: Writable}, f.inner.Writable)
}

// Close implements store.Store: it drops what was still to be applied late.
func (f *Faults) Close() error {
	f.mu.Lock()
	if !f.closed {
		f.closed = true
		close(f.done)
	}
	f.mu.Unlock()
	f.running.Wait()
	return f.inner.Close()
}

// Watch implements store.Store.
func (f *Faults) Watch(ctx context.Context, after int64) store.Watch {
	ctx, cancel := context.WithCancel(ctx)
	w := &faultyWatch{faults: f, inner: f.inner.Watch(ctx, after), c: make(chan store.Changes)}
	f.mu.Lock()
	defer f.mu.Unlock()
	w.breaker = f.breaker
	if f.closed {
		cancel()
		w.err = store.ErrClosed
		close(w.c)
		return w
	}
	f.running.Go(func() { // ends with ctx, the store or BreakWatches
		defer cancel()
		err := w.run(ctx)
		w.mu.Lock()
		w.err = err
		w.mu.Unlock()
		close(w.c)
	})
	return w
}

type faultyWatch struct {
	faults  *Faults
	inner   store.Watch
	breaker chan struct{}
	c       chan store.Changes

	mu  sync.Mutex
	err error
}

func (w *faultyWatch) C() <-chan store.Changes { return w.c }

func (w *faultyWatch) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (w *faultyWatch) run(ctx context.Context) error {
	for {
		select {
		case <-w.breaker:
			return w.why()
		case <-w.faults.done:
			return store.ErrClosed
		case changes, ok := <-w.inner.C():
			if !ok {
				return w.inner.Err()
			}
			if err, over := w.deliver(ctx, changes); over {
				return err
			}
		}
	}
}

// deliver hands changes on once watches are not held; over means that the watch is.
func (w *faultyWatch) deliver(ctx context.Context, changes store.Changes) (err error, over bool) {
	for {
		w.faults.mu.Lock()
		held := w.faults.held
		w.faults.mu.Unlock()
		out := w.c
		if held != nil {
			out = nil
		}
		select {
		case out <- changes:
			return nil, false
		case <-held:
		case <-w.breaker:
			return w.why(), true
		case <-ctx.Done():
			return nil, true
		case <-w.faults.done:
			return store.ErrClosed, true
		}
	}
}

func (w *faultyWatch) why() error {
	w.faults.mu.Lock()
	defer w.faults.mu.Unlock()
	return w.faults.broken
}
