// Package fence is the part of muster that a single-instance pod's safety rests on, as step machines without a clock, a
// goroutine or any IO: facts and the time go in, what to do comes out. Owner is the coordinator's side of one node's
// lease, Sealer the leader's, Holder the agent's, Supervisor the executor's. docs/failover.md has the protocol. The tests
// play all of them against each other in a model of one coordinator and its nodes.
//
// Times are readings of a clock that only goes forward, as durations since any moment: those of one machine's life are
// all of one clock, and no reading is ever compared with another machine's.
package fence

import (
	"errors"
	"fmt"
	"time"
)

// Bounds and defaults of the lease.
const (
	// DefaultTTL is T, how long an acknowledged renewal lasts, from when it was sent.
	DefaultTTL     = 10 * time.Second
	MinTTL, MaxTTL = 3 * time.Second, 10 * time.Minute
	// KillLead is K, how long before its deadline a pod is killed.
	KillLead = 500 * time.Millisecond
	// HoldTTL is the T that an orderly stop of a lone coordinator leaves behind.
	HoldTTL = 2 * time.Minute
	// BarWindow is the time within which two seals that re-opens have undone make the third a bar; BarGrace is how long
	// after its wait a barred node is still kept out, for the moves.
	BarWindow, BarGrace = 2 * time.Minute, 5 * time.Second
)

// Margin is M: what different clock rates, up to 10 %, can make of a T, and a pause of a hypervisor up to a third of it.
func Margin(ttl time.Duration) time.Duration { return max(time.Second, ttl/5) }

// RenewEvery is how often an agent renews.
func RenewEvery(ttl time.Duration) time.Duration { return min(time.Second, ttl/5) }

// CheckTTL refuses a T out of bounds.
func CheckTTL(ttl time.Duration) error {
	if ttl < MinTTL || ttl > MaxTTL {
		return fmt.Errorf("lease TTL: %v, must be %v to %v", ttl, MinTTL, MaxTTL)
	}
	return nil
}

// State is where a lease stands.
type State string

// The states of a lease.
const (
	Open    State = "open"
	Sealing State = "sealing"
	Sealed  State = "sealed"
)

// Record is a node's lease as it is stored.
type Record struct {
	State State
	// Owner is one run of a coordinator.
	Owner string
	// Session, Instance and Boot are the agent's.
	Session        int64
	Instance, Boot string
	// TTL is T: no acknowledgement for this session lasts longer.
	TTL time.Duration
	// Remaining is what a sealed lease has to wait from the moment it is seen.
	Remaining time.Duration
	// Barred keeps every session out until the wait and BarGrace are over.
	Barred bool
}

// The reasons to refuse a session.
var (
	// ErrNameTaken means that a lease of another instance or boot of that name may still live.
	ErrNameTaken = errors.New("node name is taken: a lease of another instance or boot may still live")
	// ErrStale means that the session number is not above the last one: an older message, or a copy of the data directory.
	ErrStale = errors.New("session number is not above the last one")
	// ErrBarred means that the node is kept out until its pods have moved.
	ErrBarred = errors.New("node is kept out until its pods have moved")
	// ErrNotOpen means that this session's lease is no longer open.
	ErrNotOpen = errors.New("lease is not open for this session")
)
