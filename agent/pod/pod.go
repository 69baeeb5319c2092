package pod

import (
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// Wanted is what is asked of the pod.
type Wanted struct {
	// Pod is the object; never nil. Its containers do not change during a Machine's life.
	Pod *spec.Pod
	// HostIP is the node's address.
	HostIP string
	// Stop asks to stop the pod for good and to say so. A pod with a deletion time is stopped as well.
	Stop bool
	// Blocked keeps a new sandbox from being made: something else must go first.
	Blocked bool
	// Guard is the restart guard of the pod's owner.
	Guard Guard
}

func (w *Wanted) stopping() bool { return w.Stop || w.Pod.Deleting() }

// Seen is what the runtime says of the pod.
type Seen struct {
	// Known is false while nothing certain can be said: nothing is decided then.
	Known bool
	// Exists tells whether there is a sandbox.
	Exists bool
	// CreatedAt tells one sandbox of a pod from the next.
	CreatedAt time.Time
	// Dead is set when the sandbox's supervisor is gone, with everything in it; DeadReason is LeaseExpired or
	// SupervisorDied.
	Dead       bool
	DeadReason string
	// Fence is kernel or best-effort for fenced pods.
	Fence string
	IP    string
	// Instances has the newest instance of each container.
	Instances []Instance
}

// Instance is one instance of a container.
type Instance struct {
	// ID is new for every instance; empty for one that could not be started.
	ID      string
	Name    string
	Attempt int32
	Running bool
	// StartedAt and FinishedAt are by the node's clock.
	StartedAt, FinishedAt time.Time
	// ExitCode is 128 + Signal for a death by signal.
	ExitCode, Signal int32
	// Reason is why it ended: Completed, Error, OOMKilled or one of the Reason constants.
	Reason, Message string
}

// The reasons of an end that are not the container's own doing.
const (
	ReasonLeaseExpired   = "LeaseExpired"
	ReasonSupervisorDied = "SupervisorDied"
	// ReasonStartError is an instance whose command could not be executed; its exit code is 128.
	ReasonStartError = "StartError"
	// ReasonEvicted is a pod that its node has ended.
	ReasonEvicted = "Evicted"
	// ReasonRestartHeld is the reason of the event about a restart that waits.
	ReasonRestartHeld = "RestartHeld"
	// ReasonUnknown is an instance of which nothing is left, for instance after the machine was rebooted.
	ReasonUnknown = "ContainerStatusUnknown"
)

// ProbeNews is what an attempt of a probe has brought.
type ProbeNews struct {
	Container string
	Kind      spec.ProbeKind
	// Instance is the id of the instance that was asked. News of others than the newest are dropped.
	Instance string
	Outcome  spec.Outcome
	// Output is what the attempt said, at most 1 KiB; for an errored one, why it could not be made.
	Output string
	// Verdict is what is believed now; ResultUnknown while no threshold was met since the agent's start.
	Verdict spec.Result
}

// ActionKind is what to do.
type ActionKind uint8

// The actions.
const (
	// EnsureSandbox makes the sandbox.
	EnsureSandbox ActionKind = iota + 1
	// StartContainer starts the instance Attempt of Container.
	StartContainer
	// StopContainer stops the instance ID of Container within Grace. A second one for the same instance means a
	// shorter grace.
	StopContainer
	// RemoveSandbox kills what is left and removes the sandbox.
	RemoveSandbox
	// RunPostStart does the postStart hook of Container for its instance ID. It ends with the instance, if not before.
	RunPostStart
)

// String is the action in words.
func (k ActionKind) String() string {
	switch k {
	case EnsureSandbox:
		return "ensure sandbox"
	case StartContainer:
		return "start container"
	case StopContainer:
		return "stop container"
	case RemoveSandbox:
		return "remove sandbox"
	case RunPostStart:
		return "run postStart hook"
	}
	return "nothing"
}

// Action is one thing to do. Its end is told with Machine.Done; until then it is not asked for again.
type Action struct {
	// Seq names the action in Done.
	Seq       int
	Kind      ActionKind
	Container string
	Attempt   int32
	ID        string
	Grace     time.Duration
	// PreStop has the container's preStop hook done first, within Grace; of which MinGrace is left then in any case.
	PreStop bool
	// Why is for the log.
	Why string
}

// Failure is how an action failed.
type Failure uint8

// The failures.
const (
	// None: it was done.
	None Failure = iota
	// CannotStart: the command can't be executed; that counts as an instance that ended.
	CannotStart
	// Misconfigured: the container can't be put together, for instance a volume is missing; it is tried again.
	Misconfigured
	// Fenced: the lease has too little time left; it is tried again, and the page decides.
	Fenced
	// Other: it is tried again.
	Other
)

// Result is how an action ended.
type Result struct {
	Failure Failure
	// Text says why, for people.
	Text string
	// Instance is the new one after StartContainer.
	Instance Instance
	// HookFailed tells of a preStop hook; the instance was stopped all the same.
	HookFailed bool
}

// Event is something to tell about the pod, or about one container of it.
type Event struct {
	// Type is Normal or Warning.
	Type            string
	Reason, Message string
	// Container is empty when it is about the whole pod.
	Container string
}

// Probe is a row that the prober should have.
type Probe struct {
	Container string
	Kind      spec.ProbeKind
	// Instance is the newest instance; StartedAt is when it started.
	Instance  string
	StartedAt time.Time
	// Running is false when the instance has ended.
	Running bool
	// Started gates: a startup probe rests when it is true, the others rest until it is (rule 5.2.9).
	Started bool
	// Adopted means that the instance ran before this agent did: no verdict is assumed for it (rule 11.2).
	Adopted bool
	// Guarded asks to be told of the first verdict of an instance also when it is the one that was assumed.
	Guarded bool
	// Held: the verdict has no consequence yet, so the probe goes on being asked.
	Held bool
}

// Plan is a decision.
type Plan struct {
	// Actions may be done at once and in parallel.
	Actions []Action
	// Status is what to report; StatusChanged tells whether it differs from the plan before.
	Status        spec.PodStatus
	StatusChanged bool
	// Stopped is final: no process of the pod lives, none is being started, none will be.
	Stopped bool
	// Fenced means that the lease has ended the pod: only an assignment by a newer session starts it again.
	Fenced bool
	Events []Event
	// Probes are all rows that the prober should have now; Trigger are the ones of them to attempt at once.
	Probes  []Probe
	Trigger []Probe
	// Asked are to be answered with Machine.Keep at once.
	Asked []Asked
	// Recheck is when to decide again without news; zero means never.
	Recheck time.Time
}

// Memory is what must not be forgotten when the agent restarts. It can be stored as JSON.
type Memory struct {
	Status  spec.PodStatus
	Stopped bool
	Fenced  bool
	FenceOf time.Time
	// Evicted is why the pod was ended by its node; empty if it was not.
	Evicted    string `json:",omitempty"`
	Containers map[string]ContainerMemory
}

// ContainerMemory is what must not be forgotten of a container.
type ContainerMemory struct {
	// Instance is the newest one, nil before the first.
	Instance *Instance
	// Sandbox is when the sandbox was made that the newest instance was last seen in.
	Sandbox time.Time
	// Last is how the one before ended.
	Last *spec.Terminated
	// First is the attempt number of the first instance: restarts on other nodes are counted on.
	First int32
	// Hooked is the instance whose postStart hook has ended, HookFailed whether it failed.
	Hooked     string `json:",omitempty"`
	HookFailed bool   `json:",omitempty"`
	// LivenessKill is when liveness killed an instance last while the restart guard was on, Lived whether one has been live since.
	LivenessKill time.Time `json:",omitzero"`
	Lived        bool      `json:",omitzero"`
	// Owed is the instance that a probe killed and that will be restarted whatever its exit code (rule 8.1).
	Owed string
	// Reset is 1 more than the attempt that is done away with because all containers of the pod restart; 0 for none. Resetter is
	// set when its own exit asked for that.
	Reset    int32 `json:",omitempty"`
	Resetter bool  `json:",omitempty"`
	// Backoff is the restart delay; see backoff.
	Backoff Backoff
	// Ends are how the last instances ended, at most spec.KeptEnds; Stop is how the newest was asked to, nil if it was not.
	Ends []spec.InstanceEnd `json:",omitempty"`
	Stop *Stop              `json:",omitempty"`
}
