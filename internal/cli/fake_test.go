package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/clientconfig"
	"github.com/musterhq/muster/internal/identity"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// fake is a coordinator's API over an in-memory copy: it stores, marks and forgets, and decides nothing.
type fake struct {
	musterv1.UnimplementedNodeServiceServer
	musterv1.UnimplementedDeploymentServiceServer
	musterv1.UnimplementedPodDisruptionBudgetServiceServer
	musterv1.UnimplementedServiceServiceServer
	musterv1.UnimplementedEventServiceServer
	musterv1.UnimplementedProbeServiceServer
	musterv1.UnimplementedClusterServiceServer
	musterv1.UnimplementedUsageServiceServer

	mu          sync.Mutex
	revision    int64
	pods        map[string]*musterv1.Pod
	deployments map[string]*musterv1.Deployment
	nodes       []*musterv1.Node
	services    []*musterv1.Service
	events      []*musterv1.Event
	probes      []*musterv1.ProbeState
	results     []*musterv1.ProbeAttempt
	failovers   []*musterv1.Failover
	revisions   []*musterv1.DeploymentRevision
	budgets     map[string]*musterv1.PodDisruptionBudget
	// evict answers an eviction, and what it does happens deleteAfter later; nil deletes or moves.
	evict func(*musterv1.Pod) error
	// leaving are the pods of evictions under way.
	leaving     map[*musterv1.Pod]bool
	podUsages   []*musterv1.PodUsage
	nodeUsages  []*musterv1.NodeUsage
	probeUsages []*musterv1.ProbeUsage
	// synced happens each time a watcher of Deployments has been told what is there; nil: nothing does.
	synced func()
	// follow is what is told to whoever follows probes, and followEnd how that ends.
	follow    []*musterv1.WatchProbeResultsResponse
	followEnd error
	status    *musterv1.GetStatusResponse
	// deleteAfter is how long a deleted object stays.
	deleteAfter time.Duration
	// changed is closed and replaced with every change.
	changed chan struct{}
	// calls has every request, for tests that look at them.
	calls []proto.Message
	// cut makes the next watches end, as when a coordinator goes away.
	cut int
	// conflicts is how many writes of pods lose a race.
	conflicts int
	wg        sync.WaitGroup
}

// podServer is apart so that its embedded stub does not clash with the field pods.
type podServer struct {
	musterv1.UnimplementedPodServiceServer
	*fake
}

func newFake() *fake {
	return &fake{
		revision: 10, pods: map[string]*musterv1.Pod{}, deployments: map[string]*musterv1.Deployment{}, budgets: map[string]*musterv1.PodDisruptionBudget{},
		changed: make(chan struct{}), deleteAfter: 20 * time.Millisecond,
	}
}

// start serves the fake on loopback over TLS and returns how a client reaches it.
func (f *fake) start(t testing.TB) clientconfig.Context {
	t.Helper()
	ca, caKey := certificate(t, nil, nil)
	cert, key := certificate(t, ca, caKey)
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}},
		ClientCAs:    pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	})), grpc.UnaryInterceptor(f.record))
	musterv1.RegisterPodServiceServer(s, podServer{fake: f})
	musterv1.RegisterNodeServiceServer(s, f)
	musterv1.RegisterDeploymentServiceServer(s, f)
	musterv1.RegisterPodDisruptionBudgetServiceServer(s, f)
	musterv1.RegisterServiceServiceServer(s, f)
	musterv1.RegisterEventServiceServer(s, f)
	musterv1.RegisterProbeServiceServer(s, f)
	musterv1.RegisterClusterServiceServer(s, f)
	musterv1.RegisterUsageServiceServer(s, f)
	f.wg.Go(func() { _ = s.Serve(l) }) // ends with Stop
	t.Cleanup(func() { s.Stop(); f.wg.Wait() })
	return clientconfig.Context{Name: "test", Server: l.Addr().String(), CA: string(caPEM), Certificate: string(certPEM), Key: string(keyPEM)}
}

