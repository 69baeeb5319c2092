package supervisor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"time"
)

// Version is the version of the messages that this build speaks. Every frame carries its sender's. A version only adds:
// message types and fields keep their numbers, unknown fields are skipped, an unknown request is answered with
// CodeUnsupported. So an agent drives supervisors of Version-2 to Version by not asking for what they don't know, and
// refuses others; a supervisor answers any agent.
const Version = 1

// OldestVersion is the oldest supervisor that this build drives.
const OldestVersion = max(1, Version-2)

// MaxFrame bounds one message in bytes; a longer one ends the connection. Two megabytes is what execve takes at most.
const MaxFrame = 4 << 20

// A frame is its body's length (4 bytes, little endian), the sender's version, a type, and the body: fields of a tag
// byte, a length (uvarint) and that many bytes.
const headerSize = 6

// The requests and answers. Numbers are never used again.
const (
	reqState  = 1
	reqStart  = 2
	reqStop   = 3
	reqRemove = 4
	reqAttach = 5
	reqExec   = 6
	reqWatch  = 7
	// reqInteract is an exec on descriptors of the caller's.
	reqInteract = 8

	msgOK      = 64
	msgError   = 65
	msgChanged = 66
)

// The codes of msgError.
const (
	CodeOther       = 1
	CodeNotFound    = 2
	CodeNotRunning  = 3
	CodeCannotStart = 4
	CodeTimeout     = 5
	CodeFenced      = 6
	CodeUnsupported = 7
)

// Error is a supervisor's refusal.
type Error struct {
	Code int
	Text string
}

func (e *Error) Error() string { return e.Text }

func refusal(code int, text string) *Error { return &Error{Code: code, Text: text} }

// errFrame means that the peer does not speak this protocol.
var errFrame = errors.New("malformed message")

// body builds the fields of a message. Zero values are left out.
type body struct{ b []byte }

func (w *body) raw(tag byte, v []byte) {
	w.b = append(w.b, tag)
	w.b = binary.AppendUvarint(w.b, uint64(len(v)))
	w.b = append(w.b, v...)
}

func (w *body) bytes(tag byte, v []byte) {
	if len(v) > 0 {
		w.raw(tag, v)
	}
}

func (w *body) str(tag byte, v string) {
	if v != "" {
		w.b = append(w.b, tag)
		w.b = binary.AppendUvarint(w.b, uint64(len(v)))
		w.b = append(w.b, v...)
	}
}

// strs keeps empty elements: an argument may be empty.
func (w *body) strs(tag byte, vs []string) {
	for _, v := range vs {
		w.raw(tag, []byte(v))
	}
}

func (w *body) int(tag byte, v int64) {
	if v != 0 {
		w.raw(tag, binary.AppendVarint(nil, v))
	}
}

func (w *body) bool(tag byte, v bool) {
	if v {
		w.int(tag, 1)
	}
}

func (w *body) time(tag byte, t time.Time) {
	if !t.IsZero() {
		w.int(tag, t.UnixNano())
	}
}

func (w *body) nested(tag byte, fill func(*body)) {
	var in body
	fill(&in)
	w.raw(tag, in.b)
}

// fields reads a body: for f.next() { switch f.tag … }.
type fields struct {
	rest []byte
	tag  byte
	val  []byte
	err  error
}

func (f *fields) next() bool {
	if f.err != nil || len(f.rest) == 0 {
		return false
	}
	n, k := binary.Uvarint(f.rest[1:])
	if k <= 0 || n > uint64(len(f.rest)-1-k) {
		f.err = errFrame
		return false
	}
	f.tag = f.rest[0]
	f.val = f.rest[1+k : 1+k+int(n)]
	f.rest = f.rest[1+k+int(n):]
	return true
}

func (f *fields) str() string { return string(f.val) }

func (f *fields) int() int64 {
	v, k := binary.Varint(f.val)
	if k != len(f.val) || k == 0 {
		f.err = errFrame
	}
	return v
}

func (f *fields) bool() bool { return f.int() != 0 }

func (f *fields) time() time.Time { return time.Unix(0, f.int()) }

// frame is one message as received.
type frame struct {
	version, kind byte
	body          []byte
}

// appendFrame puts header and body behind b.
func appendFrame(b []byte, kind byte, body []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	b = append(b, Version, kind)
	return append(b, body...)
}

func writeFrame(w io.Writer, kind byte, body []byte) error {
	_, err := w.Write(appendFrame(make([]byte, 0, headerSize+len(body)), kind, body))
	return err
}

// readFrame reads exactly one frame and not a byte more: the connection may be handed on afterwards.
func readFrame(r io.Reader) (frame, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return frame{}, err
	}
	n := binary.LittleEndian.Uint32(h[:4])
	if n > MaxFrame {
		return frame{}, errFrame
	}
	f := frame{version: h[4], kind: h[5]}
	if n > 0 {
		f.body = make([]byte, n)
		if _, err := io.ReadFull(r, f.body); err != nil {
			return frame{}, err
		}
	}
	return f, nil
}

