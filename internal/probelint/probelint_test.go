package probelint

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/spec/spectest"
)

func get(path string) *spec.Probe {
	return &spec.Probe{Handler: spec.Handler{HTTP: &spec.HTTPAction{Path: path}}}
}

func command(words ...string) *spec.Probe {
	return &spec.Probe{Handler: spec.Handler{Exec: &spec.ExecAction{Command: words}}}
}

func sh(script string) *spec.Probe { return command("sh", "-c", script) }

// with is a probe with other times; the defaults are Kubernetes'.
func with(p *spec.Probe, change func(*spec.Probe)) *spec.Probe { change(p); return p }

func TestWhatIsUnwiseIsFoundAndNothingElse(t *testing.T) {
	live := func(p *spec.Probe) func(*spec.Pod) {
		return func(pod *spec.Pod) { pod.Spec.Containers[0].Liveness = p }
	}
	for name, tc := range map[string]struct {
		change func(*spec.Pod)
		want   []string
	}{
		"a good one":                       {live(get("/healthz")), nil},
		"no liveness":                      {live(nil), []string{"no-liveness"}},
		"no liveness of what ends":         {func(p *spec.Pod) { p.Spec.RestartPolicy, p.Spec.Containers[0].Liveness = spec.RestartNever, nil }, nil},
		"no liveness of an init container": {func(p *spec.Pod) { p.Spec.InitContainers = []spec.Container{{Name: "i"}} }, nil},
		"no liveness of a sidecar": {func(p *spec.Pod) {
			p.Spec.InitContainers = []spec.Container{{Name: "i", RestartPolicy: spec.RestartAlways}}
		}, []string{"no-liveness"}},
		"liveness and readiness alike":        {func(p *spec.Pod) { p.Spec.Containers[0].Readiness = get("/healthz") }, []string{"same-question"}},
		"liveness and readiness apart":        {func(p *spec.Pod) { p.Spec.Containers[0].Readiness = get("/ready") }, nil},
		"liveness asks for readiness":         {live(get("/api/readyz?verbose")), []string{"liveness-asks-dependencies"}},
		"a word within a word":                {live(get("/already/dbx")), nil},
		"liveness elsewhere":                  {live(with(get("/healthz"), func(p *spec.Probe) { p.HTTP.Host = "10.0.0.1" })), []string{"liveness-elsewhere"}},
		"liveness on loopback":                {live(with(get("/healthz"), func(p *spec.Probe) { p.HTTP.Host = "127.0.0.1" })), nil},
		"a time-out of the period":            {live(with(get("/healthz"), func(p *spec.Probe) { p.Timeout = 10 * time.Second })), []string{"timeout-not-below-period"}},
		"a time-out and a period of a second": {live(with(get("/healthz"), func(p *spec.Probe) { p.Period = time.Second })), nil},
		"alike, but liveness waits": {func(p *spec.Pod) {
			c := &p.Spec.Containers[0]
			c.Readiness = get("/healthz")
			c.Liveness.FailureThreshold = 6
		}, nil},
		"curl":                   {live(command("/usr/bin/curl", "-f", "http://localhost/")), []string{"exec-of-a-client"}},
		"curl in a script":       {live(sh("set -e; if curl -f http://localhost/; then exit 0; fi")), []string{"exec-of-a-client"}},
		"nc in bash -ec":         {live(command("bash", "-ec", "nc -z localhost 80 || exit 1")), []string{"exec-of-a-client"}},
		"curl only named":        {live(sh("test -f /tmp/curl && cat /etc/curl.conf")), nil},
		"java":                   {live(command("java", "-jar", "probe.jar")), []string{"heavy-runtime"}},
		"python in a script":     {live(sh("cd /srv && python3 check.py")), []string{"heavy-runtime"}},
		"a loop":                 {live(sh("until test -f /tmp/up; do sleep 1; done")), []string{"retry-loop"}},
		"a loop without a pause": {live(sh("for f in a b; do test -f $f || exit 1; done")), nil},
		"many failures":          {live(with(get("/healthz"), func(p *spec.Probe) { p.FailureThreshold = 30 })), []string{"threshold-for-start"}},
		"many failures beside startup": {func(p *spec.Pod) {
			c := &p.Spec.Containers[0]
			c.Liveness.FailureThreshold, c.Startup = 30, get("/healthz")
		}, nil},
		"so many that it takes ten minutes": {live(with(get("/healthz"), func(p *spec.Probe) { p.FailureThreshold = 61 })), []string{"slow-restart"}},
		"a long delay":                      {live(with(get("/healthz"), func(p *spec.Probe) { p.InitialDelay = 120 * time.Second })), []string{"delay-for-start"}},
		"a long delay beside startup": {func(p *spec.Pod) {
			c := &p.Spec.Containers[0]
			c.Liveness.InitialDelay, c.Startup = time.Minute, get("/healthz")
		}, nil},
		"a readiness that asks dependencies": {func(p *spec.Pod) { p.Spec.Containers[0].Readiness = get("/ready/db") }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := &spec.Pod{Spec: spec.PodSpec{TerminationGrace: spec.UnsetGrace, Containers: []spec.Container{{Name: "c", Liveness: get("/healthz")}}}}
			tc.change(p)
			spec.DefaultPod(p)
			var got []string
			for _, f := range Pod("spec", &p.Spec, nil) {
				got = append(got, f.Rule)
				if f.Path == "" || f.Message == "" || f.Fix == "" || f.Container == "" {
					t.Errorf("finding %+v", f)
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("found %v, want %v", got, tc.want)
			}
		})
	}
}

func TestWhatALivePodHasShownIsTold(t *testing.T) {
	p := &spec.Pod{Spec: spec.PodSpec{Containers: []spec.Container{{Name: "c", Liveness: get("/admin"), Readiness: sh("true")}}}}
	spec.DefaultPod(p)
	var got []string
	for _, f := range Pod("spec", &p.Spec, func(_ string, kind spec.ProbeKind) (Measured, bool) {
		if kind == spec.Liveness {
			return Measured{Output: "HTTP probe failed with statuscode: 403", LimitShare: -1}, true
		}
		return Measured{Output: "HTTP probe failed with statuscode: 401", LimitShare: 0.25}, true
	}) {
		got = append(got, f.Rule)
	}
	if want := []string{"needs-credentials", "dear"}; !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}

func TestAnyPodCanBeLookedAt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := spectest.Draw[spec.Pod](t)
		Pod("spec", &p.Spec, nil)
	})
}
