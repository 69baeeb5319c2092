package runner

import (
	"slices"
	"testing"

	"github.com/musterhq/muster/internal/spec"
)

func TestWithoutAPodACommandSeesWhatIsKnownOfIt(t *testing.T) {
	sc := &spec.Container{
		Env: []spec.EnvVar{
			{Name: "PORT", Value: "80"}, {Name: "IP", FieldPath: "status.podIP"}, {Name: "URL", Value: "http://$(IP):$(PORT)$(NOPE)"},
			{Name: "NODE", FieldPath: "spec.nodeName"}, {Name: "MUSTER_EPOCH", Value: "1"}, {Name: "HOME", Value: "/data"},
		},
		Liveness: &spec.Probe{Handler: spec.Handler{Exec: &spec.ExecAction{Command: []string{"get", "$(PORT)", "$(IP)"}}}},
	}
	env, missing := LocalEnvironment(sc, []string{"HOME=/root", "TERM=dumb"}, func(path string) (string, bool) { return "127.0.0.1", path == "status.podIP" })
	if want := []string{"HOME=/data", "TERM=dumb", "PORT=80", "IP=127.0.0.1", "URL=http://127.0.0.1:80$(NOPE)"}; !slices.Equal(env, want) {
		t.Errorf("%q, want %q", env, want)
	}
	if want := []string{"NODE", "MUSTER_EPOCH"}; !slices.Equal(missing, want) {
		t.Errorf("missing %q, want %q", missing, want)
	}
	if Question(sc, spec.Readiness) != nil {
		t.Error("a probe that there is not")
	}
	if got := Question(sc, spec.Liveness).Exec.Command; !slices.Equal(got, []string{"get", "80", "$(IP)"}) {
		t.Errorf("3.2.1: asked %q", got)
	}
}
