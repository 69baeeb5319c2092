package store

import (
	"fmt"

	"github.com/musterhq/muster/internal/spec"
)

// CheckTxns holds one CommitEach to its limits, before anything is written: at most MaxOps transactions with at most
// MaxOps writes each, no key written twice, no blob over MaxValueBytes (of other records only an encoding store knows the
// size).
func CheckTxns(ts []Txn) error {
	if len(ts) > MaxOps {
		return fmt.Errorf("%d transactions, at most %d: %w", len(ts), MaxOps, ErrTooLarge)
	}
	written := map[Key]bool{}
	for _, t := range ts {
		if len(t.Then) > MaxOps || len(t.If) > MaxOps {
			return fmt.Errorf("%d writes under %d conditions, at most %d each: %w", len(t.Then), len(t.If), MaxOps, ErrTooLarge)
		}
		for _, w := range t.Then {
			if written[w.Key] {
				return fmt.Errorf("write %s: twice in one round", w.Key)
			}
			written[w.Key] = true
			if b, ok := w.Value.(*spec.Blob); ok && len(b.Data) > MaxValueBytes {
				return fmt.Errorf("write %s: %d bytes, at most %d: %w", w.Key, len(b.Data), MaxValueBytes, ErrTooLarge)
			}
		}
	}
	return nil
}
