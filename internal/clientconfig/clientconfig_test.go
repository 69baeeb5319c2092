package clientconfig

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWhatIsSavedIsLoadedAndPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "client.yaml")
	want := &Config{CurrentContext: "b", Contexts: []Context{{Name: "a", Server: "h:1"}, {Name: "b", Server: "h:2", CA: "x\ny\n"}}}
	if err := want.Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v, want 0600", fi.Mode(), err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestABadFileIsRefusedWithItsFieldInOneLine(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown field": {"contexts: [{name: a, server: h:1, sever: x}]", "sever"},
		"doubled field": {"current-context: a\ncurrent-context: b", "current-context"},
		"no name":       {"contexts: [{server: h:1}]", "contexts[0].name: required"},
		"no server":     {"contexts: [{name: a}]", "contexts[0].server: required"},
		"same name":     {"contexts: [{name: a, server: x}, {name: a, server: y}]", `contexts[1].name: "a" is there twice`},
		"not yaml":      {"{", "yaml"},
		"too large":     {"# " + strings.Repeat("x", maxSize), "more than"},
	} {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: Load = %v, want one line with the file and %q", name, err, c.want)
		}
	}
}

func TestTheContextIsTheNamedElseTheCurrentElseTheOnlyOne(t *testing.T) {
	a, b := Context{Name: "a", Server: "1"}, Context{Name: "b", Server: "2"}
	for name, c := range map[string]struct {
		conf   Config
		ask    string
		want   string
		hasErr string
	}{
		"named":      {conf: Config{CurrentContext: "a", Contexts: []Context{a, b}}, ask: "b", want: "b"},
		"current":    {conf: Config{CurrentContext: "b", Contexts: []Context{a, b}}, want: "b"},
		"the only":   {conf: Config{Contexts: []Context{a}}, want: "a"},
		"none named": {conf: Config{Contexts: []Context{a, b}}, hasErr: "pass --context, one of: a, b"},
		"unknown":    {conf: Config{Contexts: []Context{a, b}}, ask: "c", hasErr: `no context "c": there is a, b`},
	} {
		got, err := c.conf.Context(c.ask)
		if got.Name != c.want || (c.hasErr == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.hasErr) {
			t.Errorf("%s: got %q, %v", name, got.Name, err)
		}
	}
}

func TestSetReplacesAndRemoveForgets(t *testing.T) {
	c := Config{CurrentContext: "a"}
	c.Set(Context{Name: "a", Server: "1"})
	c.Set(Context{Name: "b", Server: "2"})
	c.Set(Context{Name: "a", Server: "3"})
	if got, err := c.Context("a"); err != nil || got.Server != "3" || len(c.Contexts) != 2 {
		t.Errorf("after Set: %+v, %v", c, err)
	}
	c.Remove("a")
	if c.CurrentContext != "" || len(c.Contexts) != 1 {
		t.Errorf("after Remove: %+v", c)
	}
}
