package oracle

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

// draw makes one random pod. Most values are right; about one in flaw draws is not.
type draw struct {
	*rapid.T
	// flaws is how often, in a thousand, a value is one that may be wrong.
	flaws int
}

// some tells with that many chances in a hundred.
func (t draw) some(percent int) bool { return t.upTo(100) < percent }

// upTo is a number below n, each as likely as any other: rapid's own ranges prefer the small ones.
func (t draw) upTo(n int) int { return rapid.SampledFrom(numbers[:n]).Draw(t.T, "") }

var numbers = func() (all [1000]int) {
	for i := range all {
		all[i] = i
	}
	return all
}()

// pick is one of the right values, or now and then one of the odd ones.
func pick[V any](t draw, right, odd []V) V {
	if len(odd) > 0 && t.upTo(1000) < t.flaws {
		return rapid.SampledFrom(odd).Draw(t.T, "")
	}
	return rapid.SampledFrom(right).Draw(t.T, "")
}

// maybe is a pointer to a value, or nil.
func maybe[V any](t draw, percent int, v func() V) *V {
	if !t.some(percent) {
		return nil
	}
	x := v()
	return &x
}

// many is a short list.
func many[V any](t draw, most int, v func(i int) V) []V {
	var all []V
	for i := range t.upTo(most + 1) {
		all = append(all, v(i))
	}
	return all
}

func (t draw) int32s(right ...int32) int32 {
	return pick(t, right, []int32{-1, 0, -7, 1 << 30})
}

func (t draw) pod() *corev1.Pod {
	p := &corev1.Pod{}
	p.Name = pick(t, []string{"web", "web.example", "a-1"}, []string{"", "Web", "-a", strings.Repeat("a", 254), "a_b", "a..b"})
	p.Namespace = pick(t, []string{"", "default", "team-1"}, []string{"Team", "a.b", strings.Repeat("n", 64)})
	if t.some(30) {
		p.Labels = map[string]string{
			pick(t, []string{"app", "example.com/app"}, []string{"", "a b", "/x", "Example.com/x", strings.Repeat("l", 64)}): pick(t, []string{"web", ""}, []string{"a b", "-", strings.Repeat("v", 64)}),
		}
	}
	if t.some(20) {
		p.Annotations = map[string]string{pick(t, []string{"note", "example.com/Note"}, []string{"", "a b", "x/y/z"}): "any thing"}
	}
	p.Spec = t.podSpec()
	if t.flaws == 0 {
		mend(&p.Spec)
	}
	return p
}

