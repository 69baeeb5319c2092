package history

import (
	"math"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// entry is an attempt as it is kept: times in microseconds, texts by their numbers. It has no pointers: a node with 10,000 probes
// keeps 320,000 of them.
type entry struct {
	start          int64 // nanoseconds since 1970
	took, cpu, lag uint32
	output         uint32
	outcome        spec.Outcome
	result         spec.Result
	instance       uint8 // in ring.instances
}

// absent is a figure that was not measured.
const absent = math.MaxUint32

func micros(d time.Duration) uint32 {
	if d < 0 {
		return absent
	}
	return uint32(min(d.Microseconds(), absent-1))
}

func duration(us uint32) time.Duration {
	if us == absent {
		return -1
	}
	return time.Duration(us) * time.Microsecond
}

// ring has the last attempts of one probe.
type ring struct {
	// entries grow to Keep; then next is the oldest.
	entries []entry
	next    int
	// instances are those of the entries, the newest last; at most one more than there are entries.
	instances []string
	// cpu is the processor time of all attempts of which it was measured, measured how many those were.
	cpu      time.Duration
	measured int
}

// at is the entry of that age, 0 for the oldest.
func (r *ring) at(i int) *entry { return &r.entries[(r.next+i)%len(r.entries)] }

func (r *ring) newest() *entry {
	if len(r.entries) == 0 {
		return nil
	}
	return r.at(len(r.entries) - 1)
}

// add puts an entry in, and returns the output of the one that had to go for it.
func (r *ring) add(e entry, instance string) (gone uint32) {
	if n := len(r.instances); n == 0 || r.instances[n-1] != instance {
		r.instances = append(r.instances, instance)
	}
	e.instance = uint8(len(r.instances) - 1)
	if len(r.entries) < Keep {
		if len(r.entries) == cap(r.entries) { // by doubling: a probe that has just begun takes little
			r.entries = append(make([]entry, 0, min(max(2*cap(r.entries), 4), Keep)), r.entries...)
		}
		r.entries = append(r.entries, e)
	} else {
		gone = r.entries[r.next].output
		r.entries[r.next] = e
		r.next = (r.next + 1) % Keep
	}
	r.trim()
	return gone
}

// trim lets go of instances of which no attempt is left: they come and go in order.
func (r *ring) trim() {
	unused := r.at(0).instance
	if unused == 0 {
		return
	}
	r.instances = append(r.instances[:0], r.instances[unused:]...)
	for i := range r.entries {
		r.entries[i].instance -= unused
	}
}

// outputs keeps each text once, for as long as an attempt has it.
type outputs struct {
	numbers map[string]uint32
	slots   []slot
	free    []uint32
	bytes   int
}

type slot struct {
	text string
	uses int
}

// The numbers that need no slot: no output, and one that was not kept.
const (
	noOutput, lostOutput uint32 = 0, 1
	firstSlot            uint32 = 2
)

// LostOutput is in the place of an output when the different outputs of a node take MaxOutputs already.
const LostOutput = "(not kept: the outputs of this node's probes take all the room that there is for them)"

func (o *outputs) keep(text string) uint32 {
	if text == "" {
		return noOutput
	}
	if n, ok := o.numbers[text]; ok {
		o.slots[n-firstSlot].uses++
		return n
	}
	if o.bytes+len(text) > MaxOutputs {
		return lostOutput
	}
	o.bytes += len(text)
	var n uint32
	if last := len(o.free) - 1; last >= 0 {
		n, o.free = o.free[last], o.free[:last]
		o.slots[n-firstSlot] = slot{text: text, uses: 1}
	} else {
		n = uint32(len(o.slots)) + firstSlot
		o.slots = append(o.slots, slot{text: text, uses: 1})
	}
	o.numbers[text] = n
	return n
}

// again is keep for the output of an attempt that is kept.
func (o *outputs) again(n uint32) {
	if n >= firstSlot {
		o.slots[n-firstSlot].uses++
	}
}

func (o *outputs) drop(n uint32) {
	if n < firstSlot {
		return
	}
	s := &o.slots[n-firstSlot]
	if s.uses--; s.uses > 0 {
		return
	}
	delete(o.numbers, s.text)
	o.bytes -= len(s.text)
	*s = slot{}
	o.free = append(o.free, n)
}

func (o *outputs) text(n uint32) string {
	switch n {
	case noOutput:
		return ""
	case lostOutput:
		return LostOutput
	}
	return o.slots[n-firstSlot].text
}
