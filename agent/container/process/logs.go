package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/supervisor"
)

// followPause is how often a followed log is looked at.
const followPause = 100 * time.Millisecond

// Logs implements container.Runtime.
func (r *Runtime) Logs(ctx context.Context, id container.ContainerID, opts container.LogOptions, w io.Writer) error {
	p, name, instance, err := r.resolve(id)
	if err != nil {
		return fmt.Errorf("read logs: %w", err)
	}
	dir := filepath.Join(p.dir, supervisor.InstanceDir(name, instance))
	if !exists(filepath.Join(dir, supervisor.StateFile)) {
		return fmt.Errorf("read logs of container %s: %w", id, container.ErrNotFound)
	}
	l := &logReader{dir: dir, opts: opts, out: bufio.NewWriter(w)}
	defer l.close()
	if err := l.begin(); err != nil {
		return fmt.Errorf("read logs of container %s: %w", name, err)
	}
	for {
		// Asked before reading: what was written before the end is read after it.
		running := opts.Follow && r.running(p, name, instance)
		if err := l.copy(ctx); err != nil {
			return fmt.Errorf("read logs of container %s: %w", name, err)
		}
		if !running {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followPause):
		}
	}
}

// running asks the disk, so that a log can be read to its end without a supervisor.
func (r *Runtime) running(p *pod, name, instance string) bool {
	recs, err := supervisor.ReadContainerRecords(p.dir)
	if err != nil {
		return false
	}
	for _, c := range recs {
		if c.Name == name && c.Instance == instance {
			return c.Running
		}
	}
	return false
}

// logReader reads an instance's log over its rotation.
type logReader struct {
	dir  string
	opts container.LogOptions
	out  *bufio.Writer
	f    *os.File
	in   *bufio.Reader
	part []byte // an entry whose end has not been written yet
	// middle is set while a line's parts are being written.
	middle map[string]bool
}

// begin opens the older file, or the only one, behind what Tail leaves out.
func (l *logReader) begin() error {
	l.middle = map[string]bool{}
	skip := 0
	if l.opts.Tail >= 0 {
		total := 0
		for _, name := range []string{supervisor.OldLogFile, supervisor.LogFile} {
			n, err := l.countLines(name)
			if err != nil {
				return err
			}
			total += n
		}
		skip = max(total-l.opts.Tail, 0)
	}
	if err := l.open(supervisor.OldLogFile); err != nil {
		return err
	}
	if l.f == nil {
		if err := l.open(supervisor.LogFile); err != nil {
			return err
		}
	}
	for skip > 0 {
		e, err := l.next()
		if errors.Is(err, io.EOF) {
			return nil // rotated away meanwhile
		}
		if err != nil {
			return err
		}
		if e.Whole && l.wanted(e) {
			skip--
		}
	}
	return nil
}

func (l *logReader) wanted(e supervisor.LogEntry) bool {
	return l.opts.Since.IsZero() || !e.Time.Before(l.opts.Since)
}

func (l *logReader) countLines(name string) (int, error) {
	f, err := os.Open(filepath.Join(l.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n := 0
	in := bufio.NewReader(f)
	for {
		line, err := in.ReadSlice('\n')
		if err == nil {
			if e, ok := supervisor.ParseLogEntry(line); ok && e.Whole && l.wanted(e) {
				n++
			}
			continue
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return n, nil
		}
		// An entry is longer than the buffer: its tag is in front.
		e, ok := supervisor.ParseLogEntry(line)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
		if err == nil && ok && e.Whole && l.wanted(e) {
			n++
		}
	}
}

// open opens a file of the log; a missing one is no error and leaves f nil.
func (l *logReader) open(name string) error {
	f, err := os.Open(filepath.Join(l.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	l.close()
	l.f, l.in = f, bufio.NewReaderSize(f, 32<<10)
	return nil
}

func (l *logReader) close() {
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
}

// next returns the next whole entry, or io.EOF where there is none yet. It goes over to the newer file at the end of a
// file that has been rotated.
func (l *logReader) next() (supervisor.LogEntry, error) {
	for {
		if l.f == nil {
			if err := l.open(supervisor.LogFile); err != nil {
				return supervisor.LogEntry{}, err
			}
			if l.f == nil {
				return supervisor.LogEntry{}, io.EOF
			}
		}
		b, err := l.in.ReadBytes('\n')
		l.part = append(l.part, b...)
		if err == nil {
			e, ok := supervisor.ParseLogEntry(l.part)
			l.part = nil
			if !ok {
				continue
			}
			return e, nil
		}
		if !errors.Is(err, io.EOF) {
			return supervisor.LogEntry{}, err
		}
		moved, err := l.moved()
		if err != nil || !moved {
			return supervisor.LogEntry{}, errors.Join(err, io.EOF)
		}
		l.part = nil
		l.close()
	}
}

// moved tells whether the open file is the log no more. Only then can nothing be added to it.
func (l *logReader) moved() (bool, error) {
	have, err := l.f.Stat()
	if err != nil {
		return false, err
	}
	now, err := os.Stat(filepath.Join(l.dir, supervisor.LogFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if os.SameFile(have, now) {
		return false, nil
	}
	// What was written between our last read and the rotation.
	pos, err := l.f.Seek(0, io.SeekCurrent)
	return err == nil && pos >= have.Size(), err
}

// copy writes what there is.
func (l *logReader) copy(ctx context.Context) error {
	for ctx.Err() == nil {
		e, err := l.next()
		if errors.Is(err, io.EOF) {
			return l.out.Flush()
		}
		if err != nil {
			return err
		}
		if !l.wanted(e) {
			continue
		}
		if l.opts.Timestamps && !l.middle[e.Stream] {
			l.out.WriteString(e.Time.Format(time.RFC3339Nano))
			l.out.WriteByte(' ')
		}
		l.out.Write(e.Text)
		l.middle[e.Stream] = !e.Whole
		if e.Whole {
			if err := l.out.WriteByte('\n'); err != nil {
				return err
			}
		}
	}
	return nil
}