func errorBody(err error) []byte {
	e := &Error{}
	if !errors.As(err, &e) {
		e = refusal(CodeOther, err.Error())
	}
	var w body
	w.int(1, int64(e.Code))
	w.str(2, e.Text)
	return w.b
}

func decodeError(b []byte) error {
	e := &Error{Code: CodeOther}
	f := fields{rest: b}
	for f.next() {
		switch f.tag {
		case 1:
			e.Code = int(f.int())
		case 2:
			e.Text = f.str()
		}
	}
	if f.err != nil {
		return f.err
	}
	return e
}

// StartConfig is what a container instance is made from.
type StartConfig struct {
	// Name and Instance name it; Instance is "ATTEMPT-RANDOM", Attempt the number in it.
	Name, Instance string
	Attempt        int32
	Argv, Env      []string
	WorkingDir     string
	// UID and GID are -1 for the supervisor's own user.
	UID, GID int
	Mounts   []Mount
	// Groups are supplemental groups.
	Groups []int64
	// ReadOnlyRoot makes all read-only but the mounts, /tmp and the pod's own directory.
	ReadOnlyRoot bool
	// NoNewPrivileges keeps set-user-ID programs from giving more rights.
	NoNewPrivileges bool
	// DropCapabilities are the capabilities that nothing in the container can have, AmbientCapabilities those that its processes
	// have though they are not user 0's; one a bit, 1 << number. Both are empty unless the supervisor is root's.
	DropCapabilities, AmbientCapabilities uint64
	// Seccomp is the filter of system calls that the container gets, an array of the kernel's struct sock_filter; empty for none.
	Seccomp []byte
	// Cgroups are the files cgroup.procs of the container's control group, one a hierarchy; OOMCount is the file of it that
	// has the line "oom_kill N", empty where there is none.
	Cgroups  []string
	OOMCount string
}

// Mount binds a file or directory of the host into a mount namespace.
type Mount struct {
	Source, Target string
	// SubPath is relative to Source, stays below it, and is made if missing.
	SubPath  string
	ReadOnly bool
}

func (c *StartConfig) encode(w *body) {
	w.str(1, c.Name)
	w.str(2, c.Instance)
	w.int(3, int64(c.Attempt))
	w.strs(4, c.Argv)
	w.strs(5, c.Env)
	w.str(6, c.WorkingDir)
	w.int(7, int64(c.UID)+1)
	w.int(8, int64(c.GID)+1)
	for _, m := range c.Mounts {
		w.nested(9, func(w *body) {
			w.str(1, m.Source)
			w.str(2, m.Target)
			w.bool(3, m.ReadOnly)
			w.str(4, m.SubPath)
		})
	}
	for _, g := range c.Groups {
		w.raw(10, binary.AppendVarint(nil, g))
	}
	w.bool(11, c.ReadOnlyRoot)
	w.bool(12, c.NoNewPrivileges)
	w.strs(13, c.Cgroups)
	w.str(14, c.OOMCount)
	w.int(15, int64(c.DropCapabilities))
	w.int(16, int64(c.AmbientCapabilities))
	w.bytes(17, c.Seccomp)
}

func (c *StartConfig) decode(b []byte) error {
	c.UID, c.GID = -1, -1
	f := fields{rest: b}
	for f.next() {
		switch f.tag {
		case 1:
			c.Name = f.str()
		case 2:
			c.Instance = f.str()
		case 3:
			c.Attempt = int32(f.int())
		case 4:
			c.Argv = append(c.Argv, f.str())
		case 5:
			c.Env = append(c.Env, f.str())
		case 6:
			c.WorkingDir = f.str()
		case 7:
			c.UID = int(f.int()) - 1
		case 8:
			c.GID = int(f.int()) - 1
		case 9:
			var m Mount
			in := fields{rest: f.val}
			for in.next() {
				switch in.tag {
				case 1:
					m.Source = in.str()
				case 2:
					m.Target = in.str()
				case 3:
					m.ReadOnly = in.bool()
				case 4:
					m.SubPath = in.str()
				}
			}
			if in.err != nil {
				return in.err
			}
			c.Mounts = append(c.Mounts, m)
		case 10:
			c.Groups = append(c.Groups, f.int())
		case 11:
			c.ReadOnlyRoot = f.bool()
		case 12:
			c.NoNewPrivileges = f.bool()
		case 13:
			c.Cgroups = append(c.Cgroups, f.str())
		case 14:
			c.OOMCount = f.str()
		case 15:
			c.DropCapabilities = uint64(f.int())
		case 16:
			c.AmbientCapabilities = uint64(f.int())
		case 17:
			c.Seccomp = bytes.Clone(f.val)
		}
	}
	return f.err
}

