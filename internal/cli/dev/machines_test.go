package dev

import (
	"io"
	"os/exec"
	"testing"
	"time"
)

func TestAnAgentThatEndsByItselfIsStartedAgainAndAKilledOneIsNot(t *testing.T) {
	program, err := exec.LookPath("true")
	if err != nil {
		t.Skip(err)
	}
	m, err := NewMachines(Config{Program: program, Dir: t.TempDir(), Nodes: 2}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	m.drained.Go(func() {
		for range m.d.ended {
		}
	})
	for _, node := range []string{"node-1", "node-2"} {
		if err := m.Boot(node); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range m.d.parts {
		<-p.done
	}
	if err := m.Kill(t.Context(), "node-2", nil); err == nil { // its agent had ended
		t.Error("a node of which nothing runs is killed")
	}
	mended := func(after time.Duration) int {
		for node, a := range m.agents {
			a.at = a.at.Add(-after)
			m.agents[node] = a
		}
		if err := m.Mend(); err != nil {
			t.Fatal(err)
		}
		return len(m.d.parts)
	}
	if n := mended(0); n != 2 && time.Since(m.agents["node-1"].at) < restartAfter {
		t.Errorf("%d agents at once, want 2", n)
	}
	if n := mended(restartAfter); n != 3 {
		t.Errorf("%d agents later, want 3", n)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
