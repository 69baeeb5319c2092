package cli

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"crypto/x509"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/musterhq/muster/coordinator/api"
	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/leader"
	"github.com/musterhq/muster/coordinator/placement"
	"github.com/musterhq/muster/coordinator/probes"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/memory"
	"github.com/musterhq/muster/coordinator/usage"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/clientconfig"
	"github.com/musterhq/muster/internal/membership"
	"github.com/musterhq/muster/internal/spec"
)

var update = flag.Bool("update", false, "write what is answered into testdata/wrong.golden, and deploy/agent.yaml and coordinator.yaml")

// real is the coordinator's own API on a store in memory; it stands for the leader, the sessions and the tokens of a
// cluster in which no node is connected and a pod with the selector nowhere fits none.
type real struct{}

func (real) Connected(string) bool { return false }
func (real) Ask(context.Context, string, *agentv1.Ask, func(*agentv1.AnswerRequest) error) error {
	return errors.New("nobody is asked")
}
func (real) Exec(context.Context, string, *agentv1.Ask, <-chan *agentv1.InteractResponse, func(*agentv1.InteractRequest) error) error {
	return errors.New("nobody is asked")
}
func (real) Frozen() string { return "" }
func (real) Resume() bool   { return false }
func (real) Move(_ context.Context, name spec.ObjectName, _ bool) error {
	if name.Name != "web" {
		return fmt.Errorf("pod %s: %w", name, store.ErrNotFound)
	}
	return fmt.Errorf("pod %s %w", name, leader.ErrNotBound)
}
func (real) Elsewhere(*fleet.Pod) string                        { return "" }
func (real) Evict(context.Context, *fleet.Pod, store.Txn) error { return leader.ErrNotBound }
func (real) ExplainNodes(*spec.Pod) []placement.Refusal         { return nil }
func (real) Forget(context.Context, spec.ObjectName) error      { return nil }
func (real) Explain(p *spec.Pod) string {
	if p.Spec.NodeSelector["nowhere"] != "" {
		return "0/2 nodes fit: 2 without the labels of nodeSelector"
	}
	return ""
}
func (r real) Where(p *spec.Pod) (node, why string) {
	if why := r.Explain(p); why != "" {
		return "", why
	}
	return "n1", ""
}
func (real) Create(context.Context, musterv1.Role, time.Duration, int) (string, error) {
	return "id.secret", nil
}
func (real) List(context.Context) ([]*musterv1.Token, error) { return nil, nil }
func (real) Revoke(_ context.Context, id string) error {
	return fmt.Errorf("token %s: %w", id, store.ErrNotFound)
}
func (real) Login(context.Context, string, string, []byte) (cert, ca []byte, err error) {
	return nil, nil, store.ErrNotFound
}

// startReal serves it on loopback over TLS, and returns how a client reaches it.
func startReal(t *testing.T) clientconfig.Context {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	kept := memory.New()
	cache := store.NewCache(kept, log)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = cache.Run(ctx) })
	<-cache.Ready()
	ca, caKey := certificate(t, nil, nil)
	cert, key := certificate(t, ca, caKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}},
		ClientCAs:    pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	})), grpc.UnaryInterceptor(api.UnaryErrors(log)), grpc.StreamInterceptor(api.StreamErrors(log)))
	api.New(api.Config{Version: "1.2.3", ClusterID: "c1", LeaseTTL: 5 * time.Second}, api.Deps{
		Store: kept, Cache: cache, Fleet: fleet.Share(cache), Probes: probes.New(), Usage: usage.New(), Sessions: real{}, Leader: real{}, Tokens: real{},
		Members: func() []membership.Member { return nil }, Log: log, Now: time.Now,
	}).Register(server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { _ = server.Serve(l) }) // ends with Stop
	t.Cleanup(func() {
		server.Stop()
		cancel()
		_ = kept.Close()
		wg.Wait()
	})
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return clientconfig.Context{Name: "test", Server: l.Addr().String(), CA: block("CERTIFICATE", ca.Raw), Certificate: block("CERTIFICATE", cert.Raw), Key: block("PRIVATE KEY", der)}
}

