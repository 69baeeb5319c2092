package endpoints

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/memory"
	"github.com/musterhq/muster/internal/spec"
)

// world is a store with a table on it.
type world struct {
	t     fataler
	store *memory.Store
	cache *store.Cache
	table *Table
	stop  func()
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func begin(t fataler) *world {
	w := &world{t: t, store: memory.New()}
	w.cache = store.NewCache(w.store, slog.New(slog.DiscardHandler))
	w.table = New(w.cache)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	for _, run := range []func(context.Context) error{w.cache.Run, w.table.Run} {
		go func() {
			_ = run(ctx)
			done <- struct{}{}
		}()
	}
	<-w.cache.Ready()
	if err := w.table.Wait(ctx); err != nil {
		t.Fatalf("wait: %v", err)
	}
	w.stop = func() {
		cancel()
		<-done
		<-done
		_ = w.store.Close()
	}
	return w
}

func (w *world) put(k store.Key, v store.Value) int64 {
	w.t.Helper()
	rev, err := w.store.Commit(context.Background(), store.Txn{Then: []store.Write{{Key: k, Value: v}}})
	if err != nil {
		w.t.Fatalf("put %s: %v", k, err)
	}
	return rev
}

func name(n string) spec.ObjectName { return spec.ObjectName{Namespace: "default", Name: n} }

func serviceKey(n string) store.Key {
	return store.Key{Family: store.Services, Namespace: "default", Name: n}
}

// shown are the endpoints of a Service as text, those that are not ready with a "!".
func (w *world) shown(service string) string {
	e, ok := w.table.Get(name(service))
	if !ok {
		return "none"
	}
	var all []string
	for _, x := range e.Endpoints {
		text := x.IP
		for _, p := range x.Ports {
			text += fmt.Sprintf(" %s:%d", p.Name, p.Port)
		}
		if !x.Ready {
			text = "!" + text
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

func (w *world) becomes(service, want string) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); w.shown(service) != want; {
		if time.Now().After(end) {
			w.t.Fatalf("endpoints of %s are %q, want %q", service, w.shown(service), want)
		}
		<-time.After(time.Millisecond)
	}
}

func (w *world) pod(n string, labels map[string]string, ports ...spec.Port) *spec.Pod {
	p := &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: n, UID: "uid-" + n, Labels: labels},
		Spec: spec.PodSpec{Containers: []spec.Container{{Name: "c", Ports: ports}}}}
	w.put(store.PodKey(name(n)), p)
	return p
}

func (w *world) bind(n, node string) int64 {
	return w.put(store.BindingKey(name(n)), &spec.Binding{UID: "uid-" + n, Node: node, Class: spec.Fast})
}

func (w *world) says(n string, epoch int64, ip string, ready bool, phase spec.Phase) {
	st := spec.ConditionFalse
	if ready {
		st = spec.ConditionTrue
	}
	w.put(store.StatusKey(name(n)), &spec.HeldStatus{UID: "uid-" + n, Epoch: epoch, Status: spec.PodStatus{
		Phase: phase, PodIP: ip, Conditions: []spec.Condition{{Type: "Ready", Status: st}},
	}})
}

func TestAPodIsBehindAServiceWhileItIsReadyAndWanted(t *testing.T) {
	w := begin(t)
	defer w.stop()
	app := map[string]string{"app": "web"}
	w.put(serviceKey("web"), &spec.Service{Meta: spec.Meta{Namespace: "default", Name: "web"}, Spec: spec.ServiceSpec{
		Selector: app, Ports: []spec.ServicePort{
			{Name: "http", Protocol: "TCP", Port: 80, Target: spec.PortRef{Name: "web"}}, {Name: "more", Protocol: "TCP", Port: 9, Target: spec.PortRef{Number: 99}},
		},
	}})
	w.put(serviceKey("all"), &spec.Service{Meta: spec.Meta{Namespace: "default", Name: "all"}, Spec: spec.ServiceSpec{Selector: app, PublishNotReady: true}})
	w.put(serviceKey("nobody"), &spec.Service{Meta: spec.Meta{Namespace: "default", Name: "nobody"}})
	w.becomes("web", "")
	p := w.pod("a", app, spec.Port{Name: "web", Number: 8080, Protocol: "TCP"})
	w.pod("other", map[string]string{"app": "db"})
	w.says("other", w.bind("other", "n1"), "10.0.0.9", true, spec.PhaseRunning)
	epoch := w.bind("a", "n1")
	w.says("a", epoch, "10.0.0.1", false, spec.PhaseRunning)
	w.becomes("web", "!10.0.0.1 http:8080 more:99")
	w.becomes("all", "10.0.0.1")
	w.says("a", epoch, "10.0.0.1", true, spec.PhaseRunning)
	w.becomes("web", "10.0.0.1 http:8080 more:99")
	// The verdict on its node counts.
	node := store.Key{Family: store.NodeStatus, Name: "n1"}
	w.put(node, &spec.NodeStatus{Verdict: spec.VerdictUnreachable, PodsNotReady: true})
	w.becomes("web", "!10.0.0.1 http:8080 more:99")
	w.put(node, &spec.NodeStatus{Verdict: spec.VerdictReady})
	w.becomes("web", "10.0.0.1 http:8080 more:99")
	// Its deletion counts before anybody has stopped it.
	p = p.Clone()
	p.DeleteTime = time.Now()
	w.put(store.PodKey(name("a")), p)
	w.becomes("web", "!10.0.0.1 http:8080 more:99")
	w.becomes("all", "10.0.0.1")
	w.says("a", epoch, "10.0.0.1", false, spec.PhaseSucceeded)
	w.becomes("all", "")
	w.put(serviceKey("web"), nil)
	w.becomes("web", "none")
	if got := w.shown("nobody"); got != "" {
		t.Errorf("a Service without a selector has %q", got)
	}
}

