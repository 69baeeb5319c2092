// Package pod decides everything about one pod on its node: when its sandbox is made and removed, which container
// starts, restarts, waits or is stopped and with how much grace, which probes run, and what its status, conditions,
// phase and events are. It is pure: facts and the time come in, a Plan goes out. agent/runner carries plans out and
// brings facts; agent/health and agent/prober make the verdicts of probes.
//
// The life of a pod, as a Machine sees it:
//
//	          sandbox made, first starts             every container ended, none to be restarted
//	Pending ────────────────────────────▶ Running ─────────────────────────────▶ Succeeded | Failed
//	   │                                 │  ▲  │                                          │
//	   │               lease expired:    ▼  │  │ container ended: back-off, next instance │
//	   │               not an exit     fenced  │                                          │
//	   │                    assigned anew ─┘   │                                          │
//	   └──────────────── asked to stop ────────┴──────────────────────────────────────────┘
//	                          ▼
//	           stopping: SIGTERM to all at once, then SIGKILL, sandbox removed ─▶ Stopped (final)
//
// Rules of the form 8.3.1 in comments and tests are those of docs/probes.md.
package pod
