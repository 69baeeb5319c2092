package spec

import (
	"fmt"
	"path"
	"slices"
	"time"
)

// Annotations that muster reads.
const (
	// AnnotationFailover chooses the failover class of a pod: fast, fenced or stay.
	AnnotationFailover = "muster.dev/failover"
	// AnnotationProbeOverride gives probes sub-second times: "web.liveness: period=200ms timeout=100ms; …".
	AnnotationProbeOverride = "probe.muster.dev/override"
)

// Pod is a group of containers that are placed, run and moved together.
type Pod struct {
	Meta
	Spec PodSpec
}

// PodSpec is what the user wants of a pod. Fields that came later are left out of its JSON while they are zero, so that
// TemplateHash goes on giving the templates that do not use them the same names.
type PodSpec struct {
	// InitContainers run one after the other before Containers. One with RestartPolicy Always is a sidecar: the next
	// follows once it has started, and it runs on beside Containers.
	InitContainers []Container `json:",omitempty"`
	Containers     []Container
	Volumes        []Volume
	// RestartPolicy is Always by default.
	RestartPolicy RestartPolicy
	// TerminationGrace is the time between SIGTERM and SIGKILL; default 30 s, at least 0.
	TerminationGrace time.Duration
	// NodeSelector has labels that the node must carry.
	NodeSelector map[string]string
	// ReadinessGates are condition types that must be True besides ContainersReady for the pod to be Ready.
	ReadinessGates []string
	// Hostname is the pod's name unless set.
	Hostname string
	// ShareProcessNamespace puts all containers into one PID namespace.
	ShareProcessNamespace bool `json:",omitzero"`
	// HostNetwork, HostPID and HostIPC use the node's own namespaces.
	HostNetwork, HostPID, HostIPC bool        `json:",omitzero"`
	Security                      PodSecurity `json:",omitzero"`
	// DNSPolicy is one of the DNS constants; empty means DNSClusterFirst.
	DNSPolicy string `json:",omitzero"`
	// DNS is added to what follows from it; nil adds nothing.
	DNS *DNSConfig `json:",omitzero"`
	// Affinity, Tolerations and TopologySpreadConstraints say, besides NodeSelector, where the pod may be and wants to be.
	Affinity                  Affinity           `json:",omitzero"`
	Tolerations               []Toleration       `json:",omitempty"`
	TopologySpreadConstraints []SpreadConstraint `json:",omitempty"`
}

// PodSecurity has what all containers of a pod run as, unless they say otherwise.
type PodSecurity struct {
	// RunAsUser and RunAsGroup are nil for the node's default.
	RunAsUser, RunAsGroup *int64
	// RunAsNonRoot refuses to start a container as user 0.
	RunAsNonRoot bool
	// SupplementalGroups are added to the processes' groups; at most 64.
	SupplementalGroups []int64
	// FSGroup owns the pod's emptyDir volumes, and is a supplemental group.
	FSGroup *int64
	// Seccomp is SeccompRuntimeDefault or SeccompUnconfined; empty means the latter.
	Seccomp string
}

// ContainerSecurity has what a container may do.
type ContainerSecurity struct {
	// RunAsUser and RunAsGroup are nil for the pod's.
	RunAsUser, RunAsGroup *int64
	// RunAsNonRoot refuses to start as user 0; nil means the pod's.
	RunAsNonRoot *bool
	// AddCapabilities and DropCapabilities are names without CAP_, or ALL.
	AddCapabilities, DropCapabilities []string
	// ReadOnlyRootFilesystem makes everything read-only but the volumes, /tmp and the pod's own directory.
	ReadOnlyRootFilesystem bool
	// AllowPrivilegeEscalation false sets no_new_privs; nil means true.
	AllowPrivilegeEscalation *bool
	// Seccomp is SeccompRuntimeDefault or SeccompUnconfined; empty means the pod's.
	Seccomp string
}

// RestartPolicy says which exits lead to a restart.
type RestartPolicy string

// The restart policies.
const (
	RestartAlways    RestartPolicy = "Always"
	RestartOnFailure RestartPolicy = "OnFailure"
	RestartNever     RestartPolicy = "Never"
)

