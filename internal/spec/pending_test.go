package spec

import (
	"strings"
	"testing"
)

func TestWhatNoRuntimeKeepsIsRefusedByName(t *testing.T) {
	for want, set := range map[string]func(*PodSpec){
		"spec.volumes[0].emptyDir.sizeLimit": func(s *PodSpec) { s.Volumes = []Volume{{Name: "v", EmptyDir: &EmptyDir{SizeLimit: 1}}} },
	} {
		p := &Pod{Meta: Meta{Name: "p"}, Spec: PodSpec{Containers: []Container{{Name: "c", Command: []string{"x"}}}}}
		set(&p.Spec)
		DefaultPod(p)
		found := ValidatePod(p, Options{})
		if len(found) != 1 || !strings.HasPrefix(found[0].String(), want+": Not built yet") {
			t.Errorf("%s: %v", want, found)
		}
	}
}
