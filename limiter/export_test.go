package limiter

// Hold begins so many trials one after the other, as many times as many
// operations would.
func (a *Adaptive) Hold(trials int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for range trials {
		a.hold()
	}
}

// Rounds is how many numbers of trials there are before they come again.
const Rounds = 1 << roundBits