// Container is one process of a pod, with the processes it starts.
type Container struct {
	// Name is a DNS-1123 label, unique in the pod.
	Name string
	// Image may be absent: the process runtime has no use for it.
	Image string
	// Command and Args form the argv; $(NAME) is expanded from Env.
	Command, Args []string
	// WorkingDir is "/" when empty.
	WorkingDir string
	// EnvFrom are variables that Env overrides; a later one overrides an earlier one. At most 64.
	EnvFrom   []EnvFrom `json:",omitempty"`
	Env       []EnvVar
	Ports     []Port
	Resources Resources
	Mounts    []Mount
	// Liveness, Readiness and Startup are nil where the container has no such probe.
	Liveness, Readiness, Startup *Probe
	// PostStart is done when an instance has started, PreStop before it is asked to end; nil for nothing.
	PostStart, PreStop *Hook `json:",omitempty"`
	// RestartPolicy overrides the pod's; empty means the pod's.
	RestartPolicy RestartPolicy
	// RestartRules are looked at before RestartPolicy, which must then be set. At most 20.
	RestartRules []RestartRule
	Security     ContainerSecurity `json:",omitzero"`
}

// Probe returns the container's probe of that kind, nil where it has none.
func (c *Container) Probe(k ProbeKind) *Probe {
	switch k {
	case Liveness:
		return c.Liveness
	case Readiness:
		return c.Readiness
	case Startup:
		return c.Startup
	}
	return nil
}

// RestartRule restarts after certain exit codes.
type RestartRule struct {
	// Action is ActionRestart or ActionRestartAll.
	Action string
	// In is true for the operator In, false for NotIn.
	In bool
	// ExitCodes has at most 255 values.
	ExitCodes []int32
}

// What a RestartRule does: it restarts the container, or ends and restarts all containers of the pod.
const (
	ActionRestart    = "Restart"
	ActionRestartAll = "RestartAllContainers"
)

// EnvVar is one environment variable: Value, or what one of FieldPath, Key and Resource names.
type EnvVar struct {
	Name  string
	Value string
	// FieldPath is one of metadata.{name,namespace,uid,labels['…'],annotations['…']}, spec.nodeName,
	// status.{podIP,hostIP}.
	FieldPath string
	Key       *KeyRef      `json:",omitzero"`
	Resource  *ResourceRef `json:",omitzero"`
}

// Port is a declared port of a container.
type Port struct {
	Name string
	// Number is 1 to 65535.
	Number int32
	// Protocol is TCP (the default) or UDP.
	Protocol string
	// HostPort is a port of the node that leads to this one; 0 for none. With HostNetwork it is Number.
	HostPort int32
}

// Resources are requests; placement counts them against the node's allocatable. Limits are kept, and warned about.
type Resources struct {
	Requests, Limits ResourceList
}

// ResourceList has the amounts of what a node gives. Zero means none asked for.
type ResourceList struct {
	// MilliCPU is in thousandths of a core.
	MilliCPU int64
	// MemoryBytes is in bytes.
	MemoryBytes int64
}

// Volume is a source of files: exactly one of HostPath, EmptyDir and Files.
type Volume struct {
	Name     string
	HostPath string
	// HostPathType is one of "", Directory, DirectoryOrCreate, File, FileOrCreate, Socket, CharDevice, BlockDevice.
	HostPathType string
	EmptyDir     *EmptyDir `json:",omitzero"`
	Files        *Files    `json:",omitzero"`
}

// EmptyDir is a directory that lives as long as the pod on its node.
type EmptyDir struct {
	// Memory keeps it in memory, counted against the pod's memory limit.
	Memory bool
	// SizeLimit is in bytes; 0 means none. A pod that writes more is evicted.
	SizeLimit int64
}

// Mount puts a volume at a path. Where there are no mount namespaces Path must equal the volume's path.
type Mount struct {
	Volume, Path string
	// SubPath is a path below the volume's root, relative and without "..".
	SubPath  string `json:",omitzero"`
	ReadOnly bool
}

// FailoverClass says what happens to a pod whose node is lost.
type FailoverClass string

// The failover classes.
const (
	// Fast moves at once and may run twice for a moment; the default of Deployments.
	Fast FailoverClass = "fast"
	// Fenced moves when the old instance is certainly dead; the default of bare pods.
	Fenced FailoverClass = "fenced"
	// Stay waits for a person.
	Stay FailoverClass = "stay"
)

// FailoverClass is the class that the pod's next binding gets: the annotation's, else fenced for a bare pod and fast
// for a Deployment's.
func (p *Pod) FailoverClass() FailoverClass {
	switch c := FailoverClass(p.Annotations[AnnotationFailover]); c {
	case Fast, Fenced, Stay:
		return c
	}
	if p.Owner != nil {
		return Fast
	}
	return Fenced
}

