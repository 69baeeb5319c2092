package runner

import (
	"slices"
	"strings"

	"github.com/musterhq/muster/internal/spec"
)

// Question is a container's probe of a kind as it is asked: with $(NAME) expanded in an exec command. Nil where there is none.
func Question(sc *spec.Container, kind spec.ProbeKind) *spec.Probe {
	if sc.Probe(kind) == nil {
		return nil
	}
	return probe(sc, kind)
}

// LocalEnvironment is what a container's commands would see where there is no pod: base, and above it the container's own
// variables. field knows fields of pods; missing has the names of variables that are left out, as it does not know theirs.
func LocalEnvironment(sc *spec.Container, base []string, field func(path string) (string, bool)) (env, missing []string) {
	e := environment{index: map[string]int{}}
	for _, v := range base {
		if name, value, ok := strings.Cut(v, "="); ok {
			e.set(name, value)
		}
	}
	for _, v := range sc.Env {
		if slices.Contains(reserved, v.Name) {
			missing = append(missing, v.Name)
			continue
		}
		value := expand(v.Value, e.get)
		if v.FieldPath != "" {
			var ok bool
			if value, ok = field(v.FieldPath); !ok {
				missing = append(missing, v.Name)
				continue
			}
		}
		e.set(v.Name, value)
	}
	return e.list, missing
}