// wrong are inputs as people get them wrong. What follows a line feed is stdin.
var wrong = []string{
	// The command line.
	"",
	"gett pods",
	"get",
	"get frobs",
	"get pods --nope",
	"get pods -o xml",
	"get pods -o go-template={{.}}",
	"get pods -o jsonpath={.items[}",
	"get statefulsets.apps",
	"get pods --field-selector spec.hostNetwork=true",
	"get pods --sort-by {",
	"get pods -l a=(",
	"get pod web -l app=web",
	"get pod/web node",
	"get members -w",
	"get pod nope",
	"describe pod nope",
	"describe events",
	"delete pod",
	"delete pod nope",
	"delete pod web --grace-period=-1",
	"delete node nope",
	"label pod web",
	"label pod web -team=blue",
	"label pod web team=bl/ue",
	"label pod web app=other",
	"label pod nope a=b",
	"annotate event/x a=b",
	"wait pod/web",
	"wait --for=ready pod/web",
	"wait --for=condition=Ready pod/nope",
	"wait --for=condition=Ready pod/web --timeout=50ms",
	"wait --for=condition=Ready pods -l app=nobody",
	"scale deployment/site",
	"scale deployment/site --replicas=-1",
	"scale deployment/site --replicas=20000",
	"scale deployment/nope --replicas=1",
	"logs nope",
	"logs web",
	"exec web ls",
	"exec web -- ls",
	"port-forward web",
	"port-forward web 80:http:8080",
	"port-forward web 8080:80",
	"move web",
	"cordon nope",
	"resume",
	"resume pod/web",
	"resume deployment/nope",
	"probe history nope",
	"why",
	"why nope",
	"why node/n1",
	"why web -o wide",
	"why web -c nope",
	"token create --role king",
	"token create --uses 0",
	"token revoke nope",
	"status --timeout=-1s",
	"status --context elsewhere",
	"status --config nowhere.yaml",
	"status --config gone.yaml",
	"drill n1",
	// Manifests.
	"apply",
	"apply -f missing.yaml",
	"apply -f empty",
	"apply -f - --dry-run=maybe",
	"apply -f -\n",
	"apply -f -\nthis: is: not: yaml\n",
	"apply -f -\n- a list\n",
	"apply -f -\napiVersion: v1\nmetadata: {name: a}\n",
	"apply -f -\napiVersion: v1\nkind: Frob\nmetadata: {name: a}\n",
	"apply -f -\napiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: a}\n",
	"apply -f -\napiVersion: extensions/v1beta1\nkind: Deployment\nmetadata: {name: a}\n",
	"apply -f -\napiVersion: v1\nkind: Pod\nmetadata: {name: My_Pod}\nspec: {containers: [{name: c, command: [x]}]}\n",
	"apply -f -\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {}\n",
	"apply -f -\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {container: [{name: c, command: [x]}]}\n",
	"apply -f -\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c}, {name: c, command: [x]}]}\n",
	"apply -f -\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, command: [x], ports: [{containerPort: 70000}]}]}\n",
	"apply -f -\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, command: [x], env: [{name: A, value: 1}]}]}\n",
	"apply -f -\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, command: [x], resources: {limits: {cpu: lots}}}]}\n",
	"apply -f -\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, command: [x], livenessProbe: {httpGet: {port: 80}, periodSeconds: -1}}]}\n",
	"apply -f -\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, command: [x], securityContext: {privileged: true}}]}\n",
	"apply -f - -n other\napiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: default}\nspec: {containers: [{name: c, command: [x]}]}\n",
	"apply -f -\napiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: main, command: [other]}]}\n",
	"apply -f -\napiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {nodeName: n9, containers: [{name: main, command: [serve]}]}\n",
	"apply -f - --dry-run=server\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {nodeSelector: {nowhere: x}, containers: [{name: c, command: [x]}]}\n",
	"apply -f -\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: site}\nspec: {selector: {matchLabels: {app: other}}, template: {metadata: {labels: {app: other}}, spec: {containers: [{name: c, command: [x]}]}}}\n",
	"apply -f -\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: b}}, spec: {containers: [{name: c, command: [x]}]}}}\n",
	"diff -f missing.yaml",
	"diff -f -\napiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: main, command: [other]}]}\n",
}

