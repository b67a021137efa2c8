package deadletter

import (
	"context"
	"io"
	"iter"
	"log/slog"
	"time"

	"github.com/rampmeter/rampmeter/queue"
)

// List reads the letters of a dead-letter queue without deleting any:
//
//	for l, err := range deadletter.List(ctx, dead, deadletter.Config{}) {
//		if err != nil {
//			return err
//		}
//		fmt.Println(l.Message.ID, l.Record.Reason, l.Record.Error)
//	}
//
// List receives the letters, so each one's receive count goes up by one. It hides them
// from others until the loop ends, and then returns them to the queue. Letters that,
// by the queue's and this machine's clocks, came after the loop began are not listed;
// Logger gets a warning with their number. Of cfg, List uses Filter, Max, Lease, Wait
// and Logger. The messages belong to the caller.
//
// An error ends the loop: a field of cfg that is out of range, which the error
// names; a receive that fails repeatedly, or with [limiter.ErrMisconfigured];
// [ErrTooMany]; the cause of ctx. Loops may run concurrently, but hide letters from
// each other.
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
		late := newcomers{ids: make(map[string]bool)}
		defer func() { late.warn(cfg.Logger) }()
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
				switch {
				case seen[m.ID]:
					continue
				case s.newer(l):
					late.add(l, s.start)
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

// newcomers are the letters that a list leaves out as newer than itself.
type newcomers struct {
	ids map[string]bool
	by  time.Duration // how much newer the newest is
}

func (n *newcomers) add(l Letter, start time.Time) {
	n.ids[l.Message.ID] = true
	n.by = max(n.by, l.Message.SentAt.Sub(start))
}

func (n *newcomers) warn(logger *slog.Logger) {
	if len(n.ids) > 0 {
		logger.Warn("deadletter: letters are not listed, as they came after the list began; if they are older, the clock of this machine is slow, or that of the queue is fast",
			"letters", len(n.ids), "newer_by", n.by)
	}
}
