package placement

import "slices"

// Survey is how a fleet stood at one moment, for asking again and again whether a pod would fit. Its method may be called from any
// goroutine.
type Survey struct{ fleet *fleet }

// NewSurvey looks at nodes, which must not change any more.
func NewSurvey(nodes []Node) *Survey { return &Survey{newFleet(nodes, nil)} }

// Fits tells whether a pod surely fits a node. It may be false though the pod does, where that depends on pods near it: Place knows.
func (s *Survey) Fits(p *Pod) bool {
	if s.fleet.asked || len(p.Spread) > 0 || neighbourly(p.Affinity) {
		return false
	}
	return slices.ContainsFunc(s.fleet.nodes, func(n *node) bool { return n.bars(p) == fits && n.lacksRoom(p) == fits })
}
