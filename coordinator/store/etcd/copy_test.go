package etcd

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestACopyIsOfOneRevisionThoughWritesGoOn(t *testing.T) {
	s, err := Open(t.Context(), Config{Dir: filepath.Join(t.TempDir(), "etcd"), UnsafeNoSync: true, Codec: jsonCodec{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put := func(key, value string) {
		if _, err := s.client.Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	const n = 3*copyPage + 5
	for i := range n {
		put(fmt.Sprintf("%spods/default/%04d", root, i), "old")
	}
	put("/somebody/else", "x")
	at, got := int64(0), 0
	err = s.Copy(t.Context(), func(r int64) error { at = r; return nil }, func(r Raw) error {
		if string(r.Value) != "old" || r.Revision > at || !strings.HasPrefix(r.Key, "pods/default/") || r.Version != 1 {
			t.Errorf("%+v in a copy of revision %d", r, at)
		}
		if got++; got%copyPage == 1 { // between two pages
			put(fmt.Sprintf("%spods/default/%04d", root, n-1), "new")
			put(fmt.Sprintf("%spods/default/%04d-new", root, got), "new")
		}
		return nil
	})
	if err != nil || got != n {
		t.Errorf("%d records, %v, want %d", got, err, n)
	}
	stop := errors.New("enough")
	if err := s.Copy(t.Context(), func(int64) error { return nil }, func(Raw) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v, want %v", err, stop)
	}
	// What a copy can no longer be of is an error, and no shorter copy.
	err = s.Copy(t.Context(), func(int64) error { return nil }, func(r Raw) error {
		if strings.HasSuffix(r.Key, "/0000") {
			put(root+"pods/default/0000", "newer")
			resp, err := s.client.Get(t.Context(), root, clientv3.WithCountOnly())
			if err == nil {
				_, err = s.client.Compact(t.Context(), resp.Header.Revision)
			}
			return err
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "compacted") {
		t.Errorf("after a compaction: got %v", err)
	}
}