// mend takes out what does not go together; a pod without flaws is mostly right then.
func mend(s *corev1.PodSpec) {
	if s.HostPID {
		s.ShareProcessNamespace = nil
	}
	grace := int64(30)
	if g := s.TerminationGracePeriodSeconds; g != nil {
		grace = *g
	}
	for i := range s.Tolerations {
		t := &s.Tolerations[i]
		if t.TolerationSeconds != nil {
			t.Effect = corev1.TaintEffectNoExecute
		}
		if t.Operator == corev1.TolerationOpExists {
			t.Value = ""
		}
		if t.Key == "" {
			t.Operator, t.Value = corev1.TolerationOpExists, ""
		}
	}
	if s.DNSPolicy == corev1.DNSNone && len(s.DNSConfig.Nameservers) == 0 {
		s.DNSConfig.Nameservers = []string{"127.0.0.1"}
	}
	if c := s.TopologySpreadConstraints; len(c) == 2 && c[0].TopologyKey == c[1].TopologyKey && c[0].WhenUnsatisfiable == c[1].WhenUnsatisfiable {
		s.TopologySpreadConstraints = c[:1]
	}
	for i := range s.Volumes {
		if p := s.Volumes[i].Projected; p != nil {
			for j := range p.Sources {
				for k, source := 0, &p.Sources[j]; k < 2; k++ { // a path of each item's own
					own := strings.Repeat("x", 1+2*j+k)
					switch {
					case source.ConfigMap != nil && k < len(source.ConfigMap.Items):
						source.ConfigMap.Items[k].Path = own
					case source.Secret != nil && k < len(source.Secret.Items):
						source.Secret.Items[k].Path = own
					case source.DownwardAPI != nil && k < len(source.DownwardAPI.Items):
						source.DownwardAPI.Items[k].Path = own
					}
				}
			}
		}
	}
	port := int32(20000)
	mendContainer := func(c *corev1.Container, initial bool) {
		for i := range c.Ports {
			p := &c.Ports[i]
			if p.HostPort != 0 || s.HostNetwork {
				port++
				p.HostPort = port
			}
			if s.HostNetwork {
				p.ContainerPort = port
			}
		}
		for name, limit := range c.Resources.Limits {
			if request := c.Resources.Requests[name]; request.Cmp(limit) > 0 {
				c.Resources.Requests[name] = limit
			}
		}
		c.VolumeMounts = c.VolumeMounts[:min(len(c.VolumeMounts), len(s.Volumes))]
		for i := range c.VolumeMounts {
			c.VolumeMounts[i].Name = s.Volumes[i].Name
		}
		for i := range c.RestartPolicyRules {
			if c.RestartPolicyRules[i].ExitCodes == nil {
				c.RestartPolicyRules[i].ExitCodes = &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpNotIn}
			}
		}
		if c.RestartPolicy == nil {
			c.RestartPolicyRules = nil
		}
		if initial && (c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways) {
			c.LivenessProbe, c.ReadinessProbe, c.StartupProbe, c.Lifecycle = nil, nil, nil, nil
		}
		get := func(a *corev1.HTTPGetAction) {
			if a != nil && a.Protocol != nil && *a.Protocol == corev1.HTTPProtocolHTTP2 {
				a.Scheme, a.Host = "", ""
			}
		}
		for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
			if p != nil {
				get(p.HTTPGet)
			}
		}
		if c.ReadinessProbe != nil {
			c.ReadinessProbe.TerminationGracePeriodSeconds = nil
		}
		if c.Lifecycle != nil {
			for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
				if h != nil {
					get(h.HTTPGet)
				}
				if h != nil && h.Sleep != nil {
					h.Sleep.Seconds = min(h.Sleep.Seconds, grace)
				}
			}
		}
	}
	for i := range s.InitContainers {
		mendContainer(&s.InitContainers[i], true)
	}
	for i := range s.Containers {
		mendContainer(&s.Containers[i], false)
	}
}

func (t draw) podSpec() corev1.PodSpec {
	s := corev1.PodSpec{
		RestartPolicy: pick(t, []corev1.RestartPolicy{"", "Always", "OnFailure", "Never"}, []corev1.RestartPolicy{"always", "Sometimes"}),
		Hostname:      pick(t, []string{"", "", "web"}, []string{"Web", "a.b", strings.Repeat("h", 64)}),
		HostNetwork:   t.some(12), HostPID: t.some(12), HostIPC: t.some(12),
	}
	s.TerminationGracePeriodSeconds = maybe(t, 30, func() int64 { return pick(t, []int64{0, 1, 30, 3600}, []int64{-1, -30}) })
	s.ShareProcessNamespace = maybe(t, 20, func() bool { return t.some(60) })
	if t.some(20) {
		s.NodeSelector = map[string]string{pick(t, []string{"disk", "example.com/disk"}, []string{"a b", ""}): pick(t, []string{"ssd", ""}, []string{"a b"})}
	}
	if t.some(25) {
		s.ReadinessGates = many(t, 2, func(int) corev1.PodReadinessGate {
			return corev1.PodReadinessGate{ConditionType: pick(t, []corev1.PodConditionType{"ready", "example.com/Gate"}, []corev1.PodConditionType{"", "a b"})}
		})
	}
	if t.some(80) {
		s.Volumes = many(t, 7, t.volume)
	}
	if t.some(30) {
		s.SecurityContext = t.podSecurity()
	}
	s.Tolerations = many(t, 1, func(int) corev1.Toleration { return t.toleration() })
	if t.some(20) {
		s.Affinity = t.affinity()
	}
	if t.some(20) {
		s.TopologySpreadConstraints = many(t, 2, func(int) corev1.TopologySpreadConstraint { return t.spread() })
	}
	s.DNSPolicy = pick(t, []corev1.DNSPolicy{"", "", "ClusterFirst", "Default", "ClusterFirstWithHostNet", "None"}, []corev1.DNSPolicy{"none"})
	if s.DNSPolicy == corev1.DNSNone || t.some(15) {
		s.DNSConfig = t.dns()
	}
	if t.some(60) {
		s.InitContainers = many(t, 2, func(i int) corev1.Container {
			return t.container(pick(t, []string{"init", "setup"}, nil)+string(rune('0'+i)), true)
		})
	}
	s.Containers = []corev1.Container{t.container(pick(t, []string{"web"}, []string{"", "Web", "init0", strings.Repeat("c", 64)}), false)}
	if t.some(50) {
		s.Containers = append(s.Containers, t.container(pick(t, []string{"log"}, []string{"web", "a_b"}), false))
	}
	if pick(t, []bool{false}, []bool{true}) && t.some(20) {
		s.Containers = nil
	}
	return s
}

