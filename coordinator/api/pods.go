package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

type podService struct {
	musterv1.UnimplementedPodServiceServer
	*API
}

// shownPod is a pod as people see it.
func shownPod(v *store.View, p *fleet.Pod) *musterv1.Pod {
	shown := *p.Pod
	shown.Revision = p.Revision
	pb := wire.PodToProto(&shown)
	status := fleet.Shown(v, p)
	pb.Status = wire.PodStatusToProto(&status)
	pb.Node, pb.Epoch = p.Node(), p.Epoch
	class := p.FailoverClass()
	if p.Binding != nil {
		class = p.Binding.Class
	}
	pb.FailoverClass = wire.FailoverClassToProto(class)
	return pb
}

func podSortKey(p *fleet.Pod) string { return sortKey(p.Namespace, p.Name) }

func (s *podService) GetPod(_ context.Context, req *musterv1.GetPodRequest) (*musterv1.GetPodResponse, error) {
	name, err := objectName(req.GetNamespace(), req.GetName())
	if err != nil {
		return nil, err
	}
	v := s.deps.Cache.View()
	p, ok := fleet.LookupPod(v, name)
	if !ok {
		return nil, notFound("pod", name)
	}
	return &musterv1.GetPodResponse{Pod: shownPod(v, &p)}, nil
}

// podMatcher turns a filter into a test of one pod.
func podMatcher(f *musterv1.PodFilter) (func(*fleet.Pod) bool, error) {
	sel, err := selector(f.GetLabelSelector())
	if err != nil {
		return nil, err
	}
	return func(p *fleet.Pod) bool {
		return (f.GetNamespace() == "" || f.GetNamespace() == p.Namespace) &&
			(f.GetName() == "" || f.GetName() == p.Name) &&
			(f.GetNode() == "" || f.GetNode() == p.Node()) &&
			sel.Matches(p.Labels)
	}, nil
}

func (s *podService) ListPods(_ context.Context, req *musterv1.ListPodsRequest) (*musterv1.ListPodsResponse, error) {
	match, err := podMatcher(req.GetFilter())
	if err != nil {
		return nil, err
	}
	var v *store.View
	var pods []fleet.Pod
	var next string
	s.deps.Fleet.Look(func(f *fleet.Sight) {
		v = f.View
		pods, next, err = pageWhere(f.Pods, match, podSortKey, req.GetPageSize(), req.GetPageToken())
	})
	if err != nil {
		return nil, err
	}
	resp := &musterv1.ListPodsResponse{NextPageToken: next, Revision: v.Revision()}
	for i := range pods {
		resp.Pods = append(resp.Pods, shownPod(v, &pods[i]))
	}
	return resp, nil
}

func (s *podService) WatchPods(req *musterv1.WatchPodsRequest, stream musterv1.PodService_WatchPodsServer) error {
	match, err := podMatcher(req.GetFilter())
	if err != nil {
		return err
	}
	return watched[spec.ObjectName, *musterv1.Pod]{
		interest: store.Interest{
			Families: []store.Family{store.Pods, store.Bindings, store.Stops, store.PodStatuses, store.NodeStatus}, Namespace: req.GetFilter().GetNamespace(),
		},
		all: func(*store.View) (names []spec.ObjectName) {
			s.deps.Fleet.Look(func(f *fleet.Sight) { // what it has seen later comes as a change too
				for _, p := range f.Pods {
					if match(p) {
						names = append(names, p.Key())
					}
				}
			})
			return names
		},
		concerned: func(v *store.View, c store.Change, known map[spec.ObjectName]*musterv1.Pod) []spec.ObjectName {
			if c.Key.Family != store.NodeStatus || known == nil {
				return podsConcerned(v, c)
			}
			var names []spec.ObjectName // a verdict makes no other pod match
			for name, p := range known {
				if p.GetNode() == c.Key.Name {
					names = append(names, name)
				}
			}
			return names
		},
		look: func(v *store.View, name spec.ObjectName) (*musterv1.Pod, bool) {
			p, ok := fleet.LookupPod(v, name)
			if !ok || !match(&p) {
				return nil, false
			}
			return shownPod(v, &p), true
		},
		gone: func(name spec.ObjectName) *musterv1.Pod {
			return &musterv1.Pod{Meta: &musterv1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}}
		},
		send: func(t musterv1.ChangeType, pod *musterv1.Pod, revision int64) error {
			return stream.Send(&musterv1.WatchPodsResponse{Type: t, Pod: pod, Revision: revision})
		},
	}.run(stream.Context(), s.deps.Cache, req.GetRevision())
}

