package memory

import (
	"testing"

	"github.com/musterhq/muster/coordinator/store/storetest"
)

func TestMemoryConforms(t *testing.T) {
	storetest.RunInBubbles(t, func(t *testing.T) storetest.Harness {
		s := New()
		t.Cleanup(func() { _ = s.Close() })
		return storetest.Harness{Store: s, Compact: func(_ *testing.T, revision int64) { s.Compact(revision) }}
	})
}
