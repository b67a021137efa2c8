package limiter

// Hold begins the given number of trials one after the other, without the
// operations that would lead to them.
func (a *Adaptive) Hold(trials int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for range trials {
		a.hold()
	}
}

// Rounds is the number of trial numbers before they recur.
const Rounds = 1 << roundBits
