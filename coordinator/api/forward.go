package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/coordinator/trust"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

// connectTimeout is how long a node may take to connect to its pod: more than its agent gives itself.
const connectTimeout = 15 * time.Second

// PortForwardPod implements PodService: one connection to a port of a pod, on the caller's stream.
func (s *podService) PortForwardPod(stream musterv1.PodService_PortForwardPodServer) error {
	start, err := forwardStart(stream)
	if err != nil {
		return err
	}
	err = s.forward(stream, start)
	trust.Audit(stream.Context(), s.deps.Log, musterv1.PodService_PortForwardPod_FullMethodName, start, err)
	return err
}

func (s *podService) forward(stream musterv1.PodService_PortForwardPodServer, start *musterv1.PortForwardStart) error {
	p, err := s.held(start.GetNamespace(), start.GetName())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	said := make(chan *agentv1.InteractResponse)
	go func() { // ends with the stream, which ends with this handler
		if err := hearForward(ctx, stream, said); err != nil {
			cancel(err)
		}
	}()
	var connected atomic.Bool
	late := time.AfterFunc(connectTimeout, func() {
		if !connected.Load() {
			cancel(status.Errorf(codes.Unavailable, "node %s did not connect within %v: its agent may be of an older muster", p.Node(), connectTimeout))
		}
	})
	defer late.Stop()
	closed := false
	ask := &agentv1.Ask{Question: &agentv1.Ask_Forward{Forward: &agentv1.ForwardAsk{Uid: p.UID, Port: start.GetPort()}}}
	err = s.deps.Sessions.Exec(ctx, p.Node(), ask, said, func(m *agentv1.InteractRequest) error {
		out := &musterv1.PortForwardPodResponse{}
		switch o := m.GetOutput().(type) {
		case *agentv1.InteractRequest_Connected:
			connected.Store(true)
			out.Output = &musterv1.PortForwardPodResponse_Connected{Connected: true}
		case *agentv1.InteractRequest_Stdout:
			out.Output = &musterv1.PortForwardPodResponse_Data{Data: o.Stdout}
		case *agentv1.InteractRequest_StdoutClosed:
			closed = true
			out.Output = &musterv1.PortForwardPodResponse_DataClosed{DataClosed: true}
		case *agentv1.InteractRequest_Error:
			return answered(o.Error)
		default:
			return nil
		}
		return stream.Send(out)
	})
	switch cause := context.Cause(ctx); {
	case cause != nil && stream.Context().Err() == nil:
		return cause
	case err == nil && !closed:
		return status.Errorf(codes.Unavailable, "node %s has ended the connection without a word", p.Node())
	}
	return err
}

// forwardStart is what a call wants, its first message.
func forwardStart(stream musterv1.PodService_PortForwardPodServer) (*musterv1.PortForwardStart, error) {
	type first struct {
		m   *musterv1.PortForwardPodRequest
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
		switch {
		case f.err != nil:
			return nil, f.err
		case start == nil:
			return nil, invalid("start", "required in the first message")
		case start.GetPort() < 1 || start.GetPort() > 65535:
			return nil, invalid("start.port", fmt.Sprintf("%d: must be between 1 and 65535", start.GetPort()))
		}
		return start, nil
	}
}

// hearForward passes on what the caller sends, until there is no more of it.
func hearForward(ctx context.Context, stream musterv1.PodService_PortForwardPodServer, said chan<- *agentv1.InteractResponse) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil // that nothing more is sent is said before
		}
		if err != nil {
			return err
		}
		out := &agentv1.InteractResponse{}
		switch in := m.GetInput().(type) {
		case *musterv1.PortForwardPodRequest_Data:
			if len(in.Data) > maxInput {
				return invalid("data", fmt.Sprintf("%d bytes, at most %d", len(in.Data), maxInput))
			}
			out.Input = &agentv1.InteractResponse_Stdin{Stdin: in.Data}
		case *musterv1.PortForwardPodRequest_DataClosed:
			out.Input = &agentv1.InteractResponse_StdinClosed{StdinClosed: true}
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
