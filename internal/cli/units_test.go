package cli

import (
	"bytes"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

const installed = "/usr/local/bin/muster"

func unitPath(command string) string {
	return filepath.Join("..", "..", "deploy", "systemd", "muster-"+command+".service")
}

// unit reads a unit's settings, by "Section.Name".
func unit(t *testing.T, command string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(unitPath(command))
	if err != nil {
		t.Fatal(err)
	}
	settings, section := map[string][]string{}, ""
	for line := range strings.Lines(string(text)) {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "["):
			section = strings.Trim(line, "[]")
		case line != "" && !strings.HasPrefix(line, "#"):
			name, value, _ := strings.Cut(line, "=")
			settings[section+"."+name] = append(settings[section+"."+name], value)
		}
	}
	return settings
}

// analyze runs systemd-analyze on copies of the units that start this test's program, which is there, unlike muster's.
func analyze(t *testing.T, args ...string) (string, error) {
	t.Helper()
	program, err := osexec.LookPath("systemd-analyze")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(`systemd-analyze is missing: run "make tools-ci"`)
		}
		t.Skip("no systemd-analyze here")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, f := range configFiles {
		text, err := os.ReadFile(unitPath(f.command))
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.ReplaceAll(text, []byte(installed), []byte(self))
		path := filepath.Join(dir, filepath.Base(unitPath(f.command)))
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		for i, a := range args {
			if a == f.command {
				args[i] = path
			}
		}
	}
	out, err := osexec.Command(program, args...).CombinedOutput()
	return string(out), err
}

func TestSystemdUnderstandsTheUnits(t *testing.T) {
	for _, f := range configFiles {
		// A misspelt setting is only a warning to it.
		if out, err := analyze(t, "verify", "--man=no", f.command); err != nil || strings.Contains(out, ".service:") {
			t.Errorf("%s: %v\n%s", f.command, err, out)
		}
	}
}

func TestSystemdCountsTheCoordinatorsUnitAmongTheWellConfined(t *testing.T) {
	// 10 is a unit without any confinement, 0 one that can do nothing.
	if out, err := analyze(t, "security", "--offline=true", "--threshold=25", "--no-pager", "coordinator"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestTheUnitsStartTheServersWithTheInstalledConfigFilesAndDirectories(t *testing.T) {
	for _, f := range configFiles {
		u := unit(t, f.command)
		start := u["Service.ExecStart"]
		if len(start) != 1 {
			t.Fatalf("%s: ExecStart %q", f.command, start)
		}
		words := strings.Fields(start[0])
		if words[0] != installed || words[1] != f.command {
			t.Errorf("%s: starts %q", f.command, words)
		}
		flags, _ := f.settings()
		if err := flags.Parse(words[2:]); err != nil {
			t.Errorf("%s: %v", f.command, err)
		}
		if got, want := flags.Lookup("config-file").Value.String(), "/etc/muster/"+f.command+".yaml"; got != want {
			t.Errorf("%s: reads %s, want %s", f.command, got, want)
		}
		flags.Visit(func(flag *pflag.Flag) {
			if flag.Name != "config-file" {
				t.Errorf("%s: --%s is set by the unit, where the file cannot change it", f.command, flag.Name)
			}
		})
		dir := "/var/lib/" + strings.Join(u["Service.StateDirectory"], "")
		if !slices.Contains(f.given, [2]string{"data-dir", dir}) {
			t.Errorf("%s: systemd makes %s, and the config file has %v", f.command, dir, f.given)
		}
	}
}

func TestPodsOutliveTheAgentsUnit(t *testing.T) {
	u := unit(t, "agent")
	for name, want := range map[string]string{
		"KillMode": "process", "Delegate": "yes", "TasksMax": "infinity", "OOMPolicy": "continue",
		// What would bind the pods, or make them see another machine.
		"NoNewPrivileges": "", "ProtectSystem": "", "ProtectHome": "", "PrivateTmp": "", "PrivateDevices": "", "CapabilityBoundingSet": "",
		"SystemCallFilter": "", "RestrictNamespaces": "", "UMask": "", "OOMScoreAdjust": "", "User": "", "RuntimeDirectory": "", "LimitCORE": "",
	} {
		if got := strings.Join(u["Service."+name], " "); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}
