package spec

import (
	"strings"
	"testing"
)

func TestWhatNoRuntimeKeepsIsRefusedByName(t *testing.T) {
	for want, set := range map[string]func(*PodSpec){
		"spec.initContainers":                func(s *PodSpec) { s.InitContainers = []Container{{Name: "i"}} },
		"spec.shareProcessNamespace":         func(s *PodSpec) { s.ShareProcessNamespace = true },
		"spec.hostNetwork":                   func(s *PodSpec) { s.HostNetwork = true },
		"spec.hostPID":                       func(s *PodSpec) { s.HostPID = true },
		"spec.hostIPC":                       func(s *PodSpec) { s.HostIPC = true },
		"spec.securityContext":               func(s *PodSpec) { s.Security.RunAsNonRoot = true },
		"spec.volumes[0].emptyDir":           func(s *PodSpec) { s.Volumes = []Volume{{Name: "v", EmptyDir: &EmptyDir{}}} },
		"spec.containers[0].securityContext": func(s *PodSpec) { s.Containers[0].Security.RunAsUser = new(int64) },
		"spec.containers[0].volumeMounts[0].subPath": func(s *PodSpec) {
			s.Volumes = []Volume{{Name: "v", HostPath: "/v"}}
			s.Containers[0].Mounts = []Mount{{Volume: "v", Path: "/v", SubPath: "a"}}
		},
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