func (t draw) container(name string, initial bool) corev1.Container {
	c := corev1.Container{
		Name: name, Image: pick(t, []string{"registry/web:1"}, []string{"", " web"}),
		Command: []string{"serve"}, WorkingDir: pick(t, []string{"", "", "/srv"}, nil),
	}
	if t.some(30) {
		c.Args = []string{"--port", "80"}
	}
	if t.some(40) {
		c.Env = many(t, 2, func(int) corev1.EnvVar { return t.env() })
	}
	if t.some(25) {
		c.EnvFrom = many(t, 2, func(int) corev1.EnvFromSource { return t.envFrom() })
	}
	if t.some(50) {
		c.Ports = many(t, 2, func(i int) corev1.ContainerPort {
			return corev1.ContainerPort{
				Name:          pick(t, []string{"", []string{"http", "admin"}[i]}, []string{"http", "8080", "Http", "a--b", "waytoolongaportname"}),
				ContainerPort: pick(t, []int32{80, 8080, 65535}, []int32{0, -1, 65536}),
				HostPort:      pick(t, []int32{0, 0, 8080, 9090}, []int32{-1, 65536}),
				Protocol:      pick(t, []corev1.Protocol{"", "TCP", "UDP"}, []corev1.Protocol{"tcp"}),
			}
		})
	}
	if t.some(40) {
		c.Resources = t.resources()
	}
	if t.some(40) {
		c.VolumeMounts = many(t, 2, func(i int) corev1.VolumeMount {
			return corev1.VolumeMount{
				Name:      pick(t, []string{"v0", "v1"}, []string{"", "gone"}),
				MountPath: pick(t, []string{[]string{"/data", "/cache"}[i]}, []string{"", "/data", "data", "/a:b"}),
				SubPath:   pick(t, []string{"", "", "a/b"}, []string{"/a", "../a", "a/../b"}), ReadOnly: t.some(30),
			}
		})
	}
	if t.some(30) {
		c.SecurityContext = t.security()
	}
	if initial {
		c.RestartPolicy = maybe(t, 60, func() corev1.ContainerRestartPolicy {
			return pick(t, []corev1.ContainerRestartPolicy{"Always", "Always", "OnFailure", "Never"}, []corev1.ContainerRestartPolicy{"always", ""})
		})
	} else {
		c.RestartPolicy = maybe(t, 30, func() corev1.ContainerRestartPolicy {
			return pick(t, []corev1.ContainerRestartPolicy{"Always", "OnFailure", "Never"}, []corev1.ContainerRestartPolicy{"always", ""})
		})
	}
	if c.RestartPolicy != nil && t.some(50) || t.some(1) {
		c.RestartPolicyRules = many(t, 2, func(int) corev1.ContainerRestartRule { return t.rule() })
	}
	sidecar := initial && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	if !initial || sidecar || t.some(3) {
		c.LivenessProbe = maybe(t, 50, func() corev1.Probe { return t.probe(false) })
		c.ReadinessProbe = maybe(t, 50, func() corev1.Probe { return t.probe(true) })
		c.StartupProbe = maybe(t, 50, func() corev1.Probe { return t.probe(false) })
		if t.some(35) {
			if c.Lifecycle = (&corev1.Lifecycle{PostStart: maybe(t, 60, t.hook), PreStop: maybe(t, 60, t.hook)}); *c.Lifecycle == (corev1.Lifecycle{}) {
				c.Lifecycle = nil
			}
		}
	}
	return c
}

