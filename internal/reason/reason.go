// Package reason has the words that errors travel under: the reason of the ErrorInfo in a gRPC status. They are part of
// the API, and are matched on by both ends.
package reason

import (
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
)

// The reasons that more than one side knows.
const (
	NotFound     = "NOT_FOUND"
	Internal     = "INTERNAL"
	Invalid      = "INVALID"
	NotLeader    = "NOT_LEADER"
	NodeTaken    = "NODE_NAME_TAKEN"
	NodeBarred   = "NODE_BARRED"
	LeaseSealed  = "LEASE_SEALED"
	SessionStale = "SESSION_STALE"
	// NotRunning and CannotStart are of commands in containers, CannotConnect of connections to pods.
	NotRunning    = "NOT_RUNNING"
	CannotStart   = "CANNOT_START"
	CannotConnect = "CANNOT_CONNECT"
	Unsupported   = "UNSUPPORTED"
	// DisruptionBudget, NoOtherNode and Finished are of evictions: why a pod stays where it is.
	DisruptionBudget = "DISRUPTION_BUDGET"
	NoOtherNode      = "NO_OTHER_NODE"
	Finished         = "FINISHED"
)

// Domain is the domain of muster's reasons.
const Domain = "muster.dev"

// Of returns the reason that err travelled under, empty when it has none.
func Of(err error) string {
	s, ok := status.FromError(err)
	if !ok {
		return ""
	}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == Domain {
			return info.GetReason()
		}
	}
	return ""
}
