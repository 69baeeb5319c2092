package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/musterhq/muster/coordinator/endpoints"
	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/leader"
	"github.com/musterhq/muster/coordinator/placement"
	"github.com/musterhq/muster/coordinator/probes"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/memory"
	"github.com/musterhq/muster/coordinator/usage"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/membership"
	"github.com/musterhq/muster/internal/reason"
	"github.com/musterhq/muster/internal/spec"
)

// world is the API on a store in memory, served in this process; it stands for the leader, the sessions and the tokens.
type world struct {
	t         *testing.T
	store     *memory.Store
	cache     *store.Cache
	probes    *probes.Table
	usage     *usage.Table
	conn      *grpc.ClientConn
	endpoints *endpoints.Table
	log       *slog.Logger
	logged    strings.Builder

	pods        musterv1.PodServiceClient
	nodes       musterv1.NodeServiceClient
	deployments musterv1.DeploymentServiceClient
	budgets     musterv1.PodDisruptionBudgetServiceClient
	events      musterv1.EventServiceClient
	probe       musterv1.ProbeServiceClient
	usages      musterv1.UsageServiceClient
	cluster     musterv1.ClusterServiceClient

	connected map[string]bool
	answers   []*agentv1.AnswerRequest
	asked     *agentv1.Ask
	// following answers in place of answers; nil: they do.
	following func(ctx context.Context, take func(*agentv1.AnswerRequest) error) error
	command   func(ctx context.Context, said <-chan *agentv1.InteractResponse, take func(*agentv1.InteractRequest) error) error
	explain   string
	nowhere   string
	moveErr   error
	forgotten []spec.ObjectName
	created   []string
	frozen    string
	// heldRestarts is the Deployment whose restarts are held.
	heldRestarts string
}

func (w *world) resumeRestarts(uid string) bool {
	held := w.heldRestarts == uid
	if held {
		w.heldRestarts = ""
	}
	return held
}

func (w *world) Connected(node string) bool { return w.connected[node] }

func (w *world) Ask(ctx context.Context, _ string, ask *agentv1.Ask, take func(*agentv1.AnswerRequest) error) error {
	w.asked = ask
	if w.following != nil {
		return w.following(ctx, take)
	}
	for _, a := range w.answers {
		if err := take(a); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) Exec(ctx context.Context, _ string, ask *agentv1.Ask, said <-chan *agentv1.InteractResponse, take func(*agentv1.InteractRequest) error) error {
	w.asked = ask
	return w.command(ctx, said, take)
}

func (w *world) Frozen() string { return w.frozen }

func (w *world) Resume() bool {
	was := w.frozen != ""
	w.frozen = ""
	return was
}

func (w *world) Move(context.Context, spec.ObjectName, bool) error { return w.moveErr }

func (w *world) Forget(_ context.Context, n spec.ObjectName) error {
	w.forgotten = append(w.forgotten, n)
	return nil
}

func (w *world) Elsewhere(*fleet.Pod) string { return w.nowhere }

func (w *world) Evict(ctx context.Context, p *fleet.Pod, guard store.Txn) error {
	guard.If = append(guard.If, store.Cond{Key: store.BindingKey(p.Key()), Revision: p.Epoch})
	guard.Then = append(guard.Then, store.Write{Key: store.StopKey(p.Key()), Value: &spec.Stop{Epoch: p.Epoch, Reason: "drain"}})
	rev, err := w.store.Commit(ctx, guard)
	if err != nil {
		return err
	}
	return w.cache.Wait(ctx, rev)
}

func (w *world) Explain(*spec.Pod) string { return w.explain }
func (w *world) ExplainNodes(p *spec.Pod) []placement.Refusal {
	return []placement.Refusal{{Node: "n1", Why: w.explain + " of " + p.Name}, {Node: "n2"}}
}

func (w *world) Where(*spec.Pod) (node, why string) {
	if w.explain != "" {
		return "", w.explain
	}
	return "n1", ""
}

type tokens struct{ *world }

func (k tokens) Create(_ context.Context, role musterv1.Role, ttl time.Duration, uses int) (string, error) {
	k.created = append(k.created, fmt.Sprintf("%v %v %d", role, ttl, uses))
	return "id.secret", nil
}

func (tokens) List(context.Context) ([]*musterv1.Token, error) {
	return []*musterv1.Token{{Id: "id"}}, nil
}
func (tokens) Revoke(_ context.Context, id string) error {
	return fmt.Errorf("token %s: %w", id, store.ErrNotFound)
}
func (tokens) Login(context.Context, string, string, []byte) (cert, ca []byte, err error) {
	return []byte("cert"), []byte("ca"), nil
}

func serve(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, store: memory.New(), probes: probes.New(), usage: usage.New(), connected: map[string]bool{}}
	w.log = slog.New(slog.NewTextHandler(&w.logged, nil))
	w.cache = store.NewCache(w.store, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = w.cache.Run(ctx) })
	<-w.cache.Ready()
	w.endpoints = endpoints.New(w.cache)
	wg.Go(func() { _ = w.endpoints.Run(ctx) })
	server := grpc.NewServer(grpc.UnaryInterceptor(UnaryErrors(w.log)), grpc.StreamInterceptor(StreamErrors(w.log)))
	New(Config{Version: "1.2.3", ClusterID: "c1", LeaseTTL: 5 * time.Second}, Deps{
		Store: w.store, Cache: w.cache, Fleet: fleet.Share(w.cache), Probes: w.probes, Usage: w.usage, Endpoints: w.endpoints, Sessions: w, Leader: w, ResumeRestarts: w.resumeRestarts, Tokens: tokens{w},
		Members: func() []membership.Member { return []membership.Member{{Name: "n1", State: "alive"}} },
		Log:     w.log, Now: time.Now,
	}).Register(server)
	l := bufconn.Listen(1 << 20)
	wg.Go(func() { _ = server.Serve(l) })
	conn, err := grpc.NewClient("passthrough:///bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	w.pods, w.nodes, w.deployments = musterv1.NewPodServiceClient(conn), musterv1.NewNodeServiceClient(conn), musterv1.NewDeploymentServiceClient(conn)
	w.events, w.probe, w.cluster = musterv1.NewEventServiceClient(conn), musterv1.NewProbeServiceClient(conn), musterv1.NewClusterServiceClient(conn)
	w.budgets = musterv1.NewPodDisruptionBudgetServiceClient(conn)
	w.usages, w.conn = musterv1.NewUsageServiceClient(conn), conn
	t.Cleanup(func() {
		conn.Close()
		cancel()
		server.Stop()
		_ = w.store.Close()
		wg.Wait()
	})
	return w
}

