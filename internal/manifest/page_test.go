package manifest

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
)

// page is for those who come from Kubernetes; what follows the mark is made from the code.
const (
	page = "../../docs/kubernetes.md"
	mark = "<!-- What follows is generated: UPDATE_GOLDEN=1 go test ./internal/manifest -->\n"
)

// known are the kinds that a manifest may have, and what becomes of their fields.
var known = []struct {
	name   string
	root   reflect.Type
	fields fieldUses
}{
	{"Pod", reflect.TypeFor[corev1.Pod](), podFields},
	{"Deployment", reflect.TypeFor[appsv1.Deployment](), deploymentFields},
	{"Service", reflect.TypeFor[corev1.Service](), serviceFields},
	{"ConfigMap", reflect.TypeFor[corev1.ConfigMap](), configMapFields},
	{"Secret", reflect.TypeFor[corev1.Secret](), secretFields},
	{"PodDisruptionBudget", reflect.TypeFor[policyv1.PodDisruptionBudget](), budgetFields},
}

// row is one struct whose fields differ in what becomes of them.
type row struct {
	path                       string
	supported, warned, refused []string
}

// rows describes a struct, and those in it that are looked into.
func rows(t reflect.Type, path, pattern string, uses fieldUses) []row {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	own, inner := row{path: path}, []row(nil)
	for f := range visible(t) {
		shape, ft := join(pattern, f.name), t.FieldByIndex(f.index).Type
		switch uses[shape] {
		case converted:
			own.supported = append(own.supported, f.name)
		case harmless:
			own.warned = append(own.warned, f.name)
		case parts:
			list := ""
			if ft.Kind() == reflect.Slice {
				list = "[]"
			}
			inner = append(inner, rows(ft, join(path, f.name)+list, shape, uses)...)
		default:
			own.refused = append(own.refused, f.name)
		}
	}
	all := inner
	if len(own.supported)+len(own.warned)+len(own.refused) > 0 {
		all = append([]row{own}, inner...)
	}
	return all
}

// below are the rows at and below a path, with paths relative to it.
func below(all []row, path string) (out []row) {
	for _, r := range all {
		if rest, ok := strings.CutPrefix(r.path, path); ok && (rest == "" || rest[0] == '.') {
			r.path = rest
			out = append(out, r)
		}
	}
	return out
}

func without(all []row, path string) []row {
	return slices.DeleteFunc(slices.Clone(all), func(r row) bool {
		rest, ok := strings.CutPrefix(r.path, path)
		return ok && (rest == "" || rest[0] == '.')
	})
}

func generated() string {
	var b strings.Builder
	pod := rows(known[0].root, "", "", podFields)
	for _, k := range known {
		fmt.Fprintf(&b, "\n### %s\n\n| where | supported | left out, with a warning | refused |\n|---|---|---|---|\n", k.name)
		all := rows(k.root, "", "", k.fields)
		var same []string
		if k.name == "Deployment" && reflect.DeepEqual(below(all, "spec.template.spec"), below(pod, "spec")) {
			all = without(all, "spec.template.spec")
			same = append(same, "`spec.template.spec`: as a Pod's `spec`.")
		}
		if reflect.DeepEqual(below(all, "spec.initContainers[]"), below(all, "spec.containers[]")) && len(below(all, "spec.containers[]")) > 0 {
			all = without(all, "spec.initContainers[]")
			same = append(same, "`spec.initContainers[]`: as `spec.containers[]`.")
		}
		for _, probe := range []string{"readinessProbe", "startupProbe"} {
			at := "spec.containers[]."
			if reflect.DeepEqual(below(all, at+probe), below(all, at+"livenessProbe")) && len(below(all, at+probe)) > 0 {
				all = without(all, at+probe)
				same = append(same, fmt.Sprintf("`%s%s`: as `livenessProbe`.", at, probe))
			}
		}
		for _, r := range all {
			where := "the object"
			if r.path != "" {
				where = "`" + r.path + "`"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", where, list(r.supported), list(r.warned), list(r.refused))
		}
		if len(same) > 0 {
			fmt.Fprintf(&b, "\n%s\n", strings.Join(same, " "))
		}
	}
	return b.String()
}

func list(names []string) string {
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func TestThePageForThoseWhoComeFromKubernetesHasEveryField(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(text), mark)
	if !ok {
		t.Fatalf("%s has no line %s", page, mark)
	}
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(page, []byte(head+mark+generated()), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if rest != generated() {
		t.Errorf("%s is stale: UPDATE_GOLDEN=1 go test ./internal/manifest", page)
	}
	// Every field of the kinds is in the page: in a row, or as part of one that is.
	for _, k := range known {
		n := 0
		leaves(k.root, "", 0, func(path string, _ func(reflect.Value)) {
			n++
			if _, ok := standing(strings.ReplaceAll(strings.ReplaceAll(path, "[0]", ""), "[]", ""), k.fields); !ok {
				t.Errorf("%s: what becomes of %s?", k.name, path)
			}
		})
		if n < 10 {
			t.Errorf("%s: only %d fields", k.name, n)
		}
	}
}

// standing is what becomes of a field, by its own path or that of what it is in; false when it ends in the middle of one that is
// looked into.
func standing(path string, uses fieldUses) (use, bool) {
	for at := path; ; {
		switch u := uses[at]; {
		case u == converted || u == harmless:
			return u, true
		case u == parts:
			return 0, at != path
		}
		i := strings.LastIndexByte(at, '.')
		if i < 0 {
			return 0, true
		}
		at = at[:i]
	}
}
