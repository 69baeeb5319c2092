package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"sigs.k8s.io/yaml"

	"github.com/musterhq/muster/internal/manifest"
)

// formats are what "get" can print.
var formats = []string{"table", "wide", "json", "yaml", "name", "jsonpath=…", "jsonpath-file=…", "custom-columns=…"}

// unbuiltFormats are kubectl's others, which are refused by name.
var unbuiltFormats = []string{"go-template", "go-template-file", "template", "templatefile", "custom-columns-file", "jsonpath-as-json", "kyaml"}

// printer shows items in one format.
type printer struct {
	out    io.Writer
	format string
	// path is set for jsonpath.
	path *manifest.JSONPath
	// custom are the columns of custom-columns.
	custom []customColumn
	// noHeaders leaves out the header of tables; labels and showLabels add to their columns.
	noHeaders, showLabels bool
	labels                []string
	// namespaced puts the namespace in front of tables.
	namespaced bool
	// kinds puts the type in front of names: more than one was asked for.
	kinds bool
	// widths are those of the table under way; nil before its first row.
	widths []int
}

func newPrinter(out io.Writer, format string) (*printer, error) {
	name, rest, more := strings.Cut(format, "=")
	p := &printer{out: out, format: name}
	var err error
	switch {
	case more && !slices.Contains([]string{"jsonpath", "jsonpath-file", "custom-columns"}, name):
		return nil, usagef("-o %s: want -o %s, which takes no value", format, name)
	case name == "":
		p.format = "table"
	case name == "jsonpath" && rest == "":
		return nil, usagef("-o jsonpath: want -o jsonpath=TEMPLATE, such as jsonpath='{.items[*].metadata.name}'")
	case name == "jsonpath":
		p.path, err = parseTemplate(format, rest)
	case name == "jsonpath-file" && rest == "":
		return nil, usagef("-o jsonpath-file: want -o jsonpath-file=FILE, a file with a template")
	case name == "jsonpath-file":
		p.format = "jsonpath"
		var text []byte
		if text, err = readFile(rest); err == nil {
			p.path, err = parseTemplate(format, strings.TrimRight(string(text), "\n"))
		}
	case name == "custom-columns" && rest == "":
		return nil, usagef("-o custom-columns: want NAME:JSONPATH, such as custom-columns=NAME:.metadata.name,NODE:.spec.nodeName")
	case name == "custom-columns":
		p.custom, err = parseColumns(rest)
	}
	return p, err
}

func parseTemplate(format, template string) (*manifest.JSONPath, error) {
	path, err := manifest.ParseJSONPath(template)
	if err != nil {
		return nil, usagef("-o %s: %w", format, err)
	}
	return path, nil
}

// isTable tells whether objects are shown as rows.
func (p *printer) isTable() bool {
	return p.format == "table" || p.format == "wide" || p.format == "custom-columns"
}

// columns are the columns of a kind that are shown, and their headers.
func (p *printer) columns(k *kind) (shown []int, header []string) {
	for n, c := range k.columns {
		if !c.wide || p.format == "wide" {
			shown, header = append(shown, n), append(header, c.name)
		}
	}
	return shown, header
}

// list shows what a list call has returned. bare is for one object that was asked for by its name: its own value is
// shown, not a list.
func (p *printer) list(items []item, revision int64, bare bool) error {
	switch p.format {
	case "table", "wide", "custom-columns":
		for len(items) > 0 { // a table for each kind
			n := 1
			for n < len(items) && items[n].kind == items[0].kind {
				n++
			}
			if p.widths != nil {
				fmt.Fprintln(p.out)
				p.widths = nil
			}
			if err := p.rows(items[:n]); err != nil {
				return err
			}
			items = items[n:]
		}
		return nil
	case "name":
		for i := range items {
			fmt.Fprintln(p.out, items[i].ref())
		}
		return nil
	}
	values := make([]any, len(items))
	for i := range items {
		values[i] = items[i].value()
	}
	if bare && len(values) == 1 {
		return p.value(values[0])
	}
	return p.value(listValue(values, revision))
}

// listValue is how every list looks.
func listValue(values []any, revision int64) any {
	meta := map[string]any{"resourceVersion": ""}
	if revision != 0 {
		meta["resourceVersion"] = strconv.FormatInt(revision, 10)
	}
	return map[string]any{"apiVersion": "v1", "kind": "List", "metadata": meta, "items": values}
}

// one shows one item of a watch.
func (p *printer) one(i item) error {
	switch p.format {
	case "table", "wide", "custom-columns":
		return p.rows([]item{i})
	case "name":
		fmt.Fprintln(p.out, i.ref())
		return nil
	}
	return p.value(i.value())
}

// value shows one value as JSON, YAML or through the jsonpath.
func (p *printer) value(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	switch p.format {
	case "json":
		_, err = fmt.Fprintf(p.out, "%s\n", b)
		return err
	case "yaml":
		if b, err = yaml.JSONToYAML(b); err == nil {
			_, err = p.out.Write(b)
		}
		return err
	case "jsonpath":
		var plain any
		if err := json.Unmarshal(b, &plain); err != nil {
			return err
		}
		return p.path.Print(p.out, plain)
	}
	return usagef("-o %s: not for this command", p.format)
}

// rows shows items of one kind; the first rows of a table bring its header and set its widths.
func (p *printer) rows(items []item) error {
	k := items[0].kind
	lines := make([][]string, 0, len(items)+1)
	if p.widths == nil {
		lines = append(lines, p.header(k))
	}
	for n := range items {
		row, err := p.row(k, &items[n])
		if err != nil {
			return err
		}
		for c := range row {
			row[c] = oneLine(row[c])
		}
		lines = append(lines, row)
	}
	if p.widths == nil {
		if p.noHeaders {
			lines = lines[1:]
		}
		p.widths = widthsOf(lines)
	}
	_, err := io.WriteString(p.out, align(lines, p.widths))
	return err
}

func (p *printer) header(k *kind) (header []string) {
	if p.custom != nil {
		for _, c := range p.custom {
			header = append(header, c.name)
		}
		return header
	}
	if p.namespaced && k.namespaced {
		header = append(header, "NAMESPACE")
	}
	_, names := p.columns(k)
	return slices.Concat(header, names, p.labelColumns())
}

func (p *printer) row(k *kind, i *item) (row []string, err error) {
	if p.custom != nil {
		return customCells(p.custom, i)
	}
	if p.namespaced && k.namespaced {
		row = append(row, i.namespace)
	}
	shown, _ := p.columns(k)
	for _, n := range shown {
		cell := i.cells[n]
		if n == 0 && p.kinds && cell == i.name {
			cell = i.ref()
		}
		row = append(row, cell)
	}
	labels, err := p.labelCells(i)
	return append(row, labels...), err
}

// table shows rows under a header, for commands whose rows are no objects.
func table(out io.Writer, header []string, rows [][]string) error {
	lines := append([][]string{header}, rows...)
	_, err := io.WriteString(out, align(lines, widthsOf(lines)))
	return err
}

func widthsOf(lines [][]string) []int {
	widths := make([]int, len(lines[0]))
	for _, l := range lines {
		for i, cell := range l {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return widths
}

// align pads all cells but a line's last to their widths, three blanks apart.
func align(lines [][]string, widths []int) string {
	var b strings.Builder
	for _, l := range lines {
		for i, cell := range l {
			b.WriteString(cell)
			if i < len(l)-1 {
				b.WriteString(strings.Repeat(" ", max(0, widths[i]-utf8.RuneCountInString(cell))+3))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}
