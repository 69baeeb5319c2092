package fence

import (
	"errors"
	"strconv"
	"strings"
)

// MaxGuardAnswer bounds the line that a node's guard answers with, in bytes, its newline included.
const MaxGuardAnswer = 64

// AgentState is what a guard sees of its node's agent.
type AgentState string

// The agent states.
const (
	AgentRunning AgentState = "running"
	AgentStopped AgentState = "stopped"
	AgentDead    AgentState = "dead"
)

// GuardAnswer is the line that a node's guard writes to whoever connects to its port. It is not authenticated.
type GuardAnswer struct {
	// BootID is the kernel's id of the node's boot.
	BootID string
	Agent  AgentState
	// Supervisors is how many supervisors live on the node, stopped ones included.
	Supervisors int
}

var errGuardAnswer = errors.New("not a guard's answer")

// guardAnswerVersion leads the line; a later version only adds words behind.
const guardAnswerVersion = "muster-guard/1"

// String is the line without its newline: "muster-guard/1 BOOT AGENT SUPERVISORS". The boot id is without its dashes.
func (a GuardAnswer) String() string {
	return guardAnswerVersion + " " + strings.ReplaceAll(a.BootID, "-", "") + " " + string(a.Agent) + " " + strconv.Itoa(a.Supervisors)
}

// ParseGuardAnswer reads the line, with its newline or without. BootID comes back without its dashes.
func ParseGuardAnswer(line string) (GuardAnswer, error) {
	if len(line) > MaxGuardAnswer {
		return GuardAnswer{}, errGuardAnswer
	}
	f := strings.Split(strings.TrimSuffix(line, "\n"), " ")
	if len(f) < 4 || f[0] != guardAnswerVersion || f[1] == "" {
		return GuardAnswer{}, errGuardAnswer
	}
	n, err := strconv.Atoi(f[3])
	a := GuardAnswer{BootID: f[1], Agent: AgentState(f[2]), Supervisors: n}
	if err != nil || n < 0 || a.Agent != AgentRunning && a.Agent != AgentStopped && a.Agent != AgentDead {
		return GuardAnswer{}, errGuardAnswer
	}
	return a, nil
}
