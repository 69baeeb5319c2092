package spec

import "fmt"

// pending refuses, by its name, what the values have but no runtime keeps yet.
func (c *checker) pending(at string, s *PodSpec) {
	refuse := func(path string, set bool) {
		if set {
			c.add(path, NotBuilt, nil, "")
		}
	}
	for i := range s.Volumes {
		e := s.Volumes[i].EmptyDir
		refuse(fmt.Sprintf("%s.volumes[%d].emptyDir.sizeLimit", at, i), e != nil && e.SizeLimit > 0 && !e.Memory)
	}
}
