package clustertest

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/coordinator/store/etcd/etcdtest"
)

// containers are the ids of the containers of the pods that match.
func (c *Cluster) containers(selector string) (ids []string) {
	c.t.Helper()
	var list struct {
		Items []struct {
			Status struct {
				ContainerStatuses []struct{ ContainerID string }
			}
		}
	}
	if err := c.JSON(&list, "get", "pods", "-l", selector); err != nil {
		c.t.Fatal(err)
	}
	for _, p := range list.Items {
		for _, s := range p.Status.ContainerStatuses {
			ids = append(ids, s.ContainerID)
		}
	}
	slices.Sort(ids)
	return ids
}

func TestOnAnEtcdOfOnesOwnOneCoordinatorServesAndTheNextTakesOver(t *testing.T) {
	Binary(t) // or it is skipped before anything is started
	t.Parallel()
	db := etcdtest.Start(t, etcdtest.Config{TLS: true})
	c := Start(t, 2, WithCoordinator("--etcd-endpoints", db.URL, "--etcd-ca", db.CA, "--etcd-cert", db.Cert, "--etcd-key", db.Key))
	c.Apply(sleepers("kept", 4))
	c.Eventually(30*time.Second, "the pods are ready", func() bool { return c.running("app=kept", 4) })
	before := c.containers("app=kept")
	first := c.Process("coordinator")
	file := filepath.Join(c.Dir, "a.snapshot")
	c.Muster("snapshot", "save", file)
	if out := c.Muster("snapshot", "verify", file, "-o", "jsonpath={.kinds.pods}"); out != "4" {
		t.Errorf("the snapshot has %q pods, want 4", out)
	}
	if _, err := os.Stat(filepath.Join(c.dataDir("coordinator"), "etcd")); err == nil {
		t.Error("there is an embedded store as well")
	}

	// Gone for a while: nothing ends, and all goes on by itself.
	db.Kill()
	time.Sleep(4 * time.Second)
	if first.exited() {
		t.Fatalf("the coordinator has ended:\n%s", tail(first.Log))
	}
	db.Restart()
	c.Apply(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"later"},"data":{"a":"b"}}`)
	if after := c.containers("app=kept"); !slices.Equal(before, after) {
		t.Errorf("containers %v, were %v", after, before)
	}

	// Standing still for longer than the coordinator may be sure of itself: it stops serving, and begins anew by itself.
	db.Stop()
	c.Eventually(30*time.Second, "the coordinator serves no more", func() bool {
		b, err := os.ReadFile(first.Log)
		return err == nil && bytes.Contains(b, []byte("the coordinator stops serving and starts anew"))
	})
	time.Sleep(2 * time.Second)
	db.Continue()
	c.Eventually(30*time.Second, "it serves again, and the nodes are with it", func() bool {
		_, err := c.Try("status")
		return err == nil && len(c.ReadyNodes()) == 2
	})
	if after := c.containers("app=kept"); !slices.Equal(before, after) || first.exited() {
		t.Errorf("containers %v, were %v; ended %v", after, before, first.exited())
	}

	// A second one waits, and takes nobody's place.
	key, err := os.ReadFile(filepath.Join(c.dataDir("coordinator"), "secrets.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(c.dataDir("second"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.dataDir("second"), "secrets.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	second := c.startCoordinator("second", c.join)
	c.Eventually(10*time.Second, "the second says for what it waits", func() bool {
		b, err := os.ReadFile(second.Log)
		return err == nil && bytes.Contains(b, []byte("another coordinator serves on this store"))
	})
	c.Muster("status")
	if second.exited() || len(c.ReadyNodes()) != 2 {
		t.Fatalf("the second has ended: %v, ready nodes %v", second.exited(), c.ReadyNodes())
	}

	// The first one's machine dies.
	if err := first.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	died := time.Now()
	c.Eventually(75*time.Second, "the second serves, and the nodes are with it", func() bool {
		out, err := c.Try("get", "nodes", "-o", "name")
		return err == nil && out != "" && len(c.ReadyNodes()) == 2
	})
	t.Logf("the second serves %v after the end of the first", time.Since(died).Round(time.Second))
	if after := c.containers("app=kept"); !slices.Equal(before, after) {
		t.Errorf("containers %v, were %v", after, before)
	}
}
