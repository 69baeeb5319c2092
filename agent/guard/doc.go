// Package guard is the one process a node that answers for the node while its agent is dead or stopped, and that keeps
// the fence page. It has both halves: the guard itself, which is part of the tiny binary (standard library,
// golang.org/x/sys, agent/supervisor and internal/fence only), and Client, with which the agent starts it, finds it
// again, and gets the page.
//
// # What the guard does
//
//   - It holds DATA/guard.lock, so there is one. DATA/guard says who it is.
//   - It makes the page, or takes it over from a supervisor that lives, and hands it out on DATA/guard.sock.
//   - On its TCP port it writes one line (fence.GuardAnswer) to whoever connects, whatever is sent, and closes.
//   - Where the node's address is loopback it holds UDP 127.77.NODE.0:7704, and with it the number NODE.
//   - It kills what best-effort fenced pods have left once their supervisor is dead or their time is over: every second.
//   - It ends 30 s after the agent and the last supervisor are gone, and on SIGTERM.
//
// It needs no privilege and writes nothing but those three files and DATA/node-number.
package guard
