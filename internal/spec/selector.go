package spec

import (
	"fmt"
	"slices"
	"strings"
)

// Matches tells whether labels meet every requirement.
func (s Selector) Matches(labels map[string]string) bool {
	for k, v := range s.Labels {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	for _, e := range s.Expressions {
		v, ok := labels[e.Key]
		switch e.Operator {
		case In:
			if !ok || !slices.Contains(e.Values, v) {
				return false
			}
		case NotIn:
			if ok && slices.Contains(e.Values, v) {
				return false
			}
		case Exists:
			if !ok {
				return false
			}
		case DoesNotExist:
			if ok {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// Empty tells whether the selector matches everything.
func (s Selector) Empty() bool { return len(s.Labels)+len(s.Expressions) == 0 }

// ParseSelector reads a selector as kubectl writes it: "a=b,c!=d,e in (x,y),f notin (z),g,!h". The empty string is the
// selector that matches everything.
func ParseSelector(text string) (Selector, error) {
	var s Selector
	for _, term := range splitTerms(text) {
		term = strings.TrimSpace(term)
		if term == "" {
			if strings.TrimSpace(text) == "" {
				break
			}
			return Selector{}, fmt.Errorf("selector %q: an empty requirement", text)
		}
		e, err := parseTerm(term)
		if err != nil {
			return Selector{}, fmt.Errorf("selector %q: %w", text, err)
		}
		s.Expressions = append(s.Expressions, e)
	}
	return s, nil
}

// splitTerms splits at the commas that are not in parentheses.
func splitTerms(text string) []string {
	var terms []string
	depth, start := 0, 0
	for i, c := range text {
		switch {
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == ',' && depth == 0:
			terms, start = append(terms, text[start:i]), i+1
		}
	}
	return append(terms, text[start:])
}

func parseTerm(term string) (SelectorExpression, error) {
	var e SelectorExpression
	if key, ok := strings.CutPrefix(term, "!"); ok {
		e = SelectorExpression{Key: strings.TrimSpace(key), Operator: DoesNotExist}
	} else if key, value, ok := strings.Cut(term, "!="); ok {
		e = SelectorExpression{Key: strings.TrimSpace(key), Operator: NotIn, Values: []string{strings.TrimSpace(value)}}
	} else if key, value, ok := strings.Cut(term, "="); ok {
		e = SelectorExpression{Key: strings.TrimSpace(key), Operator: In, Values: []string{strings.TrimSpace(strings.TrimPrefix(value, "="))}}
	} else if head, list, ok := strings.Cut(term, "("); ok {
		words := strings.Fields(head)
		if !strings.HasSuffix(list, ")") || len(words) != 2 || words[1] != "in" && words[1] != "notin" {
			return e, fmt.Errorf("%q is not KEY in (A,B) or KEY notin (A,B)", term)
		}
		e = SelectorExpression{Key: words[0], Operator: In}
		if words[1] == "notin" {
			e.Operator = NotIn
		}
		for v := range strings.SplitSeq(strings.TrimSuffix(list, ")"), ",") {
			e.Values = append(e.Values, strings.TrimSpace(v))
		}
	} else {
		e = SelectorExpression{Key: term, Operator: Exists}
	}
	if why := labelKey(e.Key); why != "" {
		return e, fmt.Errorf("key %q: %s", e.Key, why)
	}
	for _, v := range e.Values {
		if why := labelValue(v); why != "" {
			return e, fmt.Errorf("value %q: %s", v, why)
		}
	}
	return e, nil
}
