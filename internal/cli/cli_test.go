package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/clientconfig"
)

// shell runs commands in a world of its own.
type shell struct {
	t   *testing.T
	env map[string]string
}

// newShell has a config that leads to the fake; nil: none.
func newShell(t *testing.T, f *fake) *shell {
	t.Helper()
	s := &shell{t, map[string]string{"HOME": t.TempDir()}}
	if f != nil {
		conf := clientconfig.Config{Contexts: []clientconfig.Context{f.start(t)}}
		s.env["MUSTER_CONFIG"] = filepath.Join(t.TempDir(), "client.yaml")
		if err := conf.Save(s.env["MUSTER_CONFIG"]); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *shell) environ() []string {
	var all []string
	for k, v := range s.env {
		all = append(all, k+"="+v)
	}
	return all
}

type answer struct {
	status         int
	stdout, stderr string
}

func (s *shell) run(args ...string) answer { return s.runWith("", args...) }

func (s *shell) runWith(stdin string, args ...string) answer {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	status := Main(ctx, args, World{Stdin: strings.NewReader(stdin), Stdout: &stdout, Stderr: &stderr,
		Getenv: func(k string) string { return s.env[k] }, Environ: s.environ})
	if ctx.Err() != nil {
		s.t.Fatalf("muster %s did not return", strings.Join(args, " "))
	}
	return answer{status, stdout.String(), stderr.String()}
}

// ok runs a command that must succeed.
func (s *shell) ok(args ...string) string {
	s.t.Helper()
	a := s.run(args...)
	if a.status != 0 {
		s.t.Fatalf("muster %s: exit %d: %s", strings.Join(args, " "), a.status, a.stderr)
	}
	return a.stdout
}

func TestWhatIsNotBuiltIsRefusedByItsName(t *testing.T) {
	s := newShell(t, nil)
	for line, name := range map[string]string{
		"ui": "ui", "simulate --lose n1": "simulate",
		"drill node n1":  "drill",
		"get daemonsets": "get daemonsets", "get sts web": "get statefulsets", "get namespaces": "get namespaces",
		"delete ds x": "delete daemonsets",
	} {
		a := s.run(strings.Fields(line)...)
		if want := name + ": not built yet\n"; a.status != 1 || a.stderr != want || a.stdout != "" {
			t.Errorf("%s: exit %d, %q, want 1 and %q", line, a.status, a.stderr, want)
		}
	}
}

func TestAWrongCommandLineIsUsageAndSaysWhereToLook(t *testing.T) {
	s := newShell(t, newFake())
	for line, want := range map[string]string{
		"":                                    "a command is missing",
		"gett":                                `did you mean "agent" or "get"?`,
		"probe":                               "a command is missing",
		"get":                                 "a type is missing",
		"get frobs":                           `unknown type "frobs"`,
		"get pods --nope":                     "unknown flag: --nope",
		"get pods -o xml":                     "-o xml: unknown format",
		"get pods -o jsonpath":                "-o jsonpath: want",
		"get pods -o jsonpath={.a[}":          "jsonpath",
		"get pods web -l a=b":                 "a name and -l",
		"get pods web -A":                     "a name and -A",
		"get pods --failing":                  "are for probes",
		"get probes --kind frob":              "want liveness, readiness or startup",
		"get pods,nodes -w":                   "-w watches one type",
		"get members -w":                      "cannot be watched",
		"get events --for pods":               "want TYPE/NAME",
		"get members -l a=b":                  "have no labels",
		"get pod/a b":                         "want TYPE/NAME",
		"get pod a/b":                         "a name has no slash",
		"describe events":                     "describe does not know events",
		"apply":                               "-f is required",
		"apply -f x --dry-run=maybe":          "want none, server or client",
		"apply x":                             `unknown command "x"`,
		"delete pod":                          "want a name, -l SELECTOR or --all",
		"delete pod a --all":                  "make no sense",
		"delete pod a --grace-period -1":      "at least 0",
		"delete events x":                     "cannot be deleted",
		"delete pods -l a=b -f x":             "-f names the objects itself",
		"delete deploy a --allow-second-copy": "for pods by their names",
		"wait pod/a":                          "--for is required",
		"wait --for=frob pod/a":               "want condition=",
		"wait --for=delete pods":              "want a name",
		"wait --for=condition=Ready probe/a":  "cannot wait for probes",
		"wait --for=condition= pod/a":         "want condition=TYPE",
		"wait --for=delete=x pod/a":           "delete takes no value",
		"logs":                                "accepts 1 arg(s), received 0",
		"logs node/a":                         "want a pod",
		"logs a --tail -2":                    "--tail",
		"logs a -f --previous":                "--previous is complete",
		"move":                                "accepts 1 arg(s)",
		"scale deployment/a":                  "--replicas is required",
		"scale pod/a --replicas 1":            "want deployment/NAME",
		"scale deployment/a --replicas 1 --current-replicas -2": "at least 0, or -1",
		"rollout":                                                        "a command is missing",
		"rollout status":                                                 "a type is missing",
		"rollout restart pod/a":                                          "want deployment/NAME",
		"rollout undo deployments":                                       "want deployment/NAME",
		"drain":                                                          "requires at least 1 arg(s)",
		"drain n1 --grace-period -2":                                     "at least 0, or -1",
		"drain n1 --dry-run=client":                                      "want server",
		"token create --role king":                                       "want node, viewer, editor or admin",
		"probe history a --limit 10001":                                  "--limit",
		"status --timeout -1s":                                           "must not be negative",
		"coordinator":                                                    "--data-dir is required",
		"coordinator --data-dir d --lease-ttl 1s":                        "3s",
		"coordinator --data-dir d --metrics-auth no":                     "want required or none",
		"coordinator --data-dir d --allow-probe-host x":                  "want a network",
		"coordinator --data-dir d --pod-cidr 10.77.0.0":                  "want a network",
		"coordinator --data-dir d --pod-cidr 10.77.0.0/25":               "must be a /8 to /24",
		"coordinator --data-dir d --log-level loud":                      "want debug",
		"coordinator --data-dir d --log-format xml":                      "want text or json",
		"agent --data-dir d --node n":                                    "--join is required",
		"agent --data-dir d --join h:1":                                  "--node is required",
		"agent --data-dir d --node n --join h:1 --images maybe":          "want refuse or ignore",
		"agent --data-dir d --node n --join h:1 --labels a":              "want k=v",
		"agent --data-dir d --node n --join h:1 --probe-cpu-warning 101": "must be 0 to 100",
		"agent --data-dir d --node n --join h:1 --probe-history-mib 3":   "must be 0 or 4 to 4096",
		"agent --data-dir d --node n --join h:1 --runtime docker":        "want process",
		"dev --nodes 0":                                                  "--nodes 0: want 1 to",
		"loadtest":                                                       "a command is missing",
		"loadtest probe":                                                 `did you mean "probes"?`,
		"loadtest probes --kind udp":                                     `kind "udp": want http, https, tcp, grpc, exec`,
		"loadtest probes --targets -1":                                   "targets -1: must be 1 to 200000",
		"loadtest probes --period 99ms":                                  "period 99ms: must be 100ms to 1h0m0s, or 0 for a closed loop",
		"loadtest probes --duration 1s --warmup 25h":                     "warm-up 25h0m0s: must be 0s to 24h0m0s",
		"loadtest probes --cores 4096":                                   "cores 4096: must be 0 to",
		"loadtest probes --runs 101":                                     "runs 101: must be 1 to 100",
		"loadtest probes --address host:80":                              "want an IP address with a port",
		"loadtest probes --kind tcp --failing 5":                         "are HTTP ones",
		"loadtest probes -o yaml":                                        "-o yaml: unknown format",
		"loadtest ingest --agents 0":                                     "agents 0: must be 1 to 1000",
		"loadtest ingest --agents 1000 --pods 1000":                      "must be 100000 probes at most",
		"loadtest fleet --agents 10001":                                  "agents 10001: must be 1 to 10000",
		"loadtest fleet --agents 10000 --pods 100":                       "must be 1000000 probes at most",
		"loadtest ingest --duration 1ms":                                 "duration 1ms: must be 1s to 24h0m0s",
		"loadtest failover --agents 2":                                   "agents 2: must be 3 to 50",
		"loadtest failover --pods 101":                                   "pods 101: must be 1 to 100",
		"loadtest failover --rounds 0":                                   "rounds 0: must be 1 to 100",
		"loadtest failover --kinds cut":                                  "kinds cut: not built yet",
		"loadtest failover --kinds kill,kill":                            "want each of kill, hang once at most",
		"loadtest target --kind exec":                                    "--kind exec: want",
		"loadtest target --kind tcp,tcp":                                 "once at most",
		"loadtest target --port 80":                                      "--port is for one kind",
		"loadtest target --kind tcp --port 65536":                        "--port 65536: must be 0 to 65535",
		"loadtest target --kind slow --delay 2m":                         "--delay 2m0s: must be 0 to 1m",
		"dev --images never":                                             "want ignore or refuse",
		"dev --ports 7":                                                  "want default or free",
		"dev cleanup":                                                    "--data-dir is required",
		"dev kill":                                                       "accepts 1 arg(s)",
	} {
		a := s.run(strings.Fields(line)...)
		if a.status != 2 || !strings.Contains(a.stderr, want) || !strings.Contains(a.stderr, "--help") || a.stdout != "" {
			t.Errorf("%q: exit %d, %q, want 2 and %q", line, a.status, a.stderr, want)
		}
	}
}

func TestEveryCommandHasHelpAndEveryFlagAWord(t *testing.T) {
	s := newShell(t, nil)
	for _, line := range []string{"--help", "get -h", "exec --help", "probe history --help", "dev kill --help", "completion bash", "coordinator --help", "agent --help", "loadtest probes --help"} {
		if out := s.ok(strings.Fields(line)...); len(out) < 40 {
			t.Errorf("%s says only %q", line, out)
		}
	}
}

func TestEveryCommandThatRunsShowsAnExampleOfItself(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, below := range c.Commands() {
			walk(below)
		}
		if c.HasSubCommands() && c.Name() != "dev" || !c.Runnable() || c.Hidden || c.Annotations[annotationUnbuilt] != "" {
			return
		}
		if c.Example == "" {
			t.Errorf("%s --help has no Example", c.CommandPath())
		}
		for line := range strings.Lines(c.Example) {
			if !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: the example %q is not indented by two blanks", c.CommandPath(), line)
			}
		}
		if !strings.Contains(c.Example, c.CommandPath()+" ") && !strings.HasSuffix(c.Example, c.CommandPath()) && !strings.Contains(c.Example, c.CommandPath()+"\n") {
			t.Errorf("%s: its example is of something else:\n%s", c.CommandPath(), c.Example)
		}
	}
	walk(newRoot(World{Getenv: func(string) string { return "" }}))
}

