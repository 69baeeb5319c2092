// Package seccomp compiles filters of system calls. It knows no process: what it gives is installed elsewhere.
package seccomp

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/elastic/go-seccomp-bpf/arch"
	profile "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/internal/spec"
)

// RuntimeDefault is the filter that RuntimeDefault of a seccompProfile stands for: the profile that container engines share,
// for this machine's own architecture and for a container with those capabilities at most. What it does not allow fails with
// EPERM; what is newer than the profile, with ENOSYS, so that programs fall back; all that a program of another architecture
// calls, with EPERM. The result is the kernel's array of struct sock_filter in its own byte order, below 8 KiB.
func RuntimeDefault(caps spec.CapabilitySet) ([]byte, error) {
	p, err := profile.GetDefaultProfile(&specs.Spec{Process: &specs.Process{
		Capabilities: &specs.LinuxCapabilities{Bounding: kernelNames(caps)},
	}})
	if err != nil {
		return nil, fmt.Errorf("default seccomp profile: %w", err)
	}
	machine, err := arch.GetInfo("")
	if err != nil {
		return nil, fmt.Errorf("default seccomp profile: %w", err)
	}
	b, err := compile(p, machine)
	if err != nil {
		return nil, fmt.Errorf("default seccomp profile: %w", err)
	}
	return b, nil
}

func kernelNames(caps spec.CapabilitySet) []string {
	names := caps.Names()
	for i := range names {
		names[i] = "CAP_" + names[i]
	}
	return names
}

// What the kernel shows a filter: struct seccomp_data of linux/seccomp.h.
const (
	callOffset = 0
	archOffset = 4
	argsOffset = 16
)

// x32Bit is in the numbers of x32's calls, which come as the same architecture as x86-64's.
const x32Bit = 0x4000_0000

// rules are a profile by the calls' numbers. A call of sure is not looked for in maybe: what the profile says of it without
// a condition holds.
type rules struct {
	answer uint32 // to all other calls
	newest uint32
	sure   map[uint32]uint32
	maybe  map[uint32][]rule
}

type rule struct {
	args   []specs.LinuxSeccompArg // all of them must hold
	answer uint32
}

func compile(p *specs.LinuxSeccomp, machine *arch.Info) ([]byte, error) {
	r, err := sortOut(p, machine)
	if err != nil {
		return nil, err
	}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: archOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(machine.ID), SkipTrue: 1},
		bpf.RetConstant{Val: r.answer},
		bpf.LoadAbsolute{Off: callOffset, Size: 4},
	}
	if machine.ID == arch.X86_64.ID {
		program = append(program, answerIf(bpf.JumpGreaterOrEqual, x32Bit, enosys)...)
	}
	program = append(program, answerIf(bpf.JumpGreaterThan, r.newest, enosys)...)
	for _, n := range slices.Sorted(maps.Keys(r.maybe)) {
		block, err := conditional(n, r.maybe[n])
		if err != nil {
			return nil, err
		}
		program = append(program, block...)
	}
	program = append(program, r.ranges()...)
	raw, err := bpf.Assemble(append(program, bpf.RetConstant{Val: r.answer}))
	if err != nil {
		return nil, err
	}
	var b []byte
	for _, i := range raw {
		b = binary.NativeEndian.AppendUint16(b, i.Op)
		b = append(b, i.Jt, i.Jf)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	return b, nil
}

// sortOut leaves out the calls that this architecture has not.
func sortOut(p *specs.LinuxSeccomp, machine *arch.Info) (*rules, error) {
	r := &rules{sure: map[uint32]uint32{}, maybe: map[uint32][]rule{}}
	var err error
	if r.answer, err = answer(p.DefaultAction, p.DefaultErrnoRet); err != nil {
		return nil, err
	}
	for _, call := range p.Syscalls {
		a, err := answer(call.Action, call.ErrnoRet)
		if err != nil {
			return nil, err
		}
		for _, name := range call.Names {
			number, ok := machine.SyscallNames[name]
			if !ok {
				continue
			}
			n := uint32(number)
			r.newest = max(r.newest, n)
			if len(call.Args) > 0 {
				r.maybe[n] = append(r.maybe[n], rule{call.Args, a})
			} else {
				r.sure[n] = a
			}
		}
	}
	for n := range r.sure {
		delete(r.maybe, n)
	}
	return r, nil
}

