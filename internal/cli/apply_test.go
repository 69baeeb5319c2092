package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"

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
