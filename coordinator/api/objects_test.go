package api

import (
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/musterhq/muster/coordinator/store"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

func service(name string) *musterv1.Service {
	return &musterv1.Service{
		Meta: &musterv1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"tier": name}},
		Spec: &musterv1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []*musterv1.ServicePort{{Port: 80}}},
	}
}

func TestAPlainObjectIsCreatedListedChangedAndDeleted(t *testing.T) {
	w := serve(t)
	ctx, c := t.Context(), musterv1.NewServiceServiceClient(w.conn)
	tried, err := c.CreateService(ctx, &musterv1.CreateServiceRequest{Service: service("web"), ValidateOnly: true})
	if err != nil || tried.GetService().GetSpec().GetPorts()[0].GetTargetPort().GetNumber() != 80 {
		t.Fatalf("tried: %v, %v", tried, err)
	}
	_, err = c.GetService(ctx, &musterv1.GetServiceRequest{Name: "web"})
	refused(t, "only tried", err, codes.NotFound, "NOT_FOUND")
	made, err := c.CreateService(ctx, &musterv1.CreateServiceRequest{Service: service("web")})
	if err != nil || made.GetService().GetMeta().GetUid() == "" || made.GetService().GetMeta().GetRevision() == 0 {
		t.Fatalf("created: %v, %v", made, err)
	}
	_, err = c.CreateService(ctx, &musterv1.CreateServiceRequest{Service: service("web")})
	refused(t, "created again", err, codes.AlreadyExists, "ALREADY_EXISTS")
	_, err = c.CreateService(ctx, &musterv1.CreateServiceRequest{})
	refused(t, "nothing", err, codes.InvalidArgument, "INVALID")
	bad := service("9")
	bad.Spec.Ports[0].Port = 0
	_, err = c.CreateService(ctx, &musterv1.CreateServiceRequest{Service: bad})
	if got := violations(err); !slices.Equal(got, []string{"metadata.name", "spec.ports[0].port", "spec.ports[0].targetPort"}) {
		t.Errorf("refused for %v: %v", got, err)
	}
	update := func(s *musterv1.Service) (musterv1.WriteResult, *musterv1.Service, error) {
		r, err := c.UpdateService(ctx, &musterv1.UpdateServiceRequest{Service: s, AllowMissing: true})
		return r.GetResult(), r.GetService(), err
	}
	if did, _, err := update(made.GetService()); err != nil || did != musterv1.WriteResult_WRITE_RESULT_UNCHANGED {
		t.Errorf("as it was read: %v, %v", did, err)
	}
	changed := service("web")
	changed.Spec.PublishNotReadyAddresses = true
	did, now, err := update(changed)
	if err != nil || did != musterv1.WriteResult_WRITE_RESULT_CONFIGURED || now.GetMeta().GetUid() != made.GetService().GetMeta().GetUid() || now.GetMeta().GetGeneration() != 2 {
		t.Errorf("changed: %v, %v, %v", did, now, err)
	}
	_, _, err = update(made.GetService())
	refused(t, "from what was read before", err, codes.Aborted, "REVISION_CONFLICT")
	if did, _, err := update(service("more")); err != nil || did != musterv1.WriteResult_WRITE_RESULT_CREATED {
		t.Errorf("missing: %v, %v", did, err)
	}
	list, err := c.ListServices(ctx, &musterv1.ListServicesRequest{PageSize: 1})
	if err != nil || len(list.GetServices()) != 1 || list.GetServices()[0].GetMeta().GetName() != "more" || list.GetNextPageToken() == "" {
		t.Fatalf("the first page: %v, %v", list, err)
	}
	list, err = c.ListServices(ctx, &musterv1.ListServicesRequest{Filter: &musterv1.ServiceFilter{LabelSelector: "tier=web"}})
	if err != nil || len(list.GetServices()) != 1 || list.GetServices()[0].GetMeta().GetName() != "web" {
		t.Errorf("by label: %v, %v", list, err)
	}
	_, err = c.DeleteService(ctx, &musterv1.DeleteServiceRequest{Name: "web", Uid: "another"})
	refused(t, "another uid", err, codes.Aborted, "REVISION_CONFLICT")
	if _, err := c.DeleteService(ctx, &musterv1.DeleteServiceRequest{Name: "web"}); err != nil {
		t.Error(err)
	}
	_, err = c.DeleteService(ctx, &musterv1.DeleteServiceRequest{Name: "web"})
	refused(t, "deleted again", err, codes.NotFound, "NOT_FOUND")
}

