package sqslambda_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sleep"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqslambda"
	"github.com/rampmeter/rampmeter/retry"
)

// ----- order -----

// newFIFOEvent returns an event of a FIFO queue with a record for each of the
// given names, such as "a1": the group and the position in it.
func newFIFOEvent(names string) events.SQSEvent {
	var e events.SQSEvent
	for i, name := range strings.Fields(names) {
		r := newRecord(name)
		r.EventSourceARN = fifoARN
		r.Attributes["MessageGroupId"] = name[:1]
		r.Attributes["MessageDeduplicationId"] = name
		r.Attributes["SequenceNumber"] = fmt.Sprintf("%020d", i)
		e.Records = append(e.Records, r)
	}
	return e
}

func TestAGroupEndsWithItsFirstFailure(t *testing.T) {
	for _, concurrency := range []int{1, 2, 10} {
		for name, c := range map[string]struct {
			batch, fail, dead string
			err               error
			returned          string
		}{
			"one group":      {batch: "a1 a2 a3 a4", fail: "a2", returned: "a2 a3 a4"},
			"two groups":     {batch: "a1 b1 a2 b2 a3 b3", fail: "a1", returned: "a1 a2 a3"},
			"both":           {batch: "a1 b1 a2 b2 a3 b3", fail: "a2 b3", returned: "a2 a3 b3"},
			"the last":       {batch: "a1 a2 b1", fail: "a2", returned: "a2"},
			"a dead letter":  {batch: "a1 a2 a3", dead: "a2"},
			"dead and fails": {batch: "a1 a2 a3 a4", dead: "a1", fail: "a3", returned: "a3 a4"},
			"overload":       {batch: "a1 a2 b1", fail: "a1", err: limited{time.Minute}, returned: "a1 a2 b1"},
			"panic":          {batch: "a1 a2 b1", fail: "a1", err: errPanic, returned: "a1 a2"},
			"deadline":       {batch: "a1 a2 b1", fail: "a1", err: errSlow, returned: "a1 a2 b1"},
		} {
			bubble(t, fmt.Sprintf("%s, %d at once", name, concurrency), func(t *testing.T) {
				if c.err == errSlow && concurrency > 1 {
					t.Skip("b1 is done meanwhile")
				}
				if _, ok := c.err.(limited); ok && concurrency > 1 {
					t.Skip("b1 may be done before")
				}
				var mu sync.Mutex
				var ran []string
				q, dead := &sourceQueue{}, &sink{}
				f := newFunction(t, func(ctx context.Context, m *queue.Message) error {
					mu.Lock()
					ran = append(ran, m.ID)
					mu.Unlock()
					sleep.For(ctx, time.Second)
					switch {
					case slices.Contains(strings.Fields(c.dead), m.ID):
						return retry.Permanent(errors.New("?"))
					case !slices.Contains(strings.Fields(c.fail), m.ID):
						return nil
					case c.err == errPanic:
						panic("?")
					case c.err == errSlow:
						<-ctx.Done()
						return ctx.Err()
					case c.err != nil:
						return c.err
					}
					return errors.New("?")
				}, sqslambda.Config{Queue: q, DeadLetter: dead, Concurrency: concurrency})

				e := newFIFOEvent(c.batch)
				got := returned(t, f, time.Minute, e)
				require.ElementsMatch(t, strings.Fields(c.returned), got)
				require.ElementsMatch(t, strings.Fields(c.dead), dead.ids())
				at := func(name string) int { return slices.Index(ran, name) }
				for _, r := range e.Records {
					if name := r.MessageId; at(name) >= 0 && name[1] > '1' {
						before := name[:1] + string(name[1]-1)
						require.GreaterOrEqual(t, at(before), 0)
						require.Less(t, at(before), at(name), "order: %v", ran)
						require.NotContains(t, got, before, "%s ran behind a failure: %v", name, ran)
					}
				}
				for _, group := range []string{"a", "b"} { // each is retried only in its order
					of := slices.DeleteFunc(slices.Clone(ran), func(name string) bool { return name[:1] != group })
					require.True(t, slices.IsSorted(of), "order: %v", ran)
				}
			})
		}
	}
}

var (
	errPanic = errors.New("panic")
	errSlow  = errors.New("slow")
)

// A group of a fair queue is a tenant, and orders nothing.
func TestAGroupOfAStandardQueueOrdersNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvent(4)
		for i := range e.Records {
			e.Records[i].Attributes["MessageGroupId"] = "tenant"
		}
		f := newFunction(t, func(_ context.Context, m *queue.Message) error {
			if m.ID == "1" {
				return errors.New("?")
			}
			return nil
		}, sqslambda.Config{})
		require.Equal(t, []string{"1"}, returned(t, f, time.Minute, e))
	})
}

// ----- events that should not be -----

