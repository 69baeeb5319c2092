package spec

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// TaintEffect is what a taint does to pods that do not tolerate it.
type TaintEffect string

// The effects of taints.
const (
	// NoSchedule lets no new ones in.
	NoSchedule TaintEffect = "NoSchedule"
	// PreferNoSchedule lets them in where no other node takes them.
	PreferNoSchedule TaintEffect = "PreferNoSchedule"
	// NoExecute lets no new ones in, and makes those that are there leave.
	NoExecute TaintEffect = "NoExecute"
)

// Taint keeps pods off a node, but for those that tolerate it. A node has one at most of each key and effect.
type Taint struct {
	// Key is as a label's key; Value, which may be empty, as a label's value.
	Key, Value string
	Effect     TaintEffect
}

// String is KEY=VALUE:EFFECT, or KEY:EFFECT without a value.
func (t Taint) String() string {
	if t.Value == "" {
		return t.Key + ":" + string(t.Effect)
	}
	return t.Key + "=" + t.Value + ":" + string(t.Effect)
}

// TaintUnschedulable is the taint that a cordoned node counts as having.
var TaintUnschedulable = Taint{Key: "node.kubernetes.io/unschedulable", Effect: NoSchedule}

// TolerationOperator is how a toleration compares values.
type TolerationOperator string

// The operators of a toleration.
const (
	TolerationEqual  TolerationOperator = "Equal"
	TolerationExists TolerationOperator = "Exists"
)

// Toleration lets a pod onto nodes that have a taint.
type Toleration struct {
	// Key is empty for every key; the operator is Exists then.
	Key string
	// Operator is Equal by default; Exists takes every value.
	Operator TolerationOperator
	Value    string
	// Effect is empty for every effect.
	Effect TaintEffect
	// Seconds is how long a NoExecute taint is tolerated: nil for ever, zero or less not at all.
	Seconds *int64
}

// Tolerates tells whether the toleration is one for the taint.
func (t *Toleration) Tolerates(taint *Taint) bool {
	return (t.Effect == "" || t.Effect == taint.Effect) && (t.Key == "" || t.Key == taint.Key) &&
		(t.Operator == TolerationExists || t.Value == taint.Value)
}

// Affinity is where a pod wants to be: by the labels of nodes, and by the pods that are near.
type Affinity struct {
	Node NodeAffinity `json:",omitzero"`
	// Pod draws the pod to others, PodAnti keeps it away from them.
	Pod     PodAffinity `json:",omitzero"`
	PodAnti PodAffinity `json:",omitzero"`
}

// NodeAffinity chooses nodes.
type NodeAffinity struct {
	// Required is nil where every node will do.
	Required  *NodeSelector       `json:",omitzero"`
	Preferred []PreferredNodeTerm `json:",omitempty"`
}

// NodeSelector matches the nodes that one of its terms matches. It has at least one.
type NodeSelector struct{ Terms []NodeTerm }

// NodeTerm matches a node that meets all of its requirements; without any it matches no node.
type NodeTerm struct {
	// Labels are on the node's labels, Fields on its fields, of which metadata.name is the only one.
	Labels, Fields []NodeRequirement
}

// PreferredNodeTerm prefers the nodes that Term matches, by Weight: 1 to 100.
type PreferredNodeTerm struct {
	Weight int32
	Term   NodeTerm
}

// NodeRequirement is one requirement on one label or field of a node.
type NodeRequirement struct {
	Key      string
	Operator NodeOperator
	// Values has at least one for In and NotIn, one whole number for Gt and Lt, otherwise none.
	Values []string
}

// NodeOperator is how a requirement on a node compares.
type NodeOperator string

// The operators of a requirement on a node. Gt and Lt compare whole numbers.
const (
	NodeIn           NodeOperator = "In"
	NodeNotIn        NodeOperator = "NotIn"
	NodeExists       NodeOperator = "Exists"
	NodeDoesNotExist NodeOperator = "DoesNotExist"
	NodeGt           NodeOperator = "Gt"
	NodeLt           NodeOperator = "Lt"
)

// FieldNodeName is the field that a NodeTerm may ask for.
const FieldNodeName = "metadata.name"

// Matches tells whether one of the terms matches the node.
func (s *NodeSelector) Matches(node string, labels map[string]string) bool {
	return slices.ContainsFunc(s.Terms, func(t NodeTerm) bool { return t.Matches(node, labels) })
}

