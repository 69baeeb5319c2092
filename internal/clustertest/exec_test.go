package clustertest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// command is "muster exec" in a pod.
func (c *Cluster) command(ctx context.Context, pod string, flags []string, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.bin, append(append([]string{"exec", pod}, flags...), append([]string{"--"}, argv...)...)...)
	cmd.Env = append(os.Environ(), "MUSTER_CONFIG="+filepath.Join(c.dataDir("coordinator"), "client.yaml"))
	return cmd
}

func TestCommandsRunInContainersOnTheCallersStreams(t *testing.T) {
	t.Parallel()
	c := Start(t, 1)
	c.Apply(`apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: first, command: [sleep, "1000000"]}
  - {name: second, command: [sleep, "1000000"]}
`)
	c.Eventually(20*time.Second, "it runs", func() bool { p := c.Pod("web"); return p.Ready() })

	var out, errs bytes.Buffer
	cmd := c.command(t.Context(), "web", nil, "sh", "-c", "echo out; echo err >&2; exit 7")
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 7 || out.String() != "out\n" {
		t.Errorf("%v, %q, %q; want the command's own exit code and output", err, out.String(), errs.String())
	}
	if want := "runs in container first: -c chooses another\nerr\n"; errs.String() != want {
		t.Errorf("stderr %q, want %q", errs.String(), want)
	}

	text := bytes.Repeat([]byte("0123456789abcdef"), 500_000) // 8 MB
	cmd = c.command(t.Context(), "pod/web", []string{"-c", "first", "-i"}, "cat")
	cmd.Stdin = bytes.NewReader(text)
	if back, err := cmd.Output(); err != nil || !bytes.Equal(back, text) {
		t.Errorf("%d bytes came back of %d, %v", len(back), len(text), err)
	}

	// Whoever goes takes along what was started.
	const mark = "4242.75"
	ctx, cancel := context.WithCancel(t.Context())
	cmd = c.command(ctx, "web", []string{"-c", "first"}, "sh", "-c", "setsid sleep "+mark+" & sleep "+mark)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sleeps := func() int {
		return len(c.find(func(argv []string) bool { return len(argv) == 2 && argv[0] == "sleep" && argv[1] == mark }))
	}
	c.Eventually(10*time.Second, "both sleeps run", func() bool { return sleeps() == 2 })
	cancel() // SIGKILL
	_ = cmd.Wait()
	c.Eventually(10*time.Second, "both sleeps have ended", func() bool { return sleeps() == 0 })

	for _, x := range []struct {
		flags []string
		argv  string
		code  int
		says  string
	}{
		{[]string{"-c", "first"}, "no-such-program", 126, "executable file not found"},
		{[]string{"-c", "none"}, "ls", 1, `no container "none"`},
	} {
		out, err := c.command(t.Context(), "web", x.flags, x.argv).CombinedOutput()
		if !errors.As(err, &exit) || exit.ExitCode() != x.code || !strings.Contains(string(out), x.says) {
			t.Errorf("%s %v: %v, %q; want %d and %q", x.argv, x.flags, err, out, x.code, x.says)
		}
	}
}
