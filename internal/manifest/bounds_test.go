package manifest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestEscapedSurrogatePairsOfJSONAreRead(t *testing.T) {
	for _, form := range []string{"%s", "\ufeff \n%s\n", `{"apiVersion":"v1","kind":"List","items":[%s]}`} {
		o := one(t, fmt.Sprintf(form, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","annotations":{"a":"\ud83d\ude00 \\ud83d"}},
			"spec":{"containers":[{"name":"c","command":["x"]}]}}`), Options{})
		if o.Pod == nil || o.Pod.Annotations["a"] != "😀 \\ud83d" {
			t.Errorf("%s: %+v", form, o)
		}
	}
}

func TestWhatOnlyLooksLikeJSONIsReadAsYAML(t *testing.T) {
	o := one(t, "{apiVersion: v1, kind: Pod, metadata: {name: p}, # here\nspec: {containers: [{name: c, command: [x]}]}}", Options{})
	if o.Pod == nil {
		t.Errorf("%+v", o)
	}
}

func TestTheSameInJSONAndYAMLIsTheSame(t *testing.T) {
	for _, value := range []string{"1", "1.0", "1e2", "1e400", "9223372036854775807", "18446744073709551615", "-0", "true", "null", `"1"`} {
		text := `"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"terminationGracePeriodSeconds":` + value +
			`,"containers":[{"name":"c","command":["x"],"resources":{"limits":{"cpu":` + value + `}}}]}`
		asJSON, asYAML := one(t, "{"+text+"}", Options{}), one(t, "{"+text+",}", Options{})
		j, _ := json.Marshal(asJSON)
		y, _ := json.Marshal(asYAML)
		if string(j) != string(y) {
			t.Errorf("%s:\n%s\n%s", value, j, y)
		}
	}
}

// listed counts the findings of objects, and checks that the last one tells how many are not listed.
func listed(t *testing.T, objects []Object) int {
	t.Helper()
	n := 0
	for _, o := range objects {
		n += len(o.Findings)
		for _, f := range o.Findings {
			if text := f.String(); len(text) > 4*maxText {
				t.Errorf("a finding of %d bytes", len(text))
			}
		}
	}
	last := objects[len(objects)-1].Findings
	if f := last[len(last)-1]; !strings.Contains(f.Message, "more findings are not listed") {
		t.Errorf("the last finding is %s", f.String())
	}
	return n
}

func TestTheFindingsOfADocumentAreBounded(t *testing.T) {
	var fields, containers, annotations, items, warnings strings.Builder
	for i := range 20000 {
		fmt.Fprintf(&fields, `,"contaners%d":1`, i)
		fmt.Fprintf(&containers, `,{"name":"C%d","tty":true}`, i)
		fmt.Fprintf(&annotations, `,"a %d":""`, i)
		fmt.Fprintf(&items, `,{"apiVersion":"v1","kind":"Pod","metadata":{"name":"P%d"},"a":1}`, i)
		fmt.Fprintf(&warnings, `,{"name":"c%d","command":["x"],"imagePullPolicy":"Always"}`, i)
	}
	pod := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","annotations":{"a":""%s}},"spec":{"containers":[{"name":"c"}%s]%s}}`
	for name, text := range map[string]string{
		"unknown fields":       fmt.Sprintf(pod, "", "", fields.String()),
		"fields of containers": fmt.Sprintf(pod, "", containers.String(), ""),
		"validation":           fmt.Sprintf(pod, annotations.String(), "", ""),
		"items":                `{"apiVersion":"v1","kind":"List","items":[` + items.String()[1:] + `]}`,
		"warnings":             fmt.Sprintf(pod, "", warnings.String(), ""),
		"twice":                `{"a":1` + strings.Repeat(`,"a":1,"b":1`, 20000) + `}`,
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			objects, err := Decode([]byte(text), "f", Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d bytes in %v", len(text), time.Since(start))
			for _, o := range objects {
				if !o.Failed() || o.Pod != nil {
					t.Errorf("%s failed is %v, pod %v", o.Source, o.Failed(), o.Pod)
				}
			}
			if name == "twice" { // the JSON decoder tells the first hundred, and each field once
				return
			}
			if n := listed(t, objects); n > MaxFindings+1 || name != "validation" && n < MaxFindings/2 {
				t.Errorf("%d findings", n)
			}
		})
	}
}

func TestWarningsDoNotHideErrors(t *testing.T) {
	var containers strings.Builder
	for i := range 60 {
		fmt.Fprintf(&containers, `{"name":"c%d","command":["x"],"imagePullPolicy":"Always"},`, i)
	}
	text := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[` + containers.String() + `{"name":"c","command":["x"]%s}]}}`
	o := one(t, fmt.Sprintf(text, ""), Options{})
	if o.Failed() || o.Pod == nil || len(o.Findings) != MaxFindings/2+1 {
		t.Errorf("%v, %v", o.Pod, lines(o.Findings))
	}
	if last := o.Findings[len(o.Findings)-1]; !last.Warning || last.Message != "10 more findings are not listed, 0 of them errors" {
		t.Error(last)
	}
	o = one(t, fmt.Sprintf(text, `,"tty":true`), Options{})
	if got := lines(o.Findings); !o.Failed() || !strings.Contains(strings.Join(got, "\n"), "spec.containers[60].tty: Not built yet") {
		t.Error(got)
	}
}

func TestAnItemBeyondTheListedFindingsFailsAllTheSame(t *testing.T) {
	bad := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"bad"},"a":1},`
	good := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"good"},"spec":{"containers":[{"name":"c","command":["x"]}]}},`
	objects, err := Decode([]byte(`{"apiVersion":"v1","kind":"List","items":[`+strings.Repeat(bad, 300)+strings.TrimSuffix(good, ",")+`]}`), "f", Options{})
	if err != nil || len(objects) != 302 {
		t.Fatal(len(objects), err)
	}
	if o := objects[299]; !o.Failed() || o.Name != "bad" || len(o.Findings) != 0 {
		t.Errorf("%+v", o)
	}
	if o := objects[300]; o.Failed() || o.Pod == nil {
		t.Errorf("%+v", o)
	}
	if o := objects[301]; !o.Failed() || o.Kind != "List" {
		t.Errorf("%+v", o)
	}
}

func TestLongTextsOfFindingsAreCut(t *testing.T) {
	long := strings.Repeat("é", 100000)
	o := one(t, fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q},"spec":{"restartPolicy":%q,%q:1}}`, long, long, long), Options{})
	if !o.Failed() || len(o.Findings) < 2 || len(o.Name) > maxText+len("…") || !strings.HasSuffix(o.Name, "é…") {
		t.Errorf("%d findings, a name of %d bytes", len(o.Findings), len(o.Name))
	}
	for _, l := range lines(o.Findings) {
		if len(l) > 4*maxText {
			t.Errorf("%d bytes: %.60s", len(l), l)
		}
	}
}

func TestADocumentOfAnyLengthIsReadToItsEnd(t *testing.T) {
	const doc = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"x":"%s"}}`
	for _, length := range []int{4095, 4096, 4097, 8192, 65536} {
		text := fmt.Sprintf(doc, strings.Repeat("y", length-len(doc)+len("%s")))
		for _, end := range []string{"", "\n", "\r\n"} {
			objects, err := Decode([]byte(text+end), "f", Options{})
			if err != nil || len(objects) != 1 || objects[0].Failed() {
				t.Errorf("%d bytes and %q: %d objects, %v", length, end, len(objects), err)
			}
		}
	}
}
