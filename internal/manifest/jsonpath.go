package manifest

import (
	"fmt"
	"io"
	"strings"

	"k8s.io/client-go/util/jsonpath"
)

// JSONPath is a template in kubectl's syntax, such as {.items[*].metadata.name}.
type JSONPath struct {
	path *jsonpath.JSONPath
}

// ParseJSONPath understands a template; one without braces is taken as a single path, and its leading dot or dollar may
// be left out.
func ParseJSONPath(template string) (*JSONPath, error) {
	if template == "" {
		return nil, fmt.Errorf("the jsonpath is empty")
	}
	if !strings.Contains(template, "{") {
		if !strings.HasPrefix(template, ".") && !strings.HasPrefix(template, "[") && !strings.HasPrefix(template, "$") {
			template = "." + template
		}
		template = "{" + template + "}"
	}
	p := jsonpath.New("jsonpath").AllowMissingKeys(true)
	if err := p.Parse(template); err != nil {
		return nil, fmt.Errorf("jsonpath %s: %w", template, err)
	}
	return &JSONPath{p}, nil
}

// Print writes what the template makes of v, which is JSON as encoding/json decodes it into an any.
func (p *JSONPath) Print(w io.Writer, v any) error { return p.path.Execute(w, v) }

// Find returns the values that the template's paths lead to in v; none where a key is missing.
func (p *JSONPath) Find(v any) ([]any, error) {
	results, err := p.path.FindResults(v)
	if err != nil {
		return nil, err
	}
	var found []any
	for _, r := range results {
		for _, value := range r {
			if value.IsValid() && value.CanInterface() {
				found = append(found, value.Interface())
			}
		}
	}
	return found, nil
}
