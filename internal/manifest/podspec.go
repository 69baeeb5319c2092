package manifest

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/musterhq/muster/internal/spec"
)

func meta(m *metav1.ObjectMeta) spec.Meta {
	return spec.Meta{Namespace: m.Namespace, Name: m.Name, Labels: m.Labels, Annotations: m.Annotations}
}

func (d *decoder) pod(k *corev1.Pod) *spec.Pod {
	return &spec.Pod{Meta: meta(&k.ObjectMeta), Spec: d.podSpec("spec", &k.Spec)}
}

func (d *decoder) deployment(k *appsv1.Deployment) *spec.Deployment {
	out := &spec.Deployment{Meta: meta(&k.ObjectMeta), Spec: spec.DeploymentSpec{
		Replicas: 1,
		Template: spec.PodTemplate{
			Labels: k.Spec.Template.Labels, Annotations: k.Spec.Template.Annotations,
			Spec: d.podSpec("spec.template.spec", &k.Spec.Template.Spec),
		},
	}}
	if k.Spec.Replicas != nil {
		out.Spec.Replicas = *k.Spec.Replicas
	}
	d.rollout(&out.Spec, &k.Spec)
	if s := k.Spec.Selector; s != nil {
		out.Spec.Selector = selector(s)
	}
	return out
}

func (d *decoder) seccomp(at string, p *corev1.SeccompProfile) string {
	if p == nil {
		return ""
	}
	if p.Type == "" {
		d.add(at+".securityContext.seccompProfile.type", spec.Required, nil, "type is required when seccompProfile is set")
	}
	return string(p.Type)
}

func (d *decoder) podSpec(at string, k *corev1.PodSpec) spec.PodSpec {
	out := spec.PodSpec{
		RestartPolicy: spec.RestartPolicy(k.RestartPolicy), TerminationGrace: spec.UnsetGrace,
		NodeSelector: k.NodeSelector, Hostname: k.Hostname, HostNetwork: k.HostNetwork, HostPID: k.HostPID, HostIPC: k.HostIPC,
		ShareProcessNamespace: k.ShareProcessNamespace != nil && *k.ShareProcessNamespace,
		DNSPolicy:             string(k.DNSPolicy), DNS: dnsConfig(k.DNSConfig),
	}
	if s := k.SecurityContext; s != nil {
		out.Security = spec.PodSecurity{
			RunAsUser: s.RunAsUser, RunAsGroup: s.RunAsGroup, RunAsNonRoot: s.RunAsNonRoot != nil && *s.RunAsNonRoot,
			SupplementalGroups: s.SupplementalGroups, FSGroup: s.FSGroup, Seccomp: d.seccomp(at, s.SeccompProfile),
		}
	}
	if g := k.TerminationGracePeriodSeconds; g != nil {
		out.TerminationGrace = d.seconds(at+".terminationGracePeriodSeconds", *g)
	}
	for _, g := range k.ReadinessGates {
		out.ReadinessGates = append(out.ReadinessGates, string(g.ConditionType))
	}
	for i, v := range k.Volumes {
		volume := spec.Volume{Name: v.Name}
		if h := v.HostPath; h != nil {
			volume.HostPath = h.Path
			if h.Type != nil {
				volume.HostPathType = string(*h.Type)
			}
		}
		d.oneSource(fmt.Sprintf("%s.volumes[%d]", at, i), &v.VolumeSource)
		volume.Files = d.files(fmt.Sprintf("%s.volumes[%d]", at, i), &v.VolumeSource)
		if e := v.EmptyDir; e != nil {
			volume.EmptyDir = d.emptyDir(fmt.Sprintf("%s.volumes[%d].emptyDir", at, i), e)
		}
		out.Volumes = append(out.Volumes, volume)
	}
	d.placement(at, &out, k)
	for i := range k.InitContainers {
		out.InitContainers = append(out.InitContainers, d.container(fmt.Sprintf("%s.initContainers[%d]", at, i), &k.InitContainers[i], true))
	}
	for i := range k.Containers {
		out.Containers = append(out.Containers, d.container(fmt.Sprintf("%s.containers[%d]", at, i), &k.Containers[i], false))
	}
	return out
}

