package spec

import (
	"fmt"
	"slices"
)

// Capabilities are what a container that runs as user 0 has unless it drops them, without CAP_. Other users have those of
// them that the container adds by name, and can gain the rest through programs that give them.
var Capabilities = []string{
	"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW", "SETFCAP",
	"SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}

// Privilege says, by its path, the first thing that the pod asks for which only nodes that allow privileged pods give:
// the node's namespaces, user 0, or more than the usual Capabilities. Empty if there is none. hostPath volumes are for
// the node to judge by their paths.
func (s *PodSpec) Privilege() string {
	switch {
	case s.HostNetwork:
		return "spec.hostNetwork"
	case s.HostPID:
		return "spec.hostPID"
	case s.HostIPC:
		return "spec.hostIPC"
	case isRoot(s.Security.RunAsUser):
		return "spec.securityContext.runAsUser: 0"
	}
	if p := privilegeOf("spec.initContainers", s.InitContainers); p != "" {
		return p
	}
	return privilegeOf("spec.containers", s.Containers)
}

func privilegeOf(path string, containers []Container) string {
	for i := range containers {
		sec := &containers[i].Security
		if isRoot(sec.RunAsUser) {
			return fmt.Sprintf("%s[%d].securityContext.runAsUser: 0", path, i)
		}
		for _, c := range sec.AddCapabilities {
			if !slices.Contains(Capabilities, c) {
				return fmt.Sprintf("%s[%d].securityContext.capabilities.add: %s", path, i, c)
			}
		}
	}
	return ""
}

func isRoot(id *int64) bool { return id != nil && *id == 0 }
