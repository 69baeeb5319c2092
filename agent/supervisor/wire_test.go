package supervisor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"testing"
	"time"
)

func TestMessagesComeBackAsTheyWent(t *testing.T) {
	start := StartConfig{
		Name: "main", Instance: "3-abcd", Attempt: 3, Argv: []string{"/bin/sh", "", "-c"}, Env: []string{"A=1", "B="}, WorkingDir: "/w",
		UID: 0, GID: -1, Mounts: []Mount{{Source: "/a", Target: "/b", ReadOnly: true}, {Source: "/c", Target: "/c"}},
	}
	state := State{Fence: "kernel", Fenced: true, Changes: 5, Containers: []ContainerRecord{
		{Name: "a", Instance: "0-1", Running: true, Started: time.Unix(5, 7), PID: 4711, Change: 3},
		{Name: "b", Instance: "9-2", Attempt: 9, Started: time.Unix(5, 7), Finished: time.Unix(9, 1), ExitCode: 137, Signal: 9, Reason: "Error", DroppedLines: 4},
	}}
	request := ExecRequest{Argv: []string{"x", ""}, Env: []string{"A=b"}, Timeout: time.Second, OutputLimit: 7}
	reply := ExecReply{ExitCode: -1, Stdout: []byte("o"), Stderr: []byte{0, 1}, Duration: 3, CPU: 4}
	for _, tc := range []struct {
		in  interface{ encode(*body) }
		out interface{ decode([]byte) error }
	}{{&start, &StartConfig{}}, {&state, &State{}}, {&request, &ExecRequest{}}, {&reply, &ExecReply{}}} {
		var w body
		tc.in.encode(&w)
		if err := tc.out.decode(w.b); err != nil || !reflect.DeepEqual(tc.in, tc.out) {
			t.Errorf("got %+v, %v; want %+v", tc.out, err, tc.in)
		}
	}
}

func TestUnknownFieldsAreSkipped(t *testing.T) {
	w := body{}
	w.str(200, "from a later version")
	(&ExecReply{ExitCode: 7}).encode(&w)
	var r ExecReply
	if err := r.decode(w.b); err != nil || r.ExitCode != 7 {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestOverlongFrameIsRefusedUnread(t *testing.T) {
	h := binary.LittleEndian.AppendUint32(nil, MaxFrame+1)
	r := io.MultiReader(bytes.NewReader(append(h, Version, reqState)), neverRead{t})
	if _, err := readFrame(r); !errors.Is(err, errFrame) {
		t.Errorf("got %v", err)
	}
}

type neverRead struct{ t *testing.T }

func (n neverRead) Read([]byte) (int, error) {
	n.t.Error("the body was read")
	return 0, io.EOF
}

func TestReadingAFrameTakesNotAByteMore(t *testing.T) {
	b := appendFrame(nil, reqAttach, []byte("body"))
	b = append(b, "next"...)
	r := bytes.NewReader(b)
	f, err := readFrame(r)
	if err != nil || string(f.body) != "body" || f.kind != reqAttach || f.version != Version || r.Len() != 4 {
		t.Errorf("got %+v, %v, %d bytes left", f, err, r.Len())
	}
}

func TestErrorsKeepTheirCode(t *testing.T) {
	var e *Error
	if err := decodeError(errorBody(refusal(CodeFenced, "too late"))); !errors.As(err, &e) || e.Code != CodeFenced || e.Text != "too late" {
		t.Errorf("got %v", err)
	}
	if err := decodeError(errorBody(io.EOF)); !errors.As(err, &e) || e.Code != CodeOther || e.Text != "EOF" {
		t.Errorf("got %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	var w body
	(&StartConfig{Name: "a", Argv: []string{"b"}, Mounts: []Mount{{Source: "c"}}}).encode(&w)
	f.Add(w.b)
	f.Add([]byte{3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range []interface{ decode([]byte) error }{&StartConfig{}, &State{}, &ExecRequest{}, &ExecReply{}, &initConfig{}} {
			m.decode(b)
		}
		decodeError(b)
		decodeTarget(b)
		readFrame(bytes.NewReader(b))
	})
}
