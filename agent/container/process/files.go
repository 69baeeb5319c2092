package process

import (
	"bufio"
	"bytes"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/supervisor"
)

func validVolume(name string) bool {
	for _, c := range name {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return name != "" && len(name) <= 63
}

// volumesDir has the pod's own volumes, in the pod's directory.
const volumesDir = "volumes"

// volumeDir is where a volume of the pod's own is.
func (r *Runtime) volumeDir(p *pod, name string) string {
	return filepath.Join(p.dir, volumesDir, name)
}

// etcFiles are the files of /etc that a pod has of its own, as far as the host has them.
var etcFiles = []string{"hosts", "hostname", "resolv.conf"}

// etcMounts puts the pod's own files over those of the host.
func (r *Runtime) etcMounts(p *pod) (all []supervisor.Mount) {
	for _, name := range etcFiles {
		if own := filepath.Join(p.dir, etcDir, name); exists(own) {
			all = append(all, supervisor.Mount{Source: own, Target: "/etc/" + name})
		}
	}
	return all
}

// etcDir has the pod's own files of /etc, in the pod's directory.
const etcDir = "etc"

// writeEtc writes them.
func (r *Runtime) writeEtc(p *pod, resolv string) error {
	dir := filepath.Join(p.dir, etcDir)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return err
	}
	if resolv == "" {
		resolv = resolvConf(hostResolv, p.rec.OwnNetwork)
	}
	files := map[string]string{"resolv.conf": resolv}
	if name := p.rec.Hostname; name != "" {
		files["hosts"] = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" + p.rec.IP + "\t" + name + "\n"
		files["hostname"] = name + "\n"
	}
	for name, text := range files {
		if !exists("/etc/" + name) {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil { //nolint:gosec // any user of the pod reads it
			return err
		}
	}
	return nil
}

// hostResolv are where the host says who resolves names. The second is there where a local resolver stands before those that it
// asks itself.
var hostResolv = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

// maxResolv bounds a file that says who resolves names, in bytes.
const maxResolv = 64 << 10

// resolvConf is what a pod is told of who resolves names: what the host is told, but where the pod has a network of its own
// no resolver that listens on the host's loopback, where another file names the ones behind it.
func resolvConf(files []string, ownNetwork bool) string {
	first := ""
	for i, path := range files {
		text, err := os.ReadFile(path)
		if err != nil || len(text) > maxResolv {
			continue
		}
		if i == 0 {
			first = string(text)
		}
		if !ownNetwork || reachable(text) {
			return string(text)
		}
	}
	return first
}

// reachable tells whether any name server is not on loopback.
func reachable(resolv []byte) bool {
	for lines := bufio.NewScanner(bytes.NewReader(resolv)); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(words[1]); err == nil && !addr.IsLoopback() {
			return true
		}
	}
	return false
}

// makeVolumes makes the pod's own directories, which any user may write in.
func (r *Runtime) makeVolumes(p *pod, volumes []container.PodVolume) error {
	if len(volumes) == 0 {
		return nil
	}
	if err := os.Mkdir(filepath.Join(p.dir, volumesDir), 0o711); err != nil {
		return err
	}
	for _, v := range volumes {
		dir := r.volumeDir(p, v.Name)
		err := os.Mkdir(dir, 0o700)
		if err == nil && v.GID >= 0 {
			err = os.Chown(dir, -1, v.GID)
		}
		mode := fs.FileMode(0o777) // as Kubernetes makes an emptyDir
		if v.Files {
			mode = 0o755
		}
		if err == nil {
			err = os.Chmod(dir, mode)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// furnish makes the pod's directory. Its record is written last: a directory without one is taken away when the agent starts, so
// that the rest needs no care to be whole.
func (r *Runtime) furnish(p *pod, cfg *container.PodConfig) error {
	if err := os.Mkdir(p.dir, 0o711); err != nil {
		return err
	}
	d := r.Dirs(p.ref)
	for _, dir := range []string{d.Pod, d.Home, d.Tmp} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		// Containers of one pod may run as different users, so these are as /tmp is.
		if err := os.Chmod(dir, 0o777|fs.ModeSticky); err != nil {
			return err
		}
	}
	if err := r.makeVolumes(p, cfg.Volumes); err != nil {
		return err
	}
	if err := r.writeEtc(p, cfg.Resolv); err != nil {
		return err
	}
	epoch := []byte(strconv.FormatInt(p.ref.Epoch, 10) + "\n")
	if err := os.WriteFile(filepath.Join(d.Pod, "epoch"), epoch, 0o644); err != nil { //nolint:gosec // any user of the pod reads it
		return err
	}
	return p.rec.Write(p.dir)
}
