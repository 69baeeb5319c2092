package process

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/agent/container"
)

// seen are the files that are to be seen in a volume, by path, with their modes.
func seen(dir string) (map[string]string, error) {
	out := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		top := filepath.Join(dir, e.Name())
		real, err := filepath.EvalSymlinks(top)
		if err != nil {
			return nil, err
		}
		err = filepath.WalkDir(real, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			text, err := os.ReadFile(path)
			out[strings.TrimPrefix(e.Name()+strings.TrimPrefix(path, real), "/")] = fmt.Sprintf("%v %s", info.Mode(), text)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// TestAVolumeHasExactlyTheFilesThatWereWrittenLast holds whatever the files before were.
func TestAVolumeHasExactlyTheFilesThatWereWrittenLast(t *testing.T) {
	base := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		dir := filepath.Join(base, fmt.Sprint(n))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		for range rapid.IntRange(1, 4).Draw(t, "times") {
			want := map[string]string{}
			var files []container.File
			for _, path := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c/d", "c/e", "f/g/h", "x.conf"}), 0, 6, rapid.ID[string]).Draw(t, "paths") {
				f := container.File{Path: path, Data: []byte(rapid.StringN(0, 3, 9).Draw(t, "text")), Mode: rapid.SampledFrom([]fs.FileMode{0o644, 0o400, 0o755}).Draw(t, "mode")}
				files = append(files, f)
				want[path] = fmt.Sprintf("%v %s", f.Mode, f.Data)
			}
			if err := project(root, files, -1); err != nil {
				t.Fatal(err)
			}
			got, err := seen(dir)
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("there is %v, want %v", got, want)
			}
			hidden, err := filepath.Glob(filepath.Join(dir, "..*"))
			if err != nil || len(hidden) != 2 { // what ..data leads to, and ..data
				t.Fatalf("beside the files there is %v, %v", hidden, err)
			}
		}
	})
}

func TestAReaderSeesTheOldFilesOrTheNewOnes(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	write := func(i int) {
		text := []byte(fmt.Sprint(i))
		if err := project(root, []container.File{{Path: "a", Data: text, Mode: 0o644}, {Path: "b", Data: text, Mode: 0o644}}, -1); err != nil {
			t.Error(err)
		}
	}
	write(0)
	stop := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
				write(i)
			}
		}
	})
	for range 2000 {
		// Who holds on to what ..data leads to has one set of files.
		now, err := os.Readlink(filepath.Join(dir, "..data"))
		if err != nil {
			t.Fatalf("for a moment there is nothing: %v", err)
		}
		a, errA := os.ReadFile(filepath.Join(dir, now, "a"))
		b, errB := os.ReadFile(filepath.Join(dir, now, "b"))
		if errA == nil && errB == nil && string(a) != string(b) {
			t.Fatalf("a is of %s and b of %s", a, b)
		}
	}
	close(stop)
	writing.Wait()
}
