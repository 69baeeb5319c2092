// Package container is the seam between the agent and whatever runs containers: the Runtime interface, its values and
// its errors. agent/container/process is the embedded runtime; agent/container/containertest has a fake and the
// conformance suite that every runtime passes.
//
// A runtime knows pods by (uid, epoch) and containers by an id that is new for every instance. It decides nothing: what
// should run is agent/pod's to say, and agent/runner's to ask for.
package container

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"time"
)

// The errors of a runtime. They are wrapped with the operation and its object.
var (
	// ErrNotFound means that no such pod or container is known.
	ErrNotFound = errors.New("not found")
	// ErrNotRunning means that the container has ended, so nothing can be run in it.
	ErrNotRunning = errors.New("container is not running")
	// ErrCannotStart means that a command could not be started at all: missing file, no permission, bad directory.
	ErrCannotStart = errors.New("cannot start")
	// ErrTimeout means that an exec did not end within its time and was killed with all its children.
	ErrTimeout = errors.New("timed out")
	// ErrFenced means that the pod's lease is over, or too short to start anything under it.
	ErrFenced = errors.New("lease expired")
	// ErrCannotConnect means that nothing answers at a port of a pod; the text says why.
	ErrCannotConnect = errors.New("cannot connect")
	// ErrUnsupported means that the runtime can not do this on this machine; the text says what.
	ErrUnsupported = errors.New("not supported by this runtime")
)

// Runtime runs pods. All methods may be called from any goroutine and honour ctx; none starts anything that outlives
// it but pods.
type Runtime interface {
	// Info says what this runtime can do on this machine.
	Info(ctx context.Context) (Info, error)
	// EnsurePod makes the pod's sandbox (for process: its supervisor) unless it exists, and returns it. It is
	// idempotent by UID and Epoch. A sandbox of the same UID with an older epoch is an error: remove it first. For a
	// fenced pod it fails with ErrFenced when the page has no time for it.
	EnsurePod(ctx context.Context, pod PodConfig) (Pod, error)
	// StartContainer starts a new instance of a container in an existing sandbox and returns its state. It fails with
	// ErrNotFound without a sandbox, with ErrFenced under 1 s before the deadline, with ErrCannotStart when the command
	// can't be executed (then no instance exists).
	StartContainer(ctx context.Context, pod PodRef, c ContainerConfig) (Container, error)
	// StopContainer sends SIGTERM, waits for grace, then kills every process of the container. It returns once none is
	// left; on a container that has ended it returns at once. A second call with a shorter grace shortens the first.
	StopContainer(ctx context.Context, id ContainerID, grace time.Duration) error
	// RemovePod kills whatever is left of the pod at once and forgets it, logs included. It returns when no process of
	// it lives. Unknown pods are no error.
	RemovePod(ctx context.Context, pod PodRef) error
	// Exec runs a command inside a running container and waits for it.
	Exec(ctx context.Context, id ContainerID, cmd ExecConfig) (ExecResult, error)
	// Interact runs a command inside a running container on the caller's streams, and returns its exit code, 128 + signal for a
	// death by signal. The end of ctx kills it with all that came from it. What it has left running may go on, and is not
	// waited for: all that was written by the command's end is delivered. ErrUnsupported where an older supervisor keeps
	// the pod.
	Interact(ctx context.Context, id ContainerID, cmd Interaction) (exitCode int32, err error)
	// Dial connects to a TCP port of a pod: where it has a network of its own, to what listens on any address inside, its
	// loopback first; else to its address. ErrNotFound without the pod, ErrNotRunning when it has ended, ErrCannotConnect when
	// the port refuses.
	Dial(ctx context.Context, pod PodRef, port int) (Conn, error)
	// List has every pod that exists, ended containers included until they are removed or replaced twice. Complete
	// is false when a pod may exist that could not be asked (a stopped supervisor): absence then means nothing.
	List(ctx context.Context) (List, error)
	// Changes delivers a hint whenever something about a pod may have changed: look with List. Hints are folded, so a
	// slow reader loses nothing; the channel is never closed and is the same at each call.
	Changes() <-chan struct{}
	// Logs writes what a container wrote to w, oldest first, in the order it was written, decoded from the CRI format:
	// each line with its newline. With Follow it goes on until ctx ends or the instance is gone.
	Logs(ctx context.Context, id ContainerID, opts LogOptions, w io.Writer) error
	// VolumeUsage is how many bytes of disk one of the pod's own volumes takes; counting ends once it is more than most.
	// ErrNotFound without the pod or the volume, ErrUnsupported for one in memory.
	VolumeUsage(ctx context.Context, pod PodRef, volume string, most int64) (int64, error)
	// WriteFiles makes files what one of the pod's own volumes has, all in one step: whoever looks into it finds the old ones or
	// the new ones. Nothing is written where they are there already. ErrNotFound without the pod or such a volume.
	WriteFiles(ctx context.Context, pod PodRef, volume string, files []File) error
	// Usage measures what a running container uses. It fails with ErrNotRunning once the container has ended.
	Usage(ctx context.Context, id ContainerID) (Usage, error)
	// Overhead is the processor time that the runtime's own processes have spent on pods, beside this one, since some moment
	// (for process: the supervisors). It never falls while the runtime is open.
	Overhead(ctx context.Context) (time.Duration, error)
	// Close lets go of everything without stopping any pod.
	Close() error
}

