package spec

import (
	"fmt"
	"math"
)

// maxGroups bounds the supplemental groups of a pod.
const maxGroups = 64

// podSecurity checks what all containers of a pod run as.
func (c *checker) podSecurity(at string, s *PodSecurity) {
	c.id(at+".runAsUser", s.RunAsUser)
	c.id(at+".runAsGroup", s.RunAsGroup)
	c.id(at+".fsGroup", s.FSGroup)
	c.seccomp(at+".seccompProfile", s.Seccomp)
	c.atMost(at+".supplementalGroups", len(s.SupplementalGroups), maxGroups)
	for i := range s.SupplementalGroups {
		c.id(fmt.Sprintf("%s.supplementalGroups[%d]", at, i), &s.SupplementalGroups[i])
	}
}

// containerSecurity checks what a container runs as.
func (c *checker) containerSecurity(at string, s *ContainerSecurity) {
	c.id(at+".runAsUser", s.RunAsUser)
	c.id(at+".runAsGroup", s.RunAsGroup)
	c.capabilities(at+".capabilities.add", s.AddCapabilities)
	c.capabilities(at+".capabilities.drop", s.DropCapabilities)
	c.seccomp(at+".seccompProfile", s.Seccomp)
}

// Types of a seccomp profile.
const (
	SeccompRuntimeDefault = "RuntimeDefault"
	SeccompUnconfined     = "Unconfined"
)

// seccomp checks the type of a filter of system calls; files of a node (Localhost) are none.
func (c *checker) seccomp(at, name string) {
	if name != "" && name != SeccompRuntimeDefault && name != SeccompUnconfined {
		c.add(at+".type", NotSupported, name, `supported values: "`+SeccompRuntimeDefault+`", "`+SeccompUnconfined+`"`)
	}
}

// id checks the number of a user or a group.
func (c *checker) id(at string, id *int64) {
	if id != nil && (*id < 0 || *id > math.MaxInt32) {
		c.add(at, Invalid, *id, fmt.Sprintf("must be between 0 and %d, inclusive", math.MaxInt32))
	}
}
