package store

import (
	"fmt"
	"testing"
)

// BenchmarkOneChange is what the next view costs.
func BenchmarkOneChange(b *testing.B) {
	for _, records := range []int{10_000, 150_000} {
		b.Run(fmt.Sprintf("among%d", records), func(b *testing.B) {
			key := func(i int) Key { return Key{Family: PodStatuses, Namespace: "default", Name: fmt.Sprint(i % records)} }
			v := emptyView
			var changes []Change
			for i := range records {
				changes = append(changes, Change{Key: key(i), Record: &Record{Key: key(i)}})
			}
			v = v.with(Changes{Changes: changes})
			i := 0
			for b.Loop() {
				v = v.with(Changes{Changes: changes[i%records : i%records+1]})
				i++
			}
		})
	}
}
