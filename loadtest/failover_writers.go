package loadtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// writeEvery is how often a pod of a test of failover writes: an instance that lives on for less than that beside the next one may
// go unseen.
const writeEvery = 20 * time.Millisecond

// monotonic is the clock that all processes of this machine share.
func monotonic() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // it is always there
	return time.Duration(ts.Nano())
}

// Write is what a pod of a test of failover does until ctx ends: it appends a line to the file of its uid in dir again and again,
// with its epoch, the instance, and the time. It is not for people to call.
func Write(ctx context.Context, dir, uid, epoch string) error {
	if filepath.Base(uid) != uid || uid == "." {
		return fmt.Errorf("uid %q: this is no pod of a load test", uid)
	}
	n, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return fmt.Errorf("epoch: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, uid), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666) //nolint:gosec // any user's pod may write
	if err != nil {
		return err
	}
	defer f.Close()
	instance := rand.Uint64()
	for first := true; first || sleep(ctx, writeEvery); first = false {
		// One write of a few bytes: the order of the lines is that of the writes.
		if _, err := fmt.Fprintf(f, "%d %d %d\n", n, instance, monotonic()); err != nil {
			return err
		}
	}
	return nil
}

// written is a line.
type written struct {
	epoch    int64
	instance uint64
	at       time.Duration
}

func parseWritten(line []byte) (w written, err error) {
	fields := bytes.Fields(line)
	if len(fields) != 3 {
		return w, fmt.Errorf("line %q: want an epoch, an instance and a time", line)
	}
	if w.epoch, err = strconv.ParseInt(string(fields[0]), 10, 64); err != nil {
		return w, err
	}
	if w.instance, err = strconv.ParseUint(string(fields[1]), 10, 64); err != nil {
		return w, err
	}
	at, err := strconv.ParseInt(string(fields[2]), 10, 64)
	w.at = time.Duration(at)
	return w, err
}

// writers tells from the lines of one pod's instances whether ever two of them were there at a time.
type writers struct {
	last   written
	past   map[uint64]bool
	double map[uint64]bool
	// began is the first line of each instance that was not told yet.
	began []written
}

// wrote takes the next line. An instance that writes after another one has begun, or with an older epoch, was a second writer.
func (w *writers) wrote(l written) {
	if w.past == nil {
		w.past, w.double = map[uint64]bool{}, map[uint64]bool{}
	}
	if l.instance != w.last.instance && !w.past[l.instance] {
		w.began = append(w.began, l)
	} else if l.instance != w.last.instance {
		w.double[l.instance] = true
	}
	if l.epoch < w.last.epoch {
		w.double[l.instance] = true
	}
	w.past[l.instance] = true
	if l.epoch >= w.last.epoch && !w.double[l.instance] {
		w.last = l
	}
}

// journal follows the file of one pod.
type journal struct {
	path   string
	offset int64
	writers
}

// read takes what has been written since the last time. A line that is not whole yet waits.
func (j *journal) read() error {
	f, err := os.Open(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := f.ReadAt(buf, j.offset)
		end := bytes.LastIndexByte(buf[:n], '\n') + 1
		for line := range bytes.Lines(buf[:end]) {
			w, err := parseWritten(line)
			if err != nil {
				return fmt.Errorf("read %s: %w", j.path, err)
			}
			j.wrote(w)
		}
		j.offset += int64(end)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if end == 0 {
			return fmt.Errorf("read %s: a line without an end", j.path)
		}
	}
}
