// Package election lets one coordinator at a time lead: whoever has written the leader's key, under a store lease that
// it keeps alive. What a leader writes is conditioned on that key, so a deposed one's late write fails; nothing about
// nodes is ever concluded from it.
package election

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	// TTL is how long a leader that is gone still counts; default 5 s, at least 2 s.
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
	return &Elector{cfg: cfg, store: s, log: log}
}

// Run calls lead each time this coordinator is elected, with a context that ends with the leadership, until ctx ends or
// lead fails while it leads. It resigns before it returns.
func (e *Elector) Run(ctx context.Context, lead func(ctx context.Context, t Term) error) error {
	for ctx.Err() == nil {
		term, id, err := e.campaign(ctx)
		if err == nil {
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
		case err != nil && term.Revision != 0:
			return err // leading itself has failed
		case err != nil:
			e.log.Warn("campaign failed", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
	}
	return nil
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
	free := store.Cond{Key: Key}
	for {
		_, revision, err := e.store.List(ctx, store.Leader)
		if err != nil {
			return Term{}, err
		}
		mine := store.Write{Key: Key, Value: &spec.Leadership{Owner: e.cfg.Owner}, Lease: id}
		rev, err := e.store.Commit(ctx, store.Txn{If: []store.Cond{free}, Then: []store.Write{mine}})
		switch {
		case err == nil:
			return Term{Owner: e.cfg.Owner, Revision: rev}, nil
		case errors.Is(err, store.ErrUnknown):
			// It may have been written: then the key says so.
		case !errors.Is(err, store.ErrConflict):
			return Term{}, err
		}
		rec, err := e.store.Get(ctx, Key)
		if errors.Is(err, store.ErrNotFound) {
			free.Revision = 0
			continue
		}
		if err != nil {
			return Term{}, err
		}
		if rec.Value.(*spec.Leadership).Owner == e.cfg.Owner {
			return Term{Owner: e.cfg.Owner, Revision: rec.Revision}, nil
		}
		if e.cfg.Exclusive {
			free.Revision = rec.Revision
			continue
		}
		free.Revision = 0
		if err := e.await(ctx, revision, id); err != nil {
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
			if err := e.store.KeepAlive(ctx, id); err != nil {
				return err
			}
		case changes, ok := <-w.C():
			if !ok {
				return errors.Join(ctx.Err(), w.Err())
			}
			for _, c := range changes.Changes {
				if c.Key == Key {
					return nil
				}
			}
		}
	}
}

// hold runs lead while the key is ours.
func (e *Elector) hold(ctx context.Context, t Term, id store.LeaseID, lead func(context.Context, Term) error) error {
	leadCtx, depose := context.WithCancelCause(ctx)
	defer depose(nil)
	done := make(chan error, 1)
	go func() { done <- lead(leadCtx, t) }()
	defer e.revoke(id)

	watchCtx, stop := context.WithCancel(ctx)
	defer stop()
	w := e.store.Watch(watchCtx, t.Revision)
	alive := time.NewTicker(e.cfg.TTL / 3)
	defer alive.Stop()
	kept := time.Now()
	for {
		select {
		case err := <-done:
			if cause := context.Cause(leadCtx); cause != nil && ctx.Err() == nil {
				return cause
			}
			return err
		case changes, ok := <-w.C():
			if !ok {
				if ctx.Err() == nil {
					w = e.store.Watch(watchCtx, t.Revision) // what it missed is delivered again; compaction shows at the write
					time.Sleep(retry)
				}
				continue
			}
			for _, c := range changes.Changes {
				if c.Key == Key && (c.Record == nil || c.Record.Revision != t.Revision) {
					depose(fmt.Errorf("the leader's key changed at revision %d: %w", c.Revision, ErrNotLeader))
				}
			}
		case <-alive.C:
			err := e.store.KeepAlive(ctx, id)
			switch {
			case err == nil:
				kept = time.Now()
			case errors.Is(err, store.ErrNotFound):
				depose(fmt.Errorf("the store's lease has expired: %w", ErrNotLeader))
			case time.Since(kept) > e.cfg.TTL && ctx.Err() == nil:
				depose(fmt.Errorf("the store has not answered for %v: %w: %w", e.cfg.TTL, ErrNotLeader, err))
			}
		}
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
