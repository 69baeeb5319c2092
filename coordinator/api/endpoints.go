package api

import (
	"context"

	"google.golang.org/protobuf/proto"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

type endpointsService struct {
	musterv1.UnimplementedEndpointsServiceServer
	*API
}

func (s *endpointsService) GetEndpoints(ctx context.Context, req *musterv1.GetEndpointsRequest) (*musterv1.GetEndpointsResponse, error) {
	name, err := objectName(req.GetNamespace(), req.GetName())
	if err != nil {
		return nil, err
	}
	if err := s.deps.Endpoints.Wait(ctx); err != nil {
		return nil, err
	}
	e, ok := s.deps.Endpoints.Get(name)
	if !ok {
		return nil, notFound("endpoints of service", name)
	}
	return &musterv1.GetEndpointsResponse{Endpoints: wire.EndpointsToProto(&e)}, nil
}

func (s *endpointsService) ListEndpoints(ctx context.Context, req *musterv1.ListEndpointsRequest) (*musterv1.ListEndpointsResponse, error) {
	match, err := metaMatcher(req.GetFilter())
	if err != nil {
		return nil, err
	}
	if err := s.deps.Endpoints.Wait(ctx); err != nil {
		return nil, err
	}
	all, revision := s.deps.Endpoints.List(func(x *spec.Service) bool { return match(&x.Meta) })
	all, next, err := page(all, func(e *spec.Endpoints) string { return sortKey(e.Namespace, e.Name) }, req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	resp := &musterv1.ListEndpointsResponse{NextPageToken: next, Revision: revision}
	for i := range all {
		resp.Endpoints = append(resp.Endpoints, wire.EndpointsToProto(&all[i]))
	}
	return resp, nil
}

// WatchEndpoints tells what is there and then what changes. A watcher that is slow is told the newest only, so none is cut.
func (s *endpointsService) WatchEndpoints(req *musterv1.WatchEndpointsRequest, stream musterv1.EndpointsService_WatchEndpointsServer) error {
	match, err := metaMatcher(req.GetFilter())
	if err != nil {
		return err
	}
	if err := s.deps.Endpoints.Wait(stream.Context()); err != nil {
		return err
	}
	w := s.deps.Endpoints.Watch()
	defer w.Close()
	known := map[spec.ObjectName]*musterv1.Endpoints{}
	send := func(t musterv1.ChangeType, pb *musterv1.Endpoints, revision int64) error {
		return stream.Send(&musterv1.WatchEndpointsResponse{Type: t, Endpoints: pb, Revision: revision})
	}
	tell := func(name spec.ObjectName, revision int64) error {
		old, was := known[name]
		e, ok := s.deps.Endpoints.Get(name)
		if !ok || !match(&e.Meta) {
			if !was {
				return nil
			}
			delete(known, name)
			return send(musterv1.ChangeType_CHANGE_TYPE_DELETED, old, revision)
		}
		pb := wire.EndpointsToProto(&e)
		if was && proto.Equal(old, pb) {
			return nil
		}
		known[name] = pb
		if was {
			return send(musterv1.ChangeType_CHANGE_TYPE_MODIFIED, pb, revision)
		}
		return send(musterv1.ChangeType_CHANGE_TYPE_ADDED, pb, revision)
	}
	for first := true; ; first = false {
		names, revision := w.Take()
		for _, name := range names {
			if err := tell(name, revision); err != nil {
				return err
			}
		}
		if first {
			if err := send(musterv1.ChangeType_CHANGE_TYPE_SYNCED, nil, revision); err != nil {
				return err
			}
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-w.C():
		}
	}
}
