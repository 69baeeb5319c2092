package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// report is the file that --report names; without one there is none to write.
type report struct {
	path string
	file *os.File
}

func (r *report) flag(cmd *cobra.Command, what string) {
	cmd.Flags().StringVar(&r.path, "report", "", "write an HTML page with "+what+" to this file")
}

// open makes the file: that it can't be written is best known before anything is measured. An older one stays as it is until there is
// something to write.
func (r *report) open() (err error) {
	if r.path == "" {
		return nil
	}
	if r.file, err = os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE, 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// close gives the file up, and takes it away where nothing was ever written to it.
func (r *report) close() {
	if r.file == nil {
		return
	}
	if fi, err := r.file.Stat(); err == nil && fi.Size() == 0 {
		os.Remove(r.path)
	}
	r.file.Close()
}

// write replaces what the file has.
func (r *report) write(page func(io.Writer) error) error {
	if r.file == nil {
		return nil
	}
	if err := errors.Join(r.file.Truncate(0), page(r.file), r.file.Close()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
