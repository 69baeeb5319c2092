package spec_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/internal/spec"
)

func TestHooksAreRefusedByKubernetesRules(t *testing.T) {
	const c = "spec.containers[0].lifecycle."
	sleep := func(d time.Duration) *spec.Hook { return &spec.Hook{Sleep: &spec.SleepAction{Duration: d}} }
	postStart := func(h *spec.Hook) func(*spec.Pod) { return func(p *spec.Pod) { p.Spec.Containers[0].PostStart = h } }
	preStop := func(h *spec.Hook) func(*spec.Pod) { return func(p *spec.Pod) { p.Spec.Containers[0].PreStop = h } }
	get := spec.HTTPAction{Port: spec.PortRef{Number: 80}}
	initial := func(policy spec.RestartPolicy) func(*spec.Pod) {
		return func(p *spec.Pod) {
			p.Spec.InitContainers = []spec.Container{{Name: "i", Command: []string{"x"}, RestartPolicy: policy, PreStop: sleep(0)}}
		}
	}
	for name, x := range map[string]struct {
		change func(*spec.Pod)
		want   []string
	}{
		"no handler":           {postStart(&spec.Hook{}), []string{c + "postStart: Required value: must specify a handler type"}},
		"no command":           {preStop(&spec.Hook{Exec: &spec.ExecAction{}}), []string{c + "preStop.exec.command: Required value"}},
		"path and scheme":      {preStop(&spec.Hook{HTTP: &get}), nil},
		"two handlers":         {preStop(&spec.Hook{Exec: &spec.ExecAction{Command: []string{"x"}}, Sleep: &spec.SleepAction{}}), []string{c + "preStop.sleep: Forbidden: may not specify more than 1 handler type"}},
		"no port":              {postStart(&spec.Hook{HTTP: &spec.HTTPAction{}}), []string{c + "postStart.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive"}},
		"another host":         {postStart(&spec.Hook{HTTP: &spec.HTTPAction{Port: get.Port, Host: "10.0.0.1"}}), []string{c + `postStart.httpGet.host: Forbidden: "10.0.0.1": a probe may ask the pod's own address or loopback only; the coordinator's --allow-probe-host allows more`}},
		"all of the grace":     {preStop(sleep(30 * time.Second)), nil},
		"no sleep":             {postStart(sleep(0)), nil},
		"more than the grace":  {preStop(sleep(31 * time.Second)), []string{c + "preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)"}},
		"less than nothing":    {postStart(sleep(-time.Second)), []string{c + "postStart.sleep: Invalid value: -1: must be non-negative and less than terminationGracePeriodSeconds (30)"}},
		"of an init container": {initial(""), []string{"spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always"}},
		"of a sidecar":         {initial(spec.RestartAlways), nil},
	} {
		t.Run(name, func(t *testing.T) { checkPod(t, x.change, spec.Options{}, x.want...) })
	}
	p := web()
	postStart(&spec.Hook{HTTP: &spec.HTTPAction{Port: get.Port}})(p)
	copied := p.Clone()
	if diff := cmp.Diff(p, copied); diff != "" {
		t.Error(diff)
	}
	spec.DefaultPod(p)
	if a := p.Spec.Containers[0].PostStart.HTTP; a.Path != "/" || a.Scheme != "HTTP" || copied.Spec.Containers[0].PostStart.HTTP.Path != "" {
		t.Errorf("%+v", a)
	}
	var paths []string
	for _, f := range spec.ValidatePodUpdate(copied, p) {
		paths = append(paths, f.Path)
	}
	if want := c + "postStart.httpGet.scheme"; !slices.Contains(paths, want) {
		t.Errorf("changed %q, want %s among it", paths, want)
	}
}
