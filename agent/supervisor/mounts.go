package supervisor

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// privateTmp is where every container instance has a directory of its own.
const privateTmp = "/tmp"

// maxEntries bounds the entries of a directory that is made anew for a mount point that it lacks.
const maxEntries = 4096

// mounts makes the container's view of the files: the host's, but with a private /tmp, over it whatever is asked for
// (the pod's own directory included, should it lie below /tmp), and the /proc of its PID namespace. Nothing is made on
// the host: a directory that lacks a mount point is covered by one in memory that has the same entries and that one.
func mounts(c *initConfig) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return os.NewSyscallError("mount / as slave", err)
	}
	want := c.Mounts
	if below(c.workDir, privateTmp) || c.ReadOnlyRoot {
		want = append([]Mount{{Source: c.workDir, Target: c.workDir}}, want...)
	}
	// Sources are taken before anything is covered or made read-only.
	trees := make([]int, len(want))
	for i := range want {
		fd, err := tree(&want[i])
		if err != nil {
			return errors.New("mount " + want[i].Target + ": " + err.Error())
		}
		defer unix.Close(fd)
		trees[i] = fd
	}
	tmp, err := tree(&Mount{Source: c.temp})
	if err != nil {
		return errors.New("mount private /tmp: " + err.Error())
	}
	defer unix.Close(tmp)
	if c.ReadOnlyRoot {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &attr); err != nil {
			return os.NewSyscallError("make / read-only", err)
		}
	}
	scratch := c.temp
	if fi, err := os.Stat(privateTmp); err == nil && fi.IsDir() {
		scratch = privateTmp // for a moment: it may cover what the other one is below
		if err := put(tmp, privateTmp); err != nil {
			return errors.New("mount private /tmp: " + err.Error())
		}
	}
	for i := range want {
		m := &want[i]
		err := mountPoint(trees[i], m.Target, scratch)
		if err == nil {
			err = put(trees[i], m.Target)
		}
		if err != nil {
			return errors.New("mount " + m.Target + ": " + err.Error())
		}
	}
	for _, dir := range renewed {
		if attr := (unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); c.ReadOnlyRoot {
			if err := unix.MountSetattr(unix.AT_FDCWD, dir, 0, &attr); err != nil {
				return os.NewSyscallError("make "+dir+" read-only", err)
			}
		}
	}
	if c.pids == pidsOfNode && c.isolation == IsolationUser {
		return nil // who does not own the namespace may not mount its /proc, and the node's is there
	}
	err = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	return os.NewSyscallError("mount /proc", err)
}

func below(path, dir string) bool { return strings.HasPrefix(filepath.Clean(path), dir+"/") }

// tree is a copy, mounted nowhere yet, of what is mounted at and below the mount's source.
func tree(m *Mount) (int, error) {
	fd, err := unix.Open(m.Source, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, errors.New("open " + m.Source + ": " + err.Error())
	}
	defer unix.Close(fd)
	if m.SubPath != "" {
		sub, err := openSub(fd, m.SubPath)
		if err != nil {
			return -1, errors.New("subPath " + m.SubPath + ": " + err.Error())
		}
		defer unix.Close(sub)
		fd = sub
	}
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH | unix.AT_RECURSIVE)
	copied, err := unix.OpenTree(fd, "", flags)
	if err != nil {
		return -1, os.NewSyscallError("open_tree", err)
	}
	if m.ReadOnly {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(copied, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
			unix.Close(copied)
			return -1, os.NewSyscallError("make read-only", err)
		}
	}
	return copied, nil
}

// put mounts a tree.
func put(tree int, at string) error {
	return os.NewSyscallError("move_mount", unix.MoveMount(tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS))
}

// openSub opens a path below a directory, which no link may leave, and makes directories that are missing, with the
// directory's own mode.
func openSub(dir int, path string) (int, error) {
	const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: beneath}
	fd, err := unix.Openat2(dir, path, &how)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return -1, err
	}
	at, err := unix.Openat2(dir, ".", &how)
	if err != nil {
		return -1, err
	}
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." {
			continue
		}
		next, err := unix.Openat2(at, name, &how)
		if errors.Is(err, unix.ENOENT) {
			next, err = makeDir(at, name, st.Mode&0o777)
		}
		unix.Close(at)
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}

// makeDir makes a directory and opens it. Whoever else may write there can put something else in its place meanwhile:
// only a directory of that very name is given the mode.
func makeDir(at int, name string, mode uint32) (int, error) {
	if err := unix.Mkdirat(at, name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	fd, err := unix.Openat2(at, name, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return -1, err
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// mountPoint sees to it that there is something to mount over at path, without making anything on the host.
func mountPoint(tree int, path, scratch string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err == nil {
		return nil
	}
	if !below(path, privateTmp) {
		// The deepest directory that there is: a new one takes its place.
		parent := filepath.Dir(filepath.Clean(path))
		for unix.Stat(parent, &st) != nil {
			parent = filepath.Dir(parent)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return errors.New(parent + " is no directory")
		}
		if err := renew(parent, scratch, &st); err != nil {
			return errors.New("make room in " + parent + ": " + err.Error())
		}
	}
	if err := unix.Fstat(tree, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// renew covers a directory by one in memory with the same entries. It is put together over scratch, another
// directory.
func renew(dir, scratch string, st *unix.Stat_t) error {
	if slices.Contains(renewed, dir) {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > maxEntries {
		return errors.New("it has more than " + strconv.Itoa(maxEntries) + " entries")
	}
	trees := make(map[string]int, len(entries))
	defer func() {
		for _, fd := range trees {
			unix.Close(fd)
		}
	}()
	for _, e := range entries {
		if e.Type()&os.ModeSymlink != 0 {
			continue
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, filepath.Join(dir, e.Name()),
			unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|unix.AT_SYMLINK_NOFOLLOW)
		if err != nil {
			return os.NewSyscallError("open_tree "+e.Name(), err)
		}
		trees[e.Name()] = fd
	}
	mode := "mode=" + strconv.FormatUint(uint64(st.Mode&0o7777), 8)
	if err := unix.Mount("tmpfs", scratch, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, mode); err != nil {
		return os.NewSyscallError("mount memory", err)
	}
	for _, e := range entries {
		at := filepath.Join(scratch, e.Name())
		if e.Type()&os.ModeSymlink != 0 {
			to, err := os.Readlink(filepath.Join(dir, e.Name()))
			if err == nil {
				err = os.Symlink(to, at)
			}
			if err != nil {
				return err
			}
			continue
		}
		if e.IsDir() {
			err = os.Mkdir(at, 0o755)
		} else {
			var f *os.File
			if f, err = os.OpenFile(at, os.O_CREATE|os.O_RDONLY, 0o644); err == nil {
				err = f.Close()
			}
		}
		if err == nil {
			err = put(trees[e.Name()], at)
		}
		if err != nil {
			return err
		}
	}
	renewed = append(renewed, dir)
	if dir != "/" {
		return os.NewSyscallError("move", unix.Mount(scratch, dir, "", unix.MS_MOVE, ""))
	}
	// The old root is stacked on the new one, and let go.
	if err := os.Chdir(scratch); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return os.NewSyscallError("let go of the old root", err)
	}
	return os.Chdir("/")
}

// renewed are the directories that renew has covered; an init is one process for one container.
var renewed []string
