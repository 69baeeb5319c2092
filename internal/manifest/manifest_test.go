package manifest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/musterhq/muster/internal/spec"
)

const small = `
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - name: c
    command: [/bin/true]
`

// one decodes a file of one object.
func one(t *testing.T, text string, opts Options) Object {
	t.Helper()
	objects, err := Decode([]byte(text), "f.yaml", opts)
	if err != nil {
		t.Fatal(err)
	}
	if len(objects) != 1 {
		t.Fatalf("%d objects, want 1", len(objects))
	}
	return objects[0]
}

func lines(findings []spec.Finding) []string {
	var out []string
	for i := range findings {
		out = append(out, findings[i].String())
	}
	return out
}

// TestEveryFindingOfAManifestIsToldWithItsPath compares testdata/NAME.yaml with NAME.golden: what is found, and whether
// the object would be stored.
func TestEveryFindingOfAManifestIsToldWithItsPath(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no manifests", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			objects, err := Decode(text, filepath.Base(file), Options{IgnoreUnsupported: strings.HasSuffix(file, "_ignored.yaml")})
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for _, o := range objects {
				fmt.Fprintf(&got, "%s: %s %s/%s\n", o.Source, o.Kind, o.Namespace, o.Name)
				for _, l := range lines(o.Findings) {
					fmt.Fprintf(&got, "  %s\n", l)
				}
				if o.Failed() == stored(&o) && o.Kind != "Namespace" && o.Kind != "List" {
					t.Errorf("%s: failed is %v, and stored is %v", o.Source, o.Failed(), stored(&o))
				}
				if stored(&o) {
					got.WriteString("  to be stored\n")
				}
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func stored(o *Object) bool {
	return o.Pod != nil || o.Deployment != nil || o.Service != nil || o.ConfigMap != nil || o.Secret != nil
}

func TestAFullPodIsConvertedFieldByField(t *testing.T) {
	o := one(t, `
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
  labels: {app: web}
  annotations: {muster.dev/failover: stay}
spec:
  hostname: front
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 0
  nodeSelector: {disk: ssd}
  securityContext: {seccompProfile: {type: RuntimeDefault}}
  readinessGates: [{conditionType: example.org/warm}]
  volumes: [{name: data, hostPath: {path: /srv, type: Directory}}]
  containers:
  - name: c
    image: nginx
    command: [serve]
    securityContext: {seccompProfile: {type: Unconfined}}
    args: ["-v"]
    workingDir: /tmp
    env:
    - {name: A, value: "1"}
    - {name: ME, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.name}}}
    ports: [{name: http, containerPort: 80, protocol: UDP}]
    resources: {requests: {cpu: 250m, memory: 64Mi}, limits: {cpu: "1", memory: 1G}}
    volumeMounts: [{name: data, mountPath: /srv}]
    restartPolicy: Never
    restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [1, 2]}}]
    livenessProbe:
      httpGet: {port: http, path: /live, host: 10.1.2.3, scheme: HTTPS, httpHeaders: [{name: X, value: "y"}]}
      initialDelaySeconds: 1
      periodSeconds: 2
      timeoutSeconds: 3
      successThreshold: 1
      failureThreshold: 4
      terminationGracePeriodSeconds: 5
    readinessProbe: {tcpSocket: {port: 80, host: localhost}, successThreshold: 2}
    startupProbe: {exec: {command: [test, -f, /x]}}
`, Options{})
	if len(o.Findings) > 0 {
		t.Fatal(lines(o.Findings))
	}
	grace := 5 * time.Second
	want := &spec.Pod{
		Meta: spec.Meta{Name: "web", Namespace: "shop", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"muster.dev/failover": "stay"}},
		Spec: spec.PodSpec{
			Hostname: "front", RestartPolicy: spec.RestartOnFailure, NodeSelector: map[string]string{"disk": "ssd"},
			Security:       spec.PodSecurity{Seccomp: "RuntimeDefault"},
			ReadinessGates: []string{"example.org/warm"},
			Volumes:        []spec.Volume{{Name: "data", HostPath: "/srv", HostPathType: "Directory"}},
			Containers: []spec.Container{{
				Name: "c", Image: "nginx", Command: []string{"serve"}, Args: []string{"-v"}, WorkingDir: "/tmp",
				Env:   []spec.EnvVar{{Name: "A", Value: "1"}, {Name: "ME", FieldPath: "metadata.name"}},
				Ports: []spec.Port{{Name: "http", Number: 80, Protocol: "UDP"}},
				Resources: spec.Resources{Requests: spec.ResourceList{MilliCPU: 250, MemoryBytes: 64 << 20},
					Limits: spec.ResourceList{MilliCPU: 1000, MemoryBytes: 1e9}},
				Mounts:        []spec.Mount{{Volume: "data", Path: "/srv"}},
				Security:      spec.ContainerSecurity{Seccomp: "Unconfined"},
				RestartPolicy: spec.RestartNever,
				RestartRules:  []spec.RestartRule{{Action: "Restart", In: true, ExitCodes: []int32{1, 2}}},
				Liveness: &spec.Probe{
					Handler: spec.Handler{HTTP: &spec.HTTPAction{Scheme: "HTTPS", Host: "10.1.2.3", Port: spec.PortRef{Name: "http"},
						Path: "/live", Headers: []spec.Header{{Name: "X", Value: "y"}}}},
					InitialDelay: time.Second, Period: 2 * time.Second, Timeout: 3 * time.Second,
					SuccessThreshold: 1, FailureThreshold: 4, TerminationGrace: &grace,
				},
				Readiness: &spec.Probe{Handler: spec.Handler{TCP: &spec.TCPAction{Port: spec.PortRef{Number: 80}, Host: "localhost"}}, SuccessThreshold: 2},
				Startup:   &spec.Probe{Handler: spec.Handler{Exec: &spec.ExecAction{Command: []string{"test", "-f", "/x"}}}},
			}},
		},
	}
	if diff := cmp.Diff(want, o.Pod); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsLeftOutStaysUnset(t *testing.T) {
	o := one(t, small, Options{})
	if o.Pod == nil || o.Pod.Namespace != "" || o.Pod.Spec.TerminationGrace != spec.UnsetGrace || o.Pod.Spec.RestartPolicy != "" {
		t.Errorf("%+v", o)
	}
	o = one(t, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},
		"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","command":["x"]}]}}}}`, Options{})
	if o.Deployment == nil || o.Deployment.Spec.Replicas != 1 || o.Deployment.Spec.Template.Spec.TerminationGrace != spec.UnsetGrace {
		t.Errorf("%+v", o)
	}
}

func TestAFileThatCannotBeReadIsRefusedWhole(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "f: no object in it"},
		{"comments only", "# hello\n---\n# there\n", "f: no object in it"},
		{"not UTF-8", "kind: Pod\nname: \xff", "f: byte 16 is not UTF-8"},
		{"UTF-16", "\xff\xfek\x00", "f: byte 0 is not UTF-8"},
		{"large file", strings.Repeat("# x\n---\n", MaxFile/8+1), "f: 16777224 bytes; at most 16777216"},
		{"broken separator", small + "--- {kind: Pod}\n", "f:document 1: after it:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			objects, err := Decode([]byte(c.text), "f", Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) || objects != nil {
				t.Errorf("%v, %v; want %q", objects, err, c.want)
			}
		})
	}
	atBound := small + "# " + strings.Repeat("x", MaxDocument-len(small)-3) + "\n"
	if o, err := Decode([]byte(atBound), "f", Options{}); len(atBound) != MaxDocument || err != nil || o[0].Failed() {
		t.Errorf("a document of %d bytes: %v", len(atBound), err)
	}
}

func TestABadDocumentLeavesItsNeighboursAlone(t *testing.T) {
	for _, c := range []struct{ name, bad, want string }{
		{"malformed", "a: [1, 2", "Invalid value: "},
		{"truncated JSON", `{"apiVersion": "v1", "kind": "Po`, "Invalid value: "},
		{"a tab", "a:\n\tb: 1", "Invalid value: "},
		{"duplicate key", strings.Replace(small, "metadata:", "kind: Pod\nmetadata:", 1), `key "kind" already set in map`},
		{"duplicate key of JSON", `{"kind":"Pod","kind":"Pod"}`, `duplicate field "kind"`},
		{"duplicate key deep in JSON", `{"kind":"Pod","spec":{"x":[{"a":1,"a":1}]}}`, `duplicate field "spec.x[0].a"`},
		{"half a surrogate pair", `{"kind":"\ud83d x"}`, "one half of a surrogate pair"},
		{"the other half", `{"kind":"\\\ude00"}`, "one half of a surrogate pair"},
		{"surrogates in disorder", `{"kind":"\ud83d\ud83d"}`, "one half of a surrogate pair"},
		{"a comma too many after a surrogate pair", `{"kind":"\ud83d\ude00",,}`, "; as JSON: invalid character ','"},
		{"too large", small + "# " + strings.Repeat("x", MaxDocument), fmt.Sprintf("Too long: %d bytes; a document has at most 2097152 (2 MiB)", MaxDocument+len(small)+len("---\n# \n"))},
		{"a list", "[1]", "a manifest is an object"},
		{"a word", "hello", "a manifest is an object"},
		{"two JSON objects", `{"kind":"Pod"}{"kind":"Pod"}`, "there is more after the object"},
		{"two JSON objects on two lines", "{\"kind\":\"Pod\"}\n{\"kind\":\"Pod\"}", "there is more after the object"},
		{"an alias bomb", "a: &a " + strings.Repeat("x", 100000) + "\nb: [" + strings.Repeat("*a,", 100) + "]", "with its aliases written out"},
		{"after the end", "a: 1\n...\nb: 2", "there is more after the object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			objects, err := Decode([]byte("---\n"+small+"---\n---\n"+c.bad+"\n---"+small), "f", Options{})
			if err != nil {
				t.Fatal(err)
			}
			if len(objects) != 3 || objects[0].Pod == nil || !objects[1].Failed() || objects[2].Pod == nil {
				t.Fatalf("%+v", objects)
			}
			if got := objects[1].Findings[0].String(); !strings.Contains(got, c.want) {
				t.Errorf("%s; want %s", got, c.want)
			}
			if objects[1].Source != "f:document 2" || objects[2].Source != "f:document 3" {
				t.Errorf("sources %s, %s", objects[1].Source, objects[2].Source)
			}
		})
	}
}

