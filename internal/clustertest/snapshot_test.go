package clustertest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// sleeping are the processes of containers that sleep for so long.
func (c *Cluster) sleeping(seconds string) []int {
	pids := c.find(func(argv []string) bool {
		return len(argv) == 2 && filepath.Base(argv[0]) == "sleep" && argv[1] == seconds
	})
	slices.Sort(pids)
	return pids
}

// restore makes a new data directory of a snapshot in the place of the coordinator's, which has ended.
func (c *Cluster) restore(file string) {
	c.t.Helper()
	old, dir := c.dataDir("coordinator")+"-old", c.dataDir("coordinator")
	if err := os.Rename(dir, old); err != nil {
		c.t.Fatal(err)
	}
	c.Muster("snapshot", "restore", file, "--data-dir", dir, "--secrets-key", filepath.Join(old, "secrets.key"))
}

func TestAfterARestoreContainersRunOnAndEpochsOnlyRise(t *testing.T) {
	Binary(t)
	t.Parallel()
	c := Start(t, 2, WithLease(10*time.Second, 5*time.Second))
	kept, moved := c.NewWriters("kept"), c.NewWriters("moved")
	fast, later := fmt.Sprint("7", os.Getpid(), "1"), fmt.Sprint("7", os.Getpid(), "2") // by which this test's sleepers are known on the machine
	c.Apply(strings.ReplaceAll(sleepers("fast", 3), "1000000", fast))
	c.Apply(kept.Manifest("kept"))
	c.Apply(moved.Manifest("moved"))
	c.Apply(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"stringData":{"a":"b"}}`)
	c.Eventually(30*time.Second, "the pods run", func() bool {
		return c.running("app=fast", 3) && len(c.epochs(kept)) == 1 && len(c.epochs(moved)) == 1
	})
	file := filepath.Join(c.Dir, "a.snapshot")
	c.Muster("snapshot", "save", file)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v", info.Mode(), err)
	}
	if _, err := c.Try("snapshot", "save", file); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("a second save to the same file: %v", err)
	}
	if out := c.Muster("snapshot", "verify", file); !strings.Contains(out, "pods:") || !strings.Contains(out, "whole") {
		t.Errorf("verify says %q", out)
	}

	// What comes later is not in it: a move, a new pod, a deletion.
	c.Muster("move", "moved")
	c.Apply(strings.ReplaceAll(sleepers("later", 1), "1000000", later))
	c.Eventually(30*time.Second, "the later changes are there", func() bool {
		return len(c.epochs(moved)) == 2 && c.running("app=later", 1)
	})
	c.Muster("delete", "secret", "s")
	before := c.sleeping(fast)

	// Killed, so that only the lease of 10 s keeps what is fenced.
	p := c.Process("coordinator")
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.Wait(t, 5*time.Second)
	c.restore(file)
	c.StartCoordinator()
	c.Eventually(30*time.Second, "the nodes are back", func() bool { return len(c.ReadyNodes()) == 2 })
	if out := c.Muster("status"); !strings.Contains(out, "restored from a snapshot") {
		t.Errorf("status says nothing of the restore: %s", out)
	}
	if out := c.Muster("get", "secret", "s", "-o", "jsonpath={.data.a}"); out != "Yg==" {
		t.Errorf("the secret is %q", out)
	}
	if len(c.Pods("app=later")) != 0 {
		t.Error("a pod from after the snapshot is still there")
	}
	c.Eventually(10*time.Second, "what is not in the snapshot stops", func() bool { return len(c.sleeping(later)) == 0 })
	unharmed := func() bool {
		now, epochs := c.sleeping(fast), c.epochs(kept)
		ok := slices.Equal(now, before) && len(before) == 3 && len(epochs) == 1
		if !ok {
			t.Logf("sleepers %v, were %v; epochs of the fenced pod: %v", now, before, epochs)
		}
		return ok
	}
	// Longer than the lease: it is acknowledged again.
	c.Throughout(20*time.Second, "what was in the snapshot and is held runs on", unharmed)
	written := writtenNow(t, kept)
	c.Throughout(time.Second, "what was in the snapshot and is held runs on", unharmed)
	if writtenNow(t, kept) == written {
		t.Error("the fenced pod does not write any more")
	}

	if rounds(t) < 20 {
		return // the rest takes more than two minutes
	}
	// What has moved meanwhile waits until all leases of before are over, and comes back above every epoch of before.
	c.Eventually(180*time.Second, "what has moved runs again", func() bool { return len(c.epochs(moved)) == 3 })
	if !unharmed() {
		t.Error("what was in the snapshot and is held has not run on")
	}
	c.Eventually(10*time.Second, "status says nothing of the restore any more", func() bool {
		return !strings.Contains(c.Muster("status"), "restored from a snapshot")
	})
}

// epochs are those that have written, of which there was never more than one at a time.
func (c *Cluster) epochs(w *Writers) []int64 {
	c.t.Helper()
	epochs, err := w.Epochs()
	if err != nil {
		c.t.Fatal(err)
	}
	return epochs
}

func writtenNow(t *testing.T, w *Writers) int64 {
	t.Helper()
	info, err := os.Stat(w.path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
