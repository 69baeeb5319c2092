package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/internal/reason"
)

// hints are the next steps by the reason that the coordinator gives; reasons are part of the API.
var hints = map[string]string{
	"NOT_FOUND":            `"muster get TYPE -A" lists what there is`,
	"REVISION_CONFLICT":    "it was changed at the same moment; run the command again",
	"OUTCOME_UNKNOWN":      "look whether it was done, then run the command again",
	"STORE_FULL":           "the store takes no writes until it is compacted or given more room",
	"NODE_IN_USE":          "stop its agent and let its pods move first",
	"NOT_BOUND":            `"muster describe pod NAME" says why it is not placed`,
	"NOT_FROZEN":           `there is nothing to resume: "muster status" shows how the cluster is doing`,
	"NOT_HELD":             `there is nothing to resume: "muster get deployments -o wide" shows whose restarts are held`,
	"NODE_UNREACHABLE":     `"muster get nodes" shows where it stands; try again once it is Ready`,
	"SECOND_INSTANCE_RISK": "pass --accept-risk if you know that the old instance is dead",
	reason.NoOtherNode:     "uncordon or add a node, or delete the pod",
	"NOT_RUNNING":          `"muster describe pod NAME" says why it does not run`,
	"CANNOT_CONNECT":       `"muster get pod NAME -o wide" shows whether it is ready`,
	"TOO_MANY_REQUESTS":    "end some of what is under way on that node, or try again later",
	"NOT_LEADER":           "no coordinator leads just now; run the command again",
	"STOPPING":             "the coordinator is stopping; run the command again",
	"TOKEN_USED":           `make another with "muster token create"`,
	"TOKEN_EXPIRED":        `make another with "muster token create"`,
	"TOKEN_UNKNOWN":        `make another with "muster token create"`,
	"DENIED":               "use a context with more rights (--context)",
	"TOO_LARGE":            "make the object smaller",
}

// findings are the field violations of a refused request, one line each.
func findings(err error) []string {
	s, ok := status.FromError(err)
	if !ok {
		return nil
	}
	var lines []string
	for _, d := range s.Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				line := v.GetDescription()
				if v.GetField() != "" {
					line = v.GetField() + ": " + line
				}
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// immutable tells whether a write was refused because it would change what cannot change, and for no other reason. Other
// rules of a pod's spec forbid fields too: a replacement would break them just so.
func immutable(err error) bool {
	s, ok := status.FromError(err)
	if !ok || s.Code() != codes.InvalidArgument {
		return false
	}
	found := false
	for _, d := range s.Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				found = true
				inSpec := v.GetField() == "spec" || strings.HasPrefix(v.GetField(), "spec.")
				pod := inSpec && v.GetReason() == "Forbidden" && strings.Contains(v.GetDescription(), "cannot change")
				deployment := v.GetField() == "spec.selector" && strings.Contains(v.GetDescription(), "immutable")
				if !pod && !deployment {
					return false
				}
			}
		}
	}
	return found
}

// explain is what a person reads of err: what went wrong, and the next step.
func explain(err error) string {
	s, ok := status.FromError(err)
	if !ok {
		if errors.Is(err, context.DeadlineExceeded) {
			return context.DeadlineExceeded.Error() + ": pass a longer --timeout"
		}
		if errors.Is(err, syscall.EADDRINUSE) {
			return err.Error() + ": stop what has it, or choose another port (0: any free one)"
		}
		return err.Error()
	}
	msg := err.Error()
	if lines := findings(err); len(lines) > 0 {
		return strings.Join(lines, "\n")
	}
	if r := reason.Of(err); r != "" {
		if hint := hints[r]; hint != "" {
			return msg + ": " + hint
		}
		return msg
	}
	server := "the coordinator"
	if e := (*serverError)(nil); errors.As(err, &e) {
		server = fmt.Sprintf("%s (context %q)", e.target.Server, e.target.Name)
	}
	switch s.Code() {
	case codes.Unavailable:
		if strings.Contains(s.Message(), "handshake failed") || strings.Contains(s.Message(), "tls:") {
			return fmt.Sprintf("%s does not accept this context's certificates, or is another cluster (%s): take the client.yaml of its data directory", server, transportCause(s.Message()))
		}
		return fmt.Sprintf(`cannot reach %s: %s: is it running? start one with "muster dev", or pass --context`, server, transportCause(s.Message()))
	case codes.DeadlineExceeded:
		return fmt.Sprintf("%s did not answer in time: try again, or pass a longer --timeout", server)
	case codes.Unimplemented:
		return fmt.Sprintf("%s does not know this call (%s): it is of another version than this client (%s)", server, s.Message(), binaryVersion())
	case codes.Unauthenticated, codes.PermissionDenied:
		return msg + ": use a context with more rights (--context)"
	case codes.Internal, codes.Unknown:
		return fmt.Sprintf("%s failed: %s: its log has the cause", server, msg)
	}
	return msg
}

// transportCause is the last part of gRPC's words about a connection, the one that says why.
func transportCause(msg string) string {
	parts := strings.Split(strings.Trim(msg, `"`), ": ")
	return strings.Trim(parts[len(parts)-1], `"`)
}

// retryable tells whether a read may be tried again: the coordinator was away for a moment, or asked for it.
func retryable(err error) bool {
	return errors.Is(err, io.EOF) || isCode(err, codes.Unavailable) || slices.Contains([]string{"WATCH_TOO_SLOW", "REVISION_COMPACTED"}, reason.Of(err))
}
