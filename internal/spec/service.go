package spec

import (
	"fmt"
	"maps"
	"slices"
)

// ClusterIPNone is the ClusterIP of a Service that says itself that it has none.
const ClusterIPNone = "None"

// Service gives the ready pods that it selects a name.
type Service struct {
	Meta
	Spec ServiceSpec
}

// ServiceSpec is what the user wants.
type ServiceSpec struct {
	// Selector are labels that the pods carry; empty selects none.
	Selector map[string]string
	// Ports are at most 100, and at least one unless ClusterIP is None.
	Ports []ServicePort
	// ClusterIP is empty or None; either way there is no virtual address.
	ClusterIP string
	// PublishNotReady counts pods that are not ready, and those that are being deleted, as ready.
	PublishNotReady bool
}

// ServicePort is a port of a Service.
type ServicePort struct {
	// Name is a DNS-1123 label, unique in the Service; it may be empty where there is one port only.
	Name string
	// Protocol is TCP (the default) or UDP.
	Protocol string
	// Port is 1 to 65535.
	Port int32
	// Target is the pods' port; by default Port.
	Target PortRef
}

// Endpoints are the pods behind one Service. They are never stored: coordinator/endpoints works them out.
type Endpoints struct {
	// Meta has the Service's name, namespace and labels, and the newest revision that they follow from.
	Meta
	// Endpoints are sorted by address.
	Endpoints []Endpoint
}

// Endpoint is one pod behind a Service.
type Endpoint struct {
	IP string
	// Ready is whether clients should be led here.
	Ready bool
	// Pod, PodUID and Hostname are the pod's, Node is where it runs.
	Pod, PodUID, Hostname, Node string
	// Ports are those of the Service that the pod has.
	Ports []EndpointPort
}

// EndpointPort is a port of a Service as a pod has it.
type EndpointPort struct {
	Name, Protocol string
	Port           int32
}

// Equal tells whether two endpoints say the same.
func (e Endpoint) Equal(o Endpoint) bool {
	return slices.Equal(e.Ports, o.Ports) && e.IP == o.IP && e.Ready == o.Ready && e.Pod == o.Pod && e.PodUID == o.PodUID && e.Hostname == o.Hostname && e.Node == o.Node
}

// Clone returns a copy that shares nothing with s.
func (s *Service) Clone() *Service {
	out := *s
	out.Meta = s.clone()
	out.Spec.Selector, out.Spec.Ports = maps.Clone(s.Spec.Selector), slices.Clone(s.Spec.Ports)
	return &out
}

// DefaultService fills in what was left out.
func DefaultService(s *Service) {
	if s.Namespace == "" {
		s.Namespace = "default"
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = "TCP"
		}
		if p.Target == (PortRef{}) {
			p.Target.Number = p.Port
		}
	}
}

// ValidateService finds what is wrong with a Service whose defaults are filled in.
func ValidateService(s *Service) []Finding {
	c := &checker{}
	c.meta("metadata", &s.Meta, true)
	if why := label(s.Name); s.Name != "" && why != "" {
		c.add("metadata.name", Invalid, s.Name, why)
	} else if s.Name != "" && s.Name[0] >= '0' && s.Name[0] <= '9' {
		c.add("metadata.name", Invalid, s.Name, "the name of a Service must start with a letter, as it is a name in DNS")
	}
	c.labels("spec.selector", s.Spec.Selector)
	switch s.Spec.ClusterIP {
	case "", ClusterIPNone:
	default:
		c.add("spec.clusterIP", NotSupported, s.Spec.ClusterIP, `supported values: "", "None"`)
	}
	if len(s.Spec.Ports) == 0 && s.Spec.ClusterIP != ClusterIPNone {
		c.add("spec.ports", Required, nil, "")
	}
	c.atMost("spec.ports", len(s.Spec.Ports), maxPorts)
	type number struct {
		protocol string
		port     int32
	}
	names, numbers := map[string]bool{}, map[number]bool{}
	for i, p := range s.Spec.Ports {
		at := fmt.Sprintf("spec.ports[%d]", i)
		if p.Name != "" || len(s.Spec.Ports) > 1 {
			c.name(at+".name", p.Name, names)
		}
		if p.Port < 1 || p.Port > 65535 {
			c.add(at+".port", Invalid, p.Port, "must be between 1 and 65535, inclusive")
		}
		c.protocol(at+".protocol", p.Protocol)
		c.portRef(at+".targetPort", p.Target)
		if n := (number{p.Protocol, p.Port}); numbers[n] {
			c.add(at, Duplicate, fmt.Sprintf("%s/%d", p.Protocol, p.Port), "")
		} else {
			numbers[n] = true
		}
		if p.Target.Name == "" && p.Target.Number != p.Port {
			c.warn(at+".targetPort", fmt.Sprintf("clients have to dial port %d: there is no virtual address that would turn port %d into it",
				p.Target.Number, p.Port))
		}
	}
	if len(s.Spec.Selector) == 0 {
		c.warn("spec.selector", "without a selector the Service has no endpoints")
	}
	return c.findings
}

func (c *checker) warn(path, message string) {
	c.findings = append(c.findings, Finding{Path: path, Message: message, Warning: true})
}

func (c *checker) protocol(at, protocol string) {
	switch protocol {
	case "TCP", "UDP":
	case "SCTP":
		c.add(at, NotBuilt, protocol, "")
	default:
		c.add(at, NotSupported, protocol, `supported values: "TCP", "UDP"`)
	}
}

// PortOf finds a Service's port in a pod; false where the pod has no port of that name.
func (s *PodSpec) PortOf(p *ServicePort) (int32, bool) {
	if p.Target.Name == "" {
		return p.Target.Number, true
	}
	for _, c := range s.AllContainers() {
		for _, port := range c.Ports {
			if port.Name == p.Target.Name && port.Protocol == p.Protocol {
				return port.Number, true
			}
		}
	}
	return 0, false
}
