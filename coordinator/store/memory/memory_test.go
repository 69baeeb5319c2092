package memory

import (
	"errors"
	"testing"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/storetest"
	"github.com/musterhq/muster/internal/spec"
)

func TestMemoryConforms(t *testing.T) {
	storetest.RunInBubbles(t, func(t *testing.T) storetest.Harness {
		s := New()
		t.Cleanup(func() { _ = s.Close() })
		return storetest.Harness{Store: s, Compact: func(_ *testing.T, revision int64) { s.Compact(revision) }}
	})
}

func TestHistoryIsBounded(t *testing.T) {
	s := New()
	defer s.Close()
	for range history + 1 {
		if _, err := s.Commit(t.Context(), store.Txn{Then: []store.Write{{Key: store.Key{Family: store.Config, Name: "a"}, Value: &spec.Blob{}}}}); err != nil {
			t.Fatal(err)
		}
	}
	w := s.Watch(t.Context(), 0)
	for range w.C() {
	}
	if err := w.Err(); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("watch from the beginning after %d changes: %v, want ErrCompacted", history+1, err)
	}
}
