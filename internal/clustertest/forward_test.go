package clustertest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// echoes listens on the loopback of wherever it runs, and says what it has heard to its end.
const echoes = `apiVersion: v1
kind: Pod
metadata: {name: echo}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    ports: [{name: tcp, containerPort: 8080}]
    env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
    command:
    - perl
    - -e
    - |
      use Socket; socket(S,PF_INET,SOCK_STREAM,0); setsockopt(S,SOL_SOCKET,SO_REUSEADDR,1); $SIG{CHLD}="IGNORE";
      bind(S,sockaddr_in(8080,inet_aton($ARGV[0] || $ENV{IP}))) or die "bind: $!"; listen(S,64);
      while(accept(C,S)){ if(!fork){ local $/; my $all=<C>; syswrite(C,$all); exit } close C }
    readinessProbe: # it listens
      periodSeconds: 1
      exec: {command: [perl, -MIO::Socket::INET, -e, 'for ($ENV{IP}, "127.0.0.1") { exit 0 if IO::Socket::INET->new("$_:8080") } exit 1']}
`

// asks forwards ports, says something to one, and ends the forward; the other is one where nobody listens.
const asks = `
"$MUSTER" port-forward pod/echo 18080:tcp 18081:81 --address 127.0.0.1 >out 2>err &
forward=$!
for i in $(seq 100); do [ $(grep -c Forwarding out) = 2 ] && break; sleep 0.1; done
ask() { perl -e 'use Socket; socket(S,PF_INET,SOCK_STREAM,0); connect(S,sockaddr_in($ARGV[0],INADDR_LOOPBACK)) or die; syswrite(S,"hello"); shutdown(S,1); sysread(S,$b,99); print $b' $1; }
ask 18081
asked=""
for i in 1 2 3; do ask 18080 & asked="$asked $!"; done
wait $asked
kill $forward
wait $forward
echo " exit $?"
cat err
`

func (c *Cluster) mustForward(t *testing.T, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", asks)
	cmd.Env = append(os.Environ(), "MUSTER="+c.bin, "MUSTER_CONFIG="+filepath.Join(c.dataDir("coordinator"), "client.yaml"))
	cmd.Dir = t.TempDir()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := c.client(cmd); err != nil {
		t.Errorf("%v: %s", err, out.String())
	}
	if !strings.HasPrefix(out.String(), "hellohellohello exit 0\n") || strings.Count(out.String(), "\n") != 2 || !strings.Contains(out.String(), want) {
		t.Errorf("it said\n%s", out.String())
	}
}

func TestPortsOfAPodAreForwarded(t *testing.T) {
	t.Parallel()
	c := Start(t, 1)
	c.Apply(echoes)
	c.Eventually(20*time.Second, "it runs", func() bool { p := c.Pod("echo"); return p.Ready() })
	c.mustForward(t, "port 81 of pod/echo: ")
}

// What listens on the pod's own loopback is reached: the agent connects from inside its network.
func TestOnHostsPortsOnAPodsLoopbackAreForwarded(t *testing.T) {
	Binary(t)
	t.Parallel()
	c := Start(t, 1, OnHosts(t, 1))
	c.Apply(echoes + `    args: ["127.0.0.1"]` + "\n")
	c.Eventually(20*time.Second, "it runs", func() bool { p := c.Pod("echo"); return p.Ready() })
	c.mustForward(t, "nothing listens there")
}

func TestWhatGetPrintsOfAClusterIsAppliedUnchanged(t *testing.T) {
	t.Parallel()
	c := Start(t, 1)
	c.Apply(`apiVersion: apps/v1
kind: Deployment
metadata: {name: site}
spec:
  replicas: 2
  selector: {matchLabels: {app: site}}
  template:
    metadata: {labels: {app: site}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: x, command: [sleep, "1000000"]}]
`)
	c.Eventually(20*time.Second, "both run", func() bool { return c.running("app=site", 2) })
	for _, what := range []string{"all", "pods", "deployment/site"} {
		for _, format := range []string{"yaml", "json"} {
			c.Eventually(10*time.Second, "what get prints of "+what+" is applied without a word", func() bool { // the status may be changing
				code, out, problems := c.said(c.Muster("get", what, "-o", format), "apply", "-f", "-")
				if code != 0 || strings.Contains(out, "configured") || strings.Contains(out, "created") {
					t.Fatalf("exit %d, %s%s", code, out, problems)
				}
				return problems == ""
			})
		}
	}
	before := c.Muster("get", "pods", "-o", "name")
	if code, out, problems := c.said(before, "diff", "-f", "-"); code < 2 || out != "" || problems == "" {
		t.Errorf("diff of what is no manifest: %d %q %q", code, out, problems)
	}
	code, out, problems := c.said(strings.Replace(c.Muster("get", "deployment/site", "-o", "yaml"), "replicas: 2", "replicas: 3", 1), "diff", "-f", "-")
	if code != 1 || !strings.Contains(out, "-  replicas: 2\n+  replicas: 3\n") {
		t.Errorf("diff: %d %q %q", code, out, problems)
	}
}
