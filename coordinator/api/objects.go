package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// objects are what the services of plain objects have in common: those of one record each, which users alone write.
type objects[T any, M proto.Message] struct {
	*API
	// kind is the kind in messages, "service".
	kind   string
	family store.Family
	meta   func(*T) *spec.Meta
	toPB   func(*T) M
	fromPB func(M) (*T, error)
	// check fills in defaults and finds what is wrong; checkUpdate what may not change.
	check       func(*T) []spec.Finding
	checkUpdate func(old, is *T) []spec.Finding
}

func (s *objects[T, M]) key(n spec.ObjectName) store.Key {
	return store.Key{Family: s.family, Namespace: n.Namespace, Name: n.Name}
}

// at is an object with its revision.
func (s *objects[T, M]) at(value *T, revision int64) M {
	out := *value
	s.meta(&out).Revision = revision
	return s.toPB(&out)
}

func (s *objects[T, M]) get(namespace, name string) (M, error) {
	var none M
	n, err := objectName(namespace, name)
	if err != nil {
		return none, err
	}
	value, revision, ok := store.Get[*T](s.deps.Cache.View(), s.key(n))
	if !ok {
		return none, notFound(s.kind, n)
	}
	return s.at(value, revision), nil
}

// filter is what the filters of plain objects say.
type filter interface {
	GetNamespace() string
	GetName() string
	GetLabelSelector() string
}

func metaMatcher(f filter) (func(*spec.Meta) bool, error) {
	sel, err := selector(f.GetLabelSelector())
	if err != nil {
		return nil, err
	}
	return func(m *spec.Meta) bool {
		return (f.GetNamespace() == "" || f.GetNamespace() == m.Namespace) && (f.GetName() == "" || f.GetName() == m.Name) && sel.Matches(m.Labels)
	}, nil
}

