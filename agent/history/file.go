package history

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/internal/spec"
)

// The file is a header of one page and then blocks, each of which can be read alone: it begins with its number and one word that has
// the length and the checksum of what is in it, and defines the texts and probes that its attempts name. The word is written last and
// with one store, so that a process that is killed loses at most the attempt that it was writing; what a crash of the machine has torn
// does not match its checksum. Blocks are filled one after the other, and once all are full, the oldest is the next.
const (
	fileVersion = 1
	pageBytes   = 4 << 10
	blockBytes  = 256 << 10
	// blockHead is the number and the word.
	blockHead = 16
	// maxTexts bounds what outputs take of a block: a quarter, so that what is said does not crowd out when.
	maxTexts = blockBytes / 4
	// extend is by how much the file grows at a time.
	extend = 4 << 20
	// MinFile and MaxFile bound a file's size.
	MinFile, MaxFile = 4 << 20, 4 << 30
)

var fileMagic = [8]byte{'m', 'u', 's', 't', 'e', 'r', 'H', '\n'}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// The records of a block.
const (
	recordText    = 1 // length uint16, text; its number is the next from firstText on
	recordProbe   = 2 // numbers of uid and container, uint32 each, kind; its number is the next from 0 on
	recordAttempt = 3
	// attemptBytes is what an attempt takes: probe, instance, output; start; took, cpu, lag; outcome and result.
	attemptBytes = 1 + 3*4 + 8 + 3*4 + 1
	probeBytes   = 1 + 2*4 + 1
	firstText    = 2 // 0 is no text, 1 an output that was not kept
	// maxText bounds any text.
	maxText = MaxOutput
)

// ErrNewer means that a file was written by a newer muster.
var errNewer = errors.New("is of a newer format")

// File keeps attempts on disk, in memory that the kernel writes there: what a process has put in survives its end, however it ends,
// and but for the last seconds a loss of power. Its methods may be called from any goroutine.
type File struct {
	path string
	log  *slog.Logger

	mu sync.Mutex
	f  *os.File
	// data is the whole file, mapped; only the first ready blocks of it may be touched. Nil once closed.
	data         []byte
	blocks       int
	ready        int
	stuck        bool
	current      int
	number       uint64 // of the current block
	used         int
	sum          uint32
	texts        map[string]uint32
	textsBytes   int
	probes       map[spec.ProbeID]uint32
	scratchProbe [probeBytes]byte
	scratch      [attemptBytes]byte
	head         [3]byte
}

// OpenFile opens or makes a history of at most that size, in bytes: MinFile to MaxFile. A file of a newer format is put aside as
// PATH.newer, one whose header is damaged as PATH.damaged, each in the place of one before, and a new one is begun; damaged blocks
// are left out. What a file of another size has is taken over. All of that is logged.
func OpenFile(path string, size int64, log *slog.Logger) (*File, error) {
	if size < MinFile || size > MaxFile {
		return nil, fmt.Errorf("size of the history: %d, must be %d to %d", size, MinFile, MaxFile)
	}
	blocks := int((size - pageBytes) / blockBytes)
	h, err := open(path, log)
	switch {
	case err == nil && h.blocks == blocks:
		return h, nil
	case err == nil:
		return h.resize(blocks)
	case errors.Is(err, os.ErrNotExist):
	case errors.Is(err, errNewer), errors.Is(err, errDamaged):
		aside := path + ".damaged"
		if errors.Is(err, errNewer) {
			aside = path + ".newer"
		}
		log.Warn("history of probes put aside: a new one is begun", "path", path, "aside", aside, "err", err)
		if err := os.Rename(path, aside); err != nil {
			return nil, err
		}
	default:
		return nil, err
	}
	return create(path, blocks, log)
}

var errDamaged = errors.New("has no whole header")

// header is the first page.
func header(blocks int) []byte {
	p := make([]byte, 24)
	copy(p, fileMagic[:])
	binary.LittleEndian.PutUint32(p[8:], fileVersion)
	binary.LittleEndian.PutUint32(p[12:], blockBytes)
	binary.LittleEndian.PutUint32(p[16:], uint32(blocks))
	binary.LittleEndian.PutUint32(p[20:], crc32.Checksum(p[:20], castagnoli))
	return p
}

