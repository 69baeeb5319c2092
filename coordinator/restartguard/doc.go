// Package restartguard decides, for one owner, which of its pods may be restarted by their liveness without asking, and
// when restarts are held because too many fail at once. It is pure: the owner's pods, what agents say of them and the time
// come in, allowances and a decision go out. coordinator/restarts feeds it and carries the allowances to the agents;
// agent/pod holds a restart that is not allowed.
//
// The owner has N pods, of which most = N*share/100, rounded down, may be restarted within a window. A pod is
//
//   - allowed, when its agent was told so: liveness restarts it at once, as often as it has to;
//   - held, when it is not allowed and its liveness fails: it runs on, is probed, and waits;
//   - failing, when it is held, or liveness has restarted it and either the window is not over or its liveness has not
//     succeeded since;
//   - counted, when it may be restarted by what any agent believes, or failing because it was restarted, or not heard of
//     yet since this coordinator's start.
//
// While no more than most pods fail, the allowance is spread ahead of need, and moved to a pod that asks by being held: it
// is given only as far as no more than most pods are counted, and taken back only when the agent has said that it knows.
//
//	           more than most fail                    held ones wait
//	allowing ───────────────────────▶ holding ───────────────────────┐
//	   ▲                              │     ▲ one is live, or a window has passed: the next
//	   │ none is held,                │     └───────── releasing one ◀─┘
//	   │ no more than most fail       │       for a window no more than most fail, or somebody resumed, or after release-after
//	   └──────────────────────────────┘
//
// So within any window no more than most pods are restarted, however messages are late and sessions break, but for those
// that were let go by a person, or after release-after, one at a time.
package restartguard