func TestAliasesAreWrittenOut(t *testing.T) {
	o := one(t, strings.Replace(small, "[/bin/true]", "&c [/bin/true]\n    args: *c", 1), Options{})
	if o.Failed() || o.Pod.Spec.Containers[0].Args[0] != "/bin/true" {
		t.Errorf("%+v", o)
	}
}

// leaves calls f with every field that t can have, its path, and the root with that field alone filled in. Lists have
// one item.
func leaves(t reflect.Type, path string, depth int, f func(path string, fill func(reflect.Value))) {
	switch {
	case t == reflect.TypeFor[resource.Quantity](), t == reflect.TypeFor[intstr.IntOrString](), t == reflect.TypeFor[metav1.Time](),
		t == reflect.TypeFor[metav1.FieldsV1](), depth > 24:
		f(path, func(v reflect.Value) { fillLeaf(v) })
	case t.Kind() == reflect.Pointer:
		leaves(t.Elem(), path, depth+1, func(p string, fill func(reflect.Value)) {
			f(p, func(v reflect.Value) {
				v.Set(reflect.New(t.Elem()))
				fill(v.Elem())
			})
		})
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		leaves(t.Elem(), path+"[0]", depth+1, func(p string, fill func(reflect.Value)) {
			f(p, func(v reflect.Value) {
				v.Set(reflect.MakeSlice(t, 1, 1))
				fill(v.Index(0))
			})
		})
	case t.Kind() == reflect.Struct:
		for x := range visible(t) {
			leaves(t.FieldByIndex(x.index).Type, join(path, x.name), depth+1, func(p string, fill func(reflect.Value)) {
				f(p, func(v reflect.Value) { fill(v.FieldByIndex(x.index)) })
			})
		}
	default:
		f(path, func(v reflect.Value) { fillLeaf(v) })
	}
}

