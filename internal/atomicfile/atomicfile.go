// Package atomicfile replaces a file in one step: whoever opens it finds what it had before or what it has now, whole,
// also when the writer was killed halfway.
//
// What is written goes to PATH.new first, which takes PATH's place. A file has one writer at a time; one that was
// killed may leave PATH.new, which says nothing and is taken over by the next.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// suffix is what the file is named by, after its own name, while it is written.
const suffix = ".new"

// Write replaces the file; perm is the mode of the new one. A crash of the machine may undo it or leave an empty file.
// After an error the file is as it was.
func Write(path string, data []byte, perm fs.FileMode) error {
	return replace(path, data, perm, false)
}

// WriteDurable is Write, and what it has written outlives a crash of the machine once it has returned.
func WriteDurable(path string, data []byte, perm fs.FileMode) error {
	return replace(path, data, perm, true)
}

// Rewrite is Write, or WriteDurable where durable is set, for a file that is written often and that only its writer ever
// reads: PATH.new stays, to be written into the next time, so that no inode is made and none is freed. A reader that
// still had the file open from two writes ago would see it change. The mode of a file that exists stays.
func Rewrite(path string, data []byte, perm fs.FileMode, durable bool) error {
	spare := path + suffix
	err := fill(spare, 0, data, perm, durable)
	if err == nil && unix.Renameat2(unix.AT_FDCWD, spare, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE) != nil {
		err = os.Rename(spare, path) // the first time, and where the file system cannot exchange
	}
	return finish(path, err, durable)
}

// Remove removes the file and what a writer may have left beside it; where there is none, that is no error.
func Remove(path string) error {
	return errors.Join(removeIfThere(path+suffix), removeIfThere(path))
}

func replace(path string, data []byte, perm fs.FileMode, durable bool) error {
	err := fill(path+suffix, os.O_TRUNC, data, perm, durable)
	if err == nil {
		err = os.Rename(path+suffix, path)
	}
	return finish(path, err, durable)
}

func finish(path string, err error, durable bool) error {
	if err != nil {
		os.Remove(path + suffix) // a full disk gets its room back
		return err
	}
	if !durable {
		return nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// fill makes data all that the file has. Nobody may have put a symbolic link there.
func fill(path string, flags int, data []byte, perm fs.FileMode, durable bool) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW|flags, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && flags&os.O_TRUNC == 0 {
		err = f.Truncate(int64(len(data)))
	}
	if err == nil && durable {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