func (t draw) rule() corev1.ContainerRestartRule {
	r := corev1.ContainerRestartRule{Action: pick(t, []corev1.ContainerRestartRuleAction{"Restart", "RestartAllContainers"}, []corev1.ContainerRestartRuleAction{"", "Stop"})}
	if t.some(95) {
		r.ExitCodes = &corev1.ContainerRestartRuleOnExitCodes{
			Operator: pick(t, []corev1.ContainerRestartRuleOnExitCodesOperator{"In", "NotIn"}, []corev1.ContainerRestartRuleOnExitCodesOperator{"", "in"}),
			Values:   pick(t, [][]int32{{1}, {42, 137}, {0}}, [][]int32{{}, make([]int32, 256), {-1}}),
		}
	}
	return r
}

func (t draw) probe(readiness bool) corev1.Probe {
	p := corev1.Probe{ProbeHandler: t.handler()}
	if t.some(50) {
		p.InitialDelaySeconds = t.int32s(0, 5)
	}
	if t.some(50) {
		p.PeriodSeconds = t.int32s(0, 1, 10)
	}
	if t.some(50) {
		p.TimeoutSeconds = t.int32s(0, 1, 10)
	}
	if t.some(40) {
		p.SuccessThreshold = pick(t, []int32{0, 1}, []int32{-1, 2})
	}
	if readiness && t.some(20) {
		p.SuccessThreshold = 3
	}
	if t.some(50) {
		p.FailureThreshold = t.int32s(0, 1, 30)
	}
	if !readiness && t.some(30) || t.flaws > 0 && t.some(15) {
		p.TerminationGracePeriodSeconds = maybe(t, 100, func() int64 { return pick(t, []int64{1, 60}, []int64{0, -1}) })
	}
	return p
}

func (t draw) port() intstr.IntOrString {
	return pick(t, []intstr.IntOrString{intstr.FromInt32(80), intstr.FromInt32(8080), intstr.FromString("http")},
		[]intstr.IntOrString{{}, intstr.FromInt32(65536), intstr.FromInt32(-1), intstr.FromString(""), intstr.FromString("8080"), intstr.FromString("Http"),
			intstr.FromString("-a"), intstr.FromString("a--b"), intstr.FromString("sixteencharacter")})
}

func (t draw) get() *corev1.HTTPGetAction {
	a := &corev1.HTTPGetAction{
		Path: pick(t, []string{"", "/", "/healthz?x=1", "plain"}, nil), Port: t.port(),
		Scheme: pick(t, []corev1.URIScheme{"", "HTTP", "HTTPS"}, []corev1.URIScheme{"http", "FTP"}),
		Host:   pick(t, []string{"", "", "", "127.0.0.1"}, nil),
	}
	if t.some(30) {
		a.HTTPHeaders = many(t, 2, func(int) corev1.HTTPHeader {
			return corev1.HTTPHeader{Name: pick(t, []string{"X-A", "Host"}, []string{"", "a b", "a_b", "ä"}), Value: "v"}
		})
	}
	a.Protocol = maybe(t, 20, func() corev1.HTTPProtocol {
		return pick(t, []corev1.HTTPProtocol{"HTTP1", "HTTP2"}, []corev1.HTTPProtocol{"", "HTTP3"})
	})
	if a.Protocol != nil && *a.Protocol == "HTTP2" && t.some(80) {
		a.Scheme, a.Host = "HTTP", ""
	}
	return a
}

func (t draw) handler() (h corev1.ProbeHandler) {
	set := func(which int) {
		switch which {
		case 0:
			h.Exec = &corev1.ExecAction{Command: pick(t, [][]string{{"true"}, {"sh", "-c", "exit 0"}}, [][]string{nil})}
		case 1:
			h.HTTPGet = t.get()
		case 2:
			h.TCPSocket = &corev1.TCPSocketAction{Port: t.port(), Host: pick(t, []string{"", "", "127.0.0.1"}, nil)}
		case 3:
			h.GRPC = &corev1.GRPCAction{
				Port:    pick(t, []int32{9000}, []int32{0, -1, 65536}),
				Service: maybe(t, 60, func() string { return pick(t, []string{"", "web"}, nil) }),
				Mode: maybe(t, 40, func() corev1.GRPCProbeMode {
					return pick(t, []corev1.GRPCProbeMode{"Plaintext", "TLS"}, []corev1.GRPCProbeMode{"", "tls"})
				}),
			}
		}
	}
	if pick(t, []bool{true}, []bool{false}) {
		set(t.upTo(4))
	}
	if pick(t, []bool{false}, []bool{true}) {
		set(t.upTo(4))
	}
	return h
}