const enosys = uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.ENOSYS)

func answer(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	switch a {
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActErrno:
		e := uint(unix.EPERM)
		if errno != nil {
			e = *errno
		}
		return unix.SECCOMP_RET_ERRNO | uint32(e)&unix.SECCOMP_RET_DATA, nil
	}
	return 0, fmt.Errorf("action %s is not known", a)
}

// answerIf ends the program where the call's number is as said, and goes on with the number loaded.
func answerIf(cond bpf.JumpTest, n, answer uint32) []bpf.Instruction {
	return []bpf.Instruction{bpf.JumpIf{Cond: cond, Val: n, SkipFalse: 1}, bpf.RetConstant{Val: answer}}
}

// ranges answer the calls of sure, neighbours in one comparison.
func (r *rules) ranges() (program []bpf.Instruction) {
	numbers := slices.Sorted(maps.Keys(r.sure))
	for len(numbers) > 0 {
		first, n := numbers[0], 1
		for n < len(numbers) && numbers[n] == first+uint32(n) && r.sure[numbers[n]] == r.sure[first] {
			n++
		}
		program = append(program,
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: first, SkipFalse: 2},
			bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: numbers[n-1], SkipTrue: 1},
			bpf.RetConstant{Val: r.sure[first]})
		numbers = numbers[n:]
	}
	return program
}

// conditional answers one call by its arguments, and goes on with the call's number loaded where it is another call. Where no
// rule holds the number is loaded again, and no later part of the program knows it.
func conditional(number uint32, of []rule) ([]bpf.Instruction, error) {
	var body []bpf.Instruction
	for _, r := range of {
		var tests []bpf.Instruction
		for _, arg := range slices.Backward(r.args) { // from the end, for what fails skips the rest
			t, err := test(arg, len(tests)+1)
			if err != nil {
				return nil, fmt.Errorf("call %d: %w", number, err)
			}
			tests = append(t, tests...)
		}
		body = append(append(body, tests...), bpf.RetConstant{Val: r.answer})
	}
	body = append(body, bpf.LoadAbsolute{Off: callOffset, Size: 4})
	return append([]bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: number, SkipTrue: 1},
		bpf.Jump{Skip: uint32(len(body))},
	}, body...), nil
}

// test goes on after itself where the condition holds, and skips that many instructions more where it does not. A condition it
// does not know is an error: to guess would be to allow.
func test(a specs.LinuxSeccompArg, skip int) ([]bpf.Instruction, error) {
	high, low := uint32(a.Value>>32), uint32(a.Value)
	over, after := uint8(skip), uint8(skip+2)
	loadLow := bpf.LoadAbsolute{Off: wordOffset(a.Index, false), Size: 4}
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: wordOffset(a.Index, true), Size: 4}}
	switch {
	case skip > 250:
		return nil, fmt.Errorf("its conditions are too many")
	case a.Op == specs.OpEqualTo:
		return append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: high, SkipTrue: after}, loadLow,
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: low, SkipTrue: over}), nil
	case a.Op == specs.OpMaskedEqual && a.ValueTwo == 0: // the value is the mask
		return append(program, bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: high, SkipTrue: after}, loadLow,
			bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: low, SkipTrue: over}), nil
	case a.Op == specs.OpLessThan && high == 0:
		return append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: after}, loadLow,
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: low, SkipTrue: over}), nil
	}
	return nil, fmt.Errorf("condition %s %#x %#x is not known", a.Op, a.Value, a.ValueTwo)
}

// wordOffset is where one half of an argument is.
func wordOffset(arg uint, high bool) uint32 {
	at := argsOffset + 8*uint32(arg)
	littleEndian := binary.NativeEndian.Uint16([]byte{1, 0}) == 1
	if high == littleEndian {
		at += 4
	}
	return at
}
