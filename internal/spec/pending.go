package spec

import (
	"fmt"
	"reflect"
)

// pending refuses, by its name, what the values have but no runtime keeps yet.
func (c *checker) pending(at string, s *PodSpec) {
	refuse := func(path string, set bool) {
		if set {
			c.add(path, NotBuilt, nil, "")
		}
	}
	refuse(at+".initContainers", len(s.InitContainers) > 0)
	refuse(at+".shareProcessNamespace", s.ShareProcessNamespace)
	refuse(at+".hostNetwork", s.HostNetwork)
	refuse(at+".hostPID", s.HostPID)
	refuse(at+".hostIPC", s.HostIPC)
	refuse(at+".securityContext", !reflect.ValueOf(s.Security).IsZero())
	for i := range s.Volumes {
		refuse(fmt.Sprintf("%s.volumes[%d].emptyDir", at, i), s.Volumes[i].EmptyDir != nil)
	}
	for i := range s.Containers {
		k, path := &s.Containers[i], fmt.Sprintf("%s.containers[%d]", at, i)
		refuse(path+".securityContext", !reflect.ValueOf(k.Security).IsZero())
		for j := range k.Mounts {
			refuse(fmt.Sprintf("%s.volumeMounts[%d].subPath", path, j), k.Mounts[j].SubPath != "")
		}
	}
}