// podsConcerned are the pods whose shown value a change may have changed: a verdict on a node changes all of its pods.
func podsConcerned(v *store.View, c store.Change) []spec.ObjectName {
	switch c.Key.Family {
	case store.Pods, store.Bindings, store.Stops, store.PodStatuses:
		return []spec.ObjectName{{Namespace: c.Key.Namespace, Name: c.Key.Name}}
	case store.NodeStatus:
		var names []spec.ObjectName
		for rec := range v.All(store.Bindings) {
			if rec.Value.(*spec.Binding).Node == c.Key.Name {
				names = append(names, spec.ObjectName{Namespace: rec.Key.Namespace, Name: rec.Key.Name})
			}
		}
		return names
	}
	return nil
}

// checked defaults and validates a pod that a user sent.
func (s *podService) checked(pb *musterv1.Pod) (*spec.Pod, []string, error) {
	if pb == nil {
		return nil, nil, invalid("pod", "required")
	}
	pod, err := wire.PodFromProto(pb)
	if err != nil {
		return nil, nil, invalid("pod", err.Error())
	}
	pod.Owner, pod.Generation, pod.DeleteTime, pod.CreateTime, pod.DeleteGrace = nil, 0, time.Time{}, time.Time{}, 0
	findings := spec.DefaultPod(pod)
	findings = append(findings, spec.ValidatePod(pod, s.cfg.Validation)...)
	warnings, bad := spec.Split(findings)
	if len(bad) > 0 {
		return nil, nil, &InvalidError{Object: "pod/" + pod.Name, Findings: bad}
	}
	return pod, warnings, nil
}

func (s *podService) create(ctx context.Context, pod *spec.Pod, validateOnly bool) (*musterv1.Pod, []string, error) {
	if pod.UID != "" {
		return nil, nil, invalid("metadata.uid", "must be empty for a new pod")
	}
	pod.UID, pod.CreateTime, pod.Generation = fleet.NewUID(), s.deps.Now(), 1
	if validateOnly {
		pb, warnings := s.tryOut(pod)
		return pb, warnings, nil
	}
	var warnings []string
	if why := s.deps.Leader.Explain(pod); why != "" {
		warnings = append(warnings, why)
	}
	_, err := s.commit(ctx, store.PodKey(pod.Key()), 0, pod)
	if errors.Is(err, store.ErrConflict) {
		return nil, nil, fmt.Errorf("pod %s: %w", pod.Key(), ErrExists)
	}
	if err != nil {
		return nil, nil, err
	}
	v := s.deps.Cache.View()
	if p, ok := fleet.LookupPod(v, pod.Key()); ok {
		return shownPod(v, &p), warnings, nil
	}
	return wire.PodToProto(pod), warnings, nil
}

// tryOut is a new pod that is not stored, with the node that it would go to, or a warning that says why to none.
func (s *podService) tryOut(pod *spec.Pod) (pb *musterv1.Pod, warnings []string) {
	pb = wire.PodToProto(pod)
	node, why := s.deps.Leader.Where(pod)
	if pb.Node = node; why != "" {
		warnings = append(warnings, why)
	}
	return pb, warnings
}

func (s *podService) CreatePod(ctx context.Context, req *musterv1.CreatePodRequest) (*musterv1.CreatePodResponse, error) {
	pod, warnings, err := s.checked(req.GetPod())
	if err != nil {
		return nil, err
	}
	pb, more, err := s.create(ctx, pod, req.GetValidateOnly())
	if err != nil {
		return nil, err
	}
	return &musterv1.CreatePodResponse{Pod: pb, Warnings: append(warnings, more...)}, nil
}

