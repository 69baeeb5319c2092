package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// server is what a server's command declares.
type server struct {
	*Settings
	flags   *pflag.FlagSet
	dir     string
	join    []string
	ttl     time.Duration
	pods    int
	open    bool
	token   string
	file    string
	environ []string
}

func newServer(t *testing.T, file string) *server {
	s := &server{flags: pflag.NewFlagSet("agent", pflag.ContinueOnError)}
	s.flags.StringVar(&s.dir, "data-dir", "", "")
	s.flags.StringSliceVar(&s.join, "join", []string{"default:1"}, "")
	s.flags.DurationVar(&s.ttl, "lease-ttl", 10*time.Second, "")
	s.flags.IntVar(&s.pods, "max-pods", 1000, "")
	s.flags.BoolVar(&s.open, "allow-privileged-pods", false, "")
	s.flags.StringVar(&s.token, "token", "", "")
	s.Settings = Add("agent", s.flags)
	Secret(s.flags, "token")
	if file != "" {
		s.file = filepath.Join(t.TempDir(), "agent.yaml")
		if err := os.WriteFile(s.file, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// resolve parses args as a command line, --config-file added, and resolves.
func (s *server) resolve(t *testing.T, args ...string) error {
	t.Helper()
	if s.file != "" {
		args = append(args, "--config-file", s.file)
	}
	if err := s.flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return s.Resolve(s.environ)
}

func TestEachSourceIsStrongerThanTheOneBefore(t *testing.T) {
	const file = "data-dir: from-file\njoin: [a:1, b:2]\nmax-pods: 7\nlease-ttl: 3s\nallow-privileged-pods: true\n"
	s := newServer(t, file)
	s.environ = []string{"MUSTER_AGENT_DATA_DIR=from-env", "MUSTER_AGENT_MAX_PODS=8", "MUSTER_COORDINATOR_NAME=other", "PATH=/bin"}
	if err := s.resolve(t, "--max-pods", "9"); err != nil {
		t.Fatal(err)
	}
	for flag, want := range map[string][2]string{
		"data-dir": {"from-env", "environment MUSTER_AGENT_DATA_DIR"}, "max-pods": {"9", "flag"},
		"join": {"[a:1,b:2]", "file " + s.file}, "lease-ttl": {"3s", "file " + s.file},
		"allow-privileged-pods": {"true", "file " + s.file}, "token": {"", "default"},
	} {
		if got := s.flags.Lookup(flag).Value.String(); got != want[0] {
			t.Errorf("%s is %q, want %q", flag, got, want[0])
		}
		if got := s.Source(flag); got != want[1] {
			t.Errorf("%s is from %q, want %q", flag, got, want[1])
		}
	}
}

func TestTheFileMayBeNamedByTheEnvironment(t *testing.T) {
	s := newServer(t, "max-pods: 5")
	s.environ, s.file = []string{"MUSTER_AGENT_CONFIG_FILE=" + s.file}, ""
	if err := s.resolve(t); err != nil || s.pods != 5 {
		t.Errorf("max-pods %d, %v", s.pods, err)
	}
}

func TestAListMayBeOneText(t *testing.T) {
	s := newServer(t, "join: a:1,b:2")
	s.environ = nil
	if err := s.resolve(t); err != nil || strings.Join(s.join, " ") != "a:1 b:2" {
		t.Errorf("join %v, %v", s.join, err)
	}
	s = newServer(t, "")
	s.environ = []string{"MUSTER_AGENT_JOIN=c:1,d:2"}
	if err := s.resolve(t); err != nil || strings.Join(s.join, " ") != "c:1 d:2" {
		t.Errorf("join %v, %v", s.join, err)
	}
}

func TestWhatIsWrongIsNamed(t *testing.T) {
	for _, row := range []struct{ name, file, env, want string }{
		{"misspelt in the file", "data-dri: x", "", "data-dri: no such setting (did you mean data-dir?)"},
		{"nothing like it", "zzzzzzzzzzz: x", "", "zzzzzzzzzzz: no such setting"},
		{"misspelt in the environment", "", "MUSTER_AGENT_DATADIR=x", "MUSTER_AGENT_DATADIR: no such setting (did you mean MUSTER_AGENT_DATA_DIR?)"},
		{"wrong case in the environment", "", "MUSTER_AGENT_data_dir=x", "no such setting"},
		{"twice", "max-pods: 1\nmax-pods: 2", "", "max-pods"},
		{"nested", "data-dir: {a: b}", "", "data-dir: a map"},
		{"no map", "- a", "", "want a map"},
		{"no value", "data-dir:", "", "data-dir: no value"},
		{"list for a text", "data-dir: [a]", "", "data-dir: a list"},
		{"yes for a text", "data-dir: yes", "", "data-dir: true is not a string: put it in quotes"},
		{"number for a text", "data-dir: 0x10", "", "data-dir: 16 is not a string"},
		{"number for a duration", "lease-ttl: 5", "", "lease-ttl: 5 is not a duration"},
		{"text for a number", "max-pods: many", "", `max-pods: "many" is not valid`},
		{"bad in the environment", "", "MUSTER_AGENT_LEASE_TTL=soon", `MUSTER_AGENT_LEASE_TTL: "soon" is not valid`},
		{"bad although overridden", "max-pods: [1]", "MUSTER_AGENT_MAX_PODS=2", "max-pods: a list"},
		{"a file in the file", "config-file: x", "", "config-file: no such setting"},
		{"not YAML", "a: b: c", "", "agent.yaml"},
		{"too large", "# " + strings.Repeat("x", maxFile), "", "more than"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newServer(t, row.file)
			if row.env != "" {
				s.environ = []string{row.env}
			}
			err := s.resolve(t)
			if err == nil || !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q", err, row.want)
			}
		})
	}
	s := newServer(t, "")
	if err := s.resolve(t, "--config-file", "/no/such/file"); err == nil || !strings.Contains(err.Error(), "/no/such/file") {
		t.Errorf("missing file: %v", err)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	s := newServer(t, "")
	s.environ = []string{"MUSTER_AGENT_TOKEN=hush"}
	if err := s.resolve(t, "--print-config"); err != nil || !s.Print() {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := s.Write(&b); err != nil {
		t.Fatal(err)
	}
	out := b.String()
	if strings.Contains(out, "hush") || !strings.Contains(out, "(secret)") {
		t.Errorf("printed:\n%s", out)
	}
	for _, want := range []string{"data-dir               \"\"", "lease-ttl              10s", "environment MUSTER_AGENT_TOKEN", "[default:1]"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if strings.Contains(out, "print-config") {
		t.Errorf("printed:\n%s", out)
	}
}

func FuzzFilesFromOutsideDoNoHarm(f *testing.F) {
	f.Add("data-dir: x\njoin: [a, 1, null]\n")
	f.Add("a: &a [*a]")
	f.Fuzz(func(t *testing.T, file string) {
		s := newServer(t, file)
		_ = s.resolve(t)
	})
}