func (t draw) hook() (h corev1.LifecycleHandler) {
	set := func(which int) {
		switch which {
		case 0:
			h.Exec = &corev1.ExecAction{Command: pick(t, [][]string{{"true"}}, [][]string{nil})}
		case 1:
			h.HTTPGet = t.get()
		case 2:
			h.Sleep = &corev1.SleepAction{Seconds: pick(t, []int64{0, 1}, []int64{-1, 4000})}
		}
	}
	if pick(t, []bool{true}, []bool{false}) {
		set(t.upTo(3))
	}
	if pick(t, []bool{false}, []bool{true}) {
		set(t.upTo(3))
	}
	return h
}

func (t draw) env() corev1.EnvVar {
	e := corev1.EnvVar{Name: pick(t, []string{"A", "b.c", "X_1"}, []string{"", "1A", "a b", "A=B", "..", "."}), Value: pick(t, []string{"", "v", "$(A)"}, nil)}
	if t.some(50) {
		e.ValueFrom, e.Value = &corev1.EnvVarSource{}, pick(t, []string{""}, []string{"v"})
		set := func(which int) {
			switch which {
			case 0:
				e.ValueFrom.FieldRef = t.fieldRef()
			case 1:
				e.ValueFrom.ConfigMapKeyRef = &corev1.ConfigMapKeySelector{LocalObjectReference: t.reference(), Key: t.key(), Optional: maybe(t, 50, func() bool { return true })}
			case 2:
				e.ValueFrom.SecretKeyRef = &corev1.SecretKeySelector{LocalObjectReference: t.reference(), Key: t.key(), Optional: maybe(t, 50, func() bool { return true })}
			case 3:
				e.ValueFrom.ResourceFieldRef = t.resourceRef(pick(t, []string{"", "web"}, nil))
			}
		}
		if pick(t, []bool{true}, []bool{false}) {
			set(t.upTo(4))
		}
		if pick(t, []bool{false}, []bool{true}) {
			set(t.upTo(4))
		}
	}
	return e
}

func (t draw) fieldRef() *corev1.ObjectFieldSelector {
	return &corev1.ObjectFieldSelector{
		APIVersion: pick(t, []string{"", "v1"}, []string{"v2"}),
		FieldPath: pick(t, []string{"metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels['app']", "metadata.annotations['example.com/x']",
			"spec.nodeName", "status.podIP", "status.hostIP"}, []string{"", "spec.containers", "metadata.labels", "metadata.labels['a b']", "metadata.labels['']", "metadata.labels[app]"}),
	}
}

func (t draw) resourceRef(container string) *corev1.ResourceFieldSelector {
	r := &corev1.ResourceFieldSelector{
		ContainerName: container,
		Resource:      pick(t, []string{"limits.cpu", "requests.memory", "limits.memory", "requests.cpu"}, []string{"", "cpu", "limits.disk"}),
	}
	if t.some(50) {
		r.Divisor = resource.MustParse(pick(t, []string{"1"}, []string{"1m", "1Mi", "1k"}))
	}
	if pick(t, []bool{false}, []bool{true}) {
		r.Divisor = resource.MustParse("3")
	}
	return r
}

func (t draw) reference() corev1.LocalObjectReference {
	return corev1.LocalObjectReference{Name: pick(t, []string{"settings", "a.b"}, []string{"", "A_B"})}
}

func (t draw) key() string {
	return pick(t, []string{"key", "a.b", "A-b_c"}, []string{"", "a/b", "..", ".", "..a", strings.Repeat("k", 254)})
}

func (t draw) envFrom() (s corev1.EnvFromSource) {
	s.Prefix = pick(t, []string{"", "A_"}, []string{"1", "a b", "="})
	set := func(config bool) {
		if config {
			s.ConfigMapRef = &corev1.ConfigMapEnvSource{LocalObjectReference: t.reference(), Optional: maybe(t, 50, func() bool { return true })}
		} else {
			s.SecretRef = &corev1.SecretEnvSource{LocalObjectReference: t.reference(), Optional: maybe(t, 50, func() bool { return true })}
		}
	}
	if pick(t, []bool{true}, []bool{false}) {
		set(t.some(50))
	}
	if pick(t, []bool{false}, []bool{true}) {
		set(t.some(50))
	}
	return s
}