func (w *world) put(k store.Key, v store.Value) int64 {
	w.t.Helper()
	rev, err := w.store.Commit(w.t.Context(), store.Txn{Then: []store.Write{{Key: k, Value: v}}})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.cache.Wait(w.t.Context(), rev); err != nil {
		w.t.Fatal(err)
	}
	return rev
}

// pod is what a user sends: with little but a name.
func pod(name string) *musterv1.Pod {
	return &musterv1.Pod{
		Meta: &musterv1.ObjectMeta{Namespace: "default", Name: name},
		Spec: &musterv1.PodSpec{Containers: []*musterv1.Container{{Name: "c", Image: "none", Command: []string{"/bin/true"}}}},
	}
}

func (w *world) create(name string) *musterv1.Pod {
	w.t.Helper()
	r, err := w.pods.CreatePod(w.t.Context(), &musterv1.CreatePodRequest{Pod: pod(name)})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.GetPod()
}

// bind binds a pod that was created to a node.
func (w *world) bind(p *musterv1.Pod, node string) int64 {
	name := spec.ObjectName{Namespace: p.GetMeta().GetNamespace(), Name: p.GetMeta().GetName()}
	return w.put(store.BindingKey(name), &spec.Binding{UID: p.GetMeta().GetUid(), Node: node, Class: spec.Fast})
}

// refused holds err to a code and a reason.
func refused(t *testing.T, what string, err error, code codes.Code, why string) {
	t.Helper()
	if status.Code(err) != code || reason.Of(err) != why {
		t.Errorf("%s: %v (%s), want %v %s", what, err, reason.Of(err), code, why)
	}
}

// violations are the fields that a refusal names.
func violations(err error) (fields []string) {
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				fields = append(fields, v.GetField())
			}
		}
	}
	return fields
}

func TestAPodIsCreatedReadChangedAndDeleted(t *testing.T) {
	w := serve(t)
	ctx := t.Context()
	w.explain = "no node has room"
	r, err := w.pods.CreatePod(ctx, &musterv1.CreatePodRequest{Pod: pod("a")})
	if err != nil {
		t.Fatal(err)
	}
	m := r.GetPod().GetMeta()
	if m.GetUid() == "" || m.GetGeneration() != 1 || m.GetRevision() == 0 || m.GetCreateTime() == nil ||
		r.GetPod().GetStatus().GetPhase() != musterv1.PodPhase_POD_PHASE_PENDING || !slices.Contains(r.GetWarnings(), "no node has room") {
		t.Errorf("created %v, warnings %q", r.GetPod(), r.GetWarnings())
	}
	_, err = w.pods.CreatePod(ctx, &musterv1.CreatePodRequest{Pod: pod("a")})
	refused(t, "created again", err, codes.AlreadyExists, "ALREADY_EXISTS")
	got, err := w.pods.GetPod(ctx, &musterv1.GetPodRequest{Name: "a"}) // the namespace is default when left out
	if err != nil || !proto.Equal(got.GetPod(), r.GetPod()) {
		t.Errorf("read %v, %v", got, err)
	}

	// What comes to the same after defaulting is no change.
	u, err := w.pods.UpdatePod(ctx, &musterv1.UpdatePodRequest{Pod: pod("a")})
	if err != nil || u.GetResult() != musterv1.WriteResult_WRITE_RESULT_UNCHANGED || u.GetPod().GetMeta().GetRevision() != m.GetRevision() {
		t.Errorf("the same again: %v, %v", u, err)
	}
	u, err = w.pods.UpdatePod(ctx, &musterv1.UpdatePodRequest{Pod: got.GetPod()}) // with its status, as it was read
	if err != nil || u.GetResult() != musterv1.WriteResult_WRITE_RESULT_UNCHANGED {
		t.Errorf("as it was read: %v, %v", u, err)
	}
	changed := pod("a")
	changed.Meta.Labels = map[string]string{"app": "web"}
	dry, err := w.pods.UpdatePod(ctx, &musterv1.UpdatePodRequest{Pod: changed, ValidateOnly: true})
	if err != nil || dry.GetResult() != musterv1.WriteResult_WRITE_RESULT_CONFIGURED {
		t.Errorf("only validated: %v, %v", dry, err)
	}
	if now, _ := w.pods.GetPod(ctx, &musterv1.GetPodRequest{Name: "a"}); len(now.GetPod().GetMeta().GetLabels()) != 0 {
		t.Error("what was only to be validated is stored")
	}
	u, err = w.pods.UpdatePod(ctx, &musterv1.UpdatePodRequest{Pod: changed})
	if err != nil || u.GetResult() != musterv1.WriteResult_WRITE_RESULT_CONFIGURED || u.GetPod().GetMeta().GetGeneration() != 2 ||
		u.GetPod().GetMeta().GetUid() != m.GetUid() || u.GetPod().GetMeta().GetRevision() <= m.GetRevision() {
		t.Errorf("changed: %v, %v", u, err)
	}
	stale := proto.CloneOf(changed)
	stale.Meta.Revision, stale.Meta.Labels = m.GetRevision(), nil
	_, err = w.pods.UpdatePod(ctx, &musterv1.UpdatePodRequest{Pod: stale})
	refused(t, "changed from an old revision", err, codes.Aborted, "REVISION_CONFLICT")
	other := pod("a")
	other.Meta.Uid = "another"
	_, err = w.pods.UpdatePod(ctx, &musterv1.UpdatePodRequest{Pod: other})
	refused(t, "changed with another uid", err, codes.Aborted, "REVISION_CONFLICT")
	fixed := pod("a")
	fixed.Spec.Containers[0].Command = []string{"/bin/false"}
	_, err = w.pods.UpdatePod(ctx, &musterv1.UpdatePodRequest{Pod: fixed})
	if refused(t, "what cannot change", err, codes.InvalidArgument, "INVALID"); len(violations(err)) == 0 {
		t.Errorf("no field is named: %v", err)
	}

	_, err = w.pods.DeletePod(ctx, &musterv1.DeletePodRequest{Name: "a", Uid: "another"})
	refused(t, "deleted with another uid", err, codes.Aborted, "REVISION_CONFLICT")
	_, err = w.pods.DeletePod(ctx, &musterv1.DeletePodRequest{Name: "a", Grace: durationpb.New(-1)})
	refused(t, "deleted with a negative grace", err, codes.InvalidArgument, "INVALID")
	del := func(grace time.Duration, second bool) *musterv1.Pod {
		t.Helper()
		r, err := w.pods.DeletePod(ctx, &musterv1.DeletePodRequest{Name: "a", Grace: durationpb.New(grace), AllowSecondCopy: second})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetPod()
	}
	first := del(20*time.Second, false)
	if g := del(5*time.Second, false).GetMeta(); g.GetDeleteGrace().AsDuration() != 5*time.Second || !proto.Equal(g.GetDeleteTime(), first.GetMeta().GetDeleteTime()) {
		t.Errorf("shortened to %v", g)
	}
	if g := del(time.Hour, false).GetMeta().GetDeleteGrace().AsDuration(); g != 5*time.Second {
		t.Errorf("prolonged to %v", g)
	}
	if len(w.forgotten) != 0 {
		t.Error("forgotten without being asked to")
	}
	if del(0, true); len(w.forgotten) != 1 || w.forgotten[0].Name != "a" {
		t.Errorf("forgotten %v", w.forgotten)
	}
	_, err = w.pods.UpdatePod(ctx, &musterv1.UpdatePodRequest{Pod: changed})
	refused(t, "changed while it goes", err, codes.FailedPrecondition, "DELETING")
}