// Matches tells whether the node meets every requirement, of which there must be one.
func (t *NodeTerm) Matches(node string, labels map[string]string) bool {
	if len(t.Labels)+len(t.Fields) == 0 {
		return false
	}
	for i := range t.Fields {
		if r := &t.Fields[i]; r.Key != FieldNodeName || !r.met(node, true) {
			return false
		}
	}
	for i := range t.Labels {
		value, ok := labels[t.Labels[i].Key]
		if !t.Labels[i].met(value, ok) {
			return false
		}
	}
	return true
}

func (r *NodeRequirement) met(value string, there bool) bool {
	switch r.Operator {
	case NodeIn:
		return there && slices.Contains(r.Values, value)
	case NodeNotIn:
		return !there || !slices.Contains(r.Values, value)
	case NodeExists:
		return there
	case NodeDoesNotExist:
		return !there
	case NodeGt, NodeLt:
		if !there || len(r.Values) != 1 {
			return false
		}
		have, err := strconv.ParseInt(value, 10, 64)
		bound, bad := strconv.ParseInt(r.Values[0], 10, 64)
		return err == nil && bad == nil && (r.Operator == NodeGt && have > bound || r.Operator == NodeLt && have < bound)
	}
	return false
}

// PodAffinity is about the pods that are near.
type PodAffinity struct {
	Required  []PodTerm         `json:",omitempty"`
	Preferred []WeightedPodTerm `json:",omitempty"`
}

// PodTerm means pods, and says what is near: nodes with the same value of a label.
type PodTerm struct {
	// Selector chooses pods by their labels; nil chooses none.
	Selector *Selector
	// AllNamespaces is the empty namespaceSelector. Otherwise Namespaces are meant, and where there are none the pod's own.
	AllNamespaces bool
	Namespaces    []string
	// TopologyKey is the label of nodes; a node without it is near nothing.
	TopologyKey string
}

// WeightedPodTerm is a PodTerm that counts for Weight: 1 to 100.
type WeightedPodTerm struct {
	Weight int32
	Term   PodTerm
}

// Matches tells whether the term, of a pod in the namespace home, means a pod.
func (t *PodTerm) Matches(home, namespace string, labels map[string]string) bool {
	switch {
	case t.Selector == nil:
		return false
	case t.AllNamespaces:
	case len(t.Namespaces) == 0:
		if namespace != home {
			return false
		}
	case !slices.Contains(t.Namespaces, namespace):
		return false
	}
	return t.Selector.Matches(labels)
}

// SpreadConstraint keeps like pods evenly spread over domains: the values of a label of nodes.
type SpreadConstraint struct {
	// MaxSkew is by how many pods a domain may be above the emptiest; at least 1.
	MaxSkew     int32
	TopologyKey string
	// WhenUnsatisfiable is DoNotSchedule or ScheduleAnyway.
	WhenUnsatisfiable WhenUnsatisfiable
	// Selector chooses the pods that are counted, of the pod's namespace; nil chooses none.
	Selector *Selector
	// MinDomains: with fewer domains the emptiest counts as empty. Nil for 1; at least 1; with DoNotSchedule only.
	MinDomains *int32
	// NodeAffinityPolicy says whether nodes that the pod's nodeSelector and node affinity leave out count for nothing:
	// Honor by default. NodeTaintsPolicy says it of those with taints that it does not tolerate: Ignore by default.
	NodeAffinityPolicy, NodeTaintsPolicy NodePolicy
	// MatchLabelKeys are labels of the pod itself that the counted pods must have with the same value.
	MatchLabelKeys []string
}

// WhenUnsatisfiable is what a SpreadConstraint does with a pod that it can't take.
type WhenUnsatisfiable string

// What a SpreadConstraint does.
const (
	DoNotSchedule  WhenUnsatisfiable = "DoNotSchedule"
	ScheduleAnyway WhenUnsatisfiable = "ScheduleAnyway"
)

// NodePolicy says whether what keeps a pod off a node counts: empty means the field's default.
type NodePolicy string

// The policies.
const (
	PolicyHonor  NodePolicy = "Honor"
	PolicyIgnore NodePolicy = "Ignore"
)

func (s Selector) clone() Selector {
	s.Labels, s.Expressions = maps.Clone(s.Labels), slices.Clone(s.Expressions)
	for i := range s.Expressions {
		s.Expressions[i].Values = slices.Clone(s.Expressions[i].Values)
	}
	return s
}

func (s *Selector) clonePtr() *Selector {
	if s == nil {
		return nil
	}
	out := s.clone()
	return &out
}

func cloneTolerations(all []Toleration) []Toleration {
	all = slices.Clone(all)
	for i := range all {
		all[i].Seconds = clonePtr(all[i].Seconds)
	}
	return all
}

