package cli

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

func (f *fake) ListPodUsages(_ context.Context, r *musterv1.ListPodUsagesRequest) (*musterv1.ListPodUsagesResponse, error) {
	resp := &musterv1.ListPodUsagesResponse{}
	for _, p := range f.podUsages {
		if ns, name := r.GetFilter().GetNamespace(), r.GetFilter().GetName(); (ns == "" || ns == p.GetPod().GetNamespace()) && (name == "" || name == p.GetPod().GetName()) {
			resp.Pods = append(resp.Pods, p)
		}
	}
	return resp, nil
}

func (f *fake) ListNodeUsages(_ context.Context, r *musterv1.ListNodeUsagesRequest) (*musterv1.ListNodeUsagesResponse, error) {
	resp := &musterv1.ListNodeUsagesResponse{}
	for _, n := range f.nodeUsages {
		if r.GetName() == "" || r.GetName() == n.GetName() {
			resp.Nodes = append(resp.Nodes, n)
		}
	}
	return resp, nil
}

func (f *fake) ListProbeUsages(_ context.Context, r *musterv1.ListProbeUsagesRequest) (*musterv1.ListProbeUsagesResponse, error) {
	resp := &musterv1.ListProbeUsagesResponse{}
	for _, p := range f.probeUsages {
		if ns, name := r.GetFilter().GetNamespace(), r.GetFilter().GetPod(); (ns == "" || ns == p.GetPod().GetNamespace()) && (name == "" || name == p.GetPod().GetName()) {
			resp.Probes = append(resp.Probes, p)
		}
	}
	return resp, nil
}

func used(cpu, memory int64) *musterv1.Usage {
	return &musterv1.Usage{MicroCpu: &cpu, MemoryBytes: &memory}
}

func aBusyCluster() *fake {
	f := aCluster()
	ref := func(ns, name string) *musterv1.ObjectReference {
		return &musterv1.ObjectReference{Kind: "Pod", Namespace: ns, Name: name, Uid: "uid-" + name}
	}
	memory := int64(100 << 20)
	f.podUsages = []*musterv1.PodUsage{
		{Pod: ref("data", "db"), Node: "n1", Usage: used(250_000, 512<<20), Containers: []*musterv1.ContainerUsage{{Name: "main", Usage: used(250_000, 512<<20)}}},
		{Pod: ref("default", "web"), Node: "n1", Time: timestamppb.Now(), Window: seconds(10), Usage: used(11_001, 30<<20), Containers: []*musterv1.ContainerUsage{
			{Name: "main", Usage: used(1, 29<<20)}, {Name: "side", Usage: used(11_000, 1<<20)}}},
		{Pod: ref("default", "web2"), Usage: &musterv1.Usage{MemoryBytes: &memory}, Containers: []*musterv1.ContainerUsage{{Name: "main", Usage: &musterv1.Usage{MemoryBytes: &memory}}}},
	}
	f.nodeUsages = []*musterv1.NodeUsage{
		{Name: "n1", Machine: used(700_000, 3<<30), Allocatable: &musterv1.ResourceList{MilliCpu: 2000, MemoryBytes: 4 << 30}, Pods: 2, Agent: used(9_500, 40<<20), Supervisors: &musterv1.Usage{MicroCpu: used(400, 0).MicroCpu},
			Probes: &musterv1.ProbeLateness{Begun: 1002, Late: 31, Most: seconds(1.2), Overloaded: true}},
		{Name: "n2"},
	}
	often, rest, share := 59.96, 0.0, 0.425
	f.probeUsages = []*musterv1.ProbeUsage{
		{Pod: ref("default", "web"), Container: "main", Kind: musterv1.ProbeKind_PROBE_KIND_LIVENESS, Handler: "httpGet", Node: "n1", AttemptsPerMinute: &often, LimitMilliCpu: 100},
		{Pod: ref("default", "web"), Container: "main", Kind: musterv1.ProbeKind_PROBE_KIND_READINESS, Handler: "exec", Node: "n1", AttemptsPerMinute: &rest, CpuPerAttempt: seconds(0.00085), CpuPerMinute: seconds(0)},
		{Pod: ref("default", "web"), Container: "side", Kind: musterv1.ProbeKind_PROBE_KIND_STARTUP, Handler: "exec", Node: "n1", AttemptsPerMinute: &often,
			CpuPerAttempt: seconds(0.0425), CpuPerMinute: seconds(2.5483), LimitMilliCpu: 100, LimitShare: &share},
	}
	return f
}

