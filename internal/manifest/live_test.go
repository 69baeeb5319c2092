package manifest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

const printed = `
apiVersion: v1
kind: Pod
metadata:
  name: web
  uid: u1
  resourceVersion: "7"
  creationTimestamp: "2026-01-02T03:04:05.6Z"
  generation: 1
  ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: site, uid: u2, controller: true}]
spec:
  nodeName: n1
  containers: [{name: c, command: [x]}]
status: {phase: Running, muster: {epoch: 5}}
`

func TestWhatACoordinatorFillsInIsKeptForComparison(t *testing.T) {
	objects, err := Decode([]byte(printed), "test", Options{KeepClaims: true})
	if err != nil || len(objects) != 1 || len(objects[0].Findings) > 0 || objects[0].Pod == nil {
		t.Fatalf("%v, %+v", err, objects)
	}
	var live any
	text := `{"metadata":{"uid":"u1","resourceVersion":"8","generation":1},"spec":{"nodeName":"n1"},"status":{"phase":"Running","muster":{"epoch":5}}}`
	if err := json.Unmarshal([]byte(text), &live); err != nil {
		t.Fatal(err)
	}
	same := map[string]bool{}
	for _, c := range objects[0].Claims {
		same[c.Path] = cmp.Equal(c.Claimed(live), c.Value)
	}
	want := map[string]bool{
		"metadata.uid": true, "metadata.resourceVersion": false, "metadata.creationTimestamp": false, "metadata.generation": true,
		"metadata.ownerReferences": false, "status": true, "spec.nodeName": true,
	}
	if diff := cmp.Diff(want, same); diff != "" {
		t.Errorf("which claims are those of the live object (-want +got):\n%s", diff)
	}
}

func TestWithoutComparisonWhatACoordinatorFillsInIsAFinding(t *testing.T) {
	objects, err := Decode([]byte(printed), "test", Options{})
	if err != nil || !objects[0].Failed() || objects[0].Claims != nil {
		t.Fatalf("%v, %+v", err, objects)
	}
	if got := strings.Join(lines(objects[0].Findings), "\n"); !strings.Contains(got, "spec.nodeName: Not built yet") || !strings.Contains(got, "status.muster: ") {
		t.Error(got)
	}
}

// A Deployment has no node: what is wrong with it there stays a finding.
func TestAFieldIsOnlyTakenForThePrintedOneWhereTheKindHasIt(t *testing.T) {
	text := strings.NewReplacer("kind: Pod", "kind: Deployment", "apiVersion: v1", "apiVersion: apps/v1").Replace(printed)
	objects, err := Decode([]byte(text), "test", Options{KeepClaims: true})
	if err != nil || !objects[0].Failed() {
		t.Fatalf("%v, %+v", err, objects)
	}
	if got := strings.Join(lines(objects[0].Findings), "\n"); !strings.Contains(got, "spec.nodeName: Invalid value: unknown field") {
		t.Error(got)
	}
}

func TestAListIsReadAsItIsPrinted(t *testing.T) {
	text := `{"apiVersion":"v1","kind":"List","metadata":{"resourceVersion":"9"},"items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","uid":"u"},"spec":{"containers":[{"name":"c","command":["x"]}]},"status":{"muster":{}}}]}`
	objects, err := Decode([]byte(text), "test", Options{KeepClaims: true})
	if err != nil || len(objects) != 1 || len(objects[0].Findings) > 0 || len(objects[0].Claims) != 2 {
		t.Errorf("%v, %+v", err, objects)
	}
}

func TestAListOfAWholeFleetIsReadThoughItIsLong(t *testing.T) {
	var items []any
	for i := range 1000 {
		items = append(items, map[string]any{
			"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": fmt.Sprintf("p%d", i), "annotations": map[string]any{"note": strings.Repeat("x", 3000)}},
			"spec": map[string]any{"containers": []any{map[string]any{"name": "c", "command": []any{"x"}}}},
		})
	}
	list := map[string]any{"apiVersion": "v1", "kind": "List", "items": items}
	j, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"json": j, "yaml": y} {
		objects, err := Decode(text, name, Options{})
		if err != nil || len(objects) != 1000 || objects[999].Pod == nil {
			t.Errorf("%s: %d objects, %v", name, len(objects), err)
		}
	}
	items[1].(map[string]any)["metadata"].(map[string]any)["annotations"] = map[string]any{"note": strings.Repeat("x", MaxDocument)}
	if j, err = json.MarshalIndent(map[string]any{"apiVersion": "v1", "kind": "List", "items": items[:3]}, "", "  "); err != nil {
		t.Fatal(err)
	}
	objects, err := Decode(j, "long", Options{})
	if err != nil || len(objects) != 3 || objects[0].Pod == nil || objects[1].Pod != nil || !objects[1].Failed() || objects[2].Pod == nil {
		t.Errorf("one long item: %+v, %v", objects, err)
	}
}

func TestASecretsDataIsBase64AndNotToldWhereItIsNot(t *testing.T) {
	decode := func(data string) Object {
		objects, err := Decode([]byte("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: "+data+"}\n"), "test", Options{})
		if err != nil || len(objects) != 1 {
			t.Fatalf("%v, %+v", err, objects)
		}
		return objects[0]
	}
	if o := decode("aGlkZGVu"); o.Failed() || string(o.Secret.Data["a"]) != "hidden" {
		t.Errorf("base64: %+v", o)
	}
	for _, data := range []string{"hidden!", "7", "[1]"} {
		o := decode(data)
		if got := strings.Join(lines(o.Findings), "\n"); !strings.HasPrefix(got, "data[a]: Invalid value: must be base64") || strings.Contains(got, "hidden!") {
			t.Errorf("%s: %s", data, got)
		}
	}
}
