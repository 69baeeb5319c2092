package fleet

import (
	"sync"
	"time"

	"github.com/musterhq/muster/coordinator/store"
)

// sharedKept is how long after its last use a shared sight is kept.
const sharedKept = 10 * time.Second

// Shared is one Sight for all who look now and then, from any goroutine. Whoever looks brings it up to date. When nobody has
// looked for a while it is forgotten, for it is large, and made anew for the next.
type Shared struct {
	cache *store.Cache

	mu     sync.Mutex
	sight  *Sight
	forget *time.Timer
}

// Share makes the sight of a cache.
func Share(cache *store.Cache) *Shared { return &Shared{cache: cache} }

// Look calls f with the fleet as it is now, one caller at a time. What f keeps of it must be copied; what the store holds, which
// copies refer to, changes no more. Another sight than the last one has begun anew, with all that it saw touched.
func (s *Shared) Look(f func(*Sight)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sight == nil {
		s.sight = &Sight{}
	}
	if s.forget != nil {
		s.forget.Stop()
	}
	s.forget = time.AfterFunc(sharedKept, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sight = nil
	})
	s.sight.See(s.cache.View())
	clear(s.sight.Touched)
	f(s.sight)
}
