package supervisor

import (
	"os"
	"runtime"
)

// Subcommand is under which the muster binary offers the tiny binary's commands.
const Subcommand = "pod-supervisor"

// The main goroutine starts on the process's main thread and must stay there; only the process that is to be a
// supervisor or an init pays for it.
func init() {
	if len(os.Args) > 1 && os.Args[1] == Subcommand {
		runtime.LockOSThread()
	}
}

// Main runs one of the tiny binary's commands and returns its exit status. self is how this binary is called up to
// args, such as os.Args[:1] or {"muster", "pod-supervisor"}; it starts its children with it, from /proc/self/exe.
//
//	pod DATA POD_DIR            supervise one pod; says "ok" or what is wrong on descriptor 3 and closes it
//	init DATA POD_UID NAME      the init of one container instance; only the supervisor calls it
//	hold                        be PID 1 of a pod's PID namespace; only the supervisor calls it
//	isolation                   print full, user or none
//
// DATA is there to be seen in the command line. It is called on the main goroutine, which must have been locked to its
// thread in an init function.
func Main(self, args []string) int {
	runtime.LockOSThread()
	switch {
	case len(args) == 3 && args[0] == "pod":
		return runPod(self, args[1], args[2])
	case len(args) == 4 && args[0] == "init":
		return runInit()
	case len(args) == 1 && args[0] == "hold":
		return hold()
	case len(args) == 1 && args[0] == "isolation":
		os.Stdout.WriteString(string(detectIsolation(self)) + "\n")
		return 0
	case len(args) == 1 && args[0] == "noop":
		return noop()
	}
	os.Stderr.WriteString("usage: muster-supervisor pod DATA POD_DIR | guard DATA … | isolation\n")
	return 2
}