func create(path string, blocks int, log *slog.Logger) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := f.WriteAt(header(blocks), 0); err != nil {
		f.Close()
		return nil, err
	}
	return mapped(f, path, blocks, log)
}

func open(path string, log *slog.Logger) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	p := make([]byte, 24)
	if _, err := f.ReadAt(p, 0); err != nil || [8]byte(p[:8]) != fileMagic {
		f.Close()
		return nil, fmt.Errorf("%s %w", path, errDamaged)
	}
	if v := binary.LittleEndian.Uint32(p[8:]); v > fileVersion {
		f.Close()
		return nil, fmt.Errorf("%s %w: %d, this muster knows %d", path, errNewer, v, fileVersion)
	}
	blocks := binary.LittleEndian.Uint32(p[16:])
	if crc32.Checksum(p[:20], castagnoli) != binary.LittleEndian.Uint32(p[20:]) || binary.LittleEndian.Uint32(p[8:]) != fileVersion ||
		binary.LittleEndian.Uint32(p[12:]) != blockBytes || blocks == 0 || blocks > MaxFile/blockBytes {
		f.Close()
		return nil, fmt.Errorf("%s %w", path, errDamaged)
	}
	return mapped(f, path, int(blocks), log)
}

// mapped maps a file with a whole header and looks through its blocks.
func mapped(f *os.File, path string, blocks int, log *slog.Logger) (*File, error) {
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	data, err := unix.Mmap(int(f.Fd()), 0, pageBytes+blocks*blockBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	h := &File{path: path, log: log, f: f, data: data, blocks: blocks, texts: map[string]uint32{}, probes: map[spec.ProbeID]uint32{}}
	h.ready = min(blocks, max(0, int((info.Size()-pageBytes)/blockBytes)))
	damaged := 0
	h.current = -1
	for i := range h.ready {
		b := h.block(i)
		n := binary.LittleEndian.Uint64(b)
		if n == 0 || binary.LittleEndian.Uint64(b[8:]) == 0 { // never begun, or killed while it was
			continue
		}
		if _, ok := whole(b); !ok {
			damaged++
			clear(b[:blockHead])
			continue
		}
		if n > h.number {
			h.number, h.current = n, i
		}
	}
	if damaged > 0 {
		log.Warn("blocks of the history of probes are damaged and left out", "path", path, "damaged", damaged, "blocks", h.ready)
	}
	if !h.turn() {
		h.Close()
		return nil, fmt.Errorf("make room for %s: no space", path)
	}
	return h, nil
}

func (h *File) block(i int) []byte {
	return h.data[pageBytes+i*blockBytes : pageBytes+(i+1)*blockBytes]
}

// whole returns the records of a block if they are what was written.
func whole(b []byte) (records []byte, ok bool) {
	word := atomic.LoadUint64((*uint64)(unsafe.Pointer(&b[8])))
	used := int(uint32(word))
	if used > blockBytes-blockHead {
		return nil, false
	}
	sum := crc32.Update(crc32.Checksum(b[:8], castagnoli), castagnoli, b[blockHead:blockHead+used])
	return b[blockHead : blockHead+used], sum == uint32(word>>32)
}

// turn begins the next block; false when there is none.
func (h *File) turn() bool {
	next := (h.current + 1) % h.blocks
	if next >= h.ready {
		if err := h.grow(); err != nil {
			if !h.stuck {
				h.stuck = true
				h.log.Warn("history of probes does not grow: what is oldest in it is overwritten", "path", h.path, "blocks", h.ready, "err", err)
			}
			if h.ready == 0 {
				return false
			}
			next = 0
		} else {
			h.stuck = false
		}
	}
	b := h.block(next)
	clear(b[:blockHead])
	h.number++
	h.current, h.used, h.textsBytes = next, 0, 0
	binary.LittleEndian.PutUint64(b, h.number)
	h.sum = crc32.Checksum(b[:8], castagnoli)
	clear(h.texts)
	clear(h.probes)
	h.publish(b)
	return true
}

// grow has the disk set room aside: what is written to memory later cannot fail for want of it.
func (h *File) grow() error {
	from := int64(pageBytes + h.ready*blockBytes)
	more := min(h.blocks-h.ready, extend/blockBytes)
	if err := unix.Fallocate(int(h.f.Fd()), 0, from, int64(more*blockBytes)); err != nil {
		if !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		zero := make([]byte, blockBytes)
		for i := range more {
			if _, err := h.f.WriteAt(zero, from+int64(i*blockBytes)); err != nil {
				return err
			}
		}
	}
	h.ready += more
	return nil
}

// publish makes what was written part of the block.
func (h *File) publish(b []byte) {
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&b[8])), uint64(uint32(h.used))|uint64(h.sum)<<32)
}