func TestWhatIsMissingIsNotFoundAndMadeOnlyWhereThatIsAllowed(t *testing.T) {
	w := serve(t)
	ctx := t.Context()
	_, err := w.pods.GetPod(ctx, &musterv1.GetPodRequest{Name: "a"})
	refused(t, "get", err, codes.NotFound, "NOT_FOUND")
	_, err = w.pods.GetPod(ctx, &musterv1.GetPodRequest{})
	refused(t, "get without a name", err, codes.InvalidArgument, "INVALID")
	_, err = w.pods.UpdatePod(ctx, &musterv1.UpdatePodRequest{Pod: pod("a")})
	refused(t, "update", err, codes.NotFound, "NOT_FOUND")
	_, err = w.pods.DeletePod(ctx, &musterv1.DeletePodRequest{Name: "a"})
	refused(t, "delete", err, codes.NotFound, "NOT_FOUND")
	_, err = w.deployments.GetDeployment(ctx, &musterv1.GetDeploymentRequest{Name: "a"})
	refused(t, "get deployment", err, codes.NotFound, "NOT_FOUND")
	_, err = w.deployments.DeleteDeployment(ctx, &musterv1.DeleteDeploymentRequest{Name: "a"})
	refused(t, "delete deployment", err, codes.NotFound, "NOT_FOUND")
	_, err = w.nodes.GetNode(ctx, &musterv1.GetNodeRequest{Name: "a"})
	refused(t, "get node", err, codes.NotFound, "NOT_FOUND")
	_, err = w.nodes.DeleteNode(ctx, &musterv1.DeleteNodeRequest{Name: "a"})
	refused(t, "delete node", err, codes.NotFound, "NOT_FOUND")
	_, err = w.events.GetEvent(ctx, &musterv1.GetEventRequest{Name: "a"})
	refused(t, "get event", err, codes.NotFound, "NOT_FOUND")
	_, err = w.cluster.RevokeToken(ctx, &musterv1.RevokeTokenRequest{Id: "a"})
	refused(t, "revoke", err, codes.NotFound, "NOT_FOUND")

	r, err := w.pods.CreatePod(ctx, &musterv1.CreatePodRequest{Pod: pod("a"), ValidateOnly: true})
	if err != nil || r.GetPod().GetSpec().GetRestartPolicy() == 0 {
		t.Errorf("only validated: %v, %v", r, err)
	}
	if w.cache.View().Len(store.Pods) != 0 {
		t.Error("what was only to be validated is stored")
	}
	u, err := w.pods.UpdatePod(ctx, &musterv1.UpdatePodRequest{Pod: pod("a"), AllowMissing: true})
	if err != nil || u.GetResult() != musterv1.WriteResult_WRITE_RESULT_CREATED || u.GetPod().GetMeta().GetUid() == "" {
		t.Errorf("%v, %v", u, err)
	}
}

func TestARefusalNamesEveryField(t *testing.T) {
	w := serve(t)
	bad := pod("Not_A_Name")
	bad.Spec.Containers = append(bad.Spec.Containers, &musterv1.Container{Name: "c", Image: "none"})
	_, err := w.pods.CreatePod(t.Context(), &musterv1.CreatePodRequest{Pod: bad})
	refused(t, "a bad pod", err, codes.InvalidArgument, "INVALID")
	if got := violations(err); !slices.Contains(got, "metadata.name") || !slices.Contains(got, "spec.containers[1].name") {
		t.Errorf("fields %q", got)
	}
	if !strings.HasPrefix(status.Convert(err).Message(), "pod/Not_A_Name: ") {
		t.Errorf("message %q", err)
	}
	uid := pod("a")
	uid.Meta.Uid = "mine"
	for field, err := range map[string]error{
		"pod": func() error { _, err := w.pods.CreatePod(t.Context(), &musterv1.CreatePodRequest{}); return err }(),
		"metadata.uid": func() error {
			_, err := w.pods.CreatePod(t.Context(), &musterv1.CreatePodRequest{Pod: uid})
			return err
		}(),
		"deployment": func() error {
			_, err := w.deployments.CreateDeployment(t.Context(), &musterv1.CreateDeploymentRequest{})
			return err
		}(),
		"page_size": func() error {
			_, err := w.pods.ListPods(t.Context(), &musterv1.ListPodsRequest{PageSize: maxPage + 1})
			return err
		}(),
		"page_token": func() error {
			_, err := w.pods.ListPods(t.Context(), &musterv1.ListPodsRequest{PageToken: "!"})
			return err
		}(),
		"filter.label_selector": func() error {
			_, err := w.nodes.ListNodes(t.Context(), &musterv1.ListNodesRequest{LabelSelector: strings.Repeat("a", maxSelector+1)})
			return err
		}(),
		"filter.kind": func() error {
			_, err := w.probe.ListProbes(t.Context(), &musterv1.ListProbesRequest{Filter: &musterv1.ProbeFilter{Kind: 77}})
			return err
		}(),
		"limit": func() error {
			_, err := w.probe.ListProbeResults(t.Context(), &musterv1.ListProbeResultsRequest{Pod: "a", Limit: maxResults + 1})
			return err
		}(),
	} {
		refused(t, field, err, codes.InvalidArgument, "INVALID")
		if got := violations(err); !slices.Equal(got, []string{field}) {
			t.Errorf("fields %q, want %s", got, field)
		}
	}
}

