package clustertest

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// badLiveness is the example of a front end whose liveness asks the back end, with shorter times, and beside it the same
// front end without a guard.
func badLiveness(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(cmp.Or(os.Getenv("MUSTER_EXAMPLES"), "../../deploy/examples"), "two-tier-bad-liveness.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	replace := func(in, old, with string) string {
		if strings.Count(in, old) == 0 {
			t.Fatalf("the example has no %q", old)
		}
		return strings.ReplaceAll(in, old, with)
	}
	manifest := replace(string(text), "[sample, ", "["+sample(t)+", ")
	manifest = replace(manifest, "periodSeconds: 2", "periodSeconds: 1")
	manifest = replace(manifest, "terminationGracePeriodSeconds: 5", "terminationGracePeriodSeconds: 2")
	const set = "muster.dev/restart-guard: share=50% window=60s min=3 release-after=10m"
	documents := strings.Split(manifest, "\n---\n")
	front := documents[len(documents)-1]
	documents[len(documents)-1] = replace(front, set, "muster.dev/restart-guard: window=6s")
	off := replace(front, set, `muster.dev/restart-guard: "off"`)
	off = replace(off, "app: front", "app: unguarded")
	off = replace(off, "name: front\n  labels", "name: unguarded\n  labels")
	return strings.Join(append(documents, replace(off, "replicas: 6", "replicas: 3")), "\n---\n")
}

func TestABackEndThatStopsRestartsNoMoreThanHalfOfAFrontEndWhoseLivenessAsksIt(t *testing.T) {
	c := Start(t, 3)
	c.Apply(badLiveness(t))
	count := func(selector string, which func(*Pod) bool) (n int) {
		for _, p := range c.Pods(selector) {
			if which(&p) {
				n++
			}
		}
		return n
	}
	ready := func(p *Pod) bool { return p.Ready() }
	restarted := func(p *Pod) bool { return p.Restarts() > 0 }
	ever := map[string]bool{}
	atMostHalf := func() bool {
		for _, p := range c.Pods("app=front") {
			if p.Restarts() > 0 {
				ever[p.Metadata.Name] = true
			}
		}
		return len(ever) <= 3
	}
	c.Eventually(60*time.Second, "all are ready", func() bool {
		return count("app=front", ready) == 6 && count("app=unguarded", ready) == 3 && count("app=back", ready) == 3
	})

	c.Muster("scale", "deployment/back", "--replicas=0")
	c.Eventually(30*time.Second, "restarts are held", func() bool {
		return atMostHalf() && strings.Contains(c.Muster("get", "deployment", "front", "-o", "wide"), "holding")
	})
	c.Eventually(30*time.Second, "without a guard all are restarted", func() bool {
		return atMostHalf() && count("app=unguarded", restarted) == 3
	})
	c.Throughout(5*time.Second, "no more than half are ever restarted", atMostHalf)
	// A coordinator that knows nothing hears from the agents what is held.
	if err := c.Process("coordinator").Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.Process("coordinator").Wait(t, 10*time.Second)
	c.StartCoordinator()
	c.Eventually(30*time.Second, "a new coordinator holds restarts", func() bool {
		said, err := c.Try("get", "events")
		return atMostHalf() && err == nil && strings.Contains(said, "RestartsHeld") && strings.Contains(c.Muster("get", "deployment", "front", "-o", "wide"), "holding")
	})
	c.Throughout(7*time.Second, "no more than half are ever restarted", atMostHalf)
	if len(ever) == 0 {
		t.Error("none was restarted: a few that fail are not held")
	}
	if n := count("app=front", ready); n != 0 {
		t.Errorf("%d front ends are ready without a back end", n)
	}
	if said := c.Muster("get", "events"); !strings.Contains(said, "RestartsHeld") || !strings.Contains(said, "RestartHeld") {
		t.Errorf("no event says that restarts are held:\n%s", said)
	}
	if said := c.Muster("describe", "deployment/front"); !strings.Contains(said, "RestartsHeld") {
		t.Errorf("no condition says that restarts are held:\n%s", said)
	}

	c.Muster("scale", "deployment/back", "--replicas=3")
	c.Eventually(60*time.Second, "all recover", func() bool { return atMostHalf() && count("app=front", ready) == 6 })
	c.Eventually(30*time.Second, "restarts are free again", func() bool {
		return !strings.Contains(c.Muster("get", "deployment", "front", "-o", "wide"), "holding")
	})
	if !atMostHalf() {
		t.Errorf("%d of 6 front ends were restarted", len(ever))
	}
	if said := c.Muster("get", "events"); !strings.Contains(said, "RestartsReleased") {
		t.Errorf("no event says that restarts are free again:\n%s", said)
	}
	t.Logf("%d of 6 front ends were restarted", len(ever))
}
