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