func fillLeaf(v reflect.Value) {
	switch x := v.Addr().Interface().(type) {
	case *resource.Quantity:
		*x = resource.MustParse("3")
		return
	case *intstr.IntOrString:
		*x = intstr.FromString("port-x")
		return
	case *metav1.Time:
		*x = metav1.Unix(1, 0)
		return
	case *corev1.ResourceList:
		*x = corev1.ResourceList{"cpu": resource.MustParse("3"), "memory": resource.MustParse("5")}
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("In") // an operator, and a value like any other elsewhere
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32, reflect.Int64, reflect.Int:
		v.SetInt(7)
	case reflect.Map:
		m := reflect.MakeMap(v.Type())
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		key.SetString("k")
		fillLeaf(value)
		m.SetMapIndex(key, value)
		v.Set(m)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fillLeaf(v.Index(0))
	case reflect.Uint8:
		v.SetUint(1)
	case reflect.Struct:
	default:
		panic("no filling for " + v.Type().String())
	}
}

// TestNoFieldThatIsSetIsDroppedInSilence sets every field that Kubernetes' types have, one at a time: the object changes,
// or a finding names the field or what it is a part of.
func TestNoFieldThatIsSetIsDroppedInSilence(t *testing.T) {
	for _, c := range []struct {
		name    string
		root    reflect.Type
		fields  fieldUses
		convert func(d *decoder, k any) any
	}{
		{"Pod", reflect.TypeFor[corev1.Pod](), podFields, func(d *decoder, k any) any { return d.pod(k.(*corev1.Pod)) }},
		{"Deployment", reflect.TypeFor[appsv1.Deployment](), deploymentFields, func(d *decoder, k any) any { return d.deployment(k.(*appsv1.Deployment)) }},
		{"Service", reflect.TypeFor[corev1.Service](), serviceFields, func(d *decoder, k any) any { return d.service(k.(*corev1.Service)) }},
		{"ConfigMap", reflect.TypeFor[corev1.ConfigMap](), configMapFields, func(d *decoder, k any) any { return d.configMap(k.(*corev1.ConfigMap)) }},
		{"Secret", reflect.TypeFor[corev1.Secret](), secretFields, func(d *decoder, k any) any { return d.secret(k.(*corev1.Secret)) }},
		{"PodDisruptionBudget", reflect.TypeFor[policyv1.PodDisruptionBudget](), budgetFields, func(d *decoder, k any) any { return d.budget(k.(*policyv1.PodDisruptionBudget)) }},
	} {
		for _, ignore := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s ignore=%v", c.name, ignore), func(t *testing.T) {
				seen, found, changed := 0, 0, 0
				leaves(c.root, "", 0, func(path string, fill func(reflect.Value)) {
					if path == "apiVersion" || path == "kind" {
						return
					}
					seen++
					convert := func(fill func(reflect.Value)) (any, []spec.Finding) {
						v := reflect.New(c.root)
						fill(v.Elem())
						d := newDecoder(Options{IgnoreUnsupported: ignore}, &Object{})
						d.unsupported(v.Interface(), c.fields)
						return c.convert(&d, v.Interface()), d.object.Findings
					}
					got, findings := convert(fill)
					for _, f := range findings {
						if rest, ok := strings.CutPrefix(path, f.Path); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
							found++
							return
						}
					}
					// The same without the last value: its parents alone make no difference.
					if reflect.DeepEqual(got, parents(convert, fill, c.root)) && !strings.HasSuffix(path, "spec.hostUsers") { // true is no wish
						t.Errorf("%s is dropped in silence", path)
						return
					}
					changed++
				})
				t.Logf("%d fields: %d converted, %d found", seen, changed, found)
				if least := map[string]int{"Pod": 50, "Deployment": 50}[c.name]; changed < max(least, 5) || found < max(least, 5) {
					t.Error("the walk saw too little")
				}
			})
		}
	}
}

