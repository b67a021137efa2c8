package queue

import (
	"context"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

// The life of a delivery:
//
//	                  +----------- due <--- held
//	                  v                      ^
//	behind -> queued -> running -------------+
//	                    |     |
//	                    |     +-> handing -> held, if the hand-over failed
//	                    v             v
//	                  settling <------+
//	                    v
//	                  ended
//
// A delivery that is behind, queued, held or due goes to settling without another
// run when it has been kept for too long, or the drain begins. Any delivery ends
// when its lease is lost: one that is running or handing once that is over, the
// others at once.
type state uint8

const (
	unknown  state = iota // the zero value is no state: not in the ledger
	queued                // waits in its lane for a turn
	behind                // waits for the first of its ordered group
	running               // its handler runs
	held                  // waits until it is due
	due                   // was held, and waits in its lane to run again
	handing               // a copy of it is on its way to the dead-letter sink
	settling              // its ack or nack is pending, under way, or to be tried again
	ended                 // has its outcome, and is no longer in the ledger
	states
)

// groupName names the delivery's ordered group; "" if it is in none.
func (d *delivery) groupName() string {
	if d.group == nil {
		return ""
	}
	return d.group.name
}

// nackSent reports whether the nack of the message has been sent.
func (d *delivery) nackSent() bool { return d.state == settling && d.settle.op == opNack && d.sent }

// A delivery is one message in the engine, from its receive to its outcome. Its
// fields are guarded by Consumer.mu. Those of the first block are the ledger's:
// nothing else writes them.
type delivery struct {
	state  state
	lane   *lane
	group  *group // nil: the message is not ordered
	links  [links]link
	apart  bool // held or due: by itself, and not because of an outage
	counts bool // against the limit of held messages, also while it runs again
	spare  bool // may be returned unrun when there are too many
	doubt  bool // held or due: a suspect, which fails where others succeed
	sent   bool // settling: its call has been made, at least once
	dueAt  int  // position in ledger.holds
	lookAt int  // position in ledger.watch
	looks  time.Time

	msg      *Message  // as received: replaced by a newer delivery of the same message, never changed
	since    time.Time // waiting: since when
	runs     int       // handlers started, in this delivery
	cancel   context.CancelCauseFunc
	lost     bool // the lease ended while the handler ran, or the hand-over was under way
	orphaned bool // Run has given up its handler, which still runs
	err      error
	failures int          // attempts that the message has failed in, also in earlier deliveries
	streak   judge.Streak // of failures with the same class

	heldSince time.Time // since the first run after which it was held
	due       time.Time // held: not before

	leaseUntil time.Time // zero: no lease
	extendAt   time.Time
	extending  bool

	settle   settlement // settling: how
	receipt  string     // settling: the receipt that the call under way uses
	tries    int        // settling: calls that failed
	retryAt  time.Time  // settling: after a failed call, not before
	retryPos int        // position in engine.retrying
	resettle bool       // settling: superseded while a call was under way
}

// A ledger owns every delivery of a run, and every number derived from them. Only
// its methods write them; audit recounts them all. No method takes time
// proportional to the number of deliveries. The caller holds Consumer.mu.
//
// Its invariants:
//   - A delivery is in exactly one state, and in the lists and heaps of that
//     state only. count[s] is how many are in s.
//   - fresh has the deliveries that were not started, kept those that wait to run
//     again, busy those that run, and out the rest; byID has one delivery for
//     each message id.
//   - Of an ordered group, members has all deliveries in the order of arrival.
//     All but the first are behind, unless they have been started or settled.
//   - A lane has its queued deliveries in fresh, and its due ones in doubted if
//     they are suspects, in again if not. It is in turns if and only if it has
//     any and does not stand aside.
//   - parked counts the queued deliveries of lanes that stand aside, stalled
//     their due ones, and suspects the due suspects of all other lanes; apart and
//     counted count those that are marked apart and counts.
//   - asked is the sum over the receives under way.
type ledger struct {
	fresh, kept, busy, out list
	byID                   map[string]*delivery
	count                  [states]int
	groups                 map[string]*group

	plain    lane          // of messages without a limiter of their own
	lanes    map[any]*lane // the others, by key
	turns    turns         // lanes with something to start
	crowds   heap[*lane]   // lanes that stand aside, the one with most spares first
	spares   list          // deliveries that are apart and spare, in the order of being held
	parked   int
	stalled  int
	suspects int
	apart    int
	counted  int

	complete func(own limiter.Limiter) limiter.Limiter // adds the breaker and the pace of the key
	perAgain int                                       // the precedence of lanes

	holds heap[*delivery] // held ones, by when they are due
	watch heap[*delivery] // those with leases or limits of holding, by the time of their next look

	receiving []*poll // receives under way
	asked     int     // messages that they ask for
}

// A group is the deliveries of one ordered group of messages: only the first may
// run.
type group struct {
	name    string
	members list
	unsent  int // members to be nacked whose call has not been made yet
}

// A poll is a receive under way.
type poll struct{ asked, at int }

func newLedger(complete func(own limiter.Limiter) limiter.Limiter, perAgain int) ledger {
	return ledger{
		complete: complete,
		perAgain: perAgain,

		fresh:  list{by: inAll},
		kept:   list{by: inAll},
		busy:   list{by: inAll},
		out:    list{by: inAll},
		byID:   make(map[string]*delivery),
		groups: make(map[string]*group),
		plain:  newLane(nil, perAgain),
		lanes:  make(map[any]*lane),
		spares: list{by: inSpares},
		crowds: heap[*lane]{
			less: func(a, b *lane) bool { return a.spares.n > b.spares.n },
			at:   func(l *lane) *int { return &l.crowdAt },
		},
		holds: heap[*delivery]{
			less: func(a, b *delivery) bool { return a.due.Before(b.due) },
			at:   func(d *delivery) *int { return &d.dueAt },
		},
		watch: heap[*delivery]{
			less: func(a, b *delivery) bool { return a.looks.Before(b.looks) },
			at:   func(d *delivery) *int { return &d.lookAt },
		},
	}
}

// ----- the verbs -----

// accept adds a new delivery, whose msg is set, for the message's own limiter if
// it has one. It returns false when the delivery has to wait behind others of its
// group.
func (g *ledger) accept(d *delivery, own limiter.Limiter) (first bool) {
	m := d.msg
	d.lane = g.laneOf(own)
	d.lane.members++
	if m.ID != "" {
		g.byID[m.ID] = d
	}
	to := queued
	if m.ordered() {
		d.group = g.groups[m.Group]
		if d.group == nil {
			d.group = &group{name: m.Group, members: list{by: inGroup}}
			g.groups[m.Group] = d.group
		}
		if d.group.members.n > 0 {
			to = behind
		}
		d.group.members.push(d)
	}
	g.move(d, to)
	return to == queued
}

// start makes a delivery that waits or is due run, and passes the turn on.
func (g *ledger) start(d *delivery) {
	l := d.lane
	l.precedence.started(d.state == due, d.doubt)
	if g.turns.first() == l {
		g.turns.drop()
	}
	g.move(d, running)
	if l.ready() > 0 && !l.aside {
		g.turns.add(l)
	}
}

// hold keeps a delivery that ran, to run again at d.due. A suspect is apart.
func (g *ledger) hold(d *delivery, apart, suspect bool) {
	d.doubt = suspect
	d.spare = d.spare || suspect
	g.move(d, held)
	g.limit(d, !apart)
	if apart {
		d.apart = true
		g.apart++
		if d.spare {
			g.spares.push(d)
		}
	}
}

// limit sets whether d counts against the limit of held messages.
func (g *ledger) limit(d *delivery, counts bool) {
	switch {
	case counts && !d.counts:
		g.counted++
	case d.counts && !counts:
		g.counted--
	}
	d.counts = counts
}

// ripen makes the held deliveries due whose time has come.
func (g *ledger) ripen(now time.Time) {
	for d, ok := g.holds.top(); ok && !d.due.After(now); d, ok = g.holds.top() {
		g.move(d, due)
	}
}

// handOver moves a delivery that ran to handing, for the dead-letter sink.
func (g *ledger) handOver(d *delivery) { g.move(d, handing) }

// settle moves a delivery to settling, to be acked or nacked as d.settle says.
func (g *ledger) settle(d *delivery) {
	g.move(d, settling)
	if d.group != nil && d.settle.op == opNack {
		d.group.unsent++
	}
}

// sending records that the call that settles a delivery is made.
func (g *ledger) sending(d *delivery) {
	if d.group != nil && d.settle.op == opNack && !d.sent {
		d.group.unsent--
	}
	d.sent = true
}

// end removes a delivery. It returns the one behind it if that is now the first
// of its group and may start, and the lane if that has become empty while it
// stood aside.
func (g *ledger) end(d *delivery) (next *delivery, left *lane) {
	if d.state == settling && d.group != nil && d.settle.op == opNack && !d.sent {
		d.group.unsent--
	}
	g.move(d, ended)
	if d.msg.ID != "" && g.byID[d.msg.ID] == d {
		delete(g.byID, d.msg.ID)
	}
	if gr := d.group; gr != nil {
		gr.members.remove(d)
		if first := gr.members.first; first == nil {
			delete(g.groups, gr.name)
		} else if first.state == behind {
			g.move(first, queued)
			next = first
		}
	}
	l := d.lane
	if l.members--; l.members == 0 && l.own != nil {
		delete(g.lanes, l.key)
		if l.aside {
			g.unpark(l)
			left = l
		}
	}
	return next, left
}

// park makes a lane stand aside: its deliveries get no turn.
func (g *ledger) park(l *lane) {
	l.aside = true
	g.parked += l.fresh.n
	g.stalled += l.again.n + l.doubted.n
	g.suspects -= l.doubted.n
	g.crowds.fix(l)
}

// unpark lets a lane have turns again.
func (g *ledger) unpark(l *lane) {
	l.aside = false
	g.parked -= l.fresh.n
	g.stalled -= l.again.n + l.doubted.n
	g.suspects += l.doubted.n
	g.crowds.remove(l)
	if l.ready() > 0 {
		g.turns.add(l)
	}
}

// look schedules d's next look by the lease loop; the zero time: none.
func (g *ledger) look(d *delivery, at time.Time) {
	d.looks = at
	if at.IsZero() {
		g.watch.remove(d)
	} else {
		g.watch.fix(d)
	}
}

// ask records that a receive for that many messages begins.
func (g *ledger) ask(messages int) *poll {
	p := &poll{asked: messages, at: len(g.receiving)}
	g.receiving = append(g.receiving, p)
	g.asked += messages
	return p
}

// answered records that a receive has ended.
func (g *ledger) answered(p *poll) {
	last := len(g.receiving) - 1
	g.receiving[p.at] = g.receiving[last]
	g.receiving[p.at].at = p.at
	g.receiving[last] = nil
	g.receiving = g.receiving[:last]
	g.asked -= p.asked
}

// move is the only code that changes a state: it takes d out of the lists and
// counts of the state it is in, and puts it into those of the next one.
func (g *ledger) move(d *delivery, to state) {
	from := d.state
	if from != unknown {
		g.count[from]--
		g.leave(d, to)
	}
	if was, is := g.listOf(from), g.listOf(to); was != is {
		if was != nil {
			was.remove(d)
		}
		if is != nil {
			is.push(d)
		}
	}
	d.state = to
	if to != ended {
		g.count[to]++
		g.enter(d)
	}
}

// listOf is the list of the deliveries in state s or one that shares its list.
func (g *ledger) listOf(s state) *list {
	switch s {
	case queued, behind:
		return &g.fresh
	case held, due:
		return &g.kept
	case running:
		return &g.busy
	case handing, settling:
		return &g.out
	}
	return nil
}

// leave removes d, which is about to change its state, from the lists and heaps
// of the present one.
func (g *ledger) leave(d *delivery, to state) {
	l := d.lane
	switch d.state {
	case queued:
		l.fresh.remove(d)
		if l.own != nil && d.spare {
			l.spares.remove(d)
		}
		if l.aside {
			g.parked--
			g.crowds.fix(l)
		}
	case held:
		g.holds.remove(d)
	case due:
		l.dueList(d).remove(d)
		if l.aside {
			g.stalled--
		} else if d.doubt {
			g.suspects--
		}
	}
	if d.apart && to != due {
		d.apart = false
		g.apart--
		if d.spare {
			g.spares.remove(d)
		}
	}
	if to == handing || to == settling || to == ended {
		g.limit(d, false)
	}
	if to == settling || to == ended {
		g.look(d, time.Time{})
	}
}

// dueList is the list that a due delivery of the lane is in.
func (l *lane) dueList(d *delivery) *list {
	if d.doubt {
		return &l.doubted
	}
	return &l.again
}

// enter adds d to the lists and heaps of its new state.
func (g *ledger) enter(d *delivery) {
	l := d.lane
	switch d.state {
	case queued:
		l.fresh.push(d)
		if l.own != nil && d.spare {
			l.spares.push(d)
		}
		if l.aside {
			g.parked++
			g.crowds.fix(l)
		} else {
			g.turns.add(l)
		}
	case held:
		g.holds.fix(d)
	case due:
		l.dueList(d).push(d)
		if l.aside {
			g.stalled++
			return
		}
		if d.doubt {
			g.suspects++
		}
		g.turns.add(l)
	}
}
