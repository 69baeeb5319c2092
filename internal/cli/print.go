package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"sigs.k8s.io/yaml"

	"github.com/musterhq/muster/internal/manifest"
)

// formats are what "get" can print.
var formats = []string{"table", "wide", "json", "yaml", "name", "jsonpath=…"}

// printer shows items in one format.
type printer struct {
	out    io.Writer
	format string
	// path is set for jsonpath.
	path *manifest.JSONPath
	// namespaced puts the namespace in front of tables.
	namespaced bool
	// kinds puts the type in front of names: more than one was asked for.
	kinds bool
	// widths are those of the table under way; nil before its first row.
	widths []int
}

func newPrinter(out io.Writer, format string) (*printer, error) {
	p := &printer{out: out, format: format}
	if expr, ok := strings.CutPrefix(format, "jsonpath="); ok {
		path, err := manifest.ParseJSONPath(expr)
		if err != nil {
			return nil, usagef("-o %s: %w", format, err)
		}
		p.format, p.path = "jsonpath", path
	} else if format == "jsonpath" {
		return nil, usagef("-o jsonpath: want -o jsonpath=TEMPLATE, such as jsonpath='{.items[*].metadata.name}'")
	}
	if p.format == "" {
		p.format = "table"
	}
	return p, nil
}

// list shows what a list call has returned. bare is for one object that was asked for by its name: its own value is
// shown, not a list.
func (p *printer) list(items []item, revision int64, bare bool) error {
	switch p.format {
	case "table", "wide":
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
	case "table", "wide":
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
	var header []string
	for _, c := range k.columns {
		if !c.wide || p.format == "wide" {
			header = append(header, c.name)
		}
	}
	if p.namespaced && k.namespaced {
		header = append([]string{"NAMESPACE"}, header...)
	}
	lines := make([][]string, 0, len(items)+1)
	if p.widths == nil {
		lines = append(lines, header)
	}
	for _, i := range items {
		var row []string
		if p.namespaced && k.namespaced {
			row = append(row, i.namespace)
		}
		for n, c := range k.columns {
			if c.wide && p.format != "wide" {
				continue
			}
			cell := oneLine(i.cells[n])
			if n == 0 && p.kinds && cell == i.name {
				cell = i.ref()
			}
			row = append(row, cell)
		}
		lines = append(lines, row)
	}
	if p.widths == nil {
		p.widths = widthsOf(lines)
	}
	_, err := io.WriteString(p.out, align(lines, p.widths))
	return err
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
