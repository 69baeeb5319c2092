package spec

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// AnnotationRestartGuard, on a Deployment, sets its restart guard: "off", or any of
// "share=50% window=60s min=3 release-after=10m".
const AnnotationRestartGuard = "muster.dev/restart-guard"

// RestartGuard holds liveness restarts when too many pods of one owner fail at once.
type RestartGuard struct {
	// Off: every liveness restart is done at once.
	Off bool
	// Share, in percent, is how many of the owner's pods may be restarted within Window: 1 to 99, default 50, rounded down.
	Share int
	// Window is how long a restart counts; 1 s to 1 h, default 1 min.
	Window time.Duration
	// Min is how many pods the owner must want for the guard to be on; 3 to 10000, default 3.
	Min int32
	// ReleaseAfter is how long restarts are held at most before they are let go one at a time; 1 s to 24 h, default 10 min.
	ReleaseAfter time.Duration
}

// DefaultRestartGuard is what counts without the annotation.
func DefaultRestartGuard() RestartGuard {
	return RestartGuard{Share: 50, Window: time.Minute, Min: 3, ReleaseAfter: 10 * time.Minute}
}

// ParseRestartGuard understands the annotation. The error says what is wrong and what is understood.
func ParseRestartGuard(text string) (RestartGuard, error) {
	g := DefaultRestartGuard()
	if strings.TrimSpace(text) == "off" {
		g.Off = true
		return g, nil
	}
	said := map[string]bool{}
	for setting := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(setting, "=")
		if said[key] {
			return g, fmt.Errorf("%s is said twice", key)
		}
		said[key] = true
		var err error
		switch key {
		case "share":
			number, percent := strings.CutSuffix(value, "%")
			if g.Share, err = strconv.Atoi(number); err != nil || !percent || g.Share < 1 || g.Share > 99 {
				return g, fmt.Errorf("%q: share must be 1%% to 99%%, such as share=50%%", setting)
			}
		case "window":
			if g.Window, err = time.ParseDuration(value); err != nil || g.Window < time.Second || g.Window > time.Hour {
				return g, fmt.Errorf("%q: window must be 1s to 1h, such as window=60s", setting)
			}
		case "min":
			n, err := strconv.ParseInt(value, 10, 32)
			if err != nil || n < 3 || n > maxReplicas {
				return g, fmt.Errorf("%q: min must be 3 to %d, such as min=3", setting, maxReplicas)
			}
			g.Min = int32(n)
		case "release-after":
			if g.ReleaseAfter, err = time.ParseDuration(value); err != nil || g.ReleaseAfter < time.Second || g.ReleaseAfter > 24*time.Hour {
				return g, fmt.Errorf("%q: release-after must be 1s to 24h, such as release-after=10m", setting)
			}
		default:
			return g, fmt.Errorf(`%q: must be "off", or any of share=50%% window=60s min=3 release-after=10m`, setting)
		}
	}
	if len(said) == 0 {
		return g, fmt.Errorf(`must be "off", or any of share=50%% window=60s min=3 release-after=10m`)
	}
	return g, nil
}

// RestartGuard is the Deployment's guard, and whether it is on: it is not for one that wants too few pods or is being
// deleted. An annotation that can't be read, which apply refuses, counts as none.
func (d *Deployment) RestartGuard() (g RestartGuard, on bool) {
	g = DefaultRestartGuard()
	if text, ok := d.Annotations[AnnotationRestartGuard]; ok {
		if said, err := ParseRestartGuard(text); err == nil {
			g = said
		}
	}
	return g, !g.Off && d.Spec.Replicas >= g.Min && !d.Deleting()
}

// PodGuard is how the restart guard stands for one binding of a pod.
type PodGuard struct {
	UID   string
	Epoch int64
	// Allowed: liveness may restart it without asking.
	Allowed bool
	// Version rises with each change of Allowed.
	Version uint64
	// Holding: too many pods of its owner fail. Without it a pod that is not allowed is asked for and mostly let go at once.
	Holding bool
	// ReleaseAfter is the owner's.
	ReleaseAfter time.Duration
}

// RestartWord is what an agent says of one binding of a guarded pod.
type RestartWord struct {
	UID   string
	Epoch int64
	// Version is that of the newest PodGuard that the agent has taken in, and Allowed what it says.
	Version uint64
	Allowed bool
	// Held: liveness fails, and the restart waits.
	Held bool
	// Restarted: liveness has restarted it, and Ago is when last.
	Restarted bool
	Ago       time.Duration
	// Live: since then its liveness has succeeded.
	Live bool
}

func (c *checker) restartGuard(at string, annotations map[string]string) {
	if v, ok := annotations[AnnotationRestartGuard]; ok {
		if _, err := ParseRestartGuard(v); err != nil {
			c.add(at+"["+AnnotationRestartGuard+"]", Invalid, v, err.Error())
		}
	}
}

// noRestartGuard refuses the annotation where nobody would read it.
func (c *checker) noRestartGuard(at string, annotations map[string]string) {
	if _, ok := annotations[AnnotationRestartGuard]; ok {
		c.add(at+"["+AnnotationRestartGuard+"]", Forbidden, nil, "it is read from a Deployment's own metadata.annotations: set it there")
	}
}
