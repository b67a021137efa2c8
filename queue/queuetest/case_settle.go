package queuetest

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/rampmeter/rampmeter/queue"
)

// settleCases are about Ack and Nack.
func settleCases() []testCase {
	return []testCase{
		{"Ack_IsFinal", 0, func(r *run) {
			r.ack(r.sent(3, r.cfg.Lease)...)
			r.nothing(2*r.cfg.Lease, "it was acked")
		}},
		{"Ack_Twice", 0, func(r *run) {
			msgs := r.sent(2, r.long())
			r.ack(msgs[0])
			r.ack(msgs...)
			r.ack(msgs...)
		}},
		{"Ack_AfterRedelivery", leases, func(r *run) {
			m := r.sent(1, r.cfg.Lease)[0]
			time.Sleep(r.roundUp(r.cfg.Lease) + r.cfg.Slack)
			again := r.collect(1, r.long())[0]
			if err := r.q.Ack(context.Background(), bare(m)); err != nil {
				r.lost("Ack", err, 0) // some queues report it, others don't
			}
			if err := r.q.Extend(context.Background(), r.cfg.Lease, again); err != nil {
				r.Fatalf("an Ack with the receipt of an earlier delivery took the message from the one who has it: Extend: %v", err)
			}
			r.ack(again)
			r.nothing(2*r.cfg.Lease, "it was acked")
		}},
		{"Nack_AtOnce", 0, func(r *run) {
			m := r.sent(1, r.long())[0]
			for range 3 {
				now := time.Now()
				r.nack(0, m)
				m = r.comesBack(m, now, time.Now(), "it was given back with delay 0")
			}
		}},
		{"Nack_Delay", 0, func(r *run) {
			delay := r.roundUp(r.cfg.Lease / 2)
			m := r.sent(1, r.cfg.Lease)[0]
			for _, delay := range []time.Duration{delay, 2 * delay, 4 * delay} { // within the lease, and beyond it
				begin := time.Now()
				r.nack(delay, m)
				m = r.comesBack(m, begin.Add(delay), time.Now().Add(delay), "the delay of its Nack was over")
			}
		}},
		{"Nack_UpToMaxLease", leases | maxLease, func(r *run) {
			begin := time.Now()
			m := r.sent(1, r.cfg.Lease)[0]
			end := time.Now()
			r.nack(2*r.cfg.MaxLease, m)
			r.comesBack(m, begin.Add(r.cfg.MaxLease-r.cfg.LeaseUnit), end.Add(r.cfg.MaxLease), "the queue's longest lease was over, to which a longer delay is cut")
		}},
		{"Nack_LostLease", leases, func(r *run) {
			m := r.sent(1, r.cfg.Lease)[0]
			time.Sleep(r.roundUp(r.cfg.Lease) + r.cfg.Slack)
			r.lost("Nack", r.q.Nack(context.Background(), r.cfg.Lease, bare(m)), 0)
			again := r.next(time.Now(), "a Nack after the end of the lease hid the message: it was to be received")
			r.lost("Nack", r.q.Nack(context.Background(), 0, bare(m)), 0)
			r.nothing(r.cfg.Slack, "somebody else has it leased")
			r.ack(again)
		}},
		{"Settle_Many", 0, func(r *run) {
			const n = 25
			msgs := r.sent(n, r.cfg.Lease)
			r.extend(r.long(), msgs...)
			if !r.cfg.NoLeases {
				r.nothing(r.roundUp(r.cfg.Lease)+r.cfg.Slack, "its lease was extended, with 24 others")
			}
			r.nack(0, msgs...)
			msgs = r.collect(n, r.cfg.Lease)
			r.ack(msgs...)
			r.nothing(2*r.cfg.Lease, "it was acked, with 24 others")
		}},
		{"Settle_None", 0, func(r *run) {
			ctx := context.Background()
			if err := errors.Join(r.q.Send(ctx), r.q.Ack(ctx), r.q.Nack(ctx, 0), r.q.Extend(ctx, r.cfg.Lease)); err != nil {
				r.Errorf("a call without messages: %v: it has nothing to do, and succeeds", err)
			}
		}},
		{"Settle_ByReceiptAlone", 0, func(r *run) {
			m := bare(r.sent(1, r.cfg.Lease)[0])
			r.extend(r.long(), m)
			if m.LeaseUntil.IsZero() && !r.cfg.NoLeases {
				r.Error("Extend did not set LeaseUntil of a message that had but ID and Receipt")
			}
			r.nack(0, m)
			again := r.collect(1, r.cfg.Lease)[0]
			if again.ID != m.ID {
				r.Errorf("received message %s where %s was given back", again.ID, m.ID)
			}
			r.ack(bare(again))
			r.nothing(2*r.cfg.Lease, "it was acked")
		}},
		{"Settle_KeepsNothing", 0, func(r *run) {
			m := r.message("original")
			m.Attributes = map[string]string{"name": "original"}
			r.send(m, r.message("other"))
			for range 3 {
				msgs := r.collect(2, r.long())
				for _, m := range msgs {
					if m.Body = append(m.Body[:0], "overwritten, and longer than it was"...); m.Attributes != nil {
						m.Attributes["name"] = "overwritten"
					}
					m.Group, m.Attempt, m.Delay, m.SentAt, m.LeaseUntil = "overwritten", 99, time.Hour, time.Time{}, time.Time{}
				}
				r.nack(0, msgs...)
				clear(msgs)
			}
			for _, m := range r.collect(2, r.long()) {
				switch body := string(m.Body); {
				case body != "original" && body != "other":
					r.Errorf("the body came back as %q: what a handler does to its message must not reach the queue, nor another message", body)
				case body == "original" && !maps.Equal(m.Attributes, map[string]string{"name": "original"}):
					r.Errorf("the attributes came back as %v: what a handler does to its message must not reach the queue", m.Attributes)
				}
			}
		}},
		{"Settle_EndedContext", 0, func(r *run) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			m := r.sent(1, r.long())[0]
			for call, err := range map[string]error{
				"Send":   r.q.Send(ctx, r.message("more")),
				"Extend": r.q.Extend(ctx, r.cfg.Lease, m),
			} {
				var batch *queue.BatchError
				if err != nil && !errors.Is(err, context.Canceled) && !errors.As(err, &batch) {
					r.Errorf("%s with an ended context: %v: want nil when it was done, or context.Cause(ctx)", call, err)
				}
			}
		}},
	}
}
