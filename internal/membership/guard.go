package membership

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/musterhq/muster/internal/fence"
)

const (
	// guardLimit is how long a guard has to be reached and to answer.
	guardLimit = 400 * time.Millisecond
	// refusedAgain is when a port that refused is tried once more: an agent may be about to start a guard.
	refusedAgain = 200 * time.Millisecond
)

// GuardState is how a node's guard behaved.
type GuardState string

// The guard states.
const (
	// GuardAnswered means that the guard said something that can be understood: the machine lives.
	GuardAnswered GuardState = "answered"
	// GuardRefused means that its port refused twice, 200 ms apart: the kernel lives, and nothing listens.
	GuardRefused GuardState = "refused"
	// GuardSilent means that neither came: a connection alone proves nothing, for a stopped process's socket accepts.
	GuardSilent GuardState = "silent"
)

// GuardSign is what was heard of a node's guard.
type GuardSign struct {
	State GuardState
	// Answer is set when State is GuardAnswered.
	Answer fence.GuardAnswer
}

// AskGuard asks a node's guard at HOST:PORT over TCP. It takes at most 400 ms, and 200 ms more where the port refuses.
func AskGuard(ctx context.Context, address string) GuardSign {
	sign := askGuard(ctx, address)
	if sign.State != GuardRefused {
		return sign
	}
	select {
	case <-ctx.Done():
		return GuardSign{State: GuardSilent}
	case <-time.After(refusedAgain):
		return askGuard(ctx, address)
	}
}

func askGuard(ctx context.Context, address string) GuardSign {
	ctx, cancel := context.WithTimeout(ctx, guardLimit)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return GuardSign{State: GuardRefused}
	}
	if err != nil {
		return GuardSign{State: GuardSilent}
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return GuardSign{State: GuardSilent}
	}
	line, err := bufio.NewReaderSize(io.LimitReader(conn, fence.MaxGuardAnswer), fence.MaxGuardAnswer).ReadString('\n')
	if err != nil {
		return GuardSign{State: GuardSilent}
	}
	answer, err := fence.ParseGuardAnswer(line)
	if err != nil {
		return GuardSign{State: GuardSilent}
	}
	return GuardSign{State: GuardAnswered, Answer: answer}
}
