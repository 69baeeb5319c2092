package spec

import "time"

// Usage is what something uses; what is negative is not known.
type Usage struct {
	// MicroCPU is in millionths of a core, on average over a window.
	MicroCPU int64
	// MemoryBytes is the working set.
	MemoryBytes int64
}

// UnknownUsage is that of which nothing is known.
var UnknownUsage = Usage{MicroCPU: -1, MemoryBytes: -1}

// Plus adds two usages up: what is not known of one is not known of the sum.
func (u Usage) Plus(v Usage) Usage {
	add := func(a, b int64) int64 {
		if a < 0 || b < 0 {
			return -1
		}
		return a + b
	}
	return Usage{MicroCPU: add(u.MicroCPU, v.MicroCPU), MemoryBytes: add(u.MemoryBytes, v.MemoryBytes)}
}

// ContainerUsage is what one container uses.
type ContainerUsage struct {
	PodUID, Container string
	Usage
}

// ProbeLateness is how late attempts of a node's probes began.
type ProbeLateness struct {
	// Begun is how many began, Late how many of them more than a tenth of their period, and 500 ms, after their time.
	Begun, Late int64
	// Most is how late the latest began.
	Most time.Duration
	// Overloaded: too many are late for the agent to keep up.
	Overloaded bool
}

// NodeUsage is what a node uses.
type NodeUsage struct {
	// At is when it was measured.
	At time.Time
	// Window is what processor time was measured over; 0 at the first measurement, which knows none.
	Window time.Duration
	// Machine is all that runs there, Agent the agent itself, Supervisors those of its pods.
	Machine, Agent, Supervisors Usage
	// Probes is how late its probes were asked since the measurement before.
	Probes ProbeLateness
	// Containers are those that run.
	Containers []ContainerUsage
}
