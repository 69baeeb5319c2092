// Package event makes and folds Event objects, for agents and for the coordinator. Equal events (same object, reason
// and message) are one Event with a count: its first occurrence goes out at once, its count and last time at most once a
// minute. Where events go is for whoever calls Next.
//
// The bounds, after rule 12.2 of docs/probes.md: more than 10 similar events (same object, type and reason, different
// messages) within 10 minutes go on as one, "(combined from similar events): …"; an object's new Events number at most
// 25 at once and one per 5 minutes from then on; 4,096 Events and as many objects are remembered, the oldest forgotten
// first, so that a forgotten one begins anew. What is over a bound is dropped and counted: the absence of an event
// proves nothing.
package event

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// The bounds.
const (
	// WriteEvery is the least time between two writes of one Event.
	WriteEvery = time.Minute
	// SimilarMax is how many similar events are told apart within SimilarWindow.
	SimilarMax    = 10
	SimilarWindow = 10 * time.Minute
	// Burst and Refill bound an object's new Events.
	Burst  = 25
	Refill = 5 * time.Minute
	// MaxEvents bounds the Events, and the objects, that are remembered.
	MaxEvents = 4096
	// MaxMessage bounds a message, in bytes.
	MaxMessage = 1024

	combined = "(combined from similar events): "
)

// Recorder folds events. Its methods may be called from any goroutine.
type Recorder struct {
	source, node string
	wake         chan struct{}

	mu      sync.Mutex
	events  map[key]*entry
	objects map[spec.ObjectRef]*object
	// fresh are the entries whose first occurrence waits for Next, oldest first.
	fresh []*entry
	// again are the entries that have happened again since they were written.
	again   map[*entry]struct{}
	dropped uint64
}

type key struct {
	ref                   spec.ObjectRef
	kind, reason, message string
}

type entry struct {
	key     key
	event   spec.Event
	written time.Time
	// dirty: there is more than what was written.
	dirty bool
}

// object is what is remembered of an object to bound its events; its key is the reference without the field path.
type object struct {
	tokens   float64
	filled   time.Time
	messages map[[2]string][]seen
}

type seen struct {
	message string
	last    time.Time
}

// New returns a recorder for a source, agent or coordinator, on a node (empty for the coordinator).
func New(source, node string) *Recorder {
	return &Recorder{source: source, node: node, wake: make(chan struct{}, 1), events: map[key]*entry{}, again: map[*entry]struct{}{}, objects: map[spec.ObjectRef]*object{}}
}

// Record tells that something has happened now. kind is Normal or Warning. It never blocks.
func (r *Recorder) Record(ref spec.ObjectRef, kind, reason, message string) {
	now := time.Now()
	message = strings.ToValidUTF8(message[:min(len(message), MaxMessage)], "\uFFFD")
	r.mu.Lock()
	defer r.mu.Unlock()
	k := key{ref, kind, reason, message}
	o := r.objectLocked(ref, now)
	if o.crowded([2]string{kind, reason}, message, now) {
		k.message = combined
		message = combined + message
	}
	e := r.events[k]
	if e == nil {
		if !o.take(now) {
			r.dropped++
			return
		}
		r.makeRoomLocked()
		e = &entry{key: k, event: r.newEvent(k, now)}
		r.events[k] = e
		r.fresh = append(r.fresh, e)
	} else {
		e.event.Count++
		if !e.dirty {
			r.again[e] = struct{}{}
		}
	}
	e.event.Message, e.event.LastTime = message, now.Round(0)
	if !e.dirty {
		e.dirty = true
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// Dropped is how many events were dropped at a bound.
func (r *Recorder) Dropped() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropped
}

// Next waits until events are to be written and returns at most n of them, new ones first, in the order in which they
// began. They are not returned again unless they happen again. One caller at a time.
func (r *Recorder) Next(ctx context.Context, n int) ([]spec.Event, error) {
	for {
		events, next := r.take(n)
		if len(events) > 0 {
			return events, nil
		}
		var timer <-chan time.Time
		if !next.IsZero() {
			t := time.NewTimer(time.Until(next))
			defer t.Stop()
			timer = t.C
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-r.wake:
		case <-timer:
		}
	}
}

// take returns what is to be written now, or else when that will be; zero means not before news.
func (r *Recorder) take(n int) (events []spec.Event, next time.Time) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.fresh) > 0 && len(events) < n {
		e := r.fresh[0]
		r.fresh = r.fresh[1:]
		e.written, e.dirty = now, false
		events = append(events, e.event)
	}
	if len(events) > 0 {
		return events, time.Time{}
	}
	for e := range r.again {
		due := e.written.Add(WriteEvery)
		switch {
		case now.Before(due):
			if next.IsZero() || due.Before(next) {
				next = due
			}
		case len(events) < n:
			e.written, e.dirty = now, false
			delete(r.again, e)
			events = append(events, e.event)
		}
	}
	return events, next
}