// Every flag that an example shows must be there: each line is parsed, not run.
func TestExamplesAreOfFlagsThatThereAre(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, below := range c.Commands() {
			walk(below)
		}
		for line := range strings.Lines(c.Example) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), " #")
			for part := range strings.SplitSeq(line, "|") {
				words := strings.Fields(part)
				for len(words) > 0 && strings.Contains(words[0], "=") {
					words = words[1:]
				}
				if len(words) == 0 || words[0] != "muster" {
					continue
				}
				root := newRoot(World{Getenv: func(string) string { return "" }})
				found, rest, err := root.Find(words[1:])
				if err != nil {
					t.Errorf("%s: %v", line, err)
					continue
				}
				if err := found.ParseFlags(rest); err != nil {
					t.Errorf("%s: %v", line, err)
				}
			}
		}
	}
	walk(newRoot(World{Getenv: func(string) string { return "" }}))
}

func TestAServersSettingsAreFlagsElseEnvironmentElseFile(t *testing.T) {
	s := newShell(t, nil)
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte("lease-ttl: 7s\nagent-grace: 8s\nname: from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.env["MUSTER_COORDINATOR_AGENT_GRACE"] = "9s"
	out := s.ok("coordinator", "--name", "from-flag", "--config-file", file, "--print-config")
	for _, want := range []string{"lease-ttl 7s file " + file, "agent-grace 9s environment MUSTER_COORDINATOR_AGENT_GRACE", "name from-flag flag", "listen :7700 default"} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
			t.Errorf("--print-config lacks %q:\n%s", want, out)
		}
	}
	s.env = map[string]string{"MUSTER_AGENT_TOKEN": "muster:v1:secret"}
	if out := s.ok("agent", "--print-config"); strings.Contains(out, "muster:v1") {
		t.Errorf("--print-config shows the token:\n%s", out)
	}
	s.env = map[string]string{"MUSTER_AGENT_TOKN": "x"}
	if a := s.run("agent"); a.status != 2 || !strings.Contains(a.stderr, "MUSTER_AGENT_TOKN") {
		t.Errorf("a misspelt variable: %+v", a)
	}
}

