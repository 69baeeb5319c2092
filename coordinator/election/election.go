// Package election lets one coordinator at a time lead: whoever has written the leader's key, under a store lease that
// it keeps alive. What a leader writes is conditioned on that key, so a deposed one's late write fails; nothing about
// nodes is ever concluded from it.
package election

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/spec"
)

// ErrNotLeader means that this coordinator does not lead.
var ErrNotLeader = errors.New("not the leader")

// Key is the leader's record.
var Key = store.Key{Family: store.Leader, Name: "leader"}

// retry is the pause after the store has failed.
const retry = 200 * time.Millisecond

// Config is who stands for election.
type Config struct {
	// Owner is this run of the coordinator.
	Owner string
	// TTL is how long a leader that is gone still counts; default 5 s, and 2 s where it is shorter.
	TTL time.Duration
	// Exclusive means that no other coordinator can be on this store: a leader's key that is found is of an earlier
	// run, and is taken over at once.
	Exclusive bool
}

// Term is one leadership.
type Term struct {
	// Owner is this run of the coordinator.
	Owner string
	// Revision is that of the leader's key.
	Revision int64
}

// Cond is what every write of this term is conditioned on.
func (t Term) Cond() store.Cond { return store.Cond{Key: Key, Revision: t.Revision} }

// Elector stands for election again and again.
type Elector struct {
	cfg   Config
	store store.Store
	log   *slog.Logger
}

// New builds an elector.
func New(cfg Config, s store.Store, log *slog.Logger) *Elector {
	if cfg.TTL == 0 {
		cfg.TTL = 5 * time.Second
	}
	cfg.TTL = max(cfg.TTL, 2*time.Second)
	return &Elector{cfg: cfg, store: s, log: log}
}

// Run calls lead each time this coordinator is elected, with a context that ends with the leadership, until ctx ends or
// lead fails while it leads. A lead that returns nil has resigned, and stands again. Run resigns before it returns.
func (e *Elector) Run(ctx context.Context, lead func(ctx context.Context, t Term) error) error {
	failing := false
	for {
		term, id, err := e.campaign(ctx)
		elected := err == nil
		if elected {
			failing = false
			e.log.Info("elected", "revision", term.Revision)
			err = e.hold(ctx, term, id, lead)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, store.ErrClosed):
			return err
		case errors.Is(err, ErrNotLeader):
			e.log.Warn("leadership lost", "err", err)
		case elected && err != nil:
			return err // leading itself has failed
		case err != nil && !failing:
			failing = true
			e.log.Warn("campaign failed", "err", err)
		}
		if !pause(ctx) {
			return nil
		}
	}
}

// pause waits before the store is asked again; false when ctx has ended.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(retry):
		return true
	}
}

// campaign waits until the leader's key is this coordinator's.
func (e *Elector) campaign(ctx context.Context) (Term, store.LeaseID, error) {
	id, err := e.store.Grant(ctx, e.cfg.TTL)
	if err != nil {
		return Term{}, 0, err
	}
	term, err := e.claim(ctx, id)
	if err != nil {
		e.revoke(id)
		return Term{}, 0, err
	}
	return term, id, nil
}

func (e *Elector) claim(ctx context.Context, id store.LeaseID) (Term, error) {
	mine := store.Write{Key: Key, Value: &spec.Leadership{Owner: e.cfg.Owner}, Lease: id}
	for {
		recs, revision, err := e.store.List(ctx, store.Leader)
		if err != nil {
			return Term{}, err
		}
		free := store.Cond{Key: Key}
		if i := slices.IndexFunc(recs, func(r store.Record) bool { return r.Key == Key }); i >= 0 {
			// A key of our own is of an earlier term, or of a write that went unanswered: it is written anew, under this lease.
			if !e.cfg.Exclusive && recs[i].Value.(*spec.Leadership).Owner != e.cfg.Owner {
				if err := e.await(ctx, revision, id); err != nil {
					return Term{}, err
				}
				continue
			}
			free.Revision = recs[i].Revision
		}
		rev, err := e.store.Commit(ctx, store.Txn{If: []store.Cond{free}, Then: []store.Write{mine}})
		switch {
		case err == nil:
			return Term{Owner: e.cfg.Owner, Revision: rev}, nil
		case errors.Is(err, store.ErrUnknown):
			if !pause(ctx) {
				return Term{}, ctx.Err()
			}
		case !errors.Is(err, store.ErrConflict):
			return Term{}, err
		}
	}
}