func deployment(name string, replicas int32) *musterv1.Deployment {
	labels := map[string]string{"app": name}
	return &musterv1.Deployment{
		Meta: &musterv1.ObjectMeta{Namespace: "default", Name: name},
		Spec: &musterv1.DeploymentSpec{
			Replicas: &replicas, Selector: &musterv1.LabelSelector{MatchLabels: labels},
			Template: &musterv1.PodTemplate{Labels: labels, Spec: pod("x").Spec},
		},
	}
}

func TestADeploymentIsCreatedChangedAndDeleted(t *testing.T) {
	w := serve(t)
	ctx := t.Context()
	r, err := w.deployments.CreateDeployment(ctx, &musterv1.CreateDeploymentRequest{Deployment: deployment("d", 2)})
	if err != nil || r.GetDeployment().GetMeta().GetUid() == "" {
		t.Fatalf("%v, %v", r, err)
	}
	_, err = w.deployments.CreateDeployment(ctx, &musterv1.CreateDeploymentRequest{Deployment: deployment("d", 2)})
	refused(t, "created again", err, codes.AlreadyExists, "ALREADY_EXISTS")
	update := func(d *musterv1.Deployment, missing bool) (musterv1.WriteResult, int64) {
		t.Helper()
		u, err := w.deployments.UpdateDeployment(ctx, &musterv1.UpdateDeploymentRequest{Deployment: d, AllowMissing: missing})
		if err != nil {
			t.Fatal(err)
		}
		return u.GetResult(), u.GetDeployment().GetMeta().GetGeneration()
	}
	if got, gen := update(deployment("d", 2), false); got != musterv1.WriteResult_WRITE_RESULT_UNCHANGED || gen != 1 {
		t.Errorf("the same again: %v, generation %d", got, gen)
	}
	if got, gen := update(deployment("d", 3), false); got != musterv1.WriteResult_WRITE_RESULT_CONFIGURED || gen != 2 {
		t.Errorf("scaled: %v, generation %d", got, gen)
	}
	if got, gen := update(deployment("e", 1), true); got != musterv1.WriteResult_WRITE_RESULT_CREATED || gen != 1 {
		t.Errorf("missing: %v, generation %d", got, gen)
	}
	// The leader's status shows with it, and is ignored when it comes back.
	w.put(store.Key{Family: store.DeployState, Namespace: "default", Name: "d"}, &spec.DeploymentStatus{Replicas: 3})
	got, err := w.deployments.GetDeployment(ctx, &musterv1.GetDeploymentRequest{Name: "d"})
	if err != nil || got.GetDeployment().GetStatus().GetReplicas() != 3 {
		t.Fatalf("%v, %v", got, err)
	}
	if res, _ := update(got.GetDeployment(), false); res != musterv1.WriteResult_WRITE_RESULT_UNCHANGED {
		t.Errorf("as it was read: %v", res)
	}
	_, err = w.deployments.DeleteDeployment(ctx, &musterv1.DeleteDeploymentRequest{Name: "d", Uid: "another"})
	refused(t, "another uid", err, codes.Aborted, "REVISION_CONFLICT")
	for range 2 { // asking again is no error
		del, err := w.deployments.DeleteDeployment(ctx, &musterv1.DeleteDeploymentRequest{Name: "d"})
		if err != nil || del.GetDeployment().GetMeta().GetDeleteTime() == nil {
			t.Errorf("deleted: %v, %v", del, err)
		}
	}
}

