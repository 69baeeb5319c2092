package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/agent/probe"
	"github.com/musterhq/muster/agent/runner"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/manifest"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

type probeRunFlags struct {
	files                    []string
	address, container, kind string
	ignoreUnsupported        bool
}

func probeRunCommand(o *options) *cobra.Command {
	var r probeRunFlags
	cmd := &cobra.Command{
		Use: "run -f FILE|DIR|-", Short: "Try a manifest's probes once, from here and without a cluster", Args: cobra.NoArgs,
		Example: "  muster probe run -f web.yaml\n  muster probe run -f web.yaml --address 10.0.0.7 --kind readiness",
		Long: "Try every probe of the manifests' pods and Deployments once, from where this runs, and show one line an attempt. No cluster\n" +
			"is needed. httpGet, tcpSocket and grpc probes ask --address in place of the pod's own; a host that the probe names is asked\n" +
			"itself. exec probes run on this machine, in no container, and only where --address is this machine. The exit status is 1\n" +
			"when one fails.",
		RunE: func(cmd *cobra.Command, _ []string) error { return runProbes(cmd.Context(), o, r) },
	}
	f := cmd.Flags()
	f.StringSliceVarP(&r.files, "filename", "f", nil, "a file, a directory, or - for stdin (required; may be repeated)")
	f.StringVar(&r.address, "address", "127.0.0.1", "the host to ask, a name or an IP address")
	f.StringVarP(&r.container, "container", "c", "", "only this container's probes")
	f.StringVar(&r.kind, "kind", "", "only probes of this kind: liveness, readiness or startup")
	f.BoolVar(&r.ignoreUnsupported, "ignore-unsupported", false, "fields that Kubernetes knows and muster does not only warn")
	o.outputFlag(cmd, "table", "json")
	return cmd
}

// askedHost is the host of --address, and whether it is this machine.
func askedHost(address string) (host string, here bool, err error) {
	host = address
	if bare, ok := strings.CutPrefix(address, "["); ok {
		host, ok = strings.CutSuffix(bare, "]")
		if !ok {
			host = ""
		}
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return host, ip.IsLoopback(), nil
	}
	if host != address || spec.NodeName(strings.ToLower(host)) != "" {
		return "", false, usagef("--address %q: want a host name or an IP address, without a port", address)
	}
	return host, strings.EqualFold(host, "localhost"), nil
}

// trial is one probe to try.
type trial struct {
	object    string
	pod       *spec.Pod
	container *spec.Container
	kind      spec.ProbeKind
	probe     *spec.Probe
}

func runProbes(ctx context.Context, o *options, r probeRunFlags) error {
	if len(r.files) == 0 {
		return usagef("-f is required: a file, a directory, or - for stdin")
	}
	host, here, err := askedHost(r.address)
	if err != nil {
		return err
	}
	if _, err := parseProbeKind(r.kind); err != nil {
		return err
	}
	objects, bad, err := o.readManifests(r.files, manifest.Options{IgnoreUnsupported: r.ignoreUnsupported})
	if err != nil {
		return err
	}
	var trials []trial
	for _, x := range objects {
		pod, err := x.plainPod()
		if err != nil {
			bad = true
			o.report(x, err)
			continue
		}
		for _, c := range pod.Spec.AllContainers() {
			for _, kind := range spec.ProbeKinds {
				if p := runner.Question(c, kind); p != nil && (r.container == "" || r.container == c.Name) && (r.kind == "" || r.kind == kind.String()) {
					trials = append(trials, trial{x.ref(), pod, c, kind, p})
				}
			}
		}
	}
	tried, failed, err := o.try(ctx, trials, host, here)
	switch {
	case err != nil:
		return err
	case failed > 0:
		return fmt.Errorf("%d of %d probes failed", failed, tried)
	case bad:
		return errReported
	case tried == 0:
		return errors.New("no probe to try")
	}
	return nil
}

// anyHost lets probes name any address: it is this machine that asks, not an agent.
var anyHost = spec.Options{AllowProbeHosts: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}