func capabilityNames(cs []corev1.Capability) (names []string) {
	for _, c := range cs {
		names = append(names, string(c))
	}
	return names
}

func (d *decoder) emptyDir(at string, k *corev1.EmptyDirVolumeSource) *spec.EmptyDir {
	out := &spec.EmptyDir{}
	switch k.Medium {
	case corev1.StorageMediumDefault:
	case corev1.StorageMediumMemory:
		out.Memory = true
	default:
		d.add(at+".medium", spec.NotSupported, string(k.Medium), `supported values: "", "Memory"`)
	}
	if q := k.SizeLimit; q != nil {
		if q.Sign() < 0 {
			d.add(at+".sizeLimit", spec.Forbidden, nil, "SizeLimit field must be a valid resource quantity")
		} else {
			out.SizeLimit = d.amount(at+".sizeLimit", *q, 0, maxMemory)
		}
	}
	return out
}

// seconds is n seconds; more than 32 bits are refused, for they may be no duration.
func (d *decoder) seconds(at string, n int64) time.Duration {
	if n < math.MinInt32 || n > math.MaxInt32 {
		d.add(at, spec.Invalid, n, fmt.Sprintf("must be between 0 and %d", math.MaxInt32))
		return 0
	}
	return time.Duration(n) * time.Second
}

func (d *decoder) container(at string, k *corev1.Container, initial bool) spec.Container {
	out := spec.Container{
		Name: k.Name, Image: k.Image, Command: k.Command, Args: k.Args, WorkingDir: k.WorkingDir,
		Resources: d.resources(at+".resources", &k.Resources),
		Liveness:  d.probe(at+".livenessProbe", k.LivenessProbe),
		Readiness: d.probe(at+".readinessProbe", k.ReadinessProbe),
		Startup:   d.probe(at+".startupProbe", k.StartupProbe),
	}
	out.EnvFrom = d.envFrom(at+".envFrom", k.EnvFrom)
	if l := k.Lifecycle; l != nil {
		out.PostStart, out.PreStop = d.hook(at+".lifecycle.postStart", l.PostStart), d.hook(at+".lifecycle.preStop", l.PreStop)
	}
	for i := range k.Env {
		out.Env = append(out.Env, d.env(fmt.Sprintf("%s.env[%d]", at, i), &k.Env[i]))
	}
	for _, p := range k.Ports {
		out.Ports = append(out.Ports, spec.Port{Name: p.Name, Number: p.ContainerPort, Protocol: string(p.Protocol), HostPort: p.HostPort})
	}
	for _, m := range k.VolumeMounts {
		out.Mounts = append(out.Mounts, spec.Mount{Volume: m.Name, Path: m.MountPath, SubPath: m.SubPath, ReadOnly: m.ReadOnly})
	}
	if s := k.SecurityContext; s != nil {
		out.Security = spec.ContainerSecurity{
			RunAsUser: s.RunAsUser, RunAsGroup: s.RunAsGroup, RunAsNonRoot: s.RunAsNonRoot,
			ReadOnlyRootFilesystem:   s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem,
			AllowPrivilegeEscalation: s.AllowPrivilegeEscalation, Seccomp: d.seccomp(at, s.SeccompProfile),
		}
		if cs := s.Capabilities; cs != nil {
			out.Security.AddCapabilities, out.Security.DropCapabilities = capabilityNames(cs.Add), capabilityNames(cs.Drop)
		}
	}
	if p := k.RestartPolicy; p != nil {
		if out.RestartPolicy = spec.RestartPolicy(*p); *p == "" { // given, and none of those that there are
			d.add(at+".restartPolicy", spec.NotSupported, "", `supported values: "Always", "OnFailure", "Never"`)
			out.RestartPolicy = spec.RestartNever
		}
	}
	// Without a policy the rules of an init container are wrong as a whole.
	looked := !initial || k.RestartPolicy != nil
	for i, r := range k.RestartPolicyRules {
		rule := spec.RestartRule{Action: string(r.Action)}
		if e := r.ExitCodes; e == nil && looked {
			d.add(fmt.Sprintf("%s.restartPolicyRules[%d].exitCodes", at, i), spec.Required, nil, "must be specified")
		} else if e != nil {
			rule.ExitCodes = e.Values
			switch e.Operator {
			case corev1.ContainerRestartRuleOnExitCodesOpIn:
				rule.In = true
			case corev1.ContainerRestartRuleOnExitCodesOpNotIn:
			default:
				if looked {
					d.add(fmt.Sprintf("%s.restartPolicyRules[%d].exitCodes.operator", at, i), spec.NotSupported, string(e.Operator),
						`supported values: "In", "NotIn"`)
				}
			}
		}
		out.RestartRules = append(out.RestartRules, rule)
	}
	return out
}

