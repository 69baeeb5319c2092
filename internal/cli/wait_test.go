package cli

import (
	"strings"
	"testing"
)

func TestWaitTellsOfEveryObjectInTheOrderInWhichTheyWereNamed(t *testing.T) {
	f := aCluster()
	f.setPod(webPod("web3", "n1", true))
	s := newShell(t, f)
	a := s.run("wait", "--for=condition=Ready", "pod/web3", "pod/web2", "pod/nope", "node/n1", "pod/web", "--timeout=300ms")
	if a.status != 1 || a.stdout != "pod/web3 condition met\nnode/n1 condition met\npod/web condition met\n" {
		t.Errorf("exit %d, %q", a.status, a.stdout)
	}
	want := `pod "nope" not found in namespace "default": "muster get pods -A" lists them` + "\n" +
		`timed out after 300ms waiting for condition=Ready of pod/web2: "muster describe pod web2" says more` + "\n"
	if a.stderr != want {
		t.Errorf("%q, want %q", a.stderr, want)
	}
}

func TestATimeoutOf0LooksOnceAndANegativeOneWaits(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	if a := s.run("wait", "--for=condition=Ready", "pod/web", "--timeout=0"); a.status != 0 || a.stdout != "pod/web condition met\n" {
		t.Errorf("it is so: %+v", a)
	}
	for line, want := range map[string]string{
		"wait --for=condition=Ready pod/web2 --timeout=0": `condition=Ready of pod/web2 is not so now: "muster describe pod web2" says more`,
		"wait --for=delete pod/web --timeout=0":           "delete of pod/web is not so now",
		"wait --for=create pod/late --timeout=0":          "create of pod/late is not so now",
	} {
		if a := s.run(strings.Fields(line)...); a.status != 1 || !strings.HasPrefix(a.stderr, want) || a.stdout != "" {
			t.Errorf("%s: %+v", line, a)
		}
	}
	done := make(chan answer, 1)
	go func() { done <- s.run("wait", "--for=condition=Ready", "pods", "--all", "--timeout=-1s") }()
	f.setPod(webPod("web2", "n2", true))
	if a := <-done; a.status != 0 || a.stdout != "pod/web condition met\npod/web2 condition met\n" {
		t.Errorf("a negative one: %+v", a)
	}
}

func TestDeletionIsThatOfTheObjectThatWasThere(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	stdout, _, stop := s.background("wait", "--for=delete", "pods", "-l", "app=web", "--timeout=20s")
	defer stop()
	again := webPod("web", "n1", true)
	again.Meta.Uid = "another"
	for !strings.Contains(stdout.String(), "pod/web deleted\n") { // the watch may not have begun
		f.setPod(webPod("web", "n1", true))
		f.setPod(again)
		eventually(t, stdout, "")
	}
	f.mu.Lock()
	delete(f.pods, "default/web2")
	f.changedLocked()
	f.mu.Unlock()
	eventually(t, stdout, `^pod/web deleted\npod/web2 deleted\n$`)
}

func TestOneOfThoseToComeIsEnoughForCreate(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	stdout, _, stop := s.background("wait", "--for=create", "pods", "-l", "app=late", "--timeout=20s")
	defer stop()
	late := webPod("late", "n1", true)
	late.Meta.Labels = map[string]string{"app": "late"}
	f.setPod(late)
	eventually(t, stdout, `^pod/late condition met\n$`)
	if a := s.run("wait", "--for=create", "pods", "-l", "app=never", "--timeout=50ms"); a.status != 1 || a.stderr != "timed out after 50ms waiting for one of the pods: create it, or wait longer\n" {
		t.Errorf("none comes: %+v", a)
	}
}

func TestAConditionThatWasSeenOfAnOlderSpecIsNotMet(t *testing.T) {
	object := func(observed, generation float64) any {
		return map[string]any{
			"metadata": map[string]any{"generation": generation},
			"status":   map[string]any{"observedGeneration": observed, "conditions": []any{map[string]any{"type": "Available", "status": "True"}}},
		}
	}
	if hasCondition(object(1, 2), "available", "true") || !hasCondition(object(2, 2), "available", "true") {
		t.Error("an older observation counts, or the newest does not")
	}
}

func TestANumberIsComparedAsItIsWritten(t *testing.T) {
	w := waiting{forWhat: "jsonpath={.n}=1000000"}
	if err := w.parse(); err != nil {
		t.Fatal(err)
	}
	for v, want := range map[any]bool{1000000.0: true, 1e7: false, "1000000": true} {
		if ok, err := w.met(map[string]any{"n": v}); ok != want || err != nil {
			t.Errorf("%v: %v, %v", v, ok, err)
		}
	}
}

func TestWhatGoesWhileItsConditionIsWaitedForIsAFailure(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	stdout, stderr, stop := s.background("wait", "--for=condition=Ready", "pod/web2", "pod/web", "--timeout=20s")
	defer stop()
	for stderr.String() == "" {
		f.setPod(webPod("web2", "n2", false))
		eventually(t, stdout, "")
		f.mu.Lock()
		delete(f.pods, "default/web2")
		f.changedLocked()
		f.mu.Unlock()
		if strings.Contains(stderr.String(), "not found") {
			return // it had gone before the watch began
		}
	}
	eventually(t, stderr, `^pod/web2 was deleted meanwhile`)
}
