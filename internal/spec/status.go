package spec

import "time"

// Phase is where a pod stands in its life. Failed and Succeeded are final.
type Phase string

// The phases.
const (
	PhasePending   Phase = "Pending"
	PhaseRunning   Phase = "Running"
	PhaseSucceeded Phase = "Succeeded"
	PhaseFailed    Phase = "Failed"
)

// Final tells whether the phase never changes again.
func (p Phase) Final() bool { return p == PhaseSucceeded || p == PhaseFailed }

// PodStatus is what its holder says of a pod.
type PodStatus struct {
	Phase Phase
	// Reason and Message explain the phase; mostly empty.
	Reason, Message string
	// Conditions in the order PodScheduled, PodReadyToStartContainers, Initialized, ContainersReady, Ready, then
	// others by type.
	Conditions []Condition
	PodIP      string
	HostIP     string
	// StartTime is when the agent first took the pod; zero before.
	StartTime  time.Time
	Containers []ContainerStatus
	// InitContainers has one for each init container, in the spec's order.
	InitContainers []ContainerStatus
	// Fence says how the pod's fence is kept: "kernel" or "best-effort"; empty for pods that are not fenced.
	Fence string
}

// Condition returns the condition of that type, nil without one.
func (s *PodStatus) Condition(t string) *Condition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

// Container returns the status of the container of that name, init or regular; nil without one.
func (s *PodStatus) Container(name string) *ContainerStatus {
	for _, list := range [][]ContainerStatus{s.InitContainers, s.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// Ready tells whether the Ready condition is True.
func (s *PodStatus) Ready() bool {
	c := s.Condition(ConditionReady)
	return c != nil && c.Status == ConditionTrue
}

// The condition types of pods. Nodes have ConditionReady only.
const (
	ConditionPodScheduled          = "PodScheduled"
	ConditionPodReadyToStart       = "PodReadyToStartContainers"
	ConditionInitialized           = "Initialized"
	ConditionContainersReady       = "ContainersReady"
	ConditionReady                 = "Ready"
	ConditionProbeErrored          = "ProbeErrored"
	ConditionRestartHeld           = "RestartHeld"
	ConditionTrue            Truth = "True"
	ConditionFalse           Truth = "False"
	ConditionUnknown         Truth = "Unknown"
)

// Truth is a condition's status.
type Truth string

// Condition is one claim about an object.
type Condition struct {
	Type            string
	Status          Truth
	Reason, Message string
	// TransitionTime changes only when Status does.
	TransitionTime time.Time
}

// ContainerStatus is what is seen of one container.
type ContainerStatus struct {
	Name string
	// ID is the id of the newest instance, "process://…"; empty before the first.
	ID       string
	Image    string
	Started  bool
	Ready    bool
	Restarts int32
	State    ContainerState
	// Last is the end of the instance before; zero before the first restart.
	Last ContainerState
}

// ContainerState is one of waiting, running or terminated; the zero value is waiting without a reason.
type ContainerState struct {
	Waiting    *Waiting
	Running    *Running
	Terminated *Terminated
}

// Waiting is a container that does not run yet, or again.
type Waiting struct{ Reason, Message string }

// Running is a container that runs.
type Running struct{ StartedAt time.Time }

// Terminated is a container that has ended.
type Terminated struct {
	// ExitCode is 128 + Signal for a death by signal.
	ExitCode int32
	// Signal is 0 for an exit.
	Signal          int32
	Reason, Message string
	StartedAt       time.Time
	FinishedAt      time.Time
	ID              string
}
