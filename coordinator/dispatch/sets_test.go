package dispatch

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/musterhq/muster/coordinator/store"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// service makes one that leads to pods with the label app.
func (w *world) service(name, app string) {
	w.put(store.Key{Family: store.Services, Namespace: "default", Name: name}, &spec.Service{
		Meta: spec.Meta{Namespace: "default", Name: name, UID: "svc-" + name},
		Spec: spec.ServiceSpec{Selector: map[string]string{"app": app}, Ports: []spec.ServicePort{{Name: "http", Protocol: "TCP", Port: 80, Target: spec.PortRef{Number: 8080}}}},
	})
}

// member makes a pod of that app, bound and with a status.
func (w *world) pod(name, app, ip string, ready bool) {
	n := spec.ObjectName{Namespace: "default", Name: name}
	w.put(store.PodKey(n), &spec.Pod{
		Meta: spec.Meta{Namespace: "default", Name: name, UID: "uid-" + name, Labels: map[string]string{"app": app}},
		Spec: spec.PodSpec{Containers: []spec.Container{{Name: "c", Command: []string{"true"}}}},
	})
	epoch := w.put(store.BindingKey(n), &spec.Binding{UID: "uid-" + name, Node: "node-2", Class: spec.Fast})
	st := spec.ConditionFalse
	if ready {
		st = spec.ConditionTrue
	}
	w.put(store.StatusKey(n), &spec.HeldStatus{UID: "uid-" + name, Epoch: epoch, Status: spec.PodStatus{
		Phase: spec.PhaseRunning, PodIP: ip, Conditions: []spec.Condition{{Type: "Ready", Status: st}},
	}})
}

func TestAnAgentHearsTheReadyEndpointsOfAllServicesAndTheirChanges(t *testing.T) {
	w := serve(t)
	a := w.connect(1)
	a.open()
	// hears waits until the agent knows these addresses of a Service.
	known := map[string]string{}
	hears := func(want map[string]string) {
		t.Helper()
		for !maps.Equal(known, want) {
			m := a.recv().GetServices()
			if m.GetFull() {
				t.Fatalf("told everything anew: %v", m)
			}
			for _, k := range m.GetRemoved() {
				delete(known, k.GetName())
			}
			for _, s := range m.GetServices() {
				var ips []string
				for _, e := range s.GetEndpoints() {
					if !e.GetReady() || e.GetPod() != "" || e.GetNode() != "" || len(e.GetPorts()) != 1 || e.GetPorts()[0].GetPort() != 8080 {
						t.Errorf("told of %v", e)
					}
					ips = append(ips, e.GetIp())
				}
				known[s.GetKey().GetName()] = strings.Join(ips, " ")
			}
		}
	}
	w.service("web", "web")
	hears(map[string]string{"web": ""})
	w.pod("web-1", "web", "10.77.2.3", true)
	hears(map[string]string{"web": "10.77.2.3"})
	w.pod("web-2", "web", "10.77.2.4", false)
	w.pod("other", "db", "10.77.2.5", true)
	w.pod("web-3", "web", "10.77.2.6", true)
	hears(map[string]string{"web": "10.77.2.3 10.77.2.6"})
	w.pod("web-1", "web", "10.77.2.3", false)
	hears(map[string]string{"web": "10.77.2.6"})
	w.service("db", "db")
	hears(map[string]string{"web": "10.77.2.6", "db": "10.77.2.5"})
	w.put(store.Key{Family: store.Services, Namespace: "default", Name: "web"}, nil)
	hears(map[string]string{"db": "10.77.2.5"})
}

func TestANodeIsToldOnlyWhatItsPodsAreMadeOfAndBeforeThem(t *testing.T) {
	w := serve(t)
	key := func(family store.Family, name string) store.Key {
		return store.Key{Family: family, Namespace: "default", Name: name}
	}
	meta := func(name string) spec.Meta { return spec.Meta{Namespace: "default", Name: name} }
	w.put(key(store.ConfigMaps, "cfg"), &spec.ConfigMap{Meta: meta("cfg"), Data: map[string]string{"a": "1"}})
	w.put(key(store.ConfigMaps, "unused"), &spec.ConfigMap{Meta: meta("unused")})
	w.put(key(store.Secrets, "db"), &spec.Secret{Meta: meta("db"), Data: map[string][]byte{"p": []byte("x")}})
	w.put(key(store.Secrets, "lost"), &spec.Secret{Meta: meta("lost"), Unreadable: "no key"})
	uses := func(pod, node string, names ...string) {
		n := spec.ObjectName{Namespace: "default", Name: pod}
		c := spec.Container{Name: "c", Command: []string{"true"}}
		for _, name := range names {
			kind, name, _ := strings.Cut(name, "/")
			c.EnvFrom = append(c.EnvFrom, spec.EnvFrom{Kind: kind, Name: name})
		}
		w.put(store.PodKey(n), &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: pod, UID: "uid-" + pod}, Spec: spec.PodSpec{Containers: []spec.Container{c}}})
		w.put(store.BindingKey(n), &spec.Binding{UID: "uid-" + pod, Node: node, Class: spec.Fast})
	}
	uses("here", "node-1", "ConfigMap/cfg", "Secret/lost")
	uses("there", "node-2", "Secret/db")
	a := w.connect(1)
	if a.recv().GetWelcome() == nil || !a.recv().GetServices().GetFull() {
		t.Fatal("not welcome")
	}
	text := func(m *agentv1.Configs) string {
		var parts []string
		for _, o := range m.GetObjects() {
			parts = append(parts, wire.ConfigKeyFromProto(o.GetKey()).String()+" "+string(o.GetData()["a"])+string(o.GetData()["p"]))
		}
		for _, k := range m.GetRemoved() {
			parts = append(parts, "no "+wire.ConfigKeyFromProto(k).String())
		}
		slices.Sort(parts)
		return strings.Join(parts, ", ")
	}
	if m := a.recv().GetConfigs(); !m.GetFull() || text(m) != "ConfigMap default/cfg 1" {
		t.Fatalf("told of %q", text(m))
	}
	if set := a.recv().GetAssignments(); !set.GetFull() || len(set.GetAssignments()) != 1 {
		t.Fatalf("assigned %v", set)
	}
	w.put(key(store.ConfigMaps, "unused"), &spec.ConfigMap{Meta: meta("unused"), Data: map[string]string{"a": "2"}})
	w.put(key(store.ConfigMaps, "cfg"), &spec.ConfigMap{Meta: meta("cfg"), Data: map[string]string{"a": "2"}})
	if m := a.recv().GetConfigs(); m.GetFull() || text(m) != "ConfigMap default/cfg 2" {
		t.Fatalf("told of %q after a change", text(m))
	}
	uses("more", "node-1", "Secret/db")
	if m := a.recv().GetConfigs(); text(m) != "Secret default/db x" {
		t.Fatalf("told of %q before a pod that uses more", text(m))
	}
	if set := a.recv().GetAssignments(); len(set.GetAssignments()) != 1 {
		t.Fatalf("assigned %v", set)
	}
	w.put(key(store.ConfigMaps, "cfg"), nil)
	if m := a.recv().GetConfigs(); text(m) != "no ConfigMap default/cfg" {
		t.Fatalf("told of %q after a deletion", text(m))
	}
}
