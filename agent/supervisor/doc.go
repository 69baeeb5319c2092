// Package supervisor is the code of the tiny binary: one supervisor per pod, and the init that is PID 1 of each
// container instance. It imports the standard library (without net/http, crypto and encoding/gob), golang.org/x/sys and
// internal/fence only, so that a supervisor starts in milliseconds and idles in two megabytes.
//
// The supervisor outlives the agent. It is parent and reaper of its containers' inits, owns their log pipes and exit
// codes, and carries the fence: a POSIX timer with SIGKILL on itself. It decides nothing: agent/container/process drives
// it over a unix socket with the messages of wire.go, through Client.
//
//	agent ──socket── supervisor (session leader, subreaper, outside the namespaces; fence timer on itself)
//	                   ├─ init (PID 1 of a PID namespace; PDEATHSIG=SIGKILL on the supervisor's locked thread)
//	                   │    ├─ the container's main process: when it ends, all else in the namespace is killed
//	                   │    └─ exec'ed commands: init serves their connections itself
//	                   └─ init …
//
// Where the kernel refuses namespaces an init is an ordinary process and a subreaper, which finds what it has to kill
// among its descendants; see Isolation for what that does and does not guarantee.
//
// # Files of a pod
//
// All live in the pod's directory, DATA/pods/UID-EPOCH:
//
//	pod           what the agent wants (PodRecord), written before the supervisor is started
//	supervisor    who supervises it (SupervisorRecord)
//	lock          flocked by the supervisor as long as it lives
//	sock          the socket, bound by relative name because a path may be longer than sun_path
//	fenced        exists once the fence has begun to stop the pod
//	work/         MUSTER_POD_DIR: epoch, home/, tmp/
//	c/NAME_INSTANCE/{state,log,log.1,tmp/}
package supervisor
