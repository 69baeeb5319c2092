package runner

import (
	"testing"

	"github.com/musterhq/muster/internal/spec"
)

func TestAPodsLimitIsTheSumOfWhatRunsTogether(t *testing.T) {
	c := func(cpu, memory int64, policy spec.RestartPolicy) spec.Container {
		return spec.Container{RestartPolicy: policy, Resources: spec.Resources{Limits: spec.ResourceList{MilliCPU: cpu, MemoryBytes: memory}}}
	}
	for name, tt := range map[string]struct {
		init, main  []spec.Container
		cpu, memory int64
	}{
		"two containers":                   {nil, []spec.Container{c(100, 10, ""), c(200, 20, "")}, 300, 30},
		"one without a memory limit":       {nil, []spec.Container{c(100, 10, ""), c(200, 0, "")}, 300, 0},
		"a large init":                     {[]spec.Container{c(500, 50, ""), c(100, 10, "")}, []spec.Container{c(100, 10, "")}, 500, 50},
		"an init without a limit":          {[]spec.Container{c(0, 50, "")}, []spec.Container{c(100, 10, "")}, 0, 50},
		"a sidecar beside both":            {[]spec.Container{c(10, 1, spec.RestartAlways), c(500, 5, "")}, []spec.Container{c(100, 10, "")}, 510, 11},
		"a sidecar after the large init":   {[]spec.Container{c(500, 5, ""), c(10, 1, spec.RestartAlways)}, []spec.Container{c(100, 10, "")}, 500, 11},
		"a sidecar without a memory limit": {[]spec.Container{c(10, 0, spec.RestartAlways)}, []spec.Container{c(100, 10, "")}, 110, 0},
	} {
		got := podLimits(&spec.PodSpec{InitContainers: tt.init, Containers: tt.main}, 99)
		if got.MilliCPU != tt.cpu || got.MemoryBytes != tt.memory || got.PIDs != 99 {
			t.Errorf("%s: %+v, want %d and %d", name, got, tt.cpu, tt.memory)
		}
	}
}
