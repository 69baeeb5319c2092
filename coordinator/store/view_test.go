package store

import (
	"fmt"
	"log/slog"
	"maps"
	"testing"

	"pgregory.net/rapid"
)

func TestSinceYieldsExactlyWhatDiffersFromAnEarlierView(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		views := []*View{emptyView}
		revision := int64(0)
		for range rapid.IntRange(1, 20).Draw(t, "views") {
			c := Changes{}
			for range rapid.IntRange(0, 5).Draw(t, "changes") {
				revision++
				k := Key{Family: rapid.SampledFrom([]Family{Pods, Bindings}).Draw(t, "family"), Name: fmt.Sprint(rapid.IntRange(0, 30).Draw(t, "name"))}
				var r *Record
				if rapid.IntRange(0, 2).Draw(t, "put") > 0 {
					r = &Record{Key: k, Revision: revision}
				}
				c.Changes = append(c.Changes, Change{Key: k, Record: r, Revision: revision})
			}
			c.Revision = revision
			views = append(views, views[len(views)-1].with(c))
		}
		was := views[rapid.IntRange(0, len(views)-1).Draw(t, "earlier")]
		is := views[len(views)-1]
		want, got := map[Key]int{}, map[Key]int{}
		for i := range 31 {
			k := Key{Family: Pods, Name: fmt.Sprint(i)}
			if was.Lookup(k) != is.Lookup(k) {
				want[k]++
			}
		}
		for k := range is.Since(was, Pods) {
			got[k]++
		}
		if !maps.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}

// BenchmarkSince is what the change of one record costs someone who follows the views.
func BenchmarkSince(b *testing.B) {
	key := func(i int) Key { return Key{Family: PodStatuses, Namespace: "default", Name: fmt.Sprint(i)} }
	v := emptyView
	var changes []Change
	for i := range 150_000 {
		changes = append(changes, Change{Key: key(i), Record: &Record{Key: key(i)}})
	}
	v = v.with(Changes{Changes: changes})
	next := v.with(Changes{Changes: []Change{{Key: key(7), Record: &Record{Key: key(7)}}}})
	for b.Loop() {
		n := 0
		for range next.Since(v, PodStatuses) {
			n++
		}
		if n != 1 {
			b.Fatal(n)
		}
	}
}

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

// BenchmarkFanOut is what the change of one record costs the cache that 2,000 watchers follow: one in a hundred wants it, or all.
func BenchmarkFanOut(b *testing.B) {
	for name, namespaces := range map[string]int{"one in 100 wants it": 100, "all want it": 1} {
		b.Run(name, func(b *testing.B) {
			c := NewCache(nil, slog.New(slog.DiscardHandler))
			var subs []*Subscription
			for i := range 2000 {
				_, s := c.SubscribeTo(Interest{Families: []Family{Pods, PodStatuses}, Namespace: fmt.Sprint("ns", i%namespaces)}, 1)
				subs = append(subs, s)
			}
			key := Key{Family: PodStatuses, Namespace: "ns0", Name: "web"}
			revision := int64(0)
			for b.Loop() {
				revision++
				c.apply(Changes{Revision: revision, Changes: []Change{{Key: key, Revision: revision, Record: &Record{Key: key, Revision: revision}}}})
				for i := 0; i < len(subs); i += namespaces {
					<-subs[i].c
				}
			}
		})
	}
}