// parents converts an object with the same structs around a field, but that field zero.
func parents(convert func(func(reflect.Value)) (any, []spec.Finding), fill func(reflect.Value), root reflect.Type) any {
	got, _ := convert(func(v reflect.Value) {
		fill(v)
		zeroLeaves(v)
	})
	return got
}

// zeroLeaves empties what is no struct, list or pointer to one.
func zeroLeaves(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() && v.Elem().Kind() == reflect.Struct {
			zeroLeaves(v.Elem())
		} else {
			v.SetZero()
		}
	case reflect.Slice:
		if v.Len() > 0 && v.Type().Elem().Kind() == reflect.Struct {
			zeroLeaves(v.Index(0))
		} else {
			v.SetZero()
		}
	case reflect.Struct:
		switch v.Addr().Interface().(type) {
		case *intstr.IntOrString, *resource.Quantity, *metav1.Time:
			v.SetZero()
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				zeroLeaves(v.Field(i))
			}
		}
	default:
		v.SetZero()
	}
}

func TestEveryFieldOfTheTableExistsInKubernetes(t *testing.T) {
	for root, fields := range map[reflect.Type]fieldUses{
		reflect.TypeFor[corev1.Pod](): podFields, reflect.TypeFor[appsv1.Deployment](): deploymentFields, reflect.TypeFor[corev1.List](): listFields,
		reflect.TypeFor[corev1.Service](): serviceFields, reflect.TypeFor[corev1.ConfigMap](): configMapFields, reflect.TypeFor[corev1.Secret](): secretFields,
	} {
		for path := range fields {
			at := root
			for name := range strings.SplitSeq(path, ".") {
				for at.Kind() == reflect.Pointer || at.Kind() == reflect.Slice {
					at = at.Elem()
				}
				next, ok := fieldsOf(at)[name]
				if !ok {
					t.Fatalf("%v has no %s", root, path)
				}
				at = next
			}
		}
	}
}

