package process_test

import (
	"testing"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/container/process"
)

// burn is a loop of a shell that takes some 400 ms of processor time.
const burn = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"

func (b *bench) usage(id container.ContainerID) container.Usage {
	b.t.Helper()
	u, err := b.Usage(b.ctx, id)
	if err != nil {
		b.t.Fatal(err)
	}
	return u
}

func TestTheTimeOfWhatHasEndedStaysWithItsContainer(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"child": "sh -c '" + burn + "'; exec sleep 1000",
		// The init waits for orphans, and so their time comes to it.
		"orphan": "(setsid sh -c '" + burn + "' &); exec sleep 1000",
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, b *bench) {
				c := b.sh(script)
				b.until("its time", func() bool { return b.usage(c.ID).CPU >= 100*time.Millisecond })
				high := time.Duration(0)
				b.until("its end", func() bool {
					u := b.usage(c.ID)
					// What ends between two lines of /proc may be counted twice or not at all for the moment.
					high = max(high, u.CPU)
					return u.CPU == high && running("sh", "-c", burn) == 0
				})
				if u := b.usage(c.ID); u.CPU < high/2 {
					t.Errorf("%v of %v are left", u.CPU, high)
				}
			})
		})
	}
}

func TestMemoryThatProcessesShareCountsOnce(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, b *bench) {
		c := b.sh(`exec perl -e '$x = "x" x (48 << 20); for (1..4) { if (!fork) { sleep 1000; exit } } $| = 1; print "ready\n"; sleep 1000'`)
		b.until("its children", func() bool { return b.log(c.ID) == "ready\n" })
		var u container.Usage
		b.until("its memory", func() bool { u = b.usage(c.ID); return u.MemoryBytes >= 48<<20 })
		if u.MemoryBytes > 128<<20 { // perl may hold the string twice
			t.Errorf("five processes that share 48 MiB hold %d MiB", u.MemoryBytes>>20)
		}
	})
}

func TestWhatProbesRunIsChargedToTheContainersControlGroup(t *testing.T) {
	t.Parallel()
	groups := cgroups(t)
	b := newBench(t, func(c *process.Config) { c.Cgroups = groups(c.DataDir) })
	b.removes()
	b.needs("full")
	c := b.sh("exec sleep 1000")
	group := groups(b.dir).Pod(b.ref.UID + "-7").Child("main")
	before, err := group.Usage()
	if err != nil {
		t.Fatal(err)
	}
	if before.CPU < 0 {
		t.Skip("this machine has no control groups that tell the processor time")
	}
	res, err := b.Exec(b.ctx, c.ID, container.ExecConfig{Argv: []string{"/bin/sh", "-c", burn}})
	if err != nil || res.CPU < 100*time.Millisecond {
		t.Fatalf("exec %+v, %v", res, err)
	}
	after, err := group.Usage()
	if err != nil || after.CPU-before.CPU < res.CPU {
		t.Errorf("the group had %v and has %v (%v); the command took %v", before.CPU, after.CPU, err, res.CPU)
	}
	if u := b.usage(c.ID); u.CPU < after.CPU || u.CPU > after.CPU+time.Second {
		t.Errorf("usage says %v, the group %v", u.CPU, after.CPU)
	}
}
