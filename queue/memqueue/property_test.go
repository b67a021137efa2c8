package memqueue_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
)

// A model is a queue in the plainest form: a slice of messages, all of them
// looked at whenever anything happens.
type model struct {
	cfg    memqueue.Config
	dead   *model
	all    []*modelMessage // in the order they came
	turns  int             // the last turn given
	sends  int
	dedups map[string]time.Time // when sent
	stats  memqueue.Stats
}

type modelMessage struct {
	body, group string
	number      int
	sent        time.Time
	receives    int
	received    time.Time
	hidden      time.Time // until then; zero: visible
	leased      bool
	turn        int // when it became visible, or its group free
}

func (m *model) now() time.Time {
	now := time.Now()
	for {
		var next *modelMessage // the first that becomes visible
		for _, x := range m.all {
			if !x.hidden.IsZero() && !x.hidden.After(now) && (next == nil || x.hidden.Before(next.hidden)) {
				next = x
			}
		}
		if next == nil {
			break
		}
		m.show(next)
	}
	m.remove(func(x *modelMessage) bool {
		old := !x.sent.Add(m.cfg.Retention).After(now)
		if old {
			m.stats.Expired++
		}
		return old
	})
	return now
}

// blocked reports whether one of the group is in flight.
func (m *model) blocked(group string) bool {
	return slices.ContainsFunc(m.all, func(x *modelMessage) bool { return x.group == group && x.leased })
}

func (m *model) show(x *modelMessage) {
	x.hidden, x.leased = time.Time{}, false
	m.turn(x.group, x)
}

// turn puts a message that became visible, or its group, at the end.
func (m *model) turn(group string, x *modelMessage) {
	m.turns++
	if !m.cfg.FIFO {
		if x != nil {
			x.turn = m.turns
		}
		return
	}
	if m.blocked(group) {
		return
	}
	for _, x := range m.all {
		if x.group == group && x.turn == 0 {
			x.turn = m.turns
		}
	}
}

func (m *model) remove(which func(*modelMessage) bool) {
	for {
		i := slices.IndexFunc(m.all, which)
		if i < 0 {
			return
		}
		x := m.all[i]
		was := m.cfg.FIFO && m.blocked(x.group)
		m.all = slices.Delete(m.all, i, i+1)
		if was && !m.blocked(x.group) {
			m.turn(x.group, nil)
		}
	}
}

func (m *model) send(body, group, dedup string, delay time.Duration) error {
	now := m.now()
	if m.cfg.FIFO {
		if at, ok := m.dedups[dedup]; ok && now.Before(at.Add(5*time.Minute)) {
			m.stats.Deduplicated++
			return nil
		}
	}
	if len(m.all) >= m.cfg.MaxMessages {
		return memqueue.ErrFull
	}
	m.dedups[dedup] = now
	m.add(&modelMessage{body: body, group: group, sent: now}, now, delay)
	return nil
}

func (m *model) add(x *modelMessage, now time.Time, delay time.Duration) {
	m.stats.Sent++
	m.sends++
	x.number = m.sends
	m.all = append(m.all, x)
	if delay > 0 {
		x.hidden = now.Add(delay)
		return
	}
	first := slices.IndexFunc(m.all, func(y *modelMessage) bool { return y.group == x.group && y.turn > 0 })
	if m.cfg.FIFO && first >= 0 {
		x.turn = m.all[first].turn // the group has its turn already
		return
	}
	m.turn(x.group, x)
}

// receive returns what must come, in order.
func (m *model) receive(max int, lease time.Duration) []*modelMessage {
	now := m.now()
	most := min(max, 10, m.cfg.MaxInFlight-m.count().InFlight)
	var got []*modelMessage
	for len(got) < most {
		var next *modelMessage
		for _, x := range m.all {
			if x.turn > 0 && (next == nil || x.turn < next.turn || x.turn == next.turn && x.number < next.number) {
				next = x
			}
		}
		if next == nil {
			break
		}
		next.turn = 0
		if m.dead != nil && next.receives >= m.cfg.MaxReceives {
			m.remove(func(x *modelMessage) bool { return x == next })
			m.stats.Redriven++
			now := m.dead.now()
			moved := &modelMessage{body: next.body, group: next.group, sent: next.sent}
			if m.cfg.FIFO {
				moved.sent = now
			}
			m.dead.add(moved, now, 0)
			continue
		}
		next.receives++
		next.received, next.hidden, next.leased = now, now.Add(lease), true
		m.stats.Received++
		got = append(got, next)
	}
	if m.cfg.FIFO { // the rest of a group waits while one of it is in flight
		for _, x := range m.all {
			if m.blocked(x.group) {
				x.turn = 0
			}
		}
	}
	return got
}

// latest returns the message of which this was the latest receive.
func (m *model) latest(d delivery) *modelMessage {
	m.now()
	for _, x := range m.all {
		if x == d.model && x.receives == d.receives {
			return x
		}
	}
	return nil
}

func (m *model) ack(d delivery) {
	if x := m.latest(d); x != nil {
		m.remove(func(y *modelMessage) bool { return x == y })
		m.stats.Acked++
	}
}

func (m *model) hide(d delivery, by time.Duration) error {
	x := m.latest(d)
	if x == nil || !x.leased {
		return queue.ErrLeaseLost
	}
	now := time.Now()
	x.hidden = now.Add(by)
	if last := x.received.Add(m.cfg.MaxLease); x.hidden.After(last) {
		x.hidden = last
	}
	if !x.hidden.After(now) {
		m.show(x)
	}
	return nil
}

