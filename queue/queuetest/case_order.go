package queuetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/rampmeter/rampmeter/queue"
)

// orderCases are about queues that keep the order of groups.
func orderCases() []testCase {
	// group sends n messages of one group, in several calls.
	group := func(r *run, name string, n int) {
		for i := range n {
			r.send(r.grouped(name, fmt.Sprint(name, i)))
		}
	}
	return []testCase{
		{"Order_WithinGroup", order, func(r *run) {
			const groups, each = 3, 12
			var all []*queue.Message
			for i := range groups * each {
				all = append(all, r.grouped(fmt.Sprint("group-", i%groups), fmt.Sprint(i/groups)))
			}
			r.send(all...)
			next := make(map[string]int)
			sequences := make(map[string]bool)
			for range groups * each {
				m := r.receive(1, r.long())[0]
				if want := fmt.Sprint(next[m.Group]); string(m.Body) != want {
					r.Fatalf("received message %s of %s where %s was the next", m.Body, m.Group, want)
				}
				if m.Sequence == "" || sequences[m.Sequence] {
					r.Fatalf("received message %s of %s with Sequence %q: every message of a queue with order has one of its own", m.Body, m.Group, m.Sequence)
				}
				next[m.Group]++
				sequences[m.Sequence] = true
				r.ack(m)
			}
		}},
		{"Order_WithinBatch", order, func(r *run) {
			group(r, "a", 20)
			var got []string
			for len(got) < 20 {
				msgs := r.receive(r.cfg.MaxBatch, r.long())
				got = append(got, bodies(msgs)...)
				r.ack(msgs...)
			}
			for i, body := range got {
				if body != fmt.Sprint("a", i) {
					r.Fatalf("received the messages of a group as %v", got)
				}
			}
		}},
		{"Order_GroupWaits", order, func(r *run) {
			group(r, "a", 2)
			first := r.receive(1, r.long())[0]
			r.nothing(r.cfg.Lease, "an earlier message of its group is in flight")
			group(r, "b", 1)
			other := r.receive(1, r.long())[0]
			if string(other.Body) != "b0" {
				r.Fatalf("received %q: want b0, for a0 is in flight, but holds up its own group only", other.Body)
			}
			r.ack(first)
			if second := r.receive(1, r.long())[0]; string(second.Body) != "a1" {
				r.Fatalf("received %q after a0 was acked: want a1", second.Body)
			}
		}},
		{"Order_AfterNack", order, func(r *run) {
			delay := r.roundUp(r.cfg.Lease / 2)
			group(r, "a", 2)
			m := r.receive(1, r.long())[0]
			begin := time.Now()
			r.nack(delay, m)
			m = r.comesBack(m, begin.Add(delay), time.Now().Add(delay), "the delay of its Nack was over, which holds up its group")
			r.nack(0, m)
			m = r.comesBack(m, begin, time.Now(), "it was given back with delay 0")
			r.ack(m)
			if second := r.receive(1, r.long())[0]; string(second.Body) != "a1" {
				r.Fatalf("received %q after a0 was acked: want a1", second.Body)
			}
		}},
		{"Order_AfterLeaseEnd", order | leases, func(r *run) {
			group(r, "a", 2)
			begin := time.Now()
			m := r.receive(1, r.cfg.Lease)[0]
			r.comesBack(m, begin.Add(r.cfg.Lease), time.Now().Add(r.cfg.Lease), "its lease ended")
		}},
		{"Order_AfterNackOfBatch", order, func(r *run) {
			group(r, "a", 5)
			msgs := r.receive(r.cfg.MaxBatch, r.long())
			slices.Reverse(msgs)
			r.nack(0, msgs...)
			for i := range 5 {
				m := r.receive(1, r.long())[0]
				if want := fmt.Sprint("a", i); string(m.Body) != want {
					r.Fatalf("received %q where %s was the next: a batch that is given back keeps its order", m.Body, want)
				}
				r.ack(m)
			}
		}},
		{"Order_Dedup", order, func(r *run) {
			first, again, other := r.grouped("a", "first"), r.grouped("a", "again"), r.grouped("a", "other")
			again.Dedup = first.Dedup
			r.send(first, other)
			r.send(again)
			for _, want := range []string{"first", "other"} {
				m := r.receive(1, r.long())[0]
				if string(m.Body) != want {
					r.Fatalf("received %q where %q was the next", m.Body, want)
				}
				r.ack(m)
			}
			r.send(again)
			r.nothing(r.cfg.Lease, "one with the same Dedup was sent before, and that it was acked since does not matter")
		}},
	}
}
