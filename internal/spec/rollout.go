package spec

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// The defaults of a Deployment, equal to Kubernetes'.
const (
	DefaultRevisionHistoryLimit = 10
	DefaultProgressDeadline     = 10 * time.Minute
)

// DefaultSurge and DefaultUnavailable are a quarter, as in Kubernetes.
var DefaultSurge, DefaultUnavailable = IntOrPercent{25, true}, IntOrPercent{25, true}

// What is written on Deployments and on their templates in kubectl's manner.
const (
	// AnnotationChangeCause of a Deployment is kept with its revision.
	AnnotationChangeCause = "kubernetes.io/change-cause"
	// AnnotationRestartedAt of a template is what "rollout restart" changes.
	AnnotationRestartedAt = "kubectl.kubernetes.io/restartedAt"
)

// maxRevisions bounds revisionHistoryLimit, maxChangeCause what a revision keeps of its cause, in bytes.
const (
	maxRevisions   = 100
	maxChangeCause = 1024
)

// StrategyType is how pods of an old template are replaced.
type StrategyType string

// The strategies; the empty one stands for RollingUpdate.
const (
	RollingUpdate StrategyType = "RollingUpdate"
	Recreate      StrategyType = "Recreate"
)

// Strategy says how pods of an old template are replaced.
type Strategy struct {
	Type StrategyType
	// MaxSurge and MaxUnavailable are nil for Recreate, and for the default of a quarter.
	MaxSurge, MaxUnavailable *IntOrPercent
}

// IntOrPercent is a number of pods, or a share of them.
type IntOrPercent struct {
	// Value is at least 0.
	Value   int32
	Percent bool
}

// String is "3" or "25%".
func (v IntOrPercent) String() string {
	if v.Percent {
		return fmt.Sprintf("%d%%", v.Value)
	}
	return strconv.Itoa(int(v.Value))
}

// ParsePercent reads "25%".
func ParsePercent(text string) (IntOrPercent, error) {
	digits, ok := strings.CutSuffix(text, "%")
	n, err := strconv.ParseInt(digits, 10, 32)
	if !ok || err != nil || n < 0 {
		return IntOrPercent{}, errors.New("must be an integer or percentage (e.g '5%')")
	}
	return IntOrPercent{int32(n), true}, nil
}

// Of is the number that v is of a total, at least 0; a share is rounded up or down.
func (v IntOrPercent) Of(total int32, up bool) int32 {
	if !v.Percent {
		return max(0, v.Value)
	}
	share := int64(v.Value) * int64(total)
	if up {
		share += 99
	}
	return int32(min(max(0, share/100), math.MaxInt32))
}

