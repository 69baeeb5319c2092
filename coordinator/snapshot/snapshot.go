// Package snapshot is the file that holds a copy of a cluster's whole store at one revision: what it looks like, how it is
// written and checked, and what becomes of it when it is restored. It knows nothing of the store's records but their names; what a
// restored coordinator owes the agents is coordinator/restored's.
//
// A file is, in this order: 16 bytes "muster snapshot\n"; the format's version, 4 bytes, big endian; frames, compressed by gzip; and
// the SHA-256 of all that. A frame is its length as a varint and so many bytes: first the header as JSON, then one frame a record by
// the order of its key, then an empty one, then the footer as JSON.
package snapshot

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"
	"time"
)

// Format is the version that this build writes, and the newest that it reads.
const Format = 1

const (
	magic = "muster snapshot\n"
	// maxFrame bounds a frame: a record has at most 1 MiB.
	maxFrame = 2 << 20
	// maxKey bounds a key, in bytes.
	maxKey = 4 << 10
	// least is what the shortest file has in front of its checksum.
	least = len(magic) + 4
)

// The errors of a file, wrapped with what was found.
var (
	// ErrNotSnapshot means that the file is something else.
	ErrNotSnapshot = errors.New("not a snapshot of muster")
	// ErrDamaged means that the file is not what was written: cut short, or changed.
	ErrDamaged = errors.New("damaged: it was cut short, or changed after it was written")
	// ErrFormat means that a newer muster has written it.
	ErrFormat = errors.New("written by a newer muster")
)

// Header says what a snapshot is of.
type Header struct {
	// Muster is the version that wrote it, Cluster the cluster's id.
	Muster  string `json:"muster"`
	Cluster string `json:"cluster"`
	// Generation is the cluster's: 1, and higher after each restore.
	Generation int64 `json:"generation"`
	// Revision is the store's: everything in the file is as it was then.
	Revision int64 `json:"revision"`
	// Time is when it was taken, by the coordinator's clock.
	Time time.Time `json:"time"`
	// LeaseTTL is the coordinator's T.
	LeaseTTL time.Duration `json:"lease_ttl_ns"`
}

// Record is one key of the store as it is there: values are encoded, and Secrets encrypted.
type Record struct {
	// Key is below the store's root: "pods/default/web".
	Key   string
	Value []byte
	// Revision and Created are the revisions of the last write and of the first, Version counts the writes between.
	Revision, Created, Version int64
}

// Family is the first part of the key: "pods".
func (r *Record) Family() string {
	family, _, _ := strings.Cut(r.Key, "/")
	return family
}

// Summary is what is in a file.
type Summary struct {
	Format int
	Header
	// Records and Bytes count all records, and what their values have together; Families the records of each.
	Records, Bytes int64
	Families       map[string]int64
	// SHA256 is the file's checksum.
	SHA256 [sha256.Size]byte
}

type footer struct {
	Records int64 `json:"records"`
	Bytes   int64 `json:"bytes"`
}

// Writer writes a file. What it has written is worth nothing before Close.
type Writer struct {
	out   io.Writer
	sum   hash.Hash
	zip   *gzip.Writer
	buf   []byte
	head  Header
	count footer
	last  string
}

// NewWriter begins a file.
func NewWriter(out io.Writer, h Header) (*Writer, error) {
	w := &Writer{out: out, sum: sha256.New(), head: h}
	both := io.MultiWriter(out, w.sum)
	if _, err := both.Write(binary.BigEndian.AppendUint32([]byte(magic), Format)); err != nil {
		return nil, err
	}
	w.zip = gzip.NewWriter(both)
	return w, w.json(h)
}

func (w *Writer) json(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.frame(text)
}

func (w *Writer) frame(data []byte) error {
	if len(data) > maxFrame {
		return fmt.Errorf("%d bytes in one record, at most %d", len(data), maxFrame)
	}
	if _, err := w.zip.Write(binary.AppendUvarint(nil, uint64(len(data)))); err != nil {
		return err
	}
	_, err := w.zip.Write(data)
	return err
}

// Add writes a record; they come by the order of their keys.
func (w *Writer) Add(r Record) error {
	if err := check(&r, w.last, w.head.Revision); err != nil {
		return err
	}
	w.last = r.Key
	w.buf = appendRecord(w.buf[:0], &r)
	w.count.Records++
	w.count.Bytes += int64(len(r.Value))
	return w.frame(w.buf)
}

// check holds a record to what every one is.
func check(r *Record, last string, revision int64) error {
	switch {
	case r.Key == "" || len(r.Key) > maxKey || r.Key <= last:
		return fmt.Errorf("record %.80q is out of order", r.Key)
	case r.Created < 1 || r.Revision < r.Created || r.Revision > revision || r.Version < 1:
		return fmt.Errorf("record %s has revisions that cannot be: %d, made at %d, of %d", r.Key, r.Revision, r.Created, revision)
	}
	return nil
}