func (m *model) count() memqueue.Stats {
	now := m.now()
	s := m.stats
	for _, x := range m.all {
		s.OldestAge = max(s.OldestAge, now.Sub(x.sent))
		switch {
		case x.leased:
			s.InFlight++
		case !x.hidden.IsZero():
			s.Delayed++
		default:
			s.Visible++
		}
	}
	return s
}

// A delivery is one receive of a message, by the queue and by the model.
type delivery struct {
	msg      *queue.Message
	model    *modelMessage
	receives int
}

// Random operations have the same results as on the model.
func TestAgainstModel(t *testing.T) {
	seeds := uint64(200)
	if raceDetector {
		seeds = 20
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			compare(t, rand.New(rand.NewPCG(seed, 0)))
		})
	}
}

func compare(t *testing.T, random *rand.Rand) {
	pick := func(ds ...time.Duration) time.Duration { return ds[random.IntN(len(ds))] }
	cfg := memqueue.Config{
		FIFO:           random.IntN(2) == 0,
		Wait:           -1,
		MaxLease:       pick(time.Minute, 10*time.Minute),
		MaxInFlight:    3 + random.IntN(20),
		Retention:      pick(5*time.Minute, 24*time.Hour),
		MaxMessages:    5 + random.IntN(40),
		RefuseWhenFull: true,
	}
	queues := []*memqueue.Queue{newQueue(t, cfg)}
	models := []*model{{cfg: cfg, dedups: make(map[string]time.Time)}}
	if random.IntN(2) == 0 {
		cfg.MaxReceives, cfg.DeadLetter = 1+random.IntN(3), queues[0]
		queues = append(queues, newQueue(t, cfg))
		models = append(models, &model{cfg: cfg, dead: models[0], dedups: make(map[string]time.Time)})
	}
	history := make([][]delivery, len(queues))

	for step := range 400 {
		which := random.IntN(len(queues))
		q, m := queues[which], models[which]
		var past []delivery // some of the earlier deliveries, the latest of them likelier
		for range random.IntN(5) {
			if n := len(history[which]); n > 0 {
				past = append(past, history[which][max(0, n-1-int(random.ExpFloat64()*10))])
			}
		}
		var msgs []*queue.Message
		for _, d := range past {
			msgs = append(msgs, d.msg)
		}
		lease := pick(time.Second, 10*time.Second, time.Minute)
		delay := pick(0, 0, time.Second, 20*time.Second, time.Hour)
		var did string
		want := make(map[int]error)
		var err error
		switch random.IntN(8) {
		case 0, 1:
			var batch []*queue.Message
			var full error // for one, and so for all that follow
			for i := range random.IntN(6) {
				msg := &queue.Message{Body: fmt.Append(nil, step, "-", i), Group: fmt.Sprint(random.IntN(4))}
				if cfg.FIFO {
					msg.Dedup = fmt.Sprint(random.IntN(50))
				} else {
					msg.Delay = pick(0, 0, time.Second, time.Minute)
				}
				batch = append(batch, msg)
				if full == nil {
					full = m.send(string(msg.Body), msg.Group, msg.Dedup, msg.Delay)
				}
				if full != nil {
					want[i] = full
				}
			}
			did = fmt.Sprintf("send of %d", len(batch))
			err = q.Send(t.Context(), batch...)
		case 2, 3, 4:
			most := 1 + random.IntN(15)
			did = fmt.Sprintf("receive of %d for %v", most, lease)
			due := m.receive(most, lease)
			got, receiveErr := q.Receive(t.Context(), queue.ReceiveOptions{Max: most, Lease: lease})
			require.NoError(t, receiveErr)
			var expected, actual []string
			for _, x := range due {
				expected = append(expected, fmt.Sprint(x.body, " in ", x.group, ", receive ", x.receives, ", until ", x.hidden.Round(0)))
			}
			for i, msg := range got {
				actual = append(actual, fmt.Sprint(string(msg.Body), " in ", msg.Group, ", receive ", msg.Attempt, ", until ", msg.LeaseUntil.Round(0)))
				if i < len(due) {
					history[which] = append(history[which], delivery{msg, due[i], msg.Attempt})
				}
			}
			require.Equal(t, expected, actual, "step %d: %s", step, did)
		case 5:
			did = fmt.Sprintf("ack of %d", len(past))
			for _, d := range past {
				m.ack(d)
			}
			err = q.Ack(t.Context(), msgs...)
		case 6:
			op, by := q.Nack, delay
			if did = "nack"; random.IntN(2) == 0 {
				did, op, by = "extend", q.Extend, lease
			}
			did = fmt.Sprintf("%s of %d by %v", did, len(past), by)
			for i, d := range past {
				if err := m.hide(d, by); err != nil {
					want[i] = err
				}
			}
			err = op(t.Context(), by, msgs...)
		case 7:
			d := pick(time.Second, 5*time.Second, time.Minute)
			did = fmt.Sprintf("sleep of %v", d)
			time.Sleep(d)
		}
		got := make(map[int]error)
		if batch := (*queue.BatchError)(nil); errors.As(err, &batch) {
			got = maps.Clone(batch.Failed)
		} else {
			require.NoError(t, err)
		}
		require.Equal(t, want, got, "step %d: %s", step, did)
		// The dead-letter queue last: only receives move messages there.
		for i := len(queues) - 1; i >= 0; i-- {
			require.Equal(t, models[i].count(), queues[i].Stats(), "step %d: %s on queue %d: queue %d", step, did, which, i)
		}
	}
}