func TestMalformedEvents(t *testing.T) {
	never := func(e events.SQSEvent) func(*testing.T, events.SQSEventResponse, error) {
		return func(t *testing.T, answer events.SQSEventResponse, err error) {
			require.NoError(t, err)
			require.Len(t, answer.BatchItemFailures, len(e.Records))
		}
	}
	ten := newEvent(10_000)
	double := newEvent(3)
	double.Records = append(double.Records, double.Records[1], double.Records[1])
	nameless := newEvent(3)
	nameless.Records[0].MessageId, nameless.Records[2].MessageId = "", ""
	strange := newEvent(3)
	strange.Records[0].Attributes = map[string]string{"ApproximateReceiveCount": "many", "SentTimestamp": "-", "Unknown": "?", "MessageGroupId": ""}
	strange.Records[1].Attributes = nil
	strange.Records[2].Attributes = map[string]string{"ApproximateReceiveCount": "-7", "ApproximateFirstReceiveTimestamp": "99999999999999999999"}
	strange.Records[1].EventSourceARN = ""
	strange.Records[2].MessageAttributes = map[string]events.SQSMessageAttribute{"x": {}, "": {DataType: "Strange.type", BinaryValue: []byte{0xff}}}
	bare := events.SQSEvent{Records: make([]events.SQSMessage, 5)}
	for name, c := range map[string]struct {
		event   events.SQSEvent
		records int // messages that they are
		failing func(t *testing.T, answer events.SQSEventResponse, err error)
	}{
		"10,000 records": {ten, 10_000, never(ten)},
		"duplicate ids":  {double, 3, func(t *testing.T, a events.SQSEventResponse, err error) { require.Equal(t, numbers(0, 2), ids(t, a)) }},
		"missing ids": {nameless, 3, func(t *testing.T, _ events.SQSEventResponse, err error) {
			require.ErrorContains(t, err, "2 messages that")
		}},
		"unknown attributes": {strange, 3, never(strange)},
		"nothing at all": {bare, 5, func(t *testing.T, _ events.SQSEventResponse, err error) {
			require.ErrorContains(t, err, "5 messages that")
		}},
	} {
		bubble(t, name, func(t *testing.T) {
			var mu sync.Mutex
			seen := 0
			fail := false
			f := newFunction(t, func(_ context.Context, m *queue.Message) error {
				mu.Lock()
				defer mu.Unlock()
				seen++
				require.NotContains(t, m.ID, "record")
				if fail {
					return errors.New("?")
				}
				return nil
			}, sqslambda.Config{})
			require.Empty(t, returned(t, f, 15*time.Minute, c.event))
			require.Equal(t, c.records, seen)

			fail = true
			answer, err := invoke(t, f, 15*time.Minute, c.event)
			c.failing(t, answer, err)
			require.Equal(t, 2*c.records, seen)
		})
	}
}

// A payload that is not an event never reaches the function: lambda.Start fails the
// invocation, and the batch is delivered again.
func TestBadBase64IsRefusedBeforeTheFunction(t *testing.T) {
	var e events.SQSEvent
	err := json.Unmarshal([]byte(`{"Records":[{"messageId":"1","messageAttributes":{"x":{"dataType":"Binary","binaryValue":"%%%"}}}]}`), &e)
	require.Error(t, err)
}

// Thousands of failures are not slow.
func TestABigBatchThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &sourceQueue{}
		f := newFunction(t, func(context.Context, *queue.Message) error { return errors.New("?") },
			sqslambda.Config{Queue: q, Retry: retry.Policy{BaseDelay: time.Hour, MaxDelay: time.Hour}})
		began := time.Now()
		require.Len(t, returned(t, f, 15*time.Minute, newEvent(10_000)), 10_000)
		require.Less(t, time.Since(began), 10*time.Second)
		require.Len(t, q.delays(t), 10_000)
	})
}

