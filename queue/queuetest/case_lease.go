package queuetest

import (
	"context"
	"time"
)

// leaseCases are about leases: when a message comes back.
func leaseCases() []testCase {
	return []testCase{
		{"Lease_EndsInRedelivery", leases, func(r *run) {
			r.send(r.message("body"))
			begin := time.Now()
			m := r.receive(1, r.cfg.Lease)[0]
			end := time.Now()
			again := r.comesBack(m, begin.Add(r.cfg.Lease), end.Add(r.cfg.Lease), "its lease ended")
			if string(again.Body) != "body" {
				r.Errorf("the body was %q at the first delivery and %q at the second", m.Body, again.Body)
			}
			r.ack(again)
		}},
		{"Lease_Until", leases, func(r *run) {
			r.send(r.message("body"))
			begin := time.Now()
			m := r.receive(1, r.cfg.Lease)[0]
			end := time.Now()
			if m.LeaseUntil.Before(begin.Add(r.cfg.Lease).Add(-r.cfg.Slack)) || m.LeaseUntil.After(end.Add(r.cfg.Lease)) {
				r.Fatalf("LeaseUntil is %v after Receive was called with a lease of %v: tell no more than the queue grants", m.LeaseUntil.Sub(begin), r.cfg.Lease)
			}
			r.comesBack(m, m.LeaseUntil, end.Add(r.cfg.Lease), "its LeaseUntil")
		}},
		{"Lease_Exclusive", leases, func(r *run) {
			r.sent(3, r.long())
			r.nothing(2*r.cfg.Lease, "it is leased")
		}},
		{"Extend_MovesTheEnd", leases, func(r *run) {
			r.send(r.message("body"))
			m := r.receive(1, r.cfg.Lease)[0]
			var begin, end time.Time
			for range 4 { // the last one is past the end of the first lease
				r.nothing(r.cfg.Lease/2, "its lease was extended")
				begin = time.Now()
				r.extend(r.cfg.Lease, m)
				end = time.Now()
				if m.LeaseUntil.Before(begin.Add(r.cfg.Lease).Add(-r.cfg.Slack)) || m.LeaseUntil.After(end.Add(r.cfg.Lease)) {
					r.Fatalf("LeaseUntil is %v after Extend was called with %v: Extend sets it to what the message got", m.LeaseUntil.Sub(begin), r.cfg.Lease)
				}
			}
			r.comesBack(m, begin.Add(r.cfg.Lease), end.Add(r.cfg.Lease), "its extended lease ended")
		}},
		{"Extend_CountsFromNow", leases, func(r *run) {
			r.send(r.message("body"))
			m := r.receive(1, r.long())[0]
			begin := time.Now()
			r.extend(r.cfg.Lease, m)
			r.comesBack(m, begin.Add(r.cfg.Lease), time.Now().Add(r.cfg.Lease), "the lease that Extend set, which was shorter than the first one, ended")
		}},
		{"Extend_UpToMaxLease", leases | maxLease, func(r *run) {
			r.send(r.message("body"))
			begin := time.Now()
			m := r.receive(1, r.cfg.Lease)[0]
			end := time.Now()
			time.Sleep(r.cfg.Lease / 2)
			r.extend(2*r.cfg.MaxLease, m)
			if m.LeaseUntil.After(end.Add(r.cfg.MaxLease)) || m.LeaseUntil.Before(begin.Add(r.cfg.MaxLease).Add(-r.cfg.Slack-r.cfg.LeaseUnit)) {
				r.Fatalf("LeaseUntil is %v after the receive: an Extend beyond the queue's longest lease ends at that, %v", m.LeaseUntil.Sub(begin), r.cfg.MaxLease)
			}
			m = r.comesBack(m, m.LeaseUntil, end.Add(r.cfg.MaxLease), "its longest lease ended")
			r.extend(r.cfg.Lease, m) // the maximum begins anew with each receive
		}},
		{"Extend_LostLease", leases, func(r *run) {
			m := r.sent(1, r.cfg.Lease)[0]
			time.Sleep(r.roundUp(r.cfg.Lease) + r.cfg.Slack)
			r.lost("Extend", r.q.Extend(context.Background(), r.cfg.Lease, bare(m)), 0)
			again := r.collect(1, r.long())[0]
			r.lost("Extend", r.q.Extend(context.Background(), 0, bare(m)), 0)
			r.nothing(r.cfg.Slack, "somebody else has it leased")
			r.ack(again)
		}},
		{"Extend_PartialFailure", leases, func(r *run) {
			ctx := context.Background()
			msgs := r.sent(5, r.long())
			r.nack(0, msgs[1], msgs[3])
			r.collect(2, r.long()) // by somebody else
			r.lost("Extend", r.q.Extend(ctx, r.cfg.Lease, msgs...), 1, 3)
			begin := time.Now()
			r.lost("Nack", r.q.Nack(ctx, r.cfg.Lease, msgs...), 1, 3)
			end := time.Now()
			for range 3 {
				m := r.next(end.Add(r.roundUp(r.cfg.Lease)), "messages that a BatchError did not name had not been given back")
				if early := time.Until(begin.Add(r.cfg.Lease)); early > 0 {
					r.Fatalf("message %q came back %v before the delay of its Nack was over", m.Body, early)
				}
			}
		}},
	}
}
