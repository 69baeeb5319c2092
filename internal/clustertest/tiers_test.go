package clustertest

import (
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// sample builds the program of the examples where pods see it: they have a /tmp of their own. MUSTER_SAMPLE names one that is built.
func sample(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("MUSTER_SAMPLE"); path != "" {
		return path
	}
	dir, err := os.MkdirTemp("/var/tmp", "muster-sample-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "sample")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "github.com/musterhq/muster/deploy/examples/sample").CombinedOutput(); err != nil {
		t.Fatalf("build the sample: %v\n%s", err, out)
	}
	return path
}

// names asks a node's agent for a name's addresses.
func (c *Cluster) names(pod, name string) []string {
	c.t.Helper()
	at, err := c.command(c.t.Context(), pod, nil, "printenv", "MUSTER_DNS").Output()
	if err != nil {
		c.t.Fatalf("where names are answered: %v", err)
	}
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, strings.TrimSpace(string(at)))
	}}
	found, err := r.LookupHost(c.t.Context(), name)
	if err != nil {
		c.t.Logf("%s: %v", name, err)
	}
	return found
}

func TestTheFrontEndAnswersWhilePodsOfTheBackEndGo(t *testing.T) {
	c := Start(t, 2)
	text, err := os.ReadFile(filepath.Join(cmp.Or(os.Getenv("MUSTER_EXAMPLES"), "../../deploy/examples"), "two-tier.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	manifest := strings.ReplaceAll(string(text), "[sample, ", "["+sample(t)+", ")
	if n := strings.Count(manifest, "/sample, "); n != 2 {
		t.Fatalf("the example starts %d samples", n)
	}
	c.Apply(manifest)
	ready := func(selector string) (pods []Pod) {
		return slices.DeleteFunc(c.Pods(selector), func(p Pod) bool { return !p.Ready() })
	}
	c.Eventually(60*time.Second, "both tiers are ready", func() bool { return len(ready("app=back")) == 3 && len(ready("app=front")) == 2 })

	front := ready("app=front")[0]
	url := "http://" + net.JoinHostPort(front.Status.PodIP, "8091") + "/"
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var asked, failed atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		client := &http.Client{Timeout: 5 * time.Second}
		for ctx.Err() == nil {
			resp, err := client.Get(url)
			if err == nil {
				var said []byte
				said, err = io.ReadAll(resp.Body)
				resp.Body.Close()
				if err == nil && (resp.StatusCode != http.StatusOK || !strings.Contains(string(said), "hello from back-")) {
					t.Errorf("the front end answers %s: %s", resp.Status, said)
					failed.Add(1)
				}
			}
			if err != nil && ctx.Err() == nil {
				t.Errorf("the front end does not answer: %v", err)
				failed.Add(1)
			}
			asked.Add(1)
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	c.Eventually(10*time.Second, "the loop runs", func() bool { return asked.Load() > 100 })

	gone := func(how, ip string, since time.Time) {
		t.Helper()
		for slices.Contains(c.names(front.Metadata.Name, "back.default.svc.cluster.local."), ip) {
			if time.Since(since) > 10*time.Second {
				t.Fatalf("%s: its address %s is still named", how, ip)
			}
		}
		t.Logf("%s: named no more within %v; %d requests so far, %d failed", how, time.Since(since).Round(time.Millisecond), asked.Load(), failed.Load())
	}
	victim := ready("app=back")[0]
	begun := time.Now()
	c.Muster("delete", "pod", victim.Metadata.Name, "--wait=false")
	gone("deleted", victim.Status.PodIP, begun)
	c.Eventually(30*time.Second, "three are ready again", func() bool { return len(ready("app=back")) == 3 })

	// Every process of the back end that one of its pods is, killed by the kernel.
	victim = ready("app=back")[0]
	pids := c.find(func(argv []string) bool {
		return len(argv) == 2 && argv[1] == "back" && strings.HasSuffix(argv[0], "/sample")
	})
	begun = time.Now()
	for _, pid := range pids {
		if environ, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ"); strings.Contains(string(environ), "POD_NAME="+victim.Metadata.Name+"\x00") {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.Eventually(10*time.Second, "it was started again", func() bool { p := c.Pod(victim.Metadata.Name); return p.Restarts() > 0 })
	c.Eventually(30*time.Second, "three are ready again", func() bool { return len(ready("app=back")) == 3 })
	t.Logf("killed: started again and ready after %v; %d requests so far, %d failed", time.Since(begun).Round(time.Millisecond), asked.Load(), failed.Load())

	c.Eventually(20*time.Second, "the loop goes on", func() bool { return asked.Load() > 300 })

	// Without any back end the front end is not ready, but nobody starts it again.
	stop()
	<-done
	restarts := func() int { p := c.Pod(front.Metadata.Name); return p.Restarts() }
	before := restarts()
	c.Muster("delete", "deployment", "back")
	c.Eventually(20*time.Second, "the front end is not ready", func() bool { return len(ready("app=front")) == 0 })
	c.Throughout(6*time.Second, "the front end runs on", func() bool { return restarts() == before })
	t.Logf("%d requests, of which %d failed", asked.Load(), failed.Load())
}
