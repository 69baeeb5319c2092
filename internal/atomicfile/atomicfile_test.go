package atomicfile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// ways are the ways to replace a file.
var ways = map[string]func(path string, data []byte) error{
	"Write":        func(path string, data []byte) error { return Write(path, data, 0o640) },
	"WriteDurable": func(path string, data []byte) error { return WriteDurable(path, data, 0o640) },
	"Rewrite":      func(path string, data []byte) error { return Rewrite(path, data, 0o640, false) },
	"RewriteDurably": func(path string, data []byte) error {
		return Rewrite(path, data, 0o640, true)
	},
}

func have(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

func TestAFileHasWhatWasWrittenLastAndNothingElse(t *testing.T) {
	for name, write := range ways {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			for _, n := range []int{10, 5000, 3, 0, 70_000, 1} {
				want := bytes.Repeat([]byte{byte(n)}, n)
				if err := write(path, want); err != nil {
					t.Fatal(err)
				}
				if got := have(t, path); !bytes.Equal(got, want) {
					t.Fatalf("%d bytes, want %d", len(got), len(want))
				}
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("%v, %v", info.Mode(), err)
			}
		})
	}
}

func TestWhoHasTheFileOpenDoesNotSeeItChange(t *testing.T) {
	for name, write := range ways {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			if err := write(path, []byte("earlier")); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := write(path, []byte("later")); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 100)
			if n, _ := f.Read(b); string(b[:n]) != "earlier" {
				t.Errorf("%q", b[:n])
			}
		})
	}
}

func TestWhatAKilledWriterLeftIsTakenOver(t *testing.T) {
	for name, write := range ways {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			for _, left := range []string{"half of a longer text", ""} {
				if err := os.WriteFile(path+suffix, []byte(left), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := write(path, []byte("whole")); err != nil {
					t.Fatal(err)
				}
				if got := have(t, path); string(got) != "whole" {
					t.Errorf("%q", got)
				}
			}
		})
	}
}

func TestWhatFailsLeavesTheFileAsItWas(t *testing.T) {
	for name, write := range ways {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "file")
			if err := write(path, []byte("earlier")); err != nil {
				t.Fatal(err)
			}
			os.Remove(path + suffix)
			if err := os.Symlink("elsewhere", path+suffix); err != nil {
				t.Fatal(err)
			}
			if err := write(path, []byte("later")); !errors.Is(err, syscall.ELOOP) {
				t.Errorf("through a symbolic link: %v", err)
			}
			if got := have(t, path); string(got) != "earlier" {
				t.Errorf("%q", got)
			}
			if _, err := os.Lstat(filepath.Join(dir, "elsewhere")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("written where the link points to: %v", err)
			}
			if err := write(path, []byte("later")); err != nil {
				t.Errorf("once the link is gone: %v", err)
			}
		})
	}
}

func TestRewritingMakesNoInodeAndFreesNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, text := range []string{"one", "two"} {
		if err := Rewrite(path, []byte(text), 0o600, false); err != nil {
			t.Fatal(err)
		}
	}
	a, b := inode(t, path), inode(t, path+suffix)
	for range 5 {
		if err := Rewrite(path, []byte("more"), 0o600, false); err != nil {
			t.Fatal(err)
		}
		if a, b = b, a; inode(t, path) != a || inode(t, path+suffix) != b {
			t.Fatal("not the two inodes that there were")
		}
	}
}

func TestARemovedFileLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, text := range []string{"one", "two"} {
		if err := Rewrite(path, []byte(text), 0o600, false); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time there is none
		if err := Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}
