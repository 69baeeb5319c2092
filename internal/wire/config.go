package wire

import (
	"errors"
	"fmt"
	"maps"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

// ServiceToProto converts a Service.
func ServiceToProto(s *spec.Service) *musterv1.Service {
	pb := &musterv1.Service{Meta: MetaToProto(s.Meta), Spec: &musterv1.ServiceSpec{
		Selector: s.Spec.Selector, ClusterIp: s.Spec.ClusterIP, PublishNotReadyAddresses: s.Spec.PublishNotReady,
	}}
	for _, p := range s.Spec.Ports {
		port := &musterv1.ServicePort{Name: p.Name, Protocol: p.Protocol, Port: p.Port}
		if p.Target != (spec.PortRef{}) {
			port.TargetPort = portToProto(p.Target)
		}
		pb.Spec.Ports = append(pb.Spec.Ports, port)
	}
	return pb
}

// ServiceFromProto is the inverse of ServiceToProto.
func ServiceFromProto(pb *musterv1.Service) (*spec.Service, error) {
	p := &parser{}
	in := pb.GetSpec()
	s := &spec.Service{Meta: p.meta(pb.GetMeta()), Spec: spec.ServiceSpec{
		Selector: in.GetSelector(), ClusterIP: in.GetClusterIp(), PublishNotReady: in.GetPublishNotReadyAddresses(),
	}}
	for _, port := range in.GetPorts() {
		s.Spec.Ports = append(s.Spec.Ports, spec.ServicePort{
			Name: port.GetName(), Protocol: port.GetProtocol(), Port: port.GetPort(), Target: portFromProto(port.GetTargetPort()),
		})
	}
	return s, p.err
}

// EndpointsToProto converts endpoints.
func EndpointsToProto(e *spec.Endpoints) *musterv1.Endpoints {
	return &musterv1.Endpoints{Meta: MetaToProto(e.Meta), Endpoints: endpointsToProto(e.Endpoints)}
}

func endpointsToProto(all []spec.Endpoint) (out []*musterv1.Endpoint) {
	for _, e := range all {
		pb := &musterv1.Endpoint{Ip: e.IP, Ready: e.Ready, Pod: e.Pod, PodUid: e.PodUID, Hostname: e.Hostname, Node: e.Node}
		for _, p := range e.Ports {
			pb.Ports = append(pb.Ports, &musterv1.EndpointPort{Name: p.Name, Protocol: p.Protocol, Port: p.Port})
		}
		out = append(out, pb)
	}
	return out
}

// NamedServiceToProto is what agents are told of a Service: its endpoints without pods and nodes.
func NamedServiceToProto(name spec.ObjectName, ready []spec.Endpoint) *agentv1.NamedService {
	pb := &agentv1.NamedService{Key: &agentv1.ObjectKey{Namespace: name.Namespace, Name: name.Name}, Endpoints: endpointsToProto(ready)}
	for _, e := range pb.GetEndpoints() {
		e.Pod, e.PodUid, e.Node = "", "", ""
	}
	return pb
}

// NamedServiceFromProto is the inverse of NamedServiceToProto.
func NamedServiceFromProto(pb *agentv1.NamedService) (spec.ObjectName, []spec.Endpoint) {
	var all []spec.Endpoint
	for _, e := range pb.GetEndpoints() {
		out := spec.Endpoint{IP: e.GetIp(), Ready: e.GetReady(), Hostname: e.GetHostname()}
		for _, p := range e.GetPorts() {
			out.Ports = append(out.Ports, spec.EndpointPort{Name: p.GetName(), Protocol: p.GetProtocol(), Port: p.GetPort()})
		}
		all = append(all, out)
	}
	return spec.ObjectName{Namespace: pb.GetKey().GetNamespace(), Name: pb.GetKey().GetName()}, all
}

// ConfigMapToProto converts a ConfigMap.
func ConfigMapToProto(m *spec.ConfigMap) *musterv1.ConfigMap {
	return &musterv1.ConfigMap{Meta: MetaToProto(m.Meta), Data: m.Data, BinaryData: m.Binary, Immutable: m.Immutable}
}

// ConfigMapFromProto is the inverse of ConfigMapToProto.
func ConfigMapFromProto(pb *musterv1.ConfigMap) (*spec.ConfigMap, error) {
	p := &parser{}
	m := &spec.ConfigMap{Meta: p.meta(pb.GetMeta()), Data: pb.GetData(), Binary: pb.GetBinaryData(), Immutable: pb.GetImmutable()}
	return m, p.err
}

// SecretToProto converts a Secret, in the clear.
func SecretToProto(s *spec.Secret) *musterv1.Secret {
	pb := &musterv1.Secret{Meta: MetaToProto(s.Meta), Data: s.Data, Type: s.Type, Immutable: s.Immutable}
	if s.Unreadable != "" {
		pb.Meta.Annotations = maps.Clone(pb.GetMeta().GetAnnotations())
		if pb.Meta.Annotations == nil {
			pb.Meta.Annotations = map[string]string{}
		}
		pb.Meta.Annotations[spec.AnnotationUnreadable] = s.Unreadable
	}
	return pb
}

// SecretFromProto is the inverse of SecretToProto.
func SecretFromProto(pb *musterv1.Secret) (*spec.Secret, error) {
	p := &parser{}
	s := &spec.Secret{Meta: p.meta(pb.GetMeta()), Data: pb.GetData(), Type: pb.GetType(), Immutable: pb.GetImmutable()}
	return s, p.err
}

var errNoKey = errors.New("there is no key to decrypt it with")

// Sealer encrypts what is secret for the store. What is sealed for one path opens for no other.
type Sealer interface {
	Seal(path string, plain []byte) (sealed []byte, keyID string, err error)
	Open(path, keyID string, sealed []byte) ([]byte, error)
}

func sealPath(m spec.Meta) string { return "secrets/" + m.Namespace + "/" + m.Name }

// seal is a Secret as it is stored.
func (c Codec) seal(s *spec.Secret) (*musterv1.SealedSecret, error) {
	if c.Secrets == nil {
		return nil, fmt.Errorf("secret %s: there is no key to encrypt it with", s.Key())
	}
	if s.Unreadable != "" {
		return nil, fmt.Errorf("secret %s: what it has could not be decrypted, and is not overwritten with nothing", s.Key())
	}
	pb := SecretToProto(s)
	pb.Meta = nil
	plain, err := deterministic.Marshal(pb)
	if err != nil {
		return nil, err
	}
	sealed, id, err := c.Secrets.Seal(sealPath(s.Meta), plain)
	if err != nil {
		return nil, fmt.Errorf("encrypt secret %s: %w", s.Key(), err)
	}
	return &musterv1.SealedSecret{Meta: MetaToProto(s.Meta), Type: s.Type, Sealed: sealed, KeyId: id}, nil
}

// unseal is the inverse of seal. Where the key is missing, or does not fit, it is a Secret without data that says so: the other
// records of the store are readable all the same.
func (c Codec) unseal(pb *musterv1.SealedSecret) (*spec.Secret, error) {
	p := &parser{}
	meta := p.meta(pb.GetMeta())
	if p.err != nil {
		return nil, p.err
	}
	err := errNoKey
	var plain []byte
	if c.Secrets != nil {
		plain, err = c.Secrets.Open(sealPath(meta), pb.GetKeyId(), pb.GetSealed())
	}
	if err != nil {
		return &spec.Secret{Meta: meta, Type: pb.GetType(), Unreadable: err.Error()}, nil
	}
	out, err := decode(plain, &musterv1.Secret{}, SecretFromProto)
	if err != nil {
		return nil, err
	}
	s := out.(*spec.Secret)
	s.Meta = meta
	return s, nil
}

// ConfigKeyToProto converts the name of a ConfigMap or Secret.
func ConfigKeyToProto(k spec.ConfigKey) *agentv1.ConfigKey {
	return &agentv1.ConfigKey{Kind: k.Kind, Namespace: k.Namespace, Name: k.Name}
}

// ConfigKeyFromProto is the inverse of ConfigKeyToProto.
func ConfigKeyFromProto(pb *agentv1.ConfigKey) spec.ConfigKey {
	return spec.ConfigKey{Kind: pb.GetKind(), Namespace: pb.GetNamespace(), Name: pb.GetName()}
}

func filesToProto(f *spec.Files) *musterv1.FilesVolume {
	if f == nil {
		return nil
	}
	pb := &musterv1.FilesVolume{Kind: f.Kind, DefaultMode: f.DefaultMode}
	for _, s := range f.Sources {
		out := &musterv1.FileSource{Kind: s.Kind, Name: s.Name, Optional: s.Optional}
		for _, i := range s.Items {
			out.Items = append(out.Items, &musterv1.FileItem{
				Key: i.Key, Path: i.Path, Mode: i.Mode, FieldPath: i.FieldPath, Resource: resourceRefToProto(i.Resource),
			})
		}
		pb.Sources = append(pb.Sources, out)
	}
	return pb
}

func filesFromProto(pb *musterv1.FilesVolume) *spec.Files {
	if pb == nil {
		return nil
	}
	f := &spec.Files{Kind: pb.GetKind(), DefaultMode: pb.GetDefaultMode()}
	for _, s := range pb.GetSources() {
		out := spec.FileSource{Kind: s.GetKind(), Name: s.GetName(), Optional: s.GetOptional()}
		for _, i := range s.GetItems() {
			out.Items = append(out.Items, spec.FileItem{
				Key: i.GetKey(), Path: i.GetPath(), Mode: i.Mode, FieldPath: i.GetFieldPath(), Resource: resourceRefFromProto(i.GetResource()),
			})
		}
		f.Sources = append(f.Sources, out)
	}
	return f
}

func resourceRefToProto(r *spec.ResourceRef) *musterv1.ResourceReference {
	if r == nil {
		return nil
	}
	return &musterv1.ResourceReference{Container: r.Container, Resource: r.Resource, DivisorMilli: r.DivisorMilli}
}

func resourceRefFromProto(pb *musterv1.ResourceReference) *spec.ResourceRef {
	if pb == nil {
		return nil
	}
	return &spec.ResourceRef{Container: pb.GetContainer(), Resource: pb.GetResource(), DivisorMilli: pb.GetDivisorMilli()}
}

func envToProto(e *spec.EnvVar) *musterv1.EnvVar {
	pb := &musterv1.EnvVar{Name: e.Name, Value: e.Value, FieldPath: e.FieldPath, Resource: resourceRefToProto(e.Resource)}
	if k := e.Key; k != nil {
		pb.Key = &musterv1.KeyReference{Kind: k.Kind, Name: k.Name, Key: k.Key, Optional: k.Optional}
	}
	return pb
}

func envFromProto(pb *musterv1.EnvVar) spec.EnvVar {
	e := spec.EnvVar{Name: pb.GetName(), Value: pb.GetValue(), FieldPath: pb.GetFieldPath(), Resource: resourceRefFromProto(pb.GetResource())}
	if k := pb.GetKey(); k != nil {
		e.Key = &spec.KeyRef{Kind: k.GetKind(), Name: k.GetName(), Key: k.GetKey(), Optional: k.GetOptional()}
	}
	return e
}

func envFromsToProto(all []spec.EnvFrom) (out []*musterv1.EnvFrom) {
	for _, e := range all {
		out = append(out, &musterv1.EnvFrom{Prefix: e.Prefix, Kind: e.Kind, Name: e.Name, Optional: e.Optional})
	}
	return out
}

func envFromsFromProto(all []*musterv1.EnvFrom) (out []spec.EnvFrom) {
	for _, e := range all {
		out = append(out, spec.EnvFrom{Prefix: e.GetPrefix(), Kind: e.GetKind(), Name: e.GetName(), Optional: e.GetOptional()})
	}
	return out
}

func dnsToProto(d *spec.DNSConfig) *musterv1.DnsConfig {
	if d == nil {
		return nil
	}
	pb := &musterv1.DnsConfig{Nameservers: d.Nameservers, Searches: d.Searches}
	for _, o := range d.Options {
		pb.Options = append(pb.Options, &musterv1.DnsOption{Name: o.Name, Value: o.Value})
	}
	return pb
}

func dnsFromProto(pb *musterv1.DnsConfig) *spec.DNSConfig {
	if pb == nil {
		return nil
	}
	d := &spec.DNSConfig{Nameservers: pb.GetNameservers(), Searches: pb.GetSearches()}
	for _, o := range pb.GetOptions() {
		d.Options = append(d.Options, spec.DNSOption{Name: o.GetName(), Value: o.GetValue()})
	}
	return d
}
