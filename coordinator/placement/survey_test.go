package placement

import (
	"testing"

	"pgregory.net/rapid"
)

func TestWhatASurveySaysFitsIsPlaced(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, pods := drawNear(t, rapid.Bool().Draw(t, "eases"))
		s := NewSurvey(nodes)
		for i := range min(10, len(pods)) {
			if r := Place(nodes, pods[i:i+1])[0]; r.Node == "" && s.Fits(&pods[i]) {
				t.Fatalf("a survey says that it fits, placement %+v", r)
			}
		}
	})
}

func TestASurveyKnowsOfEveryPodThatHasNothingToDoWithOthers(t *testing.T) {
	fitted := 0
	rapid.Check(t, func(t *rapid.T) {
		nodes, pods := draw(t)
		s := NewSurvey(nodes)
		for i := range min(10, len(pods)) {
			p := pods[i]
			r := Place(nodes, []Pod{p})[0]
			if got := s.Fits(&p); got != (r.Node != "") {
				t.Fatalf("a survey says %v, placement %+v", got, r)
			} else if got {
				fitted++
			}
		}
	})
	if fitted == 0 {
		t.Error("no pod fits anywhere")
	}
}
