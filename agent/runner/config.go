// Package runner runs the pods of a node: it takes assignments, feeds facts and verdicts to every pod's machine
// (agent/pod), and does what the machines ask for through the container runtime. It decides nothing about a pod by
// itself.
//
// What it holds is on disk, so that after a restart of the agent pods go on without a coordinator, and final states are
// kept until an assignment set without them has come. Facts come from listing the runtime once a second; its change
// hints only make that sooner. Each pod's actions are its own: a call that hangs for one pod holds no other.
package runner

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/internal/spec"
)

// The times and bounds of a runner.
const (
	// listEvery is how often the runtime is asked what is there without a hint of it; relistGap is the least time between two
	// askings.
	listEvery = 5 * time.Second
	relistGap = 20 * time.Millisecond
	// relist is how long what has to wait for something outside waits, before it looks again.
	relist = time.Second
	// decideEvery is how often a pod is decided about of which there are no news.
	decideEvery = 4 * time.Second
	// minRecheck is the least time between two decisions about a pod without news.
	minRecheck = 10 * time.Millisecond
	// inventoryWait is how long All waits for the first full listing.
	inventoryWait = 2 * time.Second
	// listTimeout bounds one asking.
	listTimeout = 10 * time.Second
	// callTimeout bounds a call of the runtime; a stop has its grace on top.
	callTimeout = 30 * time.Second
	// starts is how many sandboxes and containers are being made at once. One that takes longer than slowStart is no
	// longer counted, so that stuck ones hold no other.
	starts    = 16
	slowStart = 2 * time.Second
	// writers is how many state files are written at once.
	writers = 8
	// resend is how long a status may go without an acknowledgement before it is said again.
	resend = 10 * time.Second
	// measureEvery is how often volumes with a size limit are measured; it is longer where measuring takes long, so that no
	// more than a twentieth of the time goes to it.
	measureEvery = 10 * time.Second
	// maxHeld bounds the pods that are held, finished and stopping ones included. More are refused.
	maxHeld = 2 * container.MaxPods
)

// The errors of a runner.
var (
	// ErrNotFound means that no such pod or container is here.
	ErrNotFound = errors.New("not found on this node")
	// ErrNotStarted means that the container has not run yet, or not before.
	ErrNotStarted = errors.New("no such instance of the container yet")
)

// Config is what a runner is told.
type Config struct {
	// StateDir is where pods are kept, made if absent: DATA/state/pods.
	StateDir string
	// Node is the node's name, HostIP its address.
	Node, HostIP string
	// Path is the PATH of containers: the agent's.
	Path string
	// RunAsUID and RunAsGID are whom containers run as; both -1 for the agent's own user.
	RunAsUID, RunAsGID int
	// AllowPrivileged runs pods that ask for the host's namespaces, for user 0 or for more capabilities than containers have,
	// and lets pods mount any hostPath; without it only those below HostPathAllow.
	AllowPrivileged bool
	HostPathAllow   []string
	// Isolation is the runtime's; with "none" mounts that need a mount namespace are refused.
	Isolation string
	// PodNetwork gives pods network namespaces of their own.
	PodNetwork bool
	// Limits is whether the runtime holds containers to their limits.
	Limits bool
	// Allocatable is what pods may request of the node: what a container without a limit is told that its limit is.
	Allocatable spec.ResourceList
	// PodPIDs bounds the processes and threads of a pod; 0 means no bound.
	PodPIDs int64
	// ProbeCPUWarning is how much of its CPU limit, in percent, a container's probes may take before an event says so; 0
	// means that none does.
	ProbeCPUWarning int
	// DNS returns where the agent answers for the cluster's names, HOST:PORT, empty while it does not; nil where it never does.
	DNS func() string
	// Resolv returns what a pod's /etc/resolv.conf has to say, empty for what the node's own says; it may be nil.
	Resolv func(*spec.Pod) string
	// Dirs returns a pod's own directory, HOME and TMPDIR; they exist once its sandbox does.
	Dirs func(container.PodRef) (pod, home, tmp string)
}