// Bounds are how many pods there may be above the wanted number, and how many of that need not be available. Where both
// come to 0, one need not be, as in Kubernetes: else nothing could roll.
func (s *DeploymentSpec) Bounds() (surge, unavailable int32) {
	if s.Strategy.Type == Recreate {
		return 0, 0
	}
	most, least := s.Strategy.MaxSurge, s.Strategy.MaxUnavailable
	if most == nil {
		most = &DefaultSurge
	}
	if least == nil {
		least = &DefaultUnavailable
	}
	surge, unavailable = most.Of(s.Replicas, true), least.Of(s.Replicas, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, min(unavailable, s.Replicas)
}

// HistoryLimit is how many old templates are kept.
func (s *DeploymentSpec) HistoryLimit() int {
	if s.RevisionHistoryLimit == nil {
		return DefaultRevisionHistoryLimit
	}
	return int(*s.RevisionHistoryLimit)
}

// Deadline is how long nothing may progress.
func (s *DeploymentSpec) Deadline() time.Duration {
	if s.ProgressDeadline == 0 {
		return DefaultProgressDeadline
	}
	return s.ProgressDeadline
}

// DeploymentRevision is a template that a Deployment has or had.
type DeploymentRevision struct {
	// Deployment is the Deployment's uid.
	Deployment string
	// Revision rises with every change of the template, from 1; a template that comes back gets a new number.
	Revision int64
	// Hash is the TemplateHash of Template when it was first seen: its pods carry it.
	Hash       string
	Template   PodTemplate
	CreateTime time.Time
	// ChangeCause is at most 1 KiB.
	ChangeCause string
}

// ChangeCause is what the Deployment says of its last change, cut to 1 KiB.
func (d *Deployment) ChangeCause() string {
	cause := d.Annotations[AnnotationChangeCause]
	if len(cause) > maxChangeCause {
		cause = strings.ToValidUTF8(cause[:maxChangeCause], "")
	}
	return cause
}

func defaultRollout(s *DeploymentSpec) {
	if s.Strategy.Type == "" {
		s.Strategy.Type = RollingUpdate
	}
	if s.Strategy.Type == RollingUpdate {
		for _, v := range []struct {
			field **IntOrPercent
			value IntOrPercent
		}{{&s.Strategy.MaxSurge, DefaultSurge}, {&s.Strategy.MaxUnavailable, DefaultUnavailable}} {
			if *v.field == nil {
				*v.field = &v.value
			}
		}
	}
	if s.RevisionHistoryLimit == nil {
		limit := int32(DefaultRevisionHistoryLimit)
		s.RevisionHistoryLimit = &limit
	}
	if s.ProgressDeadline == 0 {
		s.ProgressDeadline = DefaultProgressDeadline
	}
}

// rollout checks what says how a Deployment rolls.
func (c *checker) rollout(at string, s *DeploymentSpec) {
	r := at + ".strategy.rollingUpdate"
	switch s.Strategy.Type {
	case Recreate:
		if s.Strategy.MaxSurge != nil || s.Strategy.MaxUnavailable != nil {
			c.add(r, Forbidden, nil, "may not be specified when strategy `type` is 'Recreate'")
		}
	case RollingUpdate:
		c.intOrPercent(r+".maxUnavailable", s.Strategy.MaxUnavailable, true)
		c.intOrPercent(r+".maxSurge", s.Strategy.MaxSurge, false)
		if most, least := s.Strategy.MaxSurge, s.Strategy.MaxUnavailable; most != nil && least != nil && most.Value == 0 && least.Value == 0 {
			c.add(r+".maxUnavailable", Invalid, least.String(), "may not be 0 when `maxSurge` is 0")
		}
	default:
		c.add(at+".strategy.type", NotSupported, string(s.Strategy.Type), `supported values: "Recreate", "RollingUpdate"`)
	}
	if s.MinReady < 0 || s.MinReady > math.MaxInt32*time.Second {
		c.add(at+".minReadySeconds", Invalid, seconds(s.MinReady), "must be greater than or equal to 0")
	}
	if n := s.RevisionHistoryLimit; n != nil && (*n < 0 || *n > maxRevisions) {
		c.add(at+".revisionHistoryLimit", Invalid, *n, fmt.Sprintf("must be between 0 and %d", maxRevisions))
	}
	if s.ProgressDeadline < 0 || s.ProgressDeadline > math.MaxInt32*time.Second {
		c.add(at+".progressDeadlineSeconds", Invalid, seconds(s.ProgressDeadline), "must be greater than or equal to 0")
	} else if s.ProgressDeadline <= s.MinReady {
		c.add(at+".progressDeadlineSeconds", Invalid, seconds(s.ProgressDeadline), "must be greater than minReadySeconds")
	}
}

// intOrPercent checks a number or share, nil where it was left out. whole is a share of at most 100 %.
func (c *checker) intOrPercent(at string, v *IntOrPercent, whole bool) {
	switch {
	case v == nil:
	case v.Value < 0:
		c.add(at, Invalid, v.String(), "must be greater than or equal to 0")
	case whole && v.Percent && v.Value > 100:
		c.add(at, Invalid, v.String(), "must not be greater than 100%")
	}
}
