package spec

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"
)

// LabelTemplateHash is the label of a Deployment's pods that says which template they were made from.
const LabelTemplateHash = "pod-template-hash"

// The defaults of a probe and of a pod, equal to Kubernetes'.
const (
	DefaultPeriod           = 10 * time.Second
	DefaultTimeout          = time.Second
	DefaultFailureThreshold = 3
	DefaultGrace            = 30 * time.Second
	// UnsetGrace is what a pod's TerminationGrace is before defaulting when nobody has set it.
	UnsetGrace = -1
)

// DefaultPod fills in what was left out and applies the probe overrides of the pod's annotation. The findings are about
// that annotation.
func DefaultPod(p *Pod) []Finding {
	if p.Namespace == "" {
		p.Namespace = "default"
	}
	defaultPodSpec(&p.Spec)
	return applyOverrides("metadata.annotations", p.Annotations, &p.Spec)
}

// DefaultDeployment does the same for a Deployment and its template.
func DefaultDeployment(d *Deployment) []Finding {
	if d.Namespace == "" {
		d.Namespace = "default"
	}
	defaultRollout(&d.Spec)
	defaultPodSpec(&d.Spec.Template.Spec)
	return applyOverrides("spec.template.metadata.annotations", d.Spec.Template.Annotations, &d.Spec.Template.Spec)
}

func defaultPodSpec(s *PodSpec) {
	if s.RestartPolicy == "" {
		s.RestartPolicy = RestartAlways
	}
	if s.TerminationGrace == UnsetGrace {
		s.TerminationGrace = DefaultGrace
	}
	if s.DNSPolicy == DNSClusterFirst { // what is left out means the same
		s.DNSPolicy = ""
	}
	for i := range s.Volumes {
		if f := s.Volumes[i].Files; f != nil && f.DefaultMode == DefaultFileMode {
			f.DefaultMode = 0
		}
	}
	defaultPlacement(s)
	for _, c := range s.AllContainers() {
		for j := range c.Ports {
			if c.Ports[j].Protocol == "" {
				c.Ports[j].Protocol = "TCP"
			}
			if s.HostNetwork && c.Ports[j].HostPort == 0 {
				c.Ports[j].HostPort = c.Ports[j].Number
			}
		}
		for _, kind := range ProbeKinds {
			if p := c.Probe(kind); p != nil {
				defaultProbe(p)
			}
		}
		for _, h := range []*Hook{c.PostStart, c.PreStop} {
			if h != nil {
				h.HTTP.setDefaults()
			}
		}
		// A request that was left out is the limit, as in Kubernetes.
		r := &c.Resources
		if r.Requests.MilliCPU == 0 {
			r.Requests.MilliCPU = r.Limits.MilliCPU
		}
		if r.Requests.MemoryBytes == 0 {
			r.Requests.MemoryBytes = r.Limits.MemoryBytes
		}
	}
}

func defaultProbe(p *Probe) {
	if p.Period == 0 {
		p.Period = DefaultPeriod
	}
	if p.Timeout == 0 {
		p.Timeout = DefaultTimeout
	}
	if p.SuccessThreshold == 0 {
		p.SuccessThreshold = 1
	}
	if p.FailureThreshold == 0 {
		p.FailureThreshold = DefaultFailureThreshold
	}
	p.HTTP.setDefaults()
	if p.GRPC != nil && p.GRPC.Mode == ModePlaintext {
		p.GRPC.Mode = ""
	}
}

// applyOverrides gives probes the sub-second times that a manifest's whole seconds cannot say:
// "web.liveness: period=200ms timeout=100ms; web.readiness: initialDelay=50ms".
func applyOverrides(path string, annotations map[string]string, s *PodSpec) []Finding {
	text, ok := annotations[AnnotationProbeOverride]
	if !ok {
		return nil
	}
	path += "[" + AnnotationProbeOverride + "]"
	var findings []Finding
	bad := func(part, why string) {
		findings = append(findings, Finding{Path: path, Kind: Invalid, Value: part, Message: why})
	}
	for part := range strings.SplitSeq(text, ";") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		target, settings, ok := strings.Cut(part, ":")
		name, kind, dot := strings.Cut(strings.TrimSpace(target), ".")
		if !ok || !dot {
			bad(part, "must be CONTAINER.KIND: NAME=DURATION …")
			continue
		}
		p := findProbe(s, name, kind)
		if p == nil {
			bad(part, fmt.Sprintf("there is no %s probe of a container %q", kind, name))
			continue
		}
		for setting := range strings.FieldsSeq(settings) {
			key, value, _ := strings.Cut(setting, "=")
			d, err := time.ParseDuration(value)
			field := map[string]*time.Duration{"period": &p.Period, "timeout": &p.Timeout, "initialDelay": &p.InitialDelay}[key]
			switch {
			case field == nil:
				bad(setting, "must be period, timeout or initialDelay")
			case err != nil:
				bad(setting, "must be a duration such as 200ms")
			default:
				*field = d
			}
		}
	}
	return findings
}

func findProbe(s *PodSpec, container, kind string) *Probe {
	c := s.Container(container)
	if c == nil {
		return nil
	}
	for _, k := range ProbeKinds {
		if k.String() == kind {
			return c.Probe(k)
		}
	}
	return nil
}

// TemplateHash is a short name of a template: equal templates have equal hashes.
func TemplateHash(t *PodTemplate) string {
	h := fnv.New64a()
	if err := json.NewEncoder(h).Encode(t); err != nil {
		panic("a template is plain values: " + err.Error())
	}
	return strconv.FormatUint(h.Sum64()%(1<<45), 36)
}