func certificate(t testing.TB, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: parent == nil, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		parent, parentKey = template, key
	} else {
		template.URIs = []*url.URL{identity.Principal{Kind: identity.KindCoordinator, Name: "test"}.URI()}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (f *fake) record(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	f.mu.Lock()
	f.calls = append(f.calls, proto.Clone(req.(proto.Message)))
	f.mu.Unlock()
	return handler(ctx, req)
}

// called returns the requests of one type.
func called[T proto.Message](f *fake) []T {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []T
	for _, c := range f.calls {
		if m, ok := c.(T); ok {
			found = append(found, m)
		}
	}
	return found
}

func withReason(code codes.Code, msg, reason string, more ...*errdetails.BadRequest_FieldViolation) error {
	s, err := status.New(code, msg).WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "muster.dev"})
	if err == nil && len(more) > 0 {
		s, err = s.WithDetails(&errdetails.BadRequest{FieldViolations: more})
	}
	if err != nil {
		panic(err)
	}
	return s.Err()
}

func notFound(what string) error { return withReason(codes.NotFound, what+" not found", "NOT_FOUND") }

func namespaceOr(ns string) string {
	if ns == "" {
		return "default"
	}
	return ns
}

// changedLocked wakes the watches.
func (f *fake) changedLocked() {
	f.revision++
	close(f.changed)
	f.changed = make(chan struct{})
}

// locked does what while no call is being answered.
func (f *fake) locked(what func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	what()
}

func (f *fake) setPod(p *musterv1.Pod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pods[p.GetMeta().GetNamespace()+"/"+p.GetMeta().GetName()] = p
	f.changedLocked()
}

// matches understands k=v terms only.
func matches(selector string, labels map[string]string) bool {
	for term := range strings.SplitSeq(selector, ",") {
		if k, v, ok := strings.Cut(term, "="); ok && labels[k] != v {
			return false
		}
	}
	return true
}

func chosen(m *musterv1.ObjectMeta, namespace, name, selector string) bool {
	return (namespace == "" || namespace == m.GetNamespace()) && (name == "" || name == m.GetName()) && matches(selector, m.GetLabels())
}

// snapshotLocked copies what matches, by key.
func podsLocked(f *fake, q *musterv1.PodFilter) map[string]*musterv1.Pod {
	found := map[string]*musterv1.Pod{}
	for key, p := range f.pods {
		if chosen(p.GetMeta(), q.GetNamespace(), q.GetName(), q.GetLabelSelector()) && (q.GetNode() == "" || q.GetNode() == p.GetNode()) {
			found[key] = proto.CloneOf(p)
		}
	}
	return found
}

func deploymentsLocked(f *fake, q *musterv1.DeploymentFilter) map[string]*musterv1.Deployment {
	found := map[string]*musterv1.Deployment{}
	for key, d := range f.deployments {
		if chosen(d.GetMeta(), q.GetNamespace(), q.GetName(), q.GetLabelSelector()) {
			found[key] = proto.CloneOf(d)
		}
	}
	return found
}

func sorted[T any](m map[string]T) []T {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var all []T
	for _, k := range keys {
		all = append(all, m[k])
	}
	return all
}

