package cli

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/musterhq/muster/internal/config"
)

// A configFile is one of deploy/, with what a person has to decide in it.
type configFile struct {
	command string
	head    string
	given   [][2]string
}

var configFiles = []configFile{
	{
		"coordinator",
		"Settings of \"muster coordinator\", for --config-file: each under its flag's name. What is commented out is at its default.\n" +
			"A variable (MUSTER_COORDINATOR_LISTEN for listen) is stronger than this file, a flag stronger than both; a name that is " +
			"misspelt is refused. \"muster coordinator --config-file FILE --print-config\" shows what is in force, and from where.",
		[][2]string{{"data-dir", "/var/lib/muster/coordinator"}},
	},
	{
		"agent",
		"Settings of \"muster agent\", for --config-file: each under its flag's name. What is commented out is at its default.\n" +
			"A variable (MUSTER_AGENT_NODE for node) is stronger than this file, a flag stronger than both; a name that is " +
			"misspelt is refused. \"muster agent --config-file FILE --print-config\" shows what is in force, and from where.\n" +
			"The join token belongs into /etc/muster/agent.env, as MUSTER_AGENT_TOKEN=…, and only until the node has joined.",
		[][2]string{{"data-dir", "/var/lib/muster/agent"}, {"node", "node-1"}, {"join", `["10.0.0.1:7700"]`}},
	},
}

func (f configFile) path() string { return filepath.Join("..", "..", "deploy", f.command+".yaml") }

// settings are the flags of the command, as it declares them.
func (f configFile) settings() (*pflag.FlagSet, *config.Settings) {
	flags := pflag.NewFlagSet(f.command, pflag.ContinueOnError)
	if f.command == "agent" {
		(&agentFlags{}).add(flags)
	} else {
		(&coordinatorFlags{}).add(flags)
	}
	return flags, config.Add(f.command, flags)
}

func TestTheConfigFilesHaveEverySettingWithItsFlagsHelp(t *testing.T) {
	for _, f := range configFiles {
		_, settings := f.settings()
		var want bytes.Buffer
		if err := settings.Example(&want, f.head, f.given...); err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(f.path(), want.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(f.path())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s is stale: run go test ./internal/cli -run ConfigFiles -update", f.path())
		}
	}
}

var commentedOut = regexp.MustCompile(`(?m)^#([a-z][a-z0-9-]*: )`)

func TestTheConfigFilesAreTakenAsTheyAreAndWithEverythingInForce(t *testing.T) {
	for _, f := range configFiles {
		text, err := os.ReadFile(f.path())
		if err != nil {
			t.Fatal(err)
		}
		full := commentedOut.ReplaceAll(text, []byte("$1"))
		given := map[string]bool{}
		for _, g := range f.given {
			given[g[0]] = true
		}
		for name, content := range map[string][]byte{"as it is": text, "all in force": full} {
			path := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			flags, settings := f.settings()
			if err := flags.Parse([]string{"--config-file", path}); err != nil {
				t.Fatal(err)
			}
			if err := settings.Resolve(nil); err != nil {
				t.Errorf("%s, %s: %v", f.command, name, err)
				continue
			}
			flags.VisitAll(func(flag *pflag.Flag) {
				if flag.Name == "config-file" || flag.Name == "print-config" {
					return
				}
				fromFile := strings.HasPrefix(settings.Source(flag.Name), "file ")
				if want := given[flag.Name] || name == "all in force"; fromFile != want {
					t.Errorf("%s, %s: %s is from %s", f.command, name, flag.Name, settings.Source(flag.Name))
				}
				if !given[flag.Name] && flag.Value.String() != flag.DefValue {
					t.Errorf("%s, %s: %s is %q, its default %q", f.command, name, flag.Name, flag.Value, flag.DefValue)
				}
			})
		}
	}
}

func TestTheServersTakeTheConfigFiles(t *testing.T) {
	for _, f := range configFiles {
		var out, problems bytes.Buffer
		w := World{Stdout: &out, Stderr: &problems, Getenv: func(string) string { return "" }, Environ: func() []string { return nil }}
		if status := Main(t.Context(), []string{f.command, "--config-file", f.path(), "--print-config"}, w); status != 0 {
			t.Errorf("%s: status %d: %s", f.command, status, &problems)
		}
		want := map[string]bool{}
		for _, g := range f.given {
			want[g[0]] = false
		}
		for line := range strings.Lines(out.String()) {
			if fields := strings.Fields(line); slices.Contains(fields, "file") {
				want[fields[0]] = true
			}
		}
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if !want[name] {
				t.Errorf("%s: %s is not from the file:\n%s", f.command, name, &out)
			}
		}
	}
}
