package cli

import (
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/agent/supervisor"
)

const (
	// agentSlack is the timer slack of an agent's threads: no timer of an agent has to be kept better than to a millisecond.
	// Go's own monitor thread sleeps 20 µs at a time while anything goes on; with the usual slack of 50 µs that is a quarter
	// of what an agent uses.
	agentSlack = time.Millisecond
	// envSlack tells the agent which slack it was started with, in ns: its pods have that.
	envSlack = supervisor.EnvSlack
)

// calm gives every thread of this process a coarse timer slack, and returns the one that the process was started with.
// Threads inherit it, so the program is started anew with it: its process id stays. Where that can not be, all stays as it
// was, and 0 is returned.
func calm(w World) time.Duration {
	if given, err := strconv.Atoi(w.Getenv(envSlack)); err == nil && given > 0 {
		return time.Duration(given)
	}
	if w.Exec == nil {
		return 0
	}
	own, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || time.Duration(own) >= agentSlack || unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(agentSlack), 0, 0, 0) != nil {
		return 0
	}
	_ = w.Exec(append(w.Environ(), envSlack+"="+strconv.Itoa(own))) // returns only when it fails
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(own), 0, 0, 0)
	return 0
}

// serverGC is how much the heap of an agent or coordinator may grow between collections, in percent: a calm one leaves little
// garbage, so that it collects seldom, and what it keeps of its probes and pods costs half as much besides itself, not as much again.
const serverGC = 50

// sparing has this process hold less memory for a little more processor time, unless GOGC says otherwise.
func sparing(w World) {
	if w.Getenv("GOGC") == "" {
		debug.SetGCPercent(serverGC)
	}
}
