package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/manifest"
	"github.com/musterhq/muster/internal/wire"
)

func TestTaintsAreGivenAndTakenAway(t *testing.T) {
	f := aCluster()
	f.nodes[0].Meta.Labels, f.nodes[0].Meta.Revision = map[string]string{"zone": "a"}, 9
	s := newShell(t, f)
	taints := func() string { return strings.Join(taintTexts(f.nodes[0].GetTaints()), " ") }
	for _, tc := range []struct{ line, says, then string }{
		{"taint nodes n1 gpu=yes:NoSchedule", "node/n1 tainted\n", "gpu=yes:NoSchedule"},
		{"taint node/n1 gpu=yes:NoSchedule old:PreferNoSchedule", "node/n1 tainted\n", "gpu=yes:NoSchedule old:PreferNoSchedule"},
		{"taint no n1 gpu=no:NoSchedule --overwrite", "node/n1 tainted\n", "gpu=no:NoSchedule old:PreferNoSchedule"},
		{"taint nodes n1 gpu:NoExecute old-", "node/n1 modified\n", "gpu=no:NoSchedule gpu:NoExecute"},
		{"taint nodes n1 gpu:NoExecute-", "node/n1 untainted\n", "gpu=no:NoSchedule"},
		{"taint nodes n1 gpu-", "node/n1 untainted\n", ""},
		{"taint nodes n1 n2 a:NoExecute", "node/n1 tainted\nnode/n2 tainted\n", "a:NoExecute"},
	} {
		if got := s.ok(strings.Fields(tc.line)...); got != tc.says || taints() != tc.then {
			t.Errorf("%s: says %q, then %q; want %q and %q", tc.line, got, taints(), tc.says, tc.then)
		}
	}
	n := called[*musterv1.UpdateNodeRequest](f)[0].GetNode()
	if n.GetMeta().GetLabels()["zone"] != "a" || n.GetMeta().GetRevision() != 9 {
		t.Errorf("the node is written as %v: labels and revision must stay", n)
	}
	for line, want := range map[string]string{
		"taint nodes n1 a=b:NoExecute": `node/n1: has the taint a:NoExecute already: --overwrite gives it another value`,
		"taint nodes n1 x-":            `node/n1: taint "x" not found`,
		"taint nodes n1 a:NoSchedule-": `node/n1: taint "a:NoSchedule" not found`,
		"taint nodes n9 a:NoExecute":   `node "n9" not found`,
	} {
		if a := s.run(strings.Fields(line)...); a.status != 1 || !strings.Contains(a.stderr, want) || taints() != "a:NoExecute" {
			t.Errorf("%s: exit %d, %q, want 1 and %q", line, a.status, a.stderr, want)
		}
	}
	for line, want := range map[string]string{
		"taint": "a taint is missing", "taint nodes n1": "a taint is missing", "taint a:NoSchedule": "a type is missing",
		"taint nodes a:NoSchedule": "want nodes NAME or node/NAME", "taint pod/web a:NoSchedule": "want nodes NAME or node/NAME",
		"taint nodes n1 a=b": "an effect is missing", "taint nodes n1 a=b:Never": "want the effect NoSchedule, PreferNoSchedule or NoExecute",
		"taint nodes n1 a:-": "an effect is missing", "taint nodes n1 =b:NoSchedule": "a key is missing", "taint nodes n1 a:NoSchedule a-": "another word on this taint",
	} {
		if a := s.run(strings.Fields(line)...); a.status != 2 || !strings.Contains(a.stderr, want) {
			t.Errorf("%s: exit %d, %q, want 2 and %q", line, a.status, a.stderr, want)
		}
	}
	s.ok("taint", "node/n1", "gpu=yes:NoSchedule")
	if got := s.ok("get", "node/n1", "-o", "jsonpath={.spec.taints[1].key}={.spec.taints[1].value}:{.spec.taints[1].effect}"); got != "gpu=yes:NoSchedule" {
		t.Errorf("get node: %q", got)
	}
	if out := strings.Join(strings.Fields(s.ok("describe", "node/n1")), " "); !strings.Contains(out, "Taints: a:NoExecute gpu=yes:NoSchedule Session:") {
		t.Errorf("describe node: %s", out)
	}
}

const choosy = `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default}
spec:
  containers: [{name: main, command: [serve]}]
  tolerations:
  - {key: gpu, operator: Equal, value: "yes", effect: NoSchedule}
  - {operator: Exists, effect: NoExecute, tolerationSeconds: 30}
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
        - matchExpressions: [{key: disk, operator: In, values: [ssd]}]
          matchFields: [{key: metadata.name, operator: NotIn, values: [n1]}]
      preferredDuringSchedulingIgnoredDuringExecution:
      - {weight: 7, preference: {matchExpressions: [{key: fast, operator: Exists}]}}
    podAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
      - {topologyKey: zone, labelSelector: {}, namespaces: [data]}
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
      - {weight: 100, podAffinityTerm: {topologyKey: host, namespaceSelector: {}, labelSelector: {matchExpressions: [{key: app, operator: NotIn, values: [db]}]}}}
  topologySpreadConstraints:
  - {maxSkew: 2, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, minDomains: 3, labelSelector: {matchLabels: {app: web}}, matchLabelKeys: [hash],
     nodeAffinityPolicy: Ignore, nodeTaintsPolicy: Honor}
`

func TestWhereAPodWantsToBeIsShownAsItWasApplied(t *testing.T) {
	read := func(text string) *manifest.Object {
		objects, err := manifest.Decode([]byte(text), "f", manifest.Options{})
		if err != nil || len(objects) != 1 || objects[0].Failed() {
			t.Fatalf("%v, %+v", err, objects)
		}
		return &objects[0]
	}
	want := read(choosy).Pod
	f := aCluster()
	f.pods["default/web"].Spec = wire.PodToProto(want).GetSpec()
	f.pods["default/web"].Node, f.pods["default/web"].Status = "", nil
	s := newShell(t, f)
	shown := decode[map[string]any](t, s.ok("get", "pod", "web", "-o", "json"))
	delete(shown, "status")
	shown["metadata"] = map[string]any{"name": "web", "namespace": "default"}
	text, err := json.Marshal(shown)
	if err != nil {
		t.Fatal(err)
	}
	got := read(string(text)).Pod
	if diff := cmp.Diff(want.Spec.Affinity, got.Spec.Affinity) + cmp.Diff(want.Spec.Tolerations, got.Spec.Tolerations) +
		cmp.Diff(want.Spec.TopologySpreadConstraints, got.Spec.TopologySpreadConstraints); diff != "" {
		t.Error(diff)
	}
	out := strings.Join(strings.Fields(s.ok("describe", "pod", "web")), " ")
	for _, want := range []string{
		"Tolerations: gpu=yes:NoSchedule every taint:NoExecute for 30s", "Spread Over: zone by at most 2, DoNotSchedule",
		"Affinity: required of nodes, one of: 1 preferred of nodes: 1 near pods, by zone rather apart from pods, by host, weight 100",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("describe pod lacks %q:\n%s", want, out)
		}
	}
}
