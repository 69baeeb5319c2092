package spec

import (
	"net/netip"
	"time"
)

// Node is a machine with an agent, as the coordinator knows it. All of it is the user's.
type Node struct {
	Meta
	Unschedulable bool
	// Taints keep pods off that do not tolerate them; at most 64.
	Taints []Taint
}

// NodeFacts is what an agent says of its node.
type NodeFacts struct {
	// Address is where pods of other nodes, coordinators and witnesses reach the node.
	Address string
	// GuardAddress and GossipAddress are HOST:PORT.
	GuardAddress, GossipAddress string
	// HTTPAddress serves metrics and health.
	HTTPAddress string
	Labels      map[string]string
	Allocatable ResourceList
	// MaxPods is at most 1000.
	MaxPods int32
	// Runtimes is "process" for now.
	Runtimes []string
	// Isolation is full, user or none.
	Isolation string
	// Images is refuse or ignore: whether pods that name an image run here.
	Images string
	// PrivilegedPods is whether pods may ask for what PodSpec.Privilege names, and mount any path of the node.
	PrivilegedPods bool
	// HostPathAllow are the paths that pods may mount, with what is below them, where PrivilegedPods is not.
	HostPathAllow []string
	// PodNet is the 127.77.NODE.0 network of the node; empty where pods use the node's address.
	PodNet string
	// Network is host-gw where pods have addresses in the cluster's flat network; none or empty where they don't.
	Network string
	BootID  string
	// Instance is made with the data directory.
	Instance string
	Version  string
	OS, Arch string
	Kernel   string
}

// Verdict is what the leader believes of a node.
type Verdict string

// The verdicts of fence and failover; see docs/failover.md.
const (
	VerdictReady       Verdict = "Ready"
	VerdictUnreachable Verdict = "Unreachable"
	VerdictAgentDown   Verdict = "AgentDown"
	VerdictLost        Verdict = "Lost"
)

// NodeStatus is what the leader writes of a node: one write a change.
type NodeStatus struct {
	Verdict Verdict
	// Since is when the verdict was reached.
	Since time.Time
	// Cause says in a few words what led to the verdict.
	Cause string
	// PodsNotReady tells every reader to show the node's pods Ready=False, reason NodeUnreachable.
	PodsNotReady bool
	// Member is the gossip's word: alive, dead, left.
	Member string
}

// Binding is the stored fact "this pod on this node". Its epoch is the store revision at which it was written; the
// epoch is not part of the value.
type Binding struct {
	UID, Node string
	// Class holds for the binding's life.
	Class FailoverClass
	// Cause says why the pod was bound here: scheduled, or the failover's id after a move.
	Cause string
}

// Stop asks the holder of a binding to stop the pod and say so.
type Stop struct {
	Epoch int64
	// Reason is drain, delete, replace, move, taint: for events.
	Reason string
}

// HeldStatus is a pod's status with the epoch it speaks for.
type HeldStatus struct {
	UID   string
	Epoch int64
	// Stopped is final: no process of that epoch lives, none will start.
	Stopped bool
	Status  PodStatus
}

// LeaseState is where a node's lease stands.
type LeaseState string

// The states of a lease record.
const (
	LeaseOpen    LeaseState = "open"
	LeaseSealing LeaseState = "sealing"
	LeaseSealed  LeaseState = "sealed"
)

// NodeLease is the record of a node's claim. It is written once a session, never by a renewal.
type NodeLease struct {
	State LeaseState
	// Owner is one run of a coordinator, never its name.
	Owner string
	// Session is the agent's session number.
	Session int64
	// Instance and Boot are the agent's.
	Instance, Boot string
	// TTL is T; Certainty is S.
	TTL, Certainty time.Duration
	// Remaining is what a sealed lease still has to wait, from the moment it is seen sealed.
	Remaining time.Duration
	// Barred refuses every open until its wait and 5 s for the moves are over.
	Barred bool
}

// Failover is the record of one pod's move, by phase.
type Failover struct {
	ID string
	// Cause is the verdict that led to it, or what did: Lost, AgentDown, drain, move, taint.
	Cause    string
	Class    FailoverClass
	Pod      ObjectName
	PodUID   string
	From, To string
	Time     time.Time
	Epoch    int64
	Phases   FailoverPhases
}

// FailoverPhases are how long each phase took; negative means not reached.
type FailoverPhases struct {
	Detect, Confirm, Fence, Place, Deliver, Start, Ready time.Duration
}

// NetworkHostGW and NetworkNone are what a node's Network may be.
const (
	NetworkHostGW = "host-gw"
	NetworkNone   = "none"
)

// NodeNetwork is what a node has been given of the pod network. It keeps it for as long as it is known.
type NodeNetwork struct {
	// PodCIDR overlaps with no other node's.
	PodCIDR netip.Prefix
}

// NetworkNode is a node of the flat pod network as the others see it: its pods are behind its address.
type NetworkNode struct {
	Node    string
	Address netip.Addr
	PodCIDR netip.Prefix
}

// Leadership is the record of the leader.
type Leadership struct {
	// Owner is the run of a coordinator.
	Owner string
}

// Blob is a record that only its writer understands.
type Blob struct {
	Data []byte
}