func (s *podService) UpdatePod(ctx context.Context, req *musterv1.UpdatePodRequest) (*musterv1.UpdatePodResponse, error) {
	pod, warnings, err := s.checked(req.GetPod())
	if err != nil {
		return nil, err
	}
	key := store.PodKey(pod.Key())
	old, revision, err := read[*spec.Pod](ctx, s.deps.Store, key)
	if err != nil {
		return nil, err
	}
	if old == nil {
		if !req.GetAllowMissing() {
			return nil, notFound("pod", pod.Key())
		}
		pb, more, err := s.create(ctx, pod, req.GetValidateOnly())
		if err != nil {
			return nil, err
		}
		return &musterv1.UpdatePodResponse{
			Pod: pb, Result: musterv1.WriteResult_WRITE_RESULT_CREATED, Warnings: append(warnings, more...),
		}, nil
	}
	if err := checkUpdate("pod", &old.Meta, &pod.Meta); err != nil {
		return nil, err
	}
	if err := checkRevision(key, req.GetPod().GetMeta().GetRevision(), revision); err != nil {
		return nil, err
	}
	if _, bad := spec.Split(spec.ValidatePodUpdate(old, pod)); len(bad) > 0 {
		return nil, &InvalidError{Object: "pod/" + pod.Name, Findings: bad}
	}
	keepIdentity(&pod.Meta, &old.Meta)
	resp := &musterv1.UpdatePodResponse{Result: musterv1.WriteResult_WRITE_RESULT_UNCHANGED, Warnings: warnings}
	if !wire.Equal(old, pod) {
		resp.Result = musterv1.WriteResult_WRITE_RESULT_CONFIGURED
		pod.Generation++
		if !req.GetValidateOnly() {
			if _, err := s.commit(ctx, key, revision, pod); err != nil {
				return nil, err
			}
		}
	}
	resp.Pod = wire.PodToProto(pod)
	v := s.deps.Cache.View()
	if p, ok := fleet.LookupPod(v, pod.Key()); ok && !req.GetValidateOnly() {
		resp.Pod = shownPod(v, &p)
	}
	return resp, nil
}

// keepIdentity carries over what a user's update never changes.
func keepIdentity(m, old *spec.Meta) {
	m.UID, m.CreateTime, m.Owner, m.Generation = old.UID, old.CreateTime, old.Owner, old.Generation
	m.DeleteTime, m.DeleteGrace, m.Revision = old.DeleteTime, old.DeleteGrace, 0
	if old.Owner == nil {
		return
	}
	labels := maps.Clone(m.Labels)
	if hash, ok := old.Labels[spec.LabelTemplateHash]; ok {
		if labels == nil {
			labels = map[string]string{}
		}
		labels[spec.LabelTemplateHash] = hash
	}
	m.Labels = labels
}

func checkUpdate(kind string, old, m *spec.Meta) error {
	if m.UID != "" && m.UID != old.UID {
		return fmt.Errorf("%s %s: uid is %s, not %s: %w", kind, m.Key(), old.UID, m.UID, store.ErrConflict)
	}
	if old.Deleting() {
		return fmt.Errorf("%s %s: %w", kind, m.Key(), ErrDeleting)
	}
	return nil
}

