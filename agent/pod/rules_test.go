package pod_test

import (
	"testing"
	"time"

	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/internal/spec"
)

// Rules 5.1.4 and 5.2.2: an end for good is the end of the probes, one that is not is not.
func TestProbesEndWithTheLastInstanceOfTheirContainer(t *testing.T) {
	for name, tt := range map[string]struct {
		policy spec.RestartPolicy
		code   int32
		rows   int // of the container that has ended
	}{
		"never, 0":      {spec.RestartNever, 0, 0},
		"never, 1":      {spec.RestartNever, 1, 0},
		"on failure, 0": {spec.RestartOnFailure, 0, 0},
		"on failure, 1": {spec.RestartOnFailure, 1, 3},
		"always, 0":     {spec.RestartAlways, 0, 3},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, onePod(withProbes(spec.Liveness, spec.Readiness, spec.Startup), withPolicy(tt.policy), withContainer("b")))
			w.step()
			if len(w.plan.Probes) != 3 {
				t.Fatalf("%d rows of a container that runs", len(w.plan.Probes))
			}
			w.hold[pod.StartContainer] = true
			w.exit("web", tt.code)
			if w.step(); len(w.plan.Probes) != tt.rows {
				t.Errorf("%d rows, want %d", len(w.plan.Probes), tt.rows)
			}
			for _, row := range w.plan.Probes {
				if row.Running || row.Started {
					t.Errorf("row %+v of an instance that has ended", row)
				}
			}
		})
	}
}

// Rule 7.9.
func TestTheRestartCountRisesWithTheNewInstanceAndNotWithTheKill(t *testing.T) {
	w := newWorld(t, onePod(withProbes(spec.Liveness)))
	w.step()
	w.hold[pod.StartContainer], w.hold[pod.StopContainer] = true, true
	w.verdict("web", spec.Liveness, spec.ResultFailure)
	if w.step(); w.status("web").Restarts != 0 {
		t.Error("it rose with the kill")
	}
	w.finish(w.held[0])
	if w.step(); w.status("web").Restarts != 0 {
		t.Error("it rose with the end")
	}
	w.finish(w.held[1])
	if w.step(); w.status("web").Restarts != 1 {
		t.Errorf("%d restarts, want 1", w.status("web").Restarts)
	}
}

// Rule 10.3, different on purpose: a sidecar's liveness and startup end with its pod's deletion, as all others do.
func TestASidecarsProbesEndWithItsPodsDeletion(t *testing.T) {
	w := newWorld(t, onePod(withInit("side+"), sidecarProbe(0, spec.Liveness)))
	w.step()
	if len(w.plan.Probes) != 1 {
		t.Fatalf("rows %v", w.plan.Probes)
	}
	w.hold[pod.StopContainer] = true
	deleted := *w.w.Pod
	deleted.DeleteTime, deleted.DeleteGrace = w.now, time.Minute
	w.w.Pod = &deleted
	if w.step(); len(w.plan.Probes) != 0 {
		t.Errorf("rows %v", w.plan.Probes)
	}
}

// Rule 7.8.
func TestWhatIsFinalStaysWhateverComes(t *testing.T) {
	w := newWorld(t, onePod())
	w.term = 0
	w.step()
	w.m.Evict("it takes too much")
	if w.step(); w.plan.Status.Phase != spec.PhaseFailed {
		t.Fatalf("phase %s", w.plan.Status.Phase)
	}
	deleted := *w.w.Pod // all its containers have exited 0
	deleted.DeleteTime = w.now
	w.w.Pod = &deleted
	if w.after(time.Minute); !w.plan.Stopped || w.plan.Status.Phase != spec.PhaseFailed {
		t.Errorf("stopped %v, phase %s", w.plan.Stopped, w.plan.Status.Phase)
	}
}

// Rule 8.2, different on purpose: containers that fail are killed at the same time.
func TestContainersThatFailTogetherAreKilledTogether(t *testing.T) {
	both := func(p *spec.Pod, c *spec.Container) { p.Spec.Containers[1].Liveness = c.Liveness }
	w := newWorld(t, onePod(withContainer("b"), withProbes(spec.Liveness), both))
	w.step()
	w.hold[pod.StopContainer] = true
	w.verdict("web", spec.Liveness, spec.ResultFailure)
	w.verdict("b", spec.Liveness, spec.ResultFailure)
	if w.step(); len(w.held) != 2 {
		t.Errorf("%d are being stopped, want both", len(w.held))
	}
}

// Rule 10.4 with 8.2: a sidecar's preStop hook is done when its turn to end has come.
func TestASidecarsPreStopHookWaitsForItsTurn(t *testing.T) {
	w := newWorld(t, onePod(withInit("side+"), withPreStopOn("side")))
	w.step()
	w.hold[pod.StopContainer] = true
	deleted := *w.w.Pod
	deleted.DeleteTime, deleted.DeleteGrace = w.now, time.Minute
	w.w.Pod = &deleted
	if w.step(); len(w.held) != 1 || w.held[0].Container != "web" {
		t.Fatalf("being stopped: %v", w.held)
	}
	w.finish(w.held[0])
	if w.step(); len(w.held) != 2 || w.held[1].Container != "side" || !w.held[1].PreStop {
		t.Errorf("being stopped: %+v", w.held[1:])
	}
}