// env is the variable; without a value where its source is not built, which was found before.
func (d *decoder) env(at string, k *corev1.EnvVar) spec.EnvVar {
	out := spec.EnvVar{Name: k.Name, Value: k.Value}
	from := k.ValueFrom
	if from == nil {
		return out
	}
	sources := 0
	for _, set := range []bool{from.FieldRef != nil, from.ResourceFieldRef != nil, from.ConfigMapKeyRef != nil, from.SecretKeyRef != nil} {
		if set {
			sources++
		}
	}
	switch { // then nothing of it is looked into
	case *from == (corev1.EnvVarSource{}):
		d.add(at+".valueFrom", spec.Invalid, nil, "must specify a source")
		return spec.EnvVar{Name: k.Name}
	case sources > 1:
		d.add(at+".valueFrom", spec.Invalid, nil, "may not have more than one field specified at a time")
		return spec.EnvVar{Name: k.Name}
	case sources == 1 && k.Value != "":
		d.add(at+".valueFrom", spec.Invalid, nil, "may not be specified when `value` is not empty")
		return spec.EnvVar{Name: k.Name}
	}
	if ref := from.FieldRef; ref != nil && d.refVersion(at+".valueFrom.fieldRef", ref) {
		out.FieldPath = ref.FieldPath
	}
	if ref := from.ResourceFieldRef; ref != nil {
		out.Resource = d.resourceRef(at+".valueFrom.resourceFieldRef", ref)
	}
	out.Key = keyRef(from)
	return out
}

// dropIgnoredEnv takes out the variables whose sources are ignored: a program can tell a missing one from an empty one.
func dropIgnoredEnv(out *spec.PodSpec, k *corev1.PodSpec) {
	drop := func(c *spec.Container, from []corev1.EnvVar) {
		at := -1
		c.Env = slices.DeleteFunc(c.Env, func(spec.EnvVar) bool {
			at++
			source := from[at].ValueFrom
			return source != nil && source.FieldRef == nil && source.ResourceFieldRef == nil && keyRef(source) == nil
		})
	}
	for i := range out.InitContainers {
		drop(&out.InitContainers[i], k.InitContainers[i].Env)
	}
	for i := range out.Containers {
		drop(&out.Containers[i], k.Containers[i].Env)
	}
}

// The most that a container may ask for: sums over a pod stay far from overflow.
const (
	maxMilliCPU = 1_000_000_000
	maxMemory   = 1 << 50
)

func (d *decoder) resources(at string, k *corev1.ResourceRequirements) spec.Resources {
	out := spec.Resources{Requests: d.resourceList(at+".requests", k.Requests), Limits: d.resourceList(at+".limits", k.Limits)}
	for _, x := range []struct {
		name           corev1.ResourceName
		request, limit int64
	}{
		{corev1.ResourceCPU, out.Requests.MilliCPU, out.Limits.MilliCPU},
		{corev1.ResourceMemory, out.Requests.MemoryBytes, out.Limits.MemoryBytes},
	} {
		// Left out, a request is the limit; a zero can't be told from that later.
		if q, given := k.Requests[x.name]; given && q.IsZero() && x.limit > 0 {
			d.add(at+".requests["+string(x.name)+"]", spec.NotBuilt, "0", "a request of 0 beside a limit")
		}
		if q, given := k.Limits[x.name]; given && q.IsZero() && x.request > 0 {
			d.add(at+".requests", spec.Invalid, x.request, "must be less than or equal to "+string(x.name)+" limit of 0")
		}
	}
	return out
}

