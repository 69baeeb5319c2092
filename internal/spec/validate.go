package spec

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"
)

// FindingKind is what is wrong with a field, in Kubernetes' words where it has one.
type FindingKind string

// The kinds of findings.
const (
	Required     FindingKind = "Required"
	Invalid      FindingKind = "Invalid"
	NotSupported FindingKind = "NotSupported"
	Forbidden    FindingKind = "Forbidden"
	Duplicate    FindingKind = "Duplicate"
	TooLong      FindingKind = "TooLong"
	TooMany      FindingKind = "TooMany"
	NotFound     FindingKind = "NotFound"
	// NotBuilt is what Kubernetes knows and muster does not yet.
	NotBuilt FindingKind = "NotBuilt"
)

// Finding is one thing that a person should know of an object: an error unless Warning is set.
type Finding struct {
	// Path is the field as Kubernetes writes it: spec.containers[0].livenessProbe.periodSeconds.
	Path    string
	Kind    FindingKind
	Value   any
	Message string
	Warning bool
}

// Detail is the finding without its path.
func (f *Finding) Detail() string {
	words := map[FindingKind]string{
		Required: "Required value", Invalid: "Invalid value", NotSupported: "Unsupported value", Forbidden: "Forbidden",
		Duplicate: "Duplicate value", TooLong: "Too long", TooMany: "Too many", NotFound: "Not found", NotBuilt: "Not built yet",
	}[f.Kind]
	if f.Warning {
		words = "Warning"
	}
	if f.Value != nil {
		switch v := f.Value.(type) {
		case string:
			words += fmt.Sprintf(": %q", v)
		default:
			words += fmt.Sprintf(": %v", v)
		}
	}
	if f.Message != "" {
		words += ": " + f.Message
	}
	return words
}

// String is the path and the detail, on one line.
func (f *Finding) String() string {
	if f.Path == "" {
		return f.Detail()
	}
	return f.Path + ": " + f.Detail()
}

// Split parts warnings, as text, from errors.
func Split(findings []Finding) (warnings []string, errs []Finding) {
	for i := range findings {
		if findings[i].Warning {
			warnings = append(warnings, findings[i].Path+": "+findings[i].Message)
		} else {
			errs = append(errs, findings[i])
		}
	}
	return warnings, errs
}

// Options are the rules that a coordinator's flags set.
type Options struct {
	// AllowProbeHosts are the addresses that a probe may name besides the pod's own and loopback.
	AllowProbeHosts []netip.Prefix
}

// Bounds of an object.
const (
	// MaxContainers bounds a pod's init and regular containers together.
	MaxContainers = 64
	maxVolumes    = 64
	maxMounts     = 64
	maxEnv        = 1000
	maxPorts      = 100
	// maxHostPorts bounds the ports of the node that one pod holds.
	maxHostPorts    = 256
	maxRestartRules = 20
	maxExitCodes    = 255
	maxHeaders      = 64
	maxReplicas     = 10000
	maxAnnotations  = 256 << 10
	minPeriod       = 100 * time.Millisecond
	minTimeout      = time.Millisecond
)

// checker collects findings.
type checker struct {
	opts     Options
	findings []Finding
}

func (c *checker) add(path string, kind FindingKind, value any, message string) {
	c.findings = append(c.findings, Finding{Path: path, Kind: kind, Value: value, Message: message})
}

// atMost finds a list that is longer than it may be.
func (c *checker) atMost(path string, n, most int) {
	if n > most {
		c.add(path, TooMany, n, fmt.Sprintf("at most %d", most))
	}
}

// ValidatePod finds what is wrong with a pod whose defaults are filled in.
func ValidatePod(p *Pod, opts Options) []Finding {
	c := &checker{opts: opts}
	c.meta("metadata", &p.Meta, true)
	c.failover("metadata.annotations", p.Annotations)
	if p.Owner == nil {
		c.noRestartGuard("metadata.annotations", p.Annotations)
	}
	c.podSpec("spec", &p.Spec)
	if p.Spec.HostPID && p.FailoverClass() == Fenced {
		c.findings = append(c.findings, Finding{Path: "spec.hostPID", Warning: true, Message: "the fence is best-effort: at the end of the node's " +
			"lease the kernel kills the containers' main processes, and what they have detached is found and killed soon after"})
	}
	return c.findings
}

