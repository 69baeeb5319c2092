// Command muster-supervisor is the tiny binary that supervises a pod, is PID 1 of a container, or guards a node. The
// agent starts it; nobody else needs to.
package main

import (
	"os"
	"runtime"

	"github.com/musterhq/muster/agent/guard"
)

// A container's init dies with the thread that started it, and reaps on the one it was started with: the main one.
func init() { runtime.LockOSThread() }

func main() { os.Exit(guard.Tiny(os.Args[:1], os.Args[1:])) }
