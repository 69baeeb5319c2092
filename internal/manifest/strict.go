package manifest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"

	kjson "sigs.k8s.io/json"

	"github.com/musterhq/muster/internal/spec"
)

// strictly decodes j, which is v as JSON, into target: every unknown field and every value of a wrong type is found with
// its path. It tells whether target can be used.
func (d *decoder) strictly(j []byte, v map[string]any, target any) bool {
	before := *d.told
	if !d.compare("", v, reflect.TypeOf(target).Elem()) {
		return false
	}
	strict, err := kjson.UnmarshalStrict(j, target)
	if err != nil {
		d.add("", spec.Invalid, nil, err.Error())
		return false
	}
	if *d.told == before { // else the comparison has found the same, with a better text
		for _, err := range strict {
			d.add("", spec.Invalid, nil, err.Error())
		}
	}
	return true
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// quantity is what is parsed as one: an exponent of many digits would take minutes.
var quantity = regexp.MustCompile(`^[+-]?[0-9.]{1,40}([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?$`)

// compare finds how a JSON value differs from what t takes; false where decoding it would fail.
func (d *decoder) compare(path string, v any, t reflect.Type) bool {
	if v == nil {
		return true
	}
	if t.Kind() == reflect.Pointer {
		return d.compare(path, v, t.Elem())
	}
	wrong := func(want string) bool {
		value, is := describe(v)
		message := "must be " + want
		if is != "a number" || want == "a string" {
			message += ", not " + is
		}
		if want == "a string" && value != nil {
			message += ": put it in quotes"
		}
		d.add(path, spec.Invalid, value, message)
		return false
	}
	if reflect.PointerTo(t).Implements(unmarshaler) {
		j, err := json.Marshal(v)
		if err == nil && t.Name() == "Quantity" && !quantity.MatchString(strings.Trim(string(j), `"`)) {
			err = errors.New("no quantity")
		}
		if err == nil {
			err = json.Unmarshal(j, reflect.New(t).Interface())
		}
		if err != nil {
			value, _ := describe(v)
			d.add(path, spec.Invalid, value, unmarshalError(t, err))
		}
		return err == nil
	}
	ok := true
	switch t.Kind() {
	case reflect.Struct:
		object, is := v.(map[string]any)
		if !is {
			return wrong("an object")
		}
		known := fieldsOf(t)
		for _, name := range slices.Sorted(maps.Keys(object)) {
			if f, has := known[name]; has {
				ok = d.compare(join(path, name), object[name], f) && ok
			} else {
				d.unknown(join(path, name), name, known)
			}
		}
	case reflect.Map:
		object, is := v.(map[string]any)
		if !is {
			return wrong("an object")
		}
		for _, key := range slices.Sorted(maps.Keys(object)) {
			ok = d.compare(path+"["+key+"]", object[key], t.Elem()) && ok
		}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return d.compareBytes(path, v)
		}
		list, is := v.([]any)
		if !is {
			return wrong("a list")
		}
		for i := range list {
			ok = d.compare(fmt.Sprintf("%s[%d]", path, i), list[i], t.Elem()) && ok
		}
	case reflect.String:
		if _, is := v.(string); !is {
			return wrong("a string")
		}
	case reflect.Bool:
		if _, is := v.(bool); !is {
			return wrong("a boolean")
		}
	case reflect.Int, reflect.Int32, reflect.Int64:
		n, is := v.(int64)
		if !is {
			return wrong("a whole number")
		}
		if t.Kind() == reflect.Int32 && (n < math.MinInt32 || n > math.MaxInt32) {
			return wrong("within 32 bits")
		}
	}
	return ok
}

// compareBytes finds what is no base64, which bytes are written in. What it is is not told: it may be secret.
func (d *decoder) compareBytes(path string, v any) bool {
	text, is := v.(string)
	if is {
		_, err := base64.StdEncoding.DecodeString(text)
		is = err == nil
	}
	if !is {
		d.add(path, spec.Invalid, nil, "must be base64; plain text goes into stringData")
	}
	return is
}

// unmarshalError says what a type of its own wants.
func unmarshalError(t reflect.Type, err error) string {
	switch t.Name() {
	case "Quantity":
		return "must be a quantity such as 500m or 64Mi"
	case "IntOrString":
		return "must be a number within 32 bits or a name"
	case "Time", "MicroTime":
		return "must be a time such as 2006-01-02T15:04:05Z"
	}
	return err.Error()
}

// describe is a JSON value as a finding shows it, and what it is.
func describe(v any) (value any, is string) {
	switch v := v.(type) {
	case map[string]any:
		return nil, "an object"
	case []any:
		return nil, "a list"
	case bool:
		return v, "a boolean"
	case string:
		return v, "a string"
	}
	return v, "a number"
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// fieldsOf are the types of a struct's fields by their JSON names, those of inlined structs among them.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for f := range visible(t) {
		fields[f.name] = t.FieldByIndex(f.index).Type
	}
	return fields
}

type field struct {
	name  string
	index []int
}

// visible yields the fields of a struct as JSON has them.
func visible(t reflect.Type) iter.Seq[field] {
	return func(yield func(field) bool) { fieldsAt(t, nil, yield) }
}

func fieldsAt(t reflect.Type, at []int, yield func(field) bool) bool {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		index := append(slices.Clone(at), i)
		switch {
		case name == "-" || !f.IsExported():
		case name == "" && f.Anonymous:
			if !fieldsAt(f.Type, index, yield) {
				return false
			}
		default:
			if !yield(field{name, index}) {
				return false
			}
		}
	}
	return true
}

func (d *decoder) unknown(path, name string, known map[string]reflect.Type) {
	message := "unknown field"
	if d.full() {
		known = nil // it is only counted
	}
	if near := nearest(name, slices.Sorted(maps.Keys(known))); near != "" {
		message += fmt.Sprintf("; did you mean %s?", near)
	}
	d.add(path, spec.Invalid, nil, message)
}

// nearest is the name that was probably meant; empty where none is near.
func nearest(name string, known []string) string {
	best, least := "", max(2, len(name)/3)+1
	for _, k := range known {
		if strings.EqualFold(k, name) {
			return k
		}
		n := distance(strings.ToLower(name), strings.ToLower(k))
		if len(name) >= 3 && strings.HasPrefix(strings.ToLower(k), strings.ToLower(name)) {
			n = min(n, 1) // a name cut short
		}
		if n < least && n < len(k) {
			best, least = k, n
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap with their neighbour; names over 64 bytes are far.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	var d [65][65]int
	for i := range len(a) + 1 {
		for j := range len(b) + 1 {
			if i == 0 || j == 0 {
				d[i][j] = i + j
				continue
			}
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