// ValidateDeployment finds what is wrong with a Deployment whose defaults are filled in.
func ValidateDeployment(d *Deployment, opts Options) []Finding {
	c := &checker{opts: opts}
	c.meta("metadata", &d.Meta, true)
	c.restartGuard("metadata.annotations", d.Annotations)
	if n := d.Spec.Replicas; n < 0 {
		c.add("spec.replicas", Invalid, n, "must be greater than or equal to 0")
	} else if n > maxReplicas {
		c.add("spec.replicas", Invalid, n, fmt.Sprintf("must be at most %d", maxReplicas))
	}
	c.rollout("spec", &d.Spec)
	t := &d.Spec.Template
	c.selector("spec.selector", &d.Spec.Selector)
	if d.Spec.Selector.Empty() {
		c.add("spec.selector", Required, nil, "")
	} else if !d.Spec.Selector.Matches(t.Labels) {
		c.add("spec.template.metadata.labels", Invalid, nil, "`selector` does not match template `labels`")
	}
	c.labels("spec.template.metadata.labels", t.Labels)
	c.annotations("spec.template.metadata.annotations", t.Annotations)
	c.failover("spec.template.metadata.annotations", t.Annotations)
	c.noRestartGuard("spec.template.metadata.annotations", t.Annotations)
	if p := t.Spec.RestartPolicy; p != RestartAlways {
		c.add("spec.template.spec.restartPolicy", NotSupported, string(p), `supported values: "Always"`)
	}
	c.podSpec("spec.template.spec", &t.Spec)
	return c.findings
}

// ValidateNode finds what is wrong with what a user says of a node.
func ValidateNode(n *Node) []Finding {
	c := &checker{}
	c.meta("metadata", &n.Meta, false)
	c.taints("spec.taints", n.Taints)
	return c.findings
}

// ValidateDeploymentUpdate finds changes of what cannot change in a Deployment that exists: its selector.
func ValidateDeploymentUpdate(old, d *Deployment) []Finding {
	hash := func(s Selector) string {
		return TemplateHash(&PodTemplate{Labels: s.Labels, Annotations: map[string]string{"expressions": fmt.Sprint(s.Expressions)}})
	}
	if hash(old.Spec.Selector) != hash(d.Spec.Selector) {
		return []Finding{{Path: "spec.selector", Kind: Invalid, Message: "field is immutable; delete it first, or apply with --replace"}}
	}
	return nil
}

func (c *checker) meta(at string, m *Meta, namespaced bool) {
	if m.Name == "" {
		c.add(at+".name", Required, nil, "name or generateName is required")
	} else if why := subdomain(m.Name); why != "" {
		c.add(at+".name", Invalid, m.Name, why)
	}
	if namespaced {
		if why := label(m.Namespace); why != "" {
			c.add(at+".namespace", Invalid, m.Namespace, why)
		}
	}
	c.labels(at+".labels", m.Labels)
	c.annotations(at+".annotations", m.Annotations)
}

func (c *checker) labels(at string, labels map[string]string) {
	for _, k := range sortedKeys(labels) {
		if why := labelKey(k); why != "" {
			c.add(at, Invalid, k, why)
		}
		if why := labelValue(labels[k]); why != "" {
			c.add(at, Invalid, labels[k], why)
		}
	}
}

