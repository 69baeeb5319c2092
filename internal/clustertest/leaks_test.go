package clustertest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// left is what is there of the cluster's pods though no pod should be: processes, mounts, control groups, directories.
func (c *Cluster) left(uids []string) (all []string) {
	c.t.Helper()
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		env, err := os.ReadFile(d + "/environ")
		if err == nil && bytes.Contains(env, []byte("MUSTER_POD_DIR="+c.Dir+"/")) {
			cmd, _ := os.ReadFile(d + "/cmdline")
			all = append(all, fmt.Sprintf("process %s: %q", filepath.Base(d), cmd))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, c.Dir) {
			all = append(all, "mount "+strings.TrimSpace(line))
		}
	}
	for _, uid := range uids {
		for _, root := range []string{"/sys/fs/cgroup/*/muster/*/", "/sys/fs/cgroup/muster/*/"} {
			found, _ := filepath.Glob(root + uid + "-*")
			all = append(all, found...)
		}
	}
	for _, pattern := range []string{c.Dir + "/node-*/pods/*", c.Dir + "/node-*/state/pods/*"} {
		found, _ := filepath.Glob(pattern)
		all = append(all, found...)
	}
	return all
}

// mustLeaveNothing deletes every pod and waits until nothing is left of them.
func (c *Cluster) mustLeaveNothing() {
	c.t.Helper()
	var uids []string
	for _, p := range c.Pods("") {
		uids = append(uids, p.Metadata.UID)
	}
	c.Muster("delete", "deployments", "--all")
	c.Muster("delete", "pods", "--all", "--grace-period", "0")
	var left []string
	for range 100 {
		if left = c.left(uids); len(left) == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	c.t.Errorf("10 s after the last pod is gone there is left:\n%s", strings.Join(left, "\n"))
}

// locked is a pod that notes it in the file when another instance of it lives: an instance holds a lock as long as any of
// its processes lives, and takes it at once.
func locked(name, dir string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %[1]s
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    command: [sh, -c]
    args:
    - |
      exec 9>%[2]s/%[1]s.lock
      flock -n 9 || echo %[1]s $MUSTER_EPOCH >> %[2]s/doubled
      (setsid sleep 1000000 &) &
      exec sleep 1000000
    livenessProbe:
      exec: {command: [sh, -c, "(setsid sleep 3 &) & exit 0"]}
      periodSeconds: 1
    volumeMounts:
    - {name: shared, mountPath: %[2]s}
  volumes:
  - name: shared
    hostPath: {path: %[2]s, type: Directory}
`, name, dir)
}

func TestWhateverIsKilledNothingIsDoubledAndNothingIsLeft(t *testing.T) {
	const pods = 8
	length := 10 * time.Second
	if rounds(t) >= 20 {
		length = 5 * time.Minute
	}
	c := Start(t, 2)
	dir := filepath.Dir(c.NewWriters("doubled").path)
	for i := range pods {
		c.Apply(locked("locked-"+strconv.Itoa(i), dir))
	}
	c.Eventually(30*time.Second, "the pods run", func() bool { return c.running("", pods) })
	kill := func(pid int) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			t.Fatal(err)
		}
	}
	var killed [3]int
	for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond) {
		node := []string{"node-1", "node-2"}[rand.IntN(2)]
		what := rand.IntN(len(killed))
		switch what {
		case 0:
			p := c.Process(node)
			kill(p.Pid())
			p.Wait(t, 10*time.Second)
			c.StartAgent(node)
		case 1:
			if guard := c.Guard(node); guard != 0 {
				kill(guard)
			}
		case 2:
			if all := c.Supervisors(node); len(all) > 0 {
				kill(all[rand.IntN(len(all))])
			}
		}
		killed[what]++
	}
	t.Logf("killed in %v: %d agents, %d guards, %d supervisors", length, killed[0], killed[1], killed[2])
	c.Eventually(time.Minute, "all nodes are Ready and the pods run", func() bool {
		return len(c.ReadyNodes()) == 2 && len(c.Pods("")) == pods && c.allRunning()
	})
	if b, err := os.ReadFile(filepath.Join(dir, "doubled")); err == nil {
		t.Errorf("two instances at a time:\n%s", b)
	}
	c.mustLeaveNothing()
}

// allRunning tells whether every pod's containers run; after many deaths they may still wait for their next start.
func (c *Cluster) allRunning() bool {
	for _, p := range c.Pods("") {
		if p.Status.Phase != "Running" {
			return false
		}
	}
	return true
}

func TestPodsThatComeAndGoLeaveNothing(t *testing.T) {
	const pods = 200
	times := 1
	if rounds(t) >= 20 {
		times = 10
	}
	c := Start(t, 2)
	for i := range times {
		c.Apply(strings.Replace(sleepers("many", pods), "periodSeconds: 1", "periodSeconds: 5", 1)) // 200 commands a second are more than some machines can
		up := c.Eventually(2*time.Minute, "the pods run", func() bool { return c.running("app=many", pods) })
		start := time.Now()
		c.mustLeaveNothing()
		t.Logf("round %d: %d pods ready after %v, gone after %v", i+1, pods, up.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
	}
}