func TestTheConfigIsTheFlagElseTheVariableElseTheHome(t *testing.T) {
	s := newShell(t, nil)
	if a := s.run("status"); a.status != 1 || a.stderr != "no cluster: start one with \"muster dev\", or pass --context\n" {
		t.Errorf("without any config: %d %q", a.status, a.stderr)
	}
	save := func(path, name string, more ...clientconfig.Context) string {
		c := clientconfig.Config{CurrentContext: name, Contexts: append(more, clientconfig.Context{Name: name, Server: name + ":1"})}
		if err := c.Save(path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	save(filepath.Join(s.env["HOME"], ".config", "muster", "config.yaml"), "home", clientconfig.Context{Name: "other", Server: "o:1"})
	env, flag := save(filepath.Join(t.TempDir(), "c"), "env"), save(filepath.Join(t.TempDir(), "c"), "flag")
	current := func(args ...string) string {
		for line := range strings.Lines(s.ok(append([]string{"config", "get-contexts"}, args...)...)) {
			if f := strings.Fields(line); f[0] == "*" {
				return f[1]
			}
		}
		return ""
	}
	if got := current(); got != "home" {
		t.Errorf("from home: %q", got)
	}
	s.env["MUSTER_CONTEXT"] = "other"
	if got := current(); got != "other" {
		t.Errorf("with MUSTER_CONTEXT: %q", got)
	}
	if got := current("--context", "home"); got != "home" {
		t.Errorf("with --context: %q", got)
	}
	delete(s.env, "MUSTER_CONTEXT")
	s.env["MUSTER_CONFIG"] = env
	s.env["HOME"] = "/nowhere"
	if got := current(); got != "env" {
		t.Errorf("with MUSTER_CONFIG, whatever HOME is: %q", got)
	}
	if got := current("--config=" + flag); got != "flag" {
		t.Errorf("with --config: %q", got)
	}
	s.env["MUSTER_CONFIG"] = "/nowhere/c.yaml"
	if a := s.run("status"); a.status != 1 || !strings.Contains(a.stderr, "no client config /nowhere/c.yaml: start a cluster") {
		t.Errorf("a named file that is missing: %d %q", a.status, a.stderr)
	}
}

func TestTheClientConfigIsViewedWithoutKeysAndExportedForOthers(t *testing.T) {
	s := newShell(t, newFake())
	if out := s.ok("config", "view"); strings.Contains(out, "PRIVATE KEY") || !strings.Contains(out, "BEGIN CERTIFICATE") {
		t.Errorf("config view: %s", out)
	}
	dir := filepath.Join(t.TempDir(), "pem")
	out := s.ok("config", "export", dir)
	if !strings.HasPrefix(out, "grpcurl -cacert "+dir+"/ca.pem") {
		t.Errorf("config export says %q", out)
	}
	for name, want := range map[string]string{"ca.pem": "CERTIFICATE", "cert.pem": "CERTIFICATE", "key.pem": "PRIVATE KEY"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !strings.Contains(string(b), "BEGIN "+want) {
			t.Errorf("%s: %s, %v", name, b, err)
		}
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v, want 0600", name, fi.Mode(), err)
		}
	}
	if a := s.run("config", "use-context", "nope"); a.status != 1 || !strings.Contains(a.stderr, `no context "nope": there is test`) {
		t.Errorf("use-context of an unknown one: %d %q", a.status, a.stderr)
	}
	if out := s.ok("config", "use-context", "test"); out != "current context is now \"test\"\n" {
		t.Errorf("use-context: %q", out)
	}
}

func TestAnUnreachableClusterIsOneLineWithTheNextStep(t *testing.T) {
	f := newFake()
	target := f.start(t)
	s := newShell(t, nil)
	set := func(c clientconfig.Context) {
		s.env["MUSTER_CONFIG"] = filepath.Join(t.TempDir(), "c.yaml")
		conf := clientconfig.Config{Contexts: []clientconfig.Context{c}}
		if err := conf.Save(s.env["MUSTER_CONFIG"]); err != nil {
			t.Fatal(err)
		}
	}
	down := target
	down.Server = "127.0.0.1:1"
	set(down)
	if a := s.run("status"); a.status != 1 || a.stderr != `cannot reach 127.0.0.1:1 (context "test"): connection refused: is it running? start one with "muster dev", or pass --context`+"\n" {
		t.Errorf("nobody listens: %d %q", a.status, a.stderr)
	}
	other := newFake().start(t)
	other.Server = target.Server
	set(other)
	if a := s.run("status"); a.status != 1 || !strings.Contains(a.stderr, "does not accept this context's certificates, or is another cluster") || strings.Count(a.stderr, "\n") != 1 {
		t.Errorf("another cluster's certificates: %d %q", a.status, a.stderr)
	}
	broken := target
	broken.Key = "x"
	set(broken)
	if a := s.run("status"); a.status != 1 || !strings.Contains(a.stderr, `context "test": certificate and key`) {
		t.Errorf("a broken key: %d %q", a.status, a.stderr)
	}
	set(target)
	if a := s.run("status"); a.status != 1 || !strings.Contains(a.stderr, "failed: internal error: its log has the cause") {
		t.Errorf("an internal error: %d %q", a.status, a.stderr)
	}
	if a := s.run("get", "event/x"); a.status != 1 || !strings.Contains(a.stderr, "does not know this call") {
		t.Errorf("an unknown call: %d %q", a.status, a.stderr)
	}
}

func TestWhatTheCoordinatorRefusesComesWithTheNextStep(t *testing.T) {
	f := newFake()
	p := webPod("web", "n1", true)
	p.FailoverClass = musterv1.FailoverClass_FAILOVER_CLASS_STAY
	f.setPod(p)
	f.nodes = []*musterv1.Node{{Meta: &musterv1.ObjectMeta{Name: "n1"}}}
	s := newShell(t, f)
	for line, want := range map[string]string{
		"get pod nope":                     `pod "nope" not found in namespace "default": "muster get pods -A" lists them`,
		"get pod nope -n x":                `pod "nope" not found in namespace "x"`,
		"get node nope":                    `node "nope" not found: "muster get nodes" lists them`,
		"describe po nope":                 `pod "nope" not found`,
		"delete deploy no":                 `deployment "no" not found`,
		"logs nope":                        `pod "nope" not found`,
		"move nope":                        `pod "nope" not found`,
		"cordon nope":                      `node "nope" not found`,
		"delete node n1":                   "node n1 is in use: stop its agent and let its pods move first",
		"move web":                         "the old instance may still run: pass --accept-risk",
		"resume":                           "failover is not frozen",
		"token revoke nope":                `no token "nope": "muster token list" shows the ids`,
		"scale deployment/no --replicas 1": `deployment "no" not found`,
		"rollout status deployment/no":     `deployment "no" not found`,
		"rollout pause deployment/no":      `deployment "no" not found`,
		"drain nope":                       `node "nope" not found`,
		"get pdb no":                       `poddisruptionbudget "no" not found`,
		"delete pdb no":                    `poddisruptionbudget "no" not found`,
	} {
		a := s.run(strings.Fields(line)...)
		if a.status != 1 || !strings.Contains(a.stderr, want) || a.stdout != "" || strings.Count(a.stderr, "\n") != 1 {
			t.Errorf("%s: exit %d, %q, want 1 and one line with %q", line, a.status, a.stderr, want)
		}
	}
	if out := s.ok("move", "web", "--accept-risk"); out != "pod/web moving\n" {
		t.Errorf("move --accept-risk: %q", out)
	}
}

func TestTypesHaveKubectlsNames(t *testing.T) {
	for word, want := range map[string]*kind{
		"po": podKind, "pod": podKind, "pods": podKind, "Pods": podKind, "no": nodeKind, "nodes": nodeKind, "deploy": deploymentKind,
		"deployment": deploymentKind, "deployments.apps": deploymentKind, "ev": eventKind, "events": eventKind, "member": memberKind,
		"probes": probeKind, "failover": failoverKind,
	} {
		if got, err := kindOf(word); got != want {
			t.Errorf("kindOf(%q) = %v, %v", word, got, err)
		}
	}
	got, err := parseObjects([]string{"po,deploy", "a", "b"})
	if err != nil || len(got) != 4 || got[1] != (objectName{podKind, "b"}) || got[2] != (objectName{deploymentKind, "a"}) {
		t.Errorf("TYPE,TYPE NAME NAME: %v, %v", got, err)
	}
	got, err = parseObjects([]string{"po/a", "deploy/b"})
	if err != nil || len(got) != 2 || got[1] != (objectName{deploymentKind, "b"}) {
		t.Errorf("TYPE/NAME TYPE/NAME: %v, %v", got, err)
	}
}

func TestAgesHaveTwoUnitsAtMost(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 119 * time.Second: "119s", 2 * time.Minute: "2m", 190 * time.Second: "3m10s", 15*time.Minute + time.Second: "15m",
		179 * time.Minute: "179m", 3*time.Hour + 5*time.Minute: "3h5m", 20*time.Hour + 5*time.Minute: "20h", 49 * time.Hour: "2d1h", 400 * time.Hour: "16d",
	} {
		if got := ageText(d); got != want {
			t.Errorf("ageText(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestAPodsStatusIsTheWordThatSaysMost(t *testing.T) {
	waiting := func(r string) *musterv1.ContainerState {
		return &musterv1.ContainerState{State: &musterv1.ContainerState_Waiting{Waiting: &musterv1.ContainerWaiting{Reason: r}}}
	}
	ended := func(code, signal int32, r string) *musterv1.ContainerState {
		return &musterv1.ContainerState{State: &musterv1.ContainerState_Terminated{Terminated: &musterv1.ContainerTerminated{ExitCode: code, Signal: signal, Reason: r}}}
	}
	for want, change := range map[string]func(*musterv1.Pod){
		"Running": func(*musterv1.Pod) {},
		"Pending": func(p *musterv1.Pod) {
			p.Node, p.Status.Phase = "", musterv1.PodPhase_POD_PHASE_PENDING
			p.Status.Containers[0].State = waiting("ContainerCreating")
		},
		"ContainerCreating": func(p *musterv1.Pod) {
			p.Status.Phase, p.Status.Containers[0].State = musterv1.PodPhase_POD_PHASE_PENDING, waiting("ContainerCreating")
		},
		"Evicted":               func(p *musterv1.Pod) { p.Status.Reason = "Evicted" },
		"CrashLoopBackOff":      func(p *musterv1.Pod) { p.Status.Containers[0].State = waiting("CrashLoopBackOff") },
		"Completed":             func(p *musterv1.Pod) { p.Status.Containers[0].State = ended(0, 0, "Completed") },
		"ExitCode:3":            func(p *musterv1.Pod) { p.Status.Containers[0].State = ended(3, 0, "") },
		"Signal:9":              func(p *musterv1.Pod) { p.Status.Containers[0].State = ended(137, 9, "") },
		"Init:1/2":              func(p *musterv1.Pod) { initializing(p, ended(0, 0, "Completed"), waiting("PodInitializing")) },
		"Init:Error":            func(p *musterv1.Pod) { initializing(p, ended(1, 0, "Error"), waiting("PodInitializing")) },
		"Init:CrashLoopBackOff": func(p *musterv1.Pod) { initializing(p, ended(0, 0, "Completed"), waiting("CrashLoopBackOff")) },
		"Terminating": func(p *musterv1.Pod) {
			p.Meta.DeleteTime = timestamppb.Now()
			p.Status.Containers[0].State = waiting("x")
		},
	} {
		p := webPod("web", "n1", true)
		change(p)
		if got := podStatus(p); got != want {
			t.Errorf("podStatus = %s, want %s", got, want)
		}
	}
}

// initializing gives a pod two init containers that stand so.
func initializing(p *musterv1.Pod, states ...*musterv1.ContainerState) {
	p.Status.Phase = musterv1.PodPhase_POD_PHASE_PENDING
	p.Status.Conditions = nil
	for _, s := range states {
		p.Spec.InitContainers = append(p.Spec.InitContainers, &musterv1.Container{})
		p.Status.InitContainers = append(p.Status.InitContainers, &musterv1.ContainerStatus{State: s})
	}
}
