package clustertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
)

// said runs a command that may fail and returns its exit status and what it wrote, with a bound of 15 s.
func (c *Cluster) said(stdin string, args ...string) (code int, stdout, stderr string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.bin, args...)
	cmd.Env = append(os.Environ(), "MUSTER_CONFIG="+filepath.Join(c.dataDir("coordinator"), "client.yaml"))
	cmd.Stdin = strings.NewReader(stdin)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	err := c.client(cmd)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("muster %s: %v", strings.Join(args, " "), err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), problems.String()
}

var anyPorts = map[string][]string{
	"coordinator": {"--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0"},
	"agent":       {"--guard-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0"},
}

func TestBadDaysOfAClusterThatRuns(t *testing.T) {
	c := Start(t, 2)
	other := Start(t, 0)
	for _, sub := range []struct {
		name string
		run  func(*testing.T, *Cluster)
	}{
		{"a server that cannot start says why in one line", func(t *testing.T, c *Cluster) { serversRefuse(t, c, other) }},
		{"of a manifest every finding is told and only what is good is stored", manifestsAreJudged},
		{"every type can be shown in every form", everyForm},
		{"the services can be listed with the exported certificates", reflected},
		{"an update of an object that has a status is taken", updatesAreTaken},
		{"garbage on every port changes nothing", garbage},
		{"a coordinator that stands still for 3 s is waited for", standstill},
		{"a fenced pod is moved", podMoves},
		{"after a lost node is back exactly the wanted pods are there", nodeReturns},
	} {
		t.Run(sub.name, func(t *testing.T) {
			in := *c
			in.t = t
			sub.run(t, &in)
		})
	}
}

func serversRefuse(t *testing.T, c, other *Cluster) {
	taken := c.Address("coordinator", "listen")
	token := func(of *Cluster, more ...string) string {
		return strings.TrimSpace(of.Muster(append([]string{"token", "create"}, more...)...))
	}
	revoked := token(c)
	c.Muster("token", "revoke", strings.Split(revoked, ":")[3])
	newer := filepath.Join(c.Dir, "newer")
	file := filepath.Join(c.Dir, "file")
	for path, content := range map[string]string{filepath.Join(newer, "muster.json"): `{"format":99,"kind":"coordinator"}`, file: ""} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	coordinator := func(dir string, more ...string) []string {
		return slices.Concat([]string{"coordinator", "--data-dir", filepath.Join(c.Dir, dir)}, anyPorts["coordinator"], more)
	}
	agent := func(dir, node string, more ...string) []string {
		return slices.Concat([]string{"agent", "--data-dir", filepath.Join(c.Dir, dir), "--node", node, "--join", taken}, anyPorts["agent"], more)
	}
	for _, tc := range []struct {
		name string
		args []string
		want string
		code int
	}{
		{"second coordinator", coordinator("coordinator"), "is in use by process", 1},
		{"second agent", agent("node-1", "node-1"), "is in use by process", 1},
		{"API port", coordinator("new", "--listen", taken), "listen for the API: listen tcp " + taken, 1},
		{"HTTPS port", coordinator("new", "--http-listen", taken), "listen for HTTPS: listen tcp " + taken, 1},
		{"newer directory", coordinator("newer"), "written by a newer muster (format 99", 1},
		{"directory is a file", coordinator("file"), "is not a directory", 1},
		{"no token", agent("a1", "a1"), "muster token create", 1},
		{"no token at all", agent("a1", "a1", "--token", "rubbish"), "not a join token", 1},
		{"token of another cluster", agent("a1", "a1", "--token", token(other)), "not this cluster's CA", 1},
		{"token of another role", agent("a1", "a1", "--token", token(c, "--role", "viewer")), "another role", 1},
		{"revoked token", agent("a1", "a1", "--token", revoked), "revoked", 1},
		{"directory of another node", agent("a1", "a2", "--token", revoked), "belongs to node a1, not a2", 1},
		{"directory of another kind", coordinator("a1"), "belongs to muster agent, not coordinator", 1},
		{"join without a port", agent("a3", "a3", "--join", "nowhere", "--token", revoked), "must be HOST:PORT", 2},
	} {
		code, out, problems := c.said("", tc.args...)
		if code != tc.code || out != "" || strings.Count(problems, "\n") != 1 || !strings.Contains(problems, tc.want) {
			t.Errorf("%s: exit status %d, stdout %q, stderr:\n%swant status %d and one line with %q", tc.name, code, out, problems, tc.code, tc.want)
		}
	}
}

