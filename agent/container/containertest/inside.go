package containertest

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/musterhq/muster/agent/container"
)

// Inside is what a fake container sees of its pod.
type Inside struct {
	// Hostname is the pod's, UID whom the container runs as, Processes how many containers of the pod it sees run.
	Hostname  string
	UID       int
	Processes int

	mounts []container.Mount
	pod    *fakePod
	host   map[string]string
	said   []string
}

// Print writes a line to stdout.
func (in *Inside) Print(line string) { in.said = append(in.said, line) }

// Read returns what is in a file that is mounted.
func (in *Inside) Read(file string) (text string, ok bool) {
	files, name, _ := in.find(file)
	text, ok = files[name]
	return text, ok
}

// Write puts text into a file; false where nothing that can be written is mounted.
func (in *Inside) Write(file, text string) bool {
	files, name, writable := in.find(file)
	if writable {
		files[name] = text
	}
	return writable
}

// find is where a file of the container is, in one of the pod's volumes or on the host.
func (in *Inside) find(file string) (files map[string]string, name string, writable bool) {
	for _, m := range in.mounts {
		if rest, ok := strings.CutPrefix(file, m.Target+"/"); ok {
			if m.Volume == "" {
				return in.host, path.Join(m.Source, m.SubPath, rest), !m.ReadOnly
			}
			return in.pod.files[m.Volume], path.Join(m.SubPath, rest), !m.ReadOnly
		}
	}
	return nil, "", false
}

// supported refuses what a runtime of that isolation has not.
func supported(isolation string, cfg *container.PodConfig) error {
	refuse := func(bad bool, what string) error {
		if !bad {
			return nil
		}
		return fmt.Errorf("%s: %w with isolation %s", what, container.ErrUnsupported, isolation)
	}
	full := isolation == "full"
	errs := []error{
		refuse(cfg.OwnNetwork && !full, "a network of the pod's own"), refuse(cfg.SharePID && !full, "a shared PID namespace"),
		refuse(cfg.HostIPC && !full, "the choice of an IPC namespace"), refuse(len(cfg.Volumes) > 0 && isolation == "none", "volumes"),
	}
	for _, v := range cfg.Volumes {
		errs = append(errs, refuse(v.Memory && !full, "volume "+v.Name+" in memory"))
	}
	return errors.Join(errs...)
}