// Sidecar tells whether c, one of the InitContainers, runs on beside the regular containers.
func (c *Container) Sidecar() bool { return c.RestartPolicy == RestartAlways }

// AllContainers are the init containers, in their order, and then the regular ones. The values are those of s.
func (s *PodSpec) AllContainers() []*Container {
	all := make([]*Container, 0, len(s.InitContainers)+len(s.Containers))
	for i := range s.InitContainers {
		all = append(all, &s.InitContainers[i])
	}
	for i := range s.Containers {
		all = append(all, &s.Containers[i])
	}
	return all
}

// each calls f with each of AllContainers and its path, at being that of s.
func (s *PodSpec) each(at string, f func(path string, c *Container)) {
	for i := range s.InitContainers {
		f(fmt.Sprintf("%s.initContainers[%d]", at, i), &s.InitContainers[i])
	}
	for i := range s.Containers {
		f(fmt.Sprintf("%s.containers[%d]", at, i), &s.Containers[i])
	}
}

// Container returns the container of that name, init or regular; nil if there is none.
func (s *PodSpec) Container(name string) *Container {
	for _, c := range s.AllContainers() {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Requests is what the pod asks for at most at any one time, as Kubernetes counts it: all regular containers with all
// sidecars, or one plain init container with the sidecars before it, whichever is more.
func (s *PodSpec) Requests() ResourceList {
	var sidecars, most ResourceList
	for i := range s.InitContainers {
		c := &s.InitContainers[i]
		now := sidecars.plus(c.Resources.Requests)
		most = ResourceList{MilliCPU: max(most.MilliCPU, now.MilliCPU), MemoryBytes: max(most.MemoryBytes, now.MemoryBytes)}
		if c.Sidecar() {
			sidecars = now
		}
	}
	sum := sidecars
	for i := range s.Containers {
		sum = sum.plus(s.Containers[i].Resources.Requests)
	}
	return ResourceList{MilliCPU: max(most.MilliCPU, sum.MilliCPU), MemoryBytes: max(most.MemoryBytes, sum.MemoryBytes)}
}

func (r ResourceList) plus(o ResourceList) ResourceList {
	return ResourceList{MilliCPU: r.MilliCPU + o.MilliCPU, MemoryBytes: r.MemoryBytes + o.MemoryBytes}
}

// HostPort is a port of the node.
type HostPort struct {
	// Protocol is TCP or UDP.
	Protocol string
	Number   int32
}

// HostPorts are the ports of its node that the pod holds.
func (s *PodSpec) HostPorts() (all []HostPort) {
	for _, c := range s.AllContainers() {
		for _, p := range c.Ports {
			if p.HostPort != 0 {
				all = append(all, HostPort{Protocol: p.Protocol, Number: p.HostPort})
			}
		}
	}
	return all
}

// NeedsMounts tells whether a container's files are not where the node has them, or not as it has them: then it needs a
// mount namespace.
func (s *PodSpec) NeedsMounts() bool {
	for _, c := range s.AllContainers() {
		if c.Security.ReadOnlyRootFilesystem {
			return true
		}
		for _, m := range c.Mounts {
			at := slices.IndexFunc(s.Volumes, func(v Volume) bool { return v.Name == m.Volume })
			if m.ReadOnly || m.SubPath != "" || at >= 0 && path.Clean(s.Volumes[at].HostPath) != path.Clean(m.Path) {
				return true
			}
		}
	}
	return false
}

// NeedsRoot says, by its path, the first thing that only an agent that runs as root gives. Empty if there is none.
func (s *PodSpec) NeedsRoot() string {
	switch {
	case s.ShareProcessNamespace:
		return "spec.shareProcessNamespace"
	case s.HostIPC:
		return "spec.hostIPC"
	}
	for i, v := range s.Volumes {
		if v.EmptyDir != nil && v.EmptyDir.Memory {
			return fmt.Sprintf("spec.volumes[%d].emptyDir.medium: Memory", i)
		}
	}
	return ""
}

// HostPaths are the paths of the node that the pod mounts.
func (s *PodSpec) HostPaths() (all []string) {
	for _, v := range s.Volumes {
		if v.HostPath != "" {
			all = append(all, path.Clean(v.HostPath))
		}
	}
	return all
}

// NamesImage tells whether any container names an image.
func (s *PodSpec) NamesImage() bool {
	return slices.ContainsFunc(s.AllContainers(), func(c *Container) bool { return c.Image != "" })
}
