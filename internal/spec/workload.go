package spec

import "time"

// Deployment keeps a number of like pods running.
type Deployment struct {
	Meta
	Spec   DeploymentSpec
	Status DeploymentStatus
}

// DeploymentSpec is what the user wants.
type DeploymentSpec struct {
	// Replicas is 1 by default, at least 0, at most 10,000.
	Replicas int32
	// Selector must match the template's labels and cannot be changed.
	Selector Selector
	Template PodTemplate
	Strategy Strategy
	// MinReady is how long a pod must be ready before it counts as available; at least 0.
	MinReady time.Duration
	// RevisionHistoryLimit is how many old templates are kept, 0 to 100; nil stands for 10.
	RevisionHistoryLimit *int32
	// ProgressDeadline is how long nothing may progress before that is told; more than MinReady, and 0 stands for 10 min.
	ProgressDeadline time.Duration
	// Paused keeps a new template waiting.
	Paused bool
}

// PodTemplate is what the pods of a workload are made from.
type PodTemplate struct {
	Labels, Annotations map[string]string
	Spec                PodSpec
}

// DeploymentStatus is what the leader sees.
type DeploymentStatus struct {
	ObservedGeneration                          int64
	Replicas, UpdatedReplicas, Ready, Available int32
	Conditions                                  []Condition
	// Revision is the number of the newest revision, 0 before there is one.
	Revision int64
	// ProgressTime is when the rollout last came on.
	ProgressTime time.Time
}

// Event says that something happened to an object.
type Event struct {
	Meta
	// Type is Normal or Warning.
	Type            string
	Reason, Message string
	Involved        ObjectRef
	// Count is how often it happened, at least 1.
	Count     int32
	FirstTime time.Time
	LastTime  time.Time
	// Source is the part that saw it: agent or coordinator; Node is where.
	Source, Node string
}

// The event types.
const (
	EventNormal  = "Normal"
	EventWarning = "Warning"
)

// ObjectRef names an object, or with FieldPath a part of it such as spec.containers{web}.
type ObjectRef struct {
	Kind, Namespace, Name, UID string
	FieldPath                  string
}