// stored is what there is before.
const stored = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: main, command: [serve]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: site}
spec: {selector: {matchLabels: {app: site}}, template: {metadata: {labels: {app: site}}, spec: {containers: [{name: c, command: [x]}]}}}
`

// TestWhatIsAnsweredToWrongInput holds the words: go test -run WrongInput -update writes them.
func TestWhatIsAnsweredToWrongInput(t *testing.T) {
	golden, err := filepath.Abs(filepath.Join("testdata", "wrong.golden"))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	target := startReal(t)
	s := &shell{t, map[string]string{"HOME": "/nowhere", "MUSTER_CONFIG": "client.yaml"}}
	conf := clientconfig.Config{Contexts: []clientconfig.Context{target}}
	if err := conf.Save("client.yaml"); err != nil {
		t.Fatal(err)
	}
	target.Server = "127.0.0.1:1" // nobody has it
	if err := (&clientconfig.Config{Contexts: []clientconfig.Context{target}}).Save("gone.yaml"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("empty", 0o700); err != nil {
		t.Fatal(err)
	}
	if a := s.runWith(stored, "apply", "-f", "-"); a.status != 0 {
		t.Fatal(a.stderr)
	}
	address := regexp.MustCompile(`127\.0\.0\.1:\d{2,}`)
	var got strings.Builder
	for _, in := range wrong {
		line, stdin, _ := strings.Cut(in, "\n")
		a := s.runWith(stdin, strings.Fields(line)...)
		if a.status == 0 || a.stderr == "" || !strings.HasSuffix(a.stderr, "\n") || strings.Contains(a.stderr, "goroutine") {
			t.Errorf("muster %s: exit %d, %q", line, a.status, a.stderr)
		}
		if len(strings.Split(a.stderr, "\n")) < 20 && !tellsMore(a.stderr) {
			t.Errorf("muster %s: no next step in %q", line, a.stderr)
		}
		fmt.Fprintf(&got, "$ muster %s\n", line)
		for l := range strings.Lines(stdin) {
			fmt.Fprintf(&got, "< %s", l)
		}
		if line == "" {
			a.stderr = a.stderr[strings.LastIndex(strings.TrimSpace(a.stderr), "\n")+1:] // after the help
		}
		fmt.Fprintf(&got, "%s%sexit %d\n\n", a.stdout, address.ReplaceAllString(a.stderr, "ADDRESS"), a.status)
	}
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	is, should := strings.Split(got.String(), "\n\n"), strings.Split(string(want), "\n\n")
	for i := range max(len(is), len(should)) {
		if i >= len(is) || i >= len(should) || is[i] != should[i] {
			t.Fatalf("answered\n%s\nwant\n%s\n(-update takes it over)", strings.Join(is[i:min(i+1, len(is))], ""), strings.Join(should[i:min(i+1, len(should))], ""))
		}
	}
}

// nextStep are the words that say what to do, what is wanted, or which field is meant.
var nextStep = regexp.MustCompile(`see "|"muster |: want |did you mean|pass |leave |must |[Uu]nsupported value|supported values|not built yet|Not built yet|a manifest is|` +
	`Required value|unknown field|Duplicate value|there is |delete it first|create it|certificates|match|at most|part |found|comes after|not selected|MUSTER_|has no |immutable|yaml`)

func tellsMore(text string) bool {
	for line := range strings.Lines(text) {
		if !nextStep.MatchString(line) {
			return false
		}
	}
	return true
}

// everyKind has one object of each kind that manifests make.
const everyKind = stored + `---
apiVersion: v1
kind: Service
metadata: {name: site}
spec: {clusterIP: None, selector: {app: site}, ports: [{port: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {a: one}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {a: hidden, b: same}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: most}
spec: {minAvailable: 1, selector: {matchLabels: {app: site}}}
`

func TestEveryKindIsLabelledComparedAndAppliedAsItIsPrinted(t *testing.T) {
	conf := clientconfig.Config{Contexts: []clientconfig.Context{startReal(t)}}
	s := &shell{t, map[string]string{"HOME": "/nowhere", "MUSTER_CONFIG": filepath.Join(t.TempDir(), "client.yaml")}}
	if err := conf.Save(s.env["MUSTER_CONFIG"]); err != nil {
		t.Fatal(err)
	}
	if a := s.runWith(everyKind, "apply", "-f", "-"); a.status != 0 || strings.Count(a.stdout, "created") != 6 {
		t.Fatalf("%+v", a)
	}
	for _, object := range []string{"pod/web", "deployment/site", "service/site", "configmap/conf", "secret/key", "poddisruptionbudget/most"} {
		if out := s.ok("label", object, "team=blue"); out != object+" labeled\n" {
			t.Errorf("label: %q", out)
		}
		if out := s.ok("annotate", object, "note=x"); out != object+" annotated\n" {
			t.Errorf("annotate: %q", out)
		}
		if out := s.ok("label", object, "--list"); !strings.Contains(out, "team=blue\n") {
			t.Errorf("label --list %s: %q", object, out)
		}
		text := s.ok("get", object, "-o", "yaml")
		if a := s.runWith(text, "apply", "-f", "-"); a.stdout != object+" unchanged\n" || a.stderr != "" {
			t.Errorf("apply of what get prints: %+v", a)
		}
		if a := s.runWith(text, "diff", "-f", "-"); a != (answer{}) {
			t.Errorf("diff of what get prints: %+v", a)
		}
		if a := s.runWith(text, "apply", "-f", "-", "--dry-run=client"); a.stdout != object+" unchanged (dry run)\n" {
			t.Errorf("client dry run of what get prints: %+v", a)
		}
		if a := s.runWith(strings.ReplaceAll(text, "blue", "red"), "diff", "-f", "-"); a.status != 1 || !strings.Contains(a.stdout, "-    team: blue\n+    team: red\n") {
			t.Errorf("diff of another label: %+v", a)
		}
		s.ok("wait", "--for=create", object)
	}
	a := s.runWith(strings.Replace(everyKind, "hidden", "changed", 1), "diff", "-f", "-")
	if a.status != 1 || !strings.Contains(a.stdout, "-  a: '*** (before)'\n+  a: '*** (after)'\n   b: '***'\n") {
		t.Errorf("diff of a Secret: %+v", a)
	}
}