// names returns every object's, by namespace and name.
func (s *objects[T, M]) names(v *store.View) (names []spec.ObjectName) {
	for rec := range v.All(s.family) {
		names = append(names, spec.ObjectName{Namespace: rec.Key.Namespace, Name: rec.Key.Name})
	}
	slices.SortFunc(names, func(a, b spec.ObjectName) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return names
}

func (s *objects[T, M]) list(f filter, size int32, token string) (all []M, next string, revision int64, err error) {
	match, err := metaMatcher(f)
	if err != nil {
		return nil, "", 0, err
	}
	type found struct {
		name     spec.ObjectName
		value    *T
		revision int64
	}
	v := s.deps.Cache.View()
	var matching []found
	for _, n := range s.names(v) {
		if value, rev, ok := store.Get[*T](v, s.key(n)); ok && match(s.meta(value)) {
			matching = append(matching, found{n, value, rev})
		}
	}
	matching, next, err = page(matching, func(f *found) string { return sortKey(f.name.Namespace, f.name.Name) }, size, token)
	if err != nil {
		return nil, "", 0, err
	}
	for _, f := range matching {
		all = append(all, s.at(f.value, f.revision))
	}
	return all, next, v.Revision(), nil
}

func (s *objects[T, M]) watch(ctx context.Context, f filter, revision int64, send func(musterv1.ChangeType, M, int64) error) error {
	match, err := metaMatcher(f)
	if err != nil {
		return err
	}
	return watched[spec.ObjectName, M]{
		interest:  store.Interest{Families: []store.Family{s.family}, Namespace: f.GetNamespace()},
		all:       s.names,
		concerned: itself[M],
		look: func(v *store.View, n spec.ObjectName) (M, bool) {
			value, rev, ok := store.Get[*T](v, s.key(n))
			if !ok || !match(s.meta(value)) {
				var none M
				return none, false
			}
			return s.at(value, rev), true
		},
		gone: func(n spec.ObjectName) M {
			value := new(T)
			*s.meta(value) = spec.Meta{Namespace: n.Namespace, Name: n.Name}
			return s.toPB(value)
		},
		send: send,
	}.run(ctx, s.deps.Cache, revision)
}

func (s *objects[T, M]) checked(pb M, set bool) (*T, []string, error) {
	if !set {
		return nil, nil, invalid(s.kind, "required")
	}
	value, err := s.fromPB(pb)
	if err != nil {
		return nil, nil, invalid(s.kind, err.Error())
	}
	m := s.meta(value)
	m.Owner, m.Generation, m.DeleteTime, m.CreateTime, m.DeleteGrace = nil, 0, time.Time{}, time.Time{}, 0
	warnings, bad := spec.Split(s.check(value))
	if len(bad) > 0 {
		return nil, nil, &InvalidError{Object: s.kind + "/" + m.Name, Findings: bad}
	}
	return value, warnings, nil
}

func (s *objects[T, M]) add(ctx context.Context, value *T, validateOnly bool) (int64, error) {
	m := s.meta(value)
	if m.UID != "" {
		return 0, invalid("metadata.uid", "must be empty for a new "+s.kind)
	}
	m.UID, m.CreateTime, m.Generation, m.Revision = fleet.NewUID(), s.deps.Now(), 1, 0
	if validateOnly {
		return 0, nil
	}
	rev, err := s.commit(ctx, s.key(m.Key()), 0, value)
	if errors.Is(err, store.ErrConflict) {
		return 0, fmt.Errorf("%s %s: %w", s.kind, m.Key(), ErrExists)
	}
	return rev, err
}

func (s *objects[T, M]) create(ctx context.Context, pb M, set, validateOnly bool) (M, []string, error) {
	var none M
	value, warnings, err := s.checked(pb, set)
	if err != nil {
		return none, nil, err
	}
	rev, err := s.add(ctx, value, validateOnly)
	if err != nil {
		return none, nil, err
	}
	return s.at(value, rev), warnings, nil
}

func (s *objects[T, M]) update(ctx context.Context, pb M, set, allowMissing, validateOnly bool) (out M, result musterv1.WriteResult, warnings []string, err error) {
	result = musterv1.WriteResult_WRITE_RESULT_CREATED
	value, warnings, err := s.checked(pb, set)
	if err != nil {
		return out, result, nil, err
	}
	m := s.meta(value)
	key := s.key(m.Key())
	old, revision, err := read[*T](ctx, s.deps.Store, key)
	if err != nil {
		return out, result, nil, err
	}
	if old == nil {
		if !allowMissing {
			return out, result, nil, notFound(s.kind, m.Key())
		}
		rev, err := s.add(ctx, value, validateOnly)
		if err != nil {
			return out, result, nil, err
		}
		return s.at(value, rev), result, warnings, nil
	}
	if err := checkUpdate(s.kind, s.meta(old), m); err != nil {
		return out, result, nil, err
	}
	if err := checkRevision(key, m.Revision, revision); err != nil {
		return out, result, nil, err
	}
	if _, bad := spec.Split(s.checkUpdate(old, value)); len(bad) > 0 {
		return out, result, nil, &InvalidError{Object: s.kind + "/" + m.Name, Findings: bad}
	}
	keepIdentity(m, s.meta(old))
	result = musterv1.WriteResult_WRITE_RESULT_UNCHANGED
	if !wire.Equal(old, value) {
		result = musterv1.WriteResult_WRITE_RESULT_CONFIGURED
		m.Generation++
		if !validateOnly {
			if revision, err = s.commit(ctx, key, revision, value); err != nil {
				return out, result, nil, err
			}
		}
	}
	return s.at(value, revision), result, warnings, nil
}

func (s *objects[T, M]) remove(ctx context.Context, namespace, name, uid string) (M, error) {
	var none M
	n, err := objectName(namespace, name)
	if err != nil {
		return none, err
	}
	key := s.key(n)
	old, revision, err := read[*T](ctx, s.deps.Store, key)
	switch {
	case err != nil:
		return none, err
	case old == nil:
		return none, notFound(s.kind, n)
	case uid != "" && uid != s.meta(old).UID:
		return none, fmt.Errorf("%s %s: uid is %s, not %s: %w", s.kind, n, s.meta(old).UID, uid, store.ErrConflict)
	}
	if _, err := s.commit(ctx, key, revision, nil); err != nil {
		return none, err
	}
	return s.at(old, revision), nil
}
