package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheCommandIsWhatMakeIsTold(t *testing.T) {
	for want, args := range map[string]string{
		"make bench-peers": "--write docs/performance.md",
		"make bench-peers PEERS='--loads http:10:1s --rounds 2'": "--write=x --loads http:10:1s --blackbox /opt/b --rounds 2 --muster m --kubelet=k",
		"make bench-peers PEERS='--quick'":                       "--write x --quick",
	} {
		if got := command(strings.Fields(args)); got != want {
			t.Errorf("%s: %s, want %s", args, got, want)
		}
	}
}

func TestWhatMakesNoSenseIsRefusedBeforeAnythingIsMeasured(t *testing.T) {
	document := filepath.Join(t.TempDir(), "performance.md")
	if err := os.WriteFile(document, []byte("no place\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string]string{
		"only flags": "quick", "leave out": "--quick --rounds 3", "load \"x\"": "--loads x", "rounds 0": "--rounds 0", "nowhere": "--muster /nowhere",
		"want one line": "--write " + document, "no such file": "--write " + document + ".not", "unknown flag": "--fast",
	} {
		if err := run(t.Context(), strings.Fields(args), io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want it to say %q", args, err, want)
		}
	}
}
