package sqsfake_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/internal/testrun"
)

// A held message is one that a receive gave out.
type held struct {
	types.Message
	group string
	until time.Time
}

// Random calls, checked against what must hold whatever their order: nobody
// gets a message that another one has, groups keep their order and come one
// batch at a time, nothing is lost and nothing comes back that was deleted.
func TestProperty_RandomCalls(t *testing.T) {
	for _, name := range []string{standard, fifo} {
		first := testrun.Seed(t)
		for i := range uint64(10) {
			seed := first + i
			t.Run(fmt.Sprint(name, "/seed=", seed), func(t *testing.T) {
				var attributes map[string]string
				if name == fifo {
					attributes = fifoQueue
				}
				run(t, name, attributes, func(s *service) { randomCalls(s, name == fifo, rand.New(rand.NewPCG(seed, 0))) })
			})
		}
	}
}

func randomCalls(s *service, fifo bool, random *rand.Rand) {
	sent := make(map[string]int)     // by group
	deleted := make(map[string]bool) // by body
	hands := make(map[string]*held)  // the latest receive, by body
	receives := make(map[string]int) // by body
	own := func(h *held) bool { return time.Now().Before(h.until) }
	pick := func() *held {
		if len(hands) == 0 {
			return nil
		}
		bodies := slices.Sorted(maps.Keys(hands)) // for the seed to give the same calls
		return hands[bodies[random.IntN(len(bodies))]]
	}
	for range 200 {
		now := time.Now()
		switch random.IntN(6) {
		case 0, 1:
			g := string(rune('a' + random.IntN(3)))
			sent[g]++
			body := g + strconv.Itoa(sent[g])
			if fifo {
				s.send(body, group(g, body))
			} else {
				s.send(body, group(g, ""))
			}
		case 2:
			visibility := int32(1 + random.IntN(30))
			locked := make(map[string]bool)
			for _, h := range hands {
				locked[h.group] = locked[h.group] || own(h)
			}
			in := make(map[string]int)
			for _, m := range s.receive(int32(1+random.IntN(10)), 0, visibility) {
				body := *m.Body
				g := body[:1]
				n, err := strconv.Atoi(body[1:])
				require.NoError(s, err)
				require.False(s, deleted[body], "%s came back", body)
				receives[body]++
				require.Equal(s, strconv.Itoa(receives[body]), m.Attributes["ApproximateReceiveCount"])
				if h := hands[body]; h != nil {
					require.False(s, own(h), "%s is another's", body)
				}
				if fifo {
					require.False(s, locked[g], "group %s is another's", g)
					require.Greater(s, n, in[g], "group %s in order", g)
					for earlier := in[g] + 1; earlier < n; earlier++ {
						require.True(s, deleted[g+strconv.Itoa(earlier)], "%s before %s%d", body, g, earlier)
					}
					in[g] = n
				}
				hands[body] = &held{Message: m, group: g, until: now.Add(time.Duration(visibility) * time.Second)}
			}
		case 3:
			if h := pick(); h != nil {
				err := s.delete(h.ReceiptHandle)
				if fifo && !own(h) {
					s.refused(err, "InvalidParameterValue")
					break
				}
				require.NoError(s, err)
				deleted[*h.Body] = true
				delete(hands, *h.Body)
			}
		case 4:
			if h := pick(); h != nil {
				seconds := random.IntN(60)
				err := s.change(h.ReceiptHandle, int32(seconds))
				if !own(h) {
					require.Error(s, err)
					break
				}
				require.NoError(s, err)
				h.until = now.Add(time.Duration(seconds) * time.Second)
			}
		case 5:
			time.Sleep(time.Duration(random.IntN(20)) * time.Second)
		}
		inFlight, left := 0, 0
		for _, h := range hands {
			if own(h) {
				inFlight++
			}
		}
		for _, n := range sent {
			left += n
		}
		left -= len(deleted)
		st := s.Queue(s.url)
		require.Equal(s, inFlight, st.InFlight)
		require.Equal(s, left-inFlight, st.Visible)
		require.Len(s, s.Messages(s.url), left)
	}
	// In the end everything can be had and deleted.
	time.Sleep(time.Minute)
	for {
		msgs := s.receive(10, 1, 30)
		if len(msgs) == 0 {
			break
		}
		out, err := s.deleteBatch(msgs...)
		require.NoError(s, err)
		require.Len(s, out.Successful, len(msgs))
	}
	st := s.Queue(s.url)
	require.Equal(s, st.Sent, st.Deleted)
	require.Equal(s, sqsfake.QueueStats{Sent: st.Sent, Received: st.Received, Deleted: st.Sent, MaxInFlight: st.MaxInFlight}, st)
}
