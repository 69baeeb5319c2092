package spec

import (
	"maps"
	"time"
)

// Meta is what every object carries.
type Meta struct {
	// Namespace is a DNS-1123 label, "default" when left out. Empty for nodes.
	Namespace string
	// Name is a DNS-1123 subdomain, unique in its namespace and kind.
	Name string
	// UID is given by the coordinator at creation (a random UUID) and never changes.
	UID string
	// Labels and Annotations are as in Kubernetes.
	Labels, Annotations map[string]string
	// CreateTime is set by the coordinator.
	CreateTime time.Time
	// DeleteTime is when deletion was asked for; zero while the object is wanted.
	DeleteTime time.Time
	// DeleteGrace is the grace period of the deletion; meaningless while DeleteTime is zero.
	DeleteGrace time.Duration
	// Owner is the workload that made the object, nil for what a user made.
	Owner *OwnerRef
	// Generation counts the changes of the spec, from 1.
	Generation int64
	// Revision is the newest store revision of the keys the object is joined from. It is never stored.
	Revision int64
}

// OwnerRef names the workload that an object belongs to; the namespace is the object's own.
type OwnerRef struct {
	Kind, Name, UID string
}

// Deleting tells whether deletion was asked for.
func (m *Meta) Deleting() bool { return !m.DeleteTime.IsZero() }

// ObjectName is namespace and name, the identity of a pod across delete and re-create.
type ObjectName struct {
	Namespace, Name string
}

// Key returns the object's name with its namespace.
func (m *Meta) Key() ObjectName { return ObjectName{m.Namespace, m.Name} }

// String is "namespace/name", as logs and messages show it.
func (n ObjectName) String() string { return n.Namespace + "/" + n.Name }

// clone copies what a change could reach.
func (m Meta) clone() Meta {
	m.Labels, m.Annotations = maps.Clone(m.Labels), maps.Clone(m.Annotations)
	if m.Owner != nil {
		owner := *m.Owner
		m.Owner = &owner
	}
	return m
}

// Selector is a conjunction of label requirements. The zero Selector matches everything.
type Selector struct {
	Labels      map[string]string
	Expressions []SelectorExpression
}

// SelectorExpression is one requirement on one label.
type SelectorExpression struct {
	Key      string
	Operator SelectorOperator
	// Values is used by In and NotIn only.
	Values []string
}

// SelectorOperator is how an expression compares.
type SelectorOperator string

// The operators of a selector.
const (
	In           SelectorOperator = "In"
	NotIn        SelectorOperator = "NotIn"
	Exists       SelectorOperator = "Exists"
	DoesNotExist SelectorOperator = "DoesNotExist"
)