// ExecRequest is a command to run in a container.
type ExecRequest struct {
	Argv, Env []string
	// Timeout is 0 for none: then only the end of the connection kills the command.
	Timeout time.Duration
	// OutputLimit cuts each of stdout and stderr, in bytes; at most MaxOutput.
	OutputLimit int
	// TTY is for Interact: the descriptors are a terminal, which is to be the command's own.
	TTY bool
}

// MaxOutput bounds each of an exec's two outputs, in bytes.
const MaxOutput = 1 << 20

// ExecReply is how a command ended.
type ExecReply struct {
	// ExitCode is 128 + signal for a death by signal.
	ExitCode       int32
	Stdout, Stderr []byte
	Duration, CPU  time.Duration
}

func (r *ExecRequest) encode(w *body) {
	w.strs(1, r.Argv)
	w.strs(2, r.Env)
	w.int(3, int64(r.Timeout))
	w.int(4, int64(r.OutputLimit))
	w.bool(5, r.TTY)
}

func (r *ExecRequest) decode(b []byte) error {
	f := fields{rest: b}
	for f.next() {
		switch f.tag {
		case 1:
			r.Argv = append(r.Argv, f.str())
		case 2:
			r.Env = append(r.Env, f.str())
		case 3:
			r.Timeout = time.Duration(f.int())
		case 4:
			r.OutputLimit = int(f.int())
		case 5:
			r.TTY = f.int() != 0
		}
	}
	r.OutputLimit = min(max(r.OutputLimit, 0), MaxOutput)
	return f.err
}

func (r *ExecReply) encode(w *body) {
	w.int(1, int64(r.ExitCode))
	w.bytes(2, r.Stdout)
	w.bytes(3, r.Stderr)
	w.int(4, int64(r.Duration))
	w.int(5, int64(r.CPU))
}

func (r *ExecReply) decode(b []byte) error {
	f := fields{rest: b}
	for f.next() {
		switch f.tag {
		case 1:
			r.ExitCode = int32(f.int())
		case 2:
			r.Stdout = f.val
		case 3:
			r.Stderr = f.val
		case 4:
			r.Duration = time.Duration(f.int())
		case 5:
			r.CPU = time.Duration(f.int())
		}
	}
	return f.err
}

// State is what a supervisor says of its pod.
type State struct {
	// Version is the supervisor's.
	Version int
	// Fence is kernel or best-effort for fenced pods, empty otherwise.
	Fence string
	// Fenced is true once the fence has begun to stop the pod: nothing starts in it any more.
	Fenced bool
	// Containers has the newest instance of each container.
	Containers []ContainerRecord
	// Changes counts what has changed so far: of two states the one with more is the newer. Supervisors that do not count say 0.
	Changes int64
}

func (s *State) encode(w *body) {
	w.str(1, s.Fence)
	w.bool(2, s.Fenced)
	for i := range s.Containers {
		w.nested(3, s.Containers[i].encode)
	}
	w.int(4, s.Changes)
}

func (s *State) decode(b []byte) error {
	f := fields{rest: b}
	for f.next() {
		switch f.tag {
		case 1:
			s.Fence = f.str()
		case 2:
			s.Fenced = f.bool()
		case 3:
			var c ContainerRecord
			if err := c.decode(f.val); err != nil {
				return err
			}
			s.Containers = append(s.Containers, c)
		case 4:
			s.Changes = f.int()
		}
	}
	return f.err
}

func (c *ContainerRecord) encode(w *body) {
	w.str(1, c.Name)
	w.str(2, c.Instance)
	w.int(3, int64(c.Attempt))
	w.bool(4, c.Running)
	w.time(5, c.Started)
	w.time(6, c.Finished)
	w.int(7, int64(c.ExitCode))
	w.int(8, int64(c.Signal))
	w.str(9, c.Reason)
	w.int(10, c.DroppedLines)
	w.int(11, int64(c.PID))
	w.int(12, c.Change)
}

func (c *ContainerRecord) decode(b []byte) error {
	f := fields{rest: b}
	for f.next() {
		switch f.tag {
		case 1:
			c.Name = f.str()
		case 2:
			c.Instance = f.str()
		case 3:
			c.Attempt = int32(f.int())
		case 4:
			c.Running = f.bool()
		case 5:
			c.Started = f.time()
		case 6:
			c.Finished = f.time()
		case 7:
			c.ExitCode = int32(f.int())
		case 8:
			c.Signal = int32(f.int())
		case 9:
			c.Reason = f.str()
		case 10:
			c.DroppedLines = f.int()
		case 11:
			c.PID = int(f.int())
		case 12:
			c.Change = f.int()
		}
	}
	return f.err
}