func manifestsAreJudged(t *testing.T, c *Cluster) {
	pod := func(name, more string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec: {containers: [{name: c, image: x, command: [sleep, '1000']" + more + "}]}\n"
	}
	for _, tc := range []struct {
		name, manifest string
		code           int
		want           []string
	}{
		{"truncated", "apiVersion: v1\nkind: Pod\nmetadata: {name: t\n", 1, []string{"document 1: Invalid value: yaml: line 3"}},
		{"2 MiB", pod("big", ", env: [{name: A, value: '"+strings.Repeat("x", 2<<20)+"'}]"), 1, []string{"at most 2097152"}},
		{"not UTF-8", pod("latin", ", tty: \xff"), 1, []string{"is not UTF-8"}},
		{"wrong case", pod("case", ", Image: y, livenessprobe: {}"), 1, []string{"spec.containers[0].Image", "spec.containers[0].livenessprobe"}},
		{"duplicate keys", pod("dup", ", command: [sleep, '2']"), 1, []string{`key "command" already set`}},
		{"name: yes", pod("yes", ""), 1, []string{"metadata.name: Invalid value: true: must be a string"}},
		{"empty", "---\n", 1, []string{"no object in it"}},
		{"warnings alone", pod("warned", ", terminationMessagePath: /x"), 0, []string{"warning: spec.containers[0].terminationMessagePath"}},
		{"many", pod("bad", ", nope: 1, livenessProbe: {httpGet: {port: 99999}}") + "---\n" + pod("good", "") + "---\napiVersion: v9\nkind: Foo\n", 1,
			[]string{"document 1: pod/bad: spec.containers[0].nope", "document 1: pod/bad: spec.containers[0].livenessProbe.httpGet.port", `document 3: kind: Unsupported value: "Foo"`}},
	} {
		code, _, problems := c.said(tc.manifest, "apply", "-f", "-")
		if code != tc.code {
			t.Errorf("%s: exit status %d, want %d: %s", tc.name, code, tc.code, problems)
		}
		for _, w := range tc.want {
			if !strings.Contains(problems, w) {
				t.Errorf("%s: %q is not in:\n%s", tc.name, w, problems)
			}
		}
	}
	if names := c.Muster("get", "pods", "-o", "name"); names != "pod/good\npod/warned\n" {
		t.Errorf("stored are %q", names)
	}
	c.Muster("delete", "pods", "--all", "--grace-period", "0")
}

func everyForm(t *testing.T, c *Cluster) {
	for _, kind := range []string{"pods", "nodes", "deployments", "events", "members", "probes", "failovers"} {
		for _, form := range []string{"table", "wide", "yaml", "name", "jsonpath={.kind}"} {
			if out := c.Muster("get", kind, "-o", form); strings.HasPrefix(form, "jsonpath") && out != "List" {
				t.Errorf("get %s -o %s: %q", kind, form, out)
			}
		}
		var list struct {
			APIVersion, Kind string
			Metadata         map[string]any
			Items            []json.RawMessage
		}
		if err := c.JSON(&list, "get", kind); err != nil {
			t.Fatal(err)
		}
		if _, ok := list.Metadata["resourceVersion"].(string); list.APIVersion != "v1" || list.Kind != "List" || list.Items == nil || !ok {
			t.Errorf("get %s -o json is no List: %+v", kind, list)
		}
		if code, out, problems := c.said("", "get", kind, "-o", "bogus"); code != 2 || out != "" || !strings.Contains(problems, "unknown format") {
			t.Errorf("get %s -o bogus: %d %q %q", kind, code, out, problems)
		}
	}
	var node struct {
		Metadata struct {
			UID               string
			CreationTimestamp time.Time
		}
	}
	if err := c.JSON(&node, "get", "node", "node-1"); err != nil {
		t.Fatal(err)
	}
	if age := time.Since(node.Metadata.CreationTimestamp); node.Metadata.UID == "" || age < 0 || age > 10*time.Minute {
		t.Errorf("node-1 has %+v", node.Metadata)
	}
}

func reflected(t *testing.T, c *Cluster) {
	dir := filepath.Join(c.Dir, "exported")
	c.Muster("config", "export", dir)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		t.Fatal("ca.pem has no certificate")
	}
	creds := credentials.NewTLS(&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}})
	conn, err := grpc.NewClient(c.Address("coordinator", "listen"), grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{},
	}); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range answer.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	for _, want := range []string{"muster.v1.PodService", "muster.v1.NodeService", "grpc.health.v1.Health"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not among %v", want, names)
		}
	}
}

func updatesAreTaken(t *testing.T, c *Cluster) {
	c.Apply("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 3\n  selector: {matchLabels: {app: web}}\n" +
		"  template:\n    metadata: {labels: {app: web}}\n    spec: {containers: [{name: c, image: x, command: [sleep, '1000']}]}\n")
	c.Eventually(15*time.Second, "three pods are ready", func() bool {
		pods := c.Pods("app=web")
		return len(pods) == 3 && !slices.ContainsFunc(pods, func(p Pod) bool { return !p.Ready() })
	})
	c.Muster("scale", "deployment/web", "--replicas", "2")
	c.Eventually(15*time.Second, "two pods remain", func() bool { return len(c.Pods("app=web")) == 2 })
	c.Muster("cordon", "node-1")
	c.Muster("uncordon", "node-1")
	if code, _, problems := c.said("", "token", "create", "--uses", "0"); code != 2 || !strings.Contains(problems, "want 1 to 1000") {
		t.Errorf("token create --uses 0: %d %q", code, problems)
	}
}

