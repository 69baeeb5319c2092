package api

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/coordinator/store"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

// watched is how one kind of object is watched.
type watched[K comparable, T proto.Message] struct {
	// interest has every change that concerned may say anything of.
	interest store.Interest
	// all returns the keys of every object, in order.
	all func(v *store.View) []K
	// concerned returns the keys of the objects that a change may have changed. Known are those that the watcher has, nil where nobody
	// can say.
	concerned func(v *store.View, c store.Change, known map[K]T) []K
	// look returns an object, or false when there is none or it does not match the filter.
	look func(v *store.View, k K) (T, bool)
	// gone is what is said of an object that was never seen whole.
	gone func(k K) T
	send func(t musterv1.ChangeType, object T, revision int64) error
}

// itself is that a change concerns the object of its key.
func itself[T proto.Message](_ *store.View, c store.Change, _ map[spec.ObjectName]T) []spec.ObjectName {
	return []spec.ObjectName{{Namespace: c.Key.Namespace, Name: c.Key.Name}}
}

// watchBuffer is how many batches of changes a watcher may be behind.
const watchBuffer = 1024

// run sends what is there, then what changes, until ctx ends or the watcher is too slow.
func (w watched[K, T]) run(ctx context.Context, cache *store.Cache, after int64) error {
	known := map[K]T{}
	var sub *store.Subscription
	var none T
	if after > 0 {
		var err error
		if sub, err = cache.SubscribeAfter(w.interest, after, watchBuffer); err != nil {
			return fmt.Errorf("watch after revision %d: %w", after, err)
		}
	} else {
		var v *store.View
		v, sub = cache.SubscribeTo(w.interest, watchBuffer)
		for _, k := range w.all(v) {
			if object, ok := w.look(v, k); ok {
				known[k] = object
				if err := w.send(musterv1.ChangeType_CHANGE_TYPE_ADDED, object, v.Revision()); err != nil {
					sub.Close()
					return err
				}
			}
		}
		if err := w.send(musterv1.ChangeType_CHANGE_TYPE_SYNCED, none, v.Revision()); err != nil {
			sub.Close()
			return err
		}
	}
	defer sub.Close()
	last := after
	for changes := range sub.C(ctx) {
		v := cache.View()
		seen := map[K]bool{}
		has := known
		if after > 0 {
			has = nil
		}
		for _, c := range changes.Changes {
			for _, k := range w.concerned(v, c, has) {
				if seen[k] {
					continue
				}
				seen[k] = true
				if err := w.tell(v, known, k, after > 0, changes.Revision); err != nil {
					return err
				}
			}
		}
		last = changes.Revision
	}
	if err := sub.Err(); errors.Is(err, store.ErrSlow) {
		return fmt.Errorf("%w: go on after revision %d", ErrWatchTooSlow, max(last, sub.Revision()))
	} else if err != nil {
		return err
	}
	return ctx.Err()
}

func (w watched[K, T]) tell(v *store.View, known map[K]T, k K, resumed bool, revision int64) error {
	object, ok := w.look(v, k)
	old, was := known[k]
	switch {
	case ok && was && proto.Equal(old, object):
		return nil
	case ok:
		known[k] = object
		t := musterv1.ChangeType_CHANGE_TYPE_ADDED
		if was || resumed {
			t = musterv1.ChangeType_CHANGE_TYPE_MODIFIED
		}
		return w.send(t, object, revision)
	case was:
		delete(known, k)
		return w.send(musterv1.ChangeType_CHANGE_TYPE_DELETED, old, revision)
	case resumed:
		// It may have been seen before the revision that this watch resumes after.
		return w.send(musterv1.ChangeType_CHANGE_TYPE_DELETED, w.gone(k), revision)
	}
	return nil
}
