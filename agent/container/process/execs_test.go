package process_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/container"
)

// marked are the processes of a pod, dead ones that nobody has reaped included.
func marked(t *testing.T, uid string) (living, zombies []string) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		env, _ := os.ReadFile(d + "/environ")
		if bytes.Contains(env, []byte("MUSTER_POD_UID="+uid)) {
			cmd, _ := os.ReadFile(d + "/cmdline")
			living = append(living, string(bytes.ReplaceAll(cmd, []byte{0}, []byte{' '})))
			continue
		}
		// A zombie has no environment any more: its parent has.
		stat, _ := os.ReadFile(d + "/stat")
		_, rest, _ := strings.Cut(string(stat), ") ")
		if f := strings.Fields(rest); len(f) > 1 && f[0] == "Z" {
			if env, _ := os.ReadFile("/proc/" + f[1] + "/environ"); bytes.Contains(env, []byte("MUSTER_POD_UID="+uid)) {
				zombies = append(zombies, string(stat))
			}
		}
	}
	return living, zombies
}

func TestExecsOfEveryKindLeaveNoZombieAndNoOrphan(t *testing.T) {
	execs, atOnce := 2_000, 16
	if os.Getenv("MUSTER_ROUNDS") == "20" {
		execs = 10_000
	}
	if testing.Short() {
		execs = 500
	}
	b := newBench(t)
	main := b.sh("exec sleep 1000000", func(c *container.ContainerConfig) {
		c.Env = append(c.Env, "MUSTER_POD_UID="+b.ref.UID)
	})
	living := func() int { n, _ := marked(t, b.ref.UID); return len(n) }
	// While a process is between two programs its environment reads as empty: it would not be counted.
	b.until("the container's own program runs", func() bool {
		n, _ := marked(t, b.ref.UID)
		return slices.Contains(n, "sleep 1000000 ")
	})
	before := living()
	ctx := t.Context()
	kinds := []struct {
		argv    []string
		timeout time.Duration
		code    int32
		err     error
	}{
		{argv: []string{"true"}},
		{argv: []string{"false"}, code: 1},
		{argv: []string{"true"}},
		{argv: []string{"sh", "-c", "exit 3"}, code: 3},
		{argv: []string{"sh", "-c", "kill -9 $$"}, code: 137},
		{argv: []string{"true"}},
		{argv: []string{"sh", "-c", "sleep 1 & sleep 1 & exit 0"}},  // children that hold the pipes
		{argv: []string{"sh", "-c", "(setsid sleep 1 &) & exit 0"}}, // a daemon
		{argv: []string{"sh", "-c", "setsid sh -c 'sleep 100' & sleep 100"}, timeout: 30 * time.Millisecond, err: container.ErrTimeout},
		{argv: []string{"no-such-command"}, err: container.ErrCannotStart},
	}
	var wg sync.WaitGroup
	start := time.Now()
	for w := range atOnce {
		wg.Go(func() {
			for i := w; i < execs; i += atOnce {
				k := kinds[i%len(kinds)]
				timeout := k.timeout
				if timeout == 0 {
					timeout = 30 * time.Second
				}
				res, err := b.Exec(ctx, main.ID, container.ExecConfig{Argv: k.argv, Timeout: timeout})
				if !errors.Is(err, k.err) || err == nil && res.ExitCode != k.code {
					t.Errorf("%q: %+v, %v; want exit code %d, %v", k.argv, res, err, k.code, k.err)
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d execs took %v", execs, time.Since(start).Round(time.Millisecond))
	b.until("what the commands left to themselves has ended, and nothing is left", func() bool {
		_, zombies := marked(t, b.ref.UID)
		return len(zombies) == 0 && living() == before
	})
	if _, err := b.Exec(ctx, main.ID, container.ExecConfig{Argv: []string{"true"}, Timeout: time.Minute}); err != nil {
		t.Errorf("after all that: %v", err)
	}
	if err := b.RemovePod(ctx, b.ref); err != nil {
		t.Fatal(err)
	}
	if all, zombies := marked(t, b.ref.UID); len(all)+len(zombies) > 0 {
		t.Errorf("after the pod is gone there is left: %q %q", all, zombies)
	}
}