func TestTopShowsWhatIsUsedInKubectlsManner(t *testing.T) {
	s := newShell(t, aBusyCluster())
	sameWords(t, "top pods", s.ok("top", "pods"), "NAME CPU(cores) MEMORY(bytes)", "web 12m 30Mi", "web2 <unknown> 100Mi")
	sameWords(t, "top pod -A --sort-by cpu", s.ok("top", "pod", "-A", "--sort-by", "cpu"),
		"NAMESPACE NAME CPU(cores) MEMORY(bytes)", "data db 250m 512Mi", "default web 12m 30Mi", "default web2 <unknown> 100Mi")
	sameWords(t, "top pods --sort-by memory", s.ok("top", "pods", "--sort-by=memory"), "NAME CPU(cores) MEMORY(bytes)", "web2 <unknown> 100Mi", "web 12m 30Mi")
	sameWords(t, "top pods --containers", s.ok("top", "pods", "--containers", "--sort-by=cpu"),
		"POD NAME CPU(cores) MEMORY(bytes)", "web side 11m 1Mi", "web main 1m 29Mi", "web2 main <unknown> 100Mi")
	sameWords(t, "top pods web", s.ok("top", "pods", "web"), "NAME CPU(cores) MEMORY(bytes)", "web 12m 30Mi")
	sameWords(t, "top nodes", s.ok("top", "nodes"),
		"NAME CPU(cores) CPU(%) MEMORY(bytes) MEMORY(%) PODS AGENT(cores) AGENT(bytes) SUPERVISORS(cores) PROBES(late)",
		"n1 700m 35% 3072Mi 75% 2 10m 40Mi 1m 31 of 1002: overloaded", "n2 <unknown> <unknown> <unknown> <unknown> 0 <unknown> <unknown> <unknown> <unknown>")
	sameWords(t, "top node n1", s.ok("top", "node", "n1"),
		"NAME CPU(cores) CPU(%) MEMORY(bytes) MEMORY(%) PODS AGENT(cores) AGENT(bytes) SUPERVISORS(cores) PROBES(late)", "n1 700m 35% 3072Mi 75% 2 10m 40Mi 1m 31 of 1002: overloaded")
	sameWords(t, "top probes", s.ok("top", "probes"),
		"POD CONTAINER KIND HANDLER ATTEMPTS/MIN CPU/ATTEMPT CPU/MIN LIMIT(%)",
		"web side startup exec 60 42.5ms 2548.3ms 42.5%", "web main readiness exec 0 850µs 0.0ms <none>", "web main liveness httpGet 60 <unknown> <unknown> <unknown>")
	for line, want := range map[string]string{
		"top pods nope": `pod "nope" not found`, "top nodes nope": `node "nope" not found`, "top probes nope": `pod "nope" not found`,
	} {
		if a := s.run(strings.Fields(line)...); a.status != 1 || !strings.Contains(a.stderr, want) {
			t.Errorf("%s: %+v, want %s", line, a, want)
		}
	}
	if a := s.run("top", "pods", "-n", "none"); a.status != 0 || a.stderr != "no pods in namespace \"none\" (-A shows all)\n" {
		t.Errorf("nothing there: %+v", a)
	}
	for _, line := range []string{"top pods web -A", "top pods web -l a=b", "top nodes --sort-by name", "top pods a b", "top", "top services", "top probes -o wide"} {
		if a := s.run(strings.Fields(line)...); a.status != 2 {
			t.Errorf("%s: %+v, want exit 2", line, a)
		}
	}
}

func TestJSONOfTopIsAListInWhichNothingUnknownIsZero(t *testing.T) {
	s := newShell(t, aBusyCluster())
	list := func(args ...string) []map[string]any {
		t.Helper()
		v := decode[struct {
			APIVersion, Kind string
			Items            []map[string]any
		}](t, s.ok(append(args, "-o", "json")...))
		if v.APIVersion != "v1" || v.Kind != "List" {
			t.Errorf("%v: no List: %+v", args, v)
		}
		return v.Items
	}
	pods := list("top", "pods")
	web := pods[0]
	if web["cpu_cores"] != 0.011001 || web["memory_bytes"] != float64(30<<20) || web["window_ms"] != 10000.0 || web["node"] != "n1" || web["pod"].(map[string]any)["name"] != "web" ||
		web["containers"].([]any)[1].(map[string]any)["cpu_cores"] != 0.011 {
		t.Errorf("web: %v", web)
	}
	for _, key := range []string{"cpu_cores", "time", "window_ms"} {
		if v, ok := pods[1][key]; !ok || v != nil {
			t.Errorf("web2: %s is %v, want null", key, v)
		}
	}
	nodes := list("top", "nodes")
	if n := nodes[0]; n["cpu_cores"] != 0.7 || n["allocatable_cpu_cores"] != 2.0 || n["pods"] != 2.0 || n["agent"].(map[string]any)["memory_bytes"] != float64(40<<20) ||
		n["supervisors"].(map[string]any)["memory_bytes"] != nil {
		t.Errorf("n1: %v", n)
	}
	if l := nodes[0]["probes"].(map[string]any); l["begun"] != 1002.0 || l["late"] != 31.0 || l["most_ms"] != 1200.0 || l["overloaded"] != true || nodes[1]["probes"] != nil {
		t.Errorf("n1's probes: %v, n2's %v", l, nodes[1]["probes"])
	}
	if n := nodes[1]; n["cpu_cores"] != nil || n["allocatable_memory_bytes"] != nil || n["agent"].(map[string]any)["cpu_cores"] != nil {
		t.Errorf("n2: %v", n)
	}
	probes := list("top", "probes")
	if p := probes[0]; p["cpu_per_minute_ms"] != 2548.3 || p["cpu_per_attempt_us"] != 42500.0 || p["limit_cpu_cores"] != 0.1 || p["limit_share"] != 0.425 || p["kind"] != "startup" {
		t.Errorf("the dearest: %v", p)
	}
	if p := probes[1]; p["attempts_per_minute"] != 0.0 || p["cpu_per_minute_ms"] != 0.0 || p["limit_cpu_cores"] != nil || p["limit_share"] != nil {
		t.Errorf("one that rests: %v", p)
	}
	if p := probes[2]; p["cpu_per_minute_ms"] != nil || p["cpu_per_attempt_us"] != nil || p["limit_share"] != nil {
		t.Errorf("one that is not measured: %v", p)
	}
	if items := list("top", "pods", "-n", "none"); items == nil || len(items) != 0 {
		t.Errorf("a list of none has items %v, want []", items)
	}
}