// Conn is a connection to a port of a pod, either direction of which can end before the other.
type Conn interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Info is what a runtime can do.
type Info struct {
	// Name is "process".
	Name string
	// Version is the runtime's own version.
	Version string
	// Isolation is full (root's namespaces), user (user namespaces), none (plain processes).
	Isolation string
	// Limits tells whether containers are held to their limits of CPU, memory and processes.
	Limits bool
	// Fence is kernel where the kernel kills a fenced pod at its deadline whatever happens, else best-effort.
	Fence string
	// Note is one sentence for people when something is less than it could be; empty otherwise.
	Note string
}

// PodRef names one binding of one pod.
type PodRef struct {
	UID   string
	Epoch int64
}

// PodConfig is what a sandbox is made from.
type PodConfig struct {
	PodRef
	Namespace, Name string
	Hostname        string
	// IP is the pod's address.
	IP string
	// FenceSlot is the pod's slot in the fence page, 1 to 1023; 0 when the pod is not fenced.
	FenceSlot int
	// Grace is the pod's termination grace period, of which the fence gives at most 500 ms before it kills.
	Grace time.Duration
	// OwnNetwork gives the pod a network namespace of its own; without it, it shares the node's network.
	OwnNetwork bool
	// HostNetwork, HostPID and HostIPC use the node's namespaces instead of the pod's own.
	HostNetwork, HostPID, HostIPC bool
	// SharePID puts all containers into one PID namespace.
	SharePID bool
	// Resolv is what the pod's /etc/resolv.conf says; empty for what the node's own says.
	Resolv string
	// Volumes are directories that live as long as the sandbox; containers mount them by name.
	Volumes []PodVolume
	// Limits are the pod's cgroup limits: the sums over its containers where all have one, else zero for none.
	Limits Limits
}

// File is a file of a volume.
type File struct {
	// Path is relative to the volume, clean, and does not begin with "..".
	Path string
	Data []byte
	// Mode has permission bits only.
	Mode fs.FileMode
}

// PodVolume is a directory of the pod's own, 0777.
type PodVolume struct {
	Name string
	// Files makes it one that WriteFiles alone writes in; what containers may do with its files is for their modes to say.
	Files bool
	// Memory keeps it in memory.
	Memory bool
	// SizeLimit is in bytes; 0 means none. In memory the kernel holds it; on disk whoever asks VolumeUsage does.
	SizeLimit int64
	// GID owns it; -1 for the agent's own group.
	GID int
}

// Limits are what a cgroup holds its processes to; zero means none.
type Limits struct {
	// MilliCPU is in thousandths of a core.
	MilliCPU int64
	// CPURequest weighs against others, in thousandths of a core.
	CPURequest int64
	// MemoryBytes is in bytes.
	MemoryBytes int64
	// PIDs is a number of processes and threads.
	PIDs int64
}

// ContainerID names one instance of one container: "process://POD_UID/NAME/ATTEMPT-RANDOM".
type ContainerID string

