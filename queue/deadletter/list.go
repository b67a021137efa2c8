package deadletter

import (
	"context"
	"io"
	"iter"

	"github.com/rampmeter/rampmeter/queue"
)

// List reads the letters of a dead-letter queue, without taking any out:
//
//	for l, err := range deadletter.List(ctx, dead, deadletter.Config{}) {
//		if err != nil {
//			return err
//		}
//		fmt.Println(l.Message.ID, l.Record.Reason, l.Record.Error)
//	}
//
// A queue can be read only by receiving, so each letter's receive count goes up by
// one, and letters are hidden from others until the loop ends; then all are given
// back. While the loop's body runs their leases are kept. Letters that come after
// the loop began are not listed. Of cfg it uses Filter, Max, Lease, Wait and
// Logger.
//
// An error ends the loop: a field of cfg that is out of range, which the error
// names; a receive that fails again and again, or with
// [limiter.ErrMisconfigured]; [ErrTooMany]; the cause of ctx. The messages are the
// caller's. A queue that does not answer holds up the end of the loop for a minute at
// most, and gets its letters back when their leases end. Loops may run concurrently,
// but hide letters from each other.
func List(ctx context.Context, from queue.Source, cfg Config) iter.Seq2[Letter, error] {
	return func(yield func(Letter, error) bool) {
		cfg, err := cfg.check("list", from)
		if err != nil {
			yield(Letter{}, err)
			return
		}
		s := newSweep("list", from, cfg)
		defer s.close(ctx)
		seen := make(map[string]bool)
		for n := 0; ; {
			msgs, err := s.receive(ctx)
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(Letter{}, err)
				return
			}
			fresh := false
			for _, m := range msgs {
				l := Read(m)
				if seen[m.ID] || s.newer(l) {
					continue
				}
				seen[m.ID], fresh = true, true
				if !cfg.Filter.Match(l) {
					continue
				}
				if n++; !yield(l, nil) || n == cfg.Max {
					return
				}
			}
			s.came(fresh)
		}
	}
}
