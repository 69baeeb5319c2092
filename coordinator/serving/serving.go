// Package serving lets one coordinator at a time serve on a store that others can reach, too. Until several of them can share a
// fleet, that is what makes waits after a start right: whoever serves knows that nobody else acknowledges anything.
//
// A record says which run serves; it stays when that run dies. A key under a lease of the store says that it lives. A run that finds
// another's record waits until that key is gone, and then, by its own clock, for as long as the lease: only by then the other has
// certainly stopped, whenever the store's clock let the lease end. A run counts itself as serving for less than the lease after it
// last asked for more of it.
package serving

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/spec"
)

const (
	// TTL is how long a coordinator that is gone keeps others from serving, at least.
	TTL = 15 * time.Second
	// lead is how much earlier it stops by itself: clocks run by at most a tenth apart.
	lead = 3 * time.Second
	// every is how often it asks for more, and how often one that waits looks.
	every = 2 * time.Second
)

// ErrLost means that this run must not serve any more.
var ErrLost = errors.New("this coordinator serves no more")

var (
	recordKey = store.Key{Family: store.Config, Name: "serving"}
	aliveKey  = store.Key{Family: store.Config, Name: "serving-alive"}
)

// record is who serves, or did last.
type record struct {
	// Owner is the run, Home its data directory: one of the same directory has ended, its lock says so.
	Owner, Home string
	// Name is for people.
	Name string
	// Released is set by an orderly end.
	Released bool
}

// Config is who wants to serve.
type Config struct {
	// Owner is this run's id, Home that of its data directory, Name for people.
	Owner, Home, Name string
	// Now reads a clock that goes on while the machine is suspended.
	Now func() time.Duration
}

// Claim is the right to serve.
type Claim struct {
	cfg      Config
	store    store.Store
	lease    store.LeaseID
	revision int64
	// until is when this run stops serving by itself, on cfg.Now.
	until atomic.Int64
}

// Wait returns once nobody else serves, however long that takes; an error is ctx's, or a store that has been closed.
func Wait(ctx context.Context, cfg Config, s store.Store, log *slog.Logger) (*Claim, error) {
	var gone time.Duration // since when the other's key has been missing
	told, failing := "", false
	for {
		c, other, err := try(ctx, cfg, s, &gone)
		switch {
		case c != nil:
			return c, nil
		case errors.Is(err, store.ErrClosed):
			return nil, err
		case err != nil && !failing && ctx.Err() == nil:
			failing = true
			log.Warn("the store does not answer: waiting for it", "err", err)
		case err == nil && other.Owner != told:
			told, failing = other.Owner, false
			log.Warn("another coordinator serves on this store: waiting for it to end", "name", other.Name, "run", other.Owner)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(every):
		}
	}
}

// try claims the right to serve; nil while somebody else has it.
func try(ctx context.Context, cfg Config, s store.Store, gone *time.Duration) (*Claim, record, error) {
	was, revision, err := read(ctx, s)
	if err != nil {
		return nil, was, err
	}
	alive, err := s.Get(ctx, aliveKey)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, was, err
	}
	if revision != 0 && !was.Released && was.Home != cfg.Home {
		now := cfg.Now()
		if alive.Revision != 0 {
			*gone = 0
			return nil, was, nil
		}
		if *gone == 0 {
			*gone = now
		}
		if now-*gone < TTL {
			return nil, was, nil
		}
	}
	sent := cfg.Now()
	id, err := s.Grant(ctx, TTL)
	if err != nil {
		return nil, was, err
	}
	c := &Claim{cfg: cfg, store: s, lease: id}
	text, err := json.Marshal(record{Owner: cfg.Owner, Home: cfg.Home, Name: cfg.Name})
	if err != nil {
		return nil, was, err
	}
	c.revision, err = s.Commit(ctx, store.Txn{
		If: []store.Cond{{Key: recordKey, Revision: revision}, {Key: aliveKey, Revision: alive.Revision}},
		Then: []store.Write{
			{Key: recordKey, Value: &spec.Blob{Data: text}},
			{Key: aliveKey, Value: &spec.Blob{Data: []byte(cfg.Owner)}, Lease: id},
		},
	})
	if err != nil {
		_ = s.Revoke(context.WithoutCancel(ctx), id) // else it ends by itself
		if errors.Is(err, store.ErrConflict) {
			err = nil
		}
		return nil, was, err
	}
	c.until.Store(int64(sent + TTL - lead))
	return c, was, nil
}

func read(ctx context.Context, s store.Store) (was record, revision int64, err error) {
	r, err := s.Get(ctx, recordKey)
	if errors.Is(err, store.ErrNotFound) {
		return was, 0, nil
	}
	if err != nil {
		return was, 0, err
	}
	blob, ok := r.Value.(*spec.Blob)
	if !ok {
		return was, 0, fmt.Errorf("%s: a %T", recordKey, r.Value)
	}
	if err := json.Unmarshal(blob.Data, &was); err != nil {
		return was, 0, fmt.Errorf("%s: %w", recordKey, err)
	}
	return was, r.Revision, nil
}

// Valid tells whether this run certainly serves alone now. It may be called from any goroutine and never waits.
func (c *Claim) Valid() bool { return c.cfg.Now() < time.Duration(c.until.Load()) }

// Run keeps the claim until ctx ends, and returns ErrLost when it could not: the store has not answered for so long, or has let the
// lease go.
func (c *Claim) Run(ctx context.Context) error {
	var last error
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
		sent := c.cfg.Now()
		limit, cancel := context.WithTimeout(ctx, every)
		err := c.store.KeepAlive(limit, c.lease)
		cancel()
		switch {
		case err == nil:
			c.until.Store(int64(sent + TTL - lead))
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, store.ErrNotFound):
			return fmt.Errorf("%w: the store has let its lease go", ErrLost)
		default:
			last = err
		}
		if !c.Valid() {
			return fmt.Errorf("%w: the store has not answered for %v: %w", ErrLost, TTL-lead, last)
		}
	}
}

// Release lets the next one serve at once. It is for an orderly end, when nothing is acknowledged any more.
func (c *Claim) Release(ctx context.Context) {
	text, err := json.Marshal(record{Owner: c.cfg.Owner, Home: c.cfg.Home, Name: c.cfg.Name, Released: true})
	if err != nil {
		return
	}
	_, _ = c.store.Commit(ctx, store.Txn{
		If:   []store.Cond{{Key: recordKey, Revision: c.revision}},
		Then: []store.Write{{Key: recordKey, Value: &spec.Blob{Data: text}}},
	})
	_ = c.store.Revoke(ctx, c.lease)
}
