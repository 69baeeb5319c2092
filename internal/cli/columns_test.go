package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/manifest"
)

func TestGetChoosesOrdersAndShowsByAnObjectsOwnFields(t *testing.T) {
	f := aCluster()
	late := webPod("a-late", "", false)
	late.Meta.Labels = map[string]string{"app": "late", "example.com/tier": "back"}
	late.Status = &musterv1.PodStatus{Phase: musterv1.PodPhase_POD_PHASE_PENDING}
	f.setPod(late)
	s := newShell(t, f)
	names := func(args ...string) string {
		return strings.ReplaceAll(strings.TrimSpace(s.ok(append([]string{"get", "pods", "-o", "name"}, args...)...)), "\n", " ")
	}
	for line, want := range map[string]string{
		"--field-selector spec.nodeName=n1":                       "pod/web",
		"--field-selector spec.nodeName!=n1":                      "pod/a-late pod/web2",
		"--field-selector spec.nodeName=":                         "pod/a-late",
		"--field-selector status.phase==Running":                  "pod/web pod/web2",
		"--field-selector status.phase=Running,metadata.name=web": "pod/web",
		"-A --field-selector metadata.namespace=data":             "pod/db",
		"--sort-by .spec.nodeName":                                "pod/a-late pod/web pod/web2",
		"--sort-by {.status.containerStatuses[0].ready}":          "pod/a-late pod/web2 pod/web",
		"--sort-by .metadata.labels.app":                          "pod/a-late pod/web pod/web2",
	} {
		if got := names(strings.Fields(line)...); got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
	sameWords(t, "--show-labels", s.ok("get", "pods", "--show-labels"), "NAME READY STATUS RESTARTS AGE LABELS",
		"a-late 0/1 Pending 0 90s app=late,example.com/tier=back", "web 1/1 Running 2 (45s ago) 90s app=web", "web2 0/1 Running 2 (45s ago) 90s app=web")
	sameWords(t, "-L", s.ok("get", "pods", "a-late", "-L", "app,example.com/tier"), "NAME READY STATUS RESTARTS AGE APP TIER", "a-late 0/1 Pending 0 90s late back")
	sameWords(t, "--no-headers", s.ok("get", "pods", "web", "--no-headers"), "web 1/1 Running 2 (45s ago) 90s")
	sameWords(t, "get all", s.ok("get", "all"), "NAME READY STATUS RESTARTS AGE", "pod/a-late 0/1 Pending 0 90s", "pod/web 1/1 Running 2 (45s ago) 90s", "pod/web2 0/1 Running 2 (45s ago) 90s",
		"", "NAME READY UP-TO-DATE AVAILABLE AGE", "deployment/site 2/3 3 2 60m")
	sameWords(t, "custom-columns", s.ok("get", "pods", "-o", "custom-columns=NAME:.metadata.name,NODE:.spec.nodeName,READY:.status.containerStatuses[*].ready"),
		"NAME NODE READY", "a-late <none> <none>", "web n1 true", "web2 n2 false")
	sameWords(t, "custom-columns of any kind", s.ok("get", "probes", "-o", "custom-columns=P:.pod.name,V:{.verdict}", "--no-headers"), "web failure", "web unknown")
	file := filepath.Join(t.TempDir(), "template")
	if err := os.WriteFile(file, []byte("{.items[*].metadata.name}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := s.ok("get", "pods", "-o", "jsonpath-file="+file); got != "a-late web web2" {
		t.Errorf("jsonpath-file: %q", got)
	}
	if a := s.run("get", "pod", "nope", "--ignore-not-found"); a != (answer{}) {
		t.Errorf("--ignore-not-found: %+v", a)
	}
	if a := s.run("get", "pod", "nope", "web", "--ignore-not-found", "-o", "name"); a.status != 0 || a.stdout != "pod/web\n" || a.stderr != "" {
		t.Errorf("--ignore-not-found of two: %+v", a)
	}
	if a := s.run("get", "all", "-n", "none"); a.status != 0 || a.stderr != "no pods, services, deployments in namespace \"none\" (-A shows all)\n" {
		t.Errorf("nothing of all: %+v", a)
	}
	for line, want := range map[string]string{
		"get pods --field-selector spec.hostNetwork=true": "pods are not selected by spec.hostNetwork: there is metadata.name, metadata.namespace, spec.nodeName, status.phase",
		"get nodes --field-selector spec.nodeName=n1":     "nodes are not selected by spec.nodeName",
		"get members --field-selector metadata.name=n1":   "members have no such fields",
		"get pods --field-selector frob":                  "want FIELD=VALUE",
		"get pods --sort-by {.a[}":                        "--sort-by: jsonpath",
		"get pods -L a//b":                                "-L \"a//b\"",
		"get pods -o custom-columns=NAME":                 "want NAME:JSONPATH",
		"get pods -o custom-columns":                      "want NAME:JSONPATH",
		"get pods -o jsonpath-file":                       "want -o jsonpath-file=FILE",
		"get pods -o wide=x":                              "want -o wide, which takes no value",
		"get all web":                                     "which type is it of",
	} {
		if a := s.run(strings.Fields(line)...); a.status != 2 || !strings.Contains(a.stderr, want) || a.stdout != "" {
			t.Errorf("%s: exit %d, %q, want 2 and %q", line, a.status, a.stderr, want)
		}
	}
	for _, format := range unbuiltFormats {
		if a := s.run("get", "pods", "-o", format+"=x"); a.status != 1 || a.stderr != "-o "+format+": not built yet\n" {
			t.Errorf("%s: %+v", format, a)
		}
	}
}

func TestValuesAreOrderedByWhatTheyMean(t *testing.T) {
	for _, c := range [][]any{
		{nil, 2.0, 10.0, "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.1Z", "2026-01-02T03:04:05.12Z", "a", "b"},
		{"10", "9"}, // text that looks like a number is text
	} {
		shuffled := slices.Clone(c)
		slices.Reverse(shuffled)
		slices.SortStableFunc(shuffled, compareValues)
		if !slices.Equal(shuffled, c) {
			t.Errorf("%v, want %v", shuffled, c)
		}
	}
}

func TestAWatchShowsWhatIsChosenAndWhatLeavesTheChoiceOnce(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	stdout, _, stop := s.background("get", "pods", "-w", "--field-selector", "status.phase=Running", "--no-headers")
	defer stop()
	eventually(t, stdout, `(?m)^web2 +0/1`)
	failed := webPod("web", "n1", false)
	failed.Status.Phase = musterv1.PodPhase_POD_PHASE_FAILED
	f.setPod(failed)
	eventually(t, stdout, `(?m)^web +0/1`)
	failed.Meta.Revision++
	f.setPod(failed) // it is not chosen any more
	f.mu.Lock()
	delete(f.pods, "default/web2")
	f.changedLocked()
	f.mu.Unlock()
	eventually(t, stdout, `(?m)^web2 +0/1 +Running[^\n]*\nweb +0/1[^\n]*\nweb2 +0/1 +Running`)
	if n := strings.Count(stdout.String(), "\nweb "); n != 1 {
		t.Errorf("web came %d times after its first row:\n%s", n, stdout)
	}
}

func TestWatchOnlyLeavesOutWhatThereIs(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	stdout, _, stop := s.background("get", "pods", "--watch-only", "-o", "name")
	defer stop()
	for n := 0; !strings.Contains(stdout.String(), "pod/new"); n++ {
		p := webPod("new", "n1", true)
		p.Meta.Revision = int64(n) // whenever the watch begins, it sees a change
		f.setPod(p)
		eventually(t, stdout, "")
	}
	if strings.Contains(stdout.String(), "web") {
		t.Errorf("it shows %q", stdout)
	}
}

func TestAColumnIsMadeOfAllThatItsPathFinds(t *testing.T) {
	columns, err := parseColumns("A:.a[*],B:.b,C:.c")
	if err != nil {
		t.Fatal(err)
	}
	i := item{kind: podKind, value: func() any { return map[string]any{"a": []any{"x", 1, true}, "b": map[string]any{"k": "<v>"}} }}
	cells, err := customCells(columns, &i)
	if want := []string{"x,1,true", `{"k":"<v>"}`, "<none>"}; err != nil || !slices.Equal(cells, want) {
		t.Errorf("%q, %v, want %q", cells, err, want)
	}
	if _, err := manifest.ParseJSONPath(".a["); err == nil {
		t.Error("half a path is none")
	}
}