func (c *checker) annotations(at string, annotations map[string]string) {
	size := 0
	for _, k := range sortedKeys(annotations) {
		size += len(k) + len(annotations[k])
		if why := labelKey(strings.ToLower(k)); why != "" {
			c.add(at, Invalid, k, why)
		}
	}
	if size > maxAnnotations {
		c.add(at, TooLong, size, fmt.Sprintf("at most %d bytes", maxAnnotations))
	}
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (c *checker) failover(at string, annotations map[string]string) {
	switch v, ok := annotations[AnnotationFailover]; {
	case !ok:
	case v != string(Fast) && v != string(Fenced) && v != string(Stay):
		c.add(at+"["+AnnotationFailover+"]", NotSupported, v, `supported values: "fast", "fenced", "stay"`)
	}
}

func (c *checker) selector(at string, s *Selector) {
	c.labels(at+".matchLabels", s.Labels)
	for i, e := range s.Expressions {
		p := fmt.Sprintf("%s.matchExpressions[%d]", at, i)
		if why := labelKey(e.Key); why != "" {
			c.add(p+".key", Invalid, e.Key, why)
		}
		switch e.Operator {
		case In, NotIn:
			if len(e.Values) == 0 {
				c.add(p+".values", Required, nil, "must be specified when `operator` is 'In' or 'NotIn'")
			}
		case Exists, DoesNotExist:
			if len(e.Values) > 0 {
				c.add(p+".values", Forbidden, nil, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
			}
		default:
			c.add(p+".operator", Invalid, string(e.Operator), "not a valid selector operator")
		}
	}
}

func (c *checker) podSpec(at string, s *PodSpec) {
	switch s.RestartPolicy {
	case RestartAlways, RestartOnFailure, RestartNever:
	default:
		c.add(at+".restartPolicy", NotSupported, string(s.RestartPolicy), `supported values: "Always", "OnFailure", "Never"`)
	}
	if s.TerminationGrace < 0 {
		c.add(at+".terminationGracePeriodSeconds", Invalid, int64(s.TerminationGrace/time.Second), "must be greater than or equal to 0")
	}
	if s.ShareProcessNamespace && s.HostPID {
		c.add(at+".shareProcessNamespace", Invalid, true, "must not be set together with hostPID")
	}
	c.labels(at+".nodeSelector", s.NodeSelector)
	c.placement(at, s)
	if s.Hostname != "" {
		if why := label(s.Hostname); why != "" {
			c.add(at+".hostname", Invalid, s.Hostname, why)
		}
	}
	for i, g := range s.ReadinessGates {
		if why := labelKey(strings.ToLower(g)); why != "" {
			c.add(fmt.Sprintf("%s.readinessGates[%d].conditionType", at, i), Invalid, g, why)
		}
	}
	if len(s.ReadinessGates) > 0 {
		c.findings = append(c.findings, Finding{Path: at + ".readinessGates", Warning: true,
			Message: "nothing sets conditions of pods from outside yet: the pod will not be Ready"})
	}
	c.podSecurity(at+".securityContext", &s.Security)
	volumes := map[string]*Volume{}
	c.atMost(at+".volumes", len(s.Volumes), maxVolumes)
	for i := range s.Volumes {
		c.volume(fmt.Sprintf("%s.volumes[%d]", at, i), &s.Volumes[i], volumes)
	}
	if len(s.Containers) == 0 {
		c.add(at+".containers", Required, nil, "")
	}
	c.atMost(at+".containers", len(s.Containers), MaxContainers)
	if len(s.Containers) <= MaxContainers {
		c.atMost(at+".initContainers", len(s.InitContainers), MaxContainers-len(s.Containers))
	}
	names := map[string]bool{}
	for i := range s.Containers {
		p := fmt.Sprintf("%s.containers[%d]", at, i)
		c.name(p+".name", s.Containers[i].Name, names)
		c.container(p, &s.Containers[i], volumes)
		c.restart(p, &s.Containers[i])
		c.probesAndHooks(p, &s.Containers[i], s.TerminationGrace)
	}
	for i := range s.InitContainers {
		k, p := &s.InitContainers[i], fmt.Sprintf("%s.initContainers[%d]", at, i)
		c.name(p+".name", k.Name, names)
		c.container(p, k, volumes)
		if len(k.RestartRules) > 0 && k.RestartPolicy == "" {
			c.add(p+".restartPolicy", Required, nil, "must specify restartPolicy when restart rules are used")
		} else {
			c.restart(p, k)
		}
		if k.Sidecar() {
			c.probesAndHooks(p, k, s.TerminationGrace)
			continue
		}
		// What must not be there is not looked into.
		for _, kind := range ProbeKinds {
			if k.Probe(kind) != nil {
				c.add(p+"."+kind.String()+"Probe", Forbidden, nil, "may not be set for init containers without restartPolicy=Always")
			}
		}
		if k.PostStart != nil || k.PreStop != nil {
			c.add(p+".lifecycle", Forbidden, nil, "may not be set for init containers without restartPolicy=Always")
		}
	}
	c.hostPorts(at, s)
	c.dns(at, s)
}

// name checks a label-like name that must be unique among seen.
func (c *checker) name(at, name string, seen map[string]bool) {
	switch why := label(name); {
	case name == "":
		c.add(at, Required, nil, "")
	case why != "":
		c.add(at, Invalid, name, why)
	case seen[name]:
		c.add(at, Duplicate, name, "")
	}
	seen[name] = true
}

func (c *checker) volume(at string, v *Volume, seen map[string]*Volume) {
	names := map[string]bool{}
	for n := range seen {
		names[n] = true
	}
	c.name(at+".name", v.Name, names)
	seen[v.Name] = v
	switch {
	case v.Files != nil:
		if v.HostPath != "" || v.EmptyDir != nil {
			c.add(at+"."+v.Files.Kind, Forbidden, nil, "may not specify more than 1 volume type")
		}
		c.files(at, v.Files)
	case v.EmptyDir != nil:
		if v.HostPath != "" {
			c.add(at+".hostPath", Forbidden, nil, "may not specify more than 1 volume type")
		}
		if v.EmptyDir.SizeLimit < 0 {
			c.add(at+".emptyDir.sizeLimit", Invalid, v.EmptyDir.SizeLimit, "must be greater than or equal to 0")
		}
	case v.HostPath == "":
		c.add(at+".hostPath.path", Required, nil, "")
	case !path.IsAbs(v.HostPath):
		c.add(at+".hostPath.path", Invalid, v.HostPath, "must be an absolute path")
	case slices.Contains(strings.Split(v.HostPath, "/"), ".."):
		c.add(at+".hostPath.path", Invalid, v.HostPath, "must not contain '..'")
	}
	if v.HostPath == "" {
		return
	}
	switch v.HostPathType {
	case "", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket", "CharDevice", "BlockDevice":
	default:
		c.add(at+".hostPath.type", NotSupported, v.HostPathType,
			`supported values: "", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket", "CharDevice", "BlockDevice"`)
	}
}

func (c *checker) probesAndHooks(at string, k *Container, grace time.Duration) {
	for _, kind := range ProbeKinds {
		if p := k.Probe(kind); p != nil {
			c.probe(at+"."+kind.String()+"Probe", kind, p)
		}
	}
	c.hooks(at+".lifecycle", k, grace)
}

func (c *checker) container(at string, k *Container, volumes map[string]*Volume) {
	if strings.TrimSpace(k.Image) != k.Image {
		c.add(at+".image", Invalid, k.Image, "must not have leading or trailing whitespace")
	}
	if len(k.Command) == 0 {
		if k.Image != "" {
			c.add(at+".command", NotBuilt, nil, "the process runtime has no images, so it can't know the entry point of one: give the command")
		} else {
			c.add(at+".command", Required, nil, "")
		}
	}
	if k.WorkingDir != "" && !path.IsAbs(k.WorkingDir) {
		c.add(at+".workingDir", Invalid, k.WorkingDir, "must be an absolute path")
	}
	c.atMost(at+".envFrom", len(k.EnvFrom), maxEnvFrom)
	for i := range k.EnvFrom {
		c.envFrom(fmt.Sprintf("%s.envFrom[%d]", at, i), &k.EnvFrom[i])
	}
	c.atMost(at+".env", len(k.Env), maxEnv)
	for i, e := range k.Env {
		c.env(fmt.Sprintf("%s.env[%d]", at, i), &e)
	}
	c.atMost(at+".ports", len(k.Ports), maxPorts)
	ports := map[string]bool{}
	for i := range k.Ports {
		c.port(fmt.Sprintf("%s.ports[%d]", at, i), &k.Ports[i], ports)
	}
	c.resources(at+".resources", &k.Resources)
	c.atMost(at+".volumeMounts", len(k.Mounts), maxMounts)
	paths := map[string]bool{}
	for i := range k.Mounts {
		c.mount(fmt.Sprintf("%s.volumeMounts[%d]", at, i), &k.Mounts[i], volumes, paths)
	}
	c.containerSecurity(at+".securityContext", &k.Security)
}

func (c *checker) env(at string, e *EnvVar) {
	switch why := envName(e.Name); {
	case e.Name == "":
		c.add(at+".name", Required, nil, "")
	case why != "":
		c.add(at+".name", Invalid, e.Name, why)
	}
	sources := 0
	for _, set := range []bool{e.FieldPath != "", e.Key != nil, e.Resource != nil} {
		if set {
			sources++
		}
	}
	switch {
	case sources == 0:
		return
	case sources > 1:
		c.add(at+".valueFrom", Invalid, "", "may not have more than one field specified at a time")
	case e.Value != "":
		c.add(at+".valueFrom", Invalid, "", "may not be specified when `value` is not empty")
	}
	if e.Key != nil {
		c.keyRef(at+".valueFrom", e.Key)
	}
	if e.Resource != nil {
		c.resourceRef(at+".valueFrom", e.Resource, true)
	}
	if e.FieldPath != "" {
		c.fieldPath(at+".valueFrom.fieldRef", e.FieldPath, []string{"metadata.name", "metadata.namespace", "metadata.uid",
			"spec.nodeName", "status.podIP", "status.hostIP"}, []string{"metadata.labels", "metadata.annotations"})
	}
}

// fieldPath checks a reference to a field of the pod: one of those named, or a label or an annotation by its key. others are
// fields too, only not here.
func (c *checker) fieldPath(at, p string, named, others []string) {
	if slices.Contains(named, p) {
		return
	}
	for _, prefix := range []string{"metadata.labels['", "metadata.annotations['"} {
		key, ok := strings.CutPrefix(p, prefix)
		if key, ok2 := strings.CutSuffix(key, "']"); ok && ok2 {
			if prefix == "metadata.annotations['" {
				key = strings.ToLower(key)
			}
			if why := labelKey(key); why != "" {
				c.add(at, Invalid, key, why)
			}
			return
		}
	}
	kind := Invalid
	switch {
	case p == "spec.serviceAccountName", p == "status.hostIPs", p == "status.podIPs":
		kind = NotBuilt
	case slices.Contains(others, p):
		kind = NotSupported
	}
	c.add(at+".fieldPath", kind, p, `supported values: "`+strings.Join(named, `", "`)+`", "metadata.labels['KEY']", "metadata.annotations['KEY']"`)
}

func (c *checker) port(at string, p *Port, names map[string]bool) {
	if p.Name != "" {
		if why := portName(p.Name); why != "" {
			c.add(at+".name", Invalid, p.Name, why)
		} else if names[p.Name] {
			c.add(at+".name", Duplicate, p.Name, "")
		}
		names[p.Name] = true
	}
	if p.Number == 0 {
		c.add(at+".containerPort", Required, nil, "")
	} else if p.Number < 1 || p.Number > 65535 {
		c.add(at+".containerPort", Invalid, p.Number, "must be between 1 and 65535, inclusive")
	}
	c.protocol(at+".protocol", p.Protocol)
	if p.HostPort != 0 && (p.HostPort < 1 || p.HostPort > 65535) {
		c.add(at+".hostPort", Invalid, p.HostPort, "must be between 1 and 65535, inclusive")
	}
}

// hostPorts checks the pod's ports of its node together. Init containers run at other times than the regular ones, and only
// what they declare themselves is compared.
func (c *checker) hostPorts(at string, s *PodSpec) {
	all, regular := map[HostPort]bool{}, map[HostPort]bool{}
	s.each(at, func(path string, k *Container) {
		held, initial := regular, strings.HasPrefix(path, at+".initContainers")
		if initial {
			held = map[HostPort]bool{}
		}
		for i, p := range k.Ports {
			path := fmt.Sprintf("%s.ports[%d]", path, i)
			if p.HostPort == 0 {
				continue
			}
			port := HostPort{Protocol: p.Protocol, Number: p.HostPort}
			if held[port] {
				c.add(path+".hostPort", Duplicate, fmt.Sprintf("%s/%d", p.Protocol, p.HostPort), "")
			}
			held[port], all[port] = true, true
			if s.HostNetwork && !initial && p.HostPort != p.Number {
				c.add(path+".hostPort", Invalid, p.HostPort, "must match `containerPort` when `hostNetwork` is true")
			}
		}
	})
	if len(all) > maxHostPorts {
		c.add(at+".containers", TooLong, len(all), fmt.Sprintf("at most %d ports of the node for one pod", maxHostPorts))
	}
}

func (c *checker) resources(at string, r *Resources) {
	for _, x := range []struct {
		name           string
		request, limit int64
	}{{"cpu", r.Requests.MilliCPU, r.Limits.MilliCPU}, {"memory", r.Requests.MemoryBytes, r.Limits.MemoryBytes}} {
		if x.request < 0 {
			c.add(at+".requests["+x.name+"]", Invalid, x.request, "must be greater than or equal to 0")
		}
		if x.limit < 0 {
			c.add(at+".limits["+x.name+"]", Invalid, x.limit, "must be greater than or equal to 0")
		}
		if x.limit > 0 && x.request > x.limit {
			c.add(at+".requests", Invalid, x.request, "must be less than or equal to "+x.name+" limit")
		}
	}
}

func (c *checker) mount(at string, m *Mount, volumes map[string]*Volume, paths map[string]bool) {
	v := volumes[m.Volume]
	switch {
	case m.Volume == "":
		c.add(at+".name", Required, nil, "")
		fallthrough
	case v == nil:
		c.add(at+".name", NotFound, m.Volume, "")
	}
	if paths[m.Path] {
		c.add(at+".mountPath", Invalid, m.Path, "must be unique")
	}
	switch {
	case m.Path == "":
		c.add(at+".mountPath", Required, nil, "")
	case !path.IsAbs(m.Path):
		c.add(at+".mountPath", Invalid, m.Path, "must be an absolute path")
	case path.Clean(m.Path) == "/" || slices.Contains(strings.Split(m.Path, "/"), ".."):
		c.add(at+".mountPath", Invalid, m.Path, "must be below / and must not contain '..'")
	}
	paths[m.Path] = true
	switch {
	case path.IsAbs(m.SubPath):
		c.add(at+".subPath", Invalid, m.SubPath, "must be a relative path")
	case slices.Contains(strings.Split(m.SubPath, "/"), ".."):
		c.add(at+".subPath", Invalid, m.SubPath, "must not contain '..'")
	}
}

func (c *checker) restart(at string, k *Container) {
	switch k.RestartPolicy {
	case "", RestartAlways, RestartOnFailure, RestartNever:
	default:
		c.add(at+".restartPolicy", NotSupported, string(k.RestartPolicy), `supported values: "Always", "OnFailure", "Never"`)
	}
	if len(k.RestartRules) > 0 && k.RestartPolicy == "" {
		c.add(at+".restartPolicy", Required, nil, "must specify restartPolicy when restart rules are used")
	}
	c.atMost(at+".restartPolicyRules", len(k.RestartRules), maxRestartRules)
	for i, r := range k.RestartRules {
		p := fmt.Sprintf("%s.restartPolicyRules[%d]", at, i)
		if r.Action != ActionRestart && r.Action != ActionRestartAll {
			c.add(p+".action", NotSupported, r.Action, `supported values: "Restart", "RestartAllContainers"`)
		}
		c.atMost(p+".exitCodes.values", len(r.ExitCodes), maxExitCodes)
	}
}

// probe holds rules 2.1 to 2.4.
func (c *checker) probe(at string, kind ProbeKind, p *Probe) {
	c.handler(at, &p.Handler)
	for _, x := range []struct {
		name  string
		value time.Duration
		least time.Duration
	}{{"initialDelaySeconds", p.InitialDelay, 0}, {"timeoutSeconds", p.Timeout, minTimeout}, {"periodSeconds", p.Period, minPeriod}} {
		switch {
		case x.value < 0:
			c.add(at+"."+x.name, Invalid, seconds(x.value), "must be greater than or equal to 0")
		case x.value < x.least:
			c.add(at+"."+x.name, Invalid, x.value.String(), "must be at least "+x.least.String())
		}
	}
	if n := p.SuccessThreshold; n < 0 {
		c.add(at+".successThreshold", Invalid, n, "must be greater than or equal to 0")
	}
	if n := p.SuccessThreshold; kind != Readiness && n != 1 {
		c.add(at+".successThreshold", Invalid, n, "must be 1")
	}
	if n := p.FailureThreshold; n < 0 {
		c.add(at+".failureThreshold", Invalid, n, "must be greater than or equal to 0")
	}
	if g := p.TerminationGrace; g != nil {
		if kind == Readiness {
			c.add(at+".terminationGracePeriodSeconds", Invalid, seconds(*g), "must not be set for readinessProbes")
		} else if *g <= 0 {
			c.add(at+".terminationGracePeriodSeconds", Invalid, seconds(*g), "must be greater than 0")
		}
	}
}

func seconds(d time.Duration) any {
	if d%time.Second == 0 {
		return int64(d / time.Second)
	}
	return d.String()
}

// hooks holds the rules of a container's hooks; grace is the pod's.
func (c *checker) hooks(at string, k *Container, grace time.Duration) {
	for _, x := range []struct {
		name string
		hook *Hook
	}{{"postStart", k.PostStart}, {"preStop", k.PreStop}} {
		h, p := x.hook, at+"."+x.name
		if h == nil {
			continue
		}
		n := 0
		next := c.only(p, &n)
		if h.Exec != nil && next("exec") && len(h.Exec.Command) == 0 {
			c.add(p+".exec.command", Required, nil, "")
		}
		if h.HTTP != nil && next("httpGet") {
			c.httpAction(p+".httpGet", h.HTTP)
		}
		if a := h.Sleep; a != nil && next("sleep") && (a.Duration < 0 || a.Duration > grace) {
			c.add(p+".sleep", Invalid, seconds(a.Duration), fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%v)", seconds(grace)))
		}
		if n == 0 {
			c.add(p, Required, nil, "must specify a handler type")
		}
	}
}

// only returns what counts handlers in n and tells whether one is the first; a later one is forbidden.
func (c *checker) only(at string, n *int) func(name string) bool {
	return func(name string) bool {
		*n++
		if *n > 1 {
			c.add(at+"."+name, Forbidden, nil, "may not specify more than 1 handler type")
		}
		return *n == 1
	}
}

func (c *checker) httpAction(at string, a *HTTPAction) {
	c.portRef(at+".port", a.Port)
	c.host(at+".host", a.Host)
	if a.Path == "" {
		c.add(at+".path", Required, nil, "")
	}
	if a.Scheme != "HTTP" && a.Scheme != "HTTPS" {
		c.add(at+".scheme", NotSupported, a.Scheme, `supported values: "HTTP", "HTTPS"`)
	}
	switch {
	case a.Protocol == "":
	case a.Protocol != ProtocolHTTP2:
		c.add(at+".protocol", NotSupported, a.Protocol, `supported values: "HTTP1", "HTTP2"`)
	case a.Scheme != "HTTP":
		c.add(at+".protocol", Invalid, a.Protocol, "is only supported with HTTP (H2C)")
	case a.Host != "":
		c.add(at+".host", Invalid, a.Host, "must be empty when `protocol` is \"HTTP2\"")
	}
	c.atMost(at+".httpHeaders", len(a.Headers), maxHeaders)
	for _, header := range a.Headers {
		if !headerName(header.Name) {
			c.add(at+".httpHeaders", Invalid, header.Name, "a valid HTTP header must consist of alphanumeric characters or '-'")
		}
	}
}

func (c *checker) handler(at string, h *Handler) {
	n := 0
	next := c.only(at, &n)
	if h.Exec != nil && next("exec") && len(h.Exec.Command) == 0 {
		c.add(at+".exec.command", Required, nil, "")
	}
	if h.HTTP != nil && next("httpGet") {
		c.httpAction(at+".httpGet", h.HTTP)
	}
	if a := h.TCP; a != nil && next("tcpSocket") {
		c.portRef(at+".tcpSocket.port", a.Port)
		c.host(at+".tcpSocket.host", a.Host)
	}
	if a := h.GRPC; a != nil && next("grpc") {
		if a.Port < 1 || a.Port > 65535 {
			c.add(at+".grpc.port", Invalid, a.Port, "must be between 1 and 65535, inclusive")
		}
		if a.Mode != "" && a.Mode != ModeTLS {
			c.add(at+".grpc.mode", NotSupported, a.Mode, `supported values: "Plaintext", "TLS"`)
		}
	}
	if n == 0 {
		c.add(at, Required, nil, "must specify a handler type")
	}
}

func (c *checker) portRef(at string, p PortRef) {
	if p.Name == "" {
		if p.Number < 1 || p.Number > 65535 {
			c.add(at, Invalid, p.Number, "must be between 1 and 65535, inclusive")
		}
	} else if why := portName(p.Name); why != "" {
		c.add(at, Invalid, p.Name, why)
	}
}

// host refuses probes that would make agents knock on doors that are not the pod's.
func (c *checker) host(at, host string) {
	if host == "" || host == "localhost" {
		return
	}
	addr, err := netip.ParseAddr(host)
	if err == nil && (addr.IsLoopback() || slices.ContainsFunc(c.opts.AllowProbeHosts, func(p netip.Prefix) bool { return p.Contains(addr) })) {
		return
	}
	c.add(at, Forbidden, host, "a probe may ask the pod's own address or loopback only; the coordinator's --allow-probe-host allows more")
}
