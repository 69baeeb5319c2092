package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

const badPractices = "../../deploy/examples/bad-practices"

// onlyLive are the rules that only a pod which runs can break.
var onlyLive = map[string]bool{"needs-credentials": true, "dear": true}

func TestEachBadExampleIsFoundByTheRuleItIsNamedAfter(t *testing.T) {
	s := newShell(t, nil)
	files, err := filepath.Glob(badPractices + "/*.yaml")
	if err != nil || len(files) < 13 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".yaml")
		got := s.run("probe", "lint", "-f", f, "-o", "json")
		if onlyLive[name] {
			if got.status != 0 || got.stdout != "" {
				t.Errorf("%s: exit %d, %q %q", f, got.status, got.stdout, got.stderr)
			}
			continue
		}
		var u unwise
		if err := json.Unmarshal([]byte(got.stdout), &u); err != nil || got.status != 1 {
			t.Errorf("%s: exit %d, %q, %q: %v", f, got.status, got.stdout, got.stderr, err)
			continue
		}
		if u.Rule != name || u.Object != "pod/"+name || u.Container != "main" || !strings.HasPrefix(u.Path, "spec.containers[0]") {
			t.Errorf("%s: %+v", f, u)
		}
	}
}

func TestTheGoodExamplesAreFreeOfFindings(t *testing.T) {
	s := newShell(t, nil)
	files, err := filepath.Glob("../../deploy/examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		got := s.run("probe", "lint", "-f", f)
		for line := range strings.Lines(got.stdout) {
			if strings.HasPrefix(line, " ") || strings.Contains(line, ": no-liveness") || strings.Contains(f, "bad-liveness") {
				continue
			}
			t.Errorf("%s: %s", f, line)
		}
	}
}

func TestWhatLintShowsIsForPeople(t *testing.T) {
	s := newShell(t, nil)
	got := s.run("probe", "lint", "-f", badPractices+"/same-question.yaml")
	readme, err := os.ReadFile(badPractices + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	if got.status != 1 || got.stderr != "1 finding: unwise probes\n" || !strings.Contains(string(readme), "same-question.yaml\n"+got.stdout+"```") {
		t.Errorf("exit %d, %q, stderr %q", got.status, got.stdout, got.stderr)
	}
	for args, want := range map[string]string{
		"probe lint":             "want -f with a file",
		"probe lint -f x.yaml y": "not both",
	} {
		if got := s.run(strings.Fields(args)...); got.status != 2 || !strings.Contains(got.stderr, want) {
			t.Errorf("%s: exit %d, %q", args, got.status, got.stderr)
		}
	}
}

func TestApplyWarnsOfUnwiseProbesOnceAndStoresThePod(t *testing.T) {
	s := newShell(t, newFake())
	manifest := badPractices + "/exec-of-a-client.yaml"
	got := s.run("apply", "-f", manifest)
	if got.status != 0 || !strings.Contains(got.stdout, "pod/exec-of-a-client created") ||
		!strings.Contains(got.stderr, "warning: spec.containers[0].livenessProbe.exec.command: curl starts a process for each attempt") {
		t.Errorf("exit %d, %q, stderr %q", got.status, got.stdout, got.stderr)
	}
	if got := s.run("apply", "-f", badPractices+"/no-liveness.yaml"); got.status != 0 || got.stderr != "" {
		t.Errorf("exit %d, stderr %q", got.status, got.stderr)
	}
	if got := s.run("apply", "-f", manifest); !strings.Contains(got.stdout, "unchanged") || got.stderr != "" {
		t.Errorf("again: %q, stderr %q", got.stdout, got.stderr)
	}
}

func TestLintOfALivePodKnowsWhatWasMeasured(t *testing.T) {
	f := newFake()
	s := newShell(t, f)
	if got := s.run("apply", "-f", badPractices+"/needs-credentials.yaml"); got.status != 0 {
		t.Fatal(got.stderr)
	}
	f.probes = []*musterv1.ProbeState{{
		Pod: &musterv1.ObjectReference{Namespace: "default", Name: "needs-credentials"}, Container: "main", Kind: musterv1.ProbeKind_PROBE_KIND_LIVENESS,
		Last: &musterv1.ProbeAttempt{Output: "HTTP probe failed with statuscode: 401"},
	}}
	f.probeUsages = []*musterv1.ProbeUsage{{
		Pod: &musterv1.ObjectReference{Namespace: "default", Name: "needs-credentials"}, Container: "main", Kind: musterv1.ProbeKind_PROBE_KIND_LIVENESS,
		LimitShare: new(0.5),
	}}
	got := s.run("probe", "lint", "needs-credentials")
	if got.status != 1 || !strings.Contains(got.stdout, "needs-credentials\n") || !strings.Contains(got.stdout, "answered 401") || !strings.Contains(got.stdout, "takes 50 % of the container's CPU limit") {
		t.Errorf("exit %d, %q, stderr %q", got.status, got.stdout, got.stderr)
	}
	if got := s.run("probe", "lint", "nobody"); got.status != 1 || !strings.Contains(got.stderr, "nobody") {
		t.Errorf("exit %d, %q", got.status, got.stderr)
	}
}
