package spec_test

import (
	"maps"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/spec/spectest"
)

// Rules 2.1 and 2.8.
func TestDefaultsAreThoseOfKubernetes(t *testing.T) {
	p := web()
	c := &p.Spec.Containers[0]
	c.Ports = []spec.Port{{Number: 80}, {Number: 53, Protocol: "UDP"}}
	c.Liveness = &spec.Probe{Handler: spec.Handler{HTTP: &spec.HTTPAction{Port: spec.PortRef{Number: 80}}}}
	c.Resources = spec.Resources{Requests: spec.ResourceList{MilliCPU: 1}, Limits: spec.ResourceList{MilliCPU: 2, MemoryBytes: 3}}
	if f := spec.DefaultPod(p); f != nil {
		t.Error(f)
	}
	want := &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: "web"}, Spec: spec.PodSpec{
		RestartPolicy: spec.RestartAlways, TerminationGrace: 30 * time.Second,
		Containers: []spec.Container{{
			Name: "c", Command: []string{"serve"}, Ports: []spec.Port{{Number: 80, Protocol: "TCP"}, {Number: 53, Protocol: "UDP"}},
			Liveness: &spec.Probe{
				Handler: spec.Handler{HTTP: &spec.HTTPAction{Scheme: "HTTP", Path: "/", Port: spec.PortRef{Number: 80}}},
				Period:  10 * time.Second, Timeout: time.Second, SuccessThreshold: 1, FailureThreshold: 3,
			},
			Resources: spec.Resources{Requests: spec.ResourceList{MilliCPU: 1, MemoryBytes: 3}, Limits: spec.ResourceList{MilliCPU: 2, MemoryBytes: 3}},
		}},
	}}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error(diff)
	}
}

func TestDefaultingAgainChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := spectest.Draw[spec.Pod](t)
		spec.DefaultPod(p)
		again := p.Clone()
		spec.DefaultPod(again)
		if diff := cmp.Diff(p, again); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestValidationTakesAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, d := spectest.Draw[spec.Pod](t), spectest.Draw[spec.Deployment](t)
		findings := append(spec.ValidatePod(p, spec.Options{}), spec.ValidateDeployment(d, spec.Options{})...)
		for i := range findings {
			if findings[i].Path == "" || findings[i].String() == "" || !findings[i].Warning && findings[i].Kind == "" {
				t.Fatalf("a finding without a path or kind: %+v", findings[i])
			}
		}
	})
}

func TestProbeOverridesGiveSubSecondTimes(t *testing.T) {
	p := web()
	p.Spec.Containers = append(p.Spec.Containers, p.Spec.Containers[0])
	p.Spec.Containers[1].Name = "side.car"
	exec := spec.Handler{Exec: &spec.ExecAction{Command: []string{"x"}}}
	p.Spec.Containers[0].Liveness = &spec.Probe{Handler: exec, Period: time.Hour}
	p.Spec.Containers[0].Readiness = &spec.Probe{Handler: exec}
	p.Annotations = map[string]string{spec.AnnotationProbeOverride: " c.liveness:period=200ms   timeout=100ms ; c.readiness: initialDelay=50ms;; "}
	check(t, spec.DefaultPod(p))
	l, r := p.Spec.Containers[0].Liveness, p.Spec.Containers[0].Readiness
	if l.Period != 200*time.Millisecond || l.Timeout != 100*time.Millisecond || r.InitialDelay != 50*time.Millisecond || r.Period != 10*time.Second {
		t.Errorf("%+v, %+v", l, r)
	}
	const at = "metadata.annotations[probe.muster.dev/override]: Invalid value: "
	for text, want := range map[string][]string{
		"":                                  nil,
		"nonsense":                          {at + `"nonsense": must be CONTAINER.KIND: NAME=DURATION …`},
		"c: period=1s":                      {at + `"c: period=1s": must be CONTAINER.KIND: NAME=DURATION …`},
		"d.liveness: period=1s":             {at + `"d.liveness: period=1s": there is no liveness probe of a container "d"`},
		"c.startup: period=1s":              {at + `"c.startup: period=1s": there is no startup probe of a container "c"`},
		"c.liveness: period=fast colour=1s": {at + `"period=fast": must be a duration such as 200ms`, at + `"colour=1s": must be period, timeout or initialDelay`},
		"c.liveness: period":                {at + `"period": must be a duration such as 200ms`},
	} {
		p.Annotations[spec.AnnotationProbeOverride] = text
		check(t, spec.DefaultPod(p), want...)
	}
}

