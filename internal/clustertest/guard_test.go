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

// badLiveness is the back end of the one example and the front end of the other, whose liveness asks it, with shorter times; and
// beside that the same front end without a guard.
func badLiveness(t *testing.T) string {
	t.Helper()
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(cmp.Or(os.Getenv("MUSTER_EXAMPLES"), "../../deploy/examples"), name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	replace := func(in, old, with string) string {
		if !strings.Contains(in, old) {
			t.Fatalf("the example has no %q", old)
		}
		return strings.ReplaceAll(in, old, with)
	}
	const set = "share=50% window=60s min=3 release-after=10m"
	back, _, _ := strings.Cut(read("two-tier.yaml"), "\n---\napiVersion: v1\nkind: Service\nmetadata:\n  name: front\n")
	front := replace(read("two-tier-bad-liveness.yaml"), "periodSeconds: 2", "periodSeconds: 1")
	off := replace(replace(front, set, `"off"`), "front-bad-liveness", "unguarded")
	all := strings.Join([]string{back, replace(front, set, "window=6s"), off}, "\n---\n")
	all = replace(all, "terminationGracePeriodSeconds: 5", "terminationGracePeriodSeconds: 2")
	return replace(all, "[sample, ", "["+sample(t)+", ")
}

func TestABackEndThatStopsRestartsNoMoreThanHalfOfAFrontEndWhoseLivenessAsksIt(t *testing.T) {
	t.Parallel()
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
		for _, p := range c.Pods("app=front-bad-liveness") {
			if p.Restarts() > 0 {
				ever[p.Metadata.Name] = true
			}
		}
		return len(ever) <= 2
	}
	c.Eventually(60*time.Second, "all are ready", func() bool {
		return count("app=front-bad-liveness", ready) == 4 && count("app=unguarded", ready) == 4 && count("app=back", ready) == 3
	})

	c.Muster("scale", "deployment/back", "--replicas=0")
	c.Eventually(30*time.Second, "restarts are held", func() bool {
		return atMostHalf() && strings.Contains(c.Muster("get", "deployment", "front-bad-liveness", "-o", "wide"), "holding")
	})
	c.Eventually(30*time.Second, "without a guard all are restarted", func() bool {
		return atMostHalf() && count("app=unguarded", restarted) == 4
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
		return atMostHalf() && err == nil && strings.Contains(said, "RestartsHeld") && strings.Contains(c.Muster("get", "deployment", "front-bad-liveness", "-o", "wide"), "holding")
	})
	c.Throughout(7*time.Second, "no more than half are ever restarted", atMostHalf)
	if n := count("app=front-bad-liveness", ready); n != 0 {
		t.Errorf("%d front ends are ready without a back end", n)
	}
	if said := c.Muster("get", "events"); !strings.Contains(said, "RestartsHeld") || !strings.Contains(said, "RestartHeld") {
		t.Errorf("no event says that restarts are held:\n%s", said)
	}
	if said := c.Muster("describe", "deployment/front-bad-liveness"); !strings.Contains(said, "RestartsHeld") {
		t.Errorf("no condition says that restarts are held:\n%s", said)
	}

	c.Muster("scale", "deployment/back", "--replicas=3")
	c.Eventually(60*time.Second, "all recover", func() bool { return atMostHalf() && count("app=front-bad-liveness", ready) == 4 })
	c.Eventually(30*time.Second, "restarts are free again", func() bool {
		return !strings.Contains(c.Muster("get", "deployment", "front-bad-liveness", "-o", "wide"), "holding")
	})
	if !atMostHalf() {
		t.Errorf("%d of 4 front ends were restarted", len(ever))
	}
	if said := c.Muster("get", "events"); !strings.Contains(said, "RestartsReleased") {
		t.Errorf("no event says that restarts are free again:\n%s", said)
	}
	// None is right, too: an allowance goes to the pod that asks first, and may be on its way when the third asks.
	t.Logf("%d of 4 front ends were restarted", len(ever))
}
