package prober

import (
	"container/heap"
	"time"
)

// wheel has the rows that wait, by the slot of time in which they are due. A row that is put in again stays in its old
// slot too: whoever takes it looks at its due time.
type wheel struct {
	slots map[int64][]*row
	times times
	// spare are the arrays of slots that are over.
	spare [][]*row
}

// spareSlots bounds the arrays that are kept.
const spareSlots = 16

// times are the slots that have rows, soonest first.
type times []int64

func (t times) Len() int           { return len(t) }
func (t times) Less(i, j int) bool { return t[i] < t[j] }
func (t times) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *times) Push(x any)        { *t = append(*t, x.(int64)) }
func (t *times) Pop() any {
	old := *t
	last := old[len(old)-1]
	*t = old[:len(old)-1]
	return last
}

// add puts a row into the slot of that width that ends at or after at, sets its due time to the slot's end, and reports
// whether that slot is now the soonest.
func (w *wheel) add(r *row, at time.Time, width time.Duration) (soonest bool) {
	if w.slots == nil {
		w.slots = map[int64][]*row{}
	}
	end := at.UnixNano()
	if rest := end % int64(width); rest != 0 {
		end += int64(width) - rest
	}
	r.due = time.Unix(0, end)
	rows, ok := w.slots[end]
	if !ok {
		heap.Push(&w.times, end)
		if n := len(w.spare); n > 0 {
			rows, w.spare = w.spare[n-1], w.spare[:n-1]
		}
	}
	w.slots[end] = append(rows, r)
	return w.times[0] == end && len(w.slots[end]) == 1
}

// take appends the rows of every slot that has ended.
func (w *wheel) take(now time.Time, out []*row) []*row {
	for len(w.times) > 0 && w.times[0] <= now.UnixNano() {
		end := heap.Pop(&w.times).(int64)
		rows := w.slots[end]
		delete(w.slots, end)
		out = append(out, rows...)
		clear(rows)
		if len(w.spare) < spareSlots {
			w.spare = append(w.spare, rows[:0])
		}
	}
	return out
}

// next is when the soonest slot ends; false when there is none.
func (w *wheel) next() (time.Time, bool) {
	if len(w.times) == 0 {
		return time.Time{}, false
	}
	return time.Unix(0, w.times[0]), true
}