func (t draw) resources() (r corev1.ResourceRequirements) {
	list := func() corev1.ResourceList {
		l := corev1.ResourceList{}
		if t.some(70) {
			l[corev1.ResourceCPU] = resource.MustParse(pick(t, []string{"100m", "1", "250m"}, []string{"-1", "0", "1e-6"}))
		}
		if t.some(70) {
			l[corev1.ResourceMemory] = resource.MustParse(pick(t, []string{"64Mi", "1Gi", "100M"}, []string{"-1", "0", "1.5"}))
		}
		return l
	}
	if t.some(60) {
		r.Requests = list()
	}
	if t.some(60) {
		r.Limits = list()
	}
	return r
}

func (t draw) podSecurity() *corev1.PodSecurityContext {
	s := &corev1.PodSecurityContext{
		RunAsUser: maybe(t, 40, t.id), RunAsGroup: maybe(t, 40, t.id), RunAsNonRoot: maybe(t, 30, func() bool { return t.some(50) }),
		FSGroup: maybe(t, 40, t.id),
	}
	if t.some(40) {
		s.SupplementalGroups = many(t, 2, func(int) int64 { return t.id() })
	}
	if t.some(40) {
		s.SeccompProfile = t.seccomp()
	}
	return s
}

func (t draw) id() int64 { return pick(t, []int64{1000, 0, 65534}, []int64{-1, 1 << 32}) }

func (t draw) seccomp() *corev1.SeccompProfile {
	return &corev1.SeccompProfile{Type: pick(t, []corev1.SeccompProfileType{"RuntimeDefault", "Unconfined"}, []corev1.SeccompProfileType{"", "Default"})}
}

func (t draw) security() *corev1.SecurityContext {
	s := &corev1.SecurityContext{
		RunAsUser: maybe(t, 40, t.id), RunAsGroup: maybe(t, 40, t.id), RunAsNonRoot: maybe(t, 30, func() bool { return t.some(50) }),
		ReadOnlyRootFilesystem: maybe(t, 40, func() bool { return t.some(50) }), AllowPrivilegeEscalation: maybe(t, 40, func() bool { return t.some(50) }),
	}
	if t.some(40) {
		s.Capabilities = &corev1.Capabilities{
			Add: many(t, 2, func(int) corev1.Capability {
				return pick(t, []corev1.Capability{"NET_ADMIN", "CHOWN", "KILL"}, []corev1.Capability{"SYS_ADMIN"})
			}),
			Drop: many(t, 2, func(int) corev1.Capability { return pick(t, []corev1.Capability{"ALL", "CHOWN", "KILL"}, nil) }),
		}
	}
	if t.some(40) {
		s.SeccompProfile = t.seccomp()
	}
	return s
}

