package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/trust"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

const (
	// maxCommand bounds the words of a command, and maxInput a piece of what is written to it, in bytes.
	maxCommand = 4096
	maxInput   = 32 << 10
	// startTimeout is how long a call may take to say what it wants.
	startTimeout = 10 * time.Second
)

// ExecPod implements PodService: a command in a container, on the caller's streams.
func (s *podService) ExecPod(stream musterv1.PodService_ExecPodServer) error {
	start, err := execStart(stream)
	if err != nil {
		return err
	}
	err = s.exec(stream, start)
	trust.Audit(stream.Context(), s.deps.Log, musterv1.PodService_ExecPod_FullMethodName, start, err)
	return err
}

func (s *podService) exec(stream musterv1.PodService_ExecPodServer, start *musterv1.ExecStart) error {
	p, err := s.held(start.GetNamespace(), start.GetName())
	if err != nil {
		return err
	}
	container, err := execContainer(&p, start.GetContainer())
	if err != nil {
		return err
	}
	if err := stream.Send(&musterv1.ExecPodResponse{Output: &musterv1.ExecPodResponse_Container{Container: container}}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	said := make(chan *agentv1.InteractResponse)
	go func() { // ends with the stream, which ends with this handler
		if err := hear(ctx, stream, said); err != nil {
			cancel(err)
		}
	}()
	ask := &agentv1.Ask{Question: &agentv1.Ask_Exec{Exec: &agentv1.ExecAsk{
		Uid: p.UID, Container: container, Command: start.GetCommand(), Stdin: start.GetStdin(), Tty: start.GetTty(), Size: start.GetSize(),
	}}}
	ended := false
	err = s.deps.Sessions.Exec(ctx, p.Node(), ask, said, func(m *agentv1.InteractRequest) error {
		out := &musterv1.ExecPodResponse{}
		switch o := m.GetOutput().(type) {
		case *agentv1.InteractRequest_Stdout:
			out.Output = &musterv1.ExecPodResponse_Stdout{Stdout: o.Stdout}
		case *agentv1.InteractRequest_Stderr:
			out.Output = &musterv1.ExecPodResponse_Stderr{Stderr: o.Stderr}
		case *agentv1.InteractRequest_ExitCode:
			ended = true
			out.Output = &musterv1.ExecPodResponse_ExitCode{ExitCode: o.ExitCode}
		case *agentv1.InteractRequest_Error:
			return answered(o.Error)
		default:
			return nil
		}
		return stream.Send(out)
	})
	switch cause := context.Cause(ctx); {
	case ended:
		return nil
	case cause != nil && stream.Context().Err() == nil:
		return cause
	case err == nil:
		return status.Errorf(codes.Unavailable, "node %s has ended the command without a word", p.Node())
	}
	return err
}

// execStart is what a call wants, its first message.
func execStart(stream musterv1.PodService_ExecPodServer) (*musterv1.ExecStart, error) {
	type first struct {
		m   *musterv1.ExecPodRequest
		err error
	}
	c := make(chan first, 1)
	go func() { // ends with the stream
		m, err := stream.Recv()
		c <- first{m, err}
	}()
	select {
	case <-time.After(startTimeout):
		return nil, status.Errorf(codes.DeadlineExceeded, "nothing was said within %v", startTimeout)
	case f := <-c:
		start := f.m.GetStart()
		switch n := len(start.GetCommand()); {
		case f.err != nil:
			return nil, f.err
		case start == nil:
			return nil, invalid("start", "required in the first message")
		case n == 0 || start.GetCommand()[0] == "":
			return nil, invalid("start.command", "required")
		case n > maxCommand:
			return nil, invalid("start.command", fmt.Sprintf("%d words, at most %d", n, maxCommand))
		}
		return start, nil
	}
}

// execContainer is the container that is named, or else the first.
func execContainer(p *fleet.Pod, name string) (string, error) {
	if name == "" {
		return p.Spec.Containers[0].Name, nil
	}
	if p.Spec.Container(name) == nil {
		var have []string
		for _, c := range p.Spec.AllContainers() {
			have = append(have, c.Name)
		}
		return "", invalid("start.container", fmt.Sprintf("pod %s has no container %q, it has %v", p.Key(), name, have))
	}
	return name, nil
}

// hear passes on what the caller says, until there is no more of it.
func hear(ctx context.Context, stream musterv1.PodService_ExecPodServer, said chan<- *agentv1.InteractResponse) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil // what is written to the command is over when that is said
		}
		if err != nil {
			return err
		}
		out := &agentv1.InteractResponse{}
		switch in := m.GetInput().(type) {
		case *musterv1.ExecPodRequest_Stdin:
			if len(in.Stdin) > maxInput {
				return invalid("stdin", fmt.Sprintf("%d bytes, at most %d", len(in.Stdin), maxInput))
			}
			out.Input = &agentv1.InteractResponse_Stdin{Stdin: in.Stdin}
		case *musterv1.ExecPodRequest_StdinClosed:
			out.Input = &agentv1.InteractResponse_StdinClosed{StdinClosed: true}
		case *musterv1.ExecPodRequest_Size:
			out.Input = &agentv1.InteractResponse_Size{Size: in.Size}
		default:
			return invalid("start", "said twice, or nothing is said")
		}
		select {
		case said <- out:
		case <-ctx.Done():
			return nil
		}
	}
}
