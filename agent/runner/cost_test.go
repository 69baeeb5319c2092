package runner_test

import (
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// expensive are the events that say that probes are.
func (b *bench) expensive() (all []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		if strings.Contains(e, "ProbesExpensive") {
			all = append(all, e)
		}
	}
	return all
}

func TestProbesThatTakeMuchOfTheirContainersLimitAreToldOnceAnInstance(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.stop()
		b.cfg.ProbeCPUWarning = 10
		b.start()
		ask := &spec.Probe{Handler: spec.Handler{Exec: &spec.ExecAction{Command: []string{"true"}}}, Period: time.Second}
		p := pod("a")
		p.Spec.Containers = []spec.Container{
			{Name: "dear", Command: []string{"serve"}, Liveness: ask, Readiness: ask, Resources: spec.Resources{Limits: spec.ResourceList{MilliCPU: 100}}},
			{Name: "cheap", Command: []string{"serve"}, Liveness: ask, Resources: spec.Resources{Limits: spec.ResourceList{MilliCPU: 1000}}},
			{Name: "free", Command: []string{"serve"}, Liveness: ask},
		}
		p.Spec.InitContainers = []spec.Container{
			{Name: "side", Command: []string{"serve"}, RestartPolicy: spec.RestartAlways, Liveness: ask, Resources: spec.Resources{Limits: spec.ResourceList{MilliCPU: 100}}},
		}
		b.full(1, fast(p, 1))
		seconds := func(n int) {
			for range n {
				for _, c := range []string{"dear", "cheap", "free"} {
					b.spend(spec.ProbeID{PodUID: "a", Container: c, Kind: spec.Liveness}, 20*time.Millisecond)
				}
				b.settle(time.Second)
			}
		}
		seconds(55)
		if got := b.expensive(); len(got) != 0 {
			t.Errorf("before a minute is over: %v", got)
		}
		seconds(10 * 60)
		got := b.expensive()
		if len(got) != 1 || !strings.HasPrefix(got[0], "pod-a spec.containers{dear} Warning ProbesExpensive Probes take ") || !strings.Contains(got[0], "liveness probe took") {
			t.Fatalf("events %v, want one of dear's liveness", got)
		}
		seconds(51 * 60)
		if got := b.expensive(); len(got) != 2 {
			t.Errorf("an hour later: %v, want it once more", got)
		}
		b.fake.Exit(b.rows[spec.ProbeID{PodUID: "a", Container: "dear", Kind: spec.Liveness}].Instance, 1)
		seconds(4 * 60)
		if got := b.expensive(); len(got) != 3 {
			t.Errorf("of a new instance: %v, want it once more", got)
		}
		for range 150 {
			b.spend(spec.ProbeID{PodUID: "a", Container: "side", Kind: spec.Liveness}, 20*time.Millisecond)
			b.settle(time.Second)
		}
		if got := b.expensive(); len(got) != 4 || !strings.HasPrefix(got[3], "pod-a spec.initContainers{side} ") {
			t.Errorf("of a sidecar: %v", got)
		}
	})
}

func TestNobodyIsToldOfProbesWhereTheWarningIsOff(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		p := pod("a")
		p.Spec.Containers[0].Liveness = &spec.Probe{Handler: spec.Handler{Exec: &spec.ExecAction{Command: []string{"true"}}}}
		p.Spec.Containers[0].Resources.Limits.MilliCPU = 1
		b.full(1, fast(p, 1))
		for range 300 {
			b.spend(spec.ProbeID{PodUID: "a", Container: "web", Kind: spec.Liveness}, time.Second)
			b.settle(time.Second)
		}
		if got := b.expensive(); len(got) != 0 {
			t.Errorf("events %v", got)
		}
	})
}
