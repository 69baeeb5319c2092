// Package spectest draws random values of internal/spec for properties. What it draws is what a value may hold, not what
// validation would pass: names are any text, and only what the types themselves rule out is ruled out, such as two
// handlers in one probe.
package spectest

import (
	"fmt"
	"reflect"
	"time"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/internal/spec"
)

// choices are the values of the types that have few. None is unset, because records never are.
var choices = map[reflect.Type][]any{}

func allow[T any](values ...T) {
	for _, v := range values {
		choices[reflect.TypeFor[T]()] = append(choices[reflect.TypeFor[T]()], v)
	}
}

func init() {
	allow(spec.Fast, spec.Fenced, spec.Stay)
	allow(spec.RestartAlways, spec.RestartOnFailure, spec.RestartNever)
	allow(spec.PhasePending, spec.PhaseRunning, spec.PhaseSucceeded, spec.PhaseFailed)
	allow(spec.Liveness, spec.Readiness, spec.Startup)
	allow(spec.OutcomeSuccess, spec.OutcomeWarning, spec.OutcomeFailure, spec.OutcomeErrored, spec.OutcomeInconclusive)
	allow(spec.ResultUnknown, spec.ResultSuccess, spec.ResultFailure)
	allow(spec.VerdictReady, spec.VerdictUnreachable, spec.VerdictAgentDown, spec.VerdictLost)
	allow(spec.LeaseOpen, spec.LeaseSealing, spec.LeaseSealed)
	allow(spec.NoSchedule, spec.PreferNoSchedule, spec.NoExecute)
	allow(spec.TolerationEqual, spec.TolerationExists)
	allow(spec.NodeIn, spec.NodeNotIn, spec.NodeExists, spec.NodeDoesNotExist, spec.NodeGt, spec.NodeLt)
	allow(spec.DoNotSchedule, spec.ScheduleAnyway)
	allow(spec.PolicyHonor, spec.PolicyIgnore)
	allow(spec.In, spec.NotIn, spec.Exists, spec.DoesNotExist)
	allow(spec.RollingUpdate, spec.Recreate)
	allow(spec.IfHealthyBudget, spec.AlwaysAllow)
	allow(spec.ConditionTrue, spec.ConditionFalse, spec.ConditionUnknown)
}

// Draw returns a random value: lists and maps of up to two elements, nil when empty; times in UTC; durations from 0.
func Draw[T any](t *rapid.T) *T {
	v := new(T)
	fill(t, reflect.ValueOf(v).Elem())
	return v
}

func fill(t *rapid.T, v reflect.Value) {
	if some := choices[v.Type()]; some != nil {
		v.Set(reflect.ValueOf(rapid.SampledFrom(some).Draw(t, v.Type().Name())))
		return
	}
	switch v.Interface().(type) {
	case time.Time:
		if rapid.Bool().Draw(t, "timed") {
			ns := rapid.Int64Range(0, 999_999_999).Draw(t, "ns")
			v.Set(reflect.ValueOf(time.Unix(rapid.Int64Range(1, 1<<33).Draw(t, "s"), ns).UTC()))
		}
		return
	case time.Duration:
		v.SetInt(rapid.Int64Range(0, 1<<60).Draw(t, "duration"))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for _, field := range v.Fields() {
			fill(t, field)
		}
		settle(t, v)
	case reflect.Pointer:
		if rapid.Bool().Draw(t, "set") {
			v.Set(reflect.New(v.Type().Elem()))
			fill(t, v.Elem())
		}
	case reflect.Slice:
		if n := rapid.IntRange(0, 2).Draw(t, "n"); n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			for i := range n {
				fill(t, v.Index(i))
			}
		}
	case reflect.Map:
		if n := rapid.IntRange(0, 2).Draw(t, "n"); n > 0 {
			v.Set(reflect.MakeMap(v.Type()))
			for i := range n {
				value := reflect.New(v.Type().Elem()).Elem()
				fill(t, value)
				if value.Kind() == reflect.Slice && value.IsNil() {
					value.Set(reflect.MakeSlice(value.Type(), 0, 0)) // what is in a map is never nil
				}
				v.SetMapIndex(reflect.ValueOf(fmt.Sprintf("key%d", i)), value)
			}
		}
	case reflect.String:
		v.SetString(rapid.StringN(0, 8, 32).Draw(t, "text"))
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, "bool"))
	case reflect.Int32:
		v.SetInt(int64(rapid.Int32().Draw(t, "n")))
	case reflect.Int64:
		v.SetInt(rapid.Int64().Draw(t, "n"))
	case reflect.Uint8:
		v.SetUint(uint64(rapid.Byte().Draw(t, "byte")))
	case reflect.Uint32:
		v.SetUint(uint64(rapid.Uint32().Draw(t, "n")))
	case reflect.Uint64:
		v.SetUint(rapid.Uint64().Draw(t, "n"))
	default:
		panic("no way to draw a " + v.Type().String())
	}
}

// settle makes a struct's fields agree with each other.
func settle(t *rapid.T, v reflect.Value) {
	// maybeNot is -1, "not measured" or "not reached", for some.
	maybeNot := func(ds ...*time.Duration) {
		for _, d := range ds {
			if rapid.Bool().Draw(t, "not") {
				*d = -1
			}
		}
	}
	switch x := v.Addr().Interface().(type) {
	case *spec.Meta:
		if !x.Deleting() {
			x.DeleteGrace = 0
		}
	case *spec.PodSpec:
		if rapid.Bool().Draw(t, "unset grace") {
			x.TerminationGrace = spec.UnsetGrace
		}
	case *spec.Port:
		x.HostPort = 0
	case *spec.PortRef:
		if x.Name != "" {
			x.Number = 0
		}
	case *spec.Handler:
		one(t, v)
	case *spec.Hook:
		one(t, v)
	case *spec.ContainerState:
		one(t, v)
	case *spec.Attempt:
		maybeNot(&x.CPU, &x.Lag)
	case *spec.FailoverPhases:
		maybeNot(&x.Detect, &x.Confirm, &x.Fence, &x.Place, &x.Deliver, &x.Start, &x.Ready)
	}
}

// one leaves at most one of a struct's pointers.
func one(t *rapid.T, v reflect.Value) {
	keep := rapid.IntRange(0, v.NumField()-1).Draw(t, "which")
	for i := range v.NumField() {
		if i != keep {
			v.Field(i).SetZero()
		}
	}
}
