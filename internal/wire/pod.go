package wire

import (
	"fmt"
	"reflect"

	"google.golang.org/protobuf/types/known/durationpb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

// PodToProto converts what is wanted of a pod.
func PodToProto(p *spec.Pod) *musterv1.Pod {
	return &musterv1.Pod{Meta: MetaToProto(p.Meta), Spec: podSpecToProto(&p.Spec)}
}

// PodFromProto is the inverse of PodToProto; status, node and the like are not looked at.
func PodFromProto(pb *musterv1.Pod) (*spec.Pod, error) {
	p := &parser{}
	pod := &spec.Pod{Meta: p.meta(pb.GetMeta()), Spec: p.podSpec("spec", pb.GetSpec())}
	return pod, p.err
}

func podSpecToProto(s *spec.PodSpec) *musterv1.PodSpec {
	pb := &musterv1.PodSpec{
		RestartPolicy: restartPolicies.to[s.RestartPolicy], TerminationGrace: durationpb.New(s.TerminationGrace),
		NodeSelector: s.NodeSelector, ReadinessGates: s.ReadinessGates, Hostname: s.Hostname,
		ShareProcessNamespace: s.ShareProcessNamespace, HostNetwork: s.HostNetwork, HostPid: s.HostPID, HostIpc: s.HostIPC,
		DnsPolicy: s.DNSPolicy, DnsConfig: dnsToProto(s.DNS),
	}
	for i := range s.InitContainers {
		pb.InitContainers = append(pb.InitContainers, containerToProto(&s.InitContainers[i]))
	}
	for i := range s.Containers {
		pb.Containers = append(pb.Containers, containerToProto(&s.Containers[i]))
	}
	for _, v := range s.Volumes {
		out := &musterv1.Volume{Name: v.Name, HostPath: v.HostPath, HostPathType: v.HostPathType, Files: filesToProto(v.Files)}
		if e := v.EmptyDir; e != nil {
			out.EmptyDir = &musterv1.EmptyDir{Memory: e.Memory, SizeLimitBytes: e.SizeLimit}
		}
		pb.Volumes = append(pb.Volumes, out)
	}
	if sec := &s.Security; !reflect.ValueOf(*sec).IsZero() {
		pb.Security = &musterv1.PodSecurity{
			RunAsUser: sec.RunAsUser, RunAsGroup: sec.RunAsGroup, RunAsNonRoot: sec.RunAsNonRoot,
			SupplementalGroups: sec.SupplementalGroups, FsGroup: sec.FSGroup, Seccomp: sec.Seccomp,
		}
	}
	placementToProto(pb, s)
	return pb
}

// unsetGrace is what a pod's termination grace is when a message leaves it out: defaulting gives it its value.
const unsetGrace = spec.UnsetGrace

func (p *parser) podSpec(field string, pb *musterv1.PodSpec) spec.PodSpec {
	s := spec.PodSpec{
		RestartPolicy:    in(p, field+".restart_policy", restartPolicies, pb.GetRestartPolicy()),
		TerminationGrace: unsetGrace,
		NodeSelector:     pb.GetNodeSelector(), ReadinessGates: pb.GetReadinessGates(), Hostname: pb.GetHostname(),
		ShareProcessNamespace: pb.GetShareProcessNamespace(),
		HostNetwork:           pb.GetHostNetwork(), HostPID: pb.GetHostPid(), HostIPC: pb.GetHostIpc(),
		DNSPolicy: pb.GetDnsPolicy(), DNS: dnsFromProto(pb.GetDnsConfig()),
	}
	if sec := pb.GetSecurity(); sec != nil {
		s.Security = spec.PodSecurity{
			RunAsUser: sec.RunAsUser, RunAsGroup: sec.RunAsGroup, RunAsNonRoot: sec.GetRunAsNonRoot(),
			SupplementalGroups: sec.GetSupplementalGroups(), FSGroup: sec.FsGroup, Seccomp: sec.GetSeccomp(),
		}
	}
	for i, c := range pb.GetInitContainers() {
		s.InitContainers = append(s.InitContainers, p.container(fmt.Sprintf("%s.init_containers[%d]", field, i), c))
	}
	if g := pb.GetTerminationGrace(); g != nil {
		s.TerminationGrace = p.duration(field+".termination_grace", g)
	}
	for i, c := range pb.GetContainers() {
		s.Containers = append(s.Containers, p.container(fmt.Sprintf("%s.containers[%d]", field, i), c))
	}
	for _, v := range pb.GetVolumes() {
		out := spec.Volume{Name: v.GetName(), HostPath: v.GetHostPath(), HostPathType: v.GetHostPathType(), Files: filesFromProto(v.GetFiles())}
		if e := v.GetEmptyDir(); e != nil {
			out.EmptyDir = &spec.EmptyDir{Memory: e.GetMemory(), SizeLimit: e.GetSizeLimitBytes()}
		}
		s.Volumes = append(s.Volumes, out)
	}
	p.placement(field, &s, pb)
	return s
}

func resourcesToProto(r spec.ResourceList) *musterv1.ResourceList {
	if r == (spec.ResourceList{}) {
		return nil
	}
	return &musterv1.ResourceList{MilliCpu: r.MilliCPU, MemoryBytes: r.MemoryBytes}
}

func resourcesFromProto(pb *musterv1.ResourceList) spec.ResourceList {
	return spec.ResourceList{MilliCPU: pb.GetMilliCpu(), MemoryBytes: pb.GetMemoryBytes()}
}

func containerToProto(c *spec.Container) *musterv1.Container {
	pb := &musterv1.Container{
		Name: c.Name, Image: c.Image, Command: c.Command, Args: c.Args, WorkingDir: c.WorkingDir,
		Requests: resourcesToProto(c.Resources.Requests), Limits: resourcesToProto(c.Resources.Limits),
		Liveness: probeToProto(c.Liveness), Readiness: probeToProto(c.Readiness), Startup: probeToProto(c.Startup),
		RestartPolicy: restartPolicies.to[c.RestartPolicy], Lifecycle: lifecycleToProto(c),
	}
	pb.EnvFrom = envFromsToProto(c.EnvFrom)
	for i := range c.Env {
		pb.Env = append(pb.Env, envToProto(&c.Env[i]))
	}
	for _, p := range c.Ports {
		pb.Ports = append(pb.Ports, &musterv1.ContainerPort{Name: p.Name, Number: p.Number, Protocol: p.Protocol, HostPort: p.HostPort})
	}
	for _, m := range c.Mounts {
		pb.Mounts = append(pb.Mounts, &musterv1.VolumeMount{Volume: m.Volume, Path: m.Path, SubPath: m.SubPath, ReadOnly: m.ReadOnly})
	}
	for _, r := range c.RestartRules {
		pb.RestartRules = append(pb.RestartRules, &musterv1.RestartRule{Action: r.Action, In: r.In, ExitCodes: r.ExitCodes})
	}
	if sec := &c.Security; !reflect.ValueOf(*sec).IsZero() {
		pb.Security = &musterv1.ContainerSecurity{
			RunAsUser: sec.RunAsUser, RunAsGroup: sec.RunAsGroup, RunAsNonRoot: sec.RunAsNonRoot,
			AddCapabilities: sec.AddCapabilities, DropCapabilities: sec.DropCapabilities,
			ReadOnlyRootFilesystem: sec.ReadOnlyRootFilesystem, AllowPrivilegeEscalation: sec.AllowPrivilegeEscalation, Seccomp: sec.Seccomp,
		}
	}
	return pb
}

func (p *parser) container(field string, pb *musterv1.Container) spec.Container {
	c := spec.Container{
		Name: pb.GetName(), Image: pb.GetImage(), Command: pb.GetCommand(), Args: pb.GetArgs(), WorkingDir: pb.GetWorkingDir(),
		Resources:     spec.Resources{Requests: resourcesFromProto(pb.GetRequests()), Limits: resourcesFromProto(pb.GetLimits())},
		Liveness:      p.probe(field+".liveness", pb.GetLiveness()),
		Readiness:     p.probe(field+".readiness", pb.GetReadiness()),
		Startup:       p.probe(field+".startup", pb.GetStartup()),
		PostStart:     p.hook(field+".lifecycle.post_start", pb.GetLifecycle().GetPostStart()),
		PreStop:       p.hook(field+".lifecycle.pre_stop", pb.GetLifecycle().GetPreStop()),
		RestartPolicy: in(p, field+".restart_policy", restartPolicies, pb.GetRestartPolicy()),
	}
	c.EnvFrom = envFromsFromProto(pb.GetEnvFrom())
	for _, e := range pb.GetEnv() {
		c.Env = append(c.Env, envFromProto(e))
	}
	for _, port := range pb.GetPorts() {
		c.Ports = append(c.Ports, spec.Port{Name: port.GetName(), Number: port.GetNumber(), Protocol: port.GetProtocol(), HostPort: port.GetHostPort()})
	}
	for _, m := range pb.GetMounts() {
		c.Mounts = append(c.Mounts, spec.Mount{Volume: m.GetVolume(), Path: m.GetPath(), SubPath: m.GetSubPath(), ReadOnly: m.GetReadOnly()})
	}
	for _, r := range pb.GetRestartRules() {
		c.RestartRules = append(c.RestartRules, spec.RestartRule{Action: r.GetAction(), In: r.GetIn(), ExitCodes: r.GetExitCodes()})
	}
	if sec := pb.GetSecurity(); sec != nil {
		c.Security = spec.ContainerSecurity{
			RunAsUser: sec.RunAsUser, RunAsGroup: sec.RunAsGroup, RunAsNonRoot: sec.RunAsNonRoot,
			AddCapabilities: sec.GetAddCapabilities(), DropCapabilities: sec.GetDropCapabilities(),
			ReadOnlyRootFilesystem: sec.GetReadOnlyRootFilesystem(), AllowPrivilegeEscalation: sec.AllowPrivilegeEscalation,
			Seccomp: sec.GetSeccomp(),
		}
	}
	return c
}

func portToProto(r spec.PortRef) *musterv1.PortReference {
	if r.Name != "" {
		return &musterv1.PortReference{Port: &musterv1.PortReference_Name{Name: r.Name}}
	}
	return &musterv1.PortReference{Port: &musterv1.PortReference_Number{Number: r.Number}}
}

func portFromProto(pb *musterv1.PortReference) spec.PortRef {
	return spec.PortRef{Name: pb.GetName(), Number: pb.GetNumber()}
}

func probeToProto(p *spec.Probe) *musterv1.Probe {
	if p == nil {
		return nil
	}
	pb := &musterv1.Probe{
		InitialDelay: durationpb.New(p.InitialDelay), Period: durationpb.New(p.Period), Timeout: durationpb.New(p.Timeout),
		SuccessThreshold: p.SuccessThreshold, FailureThreshold: p.FailureThreshold,
	}
	if p.TerminationGrace != nil {
		pb.TerminationGrace = durationpb.New(*p.TerminationGrace)
	}
	switch {
	case p.Exec != nil:
		pb.Handler = &musterv1.Probe_Exec{Exec: &musterv1.ExecAction{Command: p.Exec.Command}}
	case p.HTTP != nil:
		pb.Handler = &musterv1.Probe_HttpGet{HttpGet: httpToProto(p.HTTP)}
	case p.TCP != nil:
		pb.Handler = &musterv1.Probe_TcpSocket{TcpSocket: &musterv1.TcpSocketAction{Host: p.TCP.Host, Port: portToProto(p.TCP.Port)}}
	case p.GRPC != nil:
		pb.Handler = &musterv1.Probe_Grpc{Grpc: &musterv1.GrpcAction{Port: p.GRPC.Port, Service: p.GRPC.Service, Mode: p.GRPC.Mode}}
	}
	return pb
}

func (p *parser) probe(field string, pb *musterv1.Probe) *spec.Probe {
	if pb == nil {
		return nil
	}
	out := &spec.Probe{
		InitialDelay:     p.duration(field+".initial_delay", pb.GetInitialDelay()),
		Period:           p.duration(field+".period", pb.GetPeriod()),
		Timeout:          p.duration(field+".timeout", pb.GetTimeout()),
		SuccessThreshold: pb.GetSuccessThreshold(), FailureThreshold: pb.GetFailureThreshold(),
	}
	if g := pb.GetTerminationGrace(); g != nil {
		grace := p.duration(field+".termination_grace", g)
		out.TerminationGrace = &grace
	}
	switch h := pb.GetHandler().(type) {
	case *musterv1.Probe_Exec:
		out.Exec = &spec.ExecAction{Command: h.Exec.GetCommand()}
	case *musterv1.Probe_HttpGet:
		out.HTTP = httpFromProto(h.HttpGet)
	case *musterv1.Probe_TcpSocket:
		out.TCP = &spec.TCPAction{Host: h.TcpSocket.GetHost(), Port: portFromProto(h.TcpSocket.GetPort())}
	case *musterv1.Probe_Grpc:
		out.GRPC = &spec.GRPCAction{Port: h.Grpc.GetPort(), Service: h.Grpc.GetService(), Mode: h.Grpc.GetMode()}
	}
	return out
}

// PodStatusToProto converts what is seen of a pod.
func PodStatusToProto(s *spec.PodStatus) *musterv1.PodStatus {
	pb := &musterv1.PodStatus{
		Phase: phases.to[s.Phase], Reason: s.Reason, Message: s.Message, Conditions: conditionsToProto(s.Conditions),
		PodIp: s.PodIP, HostIp: s.HostIP, StartTime: stamp(s.StartTime), Fence: s.Fence,
	}
	pb.Containers, pb.InitContainers = containerStatusesToProto(s.Containers), containerStatusesToProto(s.InitContainers)
	return pb
}

func containerStatusesToProto(all []spec.ContainerStatus) (out []*musterv1.ContainerStatus) {
	for _, c := range all {
		out = append(out, &musterv1.ContainerStatus{
			Name: c.Name, Id: c.ID, Image: c.Image, Started: c.Started, Ready: c.Ready, Restarts: c.Restarts,
			State: stateToProto(c.State), Last: stateToProto(c.Last),
		})
	}
	return out
}

// PodStatusFromProto is the inverse of PodStatusToProto.
func PodStatusFromProto(pb *musterv1.PodStatus) (spec.PodStatus, error) {
	p := &parser{}
	s := p.podStatus("status", pb)
	return s, p.err
}

func (p *parser) podStatus(field string, pb *musterv1.PodStatus) spec.PodStatus {
	s := spec.PodStatus{
		Phase: in(p, field+".phase", phases, pb.GetPhase()), Reason: pb.GetReason(), Message: pb.GetMessage(),
		Conditions: p.conditions(field+".conditions", pb.GetConditions()), PodIP: pb.GetPodIp(), HostIP: pb.GetHostIp(),
		StartTime: p.time(field+".start_time", pb.GetStartTime()), Fence: pb.GetFence(),
		Containers:     p.containerStatuses(field+".containers", pb.GetContainers()),
		InitContainers: p.containerStatuses(field+".init_containers", pb.GetInitContainers()),
	}
	return s
}

func (p *parser) containerStatuses(field string, all []*musterv1.ContainerStatus) (out []spec.ContainerStatus) {
	for _, c := range all {
		at := field + "[" + c.GetName() + "]"
		out = append(out, spec.ContainerStatus{
			Name: c.GetName(), ID: c.GetId(), Image: c.GetImage(), Started: c.GetStarted(), Ready: c.GetReady(),
			Restarts: c.GetRestarts(), State: p.state(at+".state", c.GetState()), Last: p.state(at+".last", c.GetLast()),
		})
	}
	return out
}

func stateToProto(s spec.ContainerState) *musterv1.ContainerState {
	switch {
	case s.Waiting != nil:
		return &musterv1.ContainerState{State: &musterv1.ContainerState_Waiting{
			Waiting: &musterv1.ContainerWaiting{Reason: s.Waiting.Reason, Message: s.Waiting.Message},
		}}
	case s.Running != nil:
		return &musterv1.ContainerState{State: &musterv1.ContainerState_Running{
			Running: &musterv1.ContainerRunning{StartedAt: stamp(s.Running.StartedAt)},
		}}
	case s.Terminated != nil:
		return &musterv1.ContainerState{State: &musterv1.ContainerState_Terminated{Terminated: terminatedToProto(s.Terminated)}}
	}
	return nil
}

func terminatedToProto(t *spec.Terminated) *musterv1.ContainerTerminated {
	return &musterv1.ContainerTerminated{
		ExitCode: t.ExitCode, Signal: t.Signal, Reason: t.Reason, Message: t.Message,
		StartedAt: stamp(t.StartedAt), FinishedAt: stamp(t.FinishedAt), Id: t.ID,
	}
}

func (p *parser) terminated(field string, t *musterv1.ContainerTerminated) *spec.Terminated {
	return &spec.Terminated{
		ExitCode: t.GetExitCode(), Signal: t.GetSignal(), Reason: t.GetReason(), Message: t.GetMessage(),
		StartedAt: p.time(field+".started_at", t.GetStartedAt()), FinishedAt: p.time(field+".finished_at", t.GetFinishedAt()),
		ID: t.GetId(),
	}
}

func (p *parser) state(field string, pb *musterv1.ContainerState) spec.ContainerState {
	switch s := pb.GetState().(type) {
	case *musterv1.ContainerState_Waiting:
		return spec.ContainerState{Waiting: &spec.Waiting{Reason: s.Waiting.GetReason(), Message: s.Waiting.GetMessage()}}
	case *musterv1.ContainerState_Running:
		return spec.ContainerState{Running: &spec.Running{StartedAt: p.time(field+".started_at", s.Running.GetStartedAt())}}
	case *musterv1.ContainerState_Terminated:
		return spec.ContainerState{Terminated: p.terminated(field, s.Terminated)}
	}
	return spec.ContainerState{}
}

// HeldStatusToProto converts a status with its epoch.
func HeldStatusToProto(h *spec.HeldStatus) *musterv1.HeldStatus {
	return &musterv1.HeldStatus{Uid: h.UID, Epoch: h.Epoch, Stopped: h.Stopped, Status: PodStatusToProto(&h.Status)}
}

// HeldStatusFromProto is the inverse of HeldStatusToProto.
func HeldStatusFromProto(pb *musterv1.HeldStatus) (*spec.HeldStatus, error) {
	p := &parser{}
	h := &spec.HeldStatus{UID: pb.GetUid(), Epoch: pb.GetEpoch(), Stopped: pb.GetStopped(), Status: p.podStatus("status", pb.GetStatus())}
	return h, p.err
}

// DeploymentToProto converts a Deployment with its status.
func DeploymentToProto(d *spec.Deployment) *musterv1.Deployment {
	replicas := d.Spec.Replicas
	return &musterv1.Deployment{
		Meta: MetaToProto(d.Meta),
		Spec: &musterv1.DeploymentSpec{
			Replicas: &replicas, Selector: selectorToProto(d.Spec.Selector),
			Template: templateToProto(&d.Spec.Template),
			Strategy: strategyToProto(&d.Spec.Strategy), MinReady: some(d.Spec.MinReady), RevisionHistoryLimit: d.Spec.RevisionHistoryLimit,
			ProgressDeadline: some(d.Spec.ProgressDeadline), Paused: d.Spec.Paused,
		},
		Status: deploymentStatusToProto(&d.Status),
	}
}

// DeploymentFromProto is the inverse of DeploymentToProto; replicas left out are 1.
func DeploymentFromProto(pb *musterv1.Deployment) (*spec.Deployment, error) {
	p := &parser{}
	d := &spec.Deployment{
		Meta: p.meta(pb.GetMeta()),
		Spec: spec.DeploymentSpec{
			Replicas: 1, Selector: p.selector("spec.selector", pb.GetSpec().GetSelector()),
			Template: p.template("spec.template", pb.GetSpec().GetTemplate()),
			Strategy: p.strategy("spec.strategy", pb.GetSpec().GetStrategy()),
			MinReady: p.duration("spec.min_ready", pb.GetSpec().GetMinReady()), Paused: pb.GetSpec().GetPaused(),
			ProgressDeadline: p.duration("spec.progress_deadline", pb.GetSpec().GetProgressDeadline()),
		},
		Status: p.deploymentStatus(pb.GetStatus()),
	}
	if pb.GetSpec() != nil && pb.GetSpec().Replicas != nil {
		d.Spec.Replicas = pb.GetSpec().GetReplicas()
	}
	if pb.GetSpec() != nil {
		d.Spec.RevisionHistoryLimit = pb.GetSpec().RevisionHistoryLimit
	}
	return d, p.err
}

func deploymentStatusToProto(s *spec.DeploymentStatus) *musterv1.DeploymentStatus {
	return &musterv1.DeploymentStatus{
		ObservedGeneration: s.ObservedGeneration, Replicas: s.Replicas, UpdatedReplicas: s.UpdatedReplicas,
		ReadyReplicas: s.Ready, AvailableReplicas: s.Available, Conditions: conditionsToProto(s.Conditions),
		Revision: s.Revision, ProgressTime: stamp(s.ProgressTime),
	}
}

func (p *parser) deploymentStatus(pb *musterv1.DeploymentStatus) spec.DeploymentStatus {
	return spec.DeploymentStatus{
		ObservedGeneration: pb.GetObservedGeneration(), Replicas: pb.GetReplicas(), UpdatedReplicas: pb.GetUpdatedReplicas(),
		Ready: pb.GetReadyReplicas(), Available: pb.GetAvailableReplicas(),
		Conditions: p.conditions("status.conditions", pb.GetConditions()),
		Revision:   pb.GetRevision(), ProgressTime: p.time("status.progress_time", pb.GetProgressTime()),
	}
}

func selectorToProto(s spec.Selector) *musterv1.LabelSelector {
	pb := &musterv1.LabelSelector{MatchLabels: s.Labels}
	for _, e := range s.Expressions {
		pb.MatchExpressions = append(pb.MatchExpressions, &musterv1.LabelExpression{
			Key: e.Key, Operator: operators.to[e.Operator], Values: e.Values,
		})
	}
	return pb
}

func (p *parser) selector(field string, pb *musterv1.LabelSelector) spec.Selector {
	s := spec.Selector{Labels: pb.GetMatchLabels()}
	for i, e := range pb.GetMatchExpressions() {
		s.Expressions = append(s.Expressions, spec.SelectorExpression{
			Key: e.GetKey(), Values: e.GetValues(),
			Operator: in(p, fmt.Sprintf("%s.match_expressions[%d].operator", field, i), operators, e.GetOperator()),
		})
	}
	return s
}
