package spec_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/internal/spec"
)

// web is a pod that is valid once its defaults are filled in.
func web() *spec.Pod {
	return &spec.Pod{Meta: spec.Meta{Name: "web"}, Spec: spec.PodSpec{
		TerminationGrace: spec.UnsetGrace, Containers: []spec.Container{{Name: "c", Command: []string{"serve"}}},
	}}
}

// probed is web with a probe that runs a command.
func probed(kind spec.ProbeKind, change func(*spec.Probe)) func(*spec.Pod) {
	return func(p *spec.Pod) {
		probe := &spec.Probe{Handler: spec.Handler{Exec: &spec.ExecAction{Command: []string{"true"}}}}
		change(probe)
		c := &p.Spec.Containers[0]
		*map[spec.ProbeKind]**spec.Probe{spec.Liveness: &c.Liveness, spec.Readiness: &c.Readiness, spec.Startup: &c.Startup}[kind] = probe
	}
}

// handled is web with a liveness probe of another handler.
func handled(h spec.Handler) func(*spec.Pod) {
	return probed(spec.Liveness, func(p *spec.Probe) { p.Handler = h })
}

func http(a spec.HTTPAction) func(*spec.Pod) { return handled(spec.Handler{HTTP: &a}) }

func tcp(port spec.PortRef) func(*spec.Pod) {
	return handled(spec.Handler{TCP: &spec.TCPAction{Port: port}})
}

func container(change func(*spec.Container)) func(*spec.Pod) {
	return func(p *spec.Pod) { change(&p.Spec.Containers[0]) }
}