// TestAChangeOfAPodIsToldByAFieldOfKubernetes changes every field that a pod's spec has, one at a time.
func TestAChangeOfAPodIsToldByAFieldOfKubernetes(t *testing.T) {
	keys := regexp.MustCompile(`\[[^]]*\]`)
	seen := 0
	leaves(reflect.TypeFor[spec.PodSpec](), "", 0, func(path string, fill func(reflect.Value)) {
		seen++
		var old, pod spec.Pod
		fill(reflect.ValueOf(&pod.Spec).Elem())
		fill(reflect.ValueOf(&old.Spec).Elem())
		zeroLeaves(reflect.ValueOf(&old.Spec).Elem())
		old.Spec.Volumes, pod.Spec.Volumes = kinds(old.Spec.Volumes), kinds(pod.Spec.Volumes)
		found := spec.ValidatePodUpdate(&old, &pod)
		if len(found) != 1 || podFields[keys.ReplaceAllString(found[0].Path, "")] == 0 {
			t.Errorf("%s: %v", path, lines(found))
		}
	})
	if seen < 40 {
		t.Errorf("the walk saw %d fields", seen)
	}
}

// kinds gives volumes of files kinds that there are: others where the kind is the field that is changed.
func kinds(volumes []spec.Volume) []spec.Volume {
	for _, v := range volumes {
		if v.Files == nil {
			continue
		}
		for i := range v.Files.Sources {
			s := &v.Files.Sources[i]
			switch {
			case s.Kind != "":
				s.Kind = spec.FilesSecret
			case len(s.Items) > 0 && (s.Items[0].FieldPath != "" || s.Items[0].Resource != nil):
				s.Kind = spec.FilesDownwardAPI
			default:
				s.Kind = spec.FilesConfigMap
			}
		}
		if v.Files.Kind != "" {
			v.Files.Kind = spec.FilesSecret
		} else {
			v.Files.Kind = spec.FilesProjected
		}
	}
	return volumes
}

func TestTheNearestNameIsTheOneThatWasMeant(t *testing.T) {
	known := slices.Sorted(func(yield func(string) bool) {
		for name := range fieldsOf(reflect.TypeFor[corev1.Container]()) {
			yield(name)
		}
	})
	for name, want := range map[string]string{
		"livenes": "livenessProbe", "LivenessProbe": "livenessProbe", "redinessProbe": "readinessProbe", "enviroment": "", "comand": "command",
		"portss": "ports", "x": "", "zzzzzzzz": "", strings.Repeat("a", 1000): "", "agrs": "args",
	} {
		if got := nearest(name, known); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// FuzzDecode holds that no input makes Decode panic, store what failed, or say nothing.
func FuzzDecode(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.yaml")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, false)
	}
	f.Add([]byte(small), true)
	f.Add([]byte(`{"apiVersion":"v1","kind":"List","items":[null,1,{}]}`), false)
	f.Fuzz(func(t *testing.T, text []byte, ignore bool) {
		objects, err := Decode(text, "f", Options{IgnoreUnsupported: ignore})
		if (err == nil) != (len(objects) > 0) {
			t.Fatalf("%d objects and %v", len(objects), err)
		}
		for _, o := range objects {
			if is := stored(&o); is == o.Failed() && (is || len(o.Findings) == 0) {
				t.Fatalf("stored is %v with %v", is, lines(o.Findings))
			}
			_ = lines(o.Findings)
		}
	})
}

// internal/oracle writes the file, and holds what is in it against Kubernetes itself.
func TestGeneratedPodsAreJudgedAsKubernetesJudgesThem(t *testing.T) {
	data, err := os.ReadFile("testdata/oracle.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	for n, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		var kept struct {
			Pod      json.RawMessage
			Findings []struct{ Path, Kind string }
		}
		if err := json.Unmarshal([]byte(line), &kept); err != nil {
			t.Fatal(err)
		}
		var want, got []string
		for _, f := range kept.Findings {
			want = append(want, f.Path+" "+f.Kind)
		}
		_, errs := spec.Split(one(t, string(kept.Pod), Options{}).Findings)
		for _, f := range errs {
			got = append(got, f.Path+" "+string(f.Kind))
		}
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, slices.Compact(got)); diff != "" {
			t.Errorf("line %d (-want +got):\n%s", n+1, diff)
		}
		if len(want) > 0 {
			failed++
		}
	}
	if failed < 15 {
		t.Errorf("only %d pods are wrong", failed)
	}
}
