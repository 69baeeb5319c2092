package manifest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestAQuantityWithAHugeExponentIsRefusedAtOnce(t *testing.T) {
	for _, q := range []string{`"1e999999999"`, `"1e-2147483647"`, `1e999999999`, `"` + strings.Repeat("9", 1000) + `"`} {
		for _, field := range []string{"limits", "requests"} {
			doc := fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, command: [x], resources: {%s: {cpu: %s}}}]}}`, field, q)
			start := time.Now()
			objects, err := Decode([]byte(doc), "f", Options{})
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("%.20s took %v", q, took)
			}
			if err == nil && !objects[0].Failed() {
				t.Errorf("%.20s was taken", q)
			}
		}
	}
}

func TestAHugeQuantityIsFoundByItsPathInEveryField(t *testing.T) {
	for field, text := range map[string]string{
		"spec.volumes[0].emptyDir.sizeLimit":                           `"volumes":[{"name":"v","emptyDir":{"sizeLimit":%s}}],"containers":[]`,
		"spec.overhead[cpu]":                                           `"overhead":{"cpu":%s},"containers":[]`,
		"spec.containers[0].resources.limits[x.y/z]":                   `"containers":[{"name":"c","command":["x"],"resources":{"limits":{"x.y/z":%s}}}]`,
		"spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor": `"containers":[{"name":"c","env":[{"name":"A","valueFrom":{"resourceFieldRef":{"resource":"x","divisor":%s}}}]}]`,
	} {
		for _, q := range []string{`"1e999999999"`, `1e999999999`, `"1e-2147483647"`, `"1e-100"`, `"` + strings.Repeat("9", 1000) + `"`} {
			for _, form := range []string{`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{%s}}`,
				`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{%s}}]}`} {
				start := time.Now()
				objects, err := Decode(fmt.Appendf(nil, form, fmt.Sprintf(text, q)), "f", Options{IgnoreUnsupported: true})
				if err != nil || len(objects) != 1 || len(objects[0].Findings) != 1 || !objects[0].Failed() || objects[0].Findings[0].Path != field {
					t.Errorf("%s: %.20s: %+v, %v", field, q, objects, err)
				}
				if took := time.Since(start); took > time.Second {
					t.Errorf("%s: %.20s took %v", field, q, took)
				}
			}
		}
	}
}