// await blocks until the leader's key may have gone, keeping our own lease alive meanwhile.
func (e *Elector) await(ctx context.Context, after int64, id store.LeaseID) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := e.store.Watch(ctx, after)
	alive := time.NewTicker(e.cfg.TTL / 3)
	defer alive.Stop()
	for {
		select {
		case <-alive.C:
			if err := e.keepAlive(ctx, id); err != nil {
				return err
			}
		case changes, ok := <-w.C():
			if !ok {
				if err := w.Err(); err != nil && !errors.Is(err, store.ErrCompacted) {
					return err
				}
				if !pause(ctx) {
					return ctx.Err()
				}
				return nil // it may have gone meanwhile
			}
			for _, c := range changes.Changes {
				if c.Key == Key {
					return nil
				}
			}
		}
	}
}

// keepAlive asks once, and does not wait for an answer that would come too late.
func (e *Elector) keepAlive(ctx context.Context, id store.LeaseID) error {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.TTL/3)
	defer cancel()
	return e.store.KeepAlive(ctx, id)
}

// hold runs lead while the key is ours.
func (e *Elector) hold(ctx context.Context, t Term, id store.LeaseID, lead func(context.Context, Term) error) error {
	defer e.revoke(id)
	ctx, depose := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { depose(e.watch(ctx, t)) })
	watching.Go(func() { depose(e.keep(ctx, id)) })
	err := lead(ctx, t)
	if cause := context.Cause(ctx); errors.Is(cause, ErrNotLeader) {
		err = cause
	}
	depose(nil)
	watching.Wait()
	return err
}

// keep keeps the lease alive until ctx ends. It returns why this coordinator leads no more.
func (e *Elector) keep(ctx context.Context, id store.LeaseID) error {
	alive := time.NewTicker(e.cfg.TTL / 3)
	defer alive.Stop()
	kept := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-alive.C:
		}
		asked := time.Now()
		err := e.keepAlive(ctx, id)
		switch {
		case err == nil:
			kept = asked
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrClosed):
			return fmt.Errorf("keep the leadership: %w: %w", ErrNotLeader, err)
		case time.Since(kept) >= e.cfg.TTL:
			return fmt.Errorf("the store has not answered for %v: %w: %w", e.cfg.TTL, ErrNotLeader, err)
		}
	}
}

// watch follows the leader's key until ctx ends. It returns why this coordinator leads no more.
func (e *Elector) watch(ctx context.Context, t Term) error {
	for after := t.Revision; ; {
		w := e.store.Watch(ctx, after)
		for changes := range w.C() {
			for _, c := range changes.Changes {
				if c.Key == Key {
					return fmt.Errorf("the leader's key changed at revision %d: %w", c.Revision, ErrNotLeader)
				}
			}
			after = changes.Revision
		}
		err := w.Err()
		if errors.Is(err, store.ErrClosed) {
			return fmt.Errorf("watch the leader's key: %w: %w", ErrNotLeader, err)
		}
		if !pause(ctx) {
			return nil
		}
		if !errors.Is(err, store.ErrCompacted) {
			continue
		}
		recs, revision, err := e.store.List(ctx, store.Leader)
		if err != nil {
			continue // the watch says the same again
		}
		if !slices.ContainsFunc(recs, func(r store.Record) bool { return r.Key == Key && r.Revision == t.Revision }) {
			return fmt.Errorf("the leader's key changed by revision %d: %w", revision, ErrNotLeader)
		}
		after = revision
	}
}

// revoke gives the key back, so that the next leader need not wait. It is given a moment of its own.
func (e *Elector) revoke(id store.LeaseID) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := e.store.Revoke(ctx, id); err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrClosed) {
		e.log.Warn("lease of the leadership not revoked", "err", err)
	}
}
