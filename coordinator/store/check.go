package store

import (
	"fmt"
	"strings"

	"github.com/musterhq/muster/internal/spec"
)

// CheckTxns holds one Commit or CommitEach to its limits and keys to their form, before anything is written. Of records
// other than blobs only an encoding store knows the size.
func CheckTxns(ts []Txn) error {
	if len(ts) > MaxOps {
		return fmt.Errorf("%d transactions, at most %d: %w", len(ts), MaxOps, ErrTooLarge)
	}
	written := map[Key]bool{}
	bytes := 0
	for _, t := range ts {
		limit := min(MaxOps, MaxRoundOps-len(ts))
		if len(t.Then) > limit || len(t.If) > limit {
			return fmt.Errorf("%d writes under %d conditions in one of %d transactions, at most %d each: %w", len(t.Then), len(t.If), len(ts), limit, ErrTooLarge)
		}
		for _, c := range t.If {
			if err := checkKey(c.Key); err != nil {
				return err
			}
		}
		for _, w := range t.Then {
			if err := checkKey(w.Key); err != nil {
				return err
			}
			if written[w.Key] {
				return fmt.Errorf("write %s: twice in one round", w.Key)
			}
			written[w.Key] = true
			b, ok := w.Value.(*spec.Blob)
			if !ok {
				continue
			}
			if bytes += len(b.Data); len(b.Data) > MaxValueBytes || bytes > MaxRoundBytes {
				return fmt.Errorf("write %s: %d bytes, %d in the round; at most %d and %d: %w", w.Key, len(b.Data), bytes, MaxValueBytes, MaxRoundBytes, ErrTooLarge)
			}
		}
	}
	return nil
}

// checkKey refuses what could not be told apart from another key once it is a path.
func checkKey(k Key) error {
	if k.Family == "" || k.Name == "" || strings.Contains(string(k.Family), "/") || strings.Contains(k.Namespace, "/") || strings.Contains(k.Name, "/") {
		return fmt.Errorf("key %q: family and name are required, and no part may have a slash", k.String())
	}
	return nil
}
