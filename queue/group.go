package queue

import "time"

// returnGroup nacks, in order, the messages that wait behind d in its group,
// since d is to be delivered again first. The caller holds mu.
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
