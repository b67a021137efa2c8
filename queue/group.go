package queue

import "time"

// returnGroup returns, in order, what waits behind d, which is to be delivered
// again first. The caller holds mu.
func (e *engine) returnGroup(d *delivery, now time.Time) {
	if d.group == nil {
		return
	}
	for b := d.group.members.next(d); b != nil; b = d.group.members.next(b) {
		if b.state == behind {
			e.settle(b, settlement{op: opNack, outcome: Released}, now)
		}
	}
}
