package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/internal/manifest"
)

// This file has what "get" shows and chooses by an object's own fields: labels, columns of one's own, the order.

// maxColumns bounds -L and custom-columns.
const maxColumns = 64

// customColumn is one column of -o custom-columns.
type customColumn struct {
	name string
	path *manifest.JSONPath
}

// parseColumns understands NAME:.path,NAME:.path.
func parseColumns(text string) ([]customColumn, error) {
	var columns []customColumn
	for part := range strings.SplitSeq(text, ",") {
		name, expr, ok := strings.Cut(part, ":")
		if !ok || name == "" || expr == "" {
			return nil, usagef("-o custom-columns: %q: want NAME:JSONPATH, such as NAME:.metadata.name,NODE:.spec.nodeName", part)
		}
		path, err := manifest.ParseJSONPath(expr)
		if err != nil {
			return nil, usagef("-o custom-columns: %q: %w", part, err)
		}
		columns = append(columns, customColumn{name, path})
	}
	if len(columns) > maxColumns {
		return nil, usagef("-o custom-columns: %d columns, at most %d", len(columns), maxColumns)
	}
	return columns, nil
}

// customCells are an object's cells in columns of one's own.
func customCells(columns []customColumn, i *item) ([]string, error) {
	object, err := plain(i.value())
	if err != nil {
		return nil, err
	}
	cells := make([]string, len(columns))
	for n, c := range columns {
		found, err := c.path.Find(object)
		if err != nil {
			return nil, fmt.Errorf("column %s of %s: %w", c.name, i.ref(), err)
		}
		var texts []string
		for _, v := range found {
			texts = append(texts, scalarText(v))
		}
		cells[n] = orNone(strings.Join(texts, ","))
	}
	return cells, nil
}

// scalarText is a value as people write it; lists and objects as JSON.
func scalarText(v any) string {
	switch v := v.(type) {
	case nil:
		return "<none>"
	case string:
		return v
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Sprint(v)
	}
	return strings.TrimSpace(b.String())
}

// labelsOf are an object's labels; none where it has none, or is of a kind without.
func labelsOf(i *item) (map[string]string, error) {
	object, err := plain(i.value())
	if err != nil {
		return nil, err
	}
	top, _ := object.(map[string]any)
	meta, _ := top["metadata"].(map[string]any)
	all, _ := meta["labels"].(map[string]any)
	labels := map[string]string{}
	for k, v := range all {
		labels[k], _ = v.(string)
	}
	return labels, nil
}

// labelColumns are the headers of -L and --show-labels: the name of a label without its prefix, in capitals.
func (p *printer) labelColumns() []string {
	var names []string
	for _, key := range p.labels {
		names = append(names, strings.ToUpper(key[strings.LastIndexByte(key, '/')+1:]))
	}
	if p.showLabels {
		names = append(names, "LABELS")
	}
	return names
}

func (p *printer) labelCells(i *item) ([]string, error) {
	if len(p.labels) == 0 && !p.showLabels {
		return nil, nil
	}
	labels, err := labelsOf(i)
	if err != nil {
		return nil, err
	}
	var cells []string
	for _, key := range p.labels {
		cells = append(cells, labels[key])
	}
	if p.showLabels {
		var all []string
		for _, key := range slices.Sorted(maps.Keys(labels)) {
			all = append(all, key+"="+labels[key])
		}
		cells = append(cells, orNone(strings.Join(all, ",")))
	}
	return cells, nil
}

// sortItems puts items in the order of what a path leads to, those of each kind for themselves: numbers by their value,
// times by their moment, all else as text. What has nothing there comes first.
func sortItems(items []item, path *manifest.JSONPath) error {
	keys := make([]any, len(items))
	for n := range items {
		object, err := plain(items[n].value())
		if err != nil {
			return err
		}
		found, err := path.Find(object)
		if err != nil {
			return fmt.Errorf("--sort-by: %s: %w", items[n].ref(), err)
		}
		if len(found) > 0 {
			keys[n] = found[0]
		}
	}
	order := make([]int, len(items))
	for n := range order {
		order[n] = n
	}
	slices.SortStableFunc(order, func(a, b int) int { return compareValues(keys[a], keys[b]) })
	was := slices.Clone(items)
	for n, from := range order {
		items[n] = was[from]
	}
	return nil
}

// rankOf orders values of different types: none, numbers, times, the rest.
func rankOf(v any) (rank int, number float64, at time.Time, text string) {
	switch v := v.(type) {
	case nil:
		return 0, 0, at, ""
	case float64:
		return 1, v, at, ""
	case string:
		if at, err := time.Parse(time.RFC3339Nano, v); err == nil {
			return 2, 0, at, ""
		}
		return 3, 0, at, v
	}
	return 3, 0, at, scalarText(v)
}

func compareValues(a, b any) int {
	ra, na, ta, sa := rankOf(a)
	rb, nb, tb, sb := rankOf(b)
	return cmp.Or(cmp.Compare(ra, rb), cmp.Compare(na, nb), ta.Compare(tb), cmp.Compare(sa, sb))
}

// fieldTerm is one condition of --field-selector.
type fieldTerm struct {
	path  string
	value string
	not   bool
}

// fieldsToSelect are the fields that can be selected by, for every kind of objects with metadata, and those of pods.
var fieldsToSelect, podFieldsToSelect = []string{"metadata.name", "metadata.namespace"}, []string{"spec.nodeName", "status.phase"}

// parseFields understands FIELD=VALUE, FIELD==VALUE and FIELD!=VALUE, with a comma between.
func parseFields(text string) ([]fieldTerm, error) {
	var terms []fieldTerm
	for part := range strings.SplitSeq(text, ",") {
		var t fieldTerm
		var ok bool
		if t.path, t.value, ok = strings.Cut(part, "!="); ok {
			t.not = true
		} else if t.path, t.value, ok = strings.Cut(part, "=="); !ok {
			t.path, t.value, ok = strings.Cut(part, "=")
		}
		if !ok || t.path == "" {
			return nil, usagef("--field-selector %q: want FIELD=VALUE or FIELD!=VALUE", part)
		}
		terms = append(terms, t)
	}
	return terms, nil
}

// checkFields refuses fields that objects of a kind are not selected by.
func checkFields(k *kind, terms []fieldTerm) error {
	there := fieldsToSelect
	if k == podKind {
		there = slices.Concat(fieldsToSelect, podFieldsToSelect)
	}
	if len(terms) > 0 && (k == memberKind || k == probeKind || k == failoverKind) {
		return usagef("--field-selector: %s have no such fields", k.plural)
	}
	for _, t := range terms {
		if !slices.Contains(there, t.path) {
			return usagef("--field-selector: %s are not selected by %s: there is %s", k.plural, t.path, strings.Join(there, ", "))
		}
	}
	return nil
}

// matchFields tells whether an object is selected.
func matchFields(i *item, terms []fieldTerm) (bool, error) {
	if len(terms) == 0 {
		return true, nil
	}
	object, err := plain(i.value())
	if err != nil {
		return false, err
	}
	for _, t := range terms {
		value := object
		for name := range strings.SplitSeq(t.path, ".") {
			fields, _ := value.(map[string]any)
			value = fields[name]
		}
		text, _ := value.(string)
		if (text == t.value) == t.not {
			return false, nil
		}
	}
	return true, nil
}