func (t draw) volume(i int) corev1.Volume {
	v := corev1.Volume{Name: pick(t, []string{"v" + string(rune('0'+i))}, []string{"", "v0", "V", "a.b"})}
	set := func(which int) {
		switch which {
		case 0:
			v.EmptyDir = &corev1.EmptyDirVolumeSource{Medium: pick(t, []corev1.StorageMedium{"", "Memory"}, nil)}
			if t.some(50) {
				q := resource.MustParse(pick(t, []string{"1Gi", "10Mi"}, []string{"-1"}))
				v.EmptyDir.SizeLimit = &q
			}
		case 1:
			v.HostPath = &corev1.HostPathVolumeSource{
				Path: pick(t, []string{"/data", "/srv/x"}, []string{"", "/a/../b"}),
				Type: maybe(t, 50, func() corev1.HostPathType {
					return pick(t, []corev1.HostPathType{"", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"}, []corev1.HostPathType{"dir"})
				}),
			}
		case 2:
			v.ConfigMap = &corev1.ConfigMapVolumeSource{LocalObjectReference: t.reference(), Items: t.items(), DefaultMode: t.mode(), Optional: maybe(t, 30, func() bool { return true })}
		case 3:
			v.Secret = &corev1.SecretVolumeSource{SecretName: t.reference().Name, Items: t.items(), DefaultMode: t.mode(), Optional: maybe(t, 30, func() bool { return true })}
		case 4:
			v.DownwardAPI = &corev1.DownwardAPIVolumeSource{Items: many(t, 2, t.downward), DefaultMode: t.mode()}
		case 5:
			v.Projected = &corev1.ProjectedVolumeSource{DefaultMode: t.mode(), Sources: many(t, 4, func(int) (s corev1.VolumeProjection) {
				switch t.upTo(3) {
				case 0:
					s.ConfigMap = &corev1.ConfigMapProjection{LocalObjectReference: t.reference(), Items: t.items(), Optional: maybe(t, 30, func() bool { return true })}
				case 1:
					s.Secret = &corev1.SecretProjection{LocalObjectReference: t.reference(), Items: t.items(), Optional: maybe(t, 30, func() bool { return true })}
				default:
					s.DownwardAPI = &corev1.DownwardAPIProjection{Items: many(t, 2, t.downward)}
				}
				return s
			})}
		}
	}
	set([]int{0, 1, 2, 3, 4, 4, 5, 5, 5}[t.upTo(9)])
	if pick(t, []bool{false}, []bool{true}) {
		set(t.upTo(6))
	}
	return v
}

func (t draw) mode() *int32 {
	return maybe(t, 40, func() int32 { return pick(t, []int32{0o644, 0o400, 0}, []int32{-1, 0o1000}) })
}

func (t draw) path() string {
	return pick(t, []string{"a", "b/c", "d"}, []string{"", "/a", "../a", "a/../b", "..a"})
}

func (t draw) items() []corev1.KeyToPath {
	return many(t, 2, func(int) corev1.KeyToPath { return corev1.KeyToPath{Key: t.key(), Path: t.path(), Mode: t.mode()} })
}

func (t draw) downward(int) corev1.DownwardAPIVolumeFile {
	f := corev1.DownwardAPIVolumeFile{Path: t.path(), Mode: t.mode()}
	if t.some(60) {
		f.FieldRef = t.fieldRef()
		f.FieldRef.FieldPath = pick(t, []string{"metadata.name", "metadata.labels", "metadata.annotations", "metadata.labels['a']"}, []string{"", "spec.nodeName", "status.podIP"})
	} else {
		f.ResourceFieldRef = t.resourceRef(pick(t, []string{"web"}, []string{"", "gone"}))
	}
	if pick(t, []bool{false}, []bool{true}) {
		f.FieldRef, f.ResourceFieldRef = pick(t, []*corev1.ObjectFieldSelector{t.fieldRef(), nil}, nil), nil
	}
	return f
}

func (t draw) toleration() corev1.Toleration {
	return corev1.Toleration{
		Key:               pick(t, []string{"", "dedicated", "example.com/x"}, []string{"a b"}),
		Operator:          pick(t, []corev1.TolerationOperator{"", "Equal", "Exists"}, []corev1.TolerationOperator{"In"}),
		Value:             pick(t, []string{"", "", "web"}, []string{"a b"}),
		Effect:            pick(t, []corev1.TaintEffect{"", "NoSchedule", "PreferNoSchedule", "NoExecute"}, []corev1.TaintEffect{"Never"}),
		TolerationSeconds: maybe(t, 20, func() int64 { return pick(t, []int64{0, 300, -1}, nil) }),
	}
}

func (t draw) requirement() corev1.NodeSelectorRequirement {
	r := corev1.NodeSelectorRequirement{
		Key:      pick(t, []string{"zone", "example.com/x"}, []string{"", "a b"}),
		Operator: pick(t, []corev1.NodeSelectorOperator{"In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"}, []corev1.NodeSelectorOperator{"", "Is"}),
	}
	switch r.Operator {
	case "Exists", "DoesNotExist":
		r.Values = pick(t, [][]string{nil}, [][]string{{"a"}})
	case "Gt", "Lt":
		r.Values = pick(t, [][]string{{"5"}}, [][]string{nil, {"1", "2"}})
	default:
		r.Values = pick(t, [][]string{{"a"}, {"a", "b"}}, [][]string{nil})
	}
	return r
}

func (t draw) nodeTerm() corev1.NodeSelectorTerm {
	n := corev1.NodeSelectorTerm{MatchExpressions: many(t, 2, func(int) corev1.NodeSelectorRequirement { return t.requirement() })}
	if t.some(40) {
		n.MatchFields = []corev1.NodeSelectorRequirement{{
			Key: pick(t, []string{"metadata.name"}, []string{"metadata.uid", ""}), Operator: pick(t, []corev1.NodeSelectorOperator{"In", "NotIn"}, []corev1.NodeSelectorOperator{"Exists"}),
			Values: pick(t, [][]string{{"node-1"}}, [][]string{nil, {"a", "b"}}),
		}}
	}
	return n
}

func (t draw) selector() *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	if t.some(60) {
		s.MatchLabels = map[string]string{pick(t, []string{"app"}, []string{"a b"}): pick(t, []string{"web"}, []string{"a b"})}
	}
	if t.some(40) {
		e := metav1.LabelSelectorRequirement{Key: pick(t, []string{"tier"}, []string{"", "a b"}),
			Operator: pick(t, []metav1.LabelSelectorOperator{"In", "NotIn", "Exists", "DoesNotExist"}, []metav1.LabelSelectorOperator{"", "Gt"})}
		switch e.Operator {
		case "Exists", "DoesNotExist":
			e.Values = pick(t, [][]string{nil}, [][]string{{"a"}})
		default:
			e.Values = pick(t, [][]string{{"a"}, {"a", "b"}}, [][]string{nil, {"a b"}})
		}
		s.MatchExpressions = append(s.MatchExpressions, e)
	}
	return s
}

func (t draw) podTerm() corev1.PodAffinityTerm {
	p := corev1.PodAffinityTerm{TopologyKey: pick(t, []string{"kubernetes.io/hostname", "zone"}, []string{"", "a b"})}
	if t.some(85) {
		p.LabelSelector = t.selector()
	}
	if t.some(30) {
		p.Namespaces = []string{pick(t, []string{"default"}, []string{"A", ""})}
	}
	if t.some(20) {
		p.NamespaceSelector = &metav1.LabelSelector{}
	}
	return p
}

func (t draw) affinity() *corev1.Affinity {
	a := &corev1.Affinity{}
	weight := func() int32 { return pick(t, []int32{1, 50, 100}, []int32{0, 101, -1}) }
	if t.some(60) {
		a.NodeAffinity = &corev1.NodeAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: many(t, 2, func(int) corev1.PreferredSchedulingTerm {
				return corev1.PreferredSchedulingTerm{Weight: weight(), Preference: t.nodeTerm()}
			}),
		}
		if t.some(60) {
			a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
				NodeSelectorTerms: pick(t, [][]corev1.NodeSelectorTerm{{t.nodeTerm()}, {t.nodeTerm(), t.nodeTerm()}}, [][]corev1.NodeSelectorTerm{nil})}
		}
	}
	weighted := func(int) corev1.WeightedPodAffinityTerm {
		return corev1.WeightedPodAffinityTerm{Weight: weight(), PodAffinityTerm: t.podTerm()}
	}
	term := func(int) corev1.PodAffinityTerm { return t.podTerm() }
	if t.some(60) {
		a.PodAffinity = &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: many(t, 2, weighted), RequiredDuringSchedulingIgnoredDuringExecution: many(t, 2, term)}
	}
	if t.some(60) {
		a.PodAntiAffinity = &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: many(t, 2, weighted), RequiredDuringSchedulingIgnoredDuringExecution: many(t, 2, term)}
	}
	return a
}

