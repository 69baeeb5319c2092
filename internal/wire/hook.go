package wire

import (
	"google.golang.org/protobuf/types/known/durationpb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

func httpToProto(a *spec.HTTPAction) *musterv1.HttpGetAction {
	pb := &musterv1.HttpGetAction{Scheme: a.Scheme, Host: a.Host, Port: portToProto(a.Port), Path: a.Path, Protocol: a.Protocol}
	for _, h := range a.Headers {
		pb.Headers = append(pb.Headers, &musterv1.HttpHeader{Name: h.Name, Value: h.Value})
	}
	return pb
}

func httpFromProto(pb *musterv1.HttpGetAction) *spec.HTTPAction {
	a := &spec.HTTPAction{Scheme: pb.GetScheme(), Host: pb.GetHost(), Port: portFromProto(pb.GetPort()), Path: pb.GetPath(), Protocol: pb.GetProtocol()}
	for _, h := range pb.GetHeaders() {
		a.Headers = append(a.Headers, spec.Header{Name: h.GetName(), Value: h.GetValue()})
	}
	return a
}

func lifecycleToProto(c *spec.Container) *musterv1.Lifecycle {
	if c.PostStart == nil && c.PreStop == nil {
		return nil
	}
	return &musterv1.Lifecycle{PostStart: hookToProto(c.PostStart), PreStop: hookToProto(c.PreStop)}
}

func hookToProto(h *spec.Hook) *musterv1.Hook {
	if h == nil {
		return nil
	}
	pb := &musterv1.Hook{}
	switch {
	case h.Exec != nil:
		pb.Handler = &musterv1.Hook_Exec{Exec: &musterv1.ExecAction{Command: h.Exec.Command}}
	case h.HTTP != nil:
		pb.Handler = &musterv1.Hook_HttpGet{HttpGet: httpToProto(h.HTTP)}
	case h.Sleep != nil:
		pb.Handler = &musterv1.Hook_Sleep{Sleep: &musterv1.SleepAction{Duration: durationpb.New(h.Sleep.Duration)}}
	}
	return pb
}

func (p *parser) hook(field string, pb *musterv1.Hook) *spec.Hook {
	if pb == nil {
		return nil
	}
	out := &spec.Hook{}
	switch h := pb.GetHandler().(type) {
	case *musterv1.Hook_Exec:
		out.Exec = &spec.ExecAction{Command: h.Exec.GetCommand()}
	case *musterv1.Hook_HttpGet:
		out.HTTP = httpFromProto(h.HttpGet)
	case *musterv1.Hook_Sleep:
		out.Sleep = &spec.SleepAction{Duration: p.duration(field+".sleep.duration", h.Sleep.GetDuration())}
	}
	return out
}