// FuzzEvent passes to the function what a decoder makes of any text: the function never
// panics, and every record ends as either done or returned.
func FuzzEvent(f *testing.F) {
	for _, e := range []events.SQSEvent{{}, newEvent(1), newEvent(3), newFIFOEvent("a1 b1 a2 a3 b2")} {
		text, err := json.Marshal(e)
		require.NoError(f, err)
		f.Add(text)
	}
	for _, text := range []string{
		`{}`, `null`, `[]`, `{"Records":null}`, `{"Records":[{}]}`, `{"Records":[{},{"messageId":""},{"messageId":"record 0"}]}`,
		`{"Records":[{"messageId":"1"},{"messageId":"1","body":"2"}]}`,
		`{"Records":[{"messageId":"1","messageAttributes":{"x":{"dataType":"Binary","binaryValue":"%"}}}]}`,
		`{"Records":[{"messageId":"1","messageAttributes":{"x":{"dataType":"Number","stringValue":"7","stringListValues":["a"]}}}]}`,
		`{"Records":[{"messageId":"1","attributes":{"MessageGroupId":"g"},"eventSourceARN":"x.fifo"},{"messageId":"2","attributes":{"MessageGroupId":"g"},"eventSourceARN":"x.fifo"}]}`,
		`{"Records":[{"messageId":"1","eventSourceARN":":::"}]}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var e events.SQSEvent
		if json.Unmarshal(text, &e) != nil {
			t.Skip()
		}
		for _, concurrency := range []int{1, 3} {
			done := make(map[string]int)
			var mu sync.Mutex
			dead := &sink{}
			answer, err := newFunction(t, func(ctx context.Context, m *queue.Message) error {
				return sqslambda.Wrap(func(_ context.Context, e events.SQSEvent) error {
					mu.Lock()
					defer mu.Unlock()
					switch r := e.Records[0]; {
					case len(r.Body)%5 == 1:
						return errors.New("?")
					case len(r.Body)%5 == 2:
						done[r.MessageId]++
						return retry.Permanent(errors.New("?"))
					case len(r.Body)%5 == 3:
						panic("?")
					default:
						done[r.MessageId]++
						return nil
					}
				}).Handle(ctx, m)
			}, sqslambda.Config{Concurrency: concurrency, DeadLetter: dead})(t.Context(), e)
			require.NotNil(t, answer.BatchItemFailures)
			if err != nil {
				require.True(t, slices.ContainsFunc(e.Records, func(r events.SQSMessage) bool { return r.MessageId == "" }), "%v", err)
				continue
			}
			back := ids(t, answer)
			for _, r := range e.Records {
				switch n := done[r.MessageId]; {
				case r.MessageId == "":
					require.Positive(t, n)
				case slices.Contains(back, r.MessageId):
					require.Zero(t, n)
				default:
					require.Equal(t, 1, n, "record %q", r.MessageId)
				}
			}
			for _, id := range back {
				require.True(t, slices.ContainsFunc(e.Records, func(r events.SQSMessage) bool { return r.MessageId == id }))
			}
		}
	})
}

// Whatever handlers do and however little time there is, every record ends as
// done or as returned, a group in order, and the answer comes in time.
func TestEveryRecordIsDoneOrReturned(t *testing.T) {
	rounds := 400
	if testing.Short() {
		rounds = 100
	}
	for seed := range uint64(rounds) {
		synctest.Test(t, func(t *testing.T) { randomInvocations(t, seed) })
	}
}

func randomInvocations(t *testing.T, seed uint64) {
	what := fmt.Sprintf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	var draws sync.Mutex
	draw := func(n int) int {
		draws.Lock()
		defer draws.Unlock()
		return r.IntN(n)
	}
	q, dead := &sourceQueue{took: time.Duration(draw(100)) * time.Millisecond}, &sink{took: time.Duration(draw(100)) * time.Millisecond}
	cfg := sqslambda.Config{Concurrency: 1 + draw(4), NoDeadLetterGuard: draw(2) == 0}
	if draw(2) == 0 {
		cfg.Queue = q
	}
	if draw(2) == 0 {
		cfg.DeadLetter = dead
	}
	switch draw(4) {
	case 0:
		cfg.Limiter = all(t)
	case 1:
		bucket, err := limiter.NewTokenBucket(1+float64(draw(20)), 1+draw(5))
		require.NoError(t, err)
		cfg.Limiter = bucket
	}
	var mu sync.Mutex
	succeeded := make(map[string]int)
	broken := make(map[string]string) // by group: its message that has failed
	pause := draw(3) * draw(1500)
	f := newFunction(t, func(ctx context.Context, m *queue.Message) error {
		mu.Lock()
		failed := broken[m.Group]
		mu.Unlock()
		require.Contains(t, []string{"", m.ID}, failed, "%s: %s runs behind a failure", what, m.ID)
		result := []error{
			nil, nil, nil, errors.New("?"), limiter.ErrUnavailable, limiter.ErrOverload, limited{time.Duration(draw(5000)) * time.Millisecond}, retry.Permanent(errors.New("?")),
		}[draw(8)]
		if !sleep.For(ctx, time.Duration(draw(pause+1))*time.Millisecond) {
			result = ctx.Err()
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case result == nil:
			succeeded[m.ID]++
			fallthrough
		case errors.Is(result, retry.ErrPermanent):
			delete(broken, m.Group)
		case m.Sequence != "":
			broken[m.Group] = m.ID
		}
		return result
	}, cfg)
	for range 3 {
		clear(succeeded)
		clear(broken)
		dead.msgs = nil
		n := 1 + draw(15)
		e := newEvent(n)
		if draw(2) == 0 {
			var names []string
			for i := range n {
				names = append(names, string(rune('a'+draw(3)))+strconv.Itoa(i))
			}
			e = newFIFOEvent(strings.Join(names, " "))
		}
		timeout := time.Duration(1+draw(20)) * time.Second
		back := returned(t, f, timeout, e)
		for _, r := range e.Records {
			buried := slices.Contains(dead.ids(), r.MessageId)
			switch {
			case slices.Contains(back, r.MessageId):
				require.Zero(t, succeeded[r.MessageId], "%s: %s succeeded and is returned", what, r.MessageId)
			case buried:
				require.Zero(t, succeeded[r.MessageId], "%s: %s succeeded and is a dead letter", what, r.MessageId)
			default:
				require.Equal(t, 1, succeeded[r.MessageId], "%s: %s is neither done nor returned", what, r.MessageId)
			}
		}
		time.Sleep(time.Duration(draw(120)) * time.Second)
	}
	require.Zero(t, q.cut, what)
}