// identities is what must not change: the pods with their restarts, and whether they are ready.
func (c *Cluster) identities() []string {
	var all []string
	for _, p := range c.Pods("") {
		for _, s := range p.Status.ContainerStatuses {
			all = append(all, strings.Join([]string{p.Metadata.Name, p.Metadata.UID, p.Spec.NodeName, s.ContainerID}, " "))
		}
	}
	return all
}

func garbage(t *testing.T, c *Cluster) {
	before := c.identities()
	noise := make([]byte, 60<<10)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	for _, server := range []string{"coordinator", "node-1", "node-2"} {
		for _, which := range []string{"listen", "http", "gossip", "guard"} {
			addr := c.Address(server, which)
			if addr == "" {
				continue
			}
			for _, b := range [][]byte{nil, []byte("GET / HTTP/1.1\r\n\r\n"), noise, append([]byte{0x16, 3, 1, 0xff, 0xff}, noise...)} {
				conn, err := net.DialTimeout("tcp", addr, time.Second)
				if err != nil {
					t.Fatalf("%s of %s: %v", which, server, err)
				}
				_, _ = conn.Write(b) // it may hang up at any time
				_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				_, _ = io.Copy(io.Discard, conn)
				conn.Close()
				if conn, err = net.Dial("udp", addr); err != nil {
					t.Fatal(err)
				}
				_, _ = conn.Write(b) // nobody may be there
				conn.Close()
			}
		}
		if c.Process(server).exited() {
			t.Fatalf("%s has ended", server)
		}
	}
	if after := c.identities(); !slices.Equal(before, after) || len(before) == 0 || len(c.ReadyNodes()) != 2 {
		t.Errorf("before %v, after %v", before, after)
	}
}

func standstill(t *testing.T, c *Cluster) {
	before := c.identities()
	p := c.Process("coordinator")
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(3*time.Second, func() { _ = p.Signal(syscall.SIGCONT) }) // the next command would tell
	start := time.Now()
	c.Muster("get", "pods")
	if d := time.Since(start); d < 2*time.Second {
		t.Errorf("answered after %v by a coordinator that stands still", d)
	}
	c.Eventually(15*time.Second, "both nodes are Ready", func() bool { return len(c.ReadyNodes()) == 2 })
	if after := c.identities(); !slices.Equal(before, after) {
		t.Errorf("before %v, after %v", before, after)
	}
}

func podMoves(t *testing.T, c *Cluster) {
	c.Apply("apiVersion: v1\nkind: Pod\nmetadata: {name: solo}\nspec: {containers: [{name: c, image: x, command: [sleep, '1000']}]}\n")
	c.Eventually(15*time.Second, "the pod is ready", func() bool { p := c.Pod("solo"); return p.Ready() })
	before := c.Pod("solo")
	c.Muster("move", "solo")
	c.Eventually(20*time.Second, "the pod is ready on the other node", func() bool {
		p := c.Pod("solo")
		return p.Ready() && p.Spec.NodeName != before.Spec.NodeName
	})
	if after := c.Pod("solo"); after.Metadata.UID != before.Metadata.UID {
		t.Errorf("the pod's uid was %s and is %s", before.Metadata.UID, after.Metadata.UID)
	}
	if out := c.Muster("get", "failovers", "-o", "jsonpath={.items[*].pod}"); !slices.Contains(strings.Fields(out), "solo") {
		t.Errorf("failovers are of %q", out)
	}
}

func nodeReturns(t *testing.T, c *Cluster) {
	node := c.Pod("solo").Spec.NodeName
	c.KillMachine(node)
	c.Eventually(10*time.Second, "the node is lost", func() bool { return len(c.ReadyNodes()) == 1 })
	c.Muster("delete", "deployment/web")
	c.StartAgent(node)
	c.Eventually(20*time.Second, "the node is back", func() bool { return len(c.ReadyNodes()) == 2 })
	c.Eventually(20*time.Second, "the wanted pod alone is there and ready", func() bool {
		pods := c.Pods("")
		return len(pods) == 1 && pods[0].Metadata.Name == "solo" && pods[0].Ready()
	})
	supervisors := len(c.Supervisors("node-1")) + len(c.Supervisors("node-2"))
	if supervisors != 1 {
		t.Errorf("%d supervisors run for one pod", supervisors)
	}
}

func TestDevStartsAgainWhereItWasKilled(t *testing.T) {
	c := &Cluster{t: t, bin: Binary(t), procs: map[string]*Process{}}
	dir, err := os.MkdirTemp("", "muster-")
	if err != nil {
		t.Fatal(err)
	}
	c.Dir = dir
	t.Cleanup(c.stop)
	for range 2 {
		_ = os.Remove(filepath.Join(dir, "dev.log")) // the first time there is none
		p := c.start("dev", "dev", "--nodes", "2", "--data-dir", dir, "--no-context", "--ports", "free")
		c.Eventually(20*time.Second, "dev is ready", func() bool {
			if p.exited() {
				t.Fatalf("dev has ended:\n%s", tail(p.Log))
			}
			b, err := os.ReadFile(p.Log)
			return err == nil && bytes.Contains(b, []byte("muster is ready"))
		})
		if err := p.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		p.Wait(t, 5*time.Second)
	}
}