func appendRecord(b []byte, r *Record) []byte {
	b = binary.AppendUvarint(b, uint64(len(r.Key)))
	b = append(b, r.Key...)
	for _, n := range []int64{r.Revision, r.Created, r.Version} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return append(b, r.Value...)
}

func parseRecord(b []byte) (r Record, err error) {
	broken := errors.New("a record does not make sense")
	n, used := binary.Uvarint(b)
	if used <= 0 || n > maxKey || n > uint64(len(b)-used) {
		return r, broken
	}
	r.Key, b = string(b[used:used+int(n)]), b[used+int(n):]
	for _, to := range []*int64{&r.Revision, &r.Created, &r.Version} {
		n, used := binary.Uvarint(b)
		if used <= 0 {
			return r, broken
		}
		*to, b = int64(n), b[used:]
	}
	r.Value = b
	return r, nil
}

// Close ends the file: without it there is no checksum. It does not close what it writes to.
func (w *Writer) Close() error {
	if err := w.frame(nil); err != nil {
		return err
	}
	if err := w.json(w.count); err != nil {
		return err
	}
	if err := w.zip.Close(); err != nil {
		return err
	}
	_, err := w.out.Write(w.sum.Sum(nil))
	return err
}

// Read checks a whole file, then hands out its records, each valid during the call only; nil only counts them. It holds no
// more than one of them. ErrNotSnapshot, ErrDamaged, ErrFormat, or those of each and of reading.
func Read(path string, each func(Record) error) (*Summary, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w: it is no file", path, ErrNotSnapshot)
	}
	s, err := read(f, info.Size(), each)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func read(f io.ReaderAt, size int64, each func(Record) error) (*Summary, error) {
	head := make([]byte, least)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if n == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrNotSnapshot)
	}
	if text := head[:min(n, len(magic))]; !bytes.HasPrefix([]byte(magic), text) {
		// One bit that was flipped here is told from another kind of file by the checksum, which is right for neither.
		return nil, fmt.Errorf("%w, or %w", ErrNotSnapshot, ErrDamaged)
	}
	body := size - sha256.Size
	if body <= int64(least) {
		return nil, fmt.Errorf("%w: %d bytes are too few", ErrDamaged, size)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, body)); err != nil {
		return nil, err
	}
	s := &Summary{Families: map[string]int64{}}
	if _, err := f.ReadAt(s.SHA256[:], body); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if !bytes.Equal(sum.Sum(nil), s.SHA256[:]) {
		return nil, fmt.Errorf("%w: its checksum is another", ErrDamaged)
	}
	if format := binary.BigEndian.Uint32(head[len(magic):]); format != Format {
		return nil, fmt.Errorf("%w: format %d, this one knows %d", ErrFormat, format, Format)
	}
	s.Format = Format
	if err := s.frames(io.NewSectionReader(f, int64(least), body-int64(least)), each); err != nil {
		return nil, err
	}
	return s, nil
}

// frames reads what is compressed. The checksum was right: what does not make sense was written so.
func (s *Summary) frames(section io.Reader, each func(Record) error) error {
	wrong := func(err error) error { return fmt.Errorf("%w: %w", ErrDamaged, err) }
	packed := bufio.NewReader(section)
	zip, err := gzip.NewReader(packed)
	if err != nil {
		return wrong(err)
	}
	zip.Multistream(false)
	in := bufio.NewReader(zip)
	var buf []byte
	frame := func() ([]byte, error) {
		n, err := binary.ReadUvarint(in)
		if err != nil {
			return nil, wrong(err)
		}
		if n > maxFrame {
			return nil, wrong(fmt.Errorf("a record of %d bytes", n))
		}
		if uint64(cap(buf)) < n {
			buf = make([]byte, n)
		}
		buf = buf[:n]
		if _, err := io.ReadFull(in, buf); err != nil {
			return nil, wrong(err)
		}
		return buf, nil
	}
	text, err := frame()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &s.Header); err != nil {
		return wrong(err)
	}
	last := ""
	for {
		data, err := frame()
		if err != nil {
			return err
		}
		if len(data) == 0 {
			break
		}
		r, err := parseRecord(data)
		if err == nil {
			err = check(&r, last, s.Revision)
		}
		if err != nil {
			return wrong(err)
		}
		last = r.Key
		s.Records++
		s.Bytes += int64(len(r.Value))
		s.Families[r.Family()]++
		if each != nil {
			if err := each(r); err != nil {
				return err
			}
		}
	}
	if text, err = frame(); err != nil {
		return err
	}
	var end footer
	if err := json.Unmarshal(text, &end); err != nil {
		return wrong(err)
	}
	if end != (footer{s.Records, s.Bytes}) {
		return wrong(fmt.Errorf("%d records, and it says %d", s.Records, end.Records))
	}
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
		return wrong(errors.New("more after its end"))
	}
	if _, err := packed.ReadByte(); !errors.Is(err, io.EOF) {
		return wrong(errors.New("more after its end"))
	}
	return nil
}
