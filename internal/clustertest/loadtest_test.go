package clustertest

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/loadtest"
)

// loadtestFailover is the command, with a directory for what it keeps.
func loadtestFailover(t *testing.T, flags ...string) (cmd *exec.Cmd, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "muster-test-") // pods have a /tmp of their own
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(Binary(t), append([]string{"loadtest", "failover", "-o", "json"}, flags...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	return cmd, dir
}

// leftOf are the processes that have dir in their command line.
func leftOf(t *testing.T, dir string) (left []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if b, err := os.ReadFile(p); err == nil && bytes.Contains(b, []byte(dir)) {
			left = append(left, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return left
}

func TestAFailoverTestMeasuresMovesOffAKilledNodeAndLeavesNothing(t *testing.T) {
	cmd, dir := loadtestFailover(t, "--rounds", "1", "--kinds", "kill")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	var r loadtest.FailoverResult
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Losses) != 1 || len(r.Losses[0].Moves) == 0 || r.Doubled != 0 || r.Interrupted {
		t.Fatalf("implausible: %s", out)
	}
	for _, m := range r.Losses[0].Moves {
		// A fenced pod leaves when its lease of 5 s is over, counted from a renewal in the second before.
		if m.To == r.Losses[0].Node || m.Bound <= 0 || m.Started < m.Bound || m.Ready < m.Bound || m.Class == loadtest.ClassFenced && m.Bound < 3500 {
			t.Errorf("implausible move: %+v", m)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if left := leftOf(t, dir); len(left) != 0 {
		t.Errorf("still run: %v", left)
	}
}

func TestAFailoverTestThatIsKilledLeavesNothing(t *testing.T) {
	cmd, dir := loadtestFailover(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	limit := time.Now().Add(30 * time.Second)
	pods := func() bool {
		found, _ := filepath.Glob(filepath.Join(dir, "muster-loadtest-*", "writers", "*"))
		return len(found) > 0
	}
	for !pods() && time.Now().Before(limit) {
		time.Sleep(20 * time.Millisecond)
	}
	ran := pods()
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if !ran {
		t.Fatal("no pod has run")
	}
	for limit = time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		left := leftOf(t, dir)
		if len(files) == 0 && len(left) == 0 {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("left behind: %v, %v", files, left)
		}
	}
}
