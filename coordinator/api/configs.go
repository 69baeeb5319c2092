package api

import (
	"context"
	"maps"

	"github.com/musterhq/muster/coordinator/store"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

type configMapService struct {
	musterv1.UnimplementedConfigMapServiceServer
	objects[spec.ConfigMap, *musterv1.ConfigMap]
}

func newConfigMapService(a *API) *configMapService {
	return &configMapService{objects: objects[spec.ConfigMap, *musterv1.ConfigMap]{
		API: a, kind: "configmap", family: store.ConfigMaps,
		meta: func(m *spec.ConfigMap) *spec.Meta { return &m.Meta }, toPB: wire.ConfigMapToProto, fromPB: wire.ConfigMapFromProto,
		check: func(m *spec.ConfigMap) []spec.Finding {
			spec.DefaultConfigMap(m)
			return spec.ValidateConfigMap(m)
		},
		checkUpdate: spec.ValidateConfigMapUpdate,
	}}
}

func (s *configMapService) GetConfigMap(_ context.Context, req *musterv1.GetConfigMapRequest) (*musterv1.GetConfigMapResponse, error) {
	pb, err := s.get(req.GetNamespace(), req.GetName())
	if err != nil {
		return nil, err
	}
	return &musterv1.GetConfigMapResponse{ConfigMap: pb}, nil
}

func (s *configMapService) ListConfigMaps(_ context.Context, req *musterv1.ListConfigMapsRequest) (*musterv1.ListConfigMapsResponse, error) {
	all, next, revision, err := s.list(req.GetFilter(), req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	return &musterv1.ListConfigMapsResponse{ConfigMaps: all, NextPageToken: next, Revision: revision}, nil
}

func (s *configMapService) WatchConfigMaps(req *musterv1.WatchConfigMapsRequest, stream musterv1.ConfigMapService_WatchConfigMapsServer) error {
	return s.watch(stream.Context(), req.GetFilter(), req.GetRevision(), func(t musterv1.ChangeType, pb *musterv1.ConfigMap, revision int64) error {
		return stream.Send(&musterv1.WatchConfigMapsResponse{Type: t, ConfigMap: pb, Revision: revision})
	})
}

func (s *configMapService) CreateConfigMap(ctx context.Context, req *musterv1.CreateConfigMapRequest) (*musterv1.CreateConfigMapResponse, error) {
	pb, warnings, err := s.create(ctx, req.GetConfigMap(), req.ConfigMap != nil, req.GetValidateOnly())
	if err != nil {
		return nil, err
	}
	return &musterv1.CreateConfigMapResponse{ConfigMap: pb, Warnings: warnings}, nil
}

func (s *configMapService) UpdateConfigMap(ctx context.Context, req *musterv1.UpdateConfigMapRequest) (*musterv1.UpdateConfigMapResponse, error) {
	pb, result, warnings, err := s.update(ctx, req.GetConfigMap(), req.ConfigMap != nil, req.GetAllowMissing(), req.GetValidateOnly())
	if err != nil {
		return nil, err
	}
	return &musterv1.UpdateConfigMapResponse{ConfigMap: pb, Result: result, Warnings: warnings}, nil
}

func (s *configMapService) DeleteConfigMap(ctx context.Context, req *musterv1.DeleteConfigMapRequest) (*musterv1.DeleteConfigMapResponse, error) {
	pb, err := s.remove(ctx, req.GetNamespace(), req.GetName(), req.GetUid())
	if err != nil {
		return nil, err
	}
	return &musterv1.DeleteConfigMapResponse{ConfigMap: pb}, nil
}

type secretService struct {
	musterv1.UnimplementedSecretServiceServer
	objects[spec.Secret, *musterv1.Secret]
}

func newSecretService(a *API) *secretService {
	return &secretService{objects: objects[spec.Secret, *musterv1.Secret]{
		API: a, kind: "secret", family: store.Secrets,
		meta: func(s *spec.Secret) *spec.Meta { return &s.Meta }, toPB: wire.SecretToProto, fromPB: wire.SecretFromProto,
		check: func(s *spec.Secret) []spec.Finding {
			s.Annotations = maps.Clone(s.Annotations)
			delete(s.Annotations, spec.AnnotationUnreadable) // it says what was, not what is to be
			spec.DefaultSecret(s)
			return spec.ValidateSecret(s)
		},
		checkUpdate: func(old, s *spec.Secret) []spec.Finding {
			if old.Unreadable != "" {
				return nil // nothing of it can be kept
			}
			return spec.ValidateSecretUpdate(old, s)
		},
	}}
}

func (s *secretService) GetSecret(_ context.Context, req *musterv1.GetSecretRequest) (*musterv1.GetSecretResponse, error) {
	pb, err := s.get(req.GetNamespace(), req.GetName())
	if err != nil {
		return nil, err
	}
	return &musterv1.GetSecretResponse{Secret: pb}, nil
}

func (s *secretService) ListSecrets(_ context.Context, req *musterv1.ListSecretsRequest) (*musterv1.ListSecretsResponse, error) {
	all, next, revision, err := s.list(req.GetFilter(), req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	return &musterv1.ListSecretsResponse{Secrets: all, NextPageToken: next, Revision: revision}, nil
}

func (s *secretService) WatchSecrets(req *musterv1.WatchSecretsRequest, stream musterv1.SecretService_WatchSecretsServer) error {
	return s.watch(stream.Context(), req.GetFilter(), req.GetRevision(), func(t musterv1.ChangeType, pb *musterv1.Secret, revision int64) error {
		return stream.Send(&musterv1.WatchSecretsResponse{Type: t, Secret: pb, Revision: revision})
	})
}

func (s *secretService) CreateSecret(ctx context.Context, req *musterv1.CreateSecretRequest) (*musterv1.CreateSecretResponse, error) {
	pb, warnings, err := s.create(ctx, req.GetSecret(), req.Secret != nil, req.GetValidateOnly())
	if err != nil {
		return nil, err
	}
	return &musterv1.CreateSecretResponse{Secret: pb, Warnings: warnings}, nil
}

func (s *secretService) UpdateSecret(ctx context.Context, req *musterv1.UpdateSecretRequest) (*musterv1.UpdateSecretResponse, error) {
	pb, result, warnings, err := s.update(ctx, req.GetSecret(), req.Secret != nil, req.GetAllowMissing(), req.GetValidateOnly())
	if err != nil {
		return nil, err
	}
	return &musterv1.UpdateSecretResponse{Secret: pb, Result: result, Warnings: warnings}, nil
}

func (s *secretService) DeleteSecret(ctx context.Context, req *musterv1.DeleteSecretRequest) (*musterv1.DeleteSecretResponse, error) {
	pb, err := s.remove(ctx, req.GetNamespace(), req.GetName(), req.GetUid())
	if err != nil {
		return nil, err
	}
	return &musterv1.DeleteSecretResponse{Secret: pb}, nil
}
