package cli

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// servers answer on loopback: HTTP's /ok with 200 and anything else with 500, gRPC's service "up" with SERVING.
func probedServers(t *testing.T) (httpPort, grpcPort int) {
	t.Helper()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ok" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		fmt.Fprint(w, "two\nlines")
	}))
	t.Cleanup(web.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, state := grpc.NewServer(), health.NewServer()
	state.SetServingStatus("up", healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(server, state)
	go func() { _ = server.Serve(l) }() // ends with Stop
	t.Cleanup(server.Stop)
	return web.Listener.Addr().(*net.TCPAddr).Port, l.Addr().(*net.TCPAddr).Port
}

// file writes a manifest and returns its name.
func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "m.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

const probedManifest = `
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - name: main
    command: [serve]
    env: [{name: WORD, value: hello}, {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}, {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
    ports: [{name: http, containerPort: HTTP}]
    livenessProbe: {exec: {command: [sh, -c, "echo $(WORD) $IP $NODE; exit 0"]}, initialDelaySeconds: 3600}
    readinessProbe: {httpGet: {port: http, path: /ok}}
    startupProbe: {grpc: {port: GRPC, service: up}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: site}
spec:
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec:
      containers:
      - name: side
        command: [serve]
        readinessProbe: {tcpSocket: {port: HTTP}}
`

func TestEveryProbeOfAManifestIsTriedOnceWithoutACluster(t *testing.T) {
	httpPort, grpcPort := probedServers(t)
	name := file(t, strings.NewReplacer("HTTP", fmt.Sprint(httpPort), "GRPC", fmt.Sprint(grpcPort)).Replace(probedManifest))
	s := newShell(t, nil)
	s.env["PATH"] = os.Getenv("PATH")
	got := s.run("probe", "run", "-f", name)
	if got.status != 0 {
		t.Fatalf("exit %d: %s%s", got.status, got.stdout, got.stderr)
	}
	const said = "exec probes run on this machine, as you, not in their containers\n" +
		"pod/web main liveness: variable NODE is not set: its value is known on a node only\n"
	if got.stderr != said {
		t.Errorf("stderr %q, want %q", got.stderr, said)
	}
	var rows []string
	for _, row := range lines(got.stdout) {
		if len(row) > 5 && row[4] == "success" {
			row[5] = "TIME"
		}
		rows = append(rows, strings.Join(row, " "))
	}
	want := []string{
		"OBJECT CONTAINER KIND HANDLER OUTCOME DURATION OUTPUT", "pod/web main liveness exec success TIME hello 127.0.0.1",
		"pod/web main readiness httpGet success TIME two lines", "pod/web main startup grpc success TIME service healthy",
		"deployment/site side readiness tcpSocket success TIME",
	}
	if strings.Join(rows, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s\nwant\n%s", strings.Join(rows, "\n"), strings.Join(want, "\n"))
	}

	out := s.ok("probe", "run", "-f", name, "-c", "main", "--kind", "readiness", "--address", "localhost", "-ojson")
	var line map[string]any
	if err := json.Unmarshal([]byte(out), &line); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for key, want := range map[string]any{
		"object": "pod/web", "handler": "httpGet", "container": "main", "kind": "readiness", "instance": "", "outcome": "success", "result": "success",
		"cpu_us": nil, "lag_us": nil, "output": "two\nlines",
	} {
		if v, ok := line[key]; !ok || v != want {
			t.Errorf("%s = %v, want %v", key, v, want)
		}
	}
	if took, _ := line["duration_us"].(float64); took <= 0 || line["time"] == nil {
		t.Errorf("%v", line)
	}
}

func TestAProbeThatFailsOrCannotBeTriedMakesTheExitStatus1(t *testing.T) {
	httpPort, _ := probedServers(t)
	s := newShell(t, nil)
	s.env["PATH"] = os.Getenv("PATH")
	pod := func(probe string) string {
		return file(t, fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","command":["x"],"livenessProbe":%s}]}}`, probe))
	}
	for name, c := range map[string]struct {
		probe, args  string
		stdout, said string
	}{
		"it fails":             {fmt.Sprintf(`{"httpGet":{"port":%d}}`, httpPort), "", "HTTP probe failed with statuscode: 500", "1 of 1 probes failed\n"},
		"a command fails":      {`{"exec":{"command":["sh","-c","echo no; exit 1"]}}`, "", "exec      failure", "1 of 1 probes failed\n"},
		"it cannot be tried":   {`{"exec":{"command":["no-such-program"]}}`, "", "errored", "1 of 1 probes failed\n"},
		"a port's name":        {`{"httpGet":{"port":"nope"}}`, "", `port "nope" not found`, "1 of 1 probes failed\n"},
		"another machine":      {`{"exec":{"command":["true"]}}`, "--address 192.0.2.1", "", "not tried: an exec probe runs here, and 192.0.2.1 is another machine\nno probe to try\n"},
		"no such container":    {`{"exec":{"command":["true"]}}`, "-c other", "", "no probe to try\n"},
		"what is wrong in it":  {`{"httpGet":{"port":0}}`, "", "", "livenessProbe.httpGet.port: Invalid value: 0"},
		"what nobody has":      {`{"grpc":{"port":1,"host":"x"}}`, "", "", "livenessProbe.grpc.host: Invalid value: unknown field"},
		"a probe's other host": {`{"tcpSocket":{"port":1,"host":"127.0.0.9"}}`, "--address 192.0.2.1", "dial tcp 127.0.0.9:1: connect: connection refused", "1 of 1 probes failed\n"},
	} {
		got := s.run(append([]string{"probe", "run", "-f", pod(c.probe)}, strings.Fields(c.args)...)...)
		if got.status != 1 || !strings.Contains(got.stdout, c.stdout) || !strings.Contains(got.stderr, c.said) {
			t.Errorf("%s: exit %d, %q, stderr %q", name, got.status, got.stdout, got.stderr)
		}
		if c.stdout == "" && got.stdout != "" {
			t.Errorf("%s: shows %q", name, got.stdout)
		}
	}
	for args, want := range map[string]string{
		"": "-f is required", "-f x --address 1.2.3.4:80": "without a port", "-f x --address [::1": "without a port", "-f x --address a/b": "without a port",
		"-f x --kind frob": "want liveness", "-f x -o yaml": "unknown format", "-f x pod": "unknown command",
	} {
		if got := s.run(append([]string{"probe", "run"}, strings.Fields(args)...)...); got.status != 2 || !strings.Contains(got.stderr, want) {
			t.Errorf("%s: exit %d, %q, want %q", args, got.status, got.stderr, want)
		}
	}
}

func TestTheHostThatIsAskedMayBeThisMachineOrAnother(t *testing.T) {
	for address, want := range map[string]struct {
		host string
		here bool
	}{
		"127.0.0.1": {"127.0.0.1", true}, "127.9.9.9": {"127.9.9.9", true}, "::1": {"::1", true}, "[::1]": {"::1", true},
		"localhost": {"localhost", true}, "10.0.0.1": {"10.0.0.1", false}, "Web.example.org": {"Web.example.org", false},
	} {
		host, here, err := askedHost(address)
		if err != nil || host != want.host || here != want.here {
			t.Errorf("%s: %s, here %v, %v; want %+v", address, host, here, err, want)
		}
	}
}
