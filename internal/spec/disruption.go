package spec

// PodDisruptionBudget bounds how many of a group of pods evictions may take at a time.
type PodDisruptionBudget struct {
	Meta
	Spec PodDisruptionBudgetSpec
}

// PodDisruptionBudgetSpec is what the user wants: exactly one of MinAvailable and MaxUnavailable is set.
type PodDisruptionBudgetSpec struct {
	MinAvailable, MaxUnavailable *IntOrPercent
	// Selector chooses pods of the budget's namespace; nil chooses none, an empty one all.
	Selector           *Selector
	UnhealthyPodPolicy UnhealthyPodPolicy
}

// UnhealthyPodPolicy says when a pod that is not ready may be evicted.
type UnhealthyPodPolicy string

// The policies; the default is IfHealthyBudget.
const (
	// IfHealthyBudget lets it go only while enough others are healthy.
	IfHealthyBudget UnhealthyPodPolicy = "IfHealthyBudget"
	// AlwaysAllow lets it go.
	AlwaysAllow UnhealthyPodPolicy = "AlwaysAllow"
)

// PodDisruptionBudgetStatus is how a budget stands; it is counted, never stored.
type PodDisruptionBudgetStatus struct {
	CurrentHealthy, DesiredHealthy, DisruptionsAllowed, ExpectedPods int32
}

// BudgetState is rewritten by every eviction that its budget allowed, so that of two at the same moment one conflicts.
type BudgetState struct {
	// UID is the budget's.
	UID string
	// Evictions is how many it has allowed.
	Evictions int64
}

// Selects tells whether the budget is about a pod.
func (b *PodDisruptionBudget) Selects(p *Pod) bool {
	return b.Namespace == p.Namespace && b.Spec.Selector != nil && b.Spec.Selector.Matches(p.Labels)
}

// DefaultPodDisruptionBudget fills in what was left out.
func DefaultPodDisruptionBudget(b *PodDisruptionBudget) {
	if b.Namespace == "" {
		b.Namespace = "default"
	}
	if b.Spec.UnhealthyPodPolicy == "" {
		b.Spec.UnhealthyPodPolicy = IfHealthyBudget
	}
}

// ValidatePodDisruptionBudget finds what is wrong with a budget whose defaults are filled in. A budget of neither bound,
// which in Kubernetes refuses every eviction, is an error.
func ValidatePodDisruptionBudget(b *PodDisruptionBudget) []Finding {
	c := &checker{}
	c.meta("metadata", &b.Meta, true)
	least, most := b.Spec.MinAvailable, b.Spec.MaxUnavailable
	switch {
	case least != nil && most != nil:
		c.add("spec", Invalid, nil, "minAvailable and maxUnavailable cannot be both set")
	case least == nil && most == nil:
		c.add("spec.minAvailable", Required, nil, "minAvailable or maxUnavailable")
	}
	c.intOrPercent("spec.minAvailable", least, true)
	c.intOrPercent("spec.maxUnavailable", most, true)
	if s := b.Spec.Selector; s != nil {
		c.selector("spec.selector", s)
	}
	if p := b.Spec.UnhealthyPodPolicy; p != IfHealthyBudget && p != AlwaysAllow {
		c.add("spec.unhealthyPodEvictionPolicy", NotSupported, string(p), `supported values: "AlwaysAllow", "IfHealthyBudget"`)
	}
	return c.findings
}

// Clone returns a copy that shares nothing with b.
func (b *PodDisruptionBudget) Clone() *PodDisruptionBudget {
	out := *b
	out.Meta = b.clone()
	out.Spec.MinAvailable, out.Spec.MaxUnavailable = clonePtr(b.Spec.MinAvailable), clonePtr(b.Spec.MaxUnavailable)
	if s := b.Spec.Selector; s != nil {
		selector := s.clone()
		out.Spec.Selector = &selector
	}
	return &out
}