func (d *decoder) resourceList(at string, k corev1.ResourceList) spec.ResourceList {
	var out spec.ResourceList
	for _, name := range slices.Sorted(maps.Keys(k)) {
		q, path := k[name], at+"["+string(name)+"]"
		switch name {
		case corev1.ResourceCPU:
			out.MilliCPU = d.amount(path, q, resource.Milli, maxMilliCPU)
		case corev1.ResourceMemory:
			out.MemoryBytes = d.amount(path, q, 0, maxMemory)
		default:
			d.notBuilt(path)
		}
	}
	return out
}

// amount is q in units of scale, rounded up.
func (d *decoder) amount(path string, q resource.Quantity, scale resource.Scale, most int64) int64 {
	switch {
	case q.Sign() < 0:
		d.add(path, spec.Invalid, q.String(), "must be greater than or equal to 0")
		return 0
	case q.Cmp(*resource.NewScaledQuantity(most, scale)) > 0:
		d.add(path, spec.Invalid, q.String(), "must be at most "+resource.NewScaledQuantity(most, scale).String())
		return 0
	}
	return q.ScaledValue(scale)
}

func (d *decoder) probe(at string, k *corev1.Probe) *spec.Probe {
	if k == nil {
		return nil
	}
	sec := func(n int32) time.Duration { return time.Duration(n) * time.Second }
	out := &spec.Probe{
		InitialDelay: sec(k.InitialDelaySeconds), Period: sec(k.PeriodSeconds), Timeout: sec(k.TimeoutSeconds),
		SuccessThreshold: k.SuccessThreshold, FailureThreshold: k.FailureThreshold,
	}
	if g := k.TerminationGracePeriodSeconds; g != nil {
		grace := d.seconds(at+".terminationGracePeriodSeconds", *g)
		out.TerminationGrace = &grace
	}
	if a := k.Exec; a != nil {
		out.Exec = &spec.ExecAction{Command: a.Command}
	}
	out.HTTP = httpAction(k.HTTPGet)
	if a := k.TCPSocket; a != nil {
		out.TCP = &spec.TCPAction{Host: a.Host, Port: portRef(a.Port)}
	}
	if a := k.GRPC; a != nil {
		out.GRPC = &spec.GRPCAction{Port: a.Port}
		if a.Service != nil {
			out.GRPC.Service = *a.Service
		}
		if a.Mode != nil {
			out.GRPC.Mode = string(*a.Mode)
		}
	}
	return out
}

func httpAction(k *corev1.HTTPGetAction) *spec.HTTPAction {
	if k == nil {
		return nil
	}
	out := &spec.HTTPAction{Scheme: string(k.Scheme), Host: k.Host, Port: portRef(k.Port), Path: k.Path}
	if k.Protocol != nil {
		out.Protocol = string(*k.Protocol)
	}
	for _, h := range k.HTTPHeaders {
		out.Headers = append(out.Headers, spec.Header{Name: h.Name, Value: h.Value})
	}
	return out
}

func (d *decoder) hook(at string, k *corev1.LifecycleHandler) *spec.Hook {
	if k == nil {
		return nil
	}
	out := &spec.Hook{HTTP: httpAction(k.HTTPGet)}
	if a := k.Exec; a != nil {
		out.Exec = &spec.ExecAction{Command: a.Command}
	}
	if a := k.Sleep; a != nil {
		out.Sleep = &spec.SleepAction{Duration: d.seconds(at+".sleep.seconds", a.Seconds)}
	}
	return out
}

func portRef(p intstr.IntOrString) spec.PortRef {
	if p.Type == intstr.String {
		return spec.PortRef{Name: p.StrVal}
	}
	return spec.PortRef{Number: p.IntVal}
}
