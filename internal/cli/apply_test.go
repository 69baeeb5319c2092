package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"pgregory.net/rapid"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/manifest"
)

func TestLargeFilesAreReadAndLargeDocumentsRefused(t *testing.T) {
	if testing.Short() {
		t.Skip("46 MiB of YAML take half a minute under the race detector")
	}
	s := newShell(t, newFake())
	pod := func(name string, size int) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec: {containers: [{name: c, command: [x]}]}\n# %s\n", name, strings.Repeat("x", size))
	}
	apply := func(text string) answer {
		file := filepath.Join(t.TempDir(), "f.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return s.run("apply", "-f", file)
	}
	a := apply(pod("a", manifest.MaxDocument-200) + "---\n" + pod("b", manifest.MaxDocument) + "---\n" + pod("c", manifest.MaxDocument-200))
	if a.status != 1 || a.stdout != "pod/a created\npod/c created\n" || strings.Count(a.stderr, "\n") != 1 ||
		!strings.Contains(a.stderr, "f.yaml:document 2: Too long: ") || !strings.Contains(a.stderr, "at most 2097152 (2 MiB)") {
		t.Errorf("exit %d, %q, %q", a.status, a.stdout, a.stderr)
	}
	comment := "# " + strings.Repeat("x", 4096-7) + "\n---\n"
	if a := apply(strings.Repeat(comment, manifest.MaxFile/4096-1) + pod("d", 0)); a.status != 0 || a.stdout != "pod/d created\n" {
		t.Errorf("almost as long as may be: exit %d, %q, %q", a.status, a.stdout, a.stderr)
	}
	a = apply(pod("e", manifest.MaxFile))
	if a.status != 1 || a.stdout != "" || strings.Count(a.stderr, "\n") != 1 || !strings.Contains(a.stderr, "more than 16777216 bytes") {
		t.Errorf("too long: exit %d, %q, %q", a.status, a.stdout, a.stderr)
	}
}

func TestOnlyAChangeOfWhatCannotChangeIsReplaced(t *testing.T) {
	violation := func(field, description, why string) *errdetails.BadRequest_FieldViolation {
		return &errdetails.BadRequest_FieldViolation{Field: field, Description: description, Reason: why}
	}
	image := violation("spec.containers[0].image", "Forbidden: a pod's spec cannot change while it exists", "Forbidden")
	all := violation("spec", "Forbidden: a pod's spec cannot change while it exists", "Forbidden")
	selector := violation("spec.selector", "Invalid value: field is immutable", "Invalid")
	host := violation("spec.containers[0].livenessProbe.httpGet.host", "Forbidden: a probe may ask the pod's own address only", "Forbidden")
	for _, c := range []struct {
		found []*errdetails.BadRequest_FieldViolation
		want  bool
	}{
		{nil, false},
		{[]*errdetails.BadRequest_FieldViolation{image}, true},
		{[]*errdetails.BadRequest_FieldViolation{all}, true},
		{[]*errdetails.BadRequest_FieldViolation{selector}, true},
		{[]*errdetails.BadRequest_FieldViolation{host}, false},
		{[]*errdetails.BadRequest_FieldViolation{image, host}, false},
	} {
		if got := immutable(withReason(codes.InvalidArgument, "invalid", "INVALID", c.found...)); got != c.want {
			t.Errorf("%v: %v", c.found, got)
		}
	}
}

func TestWhatIsDoneAtATimeIsTakenInOrderAndStopsWhenAsked(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, most := rapid.IntRange(0, 50).Draw(t, "n"), rapid.IntRange(1, 8).Draw(t, "most")
		stop := rapid.IntRange(0, 60).Draw(t, "stop")
		var under, worst, begun atomic.Int64
		taken := 0
		inOrder(n, most, func(i int) int {
			worst.Store(max(worst.Load(), under.Add(1)))
			begun.Add(1)
			runtime.Gosched()
			under.Add(-1)
			return 2 * i
		}, func(i, got int) bool {
			if i != taken || got != 2*i {
				t.Fatalf("took %d of %d, want %d", got, i, taken)
			}
			taken++
			return i != stop
		})
		if want := min(n, stop+1); taken != want {
			t.Errorf("took %d, want %d", taken, want)
		}
		if under.Load() != 0 || worst.Load() > int64(most) || begun.Load() > int64(n) {
			t.Errorf("%d left running, %d at a time, %d begun", under.Load(), worst.Load(), begun.Load())
		}
	})
}

func TestObjectsAreWrittenTogetherUnlessOneMayNeedAnother(t *testing.T) {
	x := func(k *kind, name string) object { return object{kind: k, namespace: "default", name: name} }
	for _, c := range []struct {
		objects []object
		want    int
	}{
		{[]object{x(podKind, "a")}, 1},
		{[]object{x(podKind, "a"), x(podKind, "b"), x(podKind, "a")}, 2},
		{[]object{x(deploymentKind, "a"), x(podKind, "a")}, 1},
	} {
		if got := apart(c.objects); got != c.want {
			t.Errorf("%v: %d, want %d", c.objects, got, c.want)
		}
	}
}

func TestWhatGetPrintsCanBeAppliedWithoutAWord(t *testing.T) {
	s := newShell(t, aCluster())
	for _, what := range []string{"pods", "pod/web", "deployments"} {
		for _, format := range []string{"yaml", "json"} {
			text := s.ok("get", what, "-o", format)
			a := s.runWith(text, "apply", "-f", "-")
			if a.status != 0 || a.stderr != "" || strings.Contains(a.stdout, "created") {
				t.Errorf("%s as %s: exit %d, %q, %q", what, format, a.status, a.stdout, a.stderr)
			}
		}
	}
	text := s.ok("get", "pod", "web", "-o", "yaml")
	a := s.runWith(strings.Replace(text, "phase: Running", "phase: Failed", 1), "apply", "-f", "-")
	if a.status != 0 || a.stderr != "stdin:document 1: pod/web: warning: status: ignored: the live object has another\n" {
		t.Errorf("with another status: %+v", a)
	}
	a = s.runWith(strings.Replace(text, "nodeName: n1", "nodeName: n2", 1), "apply", "-f", "-")
	if a.status != 1 || a.stdout != "" || a.stderr != "stdin:document 1: pod/web: spec.nodeName: Not built yet: leave it out\n" {
		t.Errorf("with another node: %+v", a)
	}
	a = s.runWith(strings.Replace(text, "nodeName: n1", "nodeName: n2", 1), "apply", "-f", "-", "--ignore-unsupported")
	if a.status != 0 || !strings.Contains(a.stderr, "warning: spec.nodeName: ignored: not built yet\n") {
		t.Errorf("with another node, ignored: %+v", a)
	}
}

func TestAPodOfADeploymentIsNotReplaced(t *testing.T) {
	f := aCluster()
	p := webPod("owned", "n1", true)
	p.Meta.Owner = &musterv1.OwnerReference{Kind: "Deployment", Name: "site", Uid: "uid-site"}
	f.setPod(p)
	s := newShell(t, f)
	text := strings.Replace(s.ok("get", "pod", "owned", "-o", "yaml"), `"8080"`, `"9090"`, 1)
	a := s.runWith(text, "apply", "--replace", "-f", "-")
	if a.status != 1 || a.stderr != "stdin:document 1: pod/owned: it belongs to deployment/site, which would make another: change that instead\n" {
		t.Errorf("%+v", a)
	}
}
