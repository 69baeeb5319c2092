package spec

import "testing"

func TestPrivilegesAreFoundByTheirPath(t *testing.T) {
	root, other := int64(0), int64(1000)
	for name, c := range map[string]struct {
		spec PodSpec
		want string
	}{
		"none":            {PodSpec{Security: PodSecurity{RunAsUser: &other}, Containers: []Container{{Security: ContainerSecurity{AddCapabilities: []string{"NET_BIND_SERVICE"}}}}}, ""},
		"host network":    {PodSpec{HostNetwork: true}, "spec.hostNetwork"},
		"host PID":        {PodSpec{HostPID: true}, "spec.hostPID"},
		"host IPC":        {PodSpec{HostIPC: true}, "spec.hostIPC"},
		"pod's user":      {PodSpec{Security: PodSecurity{RunAsUser: &root}}, "spec.securityContext.runAsUser: 0"},
		"a user":          {PodSpec{Containers: []Container{{}, {Security: ContainerSecurity{RunAsUser: &root}}}}, "spec.containers[1].securityContext.runAsUser: 0"},
		"an init's user":  {PodSpec{InitContainers: []Container{{Security: ContainerSecurity{RunAsUser: &root}}}}, "spec.initContainers[0].securityContext.runAsUser: 0"},
		"a capability":    {PodSpec{Containers: []Container{{Security: ContainerSecurity{AddCapabilities: []string{"CHOWN", "SYS_ADMIN"}}}}}, "spec.containers[0].securityContext.capabilities.add: SYS_ADMIN"},
		"all of them":     {PodSpec{Containers: []Container{{Security: ContainerSecurity{AddCapabilities: []string{"ALL"}}}}}, "spec.containers[0].securityContext.capabilities.add: ALL"},
		"what is dropped": {PodSpec{Containers: []Container{{Security: ContainerSecurity{DropCapabilities: []string{"ALL"}}}}}, ""},
	} {
		if got := c.spec.Privilege(); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