func cloneSpread(all []SpreadConstraint) []SpreadConstraint {
	all = slices.Clone(all)
	for i := range all {
		c := &all[i]
		c.Selector, c.MinDomains, c.MatchLabelKeys = c.Selector.clonePtr(), clonePtr(c.MinDomains), slices.Clone(c.MatchLabelKeys)
	}
	return all
}

func (a Affinity) clone() Affinity {
	if r := a.Node.Required; r != nil {
		out := NodeSelector{Terms: slices.Clone(r.Terms)}
		for i := range out.Terms {
			out.Terms[i] = out.Terms[i].clone()
		}
		a.Node.Required = &out
	}
	a.Node.Preferred = slices.Clone(a.Node.Preferred)
	for i := range a.Node.Preferred {
		p := &a.Node.Preferred[i]
		p.Term = p.Term.clone()
	}
	a.Pod, a.PodAnti = a.Pod.clone(), a.PodAnti.clone()
	return a
}

func (t NodeTerm) clone() NodeTerm {
	t.Labels, t.Fields = cloneRequirements(t.Labels), cloneRequirements(t.Fields)
	return t
}

func cloneRequirements(all []NodeRequirement) []NodeRequirement {
	all = slices.Clone(all)
	for i := range all {
		all[i].Values = slices.Clone(all[i].Values)
	}
	return all
}

func (a PodAffinity) clone() PodAffinity {
	a.Required, a.Preferred = slices.Clone(a.Required), slices.Clone(a.Preferred)
	for i := range a.Required {
		a.Required[i] = a.Required[i].clone()
	}
	for i := range a.Preferred {
		p := &a.Preferred[i]
		p.Term = p.Term.clone()
	}
	return a
}

func (t PodTerm) clone() PodTerm {
	t.Selector, t.Namespaces = t.Selector.clonePtr(), slices.Clone(t.Namespaces)
	return t
}

// defaultPlacement fills in what was left out of a pod's tolerations.
func defaultPlacement(s *PodSpec) {
	for i := range s.Tolerations {
		if t := &s.Tolerations[i]; t.Operator == "" {
			t.Operator = TolerationEqual
		}
	}
}

// The bounds of what a pod says of its place, and of a node's taints.
const (
	maxTaints       = 64
	maxTolerations  = 64
	maxTerms        = 64
	maxRequirements = 64
	maxValues       = 1000
	maxSpread       = 16
)

const effects = `supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`

func (c *checker) taints(at string, taints []Taint) {
	c.atMost(at, len(taints), maxTaints)
	seen := map[Taint]bool{}
	for i, t := range taints {
		p := fmt.Sprintf("%s[%d]", at, i)
		if why := labelKey(t.Key); why != "" {
			c.add(p+".key", Invalid, t.Key, why)
		}
		if why := labelValue(t.Value); why != "" {
			c.add(p+".value", Invalid, t.Value, why)
		}
		if t.Effect == "" {
			c.add(p+".effect", Required, nil, "")
		} else {
			c.effect(p+".effect", t.Effect)
		}
		same := Taint{Key: t.Key, Effect: t.Effect}
		if seen[same] {
			c.add(p, Duplicate, t.String(), "taints must be unique by key and effect pair")
		}
		seen[same] = true
	}
}

func (c *checker) effect(at string, e TaintEffect) {
	switch e {
	case NoSchedule, PreferNoSchedule, NoExecute:
	default:
		c.add(at, NotSupported, string(e), effects)
	}
}

// placement checks what a pod says of its place.
func (c *checker) placement(at string, s *PodSpec) {
	c.atMost(at+".tolerations", len(s.Tolerations), maxTolerations)
	for i := range s.Tolerations {
		c.toleration(fmt.Sprintf("%s.tolerations[%d]", at, i), &s.Tolerations[i])
	}
	c.nodeAffinity(at+".affinity.nodeAffinity", &s.Affinity.Node)
	c.podAffinity(at+".affinity.podAffinity", &s.Affinity.Pod)
	c.podAffinity(at+".affinity.podAntiAffinity", &s.Affinity.PodAnti)
	c.atMost(at+".topologySpreadConstraints", len(s.TopologySpreadConstraints), maxSpread)
	for i := range s.TopologySpreadConstraints {
		p, k := fmt.Sprintf("%s.topologySpreadConstraints[%d]", at, i), &s.TopologySpreadConstraints[i]
		c.spread(p, k)
		for j := range s.TopologySpreadConstraints[i+1:] {
			if later := &s.TopologySpreadConstraints[i+1+j]; later.TopologyKey == k.TopologyKey && later.WhenUnsatisfiable == k.WhenUnsatisfiable {
				c.add(p+".{topologyKey, whenUnsatisfiable}", Duplicate, fmt.Sprintf("{%s, %s}", k.TopologyKey, k.WhenUnsatisfiable), "")
			}
		}
	}
}

