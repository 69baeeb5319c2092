// Package events writes Event objects into the store, each for an hour: what agents say and what the coordinator does.
// Folding is internal/event's, and happens where an event is made.
package events

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/spec"
)

const (
	// Keep is how long an event is kept after it was last written, at least; up to twice as long.
	Keep = time.Hour
	// queue is how many events may wait for the store. What comes on top is dropped: the oldest tell the cause.
	queue = 4096
)

// Writer writes events in the background.
type Writer struct {
	store store.Store
	log   *slog.Logger
	in    chan spec.Event

	lease   store.LeaseID
	granted time.Time
}

// New returns a writer; nothing is written before Run.
func New(s store.Store, log *slog.Logger) *Writer {
	return &Writer{store: s, log: log, in: make(chan spec.Event, queue)}
}

// Write queues events without blocking. It reports how many were dropped because the queue was full.
func (w *Writer) Write(events ...spec.Event) (dropped int) {
	for _, e := range events {
		select {
		case w.in <- e:
		default:
			dropped++
		}
	}
	if dropped > 0 {
		w.log.Warn("events dropped", "count", dropped, "queue", queue)
	}
	return dropped
}

// Run writes what is queued until ctx ends.
func (w *Writer) Run(ctx context.Context) error {
	for {
		batch := make(map[store.Key]spec.Event, store.MaxOps)
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.in:
			batch[key(&e)] = e
		}
	fill:
		for len(batch) < store.MaxOps {
			select {
			case e := <-w.in:
				batch[key(&e)] = e
			default:
				break fill
			}
		}
		if err := w.put(ctx, batch); err != nil && ctx.Err() == nil {
			w.log.Warn("events not written", "count", len(batch), "err", err)
		}
	}
}

func key(e *spec.Event) store.Key {
	return store.Key{Family: store.Events, Namespace: e.Namespace, Name: e.Name}
}

// put writes the batch under a store lease that is renewed by making a new one every hour, so that a key lives for one
// to two hours and the store is not asked to keep anything alive.
func (w *Writer) put(ctx context.Context, batch map[store.Key]spec.Event) error {
	for attempt := 0; ; attempt++ {
		if w.lease == 0 || time.Since(w.granted) > Keep {
			id, err := w.store.Grant(ctx, 2*Keep)
			if err != nil {
				return err
			}
			w.lease, w.granted = id, time.Now()
		}
		var t store.Txn
		for k, e := range batch {
			t.Then = append(t.Then, store.Write{Key: k, Value: &e, Lease: w.lease})
		}
		_, err := w.store.Commit(ctx, t)
		if errors.Is(err, store.ErrNotFound) && attempt == 0 {
			w.lease = 0 // it has expired while nothing was written
			continue
		}
		return err
	}
}