// shared finds memory that a change of one value would change in the other.
func shared(a, b reflect.Value, path string) string {
	switch a.Kind() {
	case reflect.Struct:
		if a.Type() == reflect.TypeFor[time.Time]() {
			return ""
		}
		for i := range a.NumField() {
			if p := shared(a.Field(i), b.Field(i), path+"."+a.Type().Field(i).Name); p != "" {
				return p
			}
		}
	case reflect.Pointer:
		if !a.IsNil() {
			if a.Pointer() == b.Pointer() {
				return path
			}
			return shared(a.Elem(), b.Elem(), path)
		}
	case reflect.Map:
		if a.Len() > 0 && a.Pointer() == b.Pointer() {
			return path
		}
	case reflect.Slice:
		if a.Len() > 0 && a.Pointer() == b.Pointer() {
			return path
		}
		for i := range a.Len() {
			if p := shared(a.Index(i), b.Index(i), path+"[]"); p != "" {
				return p
			}
		}
	}
	return ""
}

func TestACloneIsEqualAndSharesNothing(t *testing.T) {
	cloned := func(t *rapid.T, v, clone any) {
		if diff := cmp.Diff(v, clone); diff != "" {
			t.Fatal(diff)
		}
		if path := shared(reflect.ValueOf(v), reflect.ValueOf(clone), ""); path != "" {
			t.Fatalf("%T shares %s", v, path)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		p, d := spectest.Draw[spec.Pod](t), spectest.Draw[spec.Deployment](t)
		cloned(t, p, p.Clone())
		cloned(t, d, d.Clone())
	})
}

// emptyTemplateHash is the hash of the empty template.
const emptyTemplateHash = "91gl892xf"

func TestATemplatesHashFollowsItsContent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := spectest.Draw[spec.PodTemplate](t)
		b := *a
		b.Labels, b.Annotations, b.Spec = maps.Clone(a.Labels), maps.Clone(a.Annotations), a.Spec.Clone()
		if spec.TemplateHash(a) != spec.TemplateHash(&b) {
			t.Fatal("equal templates, other hashes")
		}
		b.Spec.Hostname += "x"
		if h := spec.TemplateHash(&b); spec.TemplateHash(a) == h || len(h) > 10 || h == "" {
			t.Fatalf("other templates, one hash %s", h)
		}
	})
	// The hash is in labels that are stored: it must not change with the program.
	if h := spec.TemplateHash(&spec.PodTemplate{}); h != emptyTemplateHash {
		t.Errorf("the empty template's hash is %s, was %s: every Deployment's pods would be replaced", h, emptyTemplateHash)
	}
}

func TestSelectorsReadAsKubectlWritesThem(t *testing.T) {
	labels := map[string]string{"app": "web", "tier": "", "example.org/x": "1"}
	for text, want := range map[string]bool{
		"": true, " ": true, "app=web": true, "app==web": true, "app = web": true, "app=db": false, "app!=db": true, "app!=web": false,
		"none!=x": true, "none=x": false, "tier=": true, "tier": true, "none": false, "!none": true, "!app": false, "! app": false,
		"app in (web)": true, "app in (db,web)": true, "app in ( db , web )": true, "app in (db)": false, "none in (db)": false,
		"app notin (db)": true, "app notin (web,db)": false, "none notin (db)": true, "app in (web),tier,!none,example.org/x=1": true,
		"app=web,tier=x": false, "app in(web)": true,
	} {
		s, err := spec.ParseSelector(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if s.Matches(labels) != want {
			t.Errorf("%q: %v, want %v", text, !want, want)
		}
		if (len(s.Expressions) == 0) != s.Empty() {
			t.Errorf("%q: empty is %v", text, s.Empty())
		}
	}
	for _, bad := range []string{",", "app=web,", "=web", "!", "app in web", "app in (web", "app in web)", "app near (web)", "app web", "a b=c", "app=w eb", "app>1", "app in (web),,tier", "a/b/c", ")", "(", "app in (web))", "app=web)"} {
		if s, err := spec.ParseSelector(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, s)
		}
	}
}

func TestSelectorsWithoutAKnownOperatorMatchNothing(t *testing.T) {
	s := spec.Selector{Expressions: []spec.SelectorExpression{{Key: "app", Operator: "Near"}}}
	if s.Matches(map[string]string{"app": "web"}) || s.Empty() {
		t.Error("an unknown operator matches")
	}
}

func FuzzParseSelector(f *testing.F) {
	f.Add("a=b,c!=d,e in (x,y),f notin (z),g,!h")
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := spec.ParseSelector(text); err == nil {
			s.Matches(map[string]string{"a": "b"})
		}
	})
}