func (c *checker) toleration(at string, t *Toleration) {
	if t.Key != "" {
		if why := labelKey(t.Key); why != "" {
			c.add(at+".key", Invalid, t.Key, why)
		}
	} else if t.Operator != TolerationExists {
		c.add(at+".operator", Invalid, string(t.Operator), "operator must be Exists when `key` is empty, which means \"match all values and all keys\"")
	}
	if t.Seconds != nil && t.Effect != NoExecute {
		c.add(at+".effect", Invalid, string(t.Effect), "effect must be 'NoExecute' when `tolerationSeconds` is set")
	}
	switch t.Operator {
	case TolerationEqual:
		if why := labelValue(t.Value); why != "" {
			c.add(at+".operator", Invalid, t.Value, why)
		}
	case TolerationExists:
		if t.Value != "" {
			c.add(at+".operator", Invalid, t.Value, "value must be empty when `operator` is 'Exists'")
		}
	default:
		c.add(at+".operator", NotSupported, string(t.Operator), `supported values: "Equal", "Exists"`)
	}
	if t.Effect != "" {
		c.effect(at+".effect", t.Effect)
	}
}

const (
	required  = ".requiredDuringSchedulingIgnoredDuringExecution"
	preferred = ".preferredDuringSchedulingIgnoredDuringExecution"
)

func (c *checker) nodeAffinity(at string, a *NodeAffinity) {
	if a.Required != nil {
		p := at + required + ".nodeSelectorTerms"
		if len(a.Required.Terms) == 0 {
			c.add(p, Required, nil, "must have at least one node selector term")
		}
		c.atMost(p, len(a.Required.Terms), maxTerms)
		for i := range a.Required.Terms {
			c.nodeTerm(fmt.Sprintf("%s[%d]", p, i), &a.Required.Terms[i])
		}
	}
	c.atMost(at+preferred, len(a.Preferred), maxTerms)
	for i := range a.Preferred {
		p := fmt.Sprintf("%s%s[%d]", at, preferred, i)
		c.weight(p, a.Preferred[i].Weight)
		c.nodeTerm(p+".preference", &a.Preferred[i].Term)
	}
}

func (c *checker) weight(at string, weight int32) {
	if weight < 1 || weight > 100 {
		c.add(at+".weight", Invalid, weight, "must be in the range 1-100")
	}
}