// watched tells a watcher what there is and then what changes.
func watched[T proto.Message](f *fake, ctx context.Context, read func() map[string]T, send func(musterv1.ChangeType, T, int64) error) error {
	var before map[string]T
	for first := true; ; first = false {
		f.mu.Lock()
		now, revision, changed := read(), f.revision, f.changed
		if !first && f.cut > 0 {
			f.cut--
			f.mu.Unlock()
			return status.Error(codes.Unavailable, "the coordinator is stopping")
		}
		f.mu.Unlock()
		for _, key := range sortedNames(now) {
			old, ok := before[key]
			switch {
			case !ok:
				if err := send(musterv1.ChangeType_CHANGE_TYPE_ADDED, now[key], revision); err != nil {
					return err
				}
			case !proto.Equal(old, now[key]):
				if err := send(musterv1.ChangeType_CHANGE_TYPE_MODIFIED, now[key], revision); err != nil {
					return err
				}
			}
		}
		for _, key := range sortedNames(before) {
			if _, ok := now[key]; !ok {
				if err := send(musterv1.ChangeType_CHANGE_TYPE_DELETED, before[key], revision); err != nil {
					return err
				}
			}
		}
		if first {
			var none T
			if err := send(musterv1.ChangeType_CHANGE_TYPE_SYNCED, none, revision); err != nil {
				return err
			}
		}
		before = now
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func sortedNames[T any](m map[string]T) []string {
	var names []string
	for k := range m {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

func (s podServer) GetPod(_ context.Context, r *musterv1.GetPodRequest) (*musterv1.GetPodResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pods[namespaceOr(r.GetNamespace())+"/"+r.GetName()]
	if p == nil {
		return nil, notFound("pod " + r.GetName())
	}
	return &musterv1.GetPodResponse{Pod: proto.CloneOf(p)}, nil
}

// ListPods gives two pods a page, so that paging is seen to work.
func (s podServer) ListPods(_ context.Context, r *musterv1.ListPodsRequest) (*musterv1.ListPodsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, from := sorted(podsLocked(s.fake, r.GetFilter())), 0
	if r.GetPageToken() != "" {
		if _, err := fmt.Sscan(r.GetPageToken(), &from); err != nil {
			return nil, status.Error(codes.InvalidArgument, "page_token")
		}
	}
	to, next := min(from+2, len(all)), ""
	if to < len(all) {
		next = fmt.Sprint(to)
	}
	return &musterv1.ListPodsResponse{Pods: all[from:to], NextPageToken: next, Revision: s.revision}, nil
}

func (s podServer) WatchPods(r *musterv1.WatchPodsRequest, stream grpc.ServerStreamingServer[musterv1.WatchPodsResponse]) error {
	return watched(s.fake, stream.Context(), func() map[string]*musterv1.Pod { return podsLocked(s.fake, r.GetFilter()) },
		func(what musterv1.ChangeType, p *musterv1.Pod, revision int64) error {
			return stream.Send(&musterv1.WatchPodsResponse{Type: what, Pod: p, Revision: revision})
		})
}

// defaultedPod has what its spec leaves out filled in; nil of nil.
func defaultedPod(p *musterv1.Pod) *musterv1.Pod {
	if p == nil {
		return nil
	}
	p = proto.CloneOf(p)
	full, err := wire.PodFromProto(p)
	if err != nil {
		panic(err)
	}
	spec.DefaultPod(full)
	p.Spec = wire.PodToProto(full).GetSpec()
	return p
}

// checkPod finds what the tests' bad pods have.
func checkPod(p *musterv1.Pod) error {
	for i, c := range p.GetSpec().GetContainers() {
		if len(c.GetCommand()) == 0 {
			path := fmt.Sprintf("spec.containers[%d].command", i)
			return withReason(codes.InvalidArgument, path+": required", "INVALID",
				&errdetails.BadRequest_FieldViolation{Field: path, Description: "required"},
				&errdetails.BadRequest_FieldViolation{Field: "spec", Description: "not good either"})
		}
	}
	return nil
}

func (s podServer) CreatePod(_ context.Context, r *musterv1.CreatePodRequest) (*musterv1.CreatePodResponse, error) {
	if err := checkPod(r.GetPod()); err != nil {
		return nil, err
	}
	p := defaultedPod(r.GetPod())
	if p.GetSpec().GetNodeSelector()["nowhere"] != "" {
		return &musterv1.CreatePodResponse{Pod: p, Warnings: []string{"0/1 nodes fit: 1 not selected"}}, nil
	}
	p.Node = "n1"
	return &musterv1.CreatePodResponse{Pod: p}, nil
}

func (s podServer) UpdatePod(_ context.Context, r *musterv1.UpdatePodRequest) (*musterv1.UpdatePodResponse, error) {
	if err := checkPod(r.GetPod()); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := r.GetPod().GetMeta()
	key := namespaceOr(m.GetNamespace()) + "/" + m.GetName()
	old := defaultedPod(s.pods[key])
	wanted := defaultedPod(r.GetPod())
	result := musterv1.WriteResult_WRITE_RESULT_CREATED
	switch {
	case old == nil && !r.GetAllowMissing():
		return nil, notFound("pod " + m.GetName())
	case s.conflicts > 0:
		s.conflicts--
		return nil, withReason(codes.Aborted, "pod "+key+": revision changed", "REVISION_CONFLICT")
	case old == nil:
	case proto.Equal(old.GetSpec(), wanted.GetSpec()):
		if sameMarks(old.GetMeta(), m) {
			return &musterv1.UpdatePodResponse{Pod: old, Result: musterv1.WriteResult_WRITE_RESULT_UNCHANGED}, nil
		}
		p := proto.CloneOf(old)
		p.Meta.Labels, p.Meta.Annotations = m.GetLabels(), m.GetAnnotations()
		if !r.GetValidateOnly() {
			s.pods[key] = p
			s.changedLocked()
		}
		return &musterv1.UpdatePodResponse{Pod: p, Result: musterv1.WriteResult_WRITE_RESULT_CONFIGURED}, nil
	default:
		was, err := wire.PodFromProto(old)
		if err != nil {
			return nil, err
		}
		pod, err := wire.PodFromProto(wanted)
		if err != nil {
			return nil, err
		}
		var changes []*errdetails.BadRequest_FieldViolation
		for _, f := range spec.ValidatePodUpdate(was, pod) {
			changes = append(changes, &errdetails.BadRequest_FieldViolation{Field: f.Path, Description: f.Detail(), Reason: string(f.Kind)})
		}
		return nil, withReason(codes.InvalidArgument, "invalid", "INVALID", changes...)
	}
	if !r.GetValidateOnly() {
		p := proto.CloneOf(wanted)
		p.Meta.Namespace, p.Meta.Uid = namespaceOr(m.GetNamespace()), fmt.Sprintf("uid-%d", s.revision)
		s.pods[key] = p
		s.changedLocked()
	}
	return &musterv1.UpdatePodResponse{Pod: wanted, Result: result}, nil
}

func sameMarks(a, b *musterv1.ObjectMeta) bool {
	return maps.Equal(a.GetLabels(), b.GetLabels()) && maps.Equal(a.GetAnnotations(), b.GetAnnotations())
}

func (s podServer) DeletePod(_ context.Context, r *musterv1.DeletePodRequest) (*musterv1.DeletePodResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := namespaceOr(r.GetNamespace()) + "/" + r.GetName()
	p := s.pods[key]
	if p == nil {
		return nil, notFound("pod " + r.GetName())
	}
	p = proto.CloneOf(p)
	p.Meta.DeleteTime = timestamppb.Now()
	s.pods[key] = p
	s.changedLocked()
	s.later(func() { delete(s.pods, key) })
	return &musterv1.DeletePodResponse{Pod: p}, nil
}

// later changes the copy in a while, unless that is never.
func (f *fake) later(change func()) {
	if f.deleteAfter < 0 {
		return
	}
	f.wg.Go(func() {
		time.Sleep(f.deleteAfter)
		f.mu.Lock()
		defer f.mu.Unlock()
		change()
		f.changedLocked()
	})
}

func (s podServer) MovePod(ctx context.Context, r *musterv1.MovePodRequest) (*musterv1.MovePodResponse, error) {
	g, err := s.GetPod(ctx, &musterv1.GetPodRequest{Namespace: r.GetNamespace(), Name: r.GetName()})
	if err != nil {
		return nil, err
	}
	if g.GetPod().GetFailoverClass() == musterv1.FailoverClass_FAILOVER_CLASS_STAY && !r.GetAcceptRisk() {
		return nil, withReason(codes.FailedPrecondition, "the old instance may still run", "SECOND_INSTANCE_RISK")
	}
	return &musterv1.MovePodResponse{Pod: g.GetPod()}, nil
}

func (s podServer) ReadPodLogs(r *musterv1.ReadPodLogsRequest, stream grpc.ServerStreamingServer[musterv1.ReadPodLogsResponse]) error {
	if r.GetName() != "web" {
		return notFound("pod " + r.GetName())
	}
	text := fmt.Sprintf("container=%s previous=%v follow=%v tail=%d since=%v\n", r.GetContainer(), r.GetPrevious(), r.GetFollow(), r.GetTail(), r.GetSince().AsDuration())
	return stream.Send(&musterv1.ReadPodLogsResponse{Data: []byte(text)})
}

func (f *fake) GetDeployment(_ context.Context, r *musterv1.GetDeploymentRequest) (*musterv1.GetDeploymentResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.deployments[namespaceOr(r.GetNamespace())+"/"+r.GetName()]
	if d == nil {
		return nil, notFound("deployment " + r.GetName())
	}
	return &musterv1.GetDeploymentResponse{Deployment: proto.CloneOf(d)}, nil
}

func (f *fake) ListDeployments(_ context.Context, r *musterv1.ListDeploymentsRequest) (*musterv1.ListDeploymentsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &musterv1.ListDeploymentsResponse{Deployments: sorted(deploymentsLocked(f, r.GetFilter())), Revision: f.revision}, nil
}

func (f *fake) WatchDeployments(r *musterv1.WatchDeploymentsRequest, stream grpc.ServerStreamingServer[musterv1.WatchDeploymentsResponse]) error {
	return watched(f, stream.Context(), func() map[string]*musterv1.Deployment { return deploymentsLocked(f, r.GetFilter()) },
		func(what musterv1.ChangeType, d *musterv1.Deployment, revision int64) error {
			if what == musterv1.ChangeType_CHANGE_TYPE_SYNCED && f.synced != nil {
				defer f.synced()
			}
			return stream.Send(&musterv1.WatchDeploymentsResponse{Type: what, Deployment: d, Revision: revision})
		})
}

func (f *fake) UpdateDeployment(_ context.Context, r *musterv1.UpdateDeploymentRequest) (*musterv1.UpdateDeploymentResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := r.GetDeployment().GetMeta()
	key := namespaceOr(m.GetNamespace()) + "/" + m.GetName()
	result := musterv1.WriteResult_WRITE_RESULT_CREATED
	if old := f.deployments[key]; old != nil {
		result = musterv1.WriteResult_WRITE_RESULT_CONFIGURED
		if proto.Equal(old.GetSpec(), r.GetDeployment().GetSpec()) {
			result = musterv1.WriteResult_WRITE_RESULT_UNCHANGED
		}
	}
	if !r.GetValidateOnly() {
		d := proto.CloneOf(r.GetDeployment())
		d.Meta.Namespace = namespaceOr(m.GetNamespace())
		f.deployments[key] = d
		f.changedLocked()
	}
	return &musterv1.UpdateDeploymentResponse{Deployment: r.GetDeployment(), Result: result}, nil
}

func (f *fake) ListDeploymentRevisions(context.Context, *musterv1.ListDeploymentRevisionsRequest) (*musterv1.ListDeploymentRevisionsResponse, error) {
	return &musterv1.ListDeploymentRevisionsResponse{Revisions: f.revisions}, nil
}

func (f *fake) GetPodDisruptionBudget(_ context.Context, r *musterv1.GetPodDisruptionBudgetRequest) (*musterv1.GetPodDisruptionBudgetResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.budgets[namespaceOr(r.GetNamespace())+"/"+r.GetName()]
	if b == nil {
		return nil, notFound("budget " + r.GetName())
	}
	return &musterv1.GetPodDisruptionBudgetResponse{PodDisruptionBudget: proto.CloneOf(b)}, nil
}

func budgetsLocked(f *fake, q *musterv1.PodDisruptionBudgetFilter) map[string]*musterv1.PodDisruptionBudget {
	found := map[string]*musterv1.PodDisruptionBudget{}
	for key, b := range f.budgets {
		if chosen(b.GetMeta(), q.GetNamespace(), q.GetName(), q.GetLabelSelector()) {
			found[key] = proto.CloneOf(b)
		}
	}
	return found
}

func (f *fake) ListPodDisruptionBudgets(_ context.Context, r *musterv1.ListPodDisruptionBudgetsRequest) (*musterv1.ListPodDisruptionBudgetsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &musterv1.ListPodDisruptionBudgetsResponse{PodDisruptionBudgets: sorted(budgetsLocked(f, r.GetFilter())), Revision: f.revision}, nil
}

func (f *fake) WatchPodDisruptionBudgets(r *musterv1.WatchPodDisruptionBudgetsRequest, stream grpc.ServerStreamingServer[musterv1.WatchPodDisruptionBudgetsResponse]) error {
	return watched(f, stream.Context(), func() map[string]*musterv1.PodDisruptionBudget { return budgetsLocked(f, r.GetFilter()) },
		func(what musterv1.ChangeType, b *musterv1.PodDisruptionBudget, revision int64) error {
			return stream.Send(&musterv1.WatchPodDisruptionBudgetsResponse{Type: what, PodDisruptionBudget: b, Revision: revision})
		})
}

func (f *fake) UpdatePodDisruptionBudget(_ context.Context, r *musterv1.UpdatePodDisruptionBudgetRequest) (*musterv1.UpdatePodDisruptionBudgetResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := proto.CloneOf(r.GetPodDisruptionBudget())
	key := namespaceOr(b.GetMeta().GetNamespace()) + "/" + b.GetMeta().GetName()
	result := musterv1.WriteResult_WRITE_RESULT_CREATED
	if old := f.budgets[key]; old != nil {
		result = musterv1.WriteResult_WRITE_RESULT_CONFIGURED
		if proto.Equal(old.GetSpec(), b.GetSpec()) {
			result = musterv1.WriteResult_WRITE_RESULT_UNCHANGED
		}
	}
	f.budgets[key] = b
	f.changedLocked()
	return &musterv1.UpdatePodDisruptionBudgetResponse{PodDisruptionBudget: b, Result: result}, nil
}

func (f *fake) DeletePodDisruptionBudget(_ context.Context, r *musterv1.DeletePodDisruptionBudgetRequest) (*musterv1.DeletePodDisruptionBudgetResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := namespaceOr(r.GetNamespace()) + "/" + r.GetName()
	b := f.budgets[key]
	if b == nil {
		return nil, notFound("budget " + r.GetName())
	}
	delete(f.budgets, key)
	f.changedLocked()
	return &musterv1.DeletePodDisruptionBudgetResponse{PodDisruptionBudget: b}, nil
}

func (s podServer) EvictPod(_ context.Context, r *musterv1.EvictPodRequest) (*musterv1.EvictPodResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := namespaceOr(r.GetNamespace()) + "/" + r.GetName()
	p := s.pods[key]
	if p == nil {
		return nil, notFound("pod " + r.GetName())
	}
	if r.GetNode() != "" && r.GetNode() != p.GetNode() {
		return nil, withReason(codes.Aborted, "it has moved", "REVISION_CONFLICT")
	}
	if s.evict != nil {
		if err := s.evict(p); err != nil {
			return nil, err
		}
	}
	how := musterv1.Eviction_EVICTION_MOVE
	switch {
	case p.GetMeta().GetDeleteTime() != nil, s.leaving[p]:
		return &musterv1.EvictPodResponse{Pod: p, Eviction: musterv1.Eviction_EVICTION_UNDER_WAY}, nil
	case p.GetMeta().GetOwner() != nil:
		how = musterv1.Eviction_EVICTION_DELETE
	}
	if r.GetValidateOnly() {
		return &musterv1.EvictPodResponse{Pod: p, Eviction: how}, nil
	}
	if s.leaving == nil {
		s.leaving = map[*musterv1.Pod]bool{}
	}
	s.leaving[p] = true
	s.later(func() {
		delete(s.leaving, p)
		if how == musterv1.Eviction_EVICTION_DELETE {
			delete(s.pods, key)
			return
		}
		moved := proto.CloneOf(p)
		moved.Node = "n2"
		s.pods[key] = moved
	})
	return &musterv1.EvictPodResponse{Pod: p, Eviction: how}, nil
}

func (f *fake) DeleteDeployment(_ context.Context, r *musterv1.DeleteDeploymentRequest) (*musterv1.DeleteDeploymentResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := namespaceOr(r.GetNamespace()) + "/" + r.GetName()
	d := f.deployments[key]
	if d == nil {
		return nil, notFound("deployment " + r.GetName())
	}
	f.later(func() { delete(f.deployments, key) })
	return &musterv1.DeleteDeploymentResponse{Deployment: d}, nil
}

func (f *fake) GetService(_ context.Context, r *musterv1.GetServiceRequest) (*musterv1.GetServiceResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.services {
		if chosen(s.GetMeta(), r.GetNamespace(), r.GetName(), "") {
			return &musterv1.GetServiceResponse{Service: proto.CloneOf(s)}, nil
		}
	}
	return nil, notFound("service " + r.GetName())
}

func (f *fake) ListServices(_ context.Context, r *musterv1.ListServicesRequest) (*musterv1.ListServicesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	resp := &musterv1.ListServicesResponse{Revision: f.revision}
	for _, s := range f.services {
		if q := r.GetFilter(); chosen(s.GetMeta(), q.GetNamespace(), q.GetName(), q.GetLabelSelector()) {
			resp.Services = append(resp.Services, s)
		}
	}
	return resp, nil
}

func (f *fake) GetNode(_ context.Context, r *musterv1.GetNodeRequest) (*musterv1.GetNodeResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.nodes {
		if n.GetMeta().GetName() == r.GetName() {
			return &musterv1.GetNodeResponse{Node: proto.CloneOf(n)}, nil
		}
	}
	return nil, notFound("node " + r.GetName())
}

func (f *fake) ListNodes(context.Context, *musterv1.ListNodesRequest) (*musterv1.ListNodesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &musterv1.ListNodesResponse{Nodes: f.nodes, Revision: f.revision}, nil
}

func (f *fake) WatchNodes(r *musterv1.WatchNodesRequest, stream grpc.ServerStreamingServer[musterv1.WatchNodesResponse]) error {
	read := func() map[string]*musterv1.Node {
		found := map[string]*musterv1.Node{}
		for _, n := range f.nodes {
			if r.GetName() == "" || r.GetName() == n.GetMeta().GetName() {
				found[n.GetMeta().GetName()] = proto.CloneOf(n)
			}
		}
		return found
	}
	return watched(f, stream.Context(), read, func(what musterv1.ChangeType, n *musterv1.Node, revision int64) error {
		return stream.Send(&musterv1.WatchNodesResponse{Type: what, Node: n, Revision: revision})
	})
}

func (f *fake) UpdateNode(_ context.Context, r *musterv1.UpdateNodeRequest) (*musterv1.UpdateNodeResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, n := range f.nodes {
		if n.GetMeta().GetName() == r.GetNode().GetMeta().GetName() {
			f.nodes[i] = r.GetNode()
			labels := maps.Clone(n.GetFacts().GetLabels()) // they stay the agent's
			if labels == nil {
				labels = map[string]string{}
			}
			maps.Copy(labels, r.GetNode().GetMeta().GetLabels())
			r.GetNode().Meta.Labels = labels
		}
	}
	return &musterv1.UpdateNodeResponse{Node: r.GetNode(), Result: musterv1.WriteResult_WRITE_RESULT_CONFIGURED}, nil
}

func (f *fake) DeleteNode(context.Context, *musterv1.DeleteNodeRequest) (*musterv1.DeleteNodeResponse, error) {
	return nil, withReason(codes.FailedPrecondition, "node n1 is in use", "NODE_IN_USE")
}

func (f *fake) ListEvents(_ context.Context, r *musterv1.ListEventsRequest) (*musterv1.ListEventsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	resp := &musterv1.ListEventsResponse{Revision: f.revision}
	for _, e := range f.events {
		o, q := e.GetInvolved(), r.GetFilter()
		if (q.GetKind() == "" || q.GetKind() == o.GetKind()) && (q.GetName() == "" || q.GetName() == o.GetName()) &&
			(q.GetNamespace() == "" || q.GetNamespace() == e.GetMeta().GetNamespace()) {
			resp.Events = append(resp.Events, e)
		}
	}
	return resp, nil
}

func (f *fake) ListProbes(_ context.Context, r *musterv1.ListProbesRequest) (*musterv1.ListProbesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	resp := &musterv1.ListProbesResponse{}
	for _, p := range f.probes {
		q := r.GetFilter()
		if (q.GetPod() == "" || q.GetPod() == p.GetPod().GetName()) && (q.GetVerdict() == 0 || q.GetVerdict() == p.GetVerdict()) &&
			(q.GetKind() == 0 || q.GetKind() == p.GetKind()) && (q.GetContainer() == "" || q.GetContainer() == p.GetContainer()) {
			resp.Probes = append(resp.Probes, p)
		}
	}
	return resp, nil
}

func (f *fake) WatchProbeResults(r *musterv1.WatchProbeResultsRequest, stream grpc.ServerStreamingServer[musterv1.WatchProbeResultsResponse]) error {
	f.mu.Lock()
	f.calls = append(f.calls, proto.CloneOf(r))
	f.mu.Unlock()
	for _, m := range f.follow {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return f.followEnd
}

func (f *fake) ListProbeResults(context.Context, *musterv1.ListProbeResultsRequest) (*musterv1.ListProbeResultsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &musterv1.ListProbeResultsResponse{Results: f.results}, nil
}

func (f *fake) ListFailovers(context.Context, *musterv1.ListFailoversRequest) (*musterv1.ListFailoversResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &musterv1.ListFailoversResponse{Failovers: f.failovers}, nil
}

func (f *fake) GetStatus(context.Context, *musterv1.GetStatusRequest) (*musterv1.GetStatusResponse, error) {
	if f.status == nil {
		return nil, status.Error(codes.Internal, "internal error")
	}
	return f.status, nil
}

func (f *fake) Resume(_ context.Context, r *musterv1.ResumeRequest) (*musterv1.ResumeResponse, error) {
	switch r.GetTarget() {
	case "deployment/site":
		return &musterv1.ResumeResponse{}, nil
	case "":
	default:
		return nil, withReason(codes.FailedPrecondition, r.GetTarget()+": restarts are not held", "NOT_HELD")
	}
	return nil, withReason(codes.FailedPrecondition, "failover is not frozen", "NOT_FROZEN")
}

func (f *fake) CreateToken(context.Context, *musterv1.CreateTokenRequest) (*musterv1.CreateTokenResponse, error) {
	return &musterv1.CreateTokenResponse{Token: "muster:v1:hash:id:secret"}, nil
}

func (f *fake) ListTokens(context.Context, *musterv1.ListTokensRequest) (*musterv1.ListTokensResponse, error) {
	return &musterv1.ListTokensResponse{Tokens: []*musterv1.Token{{
		Id: "id", Role: musterv1.Role_ROLE_NODE, UsesLeft: 1, ExpireTime: timestamppb.New(time.Now().Add(time.Hour)), CreateTime: timestamppb.Now(),
	}}}, nil
}

func (f *fake) RevokeToken(_ context.Context, r *musterv1.RevokeTokenRequest) (*musterv1.RevokeTokenResponse, error) {
	if r.GetId() != "id" {
		return nil, notFound("token " + r.GetId())
	}
	return &musterv1.RevokeTokenResponse{}, nil
}

// A few objects.

func seconds(n float64) *durationpb.Duration {
	return durationpb.New(time.Duration(n * float64(time.Second)))
}

func ago(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(time.Now().Add(-d)) }

func webPod(name, node string, ready bool) *musterv1.Pod {
	truth := map[bool]string{true: "True", false: "False"}[ready]
	return &musterv1.Pod{
		Meta: &musterv1.ObjectMeta{Namespace: "default", Name: name, Uid: "uid-" + name, Labels: map[string]string{"app": "web"}, CreateTime: ago(90 * time.Second), Revision: 7},
		Spec: &musterv1.PodSpec{Containers: []*musterv1.Container{{Name: "main", Command: []string{"serve", "--port", "8080"}}}},
		Node: node, Epoch: 5, FailoverClass: musterv1.FailoverClass_FAILOVER_CLASS_FENCED,
		Status: &musterv1.PodStatus{
			Phase: musterv1.PodPhase_POD_PHASE_RUNNING, PodIp: "127.77.1.1", HostIp: "127.0.0.1", StartTime: ago(80 * time.Second),
			Conditions: []*musterv1.Condition{{Type: "Ready", Status: truth, TransitionTime: ago(time.Minute)}},
			Containers: []*musterv1.ContainerStatus{{
				Name: "main", Id: "process://1", Started: true, Ready: ready, Restarts: 2,
				State: &musterv1.ContainerState{State: &musterv1.ContainerState_Running{Running: &musterv1.ContainerRunning{StartedAt: ago(40 * time.Second)}}},
				Last: &musterv1.ContainerState{State: &musterv1.ContainerState_Terminated{Terminated: &musterv1.ContainerTerminated{
					ExitCode: 137, Signal: 9, Reason: "Error", StartedAt: ago(80 * time.Second), FinishedAt: ago(45 * time.Second),
				}}},
			}},
		},
	}
}