// plainPod is the pod, or the one that a Deployment's template makes, with its defaults; an object of another type has none.
func (x object) plainPod() (*spec.Pod, error) {
	var pod *spec.Pod
	var findings []spec.Finding
	switch value := x.value.(type) {
	case *musterv1.Pod:
		p, err := wire.PodFromProto(value)
		if err != nil {
			return nil, err
		}
		findings = append(spec.DefaultPod(p), spec.ValidatePod(p, anyHost)...)
		pod = p
	case *musterv1.Deployment:
		d, err := wire.DeploymentFromProto(value)
		if err != nil {
			return nil, err
		}
		findings = append(spec.DefaultDeployment(d), spec.ValidateDeployment(d, anyHost)...)
		t := &d.Spec.Template
		pod = &spec.Pod{Meta: spec.Meta{Namespace: d.Namespace, Name: d.Name, Labels: t.Labels, Annotations: t.Annotations}, Spec: t.Spec}
	default:
		return &spec.Pod{}, nil
	}
	var wrong []string
	for i := range findings {
		if !findings[i].Warning {
			wrong = append(wrong, oneLine(findings[i].String()))
		}
	}
	if len(wrong) > 0 {
		return nil, errors.New(strings.Join(wrong, "\n"))
	}
	return pod, nil
}

// try makes one attempt of each probe, one after the other, and shows it.
func (o *options) try(ctx context.Context, trials []trial, host string, here bool) (tried, failed int, err error) {
	show := o.trialLines(trials)
	told := false
	for _, t := range trials {
		if t.probe.Exec != nil && !here {
			fmt.Fprintf(o.world.Stderr, "%s %s %s: not tried: an exec probe runs here, and %s is another machine\n", t.object, t.container.Name, t.kind, host)
			continue
		}
		local := probe.Local{Dir: "/"}
		if t.probe.Exec != nil {
			if !told {
				told = true
				fmt.Fprintln(o.world.Stderr, "exec probes run on this machine, as you, not in their containers")
			}
			local = o.local(t, host)
		}
		start := time.Now()
		answer := probe.New(local).Attempt(ctx, &probe.Question{Probe: t.probe, Address: host, Ports: t.container.Ports})
		a := spec.Attempt{Start: start, Outcome: answer.Outcome, Duration: time.Since(start), CPU: answer.CPU, Lag: -1, Output: answer.Output}
		if ctx.Err() != nil {
			return tried, failed, ctx.Err()
		}
		tried++
		switch a.Outcome {
		case spec.OutcomeSuccess, spec.OutcomeWarning:
			a.Result = spec.ResultSuccess
		case spec.OutcomeFailure:
			a.Result = spec.ResultFailure
			failed++
		default:
			failed++ // that it can't be tried is no good answer here
		}
		if err := show(t, &a); err != nil {
			return tried, failed, err
		}
	}
	return tried, failed, nil
}

// local is where the command of a probe runs; it tells which of the container's variables have no value here.
func (o *options) local(t trial, host string) probe.Local {
	env, missing := runner.LocalEnvironment(t.container, o.world.Environ(), func(path string) (string, bool) {
		value, ok := map[string]string{"metadata.name": t.pod.Name, "metadata.namespace": t.pod.Namespace, "status.podIP": host}[path]
		return value, ok
	})
	for _, name := range missing {
		fmt.Fprintf(o.world.Stderr, "%s %s %s: variable %s is not set: its value is known on a node only\n", t.object, t.container.Name, t.kind, name)
	}
	dir := t.container.WorkingDir
	if dir == "" {
		dir = "/"
	}
	return probe.Local{Env: env, Dir: dir}
}

// trialJSON is a line of "probe run": one of "probe history", and whose it is.
type trialJSON struct {
	Object  string `json:"object"`
	Handler string `json:"handler"`
	*attemptJSON
}

// trialLines returns what shows an attempt, a line each. The first line of a table comes with the first attempt.
func (o *options) trialLines(trials []trial) func(trial, *spec.Attempt) error {
	if o.output == "json" {
		enc := json.NewEncoder(o.world.Stdout)
		enc.SetEscapeHTML(false)
		return func(t trial, a *spec.Attempt) error {
			line := attemptValue(wire.ProbeAttemptToProto(spec.ProbeID{Container: t.container.Name, Kind: t.kind}, a))
			return enc.Encode(trialJSON{t.object, t.probe.HandlerName(), line})
		}
	}
	header := []string{"OBJECT", "CONTAINER", "KIND", "HANDLER", "OUTCOME", "DURATION", "OUTPUT"}
	cells := func(t trial, more ...string) []string {
		return append([]string{t.object, t.container.Name, t.kind.String(), t.probe.HandlerName()}, more...)
	}
	known := [][]string{header}
	for _, t := range trials {
		known = append(known, cells(t, "success", "1.000ms", ""))
	}
	widths := widthsOf(known)
	lines := [][]string{header}
	return func(t trial, a *spec.Attempt) error {
		lines = append(lines, cells(t, a.Outcome.String(), shortDuration(a.Duration).String(), oneLine(a.Output)))
		_, err := io.WriteString(o.world.Stdout, align(lines, widths))
		lines = nil
		return err
	}
}