func (t draw) spread() corev1.TopologySpreadConstraint {
	s := corev1.TopologySpreadConstraint{
		MaxSkew: pick(t, []int32{1, 2}, []int32{0, -1}), TopologyKey: pick(t, []string{"zone", "kubernetes.io/hostname"}, []string{"", "a b"}),
		WhenUnsatisfiable: pick(t, []corev1.UnsatisfiableConstraintAction{"DoNotSchedule", "ScheduleAnyway"}, []corev1.UnsatisfiableConstraintAction{"", "Never"}),
	}
	if t.some(90) {
		s.LabelSelector = t.selector()
	}
	return s
}

func (t draw) dns() *corev1.PodDNSConfig {
	return &corev1.PodDNSConfig{
		Nameservers: many(t, 2, func(int) string { return pick(t, []string{"127.0.0.1", "::1"}, []string{"", "dns", "1.2.3"}) }),
		Searches:    many(t, 2, func(int) string { return pick(t, []string{"example.com", "a.b.", "."}, []string{"", "a b", "A_B"}) }),
		Options: many(t, 2, func(int) corev1.PodDNSConfigOption {
			return corev1.PodDNSConfigOption{Name: pick(t, []string{"ndots"}, []string{""}), Value: maybe(t, 60, func() string { return "2" })}
		}),
	}
}
