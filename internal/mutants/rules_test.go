package mutants

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// rules are the numbered rules of probing, as docs/probes.md cites them.
var rules = strings.Fields(`
	2.1 2.2 2.3 2.4 2.5 2.6 2.7 2.8 2.9
	3.1.1 3.1.2 3.1.3 3.1.4
	3.2.1 3.2.2 3.2.3 3.2.4 3.2.5 3.2.6
	3.3.1 3.3.2 3.3.3 3.3.4 3.3.5 3.3.6 3.3.7 3.3.8 3.3.9 3.3.10 3.3.11
	3.4.1 3.5 3.5.1
	4.1 4.2 4.3 4.4
	5.1.1 5.1.2 5.1.3 5.1.4 5.1.5 5.1.6
	5.2.1 5.2.2 5.2.3 5.2.4 5.2.5 5.2.6 5.2.7 5.2.8 5.2.9 5.2.10 5.2.11 5.2.12 5.2.13
	5.3 5.3.1 5.3.2 5.3.3 5.3.4
	5.4.1 5.4.2 5.4.3
	5.5 5.5.1 5.5.2 5.5.3
	5.6.1
	7.1 7.1.1 7.2 7.3 7.4 7.5 7.6 7.7 7.8 7.9
	8.1 8.2 8.3 8.3.1 8.4 8.5
	9.1 9.2 9.3 9.4
	10.1 10.2 10.3 10.4 10.5
	11.1 11.2 11.3 11.4
	12.1 12.2
	13 13.1
`)

const root = "../.."

var (
	number = regexp.MustCompile(`[0-9]+(\.[0-9]+)+|\b13\b`)
	leads  = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*\b`)
)

// named are the rules that the tests of a file name: in a line above a test that begins with "Rule", or at the beginning of a
// row's name or of what a failing test says.
func named(t *testing.T, path string) (all []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		for line := range strings.Lines(f.Doc.Text()) {
			if strings.HasPrefix(line, "Rule") && strings.HasPrefix(f.Name.Name, "Test") {
				all = append(all, number.FindAllString(line, -1)...)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				if text, err := strconv.Unquote(l.Value); err == nil {
					all = append(all, leads.FindString(text))
				}
			}
			return true
		})
	}
	return all
}

func TestEveryRuleHasATestThatNamesIt(t *testing.T) {
	held := map[string][]string{}
	for _, dir := range []string{"agent", "internal/spec", "internal/event"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			for _, rule := range named(t, path) {
				held[rule] = append(held[rule], path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, rule := range rules {
		if len(held[rule]) == 0 {
			t.Errorf("no test names rule %s", rule)
		}
	}
}

// The table of differences names a test for each.
func TestEveryDifferenceFromTheKubeletHasATest(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/probes.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "\n| kubelet | muster | why | held by |\n")
	if !ok {
		t.Fatal("docs/probes.md has no table of differences")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	rows := strings.Split(table, "\n")[1:]
	if len(rows) < 20 {
		t.Fatalf("%d differences", len(rows))
	}
	tests := map[string]bool{}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok {
				tests[f.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		name := regexp.MustCompile("`(Test[A-Za-z0-9]+)` \\|$").FindStringSubmatch(row)
		if name == nil || !tests[name[1]] {
			t.Errorf("no test that there is: %s", row)
		}
	}
}

func TestTheRulesThatAreCitedAreRules(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/probes.md"))
	if err != nil {
		t.Fatal(err)
	}
	cited := regexp.MustCompile(`\(([0-9]+\.[0-9]+(?:\.[0-9]+)?)[^)]*\)`).FindAllStringSubmatch(string(text), -1)
	if len(cited) < 20 {
		t.Fatalf("%d rules are cited", len(cited))
	}
	for _, c := range cited {
		chapter := c[1] + "."
		if !slices.ContainsFunc(rules, func(r string) bool { return r == c[1] || strings.HasPrefix(r, chapter) }) {
			t.Errorf("docs/probes.md cites %s, which is no rule", c[1])
		}
	}
}
