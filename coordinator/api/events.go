package api

import (
	"cmp"
	"context"
	"slices"

	"github.com/musterhq/muster/coordinator/store"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

type eventService struct {
	musterv1.UnimplementedEventServiceServer
	*API
}

func eventKey(n spec.ObjectName) store.Key {
	return store.Key{Family: store.Events, Namespace: n.Namespace, Name: n.Name}
}

func lookupEvent(v *store.View, n spec.ObjectName) (*spec.Event, bool) {
	e, rev, ok := store.Get[*spec.Event](v, eventKey(n))
	if !ok {
		return nil, false
	}
	joined := *e
	joined.Revision = rev
	return &joined, true
}

func (s *eventService) GetEvent(_ context.Context, req *musterv1.GetEventRequest) (*musterv1.GetEventResponse, error) {
	name, err := objectName(req.GetNamespace(), req.GetName())
	if err != nil {
		return nil, err
	}
	e, ok := lookupEvent(s.deps.Cache.View(), name)
	if !ok {
		return nil, notFound("event", name)
	}
	return &musterv1.GetEventResponse{Event: wire.EventToProto(e)}, nil
}

func eventMatches(f *musterv1.EventFilter, e *spec.Event) bool {
	return (f.GetNamespace() == "" || f.GetNamespace() == e.Namespace) &&
		(f.GetKind() == "" || f.GetKind() == e.Involved.Kind) &&
		(f.GetName() == "" || f.GetName() == e.Involved.Name) &&
		(f.GetNode() == "" || f.GetNode() == e.Node)
}

func eventNames(v *store.View) []spec.ObjectName {
	var names []spec.ObjectName
	for rec := range v.All(store.Events) {
		names = append(names, spec.ObjectName{Namespace: rec.Key.Namespace, Name: rec.Key.Name})
	}
	return names
}

func (s *eventService) ListEvents(_ context.Context, req *musterv1.ListEventsRequest) (*musterv1.ListEventsResponse, error) {
	v := s.deps.Cache.View()
	var events []*spec.Event
	for _, n := range eventNames(v) {
		if e, ok := lookupEvent(v, n); ok && eventMatches(req.GetFilter(), e) {
			events = append(events, e)
		}
	}
	key := func(e **spec.Event) string {
		return sortKey((*e).LastTime.UTC().Format("2006-01-02T15:04:05.000000000Z"), (*e).Namespace, (*e).Name)
	}
	slices.SortFunc(events, func(a, b *spec.Event) int { return cmp.Compare(key(&a), key(&b)) })
	events, next, err := page(events, key, req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	resp := &musterv1.ListEventsResponse{NextPageToken: next, Revision: v.Revision()}
	for _, e := range events {
		resp.Events = append(resp.Events, wire.EventToProto(e))
	}
	return resp, nil
}

func (s *eventService) WatchEvents(req *musterv1.WatchEventsRequest, stream musterv1.EventService_WatchEventsServer) error {
	return watched[spec.ObjectName, *musterv1.Event]{
		interest:  store.Interest{Families: []store.Family{store.Events}, Namespace: req.GetFilter().GetNamespace()},
		all:       eventNames,
		concerned: itself[*musterv1.Event],
		look: func(v *store.View, name spec.ObjectName) (*musterv1.Event, bool) {
			e, ok := lookupEvent(v, name)
			if !ok || !eventMatches(req.GetFilter(), e) {
				return nil, false
			}
			return wire.EventToProto(e), true
		},
		gone: func(name spec.ObjectName) *musterv1.Event {
			return &musterv1.Event{Meta: &musterv1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}}
		},
		send: func(t musterv1.ChangeType, e *musterv1.Event, revision int64) error {
			return stream.Send(&musterv1.WatchEventsResponse{Type: t, Event: e, Revision: revision})
		},
	}.run(stream.Context(), s.deps.Cache, req.GetRevision())
}