func TestAWatchHearsOfWhatChangesAlone(t *testing.T) {
	w := begin(t)
	defer w.stop()
	for _, n := range []string{"a", "b"} {
		w.put(serviceKey(n), &spec.Service{Meta: spec.Meta{Namespace: "default", Name: n}, Spec: spec.ServiceSpec{Selector: map[string]string{"app": n}}})
	}
	w.becomes("b", "")
	watch := w.table.Watch()
	defer watch.Close()
	if names, _ := watch.Take(); !slices.Equal(names, []spec.ObjectName{name("a"), name("b")}) {
		t.Errorf("it begins with %v", names)
	}
	w.pod("p", map[string]string{"app": "b"})
	w.says("p", w.bind("p", "n1"), "10.0.0.1", true, spec.PhaseRunning)
	w.becomes("b", "10.0.0.1")
	<-watch.C()
	if names, revision := watch.Take(); !slices.Equal(names, []spec.ObjectName{name("b")}) || revision == 0 {
		t.Errorf("it hears of %v at %d", names, revision)
	}
	if names, _ := watch.Take(); len(names) != 0 {
		t.Errorf("it hears of %v again", names)
	}
}

// TestTheTableIsWhatALookAtEverythingFinds holds the table, which follows changes, to what its definition says.
func TestTheTableIsWhatALookAtEverythingFinds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := begin(t)
		defer w.stop()
		epochs := map[string]int64{}
		app := rapid.SampledFrom([]string{"x", "y"})
		for range rapid.IntRange(1, 30).Draw(t, "changes") {
			n := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name")
			switch rapid.IntRange(0, 8).Draw(t, "what") {
			case 0:
				w.put(serviceKey(n), &spec.Service{Meta: spec.Meta{Namespace: "default", Name: n}, Spec: spec.ServiceSpec{
					Selector: map[string]string{"app": app.Draw(t, "selects")}, PublishNotReady: rapid.Bool().Draw(t, "publishes"),
				}})
			case 1:
				w.put(serviceKey(n), nil)
			case 2, 3:
				p := w.pod(n, map[string]string{"app": app.Draw(t, "app")})
				if rapid.Bool().Draw(t, "deleting") {
					p = p.Clone()
					p.DeleteTime = time.Unix(1, 0)
					w.put(store.PodKey(name(n)), p)
				}
			case 4:
				w.put(store.PodKey(name(n)), nil)
			case 5:
				epochs[n] = w.bind(n, rapid.SampledFrom([]string{"n1", "n2"}).Draw(t, "node"))
			case 6, 7:
				w.says(n, epochs[n], "10.0.0."+n, rapid.Bool().Draw(t, "ready"), rapid.SampledFrom([]spec.Phase{spec.PhaseRunning, spec.PhaseFailed}).Draw(t, "phase"))
			case 8:
				w.put(store.Key{Family: store.NodeStatus, Name: rapid.SampledFrom([]string{"n1", "n2"}).Draw(t, "of")}, &spec.NodeStatus{PodsNotReady: rapid.Bool().Draw(t, "unreachable")})
			}
		}
		last := w.put(store.Key{Family: store.Config, Name: "end"}, &spec.Blob{})
		if err := w.cache.Wait(context.Background(), last); err != nil {
			t.Fatal(err)
		}
		for _, n := range []string{"a", "b", "c"} {
			w.becomes(n, naive(w.cache.View(), n))
		}
	})
}

// naive is what the definition says: every pod that the Service selects, that is bound, has an address and has not finished.
func naive(v *store.View, service string) string {
	s, _, ok := store.Get[*spec.Service](v, serviceKey(service))
	if !ok {
		return "none"
	}
	found := map[string]bool{}
	for _, p := range fleet.Pods(v) {
		st := fleet.Shown(v, &p)
		if p.Labels["app"] == s.Spec.Selector["app"] && p.Binding != nil && st.PodIP != "" && !st.Phase.Final() {
			found[st.PodIP] = s.Spec.PublishNotReady || st.Ready() && !p.Deleting()
		}
	}
	var all []string
	for _, ip := range slices.Sorted(maps.Keys(found)) {
		if found[ip] {
			all = append(all, ip)
		} else {
			all = append(all, "!"+ip)
		}
	}
	return strings.Join(all, ", ")
}