func (s *podService) DeletePod(ctx context.Context, req *musterv1.DeletePodRequest) (*musterv1.DeletePodResponse, error) {
	name, err := objectName(req.GetNamespace(), req.GetName())
	if err != nil {
		return nil, err
	}
	key := store.PodKey(name)
	old, revision, err := read[*spec.Pod](ctx, s.deps.Store, key)
	switch {
	case err != nil:
		return nil, err
	case old == nil:
		return nil, notFound("pod", name)
	case req.GetUid() != "" && req.GetUid() != old.UID:
		return nil, fmt.Errorf("pod %s: uid is %s, not %s: %w", name, old.UID, req.GetUid(), store.ErrConflict)
	}
	grace := old.Spec.TerminationGrace
	if g := req.GetGrace(); g != nil {
		if grace = g.AsDuration(); grace < 0 {
			return nil, invalid("grace", "must be greater than or equal to 0")
		}
	}
	pod := old
	if !old.Deleting() || grace < old.DeleteGrace {
		pod = old.Clone()
		pod.DeleteGrace = grace
		if !old.Deleting() {
			pod.DeleteTime = s.deps.Now()
		}
		if _, err := s.commit(ctx, key, revision, pod); err != nil {
			return nil, err
		}
	}
	if req.GetAllowSecondCopy() {
		if err := s.deps.Leader.Forget(ctx, name); err != nil {
			return nil, err
		}
	}
	return &musterv1.DeletePodResponse{Pod: wire.PodToProto(pod)}, nil
}

func (s *podService) MovePod(ctx context.Context, req *musterv1.MovePodRequest) (*musterv1.MovePodResponse, error) {
	name, err := objectName(req.GetNamespace(), req.GetName())
	if err != nil {
		return nil, err
	}
	if err := s.deps.Leader.Move(ctx, name, req.GetAcceptRisk()); err != nil {
		return nil, err
	}
	v := s.deps.Cache.View()
	p, ok := fleet.LookupPod(v, name)
	if !ok {
		return nil, notFound("pod", name)
	}
	return &musterv1.MovePodResponse{Pod: shownPod(v, &p)}, nil
}

// held finds the pod and the node that can be asked about it.
func (s *API) held(namespace, name string) (fleet.Pod, error) {
	n, err := objectName(namespace, name)
	if err != nil {
		return fleet.Pod{}, err
	}
	p, ok := fleet.LookupPod(s.deps.Cache.View(), n)
	if !ok {
		return fleet.Pod{}, notFound("pod", n)
	}
	if p.Binding == nil {
		return fleet.Pod{}, fmt.Errorf("pod %s is bound to no node: %w", n, ErrNodeUnreachable)
	}
	if !s.deps.Sessions.Connected(p.Node()) {
		return fleet.Pod{}, fmt.Errorf("pod %s on node %q: %w", n, p.Node(), ErrNodeUnreachable)
	}
	return p, nil
}

func (s *podService) ReadPodLogs(req *musterv1.ReadPodLogsRequest, stream musterv1.PodService_ReadPodLogsServer) error {
	p, err := s.held(req.GetNamespace(), req.GetName())
	if err != nil {
		return err
	}
	container := req.GetContainer()
	if container == "" {
		if len(p.Spec.Containers) != 1 {
			return invalid("container", fmt.Sprintf("required: the pod has %d", len(p.Spec.Containers)))
		}
		container = p.Spec.Containers[0].Name
	}
	ask := &agentv1.Ask{Question: &agentv1.Ask_Logs{Logs: &agentv1.LogsAsk{
		Uid: p.UID, Container: container, Previous: req.GetPrevious(), Follow: req.GetFollow(),
		Tail: req.Tail, Since: req.GetSince(), Timestamps: req.GetTimestamps(),
	}}}
	return s.deps.Sessions.Ask(stream.Context(), p.Node(), ask, func(a *agentv1.AnswerRequest) error {
		if e := a.GetError(); e != nil {
			return answered(e)
		}
		if len(a.GetData()) == 0 {
			return nil
		}
		return stream.Send(&musterv1.ReadPodLogsResponse{Data: a.GetData()})
	})
}

// agentError is an error in an agent's words.
type agentError struct {
	text string
	err  error
}

func (e *agentError) Error() string { return e.text }
func (e *agentError) Unwrap() error { return e.err }

// answered turns an agent's refusal into the error that the API's table knows.
func answered(e *agentv1.AnswerError) error {
	for _, row := range table {
		if row.reason == e.GetReason() {
			return &agentError{e.GetMessage(), row.err}
		}
	}
	return fmt.Errorf("agent answered %s: %s", e.GetReason(), e.GetMessage())
}
