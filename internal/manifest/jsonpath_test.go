package manifest

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestJSONPathFindsAndPrintsAsKubectlDoes(t *testing.T) {
	var v any
	if err := json.Unmarshal([]byte(`{"items":[{"name":"a","n":1,"c":[{"t":"Ready","s":"True"}]},{"name":"b","n":2}]}`), &v); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		template, print string
		find            []any
	}{
		{"{.items[*].name}", "a b", []any{"a", "b"}},
		{".items[0].name", "a", []any{"a"}},
		{"items[0].n", "1", []any{1.0}},
		{`{.items[*].c[?(@.t=="Ready")].s}`, "True", []any{"True"}},
		{"{.items[0].missing.deeper}", "", nil},
	} {
		p, err := ParseJSONPath(c.template)
		if err != nil {
			t.Errorf("%s: %v", c.template, err)
			continue
		}
		var b strings.Builder
		if err := p.Print(&b, v); err != nil || b.String() != c.print {
			t.Errorf("%s prints %q, %v, want %q", c.template, b.String(), err, c.print)
		}
		got, err := p.Find(v)
		if d := cmp.Diff(c.find, got); d != "" || err != nil {
			t.Errorf("%s finds %v, %v", c.template, d, err)
		}
	}
	p, err := ParseJSONPath(`{range .items[*]}{.name}={.n}{"\n"}{end}`)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := p.Print(&b, v); err != nil || b.String() != "a=1\nb=2\n" {
		t.Errorf("range prints %q, %v", b.String(), err)
	}
	for _, bad := range []string{"", "{.a", "{.a[}"} {
		if _, err := ParseJSONPath(bad); err == nil {
			t.Errorf("ParseJSONPath(%q) gives no error", bad)
		}
	}
}
