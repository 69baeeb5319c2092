package clustertest

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Writers is the outside counter: a file that every instance of one single-instance pod appends its epoch to, from a
// double-forked child in a session of its own, which no kill of a process group reaches. Appends of a few bytes are
// atomic, so the order of the lines is the order of the writes: an older epoch after a newer one is a second writer.
type Writers struct {
	path string
}

// NewWriters makes the counter's file, which pods of any user may append to.
func (c *Cluster) NewWriters(name string) *Writers {
	c.t.Helper()
	dir := filepath.Join(c.Dir, "shared")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		c.t.Fatal(err)
	}
	return &Writers{path: filepath.Join(dir, name)}
}

// Manifest is a bare pod, so of the class fenced, whose shell leaves the writing to a child of a child in a session of
// its own and then only waits.
func (w *Writers) Manifest(name string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: writer
    command: [sh, -c]
    args:
    - |
      (setsid sh -c 'while :; do echo $MUSTER_EPOCH >> %s; sleep 0.02; done' >/dev/null 2>&1 &) &
      exec sleep 1000000
    volumeMounts:
    - {name: shared, mountPath: %s}
  volumes:
  - name: shared
    hostPath: {path: %s, type: Directory}
`, name, w.path, filepath.Dir(w.path), filepath.Dir(w.path))
}

// Epochs reads the counter: the epochs that have written, in order, and an error when there ever were two writers.
func (w *Writers) Epochs() ([]int64, error) {
	f, err := os.Open(w.path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var epochs []int64
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		e, err := strconv.ParseInt(strings.TrimSpace(lines.Text()), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("line %d of the counter: %w", n, err)
		}
		switch last := len(epochs) - 1; {
		case last < 0 || e > epochs[last]:
			epochs = append(epochs, e)
		case e < epochs[last]:
			return epochs, fmt.Errorf("line %d of the counter is of epoch %d after %d: two writers", n, e, epochs[last])
		}
	}
	return epochs, lines.Err()
}
