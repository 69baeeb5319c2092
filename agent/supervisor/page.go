package supervisor

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/internal/fence"
)

const (
	// PageName is the memory file's name.
	PageName = "muster-fence"
	// PageBytes is its size.
	PageBytes = 64 << 10
	// GuardSocket is where a guard hands out the page, in the data directory.
	GuardSocket = "guard.sock"
)

// MappedPage is a node's fence page in this process's memory. Its methods are single atomic loads and stores: nothing
// in them can block. For concurrent use, by any number of processes.
type MappedPage struct {
	words *[PageBytes / 8]uint64
	mem   []byte
	fd    int
	ino   uint64
}

// A slot is eight words; slot 0 is the page's own: the boot that it belongs to.
const (
	slotWords    = 8
	wordEpoch    = 0
	wordDeadline = 1
	wordArmed    = 2
)

// MapPage maps a page, which is tagged with this boot if it has no tag yet, and keeps the descriptor. It is locked into
// memory where that is allowed.
func MapPage(fd int) (*MappedPage, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat page", err)
	}
	if st.Size != PageBytes {
		return nil, errors.New("fence page: not of its size")
	}
	mem, err := unix.Mmap(fd, 0, PageBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap page", err)
	}
	unix.Mlock(mem) // an ordinary user's limit may forbid it
	p := &MappedPage{words: (*[PageBytes / 8]uint64)(unsafe.Pointer(&mem[0])), mem: mem, fd: fd, ino: st.Ino}
	tag := bootTag()
	if !atomic.CompareAndSwapUint64(&p.words[0], 0, tag) && atomic.LoadUint64(&p.words[0]) != tag {
		unix.Munmap(mem)
		return nil, errors.New("fence page: of another boot")
	}
	return p, nil
}

// bootTag is a hash of the boot id, never 0.
func bootTag() uint64 {
	var tag uint64
	for _, c := range strings.ReplaceAll(BootID(), "-", "") {
		tag = tag*31 + uint64(c)
	}
	return tag | 1
}

// CheckPage tells whether fd is a page of this boot.
func CheckPage(fd int) error {
	p, err := MapPage(fd)
	if err != nil {
		return err
	}
	return unix.Munmap(p.mem)
}

// FD is the page's descriptor.
func (p *MappedPage) FD() int { return p.fd }

// Same tells whether both are one page.
func (p *MappedPage) Same(q *MappedPage) bool { return p.ino == q.ino }

// Close unmaps the page and closes its descriptor; the page must not be used any more.
func (p *MappedPage) Close() {
	unix.Munmap(p.mem)
	unix.Close(p.fd)
}

func (p *MappedPage) word(slot, w int) *uint64 { return &p.words[slot*slotWords+w] }

// Assign gives a slot to an epoch, without any time. Only the agent calls it, and only when no process of an epoch
// that had the slot is left.
func (p *MappedPage) Assign(slot int, epoch int64) {
	atomic.StoreUint64(p.word(slot, wordEpoch), 0)
	atomic.StoreUint64(p.word(slot, wordDeadline), 0)
	atomic.StoreUint64(p.word(slot, wordArmed), 0)
	atomic.StoreUint64(p.word(slot, wordEpoch), uint64(epoch))
}

// SetDeadline says until when the slot's epoch may execute, as a reading of Boottime. Only the agent calls it.
func (p *MappedPage) SetDeadline(slot int, at time.Duration) {
	atomic.StoreUint64(p.word(slot, wordDeadline), uint64(at))
}

// Deadline is what SetDeadline said for that epoch; 0 when the slot is another's, which allows nothing.
func (p *MappedPage) Deadline(slot int, epoch int64) time.Duration {
	at := time.Duration(atomic.LoadUint64(p.word(slot, wordDeadline)))
	if int64(atomic.LoadUint64(p.word(slot, wordEpoch))) != epoch {
		return 0
	}
	return at
}

// Armed is the latest deadline that the epoch's supervisor may have armed; 0 before it has any. The agent tells the
// coordinator the later one of Armed and Deadline.
func (p *MappedPage) Armed(slot int) time.Duration {
	return time.Duration(atomic.LoadUint64(p.word(slot, wordArmed)))
}

// Latest is the latest deadline that any slot has or any supervisor may have armed, known to the agent or not.
func (p *MappedPage) Latest() time.Duration {
	latest := uint64(0)
	for slot := 1; slot < PageBytes/8/slotWords; slot++ {
		latest = max(latest, atomic.LoadUint64(p.word(slot, wordDeadline)), atomic.LoadUint64(p.word(slot, wordArmed)))
	}
	return time.Duration(latest)
}

// publish says what will be armed; only the slot's supervisor calls it.
func (p *MappedPage) publish(slot int, at time.Duration) {
	atomic.StoreUint64(p.word(slot, wordArmed), uint64(at))
}

// Expired tells whether the time is over that the epoch's supervisor had armed.
func (p *MappedPage) Expired(slot int, epoch int64) bool {
	armed := p.Armed(slot)
	return int64(atomic.LoadUint64(p.word(slot, wordEpoch))) == epoch && armed > 0 && Boottime() >= armed-fence.KillLead
}

// FetchPage gets the page from the guard of a data directory.
func FetchPage(ctx context.Context, dataDir string) (*MappedPage, error) {
	conn, err := Dial(ctx, dataDir, GuardSocket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write([]byte("page\n")); err != nil {
		return nil, err
	}
	var b [64]byte
	var oob [64]byte
	_, oobn, _, _, err := conn.ReadMsgUnix(b[:], oob[:])
	if err != nil {
		return nil, err
	}
	fd := takeFD(oob[:oobn])
	if fd < 0 {
		return nil, errors.New("guard sent no page")
	}
	p, err := MapPage(fd)
	if err != nil {
		unix.Close(fd)
	}
	return p, err
}
