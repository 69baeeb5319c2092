package runner

import (
	"time"

	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/internal/spec"
)

// weighLocked looks what the probes of a pod's containers take of their CPU limits.
func (r *Runner) weighLocked(h *held, now time.Time) {
	h.weighAt = now.Add(pod.CostWindow)
	for _, c := range h.pod.Spec.AllContainers() {
		limit := c.Resources.Limits.MilliCPU
		if limit <= 0 {
			continue
		}
		spent, instance := map[spec.ProbeKind]pod.Spent{}, ""
		for _, kind := range spec.ProbeKinds {
			id := spec.ProbeID{PodUID: h.ref.UID, Container: c.Name, Kind: kind}
			if row, ok := h.rows[id]; ok && row.row.Running {
				instance = row.row.Instance
				spent[kind] = r.deps.Spent(id)
			}
		}
		if instance == "" {
			delete(h.costs, c.Name)
			continue
		}
		cost := h.costs[c.Name]
		if cost == nil {
			cost = &pod.ProbeCost{}
			h.costs[c.Name] = cost
		}
		if e, dear := cost.Weigh(now, instance, spent, limit, r.cfg.ProbeCPUWarning); dear {
			e.Container = c.Name
			r.record(h, e)
		}
	}
}
