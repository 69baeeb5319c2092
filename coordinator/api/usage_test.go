package api

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/musterhq/muster/coordinator/probes"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/usage"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

// runs binds a pod to a node and stores that these of its containers run; it returns the epoch.
// observe has an agent tell of one attempt.
func (w *world) observe(k probes.Key, a spec.Attempt) {
	h := w.probes.Handle(k)
	w.probes.Observe(func(yield func(probes.Handle, *spec.Attempt) bool) { yield(h, &a) })
}

func (w *world) runs(p *musterv1.Pod, node string, phase spec.Phase, containers ...string) int64 {
	epoch := w.bind(p, node)
	st := spec.PodStatus{Phase: phase}
	for _, c := range containers {
		st.Containers = append(st.Containers, spec.ContainerStatus{Name: c, State: spec.ContainerState{Running: &spec.Running{StartedAt: time.Unix(1, 0)}}})
	}
	name := spec.ObjectName{Namespace: p.GetMeta().GetNamespace(), Name: p.GetMeta().GetName()}
	w.put(store.StatusKey(name), &spec.HeldStatus{UID: p.GetMeta().GetUid(), Epoch: epoch, Status: st})
	return epoch
}

func (w *world) createPod(name string, limit int64, containers ...string) *musterv1.Pod {
	w.t.Helper()
	p := pod(name)
	p.Spec.Containers = nil
	for _, c := range containers {
		p.Spec.Containers = append(p.Spec.Containers, &musterv1.Container{
			Name: c, Command: []string{"/bin/true"}, Limits: &musterv1.ResourceList{MilliCpu: limit},
		})
	}
	r, err := w.pods.CreatePod(w.t.Context(), &musterv1.CreatePodRequest{Pod: p})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.GetPod()
}

func (w *world) podUsage(name string) *musterv1.PodUsage {
	w.t.Helper()
	r, err := w.usages.ListPodUsages(w.t.Context(), &musterv1.ListPodUsagesRequest{Filter: &musterv1.PodFilter{Name: name}})
	if err != nil || len(r.GetPods()) != 1 {
		w.t.Fatalf("usage of pod %s: %v, %v", name, r, err)
	}
	return r.GetPods()[0]
}

func TestAPodUsesWhatItsRunningContainersUse(t *testing.T) {
	w := serve(t)
	two, half, none := w.createPod("two", 0, "a", "b"), w.createPod("half", 0, "a", "b"), w.createPod("none", 0, "a")
	w.create("unbound")
	done := w.create("done")
	e2, eh := w.runs(two, "n1", spec.PhaseRunning, "a", "b"), w.runs(half, "n1", spec.PhaseRunning, "a", "b")
	w.runs(none, "n2", spec.PhaseRunning, "a")
	w.runs(done, "n1", spec.PhaseSucceeded)
	of := func(cpu, memory int64) spec.Usage { return spec.Usage{MicroCPU: cpu, MemoryBytes: memory} }
	at := time.Now().Add(-3 * time.Second)
	w.usage.Put("n1", &usage.Report{At: at, Window: 10 * time.Second, Containers: []usage.Container{
		{UID: two.GetMeta().GetUid(), Epoch: e2, Name: "a", Usage: of(1500, 10)}, {UID: two.GetMeta().GetUid(), Epoch: e2, Name: "b", Usage: of(500, 20)},
		{UID: half.GetMeta().GetUid(), Epoch: eh, Name: "a", Usage: of(-1, 30)}, {UID: half.GetMeta().GetUid(), Epoch: eh, Name: "b", Usage: of(5, 40)},
	}})
	if u := w.podUsage("two"); u.GetUsage().GetMicroCpu() != 2000 || u.GetUsage().GetMemoryBytes() != 30 || len(u.GetContainers()) != 2 ||
		u.GetContainers()[1].GetName() != "b" || u.GetContainers()[1].GetUsage().GetMemoryBytes() != 20 || u.GetNode() != "n1" ||
		!u.GetTime().AsTime().Equal(at) || u.GetWindow().AsDuration() != 10*time.Second || u.GetPod().GetUid() != two.GetMeta().GetUid() {
		t.Errorf("two: %v", u)
	}
	if u := w.podUsage("half"); u.GetUsage().MicroCpu != nil || u.GetUsage().GetMemoryBytes() != 70 || u.GetContainers()[1].GetUsage().GetMicroCpu() != 5 {
		t.Errorf("one container of which the processor time is not known: %v", u)
	}
	for _, name := range []string{"none", "unbound"} {
		if u := w.podUsage(name); u.GetUsage().MicroCpu != nil || u.GetUsage().MemoryBytes != nil || u.GetTime() != nil {
			t.Errorf("%s, of which nobody has said anything: %v", name, u)
		}
	}
	r, err := w.usages.ListPodUsages(t.Context(), &musterv1.ListPodUsagesRequest{PageSize: 3})
	if err != nil || len(r.GetPods()) != 3 || r.GetPods()[0].GetPod().GetName() != "half" || r.GetNextPageToken() == "" {
		t.Errorf("the first page, without what is done: %v, %v", r, err)
	}
	_, err = w.usages.ListPodUsages(t.Context(), &musterv1.ListPodUsagesRequest{Filter: &musterv1.PodFilter{LabelSelector: "("}})
	refused(t, "a selector that is none", err, codes.InvalidArgument, "INVALID")

	w.runs(two, "n2", spec.PhaseRunning, "a", "b")
	if u := w.podUsage("two"); u.GetUsage().MicroCpu != nil {
		t.Errorf("after it has moved: %v", u)
	}
}

