package dispatch

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// configs sends the ConfigMaps and Secrets that the pods of a node use, as far as they have changed since the last time, or all of
// them. A node is told of nobody else's.
func (d *Dispatch) configs(stream agentv1.AgentService_ConnectServer, s *session, v *store.View, pods []fleet.Pod, full bool) error {
	used := map[spec.ConfigKey]bool{}
	for i := range pods {
		for _, k := range pods[i].Configs() {
			used[k] = true
		}
	}
	m := &agentv1.Configs{Full: full}
	size := 0
	flush := func(more bool) error {
		m.More = more
		if !full && len(m.GetObjects())+len(m.GetRemoved()) == 0 {
			return nil
		}
		err := stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Configs{Configs: m}})
		m, size = &agentv1.Configs{Full: full}, 0
		return err
	}
	for k := range s.sentConfigs {
		if _, _, exists := config(v, k); !used[k] || !exists {
			delete(s.sentConfigs, k)
			m.Removed = append(m.Removed, wire.ConfigKeyToProto(k))
		}
	}
	for k := range used {
		values, revision, ok := config(v, k)
		if !ok || s.sentConfigs[k] == revision {
			continue
		}
		s.sentConfigs[k] = revision
		pb := &agentv1.ConfigObject{Key: wire.ConfigKeyToProto(k), Data: values()}
		n := proto.Size(pb)
		if size > 0 && size+n > maxSetBytes {
			if err := flush(true); err != nil {
				return err
			}
		}
		m.Objects, size = append(m.Objects, pb), size+n
	}
	slices.SortFunc(m.GetObjects(), func(a, b *agentv1.ConfigObject) int {
		return cmp.Compare(wire.ConfigKeyFromProto(a.GetKey()).String(), wire.ConfigKeyFromProto(b.GetKey()).String())
	})
	return flush(false)
}

// config finds a ConfigMap or Secret, its values and its revision. A Secret that can't be decrypted is none.
func config(v *store.View, k spec.ConfigKey) (values func() map[string][]byte, revision int64, ok bool) {
	switch k.Kind {
	case spec.KindConfigMap:
		m, revision, ok := store.Get[*spec.ConfigMap](v, store.Key{Family: store.ConfigMaps, Namespace: k.Namespace, Name: k.Name})
		if !ok {
			return nil, 0, false
		}
		return m.Values, revision, true
	case spec.KindSecret:
		s, revision, ok := store.Get[*spec.Secret](v, store.Key{Family: store.Secrets, Namespace: k.Namespace, Name: k.Name})
		if !ok || s.Unreadable != "" {
			return nil, 0, false
		}
		return func() map[string][]byte { return s.Data }, revision, true
	}
	return nil, 0, false
}
