// Package probelint finds what is unwise about a pod's probes: what is valid, and will hurt all the same. It is pure, and would
// rather miss something than cry wolf.
package probelint

import (
	"fmt"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// Finding is one thing that is unwise.
type Finding struct {
	// Rule is the name of what was found, Path the field by its Kubernetes path.
	Rule, Path string
	// Container is whose it is.
	Container string
	// Message says what will happen, Fix what to do.
	Message, Fix string
}

// String is the finding on one line.
func (f Finding) String() string { return f.Path + ": " + f.Message + " (" + f.Rule + "): " + f.Fix }

// The bounds of the rules.
const (
	// longDelay is an initial delay that a startup probe should replace, manyFailures a threshold that hides one.
	longDelay    = 30 * time.Second
	manyFailures = 10
	// slowRestart is how long a dead container may go unnoticed.
	slowRestart = 10 * time.Minute
	// dearShare is the part of a container's CPU limit that its probes may take.
	dearShare = 0.1
)

// Measured is what a live pod's probe has shown.
type Measured struct {
	// Output is that of the last attempt; LimitShare the part of the container's CPU limit that the probe takes, negative when unknown.
	Output     string
	LimitShare float64
}

// Pod looks at the probes of a pod's containers; at is the path of its spec. measured is by container and kind, and may be nil.
func Pod(at string, s *spec.PodSpec, measured func(container string, kind spec.ProbeKind) (Measured, bool)) []Finding {
	l := &linter{measured: measured}
	for i := range s.InitContainers {
		if c := &s.InitContainers[i]; c.Sidecar() {
			l.container(fmt.Sprintf("%s.initContainers[%d]", at, i), c, true)
		}
	}
	for i := range s.Containers {
		c := &s.Containers[i]
		policy := s.RestartPolicy
		if c.RestartPolicy != "" {
			policy = c.RestartPolicy
		}
		l.container(fmt.Sprintf("%s.containers[%d]", at, i), c, policy == spec.RestartAlways || policy == "")
	}
	return l.found
}

type linter struct {
	measured func(container string, kind spec.ProbeKind) (Measured, bool)
	found    []Finding
}

func (l *linter) add(c *spec.Container, at, rule, message, fix string) {
	l.found = append(l.found, Finding{Rule: rule, Path: at, Container: c.Name, Message: message, Fix: fix})
}

// container looks at one container; longRunning is one that is to run for ever.
func (l *linter) container(at string, c *spec.Container, longRunning bool) {
	if longRunning && c.Liveness == nil {
		l.add(c, at, "no-liveness", "nothing finds out when it hangs", "add a livenessProbe that asks the process itself, and nothing behind it")
	}
	if c.Liveness != nil && c.Readiness != nil && reflect.DeepEqual(c.Liveness.Handler, c.Readiness.Handler) && found(c.Liveness) <= found(c.Readiness) {
		l.add(c, at+".livenessProbe", "same-question", "liveness and readiness ask the same, and liveness is no more patient: what should only take it out of traffic restarts it, too",
			"have liveness ask whether the process lives, or wait for longer")
	}
	for _, kind := range spec.ProbeKinds {
		p := c.Probe(kind)
		if p == nil {
			continue
		}
		field := at + "." + kind.String() + "Probe"
		if p.Timeout > p.Period || p.Timeout == p.Period && p.Period > time.Second { // a second is the least that there is of both
			l.add(c, field+".timeoutSeconds", "timeout-not-below-period", fmt.Sprintf("an attempt may take %v, and the next is due after %v", p.Timeout, p.Period),
				"a time-out well below the period")
		}
		if p.Exec != nil {
			l.exec(field+".exec.command", c, p.Exec.Command)
		}
		l.look(field, c, kind)
	}
	if c.Liveness != nil {
		l.liveness(at+".livenessProbe", c)
	}
}

// found is how long a probe fails before it has a consequence.
func found(p *spec.Probe) time.Duration { return time.Duration(max(p.FailureThreshold, 1)) * p.Period }

// dependencies are names of paths that ask for more than the process itself.
var dependencies = []string{"ready", "readyz", "readiness", "db", "database", "deps", "dependencies", "backend", "upstream", "downstream",
	"redis", "postgres", "mysql", "mongo", "kafka", "deep", "full"}

func (l *linter) liveness(at string, c *spec.Container) {
	p := c.Liveness
	host, given := "", ""
	switch {
	case p.HTTP != nil:
		host, given = p.HTTP.Host, at+".httpGet"
	case p.TCP != nil:
		host, given = p.TCP.Host, at+".tcpSocket"
	}
	if host != "" && host != "localhost" && !strings.HasPrefix(host, "127.") && host != "::1" {
		l.add(c, given+".host", "liveness-elsewhere", "liveness asks "+host+": when that is down this container is restarted, which helps nobody",
			"leave host out: the pod's own address is asked")
	}
	if p.HTTP != nil {
		where, _, _ := strings.Cut(p.HTTP.Path, "?")
		for part := range strings.SplitSeq(where, "/") {
			if slices.Contains(dependencies, strings.ToLower(part)) {
				l.add(c, at+".httpGet.path", "liveness-asks-dependencies", fmt.Sprintf("%q sounds like more than the process: when a dependency is down all replicas are restarted", p.HTTP.Path),
					"ask a path that only says that the process answers; dependencies are readiness' business")
				break
			}
		}
	}
	threshold := max(p.FailureThreshold, 1)
	switch {
	case found(p) > slowRestart:
		l.add(c, at+".failureThreshold", "slow-restart", fmt.Sprintf("a container that hangs is restarted after %v", found(p)), "a lower failureThreshold or period")
	case threshold >= manyFailures && c.Startup == nil:
		l.add(c, at+".failureThreshold", "threshold-for-start", fmt.Sprintf("%d failures are let pass, at the start and ever after", threshold),
			"a startupProbe for the start, and a threshold of 3 for the rest")
	}
	if p.InitialDelay > longDelay && c.Startup == nil {
		l.add(c, at+".initialDelaySeconds", "delay-for-start", fmt.Sprintf("for %v after each start nobody looks, however quick it was", p.InitialDelay),
			"a startupProbe: it ends when the container has started")
	}
}

var (
	// clients are programs that ask what a handler asks without a process.
	clients = map[string]string{"curl": "httpGet", "wget": "httpGet", "nc": "tcpSocket", "ncat": "tcpSocket", "netcat": "tcpSocket", "telnet": "tcpSocket",
		"grpc_health_probe": "grpc", "grpc-health-probe": "grpc"}
	heavy = regexp.MustCompile(`^(java|jshell|jcmd|python[0-9.]*|node|nodejs|ruby|php[0-9.]*|dotnet|groovy|scala|kotlin)$`)
	loops = regexp.MustCompile(`\b(while|until|for)\b[\s\S]*\bdo\b[\s\S]*\bsleep\b|--retry[ =]`)
	shell = regexp.MustCompile(`^(sh|bash|ash|dash|zsh|busybox)$`)
)

// programs are the names of what a script runs.
func programs(script string) (names []string) {
	for command := range strings.FieldsFuncSeq(script, func(r rune) bool { return strings.ContainsRune(";&|(){}\n`", r) }) {
		words := strings.Fields(command)
		for len(words) > 0 {
			switch w := words[0]; {
			case w == "timeout" && len(words) > 1:
				words = words[2:]
				continue
			case slices.Contains([]string{"if", "then", "else", "elif", "while", "until", "do", "!", "exec", "sudo", "env"}, w), strings.Contains(w, "="):
				words = words[1:]
				continue
			}
			names = append(names, path.Base(strings.TrimPrefix(words[0], "$")))
			break
		}
	}
	return names
}

// exec looks at a command, and into the script of a shell.
func (l *linter) exec(at string, c *spec.Container, command []string) {
	if len(command) == 0 {
		return
	}
	names, text := []string{path.Base(command[0])}, strings.Join(command, " ")
	if shell.MatchString(names[0]) {
		if i := slices.IndexFunc(command, func(a string) bool { return strings.HasPrefix(a, "-") && strings.HasSuffix(a, "c") }); i >= 0 && i+1 < len(command) {
			text = command[i+1]
			names = append(names, programs(text)...)
		}
	}
	for _, name := range names {
		if handler := clients[name]; handler != "" {
			l.add(c, at, "exec-of-a-client", name+" starts a process for each attempt, which the container pays for, and has to be in it", "use "+handler)
			break
		}
	}
	for _, name := range names {
		if heavy.MatchString(name) {
			l.add(c, at, "heavy-runtime", name+" starts a runtime of its own for each attempt, which the container pays for", "let the process answer for itself: httpGet, tcpSocket or grpc")
			break
		}
	}
	if loops.MatchString(text) {
		l.add(c, at, "retry-loop", "it tries again by itself, so that an attempt says what was true for a while", "ask once: failureThreshold is for trying again")
	}
}

// look is about what a live pod's probe has shown.
func (l *linter) look(at string, c *spec.Container, kind spec.ProbeKind) {
	if l.measured == nil {
		return
	}
	m, ok := l.measured(c.Name, kind)
	if !ok {
		return
	}
	if kind == spec.Liveness && (strings.HasSuffix(m.Output, "statuscode: 401") || strings.HasSuffix(m.Output, "statuscode: 403")) {
		l.add(c, at+".httpGet", "needs-credentials", "it was answered "+m.Output[len(m.Output)-3:]+": it is restarted for ever", "a path that needs no credentials, or an Authorization header in httpHeaders")
	}
	if m.LimitShare > dearShare {
		l.add(c, at, "dear", fmt.Sprintf("it takes %.0f %% of the container's CPU limit", 100*m.LimitShare), "a cheaper handler, or a longer period")
	}
}
