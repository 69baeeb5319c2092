package cli

import (
	"fmt"
	"math"
	"reflect"
	"strconv"

	"google.golang.org/protobuf/types/known/durationpb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

// This file shows objects in the shape that Kubernetes gives them, so that the tools people have understand them. It
// only shows; what a manifest says is understood by internal/manifest. Time stamps keep their fractions.

// fields is a JSON object under way.
type fields map[string]any

// set adds a field that is always there.
func (f fields) set(name string, value any) fields {
	f[name] = value
	return f
}

// put adds a field unless its value is empty: zero, nil, "", or without elements.
func (f fields) put(name string, value any) fields {
	v := reflect.ValueOf(value)
	if !v.IsValid() || v.IsZero() || (v.Kind() == reflect.Map || v.Kind() == reflect.Slice) && v.Len() == 0 {
		return f
	}
	return f.set(name, value)
}

// each makes a list; nil of none.
func each[T any](in []T, of func(T) fields) []fields {
	var out []fields
	for _, x := range in {
		out = append(out, of(x))
	}
	return out
}

func metaFields(m *musterv1.ObjectMeta) fields {
	f := fields{}.
		set("name", m.GetName()).
		put("namespace", m.GetNamespace()).
		put("uid", m.GetUid()).
		put("labels", m.GetLabels()).
		put("annotations", m.GetAnnotations()).
		put("creationTimestamp", timeText(m.GetCreateTime())).
		put("generation", m.GetGeneration())
	if m.GetRevision() != 0 {
		f.set("resourceVersion", strconv.FormatInt(m.GetRevision(), 10))
	}
	if m.GetDeleteTime() != nil {
		f.set("deletionTimestamp", timeText(m.GetDeleteTime()))
		f.set("deletionGracePeriodSeconds", wholeSeconds(m.GetDeleteGrace()))
	}
	if o := m.GetOwner(); o != nil {
		f.set("ownerReferences", []fields{{"apiVersion": "apps/v1", "kind": o.GetKind(), "name": o.GetName(), "uid": o.GetUid(), "controller": true}})
	}
	return f
}

// wholeSeconds rounds up, as Kubernetes has no fractions there: a sub-second probe has an annotation too.
func wholeSeconds(d *durationpb.Duration) int64 { return int64(math.Ceil(d.AsDuration().Seconds())) }

func conditionFields(c *musterv1.Condition) fields {
	return fields{"type": c.GetType(), "status": c.GetStatus()}.
		put("reason", c.GetReason()).
		put("message", c.GetMessage()).
		put("lastTransitionTime", timeText(c.GetTransitionTime()))
}

func podValue(p *musterv1.Pod) any {
	s := p.GetStatus()
	status := fields{"phase": podPhase(s.GetPhase())}.
		put("reason", s.GetReason()).
		put("message", s.GetMessage()).
		put("conditions", each(s.GetConditions(), conditionFields)).
		put("podIP", s.GetPodIp()).
		put("hostIP", s.GetHostIp()).
		put("startTime", timeText(s.GetStartTime())).
		put("initContainerStatuses", each(s.GetInitContainers(), containerStatusFields)).
		put("containerStatuses", each(s.GetContainers(), containerStatusFields)).
		set("muster", fields{"failover": enumWord(p.GetFailoverClass().String(), "FAILOVER_CLASS_")}.
			put("epoch", p.GetEpoch()).
			put("fence", s.GetFence()))
	if s.GetPodIp() != "" {
		status.set("podIPs", []fields{{"ip": s.GetPodIp()}})
	}
	return fields{
		"apiVersion": "v1", "kind": "Pod", "metadata": metaFields(p.GetMeta()),
		"spec": podSpecFields(p.GetSpec()).put("nodeName", p.GetNode()), "status": status,
	}
}

func podSpecFields(s *musterv1.PodSpec) fields {
	f := fields{"restartPolicy": restartPolicy(s.GetRestartPolicy())}.
		put("initContainers", each(s.GetInitContainers(), containerFields)).
		set("containers", each(s.GetContainers(), containerFields)).
		put("nodeSelector", s.GetNodeSelector()).
		put("hostname", s.GetHostname()).
		put("dnsPolicy", s.GetDnsPolicy()).
		put("dnsConfig", dnsFields(s.GetDnsConfig())).
		put("readinessGates", each(s.GetReadinessGates(), func(g string) fields { return fields{"conditionType": g} })).
		put("shareProcessNamespace", s.GetShareProcessNamespace()).
		put("hostNetwork", s.GetHostNetwork()).
		put("hostPID", s.GetHostPid()).
		put("hostIPC", s.GetHostIpc()).
		put("securityContext", podSecurityFields(s.GetSecurity())).
		put("volumes", each(s.GetVolumes(), volumeFields))
	if g := s.GetTerminationGrace(); g != nil {
		f.set("terminationGracePeriodSeconds", wholeSeconds(g))
	}
	return placementFields(f, s)
}

func volumeFields(v *musterv1.Volume) fields {
	if e := v.GetEmptyDir(); e != nil {
		dir := fields{}
		if e.GetMemory() {
			dir.set("medium", "Memory")
		}
		if n := e.GetSizeLimitBytes(); n > 0 {
			dir.set("sizeLimit", strconv.FormatInt(n, 10))
		}
		return fields{"name": v.GetName(), "emptyDir": dir}
	}
	if f := v.GetFiles(); f != nil {
		return fields{"name": v.GetName(), f.GetKind(): filesFields(f)}
	}
	return fields{"name": v.GetName(), "hostPath": fields{"path": v.GetHostPath()}.put("type", v.GetHostPathType())}
}

// setPtr gives f what p points to, unless that is nothing.
func setPtr[T any](f fields, key string, p *T) {
	if p != nil {
		f.set(key, *p)
	}
}

func podSecurityFields(s *musterv1.PodSecurity) fields {
	if s == nil {
		return nil
	}
	f := fields{}.
		put("runAsNonRoot", s.GetRunAsNonRoot()).
		put("supplementalGroups", s.GetSupplementalGroups()).
		put("seccompProfile", fields{}.put("type", s.GetSeccomp()))
	setPtr(f, "runAsUser", s.RunAsUser)
	setPtr(f, "runAsGroup", s.RunAsGroup)
	setPtr(f, "fsGroup", s.FsGroup)
	return f
}

func containerSecurityFields(s *musterv1.ContainerSecurity) fields {
	if s == nil {
		return nil
	}
	f := fields{}.
		put("readOnlyRootFilesystem", s.GetReadOnlyRootFilesystem()).
		put("capabilities", fields{}.put("add", s.GetAddCapabilities()).put("drop", s.GetDropCapabilities())).
		put("seccompProfile", fields{}.put("type", s.GetSeccomp()))
	setPtr(f, "runAsUser", s.RunAsUser)
	setPtr(f, "runAsGroup", s.RunAsGroup)
	setPtr(f, "runAsNonRoot", s.RunAsNonRoot)
	setPtr(f, "allowPrivilegeEscalation", s.AllowPrivilegeEscalation)
	return f
}

func containerFields(c *musterv1.Container) fields {
	f := fields{"name": c.GetName()}.
		put("image", c.GetImage()).
		put("command", c.GetCommand()).
		put("args", c.GetArgs()).
		put("workingDir", c.GetWorkingDir()).
		put("envFrom", each(c.GetEnvFrom(), envFromFields)).
		put("env", each(c.GetEnv(), envFields)).
		put("ports", each(c.GetPorts(), func(p *musterv1.ContainerPort) fields {
			return fields{"containerPort": p.GetNumber()}.put("name", p.GetName()).put("protocol", p.GetProtocol()).put("hostPort", p.GetHostPort())
		})).
		put("resources", fields{}.put("requests", resourceFields(c.GetRequests())).put("limits", resourceFields(c.GetLimits()))).
		put("volumeMounts", each(c.GetMounts(), func(m *musterv1.VolumeMount) fields {
			return fields{"name": m.GetVolume(), "mountPath": m.GetPath()}.put("subPath", m.GetSubPath()).put("readOnly", m.GetReadOnly())
		})).
		put("securityContext", containerSecurityFields(c.GetSecurity())).
		put("livenessProbe", probeFields(c.GetLiveness())).
		put("readinessProbe", probeFields(c.GetReadiness())).
		put("startupProbe", probeFields(c.GetStartup())).
		put("lifecycle", fields{}.put("postStart", hookFields(c.GetLifecycle().GetPostStart())).put("preStop", hookFields(c.GetLifecycle().GetPreStop()))).
		put("restartPolicyRules", each(c.GetRestartRules(), func(r *musterv1.RestartRule) fields {
			operator := "NotIn"
			if r.GetIn() {
				operator = "In"
			}
			return fields{"action": r.GetAction(), "exitCodes": fields{"operator": operator, "values": r.GetExitCodes()}}
		}))
	if c.GetRestartPolicy() != musterv1.RestartPolicy_RESTART_POLICY_UNSPECIFIED {
		f.set("restartPolicy", restartPolicy(c.GetRestartPolicy()))
	}
	return f
}

func envFields(e *musterv1.EnvVar) fields {
	f := fields{"name": e.GetName()}
	if e.GetFieldPath() != "" {
		return f.set("valueFrom", fields{"fieldRef": fields{"apiVersion": "v1", "fieldPath": e.GetFieldPath()}})
	}
	if k := e.GetKey(); k != nil {
		ref := fields{"name": k.GetName(), "key": k.GetKey()}.put("optional", k.GetOptional())
		return f.set("valueFrom", fields{refField(k.GetKind()) + "KeyRef": ref})
	}
	if r := e.GetResource(); r != nil {
		return f.set("valueFrom", fields{"resourceFieldRef": resourceRefFields(r)})
	}
	return f.put("value", e.GetValue())
}

func resourceFields(r *musterv1.ResourceList) fields {
	f := fields{}
	if r.GetMilliCpu() != 0 {
		f.set("cpu", fmt.Sprintf("%dm", r.GetMilliCpu()))
	}
	if r.GetMemoryBytes() != 0 {
		f.set("memory", strconv.FormatInt(r.GetMemoryBytes(), 10))
	}
	return f
}

func probeFields(p *musterv1.Probe) fields {
	if p == nil {
		return nil
	}
	f := fields{"periodSeconds": wholeSeconds(p.GetPeriod()), "timeoutSeconds": wholeSeconds(p.GetTimeout())}.
		set("successThreshold", p.GetSuccessThreshold()).
		set("failureThreshold", p.GetFailureThreshold()).
		put("initialDelaySeconds", wholeSeconds(p.GetInitialDelay()))
	if g := p.GetTerminationGrace(); g != nil {
		f.set("terminationGracePeriodSeconds", wholeSeconds(g))
	}
	switch h := p.GetHandler().(type) {
	case *musterv1.Probe_Exec:
		f.set("exec", fields{"command": h.Exec.GetCommand()})
	case *musterv1.Probe_HttpGet:
		f.set("httpGet", httpFields(h.HttpGet))
	case *musterv1.Probe_TcpSocket:
		f.set("tcpSocket", fields{"port": portValue(h.TcpSocket.GetPort())}.put("host", h.TcpSocket.GetHost()))
	case *musterv1.Probe_Grpc:
		f.set("grpc", fields{"port": h.Grpc.GetPort()}.put("service", h.Grpc.GetService()).put("mode", h.Grpc.GetMode()))
	}
	return f
}

func httpFields(g *musterv1.HttpGetAction) fields {
	return fields{"port": portValue(g.GetPort())}.
		put("path", g.GetPath()).
		put("scheme", g.GetScheme()).
		put("host", g.GetHost()).
		put("protocol", g.GetProtocol()).
		put("httpHeaders", each(g.GetHeaders(), func(h *musterv1.HttpHeader) fields {
			return fields{"name": h.GetName(), "value": h.GetValue()}
		}))
}

func hookFields(h *musterv1.Hook) fields {
	switch h := h.GetHandler().(type) {
	case *musterv1.Hook_Exec:
		return fields{"exec": fields{"command": h.Exec.GetCommand()}}
	case *musterv1.Hook_HttpGet:
		return fields{"httpGet": httpFields(h.HttpGet)}
	case *musterv1.Hook_Sleep:
		return fields{"sleep": fields{"seconds": wholeSeconds(h.Sleep.GetDuration())}}
	}
	return nil
}

// portValue is a number or a name.
func portValue(p *musterv1.PortReference) any {
	if p.GetName() != "" {
		return p.GetName()
	}
	return p.GetNumber()
}

func containerStatusFields(c *musterv1.ContainerStatus) fields {
	return fields{"name": c.GetName(), "ready": c.GetReady(), "started": c.GetStarted(), "restartCount": c.GetRestarts(), "image": c.GetImage()}.
		set("containerID", c.GetId()).
		set("state", stateFields(c.GetState(), true)).
		set("lastState", stateFields(c.GetLast(), false))
}

// stateFields is a container's state; without one it is waiting, or where there need not be one, nothing.
func stateFields(s *musterv1.ContainerState, some bool) fields {
	switch st := s.GetState().(type) {
	case *musterv1.ContainerState_Running:
		return fields{"running": fields{"startedAt": timeText(st.Running.GetStartedAt())}}
	case *musterv1.ContainerState_Terminated:
		t := st.Terminated
		return fields{"terminated": fields{"exitCode": t.GetExitCode()}.
			put("signal", t.GetSignal()).
			put("reason", t.GetReason()).
			put("message", t.GetMessage()).
			put("startedAt", timeText(t.GetStartedAt())).
			put("finishedAt", timeText(t.GetFinishedAt())).
			put("containerID", t.GetId())}
	case *musterv1.ContainerState_Waiting:
		return fields{"waiting": fields{}.put("reason", st.Waiting.GetReason()).put("message", st.Waiting.GetMessage())}
	}
	if some {
		return fields{"waiting": fields{}}
	}
	return fields{}
}

func deploymentValue(d *musterv1.Deployment) any {
	spec, s := d.GetSpec(), d.GetStatus()
	template := fields{
		"metadata": fields{}.put("labels", spec.GetTemplate().GetLabels()).put("annotations", spec.GetTemplate().GetAnnotations()),
		"spec":     podSpecFields(spec.GetTemplate().GetSpec()),
	}
	return fields{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metaFields(d.GetMeta()),
		"spec": rolloutFields(spec).set("replicas", replicas(d)).set("selector", selectorFields(spec.GetSelector())).set("template", template),
		"status": fields{
			"observedGeneration": s.GetObservedGeneration(), "replicas": s.GetReplicas(), "updatedReplicas": s.GetUpdatedReplicas(),
			"readyReplicas": s.GetReadyReplicas(), "availableReplicas": s.GetAvailableReplicas(),
			"unavailableReplicas": max(0, replicas(d)-s.GetAvailableReplicas()),
		}.
			put("conditions", each(s.GetConditions(), conditionFields)).
			put("muster", fields{}.put("revision", s.GetRevision())),
	}
}

func strategyType(t musterv1.DeploymentStrategy_Type) string {
	if t == musterv1.DeploymentStrategy_TYPE_RECREATE {
		return "Recreate"
	}
	return "RollingUpdate"
}

// rolloutFields are those of a Deployment's spec that say how it rolls.
func rolloutFields(s *musterv1.DeploymentSpec) fields {
	strategy, rolling := fields{"type": strategyType(s.GetStrategy().GetType())}, fields{}
	setIntOrPercent(rolling, "maxSurge", s.GetStrategy().GetMaxSurge())
	setIntOrPercent(rolling, "maxUnavailable", s.GetStrategy().GetMaxUnavailable())
	f := fields{"strategy": strategy.put("rollingUpdate", rolling)}.
		put("minReadySeconds", wholeSeconds(s.GetMinReady())).
		put("paused", s.GetPaused())
	setPtr(f, "revisionHistoryLimit", s.RevisionHistoryLimit)
	if s.GetProgressDeadline() != nil {
		f.set("progressDeadlineSeconds", wholeSeconds(s.GetProgressDeadline()))
	}
	return f
}

func operatorWord(o musterv1.LabelExpression_Operator) string {
	switch o {
	case musterv1.LabelExpression_OPERATOR_IN:
		return "In"
	case musterv1.LabelExpression_OPERATOR_NOT_IN:
		return "NotIn"
	case musterv1.LabelExpression_OPERATOR_EXISTS:
		return "Exists"
	case musterv1.LabelExpression_OPERATOR_DOES_NOT_EXIST:
		return "DoesNotExist"
	}
	return ""
}

func nodeValue(n *musterv1.Node) any {
	f, s, l := n.GetFacts(), n.GetStatus(), n.GetLease()
	ready := &musterv1.Condition{Type: "Ready", Status: "Unknown", Reason: nodeVerdict(s.GetVerdict()), Message: s.GetCause(), TransitionTime: s.GetSince()}
	if s.GetVerdict() == musterv1.NodeVerdict_NODE_VERDICT_READY {
		ready.Status = "True"
	}
	session := "down"
	if n.GetSessionUp() {
		session = "up"
	}
	network := n.GetPodCidr()
	if network == "" && f.GetPodNet() != "" {
		network = f.GetPodNet() + "/24"
	}
	allocatable := resourceFields(f.GetAllocatable())
	if f.GetMaxPods() != 0 {
		allocatable.set("pods", strconv.Itoa(int(f.GetMaxPods())))
	}
	addresses := []fields{{"type": "Hostname", "address": n.GetMeta().GetName()}}
	if f.GetAddress() != "" {
		addresses = append([]fields{{"type": "InternalIP", "address": f.GetAddress()}}, addresses...)
	}
	status := fields{"conditions": []fields{conditionFields(ready)}, "addresses": addresses}.
		put("allocatable", allocatable).
		put("capacity", allocatable).
		put("nodeInfo", fields{}.
			put("architecture", f.GetArch()).
			put("operatingSystem", f.GetOs()).
			put("kernelVersion", f.GetKernel()).
			put("bootID", f.GetBootId())).
		set("muster", fields{
			"verdict": nodeVerdict(s.GetVerdict()), "member": s.GetMember(), "session": session, "isolation": f.GetIsolation(),
			"lease": enumWord(l.GetState().String(), "LEASE_STATE_"), "pods": n.GetPods(),
		}.
			put("since", timeText(s.GetSince())).
			put("cause", s.GetCause()).
			put("runtimes", f.GetRuntimes()).
			put("images", f.GetImages()).
			put("network", f.GetNetwork()).
			put("version", f.GetVersion()).
			put("guard", f.GetGuardAddress()).
			put("gossip", f.GetGossipAddress()).
			put("http", f.GetHttpAddress()).
			put("lease_ttl_ms", l.GetTtl().AsDuration().Milliseconds()))
	return fields{
		"apiVersion": "v1", "kind": "Node", "metadata": metaFields(n.GetMeta()),
		"spec": fields{"unschedulable": n.GetUnschedulable()}.put("podCIDR", network).put("taints", taintFields(n.GetTaints())), "status": status,
	}
}

func eventValue(e *musterv1.Event) any {
	o := e.GetInvolved()
	return fields{
		"apiVersion": "v1", "kind": "Event", "metadata": metaFields(e.GetMeta()),
		"type": e.GetType(), "reason": e.GetReason(), "message": e.GetMessage(), "count": e.GetCount(),
		"firstTimestamp": timeText(e.GetFirstTime()), "lastTimestamp": timeText(e.GetLastTime()),
		"involvedObject": fields{"kind": o.GetKind(), "name": o.GetName()}.
			put("namespace", o.GetNamespace()).
			put("uid", o.GetUid()).
			put("fieldPath", o.GetFieldPath()),
		"source": fields{"component": e.GetSource()}.put("host", e.GetNode()),
	}
}
