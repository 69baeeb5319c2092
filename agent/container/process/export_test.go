package process

// Forget lets the next Usage look at all processes anew.
func (r *Runtime) Forget() {
	r.procs.mu.Lock()
	defer r.procs.mu.Unlock()
	r.procs.now = nil
}
