package lambdalocal

import (
	"slices"
	"sync"
)

// groups are the FIFO message groups of the batches in progress. SQS delivers no
// messages of a group while others of it are hidden. But a batch that was throttled for
// long may still run when its messages are visible again.
type groups struct {
	mu   sync.Mutex               // guards busy
	busy map[string]chan struct{} // closed when the batch has ended
}

// lock waits until no batch with one of the groups is in progress. It locks all of
// them or none, so that two batches can't wait for each other.
func (g *groups) lock(names []string) {
	for {
		g.mu.Lock()
		var wait chan struct{}
		for _, name := range names {
			if c := g.busy[name]; c != nil {
				wait = c
				break
			}
		}
		if wait == nil {
			if g.busy == nil {
				g.busy = make(map[string]chan struct{})
			}
			ended := make(chan struct{})
			for _, name := range names {
				g.busy[name] = ended
			}
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		<-wait
	}
}

func (g *groups) unlock(names []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.busy[names[0]])
	for _, name := range names {
		delete(g.busy, name)
	}
}

// groupsOf returns the groups of a batch, each once.
func groupsOf(batch []record) []string {
	var names []string
	for _, r := range batch {
		if name := r.message.Attributes["MessageGroupId"]; !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