func (r *Recorder) newEvent(k key, now time.Time) spec.Event {
	h := fnv.New64a()
	fmt.Fprintf(h, "%q %d", []string{r.source, r.node, k.ref.Kind, k.ref.UID, k.ref.FieldPath, k.kind, k.reason, k.message}, now.UnixNano())
	namespace := k.ref.Namespace
	if namespace == "" {
		namespace = "default"
	}
	at := now.Round(0)
	return spec.Event{
		Meta: spec.Meta{Namespace: namespace, Name: fmt.Sprintf("%s.%016x", k.ref.Name, h.Sum64()), CreateTime: at},
		Type: k.kind, Reason: k.reason, Involved: k.ref, Count: 1, FirstTime: at, Source: r.source, Node: r.node,
	}
}

// makeRoomLocked forgets the events that were last heard of longest ago, an eighth at a time.
func (r *Recorder) makeRoomLocked() {
	if len(r.events) < MaxEvents {
		return
	}
	all := make([]*entry, 0, len(r.events))
	for _, e := range r.events {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *entry) int { return a.event.LastTime.Compare(b.event.LastTime) })
	gone := map[*entry]bool{}
	for _, e := range all[:MaxEvents/8] {
		delete(r.events, e.key)
		delete(r.again, e)
		gone[e] = true
	}
	before := len(r.fresh)
	r.fresh = slices.DeleteFunc(r.fresh, func(e *entry) bool { return gone[e] })
	r.dropped += uint64(before - len(r.fresh))
}

func (r *Recorder) objectLocked(ref spec.ObjectRef, now time.Time) *object {
	ref.FieldPath = ""
	o := r.objects[ref]
	if o != nil {
		return o
	}
	if len(r.objects) >= MaxEvents {
		// The one with the most of its burst left, of a few: forgetting it gives the least away.
		var pick spec.ObjectRef
		most, tries := -1.0, 0
		for k, v := range r.objects {
			if v.refill(now); v.tokens > most {
				pick, most = k, v.tokens
			}
			if tries++; tries == 8 {
				break
			}
		}
		delete(r.objects, pick)
	}
	o = &object{tokens: Burst, filled: now, messages: map[[2]string][]seen{}}
	r.objects[ref] = o
	return o
}

func (o *object) refill(now time.Time) {
	o.tokens = min(Burst, o.tokens+float64(now.Sub(o.filled))/float64(Refill))
	o.filled = now
}

func (o *object) take(now time.Time) bool {
	o.refill(now)
	if o.tokens < 1 {
		return false
	}
	o.tokens--
	return true
}

// crowded notes a message and tells whether it is one too many among similar ones.
func (o *object) crowded(group [2]string, message string, now time.Time) bool {
	ms := slices.DeleteFunc(o.messages[group], func(s seen) bool { return now.Sub(s.last) > SimilarWindow })
	i := slices.IndexFunc(ms, func(s seen) bool { return s.message == message })
	switch {
	case i >= 0:
		ms[i].last = now
	case len(ms) < SimilarMax:
		ms = append(ms, seen{message, now})
	default:
		o.messages[group] = ms
		return true
	}
	o.messages[group] = ms
	return false
}
