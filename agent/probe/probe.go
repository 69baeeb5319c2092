// Package probe makes one attempt of a probe: a command in the container, a GET, a connection, a call. What an outcome
// counts for is agent/health's to say, and when to ask agent/prober's. The rules are those of docs/probes.md, section 3.
package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/internal/spec"
)

// MaxOutput bounds what is kept of an answer, in bytes (3.2.3, 3.3.9).
const MaxOutput = 10240

// UserAgent is what HTTP and gRPC probes call themselves: people match on the kubelet's.
const UserAgent = "kube-probe/1.37"

// HookUserAgent is what the GETs of hooks call themselves, as the kubelet's do.
const HookUserAgent = "kube-lifecycle/1.37"

// Question is what attempts ask. One that is asked again costs less: it keeps what is the same each time. So it must not change once
// it was asked, nor be asked by two at once.
type Question struct {
	Probe *spec.Probe
	// Address is the pod's; Ports resolve named ports.
	Address string
	Ports   []spec.Port
	// Instance is the container instance to run commands in.
	Instance container.ContainerID

	// prepared is there where it can be asked quickly, once that was judged.
	prepared *prepared
	judged   bool
}

// Answer is what came of it.
type Answer struct {
	// Outcome is never OutcomeInconclusive: only the prober knows whether the agent was late.
	Outcome spec.Outcome
	// Output is what was said, at most MaxOutput bytes; for OutcomeErrored, why the attempt could not be made.
	Output string
	// CPU is the processor time of a command with its children; negative where it is not measured.
	CPU time.Duration
}

// Execer runs commands in containers; container.Runtime does.
type Execer interface {
	Exec(ctx context.Context, id container.ContainerID, cmd container.ExecConfig) (container.ExecResult, error)
}

// Attempter makes attempts. It is safe for concurrent use.
type Attempter struct {
	exec Execer
	http *httpClient
	dial *net.Dialer
	// exact makes every attempt through net and net/http alone, which the quick ones are held to.
	exact   bool
	waiting waiting
}

// New returns an attempter that runs commands through e.
func New(e Execer) *Attempter {
	d := &net.Dialer{Control: lingerZero, KeepAlive: -1}
	client := newHTTPClient(d)
	return &Attempter{exec: e, http: client, dial: d, waiting: waiting{client: client}}
}

// lingerZero lets a socket close by a reset, so that closed probe connections pile up nowhere. A positive linger would
// block a thread at each close.
func lingerZero(_, _ string, c syscall.RawConn) error {
	var err error
	if ctrl := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptLinger(int(fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1, Linger: 0})
	}); ctrl != nil {
		return ctrl
	}
	return err
}

func errored(err error) Answer {
	return Answer{Outcome: spec.OutcomeErrored, Output: err.Error(), CPU: -1}
}

func failed(output string) Answer {
	return Answer{Outcome: spec.OutcomeFailure, Output: clip(output), CPU: -1}
}

func clip(s string) string { return s[:min(len(s), MaxOutput)] }

// Attempt makes one attempt, which takes at most the probe's timeout.
func (a *Attempter) Attempt(ctx context.Context, q *Question) Answer {
	if answer, ok := a.quickly(ctx, q); ok {
		return answer
	}
	switch {
	case q.Probe.Exec != nil:
		return a.execute(ctx, q)
	case q.Probe.HTTP != nil:
		port, err := resolve(q.Probe.HTTP.Port, q.Ports)
		if err != nil {
			return errored(err)
		}
		ctx, cancel := context.WithTimeout(ctx, q.Probe.Timeout)
		defer cancel()
		return a.http.get(ctx, q.Probe.HTTP, hostOf(q.Probe.HTTP.Host, q.Address), port)
	case q.Probe.TCP != nil:
		port, err := resolve(q.Probe.TCP.Port, q.Ports)
		if err != nil {
			return errored(err)
		}
		ctx, cancel := context.WithTimeout(ctx, q.Probe.Timeout)
		defer cancel()
		return a.connect(ctx, net.JoinHostPort(hostOf(q.Probe.TCP.Host, q.Address), strconv.Itoa(port)))
	case q.Probe.GRPC != nil:
		port, err := resolve(spec.PortRef{Number: q.Probe.GRPC.Port}, nil)
		if err != nil {
			return errored(err)
		}
		ctx, cancel := context.WithTimeout(ctx, q.Probe.Timeout)
		defer cancel()
		return a.health(ctx, net.JoinHostPort(q.Address, strconv.Itoa(port)), q.Probe.GRPC, q.Probe.Timeout)
	}
	return errored(errors.New("missing probe handler"))
}

func hostOf(given, pod string) string {
	if given != "" {
		return given
	}
	return pod
}

// resolve finds a port by number or name (3.1.3).
func resolve(p spec.PortRef, ports []spec.Port) (int, error) {
	n := int(p.Number)
	if p.Name != "" {
		found := false
		for i := range ports {
			if ports[i].Name == p.Name {
				n, found = int(ports[i].Number), true
				break
			}
		}
		if !found {
			return 0, fmt.Errorf("port %q not found", p.Name)
		}
	}
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %d", n)
	}
	return n, nil
}

// execute runs a command (3.2).
func (a *Attempter) execute(ctx context.Context, q *Question) Answer {
	command := q.Probe.Exec.Command
	res, err := a.exec.Exec(ctx, q.Instance, container.ExecConfig{Argv: command, Timeout: q.Probe.Timeout, OutputLimit: MaxOutput})
	switch {
	case errors.Is(err, container.ErrTimeout):
		words := strings.Join(command, " ")
		return failed(fmt.Sprintf("command timed out: %q timed out after %v", words, q.Probe.Timeout))
	case err != nil:
		return errored(err)
	}
	answer := Answer{Outcome: spec.OutcomeSuccess, Output: clip(string(res.Stdout) + string(res.Stderr)), CPU: res.CPU}
	if res.ExitCode != 0 {
		answer.Outcome = spec.OutcomeFailure
	}
	return answer
}

// connect opens a connection and closes it (3.4).
func (a *Attempter) connect(ctx context.Context, address string) Answer {
	conn, err := a.dial.DialContext(ctx, "tcp", address)
	if err != nil {
		return failed(err.Error())
	}
	conn.Close()
	return Answer{Outcome: spec.OutcomeSuccess, CPU: -1}
}