func TestAPlainObjectIsWatched(t *testing.T) {
	w := serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c := musterv1.NewConfigMapServiceClient(w.conn)
	make1 := func(name, value string) {
		t.Helper()
		m := &musterv1.ConfigMap{Meta: &musterv1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"k": value}}
		if _, err := c.UpdateConfigMap(ctx, &musterv1.UpdateConfigMapRequest{ConfigMap: m, AllowMissing: true}); err != nil {
			t.Fatal(err)
		}
	}
	make1("a", "1")
	stream, err := c.WatchConfigMaps(ctx, &musterv1.WatchConfigMapsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func(want musterv1.ChangeType, name, value string) {
		t.Helper()
		m, err := stream.Recv()
		if err != nil || m.GetType() != want || m.GetConfigMap().GetMeta().GetName() != name || m.GetConfigMap().GetData()["k"] != value || m.GetRevision() == 0 {
			t.Fatalf("heard %v, %v, want %v of %s with %s", m, err, want, name, value)
		}
	}
	next(musterv1.ChangeType_CHANGE_TYPE_ADDED, "a", "1")
	next(musterv1.ChangeType_CHANGE_TYPE_SYNCED, "", "")
	make1("a", "2")
	next(musterv1.ChangeType_CHANGE_TYPE_MODIFIED, "a", "2")
	make1("b", "1")
	next(musterv1.ChangeType_CHANGE_TYPE_ADDED, "b", "1")
	if _, err := c.DeleteConfigMap(ctx, &musterv1.DeleteConfigMapRequest{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	next(musterv1.ChangeType_CHANGE_TYPE_DELETED, "a", "2")
}

func TestASecretKeepsItsTypeAndAnImmutableOneItsData(t *testing.T) {
	w := serve(t)
	ctx, c := t.Context(), musterv1.NewSecretServiceClient(w.conn)
	secret := func(kind, value string, immutable bool) *musterv1.UpdateSecretRequest {
		return &musterv1.UpdateSecretRequest{AllowMissing: true, Secret: &musterv1.Secret{
			Meta: &musterv1.ObjectMeta{Namespace: "default", Name: "s"}, Type: kind, Data: map[string][]byte{"k": []byte(value)}, Immutable: immutable,
		}}
	}
	for _, x := range []struct {
		what string
		req  *musterv1.UpdateSecretRequest
		bad  []string
	}{
		{"made", secret("", "1", false), nil},
		{"another type", secret("example.org/x", "1", false), []string{"type"}},
		{"other data", secret("Opaque", "2", false), nil},
		{"made immutable", secret("Opaque", "2", true), nil},
		{"other data of an immutable one", secret("Opaque", "3", true), []string{"data"}},
		{"mutable again", secret("Opaque", "2", false), []string{"immutable"}},
	} {
		_, err := c.UpdateSecret(ctx, x.req)
		if got := violations(err); !slices.Equal(got, x.bad) || (err == nil) != (x.bad == nil) {
			t.Errorf("%s: refused for %v, %v; want %v", x.what, got, err, x.bad)
		}
	}
	// One that can't be decrypted may be replaced, of whatever type.
	w.put(store.Key{Family: store.Secrets, Namespace: "default", Name: "s"}, &spec.Secret{
		Meta: spec.Meta{Namespace: "default", Name: "s", UID: "u"}, Type: "Opaque", Unreadable: "another key",
	})
	got, err := c.GetSecret(ctx, &musterv1.GetSecretRequest{Name: "s"})
	if err != nil || got.GetSecret().GetMeta().GetAnnotations()[spec.AnnotationUnreadable] != "another key" {
		t.Fatalf("%v, %v", got, err)
	}
	replaced, err := c.UpdateSecret(ctx, secret("example.org/x", "4", false))
	if err != nil || replaced.GetResult() != musterv1.WriteResult_WRITE_RESULT_CONFIGURED || len(replaced.GetSecret().GetMeta().GetAnnotations()) != 0 {
		t.Errorf("replaced: %v, %v", replaced, err)
	}
}

func TestEndpointsAreReadListedAndWatched(t *testing.T) {
	w := serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	services, c := musterv1.NewServiceServiceClient(w.conn), musterv1.NewEndpointsServiceClient(w.conn)
	_, err := c.GetEndpoints(ctx, &musterv1.GetEndpointsRequest{Name: "web"})
	refused(t, "no service", err, codes.NotFound, "NOT_FOUND")
	stream, err := c.WatchEndpoints(ctx, &musterv1.WatchEndpointsRequest{Filter: &musterv1.ServiceFilter{LabelSelector: "tier=web"}})
	if err != nil {
		t.Fatal(err)
	}
	// hears waits for a change that says so: some may be told together.
	hears := func(what musterv1.ChangeType, ips ...string) {
		t.Helper()
		for {
			m, err := stream.Recv()
			if err != nil {
				t.Fatalf("waiting for %v %v: %v", what, ips, err)
			}
			var got []string
			for _, e := range m.GetEndpoints().GetEndpoints() {
				if e.GetReady() {
					got = append(got, e.GetIp())
				}
			}
			if m.GetType() == what && slices.Equal(got, ips) {
				return
			}
		}
	}
	hears(musterv1.ChangeType_CHANGE_TYPE_SYNCED)
	for _, name := range []string{"web", "other"} {
		if _, err := services.CreateService(ctx, &musterv1.CreateServiceRequest{Service: service(name)}); err != nil {
			t.Fatal(err)
		}
	}
	hears(musterv1.ChangeType_CHANGE_TYPE_ADDED)
	p := pod("a")
	p.Meta.Labels = map[string]string{"app": "web"}
	created, err := w.pods.CreatePod(ctx, &musterv1.CreatePodRequest{Pod: p})
	if err != nil {
		t.Fatal(err)
	}
	epoch := w.bind(created.GetPod(), "n1")
	w.put(store.StatusKey(spec.ObjectName{Namespace: "default", Name: "a"}), &spec.HeldStatus{UID: created.GetPod().GetMeta().GetUid(), Epoch: epoch, Status: spec.PodStatus{
		Phase: spec.PhaseRunning, PodIP: "10.0.0.1", Conditions: []spec.Condition{{Type: "Ready", Status: spec.ConditionTrue}},
	}})
	hears(musterv1.ChangeType_CHANGE_TYPE_MODIFIED, "10.0.0.1")
	list, err := c.ListEndpoints(ctx, &musterv1.ListEndpointsRequest{})
	if err != nil || len(list.GetEndpoints()) != 2 || list.GetRevision() == 0 {
		t.Fatalf("%v, %v", list, err)
	}
	got, err := c.GetEndpoints(ctx, &musterv1.GetEndpointsRequest{Name: "web"})
	if err != nil || len(got.GetEndpoints().GetEndpoints()) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	if e := got.GetEndpoints().GetEndpoints()[0]; e.GetPod() != "a" || e.GetNode() != "n1" || e.GetHostname() != "a" || e.GetPorts()[0].GetPort() != 80 {
		t.Errorf("endpoint %v", e)
	}
	if _, err := services.DeleteService(ctx, &musterv1.DeleteServiceRequest{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	hears(musterv1.ChangeType_CHANGE_TYPE_DELETED, "10.0.0.1")
}

func TestAPodIsExplainedNodeByNode(t *testing.T) {
	w := serve(t)
	w.explain = "insufficient memory"
	w.create("big")
	c := musterv1.NewPlacementServiceClient(w.conn)
	r, err := c.ExplainPod(t.Context(), &musterv1.ExplainPodRequest{Name: "big"})
	if err != nil || len(r.GetNodes()) != 2 || r.GetNodes()[0].GetRefusal() != "insufficient memory of big" || r.GetNodes()[1].GetRefusal() != "" {
		t.Errorf("%v, %v", r, err)
	}
	_, err = c.ExplainPod(t.Context(), &musterv1.ExplainPodRequest{Name: "gone"})
	refused(t, "no pod", err, codes.NotFound, "NOT_FOUND")
}
