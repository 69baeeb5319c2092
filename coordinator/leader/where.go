package leader

import (
	"github.com/musterhq/muster/coordinator/placement"
	"github.com/musterhq/muster/internal/spec"
)

// Where says to which node a pod would go now that is not stored, or why to none. Nothing is kept for it there.
func (l *Leader) Where(p *spec.Pod) (node, why string) {
	nodes := l.placeNodes(l.deps.Cache.View(), nil, func(name spec.ObjectName) bool { return name == p.Key() })
	d := placement.Place(nodes, []placement.Pod{placement.PodOf(p)})[0]
	return d.Node, d.Why
}
