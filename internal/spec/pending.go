package spec

import "fmt"

// pending refuses, by its name, what the values have but no runtime keeps yet.
func (c *checker) pending(at string, s *PodSpec) {
	refuse := func(path string, set bool) {
		if set {
			c.add(path, NotBuilt, nil, "")
		}
	}
	refuse(at+".initContainers", len(s.InitContainers) > 0)
	refuse(at+".shareProcessNamespace", s.ShareProcessNamespace)
	refuse(at+".hostPID", s.HostPID)
	refuse(at+".securityContext.seccompProfile", s.Security.Seccomp != "")
	for i := range s.Volumes {
		e := s.Volumes[i].EmptyDir
		refuse(fmt.Sprintf("%s.volumes[%d].emptyDir.sizeLimit", at, i), e != nil && e.SizeLimit > 0 && !e.Memory)
	}
	for i := range s.Containers {
		k, path := &s.Containers[i].Security, fmt.Sprintf("%s.containers[%d].securityContext", at, i)
		refuse(path+".capabilities.add", len(k.AddCapabilities) > 0)
		refuse(path+".capabilities.drop", len(k.DropCapabilities) > 0)
		refuse(path+".seccompProfile", k.Seccomp != "")
	}
}
