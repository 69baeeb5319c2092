package usage

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// clockTick is the unit of /proc/stat: USER_HZ is 100 on every architecture that Go runs on.
const clockTick = 10 * time.Millisecond

// Machine reads what everything on this machine uses: the time in which its cores were neither idle nor taken by another
// machine, and the memory that could not be had without taking it from somebody.
func Machine() Reading {
	r := Reading{-1, -1}
	if text, err := os.ReadFile("/proc/stat"); err == nil {
		r.CPU = busy(text)
	}
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		r.MemoryBytes = taken(text)
	}
	return r
}

// busy adds up user, nice, system, irq and softirq of all cores.
func busy(stat []byte) time.Duration {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	f := bytes.Fields(line)
	if len(f) < 8 || string(f[0]) != "cpu" {
		return -1
	}
	total := int64(0)
	for _, i := range []int{1, 2, 3, 6, 7} {
		n, err := strconv.ParseInt(string(f[i]), 10, 64)
		if err != nil {
			return -1
		}
		total += n
	}
	return time.Duration(total) * clockTick
}

// taken is MemTotal without MemAvailable.
func taken(meminfo []byte) int64 {
	total, free := int64(-1), int64(-1)
	for line := range bytes.Lines(meminfo) {
		f := bytes.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, err := strconv.ParseInt(string(f[1]), 10, 64)
		if err != nil {
			continue
		}
		switch string(f[0]) {
		case "MemTotal:":
			total = kib
		case "MemAvailable:":
			free = kib
		}
	}
	if total < 0 || free < 0 {
		return -1
	}
	return (total - free) << 10
}

// Self reads what this process uses: its memory is what it has resident.
func Self() Reading {
	r := Reading{-1, -1}
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) == nil {
		r.CPU = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := bytes.Fields(statm); len(f) > 1 {
			if pages, err := strconv.ParseInt(string(f[1]), 10, 64); err == nil {
				r.MemoryBytes = pages * int64(os.Getpagesize())
			}
		}
	}
	return r
}
