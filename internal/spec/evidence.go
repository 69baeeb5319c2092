package spec

import "time"

// The bounds of what an agent keeps of how containers have ended.
const (
	// KeptEnds is how many ends are kept of a container.
	KeptEnds = 3
	// KeptEndAttempts is how many attempts of a probe are kept with an end.
	KeptEndAttempts = 8
)

// InstanceEnd is how one instance of a container ended, and what led to it.
type InstanceEnd struct {
	Terminated
	// Attempt is the instance's number, 0 for the first.
	Attempt int32
	// Probe is the kind that had it killed, 0 for none.
	Probe ProbeKind `json:",omitempty"`
	// HookFailed tells of a postStart hook.
	HookFailed bool `json:",omitempty"`
	// Why it was asked to end; empty when it ended by itself.
	Why string `json:",omitempty"`
	// StopTime is when it was asked to end, Grace what it was given; zero when it ended by itself.
	StopTime time.Time     `json:",omitzero"`
	Grace    time.Duration `json:",omitempty"`
	// Attempts are those of the probe that led to it, oldest first, at most KeptEndAttempts.
	Attempts []Attempt `json:",omitempty"`
	// MemoryBytes is what it was last seen with, at MemoryTime; 0 when that is not known.
	MemoryBytes int64     `json:",omitempty"`
	MemoryTime  time.Time `json:",omitzero"`
}

// ContainerEvidence is what an agent keeps of one container.
type ContainerEvidence struct {
	Container string
	// Ends are the last ones, oldest first, at most KeptEnds.
	Ends []InstanceEnd
	// RestartTime is when the next instance may start; zero while none waits.
	RestartTime time.Time
	// Backoff is how long after its end the next failure waits.
	Backoff time.Duration
	// Results are the newest of its probes, oldest first.
	Results []ProbeAttempt
	// Log is the end of what the instance wrote that ended last.
	Log []byte
}
