package supervisor

import (
	"bytes"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxLogLine is how much of a line stands in one entry, in bytes; a longer line is cut into parts marked P.
	MaxLogLine = 16 << 10
	// MaxLogFile is when a log is rotated, in bytes. One older file is kept, so an instance's logs take at most twice
	// this and an entry.
	MaxLogFile = 10 << 20
)

// logFile writes the output of one container instance in CRI form: "TIME stdout|stderr F|P TEXT". What cannot be
// written, because the disk is full, is dropped and counted: a container never waits for its log.
type logFile struct {
	path, old string
	max       int64

	mu      sync.Mutex
	f       *os.File
	size    int64
	dropped int64
	// owed is how many of the dropped lines no entry has told of yet.
	owed int64
	buf  []byte
}

// logStream is stdout or stderr on its way to the file.
type logStream struct {
	log  *logFile
	name string
	// part is a line's beginning, at most MaxLogLine bytes.
	part []byte
}

// consume copies a pipe into the log until it ends or is closed.
func (s *logStream) consume(pipe *os.File, buf *readBuffer) {
	defer pipe.Close()
	rc, err := pipe.SyscallConn()
	if err != nil {
		return
	}
	for end := false; !end; {
		err := rc.Read(func(fd uintptr) bool {
			buf.mu.Lock()
			defer buf.mu.Unlock()
			n, err := unix.Read(int(fd), buf.b[:])
			switch {
			case err == unix.EAGAIN:
				return false
			case err == unix.EINTR:
			case err != nil || n == 0:
				end = true
			default:
				s.write(time.Now(), buf.b[:n])
			}
			return true
		})
		if err != nil {
			break
		}
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	if len(s.part) > 0 {
		s.entry(time.Now(), 'F', s.part)
		s.part = nil
		s.log.flush()
	}
}

// readBuffer is shared by all pipes of a supervisor, so that an idle one costs no memory.
type readBuffer struct {
	mu sync.Mutex
	b  [32 << 10]byte
}

// write takes what came at a time.
func (s *logStream) write(now time.Time, b []byte) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		room := MaxLogLine - len(s.part)
		switch {
		case i >= 0 && i <= room:
			if len(s.part) == 0 {
				s.entry(now, 'F', b[:i])
			} else {
				s.part = append(s.part, b[:i]...)
				s.entry(now, 'F', s.part)
				s.part = nil
			}
			b = b[i+1:]
		case len(b) >= room:
			s.part = append(s.part, b[:room]...)
			s.entry(now, 'P', s.part)
			s.part = s.part[:0]
			b = b[room:]
		default:
			s.part = append(s.part, b...)
			b = nil
		}
	}
	s.log.flush()
}

// entry adds an entry to what flush will write.
func (s *logStream) entry(now time.Time, tag byte, text []byte) {
	l := s.log
	if len(l.buf) > 0 && len(l.buf)+len(text) > 64<<10 {
		l.flush()
	}
	l.buf = appendEntry(l.buf, now, s.name, tag, text)
}

func appendEntry(b []byte, now time.Time, stream string, tag byte, text []byte) []byte {
	b = now.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, ' ')
	b = append(b, stream...)
	b = append(b, ' ', tag, ' ')
	b = append(b, text...)
	return append(b, '\n')
}

// flush writes the gathered entries whole, or drops them.
func (l *logFile) flush() {
	if len(l.buf) == 0 {
		return
	}
	entries := int64(bytes.Count(l.buf, []byte{'\n'}))
	b := l.buf
	if l.owed > 0 {
		text := strconv.FormatInt(l.owed, 10) + " lines of output were dropped: they could not be written"
		b = append(appendEntry(nil, time.Now(), "stderr", 'F', []byte(text)), b...)
	}
	if err := l.put(b); err != nil {
		l.dropped += entries
		l.owed += entries
	} else {
		l.owed = 0
	}
	if cap(l.buf) > 16<<10 {
		l.buf = nil
	} else {
		l.buf = l.buf[:0]
	}
}

func (l *logFile) put(b []byte) error {
	if l.f != nil && l.size > 0 && l.size+int64(len(b)) > l.max {
		l.f.Close()
		l.f = nil
		if err := os.Rename(l.path, l.old); err != nil {
			return err
		}
	}
	if l.f == nil {
		f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		fi, err := f.Stat()
		if err != nil {
			f.Close()
			return err
		}
		l.f, l.size = f, fi.Size()
	}
	if _, err := l.f.Write(b); err != nil {
		l.f.Truncate(l.size) // half an entry is worse than none
		return err
	}
	l.size += int64(len(b))
	return nil
}

func (l *logFile) droppedLines() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
}

// LogEntry is one entry of a log in CRI form.
type LogEntry struct {
	Time time.Time
	// Stream is stdout or stderr.
	Stream string
	// Whole is false for a part of a line that goes on in the stream's next entry.
	Whole bool
	Text  []byte
}

// ParseLogEntry reads an entry, its newline included or not, and tells whether it is one. Text is of b.
func ParseLogEntry(b []byte) (LogEntry, bool) {
	b = bytes.TrimSuffix(b, []byte{'\n'})
	when, rest, ok1 := bytes.Cut(b, []byte{' '})
	stream, rest, ok2 := bytes.Cut(rest, []byte{' '})
	tag, text, ok3 := bytes.Cut(rest, []byte{' '})
	t, err := time.Parse(time.RFC3339Nano, string(when))
	if !ok1 || !ok2 || !ok3 || err != nil || len(tag) != 1 || tag[0] != 'F' && tag[0] != 'P' {
		return LogEntry{}, false
	}
	return LogEntry{Time: t, Stream: string(stream), Whole: tag[0] == 'F', Text: text}, true
}
