package queue

import (
	"errors"
	"fmt"
)

// audit compares every number and list of the ledger with a recount from its
// deliveries, and returns an error that names each difference. It takes time
// proportional to the number of deliveries: tests call it after every step.
func (g *ledger) audit() error {
	var errs []error
	differ := func(what string, got, want any) {
		if got != want {
			errs = append(errs, fmt.Errorf("%s: the ledger has %v, a recount %v", what, got, want))
		}
	}
	var count [states]int
	parked, stalled, suspects, apart, counted, spares, watched, named := 0, 0, 0, 0, 0, 0, 0, 0
	groups := make(map[*group]int)
	members := make(map[*lane]int)
	ready := make(map[*lane][4]int) // fresh, again, spares, doubted
	each := func(l *list) {
		n := 0
		for d := l.first; d != nil; d = l.next(d) {
			n++
			count[d.state]++
			differ(fmt.Sprintf("message %s is in the list of its state", d.msg.ID), g.listOf(d.state) == l, true)
			if d.msg.ID != "" {
				named++
				differ(fmt.Sprintf("message %s is known by its id", d.msg.ID), g.byID[d.msg.ID] == d, true)
			}
			members[d.lane]++
			r := ready[d.lane]
			switch d.state {
			case queued:
				r[0]++
				if d.lane.own != nil && d.spare {
					r[2]++
				}
				if d.lane.aside {
					parked++
				}
			case due:
				if d.doubt {
					r[3]++
				} else {
					r[1]++
				}
				if d.lane.aside {
					stalled++
				} else if d.doubt {
					suspects++
				}
			}
			ready[d.lane] = r
			if d.apart {
				apart++
				differ(fmt.Sprintf("message %s is apart and held or due", d.msg.ID), d.state == held || d.state == due, true)
				differ(fmt.Sprintf("message %s is a suspect and spare", d.msg.ID), !d.doubt || d.spare, true)
				if d.spare {
					spares++
				}
			}
			if d.counts {
				counted++
				differ(fmt.Sprintf("message %s counts and is held, due or running", d.msg.ID), d.state == held || d.state == due || d.state == running, true)
				differ(fmt.Sprintf("message %s counts and is apart", d.msg.ID), d.apart, false)
			}
			differ(fmt.Sprintf("message %s is in holds", d.msg.ID), d.dueAt > 0, d.state == held)
			differ(fmt.Sprintf("message %s is in watch", d.msg.ID), d.lookAt > 0, !d.looks.IsZero())
			if d.lookAt > 0 {
				watched++
			}
			differ(fmt.Sprintf("message %s of a group has it", d.msg.ID), d.group != nil, d.msg.ordered())
			if d.group != nil {
				groups[d.group]++
			}
		}
		differ("length of a list of deliveries", l.n, n)
	}
	each(&g.fresh)
	each(&g.kept)
	each(&g.busy)
	each(&g.out)
	for s := range states {
		differ(fmt.Sprintf("count of state %d", s), g.count[s], count[s])
	}
	differ("unknown and ended deliveries", count[unknown]+count[ended], 0)
	differ("known ids", len(g.byID), named)
	differ("parked", g.parked, parked)
	differ("stalled", g.stalled, stalled)
	differ("suspects", g.suspects, suspects)
	differ("apart", g.apart, apart)
	differ("counted", g.counted, counted)
	differ("spares", g.spares.n, spares)
	differ("held deliveries", len(g.holds.items), count[held])
	differ("watched deliveries", len(g.watch.items), watched)
	errs = append(errs, g.holds.audit("holds"), g.watch.audit("watch"), g.crowds.audit("crowds"))

	differ("groups", len(g.groups), len(groups))
	for name, gr := range g.groups {
		n, unsent := 0, 0
		for d := gr.members.first; d != nil; d = gr.members.next(d) {
			n++
			differ(fmt.Sprintf("message %s is in its group", d.msg.ID), d.group == gr, true)
			if d.state == settling && d.settle.op == opNack && !d.sent {
				unsent++
			}
			differ(fmt.Sprintf("message %s is behind and not first", d.msg.ID), d.state == behind && gr.members.first == d, false)
			differ(fmt.Sprintf("message %s is queued and first", d.msg.ID), d.state == queued && gr.members.first != d, false)
		}
		differ("members of group "+name, gr.members.n, n)
		differ("members of group "+name, groups[gr], n)
		differ("unsent nacks of group "+name, gr.unsent, unsent)
	}

	lanes := map[*lane]any{&g.plain: nil}
	for key, l := range g.lanes {
		lanes[l] = key
	}
	turn := make(map[*lane]bool)
	if last := g.turns.last; last != nil {
		for l := last.next; ; l = l.next {
			turn[l] = true
			if l == last {
				break
			}
		}
	}
	aside := 0
	for l, key := range lanes {
		r := ready[l]
		differ("a lane's key", l.key, key)
		differ("a lane's members", l.members, members[l])
		differ("a lane's fresh deliveries", l.fresh.n, r[0])
		differ("a lane's due deliveries", l.again.n, r[1])
		differ("a lane's due suspects", l.doubted.n, r[3])
		differ("a lane's spares", l.spares.n, r[2])
		differ("a lane has a turn", turn[l] || l.aside || l.ready() == 0, true)
		differ("a lane is in crowds", l.crowdAt > 0, l.aside)
		if l.aside {
			aside++
		}
		if key != nil {
			differ("a lane is empty", l.members == 0, false)
		}
		delete(members, l)
	}
	differ("lanes that stand aside", len(g.crowds.items), aside)
	differ("lanes that the ledger does not know", len(members), 0)

	asked := 0
	for i, p := range g.receiving {
		asked += p.asked
		differ("a receive's index", p.at, i)
	}
	differ("asked", g.asked, asked)
	return errors.Join(errs...)
}

// audit checks the order of a heap and the positions that its items keep.
func (h *heap[T]) audit(name string) error {
	for i, item := range h.items {
		if *h.at(item) != i+1 {
			return fmt.Errorf("%s: item %d has the position %d", name, i, *h.at(item)-1)
		}
		if parent := (i - 1) / 2; h.less(item, h.items[parent]) {
			return fmt.Errorf("%s: item %d comes before its parent", name, i)
		}
	}
	return nil
}
