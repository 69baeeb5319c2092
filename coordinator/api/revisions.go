package api

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/musterhq/muster/coordinator/store"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

func (s *deploymentService) ListDeploymentRevisions(_ context.Context, req *musterv1.ListDeploymentRevisionsRequest) (*musterv1.ListDeploymentRevisionsResponse, error) {
	name, err := objectName(req.GetNamespace(), req.GetName())
	if err != nil {
		return nil, err
	}
	v := s.deps.Cache.View()
	d, ok := s.lookup(v, name)
	if !ok {
		return nil, notFound("deployment", name)
	}
	var all []*spec.DeploymentRevision
	for r := range store.AllOf[*spec.DeploymentRevision](v, store.DeployRevisions) {
		if r.Deployment == d.UID {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b *spec.DeploymentRevision) int { return cmp.Compare(a.Revision, b.Revision) })
	resp := &musterv1.ListDeploymentRevisionsResponse{}
	for _, r := range all {
		resp.Revisions = append(resp.Revisions, wire.DeploymentRevisionToProto(r))
	}
	return resp, nil
}

// keepRestart carries the moment of the last restart over to a template that says nothing of it, so that applying the same
// manifest once more is no change and starts nothing anew.
func keepRestart(d, old *spec.Deployment) {
	at, was := old.Spec.Template.Annotations[spec.AnnotationRestartedAt]
	if _, is := d.Spec.Template.Annotations[spec.AnnotationRestartedAt]; !was || is {
		return
	}
	annotations := map[string]string{spec.AnnotationRestartedAt: at}
	maps.Copy(annotations, d.Spec.Template.Annotations)
	d.Spec.Template.Annotations = annotations
}