func (c *checker) nodeTerm(at string, t *NodeTerm) {
	c.atMost(at+".matchExpressions", len(t.Labels), maxRequirements)
	for i := range t.Labels {
		r, p := &t.Labels[i], fmt.Sprintf("%s.matchExpressions[%d]", at, i)
		c.atMost(p+".values", len(r.Values), maxValues)
		switch r.Operator {
		case NodeIn, NodeNotIn:
			if len(r.Values) == 0 {
				c.add(p+".values", Required, nil, "must be specified when `operator` is 'In' or 'NotIn'")
			}
		case NodeExists, NodeDoesNotExist:
			if len(r.Values) > 0 {
				c.add(p+".values", Forbidden, nil, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
			}
		case NodeGt, NodeLt:
			if len(r.Values) != 1 {
				c.add(p+".values", Required, nil, "must be specified single value when `operator` is 'Lt' or 'Gt'")
			} else if _, err := strconv.ParseInt(r.Values[0], 10, 64); err != nil {
				c.add(p+".values[0]", Invalid, r.Values[0], "for 'Gt', 'Lt' operators, the value must be an integer")
			}
		default:
			c.add(p+".operator", Invalid, string(r.Operator), "not a valid selector operator")
		}
		if why := labelKey(r.Key); why != "" {
			c.add(p+".key", Invalid, r.Key, why)
		}
		if r.Operator == NodeIn || r.Operator == NodeNotIn {
			c.values(p+".values", r.Values, labelValue)
		}
	}
	c.atMost(at+".matchFields", len(t.Fields), maxRequirements)
	for i := range t.Fields {
		r, p := &t.Fields[i], fmt.Sprintf("%s.matchFields[%d]", at, i)
		switch r.Operator {
		case NodeIn, NodeNotIn:
			if len(r.Values) != 1 {
				c.add(p+".values", Required, nil, "must be only one value when `operator` is 'In' or 'NotIn' for node field selector")
			}
		default:
			c.add(p+".operator", Invalid, string(r.Operator), "not a valid selector operator")
		}
		if r.Key != FieldNodeName {
			c.add(p+".key", Invalid, r.Key, "not a valid field selector key")
		} else {
			c.values(p+".values", r.Values, subdomain)
		}
	}
}

func (c *checker) values(at string, values []string, why func(string) string) {
	for i, v := range values {
		if w := why(v); w != "" {
			c.add(fmt.Sprintf("%s[%d]", at, i), Invalid, v, w)
		}
	}
}

func (c *checker) podAffinity(at string, a *PodAffinity) {
	c.atMost(at+required, len(a.Required), maxTerms)
	for i := range a.Required {
		c.podTerm(fmt.Sprintf("%s%s[%d]", at, required, i), &a.Required[i])
	}
	c.atMost(at+preferred, len(a.Preferred), maxTerms)
	for i := range a.Preferred {
		p := fmt.Sprintf("%s%s[%d]", at, preferred, i)
		c.weight(p, a.Preferred[i].Weight)
		c.podTerm(p+".podAffinityTerm", &a.Preferred[i].Term)
	}
}

func (c *checker) podTerm(at string, t *PodTerm) {
	c.chosen(at+".labelSelector", t.Selector)
	c.atMost(at+".namespaces", len(t.Namespaces), maxValues)
	c.values(at+".namespaces", t.Namespaces, label)
	if t.TopologyKey == "" {
		c.add(at+".topologyKey", Required, nil, "can not be empty")
	}
	if why := labelKey(t.TopologyKey); why != "" {
		c.add(at+".topologyKey", Invalid, t.TopologyKey, why)
	}
}

// chosen checks a selector that may be missing.
func (c *checker) chosen(at string, s *Selector) {
	if s == nil {
		return
	}
	c.atMost(at+".matchLabels", len(s.Labels), maxRequirements)
	c.atMost(at+".matchExpressions", len(s.Expressions), maxRequirements)
	for i, e := range s.Expressions {
		p := fmt.Sprintf("%s.matchExpressions[%d].values", at, i)
		c.atMost(p, len(e.Values), maxValues)
		c.values(p, e.Values, labelValue)
	}
	c.selector(at, s)
}

func (c *checker) spread(at string, k *SpreadConstraint) {
	if k.MaxSkew <= 0 {
		c.add(at+".maxSkew", Invalid, k.MaxSkew, "must be greater than zero")
	}
	if k.TopologyKey == "" {
		c.add(at+".topologyKey", Required, nil, "can not be empty")
	}
	switch k.WhenUnsatisfiable {
	case DoNotSchedule, ScheduleAnyway:
	default:
		c.add(at+".whenUnsatisfiable", NotSupported, string(k.WhenUnsatisfiable), `supported values: "DoNotSchedule", "ScheduleAnyway"`)
	}
	c.chosen(at+".labelSelector", k.Selector)
	if n := k.MinDomains; n != nil {
		if *n <= 0 {
			c.add(at+".minDomains", Invalid, *n, "must be greater than zero")
		}
		if k.WhenUnsatisfiable != DoNotSchedule {
			c.add(at+".minDomains", Invalid, *n,
				fmt.Sprintf("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not %s", k.WhenUnsatisfiable))
		}
	}
	for _, x := range []struct {
		name   string
		policy NodePolicy
	}{{"nodeAffinityPolicy", k.NodeAffinityPolicy}, {"nodeTaintsPolicy", k.NodeTaintsPolicy}} {
		switch x.policy {
		case "", PolicyHonor, PolicyIgnore:
		default:
			c.add(at+"."+x.name, NotSupported, string(x.policy), `supported values: "Honor", "Ignore"`)
		}
	}
	c.matchLabelKeys(at, k)
}

func (c *checker) matchLabelKeys(at string, k *SpreadConstraint) {
	p := at + ".matchLabelKeys"
	if len(k.MatchLabelKeys) > 0 && k.Selector == nil {
		c.add(p, Forbidden, nil, "must not be specified when labelSelector is not set")
		return
	}
	c.atMost(p, len(k.MatchLabelKeys), maxRequirements)
	for i, key := range k.MatchLabelKeys {
		p := fmt.Sprintf("%s[%d]", p, i)
		if why := labelKey(key); why != "" {
			c.add(p, Invalid, key, why)
		}
		_, asked := k.Selector.Labels[key]
		if asked || slices.ContainsFunc(k.Selector.Expressions, func(e SelectorExpression) bool { return e.Key == key }) {
			c.add(p, Invalid, key, "exists in both matchLabelKeys and labelSelector")
		}
		if slices.Contains(k.MatchLabelKeys[:i], key) {
			c.add(p, Duplicate, key, "")
		}
	}
}
