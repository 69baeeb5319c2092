package supervisor

import (
	"testing"
	"time"
)

func TestAProcessTellsItsTimeApartFromThatOfItsChildren(t *testing.T) {
	const line = "4711 (a ) (b) S 1 4711 4711 0 -1 4194304 100 200 0 0 12 3 400 50 20 0 1 0 98765 1000 10 18446744073709551615"
	got, err := parseStat([]byte(line))
	want := Stat{PID: 4711, PPID: 1, Session: 4711, State: 'S', StartTime: 98765, CPU: 150 * time.Millisecond, WaitedCPU: 4500 * time.Millisecond}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}
