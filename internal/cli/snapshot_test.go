package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAWrongSnapshotIsRefusedByWhatIsWrong(t *testing.T) {
	s, dir := newShell(t, nil), t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	garbage, cut, full := write("garbage", strings.Repeat("apiVersion: v1\n", 20)), write("cut", "muster snapshot\n\x00\x00\x00\x01"), write("full", "")
	none, fresh := filepath.Join(dir, "none"), filepath.Join(dir, "fresh")
	for line, want := range map[string]struct {
		status int
		says   string
	}{
		"snapshot verify " + none:                                           {1, "no such file"},
		"snapshot verify " + garbage:                                        {1, "not a snapshot"},
		"snapshot verify " + cut:                                            {1, "damaged"},
		"snapshot verify " + full:                                           {1, "empty"},
		"snapshot verify " + dir:                                            {1, "no file"},
		"snapshot verify":                                                   {2, "arg"},
		"snapshot verify -o toml " + cut:                                    {2, "toml"},
		"snapshot restore " + cut:                                           {2, "--data-dir"},
		"snapshot restore " + none + " --data-dir " + fresh:                 {1, "no such file"},
		"snapshot restore " + garbage + " --data-dir " + fresh:              {1, "not a snapshot"},
		"snapshot restore " + garbage + " --data-dir " + dir:                {1, "not empty"},
		"snapshot restore x --data-dir y --secrets-key z --without-secrets": {2, "together"},
		"snapshot save " + fresh:                                            {1, "no cluster"},
	} {
		a := s.run(strings.Fields(line)...)
		if a.status != want.status || !strings.Contains(a.stderr, want.says) || a.stdout != "" {
			t.Errorf("%s: exit %d, %q, want %d and %q", line, a.status, a.stderr, want.status, want.says)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 3 {
		t.Errorf("something was left: %v", entries)
	}
}