// put adds bytes that are not yet part of the block.
func (h *File) put(b, p []byte) {
	copy(b[blockHead+h.used:], p)
	h.used += len(p)
	h.sum = crc32.Update(h.sum, castagnoli, p)
}

// Add keeps an attempt. It makes no system call but when the file grows.
func (h *File) Add(id spec.ProbeID, a *spec.Attempt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.data == nil {
		return
	}
	uid, container, instance, output := bounded(id.PodUID), bounded(id.Container), bounded(a.Instance), bounded(a.Output)
	worst := 4*3 + len(uid) + len(container) + len(instance) + len(output) + probeBytes + attemptBytes
	if h.used+worst > blockBytes-blockHead {
		h.turn()
	}
	b := h.block(h.current)
	key := spec.ProbeID{PodUID: uid, Container: container, Kind: id.Kind}
	n, known := h.probes[key]
	if !known {
		p := &h.scratchProbe
		p[0] = recordProbe
		binary.LittleEndian.PutUint32(p[1:], h.text(b, uid, false))
		binary.LittleEndian.PutUint32(p[5:], h.text(b, container, false))
		p[9] = byte(id.Kind)
		n = uint32(len(h.probes))
		h.probes[key] = n
		h.put(b, p[:])
	}
	p := &h.scratch
	p[0] = recordAttempt
	binary.LittleEndian.PutUint32(p[1:], n)
	binary.LittleEndian.PutUint32(p[5:], h.text(b, instance, false))
	binary.LittleEndian.PutUint32(p[9:], h.text(b, output, true))
	binary.LittleEndian.PutUint64(p[13:], uint64(a.Start.UnixNano()))
	binary.LittleEndian.PutUint32(p[21:], micros(a.Duration))
	binary.LittleEndian.PutUint32(p[25:], micros(a.CPU))
	binary.LittleEndian.PutUint32(p[29:], micros(a.Lag))
	p[33] = byte(a.Outcome) | byte(a.Result)<<4
	h.put(b, p[:])
	h.publish(b)
}

func bounded(s string) string { return s[:min(len(s), maxText)] }

// text is the number of a text in the current block, which has it from now on. An output that takes more than outputs may is not kept.
func (h *File) text(b []byte, s string, output bool) uint32 {
	if s == "" {
		return noOutput
	}
	if n, ok := h.texts[s]; ok {
		return n
	}
	if output {
		if h.textsBytes+len(s) > maxTexts {
			return lostOutput
		}
		h.textsBytes += len(s)
	}
	n := uint32(len(h.texts)) + firstText
	h.texts[s] = n
	h.head[0] = recordText
	binary.LittleEndian.PutUint16(h.head[1:], uint16(len(s)))
	h.put(b, h.head[:])
	at := blockHead + h.used
	copy(b[at:], s)
	h.sum = crc32.Update(h.sum, castagnoli, b[at:at+len(s)])
	h.used += len(s)
	return n
}

// Last returns the newest n attempts of a probe, oldest first. It holds Add up for no longer than a block takes to read.
func (h *File) Last(id spec.ProbeID, n int) []spec.Attempt {
	var parts [][]spec.Attempt
	found, before := 0, uint64(0)
	for found < n {
		attempts, number := h.older(before, &id)
		if number == 0 {
			break
		}
		before = number
		attempts = attempts[max(0, len(attempts)-(n-found)):]
		found += len(attempts)
		parts = append(parts, attempts)
	}
	out := make([]spec.Attempt, 0, found)
	for _, part := range slices.Backward(parts) {
		out = append(out, part...)
	}
	return out
}

