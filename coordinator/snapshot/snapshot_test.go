package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var head = Header{Muster: "0.1.0", Cluster: "0123456789abcdef", Generation: 1, Revision: 1000, Time: time.Unix(1e9, 0).UTC(), LeaseTTL: 10 * time.Second}

func file(t interface{ Fatal(...any) }, h Header, recs []Record) []byte {
	var b bytes.Buffer
	w, err := NewWriter(&b, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range recs {
		if err := w.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func readBytes(b []byte) ([]Record, *Summary, error) {
	var recs []Record
	s, err := read(bytes.NewReader(b), int64(len(b)), func(r Record) error {
		r.Value = slices.Clone(r.Value)
		recs = append(recs, r)
		return nil
	})
	return recs, s, err
}

var some = []Record{
	{Key: "bindings/default/web", Value: []byte("node-1"), Revision: 7, Created: 7, Version: 1},
	{Key: "config/ca", Value: bytes.Repeat([]byte{1, 2, 3}, 100), Revision: 2, Created: 2, Version: 1},
	{Key: "pods/default/web", Value: []byte{}, Revision: 9, Created: 5, Version: 3},
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		recs := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) Record {
			made := rapid.Int64Range(1, 1000).Draw(t, "made")
			return Record{
				Key: rapid.StringMatching(`[a-z]{1,8}/[a-z]{1,8}(/[a-z-]{1,20})?`).Draw(t, "key"), Value: rapid.SliceOfN(rapid.Byte(), 0, 2000).Draw(t, "value"),
				Created: made, Revision: rapid.Int64Range(made, 1000).Draw(t, "revision"), Version: rapid.Int64Range(1, 1<<62).Draw(t, "version"),
			}
		}), 0, 50, func(r Record) string { return r.Key }).Draw(t, "records")
		slices.SortFunc(recs, func(a, b Record) int { return bytes.Compare([]byte(a.Key), []byte(b.Key)) })
		got, s, err := readBytes(file(t, head, recs))
		if err != nil {
			t.Fatal(err)
		}
		if s.Header != head || s.Records != int64(len(recs)) || len(got) != len(recs) {
			t.Fatalf("got %+v and %d records, want %+v and %d", s, len(got), head, len(recs))
		}
		for i := range got {
			if fmt.Sprint(got[i]) != fmt.Sprint(recs[i]) {
				t.Fatalf("got %v, want %v", got[i], recs[i])
			}
		}
	})
}

func TestEveryFlippedBitIsFound(t *testing.T) {
	b := file(t, head, some)
	for i := range b {
		for bit := range 8 {
			b[i] ^= 1 << bit
			if _, _, err := readBytes(b); !errors.Is(err, ErrDamaged) {
				t.Errorf("byte %d, bit %d: got %v, want %v", i, bit, err, ErrDamaged)
			}
			b[i] ^= 1 << bit
		}
	}
}

func TestEveryTruncationIsFound(t *testing.T) {
	b := file(t, head, some)
	for n := range b {
		if _, _, err := readBytes(b[:n]); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotSnapshot) {
			t.Errorf("%d of %d bytes: got %v", n, len(b), err)
		}
	}
	if _, _, err := readBytes(append(b, 0)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte more: got %v", err)
	}
}

// signed puts the right checksum at the end, as somebody would who writes such files.
func signed(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(slices.Clone(b), sum[:]...)
}

func TestAnotherFormatIsRefusedByItsNumber(t *testing.T) {
	b := file(t, head, some)
	b = b[:len(b)-sha256.Size]
	binary.BigEndian.PutUint32(b[len(magic):], Format+1)
	if _, _, err := readBytes(signed(b)); !errors.Is(err, ErrFormat) {
		t.Errorf("got %v, want %v", err, ErrFormat)
	}
}

func TestWhatIsSignedButSenselessIsRefused(t *testing.T) {
	for name, recs := range map[string][]Record{
		"out of order":       {some[2], some[0]},
		"twice":              {some[0], some[0]},
		"newer than the end": {{Key: "a/b", Revision: 1001, Created: 1, Version: 1}},
		"made after written": {{Key: "a/b", Revision: 3, Created: 4, Version: 1}},
	} {
		var b bytes.Buffer
		w, err := NewWriter(&b, head)
		if err != nil {
			t.Fatal(err)
		}
		for i := range recs {
			if err := w.frame(appendRecord(nil, &recs[i])); err != nil { // past Add, which refuses it as well
				t.Fatal(err)
			}
			w.count.Records++
			w.count.Bytes += int64(len(recs[i].Value))
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := readBytes(b.Bytes()); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %v, want %v", name, err, ErrDamaged)
		}
	}
}

func TestOtherFilesAreNoSnapshots(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty": "", "garbage": "apiVersion: v1\nkind: Pod\n and so on, for longer than a header"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path, nil); !errors.Is(err, ErrNotSnapshot) {
			t.Errorf("%s: got %v, want %v", name, err, ErrNotSnapshot)
		}
	}
	if _, err := Read(dir, nil); !errors.Is(err, ErrNotSnapshot) {
		t.Errorf("a directory: got %v", err)
	}
	if _, err := Read(filepath.Join(dir, "none"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("none: got %v", err)
	}
}
