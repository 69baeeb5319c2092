package dispatch

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/coordinator/endpoints"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// maxSetBytes bounds one message of a set that comes in several; what is one object is sent whole.
const maxSetBytes = 1 << 20

// services sends the ready endpoints of the Services that have changed since the last time, or of all.
func (d *Dispatch) services(stream agentv1.AgentService_ConnectServer, s *session, w *endpoints.Watch, full bool) error {
	names, _ := w.Take()
	m := &agentv1.Services{Full: full}
	size := 0
	flush := func(more bool) error {
		m.More = more
		if !full && len(m.GetServices())+len(m.GetRemoved()) == 0 {
			return nil
		}
		err := stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Services{Services: m}})
		m, size = &agentv1.Services{Full: full}, 0
		return err
	}
	for _, name := range names {
		e, ok := d.deps.Endpoints.Get(name)
		if !ok {
			if _, sent := s.sentServices[name]; sent {
				delete(s.sentServices, name)
				m.Removed = append(m.Removed, &agentv1.ObjectKey{Namespace: name.Namespace, Name: name.Name})
			}
			continue
		}
		ready := slices.DeleteFunc(e.Endpoints, func(e spec.Endpoint) bool { return !e.Ready })
		was, sent := s.sentServices[name]
		if sent && slices.EqualFunc(was, ready, spec.Endpoint.Equal) {
			continue
		}
		s.sentServices[name] = ready
		pb := wire.NamedServiceToProto(name, ready)
		n := proto.Size(pb)
		if size > 0 && size+n > maxSetBytes {
			if err := flush(true); err != nil {
				return err
			}
		}
		m.Services, size = append(m.Services, pb), size+n
	}
	return flush(false)
}