// ContainerConfig is what an instance is made from, with every expansion done.
type ContainerConfig struct {
	Name string
	// Attempt is the number of restarts before this instance.
	Attempt int32
	Argv    []string
	// Env is the whole environment, "NAME=value".
	Env []string
	// WorkingDir is absolute.
	WorkingDir string
	// UID and GID are whom it runs as; both -1 for the agent's own user.
	UID, GID int
	// Mounts are files and directories of the host that the container sees. Where there are no mount namespaces Source
	// must equal Target, and ReadOnly has no effect; where there are, /tmp is private but for what is mounted below it.
	Mounts []Mount
	// Groups are supplemental groups.
	Groups []int
	Limits Limits
	// Capabilities are names without CAP_ to add to, and to drop from, the runtime's default set; ALL is all.
	AddCapabilities, DropCapabilities []string
	// ReadOnlyRoot makes all but the mounts, /tmp and the pod's own directory read-only.
	ReadOnlyRoot bool
	// NoNewPrivileges keeps set-user-ID programs from giving more rights.
	NoNewPrivileges bool
	// SeccompDefault applies the runtime's default filter of system calls.
	SeccompDefault bool
}

// Mount puts a file or directory at a path of the container. Target is absolute.
type Mount struct {
	// Source is an absolute path of the host; empty where Volume is set.
	Source string
	// Volume is the name of one of the pod's volumes.
	Volume string
	// SubPath is relative to Source or Volume, stays below it whatever links it holds, and is made if missing.
	SubPath  string
	Target   string
	ReadOnly bool
}

// Pod is a sandbox and its containers.
type Pod struct {
	PodRef
	Namespace, Name string
	IP              string
	FenceSlot       int
	CreatedAt       time.Time
	// Fence is kernel or best-effort for fenced pods, empty otherwise.
	Fence string
	// Dead is set when the supervisor is gone: everything in it has been killed, and only RemovePod is possible.
	Dead bool
	// DeadReason says what ended the supervisor: LeaseExpired, or SupervisorDied.
	DeadReason string
	// Containers has the newest instance of each container.
	Containers []Container
}

// Container is one instance of a container.
type Container struct {
	ID      ContainerID
	Name    string
	Attempt int32
	// Running is false once no process of the instance lives.
	Running    bool
	StartedAt  time.Time
	FinishedAt time.Time
	// ExitCode is 128 + Signal for a death by signal; both mean nothing while running.
	ExitCode, Signal int32
	// Reason is Completed, Error, OOMKilled, LeaseExpired or SupervisorDied.
	Reason string
}

// ExecConfig is a command to run in a container.
type ExecConfig struct {
	Argv []string
	// Env is added to the container's own environment.
	Env []string
	// Timeout kills the command with its children; 0 means no limit but ctx.
	Timeout time.Duration
	// OutputLimit cuts each of stdout and stderr; default 10240 bytes.
	OutputLimit int
}

// ExecResult is how a command ended. Output of children that still hold the pipes is not waited for.
type ExecResult struct {
	// ExitCode is 128 + signal for a death by signal.
	ExitCode       int32
	Stdout, Stderr []byte
	Duration       time.Duration
	// CPU is the user and system time of the command and the children it waited for; -1 where unknown.
	CPU time.Duration
}

// Interaction is a command on somebody's streams.
type Interaction struct {
	Argv []string
	// Env is added to the container's own environment.
	Env []string
	// TTY gives the command a terminal: what it writes then comes through Stdout alone.
	TTY bool
	// Stdin is read from until its end, which the command sees, or until the command has ended: a Read that is under way then
	// goes on, and what it brings is lost. nil: the command reads nothing.
	Stdin io.Reader
	// Stdout and Stderr are written to from one goroutine each. One that blocks holds up the command.
	Stdout, Stderr io.Writer
	// Sizes are the terminal's, the first before the command starts if one is waiting; nil for none.
	Sizes <-chan TerminalSize
}

// TerminalSize is in characters.
type TerminalSize struct{ Columns, Rows uint16 }

// Usage is what a container uses.
type Usage struct {
	// At is when it was measured.
	At time.Time
	// CPU is the user and system time of the container's processes, those that have ended and those of Exec included. It
	// counts from a moment that is the same while the instance lives: two of them tell what was used between. -1 where it
	// is unknown.
	CPU time.Duration
	// MemoryBytes is the working set, all memory but the file cache not lately used; -1 where it is unknown.
	MemoryBytes int64
}

// List is what exists.
type List struct {
	Pods     []Pod
	Complete bool
}

// LogOptions choose what Logs writes.
type LogOptions struct {
	// Follow goes on with what comes.
	Follow bool
	// Tail is how many of the last lines; negative means all.
	Tail int
	// Since drops lines older than this; zero means none.
	Since time.Time
	// Timestamps puts the line's RFC 3339 time in front.
	Timestamps bool
}

const (
	// MaxPods bounds the pods of a node.
	MaxPods = 1000
	// MaxContainers bounds the containers of a pod.
	MaxContainers = 64
)
