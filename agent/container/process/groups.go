package process

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/musterhq/muster/agent/cgroup"
	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/supervisor"
)

// groupLimit is how long the groups of a pod whose processes have ended may take to be gone.
const groupLimit = 2 * time.Second

// held is what of the limits this machine can hold its processes to.
func (r *Runtime) held(l container.Limits) cgroup.Limits {
	out := cgroup.Limits(l)
	for controller, value := range map[string]*int64{cgroup.CPU: &out.MilliCPU, cgroup.Memory: &out.MemoryBytes, cgroup.PIDs: &out.PIDs} {
		if r.cfg.Cgroups.Available(controller) != nil {
			*value = 0
		}
	}
	return out
}

// podGroup makes the pod's control group.
func (r *Runtime) podGroup(p *pod, l container.Limits) error {
	if !r.grouped() {
		return nil
	}
	_, err := r.cfg.Cgroups.MakePod(groupName(p), r.held(l))
	return err
}

// grouped tells whether containers run in control groups.
func (r *Runtime) grouped() bool {
	return r.cfg.Cgroups != nil && r.isolation == supervisor.IsolationFull
}

func groupName(p *pod) string { return cgroup.PodName(p.ref.UID, p.ref.Epoch) }

// containerGroup makes the container's group, and fills in how the supervisor uses it.
func (r *Runtime) containerGroup(p *pod, c *container.ContainerConfig, cfg *supervisor.StartConfig) error {
	if !r.grouped() {
		return nil
	}
	g, err := r.cfg.Cgroups.Pod(groupName(p)).MakeChild(c.Name, r.held(c.Limits))
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	add := func(dir string) {
		if dir != "" && !seen[dir] {
			seen[dir] = true
			cfg.Cgroups = append(cfg.Cgroups, filepath.Join(dir, "cgroup.procs"))
		}
	}
	for _, dir := range g.Dirs {
		add(dir)
	}
	add(g.Unified)
	if memory := g.Dirs[cgroup.Memory]; memory != "" {
		cfg.OOMCount = filepath.Join(memory, "memory.oom_control")
		if memory == g.Unified {
			cfg.OOMCount = filepath.Join(memory, "memory.events")
		}
	}
	return nil
}

// dropGroup takes the pod's groups away. No process of the pod is left that the runtime knows of; what is in its groups
// all the same is killed.
func (r *Runtime) dropGroup(p *pod) error {
	if r.cfg.Cgroups == nil {
		return nil
	}
	g := r.cfg.Cgroups.Pod(groupName(p))
	if err := g.Kill(killLimit); err != nil {
		return fmt.Errorf("kill what is left in its control group: %w", err)
	}
	return g.Remove(groupLimit)
}

// sweepGroups takes away the groups of pods that are not there.
func (r *Runtime) sweepGroups() {
	if r.cfg.Cgroups == nil {
		return
	}
	known := map[string]bool{}
	for _, p := range r.pods {
		known[groupName(p)] = true
	}
	gone, err := r.cfg.Cgroups.Sweep(func(name string) bool { return known[name] }, groupLimit)
	if len(gone) > 0 || err != nil {
		r.cfg.Log.Warn("control groups without a pod", "taken_away", gone, "err", err)
	}
}