func check(t *testing.T, findings []spec.Finding, want ...string) {
	t.Helper()
	var got []string
	for i := range findings {
		got = append(got, findings[i].String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// checkPod fills in defaults and validates.
func checkPod(t *testing.T, change func(*spec.Pod), opts spec.Options, want ...string) {
	t.Helper()
	p := web()
	change(p)
	check(t, append(spec.DefaultPod(p), spec.ValidatePod(p, opts)...), want...)
}

func TestProbesAreRefusedByTheRulesOfSection2(t *testing.T) {
	const (
		c        = "spec.containers[0]."
		negative = ": must be greater than or equal to 0"
		badPort  = ": must be between 1 and 65535, inclusive"
	)
	liveness := func(f func(*spec.Probe)) func(*spec.Pod) { return probed(spec.Liveness, f) }
	grace := func(d time.Duration) func(*spec.Probe) {
		return func(p *spec.Probe) { p.TerminationGrace = &d }
	}
	port := spec.PortRef{Number: 80}
	for _, x := range []struct {
		name   string
		change func(*spec.Pod)
		want   []string
	}{
		{"2.1 all left out", liveness(func(*spec.Probe) {}), nil},
		{"2.1 initial delay", liveness(func(p *spec.Probe) { p.InitialDelay = -time.Second }), []string{c + "livenessProbe.initialDelaySeconds: Invalid value: -1" + negative}},
		{"2.1 timeout", liveness(func(p *spec.Probe) { p.Timeout = -2 * time.Second }), []string{c + "livenessProbe.timeoutSeconds: Invalid value: -2" + negative}},
		{"2.1 period", liveness(func(p *spec.Probe) { p.Period = -3 * time.Second }), []string{c + "livenessProbe.periodSeconds: Invalid value: -3" + negative}},
		{"2.1 failure threshold", liveness(func(p *spec.Probe) { p.FailureThreshold = -4 }), []string{c + "livenessProbe.failureThreshold: Invalid value: -4" + negative}},
		{"2.1 success threshold of readiness", probed(spec.Readiness, func(p *spec.Probe) { p.SuccessThreshold = 5 }), nil},
		{"2.1 success threshold of liveness", liveness(func(p *spec.Probe) { p.SuccessThreshold = 2 }), []string{c + "livenessProbe.successThreshold: Invalid value: 2: must be 1"}},
		{"2.1 success threshold of startup", probed(spec.Startup, func(p *spec.Probe) { p.SuccessThreshold = 2 }), []string{c + "startupProbe.successThreshold: Invalid value: 2: must be 1"}},
		{"2.2 negative and not 1", liveness(func(p *spec.Probe) { p.SuccessThreshold = -1 }), []string{
			c + "livenessProbe.successThreshold: Invalid value: -1" + negative, c + "livenessProbe.successThreshold: Invalid value: -1: must be 1",
		}},
		{"2.2 no upper limits", liveness(func(p *spec.Probe) { p.Period, p.FailureThreshold = 68*365*24*time.Hour, 1<<31-1 }), nil},
		{"2.3 grace of 0", liveness(grace(0)), []string{c + "livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0"}},
		{"2.3 grace larger than the pod's", liveness(grace(time.Hour)), nil},
		{"2.1 grace of readiness", probed(spec.Readiness, grace(time.Second)), []string{c + "readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes"}},
		{"2.1 no handler", handled(spec.Handler{}), []string{c + "livenessProbe: Required value: must specify a handler type"}},
		{"2.4 the first handler counts", handled(spec.Handler{
			Exec: &spec.ExecAction{}, HTTP: &spec.HTTPAction{}, TCP: &spec.TCPAction{}, GRPC: &spec.GRPCAction{},
		}), []string{
			c + "livenessProbe.exec.command: Required value",
			c + "livenessProbe.httpGet: Forbidden: may not specify more than 1 handler type",
			c + "livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
			c + "livenessProbe.grpc: Forbidden: may not specify more than 1 handler type",
		}},
		{"2.4 port left out", http(spec.HTTPAction{}), []string{c + "livenessProbe.httpGet.port: Invalid value: 0" + badPort}},
		{"2.4 port too large", tcp(spec.PortRef{Number: 65536}), []string{c + "livenessProbe.tcpSocket.port: Invalid value: 65536" + badPort}},
		{"2.4 largest port", tcp(spec.PortRef{Number: 65535}), nil},
		{"2.5 a port name need not exist", tcp(spec.PortRef{Name: "nowhere"}), nil},
		{"2.4 15 characters", tcp(spec.PortRef{Name: strings.Repeat("a", 15)}), nil},
		{"2.4 16 characters", tcp(spec.PortRef{Name: strings.Repeat("a", 16)}), []string{c + `livenessProbe.tcpSocket.port: Invalid value: "aaaaaaaaaaaaaaaa": must be no more than 15 characters`}},
		{"2.4 digits alone", tcp(spec.PortRef{Name: "8080"}), []string{c + `livenessProbe.tcpSocket.port: Invalid value: "8080": must contain at least one letter (a-z)`}},
		{"2.4 capital", tcp(spec.PortRef{Name: "Web"}), []string{c + `livenessProbe.tcpSocket.port: Invalid value: "Web": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)`}},
		{"2.4 two hyphens", tcp(spec.PortRef{Name: "a--b"}), []string{c + `livenessProbe.tcpSocket.port: Invalid value: "a--b": must not contain consecutive hyphens`}},
		{"2.4 hyphen first", tcp(spec.PortRef{Name: "-a"}), []string{c + `livenessProbe.tcpSocket.port: Invalid value: "-a": must not begin or end with a hyphen`}},
		{"2.4 hyphen last", tcp(spec.PortRef{Name: "a-"}), []string{c + `livenessProbe.tcpSocket.port: Invalid value: "a-": must not begin or end with a hyphen`}},
		{"2.4 scheme", http(spec.HTTPAction{Port: port, Scheme: "https"}), []string{c + `livenessProbe.httpGet.scheme: Unsupported value: "https": supported values: "HTTP", "HTTPS"`}},
		{"2.4 headers", http(spec.HTTPAction{Port: port, Headers: []spec.Header{{Name: "X-A", Value: "any\x00thing"}, {Name: "X-A"}, {Name: "a b"}, {}}}), []string{
			c + `livenessProbe.httpGet.httpHeaders: Invalid value: "a b": a valid HTTP header must consist of alphanumeric characters or '-'`,
			c + `livenessProbe.httpGet.httpHeaders: Invalid value: "": a valid HTTP header must consist of alphanumeric characters or '-'`,
		}},
		{"2.4 grpc without a port", handled(spec.Handler{GRPC: &spec.GRPCAction{}}), []string{c + "livenessProbe.grpc.port: Invalid value: 0" + badPort}},
		{"2.4 grpc port too large", handled(spec.Handler{GRPC: &spec.GRPCAction{Port: 65536}}), []string{c + "livenessProbe.grpc.port: Invalid value: 65536" + badPort}},
		{"2.4 grpc in a mode that there is not", handled(spec.Handler{GRPC: &spec.GRPCAction{Port: 1, Mode: "mTLS"}}),
			[]string{c + `livenessProbe.grpc.mode: Unsupported value: "mTLS": supported values: "Plaintext", "TLS"`}},
		{"2.4 grpc in plaintext", handled(spec.Handler{GRPC: &spec.GRPCAction{Port: 1, Mode: "Plaintext"}}), nil},
		{"2.4 grpc over TLS", handled(spec.Handler{GRPC: &spec.GRPCAction{Port: 1, Mode: "TLS"}}), nil},
		{"2.4 a protocol that there is not", handled(spec.Handler{HTTP: &spec.HTTPAction{Port: spec.PortRef{Number: 1}, Protocol: "HTTP3"}}),
			[]string{c + `livenessProbe.httpGet.protocol: Unsupported value: "HTTP3": supported values: "HTTP1", "HTTP2"`}},
		{"2.4 HTTP2 with TLS", handled(spec.Handler{HTTP: &spec.HTTPAction{Port: spec.PortRef{Number: 1}, Scheme: "HTTPS", Protocol: "HTTP2"}}),
			[]string{c + `livenessProbe.httpGet.protocol: Invalid value: "HTTP2": is only supported with HTTP (H2C)`}},
		{"2.4 HTTP2 elsewhere", handled(spec.Handler{HTTP: &spec.HTTPAction{Port: spec.PortRef{Number: 1}, Host: "127.0.0.1", Protocol: "HTTP2"}}),
			[]string{c + "livenessProbe.httpGet.host: Invalid value: \"127.0.0.1\": must be empty when `protocol` is \"HTTP2\""}},
		{"2.4 HTTP2 without TLS", handled(spec.Handler{HTTP: &spec.HTTPAction{Port: spec.PortRef{Number: 1}, Protocol: "HTTP2"}}), nil},
		{"2.4 HTTP1 with TLS", handled(spec.Handler{HTTP: &spec.HTTPAction{Port: spec.PortRef{Number: 1}, Scheme: "HTTPS", Protocol: "HTTP1"}}), nil},
		{"2.4 grpc", handled(spec.Handler{GRPC: &spec.GRPCAction{Port: 65535, Service: "any thing"}}), nil},
		{"shortest period and timeout", liveness(func(p *spec.Probe) { p.Period, p.Timeout = 100*time.Millisecond, time.Millisecond }), nil},
		{"too short a period", liveness(func(p *spec.Probe) { p.Period = 99 * time.Millisecond }), []string{c + `livenessProbe.periodSeconds: Invalid value: "99ms": must be at least 100ms`}},
		{"too short a timeout", liveness(func(p *spec.Probe) { p.Timeout = 999 * time.Microsecond }), []string{c + `livenessProbe.timeoutSeconds: Invalid value: "999µs": must be at least 1ms`}},
	} {
		t.Run(x.name, func(t *testing.T) { checkPod(t, x.change, spec.Options{}, x.want...) })
	}
}

func TestAProbeMayAskThePodAndLoopbackOnly(t *testing.T) {
	const told = ": a probe may ask the pod's own address or loopback only; the coordinator's --allow-probe-host allows more"
	opts := spec.Options{AllowProbeHosts: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}
	for _, x := range []struct {
		host    string
		allowed bool
	}{
		{"", true}, {"localhost", true}, {"127.0.0.1", true}, {"127.77.3.4", true}, {"::1", true}, {"10.1.2.3", true},
		{"10.2.0.1", false}, {"169.254.169.254", false}, {"0.0.0.0", false}, {"::", false}, {"example.org", false}, {"localhost.example.org", false},
		{"127.1", false}, {"2130706433", false}, {"[::1]", false}, {" 127.0.0.1", false},
	} {
		for handler, h := range map[string]spec.Handler{
			"httpGet":   {HTTP: &spec.HTTPAction{Host: x.host, Port: spec.PortRef{Number: 80}}},
			"tcpSocket": {TCP: &spec.TCPAction{Host: x.host, Port: spec.PortRef{Number: 80}}},
		} {
			var want []string
			if !x.allowed {
				want = []string{fmt.Sprintf("spec.containers[0].livenessProbe.%s.host: Forbidden: %q%s", handler, x.host, told)}
			}
			t.Run(handler+" "+x.host, func(t *testing.T) { checkPod(t, handled(h), opts, want...) })
		}
	}
	t.Run("without the flag", func(t *testing.T) {
		checkPod(t, http(spec.HTTPAction{Host: "10.1.2.3", Port: spec.PortRef{Number: 80}}), spec.Options{},
			`spec.containers[0].livenessProbe.httpGet.host: Forbidden: "10.1.2.3"`+told)
	})
}

func TestPodsAreRefusedFieldByField(t *testing.T) {
	const (
		c     = "spec.containers[0]."
		label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character"
	)
	rules := func(n int) func(*spec.Container) {
		return func(c *spec.Container) {
			c.RestartPolicy = spec.RestartNever
			for range n {
				c.RestartRules = append(c.RestartRules, spec.RestartRule{Action: "Restart", In: true, ExitCodes: []int32{1}})
			}
		}
	}
	hostPath := func(v spec.Volume, m spec.Mount) func(*spec.Pod) {
		return func(p *spec.Pod) {
			p.Spec.Volumes, p.Spec.Containers[0].Mounts = []spec.Volume{v}, []spec.Mount{m}
		}
	}
	for _, x := range []struct {
		name   string
		change func(*spec.Pod)
		want   []string
	}{
		{"valid", func(*spec.Pod) {}, nil},
		{"no name", func(p *spec.Pod) { p.Name = "" }, []string{"metadata.name: Required value: name or generateName is required"}},
		{"longest name", func(p *spec.Pod) { p.Name = strings.Repeat("a", 253) }, nil},
		{"long name", func(p *spec.Pod) { p.Name = strings.Repeat("a", 254) }, []string{fmt.Sprintf("metadata.name: Invalid value: %q: must be no more than 253 characters", strings.Repeat("a", 254))}},
		{"a path as a name", func(p *spec.Pod) { p.Name = "../x" }, []string{`metadata.name: Invalid value: "../x": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character`}},
		{"dots in a namespace", func(p *spec.Pod) { p.Namespace = "a.b" }, []string{`metadata.namespace: Invalid value: "a.b": ` + label}},
		{"labels", func(p *spec.Pod) {
			p.Labels = map[string]string{"example.org/Ok_1.x": "v", "": "", "a/b/c": "", "k": strings.Repeat("v", 64)}
		}, []string{
			`metadata.labels: Invalid value: "": name part must be 1 to 63 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character`,
			`metadata.labels: Invalid value: "a/b/c": name part must be 1 to 63 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character`,
			fmt.Sprintf("metadata.labels: Invalid value: %q: a valid label must be an empty string or at most 63 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character", strings.Repeat("v", 64)),
		}},
		{"annotations at the bound", func(p *spec.Pod) { p.Annotations = map[string]string{"a": strings.Repeat("x", 256<<10-1)} }, nil},
		{"annotations", func(p *spec.Pod) { p.Annotations = map[string]string{"a": strings.Repeat("x", 256<<10)} }, []string{"metadata.annotations: Too long: 262145: at most 262144 bytes"}},
		{"failover class", func(p *spec.Pod) { p.Annotations = map[string]string{spec.AnnotationFailover: "Fast"} }, []string{`metadata.annotations[muster.dev/failover]: Unsupported value: "Fast": supported values: "fast", "fenced", "stay"`}},
		{"restart policy", func(p *spec.Pod) { p.Spec.RestartPolicy = "always" }, []string{`spec.restartPolicy: Unsupported value: "always": supported values: "Always", "OnFailure", "Never"`}},
		{"grace", func(p *spec.Pod) { p.Spec.TerminationGrace = -time.Second }, []string{"spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0"}},
		{"no grace", func(p *spec.Pod) { p.Spec.TerminationGrace = 0 }, nil},
		{"hostname", func(p *spec.Pod) { p.Spec.Hostname = "a.b" }, []string{`spec.hostname: Invalid value: "a.b": ` + label}},
		{"node selector", func(p *spec.Pod) { p.Spec.NodeSelector = map[string]string{"a": "b c"} }, []string{`spec.nodeSelector: Invalid value: "b c": a valid label must be an empty string or at most 63 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character`}},
		{"no containers", func(p *spec.Pod) { p.Spec.Containers = nil }, []string{"spec.containers: Required value"}},
		{"containers without or with one name", func(p *spec.Pod) {
			one := spec.Container{Name: "c", Command: []string{"x"}}
			p.Spec.Containers = []spec.Container{one, one, {Command: []string{"x"}}, {Name: "C", Command: []string{"x"}}}
		}, []string{`spec.containers[1].name: Duplicate value: "c"`, "spec.containers[2].name: Required value", `spec.containers[3].name: Invalid value: "C": ` + label}},
		{"an image without a command", container(func(c *spec.Container) { c.Image, c.Command = "nginx", nil }), []string{c + "command: Not built yet: the process runtime has no images, so it can't know the entry point of one: give the command"}},
		{"no command", container(func(c *spec.Container) { c.Command = nil }), []string{c + "command: Required value"}},
		{"working directory", container(func(c *spec.Container) { c.WorkingDir = "x" }), []string{c + `workingDir: Invalid value: "x": must be an absolute path`}},
		{"env", container(func(c *spec.Container) {
			c.Env = []spec.EnvVar{{}, {Name: "A=B"}, {Name: "a.b-c d"}, {Name: "ok.name"}, {Name: "X", Value: "1", FieldPath: "metadata.name"}, {Name: "Y", FieldPath: "metadata.labels['']"}, {Name: "Z", FieldPath: "metadata.labels['a/b']"}}
		}), []string{
			c + "env[0].name: Required value",
			c + `env[1].name: Invalid value: "A=B": a valid environment variable name must consist only of printable ASCII characters other than '='`,
			c + "env[4].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
			c + `env[5].valueFrom.fieldRef: Invalid value: "": name part must be 1 to 63 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character`,
		}},
		{"ports", container(func(c *spec.Container) {
			c.Ports = []spec.Port{{Name: "a", Number: 1}, {Name: "a", Number: 65536}, {Protocol: "SCTP"}, {Number: 2, Protocol: "tcp", HostPort: 3}}
		}), []string{
			c + `ports[1].name: Duplicate value: "a"`, c + "ports[1].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
			c + "ports[2].containerPort: Required value", c + `ports[2].protocol: Not built yet: "SCTP"`,
			c + `ports[3].protocol: Unsupported value: "tcp": supported values: "TCP", "UDP"`,
		}},
		{"requests over limits", container(func(c *spec.Container) {
			c.Resources = spec.Resources{Requests: spec.ResourceList{MilliCPU: 2, MemoryBytes: -1}, Limits: spec.ResourceList{MilliCPU: 1}}
		}), []string{
			c + "resources.requests: Invalid value: 2: must be less than or equal to cpu limit",
			c + "resources.requests[memory]: Invalid value: -1: must be greater than or equal to 0",
		}},
		{"2.9 container policy", container(func(c *spec.Container) { c.RestartPolicy = "Sometimes" }), []string{c + `restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"`}},
		{"2.9 rules without a policy", container(func(c *spec.Container) { rules(1)(c); c.RestartPolicy = "" }), []string{c + "restartPolicy: Required value: must specify restartPolicy when restart rules are used"}},
		{"2.9 20 rules", container(rules(20)), nil},
		{"2.9 21 rules", container(rules(21)), []string{c + "restartPolicyRules: Too many: 21: at most 20"}},
		{"2.9 actions and codes", container(func(c *spec.Container) {
			rules(4)(c)
			c.RestartRules[0].Action, c.RestartRules[1].Action = "restart", "Stop"
			c.RestartRules[2].ExitCodes, c.RestartRules[3].ExitCodes = nil, make([]int32, 256)
		}), []string{
			c + `restartPolicyRules[0].action: Unsupported value: "restart": supported values: "Restart", "RestartAllContainers"`,
			c + `restartPolicyRules[1].action: Unsupported value: "Stop": supported values: "Restart", "RestartAllContainers"`,
			c + "restartPolicyRules[3].exitCodes.values: Too many: 256: at most 255",
		}},
		{"host path", hostPath(spec.Volume{Name: "v", HostPath: "/srv/", HostPathType: "DirectoryOrCreate"}, spec.Mount{Volume: "v", Path: "/srv"}), nil},
		{"host path elsewhere", hostPath(spec.Volume{Name: "v", HostPath: "/srv", HostPathType: "Socket"}, spec.Mount{Volume: "v", Path: "/data", ReadOnly: true, SubPath: "a/b"}), nil},
		{"a mount over everything", hostPath(spec.Volume{Name: "v", HostPath: "/srv"}, spec.Mount{Volume: "v", Path: "/", SubPath: "/a"}), []string{
			c + `volumeMounts[0].mountPath: Invalid value: "/": must be below / and must not contain '..'`,
			c + `volumeMounts[0].subPath: Invalid value: "/a": must be a relative path`,
		}},
		{"a mount upwards", hostPath(spec.Volume{Name: "v", EmptyDir: &spec.EmptyDir{Memory: true, SizeLimit: -1}}, spec.Mount{Volume: "v", Path: "/a/../b", SubPath: "../c"}), []string{
			`spec.volumes[0].emptyDir.sizeLimit: Invalid value: -1: must be greater than or equal to 0`,
			c + `volumeMounts[0].mountPath: Invalid value: "/a/../b": must be below / and must not contain '..'`,
			c + `volumeMounts[0].subPath: Invalid value: "../c": must not contain '..'`,
		}},
		{"two sources of a volume", hostPath(spec.Volume{Name: "v", HostPath: "/v", EmptyDir: &spec.EmptyDir{}}, spec.Mount{Volume: "v", Path: "/v"}), []string{
			`spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type`,
		}},
		{"users and groups", func(p *spec.Pod) {
			low, high := int64(-1), int64(1)<<31
			p.Spec.Security = spec.PodSecurity{RunAsUser: &low, RunAsGroup: &high, FSGroup: &low, SupplementalGroups: []int64{0, -5}}
			p.Spec.Containers[0].Security.RunAsUser = &high
		}, []string{
			"spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
			"spec.securityContext.runAsGroup: Invalid value: 2147483648: must be between 0 and 2147483647, inclusive",
			"spec.securityContext.fsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive",
			"spec.securityContext.supplementalGroups[1]: Invalid value: -5: must be between 0 and 2147483647, inclusive",
			c + "securityContext.runAsUser: Invalid value: 2147483648: must be between 0 and 2147483647, inclusive",
		}},
		{"filters of system calls", func(p *spec.Pod) {
			p.Spec.Security.Seccomp = "Localhost"
			p.Spec.Containers[0].Security.Seccomp = "runtime/default"
		}, []string{
			`spec.securityContext.seccompProfile.type: Unsupported value: "Localhost": supported values: "RuntimeDefault", "Unconfined"`,
			c + `securityContext.seccompProfile.type: Unsupported value: "runtime/default": supported values: "RuntimeDefault", "Unconfined"`,
		}},
		{"host path upwards", hostPath(spec.Volume{Name: "v", HostPath: "/srv/../etc"}, spec.Mount{Volume: "v", Path: "/etc"}), []string{`spec.volumes[0].hostPath.path: Invalid value: "/srv/../etc": must not contain '..'`}},
		{"relative host path", hostPath(spec.Volume{Name: "v", HostPath: "srv", HostPathType: "Tape"}, spec.Mount{Volume: "v", Path: "srv"}), []string{
			`spec.volumes[0].hostPath.path: Invalid value: "srv": must be an absolute path`,
			`spec.volumes[0].hostPath.type: Unsupported value: "Tape": supported values: "", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket", "CharDevice", "BlockDevice"`,
			c + `volumeMounts[0].mountPath: Invalid value: "srv": must be an absolute path`,
		}},
		{"a mount of nothing", hostPath(spec.Volume{Name: "v", HostPath: "/v"}, spec.Mount{Volume: "w"}), []string{
			c + `volumeMounts[0].name: Not found: "w"`, c + "volumeMounts[0].mountPath: Required value",
		}},
		{"one path twice", func(p *spec.Pod) {
			hostPath(spec.Volume{Name: "v", HostPath: "/v"}, spec.Mount{Volume: "v", Path: "/v"})(p)
			p.Spec.Containers[0].Mounts = append(p.Spec.Containers[0].Mounts, spec.Mount{Volume: "v", Path: "/v"})
		}, []string{c + `volumeMounts[1].mountPath: Invalid value: "/v": must be unique`}},
		{"readiness gate", func(p *spec.Pod) { p.Spec.ReadinessGates = []string{"example.org/Warm", "a b"} }, []string{`spec.readinessGates[1].conditionType: Invalid value: "a b": name part must be 1 to 63 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character`, "spec.readinessGates: Warning: nothing sets conditions of pods from outside yet: the pod will not be Ready"}},
	} {
		t.Run(x.name, func(t *testing.T) { checkPod(t, x.change, spec.Options{}, x.want...) })
	}
}

func TestListsAreBounded(t *testing.T) {
	many := func(n int, add func(i int, p *spec.Pod)) func(*spec.Pod) {
		return func(p *spec.Pod) {
			for i := range n {
				add(i, p)
			}
		}
	}
	name := func(i int) string { return fmt.Sprintf("n%d", i) }
	for _, x := range []struct {
		path string
		most int
		add  func(int, *spec.Pod)
	}{
		{"spec.containers", spec.MaxContainers, func(i int, p *spec.Pod) {
			if i > 0 { // there is one
				p.Spec.Containers = append(p.Spec.Containers, spec.Container{Name: name(i), Command: []string{"x"}})
			}
		}},
		{"spec.volumes", 64, func(i int, p *spec.Pod) {
			p.Spec.Volumes = append(p.Spec.Volumes, spec.Volume{Name: name(i), HostPath: "/x"})
		}},
		{"spec.containers[0].env", 1000, func(i int, p *spec.Pod) {
			p.Spec.Containers[0].Env = append(p.Spec.Containers[0].Env, spec.EnvVar{Name: name(i)})
		}},
		{"spec.containers[0].ports", 100, func(i int, p *spec.Pod) {
			p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, spec.Port{Number: int32(i + 1)})
		}},
		{"spec.containers[0].volumeMounts", 64, func(i int, p *spec.Pod) {
			if i%64 == 0 { // one volume more, below its own bound
				p.Spec.Volumes = append(p.Spec.Volumes, spec.Volume{Name: name(i), HostPath: "/" + name(i)})
			}
			path := "/" + name(i/64*64) + strings.Repeat("/", i%64)
			p.Spec.Containers[0].Mounts = append(p.Spec.Containers[0].Mounts, spec.Mount{Volume: name(i / 64 * 64), Path: path})
		}},
		{"spec.containers[0].livenessProbe.httpGet.httpHeaders", 64, func(i int, p *spec.Pod) {
			if i == 0 {
				http(spec.HTTPAction{Port: spec.PortRef{Number: 80}})(p)
			}
			h := p.Spec.Containers[0].Liveness.HTTP
			h.Headers = append(h.Headers, spec.Header{Name: "X"})
		}},
	} {
		t.Run(x.path, func(t *testing.T) {
			checkPod(t, many(x.most, x.add), spec.Options{})
			checkPod(t, many(x.most+1, x.add), spec.Options{}, fmt.Sprintf("%s: Too many: %d: at most %d", x.path, x.most+1, x.most))
		})
	}
}

func deployment() *spec.Deployment {
	labels := map[string]string{"app": "web"}
	return &spec.Deployment{Meta: spec.Meta{Name: "web"}, Spec: spec.DeploymentSpec{
		Replicas: 1, Selector: spec.Selector{Labels: labels}, Template: spec.PodTemplate{Labels: labels, Spec: web().Spec},
	}}
}

func TestDeploymentsAreRefusedFieldByField(t *testing.T) {
	for _, x := range []struct {
		name   string
		change func(*spec.Deployment)
		want   []string
	}{
		{"valid", func(*spec.Deployment) {}, nil},
		{"no replicas", func(d *spec.Deployment) { d.Spec.Replicas = 0 }, nil},
		{"most replicas", func(d *spec.Deployment) { d.Spec.Replicas = 10000 }, nil},
		{"too many replicas", func(d *spec.Deployment) { d.Spec.Replicas = 10001 }, []string{"spec.replicas: Invalid value: 10001: must be at most 10000"}},
		{"fewer than none", func(d *spec.Deployment) { d.Spec.Replicas = -1 }, []string{"spec.replicas: Invalid value: -1: must be greater than or equal to 0"}},
		{"no selector", func(d *spec.Deployment) { d.Spec.Selector = spec.Selector{} }, []string{"spec.selector: Required value"}},
		{"another selector", func(d *spec.Deployment) { d.Spec.Selector = spec.Selector{Labels: map[string]string{"app": "db"}} }, []string{"spec.template.metadata.labels: Invalid value: `selector` does not match template `labels`"}},
		{"expressions", func(d *spec.Deployment) {
			d.Spec.Selector = spec.Selector{Expressions: []spec.SelectorExpression{{Key: "app", Operator: spec.In}, {Key: "app", Operator: spec.Exists, Values: []string{"x"}}, {Key: "a b", Operator: "Near"}}}
		}, []string{
			"spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
			"spec.selector.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
			`spec.selector.matchExpressions[2].key: Invalid value: "a b": name part must be 1 to 63 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character`,
			`spec.selector.matchExpressions[2].operator: Invalid value: "Near": not a valid selector operator`,
			"spec.template.metadata.labels: Invalid value: `selector` does not match template `labels`",
		}},
		{"restart policy", func(d *spec.Deployment) { d.Spec.Template.Spec.RestartPolicy = spec.RestartNever }, []string{`spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`}},
		{"in the template", func(d *spec.Deployment) {
			d.Spec.Template.Spec.Containers[0].Command = nil
			d.Spec.Template.Annotations = map[string]string{spec.AnnotationFailover: "x", spec.AnnotationProbeOverride: "c.liveness: period=1s"}
		}, []string{
			`spec.template.metadata.annotations[probe.muster.dev/override]: Invalid value: "c.liveness: period=1s": there is no liveness probe of a container "c"`,
			`spec.template.metadata.annotations[muster.dev/failover]: Unsupported value: "x": supported values: "fast", "fenced", "stay"`,
			"spec.template.spec.containers[0].command: Required value",
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			d := deployment()
			x.change(d)
			check(t, append(spec.DefaultDeployment(d), spec.ValidateDeployment(d, spec.Options{})...), x.want...)
		})
	}
}

// Rule 2.7.
func TestOnlyWhatMayChangeChanges(t *testing.T) {
	old, changed := web(), web()
	changed.Labels, changed.Annotations = map[string]string{"a": "b"}, map[string]string{"c": "d"}
	check(t, spec.ValidatePodUpdate(old, changed))
	changed.Spec.Containers[0].Args = []string{"-v"}
	check(t, spec.ValidatePodUpdate(old, changed), "spec.containers[0].args[0]: Forbidden: a pod's spec cannot change while it exists; delete it first, or apply with --replace")

	was, d := deployment(), deployment()
	d.Spec.Replicas, d.Spec.Template.Spec.Hostname = 7, "x"
	check(t, spec.ValidateDeploymentUpdate(was, d))
	d.Spec.Selector = spec.Selector{Labels: map[string]string{"app": "db"}}
	check(t, spec.ValidateDeploymentUpdate(was, d), "spec.selector: Invalid value: field is immutable; delete it first, or apply with --replace")
	d.Spec.Selector = was.Spec.Selector
	d.Spec.Selector.Expressions = []spec.SelectorExpression{{Key: "app", Operator: spec.Exists}}
	check(t, spec.ValidateDeploymentUpdate(was, d), "spec.selector: Invalid value: field is immutable; delete it first, or apply with --replace")
}

func TestAChangeOfAPodIsToldByTheFieldsThatDiffer(t *testing.T) {
	grace := time.Second
	first := func(p *spec.Pod) *spec.Container { return &p.Spec.Containers[0] }
	probe := func(p *spec.Probe) func(*spec.Pod) { return func(pod *spec.Pod) { first(pod).Liveness = p } }
	for _, x := range []struct {
		name     string
		was, now func(*spec.Pod)
		want     []string
	}{
		{"nothing", nil, func(p *spec.Pod) {
			first(p).Args, p.Spec.Volumes, p.Spec.NodeSelector = []string{}, []spec.Volume{}, map[string]string{}
		}, nil},
		{"image and grace", nil, func(p *spec.Pod) {
			first(p).Image, p.Spec.TerminationGrace = "b", time.Second
		}, []string{"spec.containers[0].image", "spec.terminationGracePeriodSeconds"}},
		{"a container more", nil, func(p *spec.Pod) { p.Spec.Containers = append(p.Spec.Containers, spec.Container{Name: "d"}) },
			[]string{"spec.containers[1]"}},
		{"an argument less", func(p *spec.Pod) { first(p).Args = []string{"a", "b"} }, func(p *spec.Pod) { first(p).Args = []string{"a"} },
			[]string{"spec.containers[0].args[1]"}},
		{"labels of a node", func(p *spec.Pod) { p.Spec.NodeSelector = map[string]string{"a": "1", "b": "", "c": "3"} },
			func(p *spec.Pod) { p.Spec.NodeSelector = map[string]string{"a": "2", "c": "3", "d": ""} },
			[]string{"spec.nodeSelector[a]", "spec.nodeSelector[b]", "spec.nodeSelector[d]"}},
		{"resources", nil, func(p *spec.Pod) {
			first(p).Resources = spec.Resources{Requests: spec.ResourceList{MilliCPU: 1}, Limits: spec.ResourceList{MemoryBytes: 1}}
		}, []string{"spec.containers[0].resources.requests[cpu]", "spec.containers[0].resources.limits[memory]"}},
		{"a probe", nil, probe(&spec.Probe{}), []string{"spec.containers[0].livenessProbe"}},
		{"a probe's handler", probe(&spec.Probe{Handler: spec.Handler{Exec: &spec.ExecAction{}}}), probe(&spec.Probe{Handler: spec.Handler{HTTP: &spec.HTTPAction{}}}),
			[]string{"spec.containers[0].livenessProbe.exec", "spec.containers[0].livenessProbe.httpGet"}},
		{"a probe's port and times", probe(&spec.Probe{Handler: spec.Handler{TCP: &spec.TCPAction{Port: spec.PortRef{Number: 1}}}, Period: 1}),
			probe(&spec.Probe{Handler: spec.Handler{TCP: &spec.TCPAction{Port: spec.PortRef{Name: "a"}}}, Period: 2, TerminationGrace: &grace}),
			[]string{"spec.containers[0].livenessProbe.tcpSocket.port", "spec.containers[0].livenessProbe.periodSeconds",
				"spec.containers[0].livenessProbe.terminationGracePeriodSeconds"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			was, now := web(), web()
			if x.was != nil {
				x.was(was)
			}
			x.now(now)
			var want []string
			for _, path := range x.want {
				want = append(want, path+": Forbidden: a pod's spec cannot change while it exists; delete it first, or apply with --replace")
			}
			check(t, spec.ValidatePodUpdate(was, now), want...)
		})
	}
}

func TestAtMostTenChangesOfAPodAreTold(t *testing.T) {
	now := web()
	now.Spec.Containers[0].Args = make([]string, 1000)
	if got := spec.ValidatePodUpdate(web(), now); len(got) != 10 || got[9].Path != "spec.containers[0].args[9]" {
		t.Errorf("%d findings: %v", len(got), got)
	}
}

func TestANodeHasNoNamespace(t *testing.T) {
	check(t, spec.ValidateNode(&spec.Node{Meta: spec.Meta{Name: "n1"}}))
	check(t, spec.ValidateNode(&spec.Node{Meta: spec.Meta{Labels: map[string]string{"a": " "}}}),
		"metadata.name: Required value: name or generateName is required",
		`metadata.labels: Invalid value: " ": a valid label must be an empty string or at most 63 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character`)
}

func TestWarningsAreApartFromErrors(t *testing.T) {
	warnings, errs := spec.Split([]spec.Finding{{Path: "a", Kind: spec.Required}, {Path: "b", Message: "mind", Warning: true}})
	if len(warnings) != 1 || warnings[0] != "b: mind" || len(errs) != 1 || errs[0].Path != "a" {
		t.Errorf("%v, %v", warnings, errs)
	}
}

// Rule 2.6.
func TestInitContainersAreHeldToTheRulesOfTheirKind(t *testing.T) {
	probe := &spec.Probe{Handler: spec.Handler{Exec: &spec.ExecAction{Command: []string{"true"}}}}
	inits := func(all ...spec.Container) func(*spec.Pod) {
		return func(p *spec.Pod) { p.Spec.InitContainers = all }
	}
	for _, x := range []struct {
		name   string
		change func(*spec.Pod)
		want   []string
	}{
		{"plain and sidecar", inits(spec.Container{Name: "a", Command: []string{"x"}},
			spec.Container{Name: "b", Command: []string{"x"}, RestartPolicy: spec.RestartAlways, Liveness: probe, Readiness: probe, Startup: probe}), nil},
		{"probe of a plain one", inits(spec.Container{Name: "a", Command: []string{"x"}, Readiness: probe}),
			[]string{"spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"}},
		{"name of a regular one", inits(spec.Container{Name: "c", Command: []string{"x"}}), []string{`spec.initContainers[0].name: Duplicate value: "c"`}},
		{"no command", inits(spec.Container{Name: "a"}), []string{"spec.initContainers[0].command: Required value"}},
		{"too many", inits(make([]spec.Container, spec.MaxContainers)...), append([]string{"spec.initContainers: Too many: 64: at most 63"}, unnamed(spec.MaxContainers)...)},
	} {
		t.Run(x.name, func(t *testing.T) { checkPod(t, x.change, spec.Options{}, x.want...) })
	}
}

func TestHostPortsOfAPodAreChecked(t *testing.T) {
	const c = "spec.containers[0].ports"
	port := func(number, host int32, protocol string) spec.Port {
		return spec.Port{Number: number, HostPort: host, Protocol: protocol}
	}
	for _, x := range []struct {
		name        string
		hostNetwork bool
		ports       []spec.Port
		want        []string
	}{
		{"one port by two protocols", false, []spec.Port{port(80, 8080, "TCP"), port(80, 8080, "UDP")}, nil},
		{"twice", false, []spec.Port{port(80, 8080, ""), port(81, 8080, "TCP")}, []string{c + `[1].hostPort: Duplicate value: "TCP/8080"`}},
		{"too large", false, []spec.Port{port(80, 65536, "TCP")}, []string{c + "[0].hostPort: Invalid value: 65536: must be between 1 and 65535, inclusive"}},
		{"negative", false, []spec.Port{port(80, -1, "TCP")}, []string{c + "[0].hostPort: Invalid value: -1: must be between 1 and 65535, inclusive"}},
		{"another one in the node's network", true, []spec.Port{port(80, 8080, "TCP")},
			[]string{c + "[0].hostPort: Invalid value: 8080: must match `containerPort` when `hostNetwork` is true"}},
		{"left out in the node's network", true, []spec.Port{port(80, 0, "TCP")}, nil},
	} {
		t.Run(x.name, func(t *testing.T) {
			checkPod(t, func(p *spec.Pod) { p.Spec.HostNetwork, p.Spec.Containers[0].Ports = x.hostNetwork, x.ports }, spec.Options{}, x.want...)
		})
	}
	p := web()
	p.Spec.HostNetwork, p.Spec.Containers[0].Ports = true, []spec.Port{{Number: 80}}
	spec.DefaultPod(p)
	if diff := cmp.Diff([]spec.HostPort{{Protocol: "TCP", Number: 80}}, p.Spec.HostPorts()); diff != "" {
		t.Errorf("ports of a pod in the node's network: %s", diff)
	}
}

// unnamed is what is found in n init containers with nothing in them.
func unnamed(n int) (all []string) {
	for i := range n {
		at := fmt.Sprintf("spec.initContainers[%d]", i)
		all = append(all, at+".name: Required value", at+".command: Required value")
	}
	return all
}

// Kubernetes' rule: the sidecars count beside the regular containers and beside each later init container.
func TestRequestsAreTheMostOfAnyMoment(t *testing.T) {
	c := func(cpu, memory int64, policy spec.RestartPolicy) spec.Container {
		return spec.Container{RestartPolicy: policy, Resources: spec.Resources{Requests: spec.ResourceList{MilliCPU: cpu, MemoryBytes: memory}}}
	}
	for name, x := range map[string]struct {
		inits, regular []spec.Container
		want           spec.ResourceList
	}{
		"regular ones add up":         {nil, []spec.Container{c(1, 10, ""), c(2, 20, "")}, spec.ResourceList{MilliCPU: 3, MemoryBytes: 30}},
		"the larger of each resource": {[]spec.Container{c(5, 1, ""), c(4, 2, "")}, []spec.Container{c(1, 10, "")}, spec.ResourceList{MilliCPU: 5, MemoryBytes: 10}},
		"a sidecar counts all along":  {[]spec.Container{c(2, 2, spec.RestartAlways), c(5, 1, "")}, []spec.Container{c(1, 10, "")}, spec.ResourceList{MilliCPU: 7, MemoryBytes: 12}},
		"a later sidecar not yet":     {[]spec.Container{c(5, 1, ""), c(2, 2, spec.RestartAlways)}, []spec.Container{c(1, 10, "")}, spec.ResourceList{MilliCPU: 5, MemoryBytes: 12}},
	} {
		s := spec.PodSpec{InitContainers: x.inits, Containers: x.regular}
		if got := s.Requests(); got != x.want {
			t.Errorf("%s: %+v, want %+v", name, got, x.want)
		}
	}
}
