package seccomp_test

import (
	"encoding/binary"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/agent/seccomp"
	"github.com/musterhq/muster/internal/spec"
)

const (
	allow = unix.SECCOMP_RET_ALLOW
	eperm = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	enos  = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
)

// filter runs a compiled program as the kernel would.
type filter struct {
	*testing.T
	vm      *bpf.VM
	machine *arch.Info
}

func compile(t *testing.T, add ...string) *filter {
	t.Helper()
	program, err := seccomp.RuntimeDefault(spec.EffectiveCapabilities(add, nil))
	if err != nil {
		t.Fatal(err)
	}
	if len(program)%8 != 0 || len(program) > 8<<10 {
		t.Fatalf("%d bytes", len(program))
	}
	var is []bpf.Instruction
	for b := program; len(b) > 0; b = b[8:] {
		is = append(is, bpf.RawInstruction{
			Op: binary.NativeEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.NativeEndian.Uint32(b[4:]),
		}.Disassemble())
	}
	vm, err := bpf.NewVM(is)
	if err != nil {
		t.Fatal(err)
	}
	machine, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	return &filter{t, vm, machine}
}

func (f *filter) call(machine, number uint32, args ...uint64) uint32 {
	f.Helper()
	// The virtual machine loads in network order, so every word is laid out in that.
	var data [64]byte
	binary.BigEndian.PutUint32(data[0:], number)
	binary.BigEndian.PutUint32(data[4:], machine)
	for i, a := range args {
		var native [8]byte
		binary.NativeEndian.PutUint64(native[:], a)
		for j := 0; j < 8; j += 4 {
			binary.BigEndian.PutUint32(data[16+8*i+j:], binary.NativeEndian.Uint32(native[j:]))
		}
	}
	got, err := f.vm.Run(data[:])
	if err != nil {
		f.Fatal(err)
	}
	return uint32(got)
}

func (f *filter) expect(want uint32, name string, args ...uint64) {
	f.Helper()
	n, ok := f.machine.SyscallNames[name]
	if !ok {
		f.Fatalf("this architecture has no %s", name)
	}
	if got := f.call(uint32(f.machine.ID), uint32(n), args...); got != want {
		f.Errorf("%s%v: %#x, want %#x", name, args, got, want)
	}
}

func TestOrdinaryCallsPassAndThoseOverTheWholeMachineDoNot(t *testing.T) {
	f := compile(t)
	for _, name := range []string{"read", "openat", "execve", "futex", "setuid", "prctl", "wait4"} {
		f.expect(allow, name)
	}
	for _, name := range []string{"mount", "bpf", "init_module", "keyctl", "setns", "unshare", "userfaultfd", "swapon"} {
		f.expect(eperm, name)
	}
}

func TestArgumentsDecideWhereTheProfileSaysSo(t *testing.T) {
	f := compile(t)
	f.expect(allow, "clone", unix.CLONE_VM|unix.CLONE_VFORK|uint64(unix.SIGCHLD))
	f.expect(eperm, "clone", unix.CLONE_NEWUSER|uint64(unix.SIGCHLD))
	f.expect(enos, "clone3") // its flags are in memory, which a filter does not see
	f.expect(allow, "socket", unix.AF_INET)
	f.expect(allow, "socket", unix.AF_NETLINK)
	f.expect(eperm, "socket", unix.AF_VSOCK)
	f.expect(eperm, "socket", unix.AF_ALG)
	f.expect(allow, "personality", 0xffffffff)
	f.expect(eperm, "personality", 0x0040000) // ADDR_NO_RANDOMIZE
	f.expect(eperm, "personality", 1<<32)     // the upper half counts too
}

func TestACapabilityBringsItsCalls(t *testing.T) {
	with, without := compile(t, "SYS_ADMIN", "SYS_TIME"), compile(t)
	for _, name := range []string{"mount", "unshare", "clock_settime", "clone3"} {
		with.expect(allow, name)
	}
	without.expect(eperm, "clock_settime")
	with.expect(eperm, "init_module")
	without.expect(allow, "chroot") // SYS_CHROOT is among the usual ones
}

func TestCallsThatTheProfileIsTooOldForDoNotExist(t *testing.T) {
	f := compile(t)
	if got := f.call(uint32(f.machine.ID), 100_000); got != enos {
		t.Errorf("%#x", got)
	}
	f.expect(allow, "futex_requeue") // Linux 6.7: one of the newest that it knows
}

func TestProgramsOfAnotherArchitectureGetNoCall(t *testing.T) {
	f := compile(t)
	for _, number := range []uint32{0, 1, 3, 60, 200, 1 << 30} {
		if got := f.call(0x40000003 /* i386 */, number); got != eperm && got != enos {
			t.Errorf("call %d of i386: %#x", number, got)
		}
	}
	if f.machine.ID == arch.X86_64.ID {
		if got := f.call(uint32(f.machine.ID), 0x40000000|1); got != enos {
			t.Errorf("write of x32: %#x", got)
		}
	}
}

func BenchmarkRuntimeDefault(b *testing.B) {
	for b.Loop() {
		if _, err := seccomp.RuntimeDefault(spec.EffectiveCapabilities(nil, nil)); err != nil {
			b.Fatal(err)
		}
	}
}
