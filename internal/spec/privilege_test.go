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

func TestAPodNeedsMountsOfItsOwnUnlessItsFilesAreWhereTheNodeHasThem(t *testing.T) {
	at := func(m Mount) PodSpec {
		m.Volume = "v"
		return PodSpec{Volumes: []Volume{{Name: "v", HostPath: "/srv/"}, {Name: "e", EmptyDir: &EmptyDir{}}}, Containers: []Container{{Mounts: []Mount{m}}}}
	}
	empty := at(Mount{Path: "/srv"})
	empty.Containers[0].Mounts[0].Volume = "e"
	for name, c := range map[string]struct {
		spec PodSpec
		want bool
	}{
		"nothing":        {PodSpec{Containers: []Container{{}}}, false},
		"the same path":  {at(Mount{Path: "/srv"}), false},
		"another path":   {at(Mount{Path: "/data"}), true},
		"read-only":      {at(Mount{Path: "/srv", ReadOnly: true}), true},
		"a sub-path":     {at(Mount{Path: "/srv", SubPath: "a"}), true},
		"emptyDir":       {empty, true},
		"read-only root": {PodSpec{Containers: []Container{{Security: ContainerSecurity{ReadOnlyRootFilesystem: true}}}}, true},
		"an init":        {PodSpec{InitContainers: []Container{{Security: ContainerSecurity{ReadOnlyRootFilesystem: true}}}}, true},
	} {
		if got := c.spec.NeedsMounts(); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
