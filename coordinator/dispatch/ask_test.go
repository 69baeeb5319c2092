package dispatch

import (
	"errors"
	"testing"
)

func TestConnectionsToPodsLeaveRoomForOtherQuestions(t *testing.T) {
	a, s := newAsks(), &session{}
	for range maxForwards {
		if _, _, err := a.add(s, nil, true); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := a.add(s, nil, true); !errors.Is(err, ErrTooManyForwards) {
		t.Errorf("one more connection: %v", err)
	}
	if _, _, err := a.add(&session{}, nil, true); err != nil {
		t.Errorf("a connection on another node: %v", err)
	}
	for range maxAsks {
		if _, _, err := a.add(s, nil, false); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := a.add(s, nil, false); !errors.Is(err, ErrTooManyAsks) {
		t.Errorf("one more question: %v", err)
	}
}
