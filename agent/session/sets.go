package session

import (
	"slices"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// Services are where the cluster's names lead, or how that has changed.
type Services struct {
	// Full means that these are all.
	Full bool
	// Services are new or changed ones, with their ready endpoints.
	Services map[spec.ObjectName][]spec.Endpoint
	Removed  []spec.ObjectName
}

// Configs are the ConfigMaps and Secrets that pods here use, or how they have changed.
type Configs struct {
	// Full means that these are all: others that are used do not exist.
	Full bool
	// Values are those of new or changed ones.
	Values  map[spec.ConfigKey]map[string][]byte
	Removed []spec.ConfigKey
}

// servicesParts puts together what comes in parts. The size of a set is bounded by the coordinator's: an agent trusts it with its
// pods.
type servicesParts struct{ set Services }

// gather adds one message, and tells whether it ends a set.
func (p *servicesParts) gather(pb *agentv1.Services) bool {
	if p.set.Services == nil {
		p.set.Services = map[spec.ObjectName][]spec.Endpoint{}
	}
	p.set.Full = pb.GetFull()
	for _, s := range pb.GetServices() {
		name, endpoints := wire.NamedServiceFromProto(s)
		p.set.Services[name] = endpoints
	}
	for _, k := range pb.GetRemoved() {
		name := spec.ObjectName{Namespace: k.GetNamespace(), Name: k.GetName()}
		delete(p.set.Services, name)
		p.set.Removed = append(p.set.Removed, name)
	}
	// One that came back within the set is there.
	p.set.Removed = slices.DeleteFunc(p.set.Removed, func(n spec.ObjectName) bool { _, back := p.set.Services[n]; return back })
	return !pb.GetMore()
}

func (p *servicesParts) take() Services {
	set := p.set
	p.set = Services{}
	return set
}

// configsParts puts together what comes in parts.
type configsParts struct{ set Configs }

// gather adds one message, and tells whether it ends a set.
func (p *configsParts) gather(pb *agentv1.Configs) bool {
	if p.set.Values == nil {
		p.set.Values = map[spec.ConfigKey]map[string][]byte{}
	}
	p.set.Full = pb.GetFull()
	for _, k := range pb.GetRemoved() {
		p.set.Removed = append(p.set.Removed, wire.ConfigKeyFromProto(k))
	}
	for _, o := range pb.GetObjects() {
		values := o.GetData()
		if values == nil {
			values = map[string][]byte{} // it is there, with nothing in it
		}
		p.set.Values[wire.ConfigKeyFromProto(o.GetKey())] = values
	}
	return !pb.GetMore()
}

func (p *configsParts) take() Configs {
	set := p.set
	p.set = Configs{}
	return set
}