// older returns the attempts of a probe in the newest block with a number below that (0: any), and its number, 0 for none.
func (h *File) older(below uint64, id *spec.ProbeID) (out []spec.Attempt, number uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.data == nil {
		return nil, 0
	}
	var newest []byte
	for i := range h.ready {
		b := h.block(i)
		if n := binary.LittleEndian.Uint64(b); n > number && (below == 0 || n < below) {
			newest, number = b, n
		}
	}
	if number == 0 {
		return nil, 0
	}
	if records, ok := whole(newest); ok {
		read(records, func(p *blockProbe, a func() spec.Attempt) {
			if string(p.uid) == id.PodUID && string(p.container) == id.Container && p.kind == id.Kind {
				out = append(out, a())
			}
		})
	}
	return out, number
}

// blockProbe is a probe as a block has it.
type blockProbe struct {
	uid, container []byte
	kind           spec.ProbeKind
}

// read hands each attempt of a block to f, in their order; what follows something that cannot be is left out.
func read(p []byte, f func(probe *blockProbe, attempt func() spec.Attempt)) {
	texts := [][]byte{nil, []byte(LostOutput)}
	var probes []blockProbe
	text := func(p []byte) []byte {
		if n := binary.LittleEndian.Uint32(p); int64(n) < int64(len(texts)) {
			return texts[n]
		}
		return nil
	}
	for len(p) > 0 {
		switch {
		case p[0] == recordText && len(p) >= 3 && len(p) >= 3+int(binary.LittleEndian.Uint16(p[1:])):
			end := 3 + int(binary.LittleEndian.Uint16(p[1:]))
			texts = append(texts, p[3:end])
			p = p[end:]
		case p[0] == recordProbe && len(p) >= probeBytes:
			probes = append(probes, blockProbe{uid: text(p[1:]), container: text(p[5:]), kind: spec.ProbeKind(p[9])})
			p = p[probeBytes:]
		case p[0] == recordAttempt && len(p) >= attemptBytes && int64(binary.LittleEndian.Uint32(p[1:])) < int64(len(probes)):
			r := p[:attemptBytes]
			f(&probes[binary.LittleEndian.Uint32(r[1:])], func() spec.Attempt {
				return spec.Attempt{
					Instance: string(text(r[5:])), Output: string(text(r[9:])), Start: time.Unix(0, int64(binary.LittleEndian.Uint64(r[13:]))),
					Duration: duration(binary.LittleEndian.Uint32(r[21:])), CPU: duration(binary.LittleEndian.Uint32(r[25:])),
					Lag: duration(binary.LittleEndian.Uint32(r[29:])), Outcome: spec.Outcome(r[33] & 15), Result: spec.Result(r[33] >> 4),
				}
			})
			p = p[attemptBytes:]
		default:
			return
		}
	}
}

// resize takes what a file has over into one of that many blocks, which takes its place.
func (h *File) resize(blocks int) (*File, error) {
	defer h.Close()
	made, err := create(h.path+".new", blocks, h.log)
	if err != nil {
		return nil, err
	}
	numbers := []uint64{}
	for before := uint64(0); ; {
		_, n := h.older(before, &spec.ProbeID{})
		if n == 0 {
			break
		}
		numbers, before = append(numbers, n), n
	}
	for _, number := range slices.Backward(numbers) {
		for at := range h.ready {
			b := h.block(at)
			if binary.LittleEndian.Uint64(b) != number {
				continue
			}
			records, _ := whole(b)
			read(records, func(p *blockProbe, a func() spec.Attempt) {
				attempt := a()
				made.Add(spec.ProbeID{PodUID: string(p.uid), Container: string(p.container), Kind: p.kind}, &attempt)
			})
		}
	}
	if err := os.Rename(h.path+".new", h.path); err != nil {
		made.Close()
		return nil, err
	}
	made.path = h.path
	h.log.Info("history of probes has another size", "path", h.path, "bytes", pageBytes+blocks*blockBytes)
	return made, nil
}

// Close lets go of the file; what is added later is not kept in it.
func (h *File) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.data == nil {
		return
	}
	_ = unix.Munmap(h.data) // of a mapping that is there
	h.data = nil
	h.f.Close()
}
