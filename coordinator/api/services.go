package api

import (
	"context"

	"github.com/musterhq/muster/coordinator/store"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

type serviceService struct {
	musterv1.UnimplementedServiceServiceServer
	objects[spec.Service, *musterv1.Service]
}

func newServiceService(a *API) *serviceService {
	return &serviceService{objects: objects[spec.Service, *musterv1.Service]{
		API: a, kind: "service", family: store.Services,
		meta: func(s *spec.Service) *spec.Meta { return &s.Meta }, toPB: wire.ServiceToProto, fromPB: wire.ServiceFromProto,
		check: func(s *spec.Service) []spec.Finding {
			spec.DefaultService(s)
			return spec.ValidateService(s)
		},
		checkUpdate: func(_, _ *spec.Service) []spec.Finding { return nil },
	}}
}

func (s *serviceService) GetService(_ context.Context, req *musterv1.GetServiceRequest) (*musterv1.GetServiceResponse, error) {
	pb, err := s.get(req.GetNamespace(), req.GetName())
	if err != nil {
		return nil, err
	}
	return &musterv1.GetServiceResponse{Service: pb}, nil
}

func (s *serviceService) ListServices(_ context.Context, req *musterv1.ListServicesRequest) (*musterv1.ListServicesResponse, error) {
	all, next, revision, err := s.list(req.GetFilter(), req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	return &musterv1.ListServicesResponse{Services: all, NextPageToken: next, Revision: revision}, nil
}

func (s *serviceService) WatchServices(req *musterv1.WatchServicesRequest, stream musterv1.ServiceService_WatchServicesServer) error {
	return s.watch(stream.Context(), req.GetFilter(), req.GetRevision(), func(t musterv1.ChangeType, pb *musterv1.Service, revision int64) error {
		return stream.Send(&musterv1.WatchServicesResponse{Type: t, Service: pb, Revision: revision})
	})
}

func (s *serviceService) CreateService(ctx context.Context, req *musterv1.CreateServiceRequest) (*musterv1.CreateServiceResponse, error) {
	pb, warnings, err := s.create(ctx, req.GetService(), req.Service != nil, req.GetValidateOnly())
	if err != nil {
		return nil, err
	}
	return &musterv1.CreateServiceResponse{Service: pb, Warnings: warnings}, nil
}

func (s *serviceService) UpdateService(ctx context.Context, req *musterv1.UpdateServiceRequest) (*musterv1.UpdateServiceResponse, error) {
	pb, result, warnings, err := s.update(ctx, req.GetService(), req.Service != nil, req.GetAllowMissing(), req.GetValidateOnly())
	if err != nil {
		return nil, err
	}
	return &musterv1.UpdateServiceResponse{Service: pb, Result: result, Warnings: warnings}, nil
}

func (s *serviceService) DeleteService(ctx context.Context, req *musterv1.DeleteServiceRequest) (*musterv1.DeleteServiceResponse, error) {
	pb, err := s.remove(ctx, req.GetNamespace(), req.GetName(), req.GetUid())
	if err != nil {
		return nil, err
	}
	return &musterv1.DeleteServiceResponse{Service: pb}, nil
}
