package membership

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAFloodOfLinesIsShownInPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		w := &logWriter{log: slog.New(slog.NewTextHandler(&out, nil))}
		for i := range 100 {
			fmt.Fprintf(w, "[ERR] memberlist: packet %d is garbage\n", i)
		}
		if n := strings.Count(out.String(), "\n"); n != maxLines {
			t.Errorf("%d lines of 100 in a minute were shown, want %d", n, maxLines)
		}
		time.Sleep(time.Minute)
		out.Reset()
		fmt.Fprintln(w, "[ERR] memberlist: another")
		if !strings.Contains(out.String(), "says=another left_out=90") {
			t.Errorf("the next minute begins with %q, want how many were left out", out.String())
		}
	})
}