func TestANodeShowsItsMachineAndWhatMusterTakesOfIt(t *testing.T) {
	w := serve(t)
	for _, name := range []string{"n1", "n2"} {
		w.put(store.Key{Family: store.NodeFacts, Name: name}, &spec.NodeFacts{Address: "192.0.2.1", Allocatable: spec.ResourceList{MilliCPU: 2000, MemoryBytes: 1 << 30}})
	}
	w.bind(w.create("a"), "n1")
	w.usage.Put("n1", &usage.Report{At: time.Now(), Window: 10 * time.Second, Machine: spec.Usage{MicroCPU: 700_000, MemoryBytes: 1 << 29},
		Agent: spec.Usage{MicroCPU: 9000, MemoryBytes: 1 << 20}, Supervisors: spec.Usage{MicroCPU: 100, MemoryBytes: -1}, Probes: spec.ProbeLateness{Begun: 10, Late: 4, Most: time.Second, Overloaded: true}})
	w.usage.Put("n2", &usage.Report{At: time.Now().Add(-usage.Fresh - time.Second), Machine: spec.Usage{MicroCPU: 1, MemoryBytes: 1}})
	r, err := w.usages.ListNodeUsages(t.Context(), &musterv1.ListNodeUsagesRequest{})
	if err != nil || len(r.GetNodes()) != 2 {
		t.Fatalf("%v, %v", r, err)
	}
	n := r.GetNodes()[0]
	if n.GetName() != "n1" || n.GetMachine().GetMicroCpu() != 700_000 || n.GetAllocatable().GetMilliCpu() != 2000 || n.GetPods() != 1 ||
		n.GetAgent().GetMemoryBytes() != 1<<20 || n.GetSupervisors().GetMicroCpu() != 100 || n.GetSupervisors().MemoryBytes != nil || n.GetProbes().GetLate() != 4 || !n.GetProbes().GetOverloaded() {
		t.Errorf("n1: %v", n)
	}
	if n := r.GetNodes()[1]; n.GetMachine().MicroCpu != nil || n.GetTime() != nil || n.GetAllocatable().GetMilliCpu() != 2000 {
		t.Errorf("n2, whose agent was last heard of long ago: %v", n)
	}
	if r, err := w.usages.ListNodeUsages(t.Context(), &musterv1.ListNodeUsagesRequest{Name: "n2"}); err != nil || len(r.GetNodes()) != 1 {
		t.Errorf("by name: %v, %v", r, err)
	}
}

func TestAProbesCostIsMeasuredAgainstTheLimitOfItsContainer(t *testing.T) {
	w := serve(t)
	limited, free := w.createPod("limited", 100, "c"), w.createPod("free", 0, "c")
	w.connected["n1"] = true
	declare := func(p *musterv1.Pod, cpu time.Duration) {
		name := spec.ObjectName{Namespace: "default", Name: p.GetMeta().GetName()}
		id := spec.ProbeID{PodUID: p.GetMeta().GetUid(), Container: "c", Kind: spec.Liveness}
		w.probes.Declare(id.PodUID, name, "n1", 5, []spec.ProbeState{{ID: id, Pod: name, Handler: "exec", Period: time.Second}})
		for i := range 8 {
			w.observe(probes.Key{ProbeID: id, Epoch: 5}, spec.Attempt{Start: time.Unix(1000+int64(i), 0), Result: spec.ResultSuccess, CPU: cpu})
		}
	}
	declare(limited, 20*time.Millisecond)
	declare(free, -1)
	list := func() []*musterv1.ProbeUsage {
		t.Helper()
		r, err := w.usages.ListProbeUsages(t.Context(), &musterv1.ListProbeUsagesRequest{})
		if err != nil || len(r.GetProbes()) != 2 {
			t.Fatalf("%v, %v", r, err)
		}
		return r.GetProbes()
	}
	all := list()
	if p := all[0]; p.GetPod().GetName() != "free" || p.GetAttemptsPerMinute() != 60 || p.CpuPerAttempt != nil || p.CpuPerMinute != nil || p.GetLimitMilliCpu() != 0 || p.LimitShare != nil {
		t.Errorf("one whose time is not measured: %v", p)
	}
	// 20 ms a second are a fiftieth of a core, and a fifth of a tenth of one.
	if p := all[1]; p.GetCpuPerAttempt().AsDuration() != 20*time.Millisecond || p.GetCpuPerMinute().AsDuration() != 1200*time.Millisecond ||
		p.GetLimitMilliCpu() != 100 || p.GetLimitShare() < 0.1999 || p.GetLimitShare() > 0.2001 || p.GetHandler() != "exec" || p.GetNode() != "n1" {
		t.Errorf("one with a limit: %v", p)
	}
	w.connected["n1"] = false
	if p := list()[1]; p.AttemptsPerMinute != nil || p.CpuPerMinute != nil || p.GetLimitMilliCpu() != 100 {
		t.Errorf("without a session: %v", p)
	}
}