func TestAListComesInOrderAndPageByPageAndWhole(t *testing.T) {
	w := serve(t)
	ctx := t.Context()
	var want []string
	for i := range 25 {
		ns := []string{"a", "a-b", "b"}[i%3]
		p, d := pod(fmt.Sprintf("p%02d", i)), deployment(fmt.Sprintf("p%02d", i), 0)
		p.Meta.Namespace, d.Meta.Namespace = ns, ns
		if _, err := w.pods.CreatePod(ctx, &musterv1.CreatePodRequest{Pod: p}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.deployments.CreateDeployment(ctx, &musterv1.CreateDeploymentRequest{Deployment: d}); err != nil {
			t.Fatal(err)
		}
		w.put(eventKey(spec.ObjectName{Namespace: ns, Name: p.Meta.Name}), &spec.Event{
			Meta: spec.Meta{Namespace: ns, Name: p.Meta.Name}, LastTime: time.Unix(int64(100-i), 0),
		})
		w.put(store.Key{Family: store.Failovers, Name: fmt.Sprint(i)}, &spec.Failover{ID: fmt.Sprint(i), Class: spec.Fast, Time: time.Unix(int64(i), 0)})
		want = append(want, ns+"\x00"+p.Meta.Name)
	}
	slices.Sort(want)
	type lister func(token string) (metas []*musterv1.ObjectMeta, next string, err error)
	for kind, list := range map[string]lister{
		"pods": func(token string) (ms []*musterv1.ObjectMeta, _ string, _ error) {
			r, err := w.pods.ListPods(ctx, &musterv1.ListPodsRequest{PageSize: 4, PageToken: token})
			for _, o := range r.GetPods() {
				ms = append(ms, o.GetMeta())
			}
			return ms, r.GetNextPageToken(), err
		},
		"deployments": func(token string) (ms []*musterv1.ObjectMeta, _ string, _ error) {
			r, err := w.deployments.ListDeployments(ctx, &musterv1.ListDeploymentsRequest{PageSize: 4, PageToken: token})
			for _, o := range r.GetDeployments() {
				ms = append(ms, o.GetMeta())
			}
			return ms, r.GetNextPageToken(), err
		},
		"events": func(token string) (ms []*musterv1.ObjectMeta, _ string, _ error) {
			r, err := w.events.ListEvents(ctx, &musterv1.ListEventsRequest{PageSize: 4, PageToken: token})
			for _, o := range r.GetEvents() {
				ms = append(ms, o.GetMeta())
			}
			return ms, r.GetNextPageToken(), err
		},
	} {
		var got []string
		for token, pages := "", 0; ; pages++ {
			ms, next, err := list(token)
			if err != nil || len(ms) > 4 || pages > 10 {
				t.Fatalf("%s: page %d of %d, %v", kind, pages, len(ms), err)
			}
			for _, m := range ms {
				got = append(got, m.GetNamespace()+"\x00"+m.GetName())
			}
			if token = next; token == "" {
				break
			}
		}
		if kind == "events" { // by time, which runs against the names here
			if got[0][len(got[0])-3:] != "p24" || got[24][len(got[24])-3:] != "p00" {
				t.Errorf("events: %q", got)
			}
			slices.Sort(got)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", kind, got, want)
		}
	}
	r, err := w.cluster.ListFailovers(ctx, &musterv1.ListFailoversRequest{})
	if err != nil || len(r.GetFailovers()) != 25 || !slices.IsSortedFunc(r.GetFailovers(), func(a, b *musterv1.Failover) int {
		return a.GetTime().AsTime().Compare(b.GetTime().AsTime())
	}) {
		t.Errorf("failovers are not oldest first: %v, %v", r, err)
	}
}

func TestAListIsFiltered(t *testing.T) {
	w := serve(t)
	ctx := t.Context()
	labelled := pod("b")
	labelled.Meta.Labels = map[string]string{"app": "web"}
	if _, err := w.pods.CreatePod(ctx, &musterv1.CreatePodRequest{Pod: labelled}); err != nil {
		t.Fatal(err)
	}
	w.bind(w.create("a"), "n1")
	for want, f := range map[string]*musterv1.PodFilter{
		"[a b]": {Namespace: "default"}, "[]": {Namespace: "other"}, "[a]": {Node: "n1"}, "[b]": {LabelSelector: "app=web"},
	} {
		r, err := w.pods.ListPods(ctx, &musterv1.ListPodsRequest{Filter: f})
		names := []string{}
		for _, p := range r.GetPods() {
			names = append(names, p.GetMeta().GetName())
		}
		if fmt.Sprint(names) != want || err != nil {
			t.Errorf("%v: %v, %v", f, names, err)
		}
	}
}

// next is the next message of a watch of pods: "ADDED a n1".
func next(t *testing.T, s musterv1.PodService_WatchPodsClient) (string, int64) {
	t.Helper()
	m, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	text := strings.TrimPrefix(m.GetType().String(), "CHANGE_TYPE_")
	if m.GetPod() != nil {
		text += " " + m.GetPod().GetMeta().GetName()
	}
	if m.GetPod().GetNode() != "" {
		text += " on " + m.GetPod().GetNode()
	}
	return text, m.GetRevision()
}

func TestAWatchBeginsWithWhatIsThereAndTellsEachChange(t *testing.T) {
	w := serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	a := w.create("a")
	s, err := w.pods.WatchPods(ctx, &musterv1.WatchPodsRequest{Filter: &musterv1.PodFilter{Namespace: "default"}})
	if err != nil {
		t.Fatal(err)
	}
	want := func(want string) int64 {
		t.Helper()
		got, rev := next(t, s)
		if got != want {
			t.Fatalf("%q, want %q", got, want)
		}
		return rev
	}
	want("ADDED a")
	synced := want("SYNCED")
	w.bind(a, "n1")
	bound := want("MODIFIED a on n1")
	w.create("b")
	want("ADDED b")
	if _, err := w.store.Commit(ctx, store.Txn{Then: []store.Write{
		{Key: store.PodKey(spec.ObjectName{Namespace: "default", Name: "a"})}, {Key: store.BindingKey(spec.ObjectName{Namespace: "default", Name: "a"})},
	}}); err != nil {
		t.Fatal(err)
	}
	gone := want("DELETED a on n1")
	if synced >= bound || bound >= gone {
		t.Errorf("revisions %d, %d, %d do not rise", synced, bound, gone)
	}
	// Who has seen everything up to a revision goes on behind it.
	if s, err = w.pods.WatchPods(ctx, &musterv1.WatchPodsRequest{Revision: bound}); err != nil {
		t.Fatal(err)
	}
	want("MODIFIED b")
	want("DELETED a")
}

func TestAWatchTellsWhatBeginsAndCeasesToMatch(t *testing.T) {
	w := serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	w.create("a")
	s, err := w.pods.WatchPods(ctx, &musterv1.WatchPodsRequest{Filter: &musterv1.PodFilter{LabelSelector: "app"}})
	if err != nil {
		t.Fatal(err)
	}
	label := func(labels map[string]string) {
		p := pod("a")
		p.Meta.Labels = labels
		if _, err := w.pods.UpdatePod(ctx, &musterv1.UpdatePodRequest{Pod: p}); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for range 3 {
		text, _ := next(t, s)
		got = append(got, text)
		label(map[string]string{"app": "x"})
		if len(got) == 2 {
			label(nil)
		}
	}
	if !slices.Equal(got, []string{"SYNCED", "ADDED a", "DELETED a"}) {
		t.Errorf("%q", got)
	}
}

func TestAVerdictOnANodeChangesItsPods(t *testing.T) {
	w := serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	a := w.create("a")
	epoch := w.bind(a, "n1")
	w.put(store.StatusKey(spec.ObjectName{Namespace: "default", Name: "a"}), &spec.HeldStatus{
		UID: a.GetMeta().GetUid(), Epoch: epoch, Status: spec.PodStatus{Phase: spec.PhaseRunning, Conditions: []spec.Condition{{Type: "Ready", Status: spec.ConditionTrue}}},
	})
	s, err := w.pods.WatchPods(ctx, &musterv1.WatchPodsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next(t, s)
	next(t, s)
	w.put(store.Key{Family: store.NodeStatus, Name: "n1"}, &spec.NodeStatus{Verdict: spec.VerdictLost, PodsNotReady: true})
	if got, _ := next(t, s); got != "MODIFIED a on n1" {
		t.Errorf("%q", got)
	}
}

func TestAWatchFromWhatIsForgottenIsToldToListAgain(t *testing.T) {
	w := serve(t)
	w.create("a")
	w.create("b")
	w.store.Compact(w.cache.View().Revision())
	cache := store.NewCache(w.store, slog.New(slog.DiscardHandler)) // one that began just now remembers nothing older
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = cache.Run(ctx) }()
	<-cache.Ready()
	err := watched[string, *musterv1.Node]{}.run(ctx, cache, 1)
	refused(t, "watch", Status(err).Err(), codes.OutOfRange, "REVISION_COMPACTED")
}

func TestASlowWatcherIsToldWhereToGoOn(t *testing.T) {
	w := serve(t)
	entered, release := make(chan struct{}, 1), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- watched[spec.ObjectName, *musterv1.Event]{
			all: eventNames,
			concerned: func(*store.View, store.Change, map[spec.ObjectName]*musterv1.Event) []spec.ObjectName {
				return []spec.ObjectName{{Name: "x"}}
			},
			look: func(v *store.View, _ spec.ObjectName) (*musterv1.Event, bool) {
				return &musterv1.Event{Count: int32(v.Revision())}, true
			},
			send: func(t musterv1.ChangeType, _ *musterv1.Event, _ int64) error {
				if t != musterv1.ChangeType_CHANGE_TYPE_SYNCED {
					entered <- struct{}{}
					<-release
				} else {
					entered <- struct{}{}
				}
				return nil
			},
		}.run(t.Context(), w.cache, 0)
	}()
	<-entered
	for i := range watchBuffer + 5 {
		w.put(eventKey(spec.ObjectName{Namespace: "default", Name: "x"}), &spec.Event{Count: int32(i)})
	}
	go func() {
		for range entered { // what was buffered is still told
		}
	}()
	close(release)
	err := <-done
	close(entered)
	refused(t, "watch", Status(err).Err(), codes.ResourceExhausted, "WATCH_TOO_SLOW")
	if !strings.Contains(err.Error(), "go on after revision") {
		t.Errorf("%v", err)
	}
}

func TestANodeIsLabelledCordonedAndForgottenOnlyWhenNothingIsOnIt(t *testing.T) {
	w := serve(t)
	ctx := t.Context()
	w.put(store.Key{Family: store.NodeFacts, Name: "n1"}, &spec.NodeFacts{Labels: map[string]string{"os": "linux", "zone": "a"}})
	got, err := w.nodes.GetNode(ctx, &musterv1.GetNodeRequest{Name: "n1"})
	if err != nil || got.GetNode().GetMeta().GetLabels()["os"] != "linux" {
		t.Fatalf("%v, %v", got, err)
	}
	n := got.GetNode()
	n.Unschedulable, n.Meta.Labels["zone"] = true, "b"
	u, err := w.nodes.UpdateNode(ctx, &musterv1.UpdateNodeRequest{Node: n})
	if err != nil || u.GetResult() != musterv1.WriteResult_WRITE_RESULT_CONFIGURED || !u.GetNode().GetUnschedulable() ||
		u.GetNode().GetMeta().GetLabels()["zone"] != "b" || u.GetNode().GetMeta().GetGeneration() != 1 {
		t.Errorf("%v, %v", u, err)
	}
	// The agent's own labels stay the agent's.
	if stored, _, _ := store.Get[*spec.Node](w.cache.View(), store.Key{Family: store.Nodes, Name: "n1"}); len(stored.Labels) != 1 || stored.Labels["zone"] != "b" {
		t.Errorf("stored labels %v", stored.Labels)
	}
	again, err := w.nodes.UpdateNode(ctx, &musterv1.UpdateNodeRequest{Node: u.GetNode()})
	if err != nil || again.GetResult() != musterv1.WriteResult_WRITE_RESULT_UNCHANGED {
		t.Errorf("as it was read: %v, %v", again, err)
	}
	_, err = w.nodes.UpdateNode(ctx, &musterv1.UpdateNodeRequest{Node: got.GetNode()})
	refused(t, "from an old revision", err, codes.Aborted, "REVISION_CONFLICT")

	n = again.GetNode()
	n.Taints = []*musterv1.Taint{{Key: "gpu", Value: "yes", Effect: musterv1.TaintEffect_TAINT_EFFECT_NO_SCHEDULE}}
	u, err = w.nodes.UpdateNode(ctx, &musterv1.UpdateNodeRequest{Node: n})
	if err != nil || len(u.GetNode().GetTaints()) != 1 || u.GetNode().GetTaints()[0].GetValue() != "yes" || !u.GetNode().GetUnschedulable() {
		t.Errorf("tainted: %v, %v", u, err)
	}
	u.GetNode().GetTaints()[0].Effect = 0
	_, err = w.nodes.UpdateNode(ctx, &musterv1.UpdateNodeRequest{Node: u.GetNode()})
	refused(t, "a taint without an effect", err, codes.InvalidArgument, "INVALID")
	u.GetNode().GetTaints()[0].Effect = 77
	_, err = w.nodes.UpdateNode(ctx, &musterv1.UpdateNodeRequest{Node: u.GetNode()})
	refused(t, "a taint with an unknown effect", err, codes.InvalidArgument, "INVALID")

	w.connected["n1"] = true
	_, err = w.nodes.DeleteNode(ctx, &musterv1.DeleteNodeRequest{Name: "n1"})
	refused(t, "with a session", err, codes.FailedPrecondition, "NODE_IN_USE")
	w.connected["n1"] = false
	a := w.create("a")
	w.bind(a, "n1")
	_, err = w.nodes.DeleteNode(ctx, &musterv1.DeleteNodeRequest{Name: "n1"})
	refused(t, "with a pod", err, codes.FailedPrecondition, "NODE_IN_USE")
	cidr := store.Key{Family: store.NodeNetworks, Name: "n1"}
	w.put(cidr, &spec.NodeNetwork{PodCIDR: netip.MustParsePrefix("10.77.3.0/24")})
	if got, err := w.nodes.GetNode(ctx, &musterv1.GetNodeRequest{Name: "n1"}); err != nil || got.GetNode().GetPodCidr() != "10.77.3.0/24" {
		t.Errorf("%v, %v, want its pod CIDR", got, err)
	}
	if l, err := w.nodes.ListNodes(ctx, &musterv1.ListNodesRequest{LabelSelector: "zone=b"}); err != nil || len(l.GetNodes()) != 1 || l.GetNodes()[0].GetPods() != 1 {
		t.Errorf("%v, %v", l, err)
	}
	w.put(store.BindingKey(spec.ObjectName{Namespace: "default", Name: "a"}), nil)
	if _, err = w.nodes.DeleteNode(ctx, &musterv1.DeleteNodeRequest{Name: "n1"}); err != nil {
		t.Error(err)
	}
	if w.cache.View().Lookup(cidr) != nil {
		t.Error("the pod CIDR is kept for a node that is not known")
	}
	_, err = w.nodes.GetNode(ctx, &musterv1.GetNodeRequest{Name: "n1"})
	refused(t, "after its end", err, codes.NotFound, "NOT_FOUND")
}

func TestAPodsLogsAndResultsAreAskedOfItsNode(t *testing.T) {
	w := serve(t)
	ctx := t.Context()
	a := w.create("a")
	logs := func() (string, error) {
		s, err := w.pods.ReadPodLogs(ctx, &musterv1.ReadPodLogsRequest{Name: "a"})
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		for {
			m, err := s.Recv()
			if err != nil {
				return out.String(), err
			}
			out.Write(m.GetData())
		}
	}
	_, err := logs()
	refused(t, "bound nowhere", err, codes.Unavailable, "NODE_UNREACHABLE")
	w.bind(a, "n1")
	_, err = logs()
	refused(t, "no session", err, codes.Unavailable, "NODE_UNREACHABLE")
	w.connected["n1"] = true
	data := func(s string) *agentv1.AnswerRequest {
		return &agentv1.AnswerRequest{Answer: &agentv1.AnswerRequest_Data{Data: []byte(s)}}
	}
	w.answers = []*agentv1.AnswerRequest{data("one\n"), {}, data("two\n")}
	if text, _ := logs(); text != "one\ntwo\n" || w.asked.GetLogs().GetContainer() != "c" || w.asked.GetLogs().GetUid() != a.GetMeta().GetUid() {
		t.Errorf("%q, asked %v", text, w.asked)
	}
	w.answers = []*agentv1.AnswerRequest{{Answer: &agentv1.AnswerRequest_Error{Error: &agentv1.AnswerError{Reason: reason.NotFound, Message: "no such"}}}}
	_, err = logs()
	refused(t, "not there", err, codes.NotFound, "NOT_FOUND")
	_, err = w.probe.ListProbeResults(ctx, &musterv1.ListProbeResultsRequest{Pod: "a"})
	refused(t, "results not there", err, codes.NotFound, "NOT_FOUND")
	many := &musterv1.ProbeAttempt{}
	w.answers = []*agentv1.AnswerRequest{{Answer: &agentv1.AnswerRequest_Results{Results: &agentv1.ProbeResults{Results: []*musterv1.ProbeAttempt{many, many}}}}}
	r, err := w.probe.ListProbeResults(ctx, &musterv1.ListProbeResultsRequest{Pod: "a", Limit: 2})
	if err != nil || len(r.GetResults()) != 2 || w.asked.GetResults().GetLimit() != 2 {
		t.Errorf("%v, %v", r, err)
	}
	_, err = w.probe.ListProbeResults(ctx, &musterv1.ListProbeResultsRequest{Pod: "a", Limit: 1})
	refused(t, "more than was asked for", err, codes.Internal, "INTERNAL")
}

func TestProbesAreListedByFilterAndWatched(t *testing.T) {
	w := serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	a := spec.ProbeID{PodUID: "u", Container: "c", Kind: spec.Liveness}
	b := spec.ProbeID{PodUID: "u", Container: "c", Kind: spec.Readiness}
	name := spec.ObjectName{Namespace: "default", Name: "a"}
	w.probes.Declare("u", name, "n1", 5, []spec.ProbeState{{ID: a, Pod: name, Verdict: spec.ResultSuccess}, {ID: b, Pod: name, Verdict: spec.ResultFailure}})
	for kind, n := range map[musterv1.ProbeKind]int{
		musterv1.ProbeKind_PROBE_KIND_UNSPECIFIED: 2, musterv1.ProbeKind_PROBE_KIND_LIVENESS: 1, musterv1.ProbeKind_PROBE_KIND_STARTUP: 0,
	} {
		r, err := w.probe.ListProbes(ctx, &musterv1.ListProbesRequest{Filter: &musterv1.ProbeFilter{Kind: kind}})
		if err != nil || len(r.GetProbes()) != n || n > 0 && r.GetProbes()[0].GetNode() != "n1" {
			t.Errorf("%v: %v, %v", kind, r, err)
		}
	}
	s, err := w.probe.WatchProbes(ctx, &musterv1.WatchProbesRequest{Filter: &musterv1.ProbeFilter{Verdict: musterv1.ProbeResult_PROBE_RESULT_FAILURE}})
	if err != nil {
		t.Fatal(err)
	}
	want := func(typ musterv1.ChangeType, kind musterv1.ProbeKind) {
		t.Helper()
		m, err := s.Recv()
		if err != nil || m.GetType() != typ || m.GetProbe().GetKind() != kind {
			t.Fatalf("%v, %v, want %v %v", m, err, typ, kind)
		}
	}
	want(musterv1.ChangeType_CHANGE_TYPE_ADDED, musterv1.ProbeKind_PROBE_KIND_READINESS)
	want(musterv1.ChangeType_CHANGE_TYPE_SYNCED, 0)
	w.probes.Believe(w.probes.Handle(probes.Key{ProbeID: a, Epoch: 5}), &spec.ProbeState{ID: a, Verdict: spec.ResultFailure})
	want(musterv1.ChangeType_CHANGE_TYPE_ADDED, musterv1.ProbeKind_PROBE_KIND_LIVENESS)
	w.probes.Believe(w.probes.Handle(probes.Key{ProbeID: b, Epoch: 5}), &spec.ProbeState{ID: b, Verdict: spec.ResultSuccess})
	want(musterv1.ChangeType_CHANGE_TYPE_DELETED, musterv1.ProbeKind_PROBE_KIND_READINESS)
}

func TestTheClusterTellsHowItIs(t *testing.T) {
	w := serve(t)
	ctx := t.Context()
	w.put(store.Key{Family: store.Leader, Name: "leader"}, &spec.Leadership{Owner: "me"})
	w.put(store.Key{Family: store.NodeFacts, Name: "n1"}, &spec.NodeFacts{})
	w.create("a")
	w.frozen = "too many"
	r, err := w.cluster.GetStatus(ctx, &musterv1.GetStatusRequest{})
	if err != nil || r.GetLeader() != "me" || r.GetVersion() != "1.2.3" || r.GetNodes()["Unknown"] != 1 || r.GetPods()["Pending"] != 1 ||
		!r.GetFrozen() || r.GetFrozenReason() != "too many" || !r.GetWritable() {
		t.Errorf("%v, %v", r, err)
	}
	resume := func(target, namespace string) error {
		_, err := w.cluster.Resume(ctx, &musterv1.ResumeRequest{Target: target, Namespace: namespace})
		return err
	}
	refused(t, "resume of a pod", resume("pod/d", "default"), codes.InvalidArgument, "INVALID")
	refused(t, "resume without a namespace", resume("deployment/d", ""), codes.InvalidArgument, "INVALID")
	refused(t, "resume of a Deployment that is not there", resume("deployment/d", "default"), codes.NotFound, reason.NotFound)
	w.put(store.Key{Family: store.Deployments, Namespace: "default", Name: "d"}, &spec.Deployment{Meta: spec.Meta{Namespace: "default", Name: "d", UID: "d1"}})
	refused(t, "resume of a Deployment whose restarts are free", resume("deployment/d", "default"), codes.FailedPrecondition, "NOT_HELD")
	w.heldRestarts = "d1"
	if err := resume("deployment/d", "default"); err != nil || w.heldRestarts != "" {
		t.Errorf("resume of held restarts: %v", err)
	}
	if _, err := w.cluster.Resume(ctx, &musterv1.ResumeRequest{}); err != nil {
		t.Error(err)
	}
	_, err = w.cluster.Resume(ctx, &musterv1.ResumeRequest{})
	refused(t, "resume of what is not frozen", err, codes.FailedPrecondition, "NOT_FROZEN")
	if m, err := w.cluster.ListMembers(ctx, &musterv1.ListMembersRequest{}); err != nil || len(m.GetMembers()) != 1 || m.GetMembers()[0].GetState() != "alive" {
		t.Errorf("%v, %v", m, err)
	}
	for _, req := range []*musterv1.CreateTokenRequest{{}, {Role: musterv1.Role_ROLE_ADMIN, Ttl: durationpb.New(time.Minute), Uses: 7}} {
		if r, err := w.cluster.CreateToken(ctx, req); err != nil || r.GetToken() != "id.secret" {
			t.Errorf("%v, %v", r, err)
		}
	}
	if want := []string{"ROLE_NODE 1h0m0s 1", "ROLE_ADMIN 1m0s 7"}; !slices.Equal(w.created, want) {
		t.Errorf("created %q", w.created)
	}
}

func TestWhatTheLeaderRefusesIsToldByName(t *testing.T) {
	w := serve(t)
	for _, c := range []struct {
		err  error
		code codes.Code
		why  string
	}{
		{leader.ErrRisk, codes.FailedPrecondition, "SECOND_INSTANCE_RISK"},
		{leader.ErrNotBound, codes.FailedPrecondition, "NOT_BOUND"},
		{store.ErrNotFound, codes.NotFound, "NOT_FOUND"},
	} {
		w.moveErr = fmt.Errorf("pod default/a: %w", c.err)
		_, err := w.pods.MovePod(t.Context(), &musterv1.MovePodRequest{Name: "a"})
		refused(t, "move", err, c.code, c.why)
		if got := status.Convert(err).Message(); got != w.moveErr.Error() {
			t.Errorf("message %q", got)
		}
	}
}

func TestEveryErrorOfTheTableTravelsUnderItsReason(t *testing.T) {
	for _, row := range table {
		err := Status(fmt.Errorf("write x: %w", row.err)).Err()
		refused(t, row.err.Error(), err, row.code, row.reason)
		if !strings.Contains(err.Error(), row.err.Error()) {
			t.Errorf("%v does not say why", err)
		}
	}
	if s := Status(status.Error(codes.Unauthenticated, "who")); s.Code() != codes.Unauthenticated || s.Message() != "who" {
		t.Errorf("a status of its own becomes %v", s)
	}
}

func TestTheCauseOfAnInternalErrorIsLoggedAndNotSent(t *testing.T) {
	w := serve(t)
	w.moveErr = errors.New("secret detail")
	_, err := w.pods.MovePod(t.Context(), &musterv1.MovePodRequest{Name: "a"})
	refused(t, "move", err, codes.Internal, "INTERNAL")
	if strings.Contains(err.Error(), "secret") || !strings.Contains(w.logged.String(), "secret detail") {
		t.Errorf("sent %v, logged %q", err, w.logged.String())
	}
}
