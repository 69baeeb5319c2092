package oracle

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/musterhq/muster/internal/spec"
)

// golden is where pods and what is found of them are kept for the tests of the package that has no Kubernetes to ask.
const golden = "../manifest/testdata/oracle.jsonl"

var update = flag.Bool("update", false, "write "+golden+" anew")

// Whatever Kubernetes says of a pod muster says, too, and fills in the same defaults, but for the differences that are named.
func TestMusterAndKubernetesJudgePodsAlike(t *testing.T) {
	pods, invalid, counts := 0, 0, map[string]int{}
	rapid.Check(t, func(r *rapid.T) {
		p := draw{r, rapid.SampledFrom([]int{0, 0, 5, 30}).Draw(r, "flaws")}.pod()
		defaulted, wanted, err := Kubernetes(p)
		if err != nil {
			r.Fatal(err)
		}
		ours, got, err := Muster(p)
		if err != nil {
			r.Fatal(err)
		}
		pods++
		if len(wanted) > 0 {
			invalid++
		}
		count(p, counts)
		if missed, extra := Compare(wanted, slices.Clone(got)); len(missed)+len(extra) > 0 {
			data, _ := json.MarshalIndent(p, "", " ")
			r.Fatalf("muster misses %v and has besides %v of\n%s", missed, extra, data)
		}
		if len(wanted)+len(got) > 0 {
			return
		}
		again, _, err := Muster(defaulted)
		if err != nil {
			r.Fatal(err)
		}
		if diff := cmp.Diff(again, ours); diff != "" {
			r.Fatalf("Kubernetes' defaults (-) are not muster's (+):\n%s", diff)
		}
	})
	rare := slices.MinFunc(slices.Sorted(maps.Keys(counts)), func(a, b string) int { return counts[a] - counts[b] })
	t.Logf("%d pods, %d of them invalid, %d fields; the rarest, %s, in %d", pods, invalid, len(counts), rare, counts[rare])
	if pods < 1000 {
		return // too few to tell
	}
	if invalid*10 < pods*3 {
		t.Errorf("%d of %d pods are invalid, want 30 in a hundred", invalid, pods)
	}
	for _, f := range slices.Sorted(maps.Keys(counts)) {
		if counts[f]*20 < pods {
			t.Errorf("%s is set in %d of %d pods, want 5 in a hundred", f, counts[f], pods)
		}
	}
}

func TestTheGoldenPodsAreJudgedAlike(t *testing.T) {
	if *update {
		var out bytes.Buffer
		for seed := range 60 {
			p := rapid.Custom(func(r *rapid.T) *corev1.Pod { return draw{r, []int{0, 5, 30}[seed%3]}.pod() }).Example(seed)
			_, got, err := Muster(p)
			if err != nil {
				t.Fatal(err)
			}
			p.APIVersion, p.Kind = "v1", "Pod"
			line, err := json.Marshal(map[string]any{"pod": p, "findings": got})
			if err != nil {
				t.Fatal(err)
			}
			out.Write(append(line, '\n'))
		}
		if err := os.WriteFile(golden, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for line := range strings.Lines(string(data)) {
		lines++
		var kept struct {
			Pod      corev1.Pod
			Findings []Finding
		}
		if err := json.Unmarshal([]byte(line), &kept); err != nil {
			t.Fatal(err)
		}
		_, wanted, err := Kubernetes(&kept.Pod)
		if err != nil {
			t.Fatal(err)
		}
		_, got, err := Muster(&kept.Pod)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(got, kept.Findings, Finding.same) {
			t.Errorf("line %d: muster finds %v; go test -update writes the file anew", lines, got)
		}
		if missed, extra := Compare(wanted, got); len(missed)+len(extra) > 0 {
			t.Errorf("line %d: muster misses %v and has besides %v", lines, missed, extra)
		}
	}
	if lines < 50 {
		t.Errorf("%d pods", lines)
	}
}

func TestADifferenceThatIsNotNamedIsFound(t *testing.T) {
	found := Finding{Path: "spec.containers[0].livenessProbe.periodSeconds", Kind: spec.Invalid}
	if missed, extra := Compare([]Finding{found}, nil); len(missed) != 1 || len(extra) != 0 {
		t.Errorf("missed %v, besides %v", missed, extra)
	}
	if missed, extra := Compare(nil, []Finding{found}); len(missed) != 0 || len(extra) != 1 {
		t.Errorf("missed %v, besides %v", missed, extra)
	}
	other := found
	other.Kind = spec.Required
	if missed, extra := Compare([]Finding{found}, []Finding{other}); len(missed) != 1 || len(extra) != 1 {
		t.Errorf("missed %v, besides %v", missed, extra)
	}
}

// free are maps whose keys are no fields.
var free = map[string]bool{"labels": true, "annotations": true, "nodeSelector": true, "matchLabels": true}

// count counts the fields that are set in a pod, each once. An init container's are those of a container.
func count(p *corev1.Pod, counts map[string]int) {
	data, _ := json.Marshal(p)
	var v any
	_ = json.Unmarshal(data, &v)
	seen := map[string]bool{}
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				if path := strings.TrimPrefix(at+"."+strings.Replace(k, "initContainers", "containers", 1), "."); free[k] {
					seen[path] = true
				} else {
					walk(path, x)
				}
			}
		case []any:
			for _, x := range v {
				walk(at, x)
			}
		default:
			seen[at] = true
		}
	}
	walk("", v)
	for f := range seen {
		counts[f]++
	}
}

// String is what a failing test shows.
func (f Finding) String() string { return fmt.Sprintf("%s %s", f.Path, f.Kind) }
