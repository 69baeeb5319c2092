package config

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// exampleWidth is how wide the comments of an example are, in bytes.
const exampleWidth = 100

// Example writes a config file that has every setting of the command, by name: first, uncommented, those that given
// names, with its values; then the others as comments at their defaults. The text above each is its flag's help. head
// stands at the top, as a comment.
func (s *Settings) Example(out io.Writer, head string, given ...[2]string) error {
	w := bufio.NewWriter(out)
	comment(w, head)
	shown := map[string]bool{fileFlag: true, printFlag: true, "help": true}
	for _, g := range given {
		f := s.flags.Lookup(g[0])
		if f == nil {
			return fmt.Errorf("example: %s: no such setting", g[0])
		}
		shown[f.Name] = true
		fmt.Fprintln(w)
		comment(w, f.Usage)
		fmt.Fprintf(w, "%s: %s\n", f.Name, g[1])
	}
	s.flags.VisitAll(func(f *pflag.Flag) {
		if shown[f.Name] {
			return
		}
		fmt.Fprintln(w)
		comment(w, f.Usage)
		fmt.Fprintf(w, "#%s: %s\n", f.Name, exampleValue(f))
	})
	return w.Flush()
}

// comment writes a text as lines of comments.
func comment(w io.Writer, text string) {
	for paragraph := range strings.SplitSeq(text, "\n") {
		line := "#"
		for word := range strings.FieldsSeq(paragraph) {
			if len(line)+1+len(word) > exampleWidth {
				fmt.Fprintln(w, line)
				line = "#"
			}
			line += " " + word
		}
		fmt.Fprintln(w, line)
	}
}

// exampleValue is a flag's default as the file has it.
func exampleValue(f *pflag.Flag) string {
	if many, ok := f.Value.(pflag.SliceValue); ok {
		var quoted []string
		for _, v := range many.GetSlice() {
			quoted = append(quoted, strconv.Quote(v))
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	switch kind := f.Value.Type(); {
	case kind == "string":
		return strconv.Quote(f.DefValue)
	default:
		return f.DefValue
	}
}