// Deps are the parts that a runner works with.
type Deps struct {
	Runtime   container.Runtime
	Addresses Addresses
	// Ports is nil where pods share the node's network; then pods with host ports are refused.
	Ports Ports
	// Lease may be nil; then fenced pods are refused.
	Lease  Lease
	Prober Prober
	Events Events
	// Spent returns what a probe has spent since it was set; it must not block, nor call the runner back. It is needed where
	// ProbeCPUWarning is set.
	Spent func(spec.ProbeID) pod.Spent
	// Attempts returns the newest n attempts of a probe, oldest first, and Memory what a container was last seen to take of memory and
	// when, 0 when that is not known. They must not block, nor call the runner back. Nil: nothing is kept of that.
	Attempts func(id spec.ProbeID, n int) []spec.Attempt
	Memory   func(uid, container string) (memory int64, at time.Time)
	// Notify makes the GET of a container's hook at a pod's address; agent/probe does. Nil: such hooks fail.
	Notify func(ctx context.Context, a *spec.HTTPAction, address string, ports []spec.Port) error
	Log    *slog.Logger
}

// Addresses gives pods their addresses; agent/network does.
type Addresses interface {
	Allocate(uid string) (string, error)
	Claim(uid, address string) bool
	Release(uid string)
}

// Ports makes ports of the node lead to pods; agent/network/hostgw does.
type Ports interface {
	// Publish sets all of a pod's ports, for as long as the pod has its address. An error when another pod has one of them.
	Publish(uid string, ports []PublishedPort) error
}

// PublishedPort is a port of the node that leads to a port of a pod.
type PublishedPort struct {
	// Protocol is TCP or UDP.
	Protocol  string
	Host, Pod int32
}

// Lease is what a runner needs of agent/lease.
type Lease interface {
	// Slot returns the fence page's slot of a fenced binding, the same at every call. lease.ErrNotAssigned means that it
	// is not assigned now: it is asked for again soon.
	Slot(uid string, epoch int64) (int, error)
	// Adopt says that a pod which ran before this agent has a slot.
	Adopt(uid string, epoch int64, slot int)
	// Live tells whether the deadline of a binding has not passed.
	Live(uid string, epoch int64) bool
	// Release gives the slot back; no process of the binding is left, and none will be.
	Release(uid string, epoch int64)
}

// Prober attempts probes. Its methods must not block and must not call the runner back.
type Prober interface {
	// Set adds a row, or replaces the one of the same ID. A new Instance resets what was counted.
	Set(ProbeRow)
	// Remove ends a row; unknown ones are no error.
	Remove(spec.ProbeID)
	// Trigger attempts the probe at once, unless its gates are shut, and starts its period anew.
	Trigger(spec.ProbeID)
}

// ProbeRow is one probe of one container and where its newest instance stands.
type ProbeRow struct {
	ID  spec.ProbeID
	Pod spec.ObjectName
	// Probe is the question, with $(NAME) expanded in exec commands.
	Probe *spec.Probe
	// Address is the pod's; Ports resolve named ports.
	Address string
	Ports   []spec.Port
	// Instance is the newest instance's id, StartedAt when it started; Running is false once it has ended.
	Instance  container.ContainerID
	StartedAt time.Time
	Running   bool
	// Started opens the gate of liveness and readiness, and shuts that of startup.
	Started bool
	// Adopted means that the instance ran before this agent: no verdict is assumed before a threshold is met.
	Adopted bool
	// Guarded asks for a report of the first verdict of an instance also when it is the one that was assumed.
	Guarded bool
	// Held means that a failing verdict has no consequence yet: the probe goes on being asked.
	Held bool
}

// ProbeReport is what an attempt has brought.
type ProbeReport struct {
	ID       spec.ProbeID
	Instance container.ContainerID
	Outcome  spec.Outcome
	// Output is what was said; for OutcomeErrored, why the attempt could not be made.
	Output string
	// Verdict is what is believed now; ResultUnknown while nothing is.
	Verdict spec.Result
}

// Events takes events; internal/event's Recorder does.
type Events interface {
	Record(ref spec.ObjectRef, kind, reason, message string)
}

// Assigned is one pod that this node is to run.
type Assigned struct {
	Pod   *spec.Pod
	Epoch int64
	Class spec.FailoverClass
	// Stop asks to stop it for good and to say Stopped; StopReason says why.
	Stop       bool
	StopReason string
	// Restarts are the restart counts it comes with from another node, by container; may be nil.
	Restarts map[string]int32
	// Guarded: the restart guard of its owner is on.
	Guarded bool
}

// Assignments is what this node is to run, or how that has changed.
type Assignments struct {
	// Session is the number of the session that said so; those of older sessions are ignored.
	Session int64
	// Full means that whatever else runs is to be stopped.
	Full     bool
	Assigned []Assigned
	Removed  []container.PodRef
}
