package dev

import (
	"bytes"
	"fmt"
	"io"
	"sync"
)

// maxLine is where an overlong line is broken.
const maxLine = 64 << 10

// prefixed is one writer of several that share an output: it passes on whole lines only, each with its prefix.
type prefixed struct {
	mu     *sync.Mutex // of the output
	out    io.Writer
	prefix string

	own     sync.Mutex
	pending []byte
}

// colours are those of the terminal that tell best on dark and light.
var colours = []int{36, 33, 32, 35, 34, 31}

// named is a writer to the same output whose lines begin with the name.
func (p *prefixed) named(name string, n int, colour bool) *prefixed {
	prefix := fmt.Sprintf("%-11s | ", name)
	if colour {
		prefix = fmt.Sprintf("\x1b[%dm%s\x1b[0m", colours[n%len(colours)], prefix)
	}
	return &prefixed{mu: p.mu, out: p.out, prefix: prefix}
}

// Write never fails: a log that nobody reads must not stop a cluster.
func (p *prefixed) Write(b []byte) (int, error) {
	p.own.Lock()
	defer p.own.Unlock()
	n := len(b)
	for {
		line, rest, ok := bytes.Cut(b, []byte{'\n'})
		p.pending = append(p.pending, line...)
		if !ok && len(p.pending) < maxLine {
			return n, nil
		}
		p.emit()
		if !ok {
			return n, nil
		}
		b = rest
	}
}

// emit writes what is pending as a line.
func (p *prefixed) emit() {
	line := append(append([]byte(p.prefix), p.pending...), '\n')
	p.pending = p.pending[:0]
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = p.out.Write(line) // see Write
}

// flush ends a last line without a newline.
func (p *prefixed) flush() {
	p.own.Lock()
	defer p.own.Unlock()
	if len(p.pending) > 0 {
		p.emit()
	}
}
