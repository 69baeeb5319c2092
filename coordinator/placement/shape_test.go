package placement

import (
	"fmt"
	"reflect"
	"testing"
)

// fill gives every field of v something: one element to each list and map, something to point at to each pointer.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for _, field := range v.Fields() {
			fill(field)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"key": "value"}))
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8:
		v.SetUint(1)
	default:
		v.SetInt(1)
	}
}

// vary changes every part of v for the time of a call of look, one after the other.
func vary(path string, v reflect.Value, look func(path string)) {
	was := reflect.New(v.Type()).Elem()
	was.Set(v)
	change := func(to reflect.Value) {
		v.Set(to)
		look(path)
		v.Set(was)
	}
	switch v.Kind() {
	case reflect.Pointer:
		change(reflect.Zero(v.Type()))
		vary(path, v.Elem(), look)
	case reflect.Struct:
		for i := range v.NumField() {
			vary(path+"."+v.Type().Field(i).Name, v.Field(i), look)
		}
	case reflect.Slice:
		change(reflect.Zero(v.Type()))
		change(reflect.Append(v, v.Index(0)))
		vary(path+"[0]", v.Index(0), look)
	case reflect.Map:
		change(reflect.Zero(v.Type()))
		change(reflect.ValueOf(map[string]string{"key": "other"}))
		change(reflect.ValueOf(map[string]string{"keyvalue": ""}))
	case reflect.String:
		change(reflect.ValueOf("texts").Convert(v.Type()))
	case reflect.Bool:
		change(reflect.ValueOf(false))
	default:
		change(reflect.ValueOf(2).Convert(v.Type()))
	}
}

func TestPodsThatDifferInWhatCountsHaveOtherShapes(t *testing.T) {
	var p Pod
	fill(reflect.ValueOf(&p).Elem())
	var w writer
	w.shape(&p, true)
	same := string(w.b)
	// What is of one pod, or how long a taint is tolerated, makes no shape.
	free := map[string]bool{".Name.Name": true, ".Not": true, ".Tolerations[0].Seconds": true}
	seen, last := 0, ""
	vary("", reflect.ValueOf(&p).Elem(), func(path string) {
		if last != path {
			seen++
		}
		last = path
		if w.shape(&p, true); (string(w.b) == same) != free[path] {
			t.Errorf("%s changed: same shape %v", path, string(w.b) == same)
		}
	})
	if seen < 60 {
		t.Error("the walk saw ", fmt.Sprint(seen), " fields")
	}
	p.Labels["key"] = "other"
	if w.shape(&p, false); string(w.b) == same {
		t.Error("the same with labels and without")
	}
	asked := string(w.b)
	p.Labels["key"] = "value"
	if w.shape(&p, false); string(w.b) != asked {
		t.Error("labels make a shape though nobody asks for them")
	}
}
