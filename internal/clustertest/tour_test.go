package clustertest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tour is a user who follows the README, in a shell of their own.
type tour struct {
	t    *testing.T
	root string
	env  []string
	dev  *exec.Cmd
	out  bytes.Buffer
}

// lines are the commands of the README's tour, without their comments.
func (u *tour) lines() (all []string) {
	text, err := os.ReadFile(filepath.Join(u.root, "README.md"))
	if err != nil {
		u.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n## A tour\n")
	_, rest, ok := strings.Cut(rest, "\n```\n")
	block, _, ok2 := strings.Cut(rest, "\n```\n")
	if !ok || !ok2 {
		u.t.Fatal("the README has no tour")
	}
	for line := range strings.Lines(block) {
		command, _, _ := strings.Cut(line, " #")
		all = append(all, strings.TrimSpace(command))
	}
	return all
}

// run runs a line to its end, which must be a good one.
func (u *tour) run(line string) string {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	cmd.Dir, cmd.Env = u.root, u.env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	if err := cmd.Run(); err != nil {
		u.t.Fatalf("$ %s\n%s%s%v", line, &stdout, &stderr, err)
	}
	u.t.Logf("$ %s (%v)", line, time.Since(began).Round(time.Millisecond))
	return stdout.String()
}

// value is what a jsonpath finds, which must be something.
func (u *tour) value(template string, args ...string) string {
	u.t.Helper()
	found := strings.TrimSpace(u.run("muster get " + strings.Join(args, " ") + " -o jsonpath='" + template + "'"))
	if found == "" {
		u.t.Fatalf("%s of %q is empty", template, args)
	}
	return found
}

// startDev runs "muster dev" as in a terminal of its own.
func (u *tour) startDev(line string) {
	u.t.Helper()
	words := strings.Fields(line)
	cmd := exec.Command(filepath.Join(u.root, "bin", words[0]), words[1:]...)
	cmd.Dir, cmd.Env = u.root, u.env
	r, w, err := os.Pipe()
	if err != nil {
		u.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		u.t.Fatal(err)
	}
	w.Close()
	u.dev = cmd
	ready := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf, told := make([]byte, 32<<10), false
		for {
			n, err := r.Read(buf)
			u.out.Write(buf[:n])
			if !told && bytes.Contains(u.out.Bytes(), []byte("muster is ready")) {
				told = true
				close(ready)
			}
			if err != nil {
				return
			}
		}
	}()
	u.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT) // Ctrl-C
		stopped := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		if !stopped.Stop() || err != nil {
			u.t.Errorf("muster dev ends with %v", err)
		}
		<-ended
		r.Close()
		if u.t.Failed() {
			u.t.Logf("muster dev said:\n%s", u.out.Bytes()[max(0, u.out.Len()-6000):])
		}
	})
	select {
	case <-ready:
	case <-time.After(time.Minute):
		u.t.Fatal("muster dev is not ready")
	}
}

// forwards runs a port-forward, uses it, and ends it.
func (u *tour) forwards(line, port string) {
	u.t.Helper()
	cmd := exec.Command("sh", "-c", "exec "+line)
	cmd.Dir, cmd.Env = u.root, u.env
	if err := cmd.Start(); err != nil {
		u.t.Fatal(err)
	}
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		var r *http.Response
		if r, err = http.Get("http://127.0.0.1:" + port + "/"); err == nil {
			_, _ = io.Copy(io.Discard, r.Body)
			r.Body.Close()
			break
		}
	}
	if err != nil {
		u.t.Errorf("$ %s: %v", line, err)
	}
	_ = cmd.Process.Signal(syscall.SIGINT)
	_ = cmd.Wait()
	u.t.Logf("$ %s", line)
}

// root has the project's README and documents.
func root() string { return cmp.Or(os.Getenv("MUSTER_ROOT"), filepath.Join("..", "..")) }

func TestTheTourOfTheREADMEWorksAsItStandsThere(t *testing.T) {
	bin := Binary(t)
	t.Parallel()
	root := root()
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	// A clone of one's own, not below /tmp, with the programs that its first lines make.
	base := "/var/tmp"
	if dir := os.Getenv("HOME"); os.Geteuid() != 0 && dir != "" {
		base = dir
	}
	clone, err := os.MkdirTemp(base, "muster-tour-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(clone); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(clone, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.WriteFile(filepath.Join(clone, "README.md"), text, 0o600),
		os.CopyFS(filepath.Join(clone, "deploy/examples"), os.DirFS(filepath.Join(root, "deploy/examples"))),
		os.MkdirAll(filepath.Join(clone, "bin"), 0o755),
		os.MkdirAll(filepath.Join(clone, "home"), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, from := range map[string]string{"muster": bin, "sample": sample(t)} {
		program, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(clone, "bin", name), program, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	u := &tour{t: t, root: clone, env: []string{
		"PATH=" + filepath.Join(clone, "bin") + ":" + os.Getenv("PATH"), "HOME=" + filepath.Join(clone, "home"), "TMPDIR=" + os.TempDir(),
	}}
	lines := u.lines()
	if len(lines) < 15 || !strings.HasPrefix(lines[0], "make build") || !strings.HasPrefix(lines[1], "go build -o bin/sample") {
		t.Fatalf("the tour begins with %q", lines[:2])
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, free, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	killed := ""
	for _, line := range lines[2:] {
		switch {
		case line == "muster dev":
			u.startDev(line + " --ports free") // others run clusters here, too
			continue
		case strings.HasPrefix(line, "muster get pods"):
			u.run("muster rollout status deployment/web --timeout 60s") // nobody types so fast
		case strings.HasPrefix(line, "muster dev kill"):
			// "choose the one that runs single"
			killed = u.value("{.spec.nodeName}", "pod", "single")
			line = regexp.MustCompile(`node-[0-9]`).ReplaceAllString(line, killed)
		case strings.HasPrefix(line, "muster drain"):
			u.run("muster wait --for=condition=Ready pod/single --timeout 60s")
			for i := 1; killed != "" && strings.Contains(line, killed); i++ {
				line = regexp.MustCompile(`node-[0-9]`).ReplaceAllString(line, fmt.Sprintf("node-%d", i))
			}
			u.run(line)
			line = strings.Replace(line, "drain", "uncordon", 1)
		case strings.HasPrefix(line, "muster port-forward"):
			u.forwards(strings.Replace(line, "8080", free, 1), free)
			continue
		case strings.HasPrefix(line, "muster loadtest"):
			line += " --duration 2s --warmup 1s --targets 50"
		case strings.HasPrefix(line, "muster get failovers"):
			end := time.Now().Add(30 * time.Second)
			for !strings.Contains(u.run(line), "single") {
				if time.Now().After(end) {
					t.Fatal("the pod of the dead node has not moved")
				}
				time.Sleep(time.Second)
			}
		}
		if strings.Contains(line, "POD") || strings.Contains(line, "address IP") {
			u.run("muster wait --for=condition=Ready pod -l app=web --timeout 60s")
			line = strings.ReplaceAll(line, "POD", u.value("{.items[0].metadata.name}", "pods", "-l", "app=web"))
			line = strings.ReplaceAll(line, "address IP", "address "+u.value("{.items[0].status.podIP}", "pods", "-l", "app=web"))
		}
		// Nothing of the tour is silent, but for two files that are as applied.
		if shown := u.run(line); shown == "" && !strings.HasPrefix(line, "muster diff") {
			u.t.Errorf("$ %s: it shows nothing", line)
		}
	}
}
