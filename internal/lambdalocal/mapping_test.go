package lambdalocal_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/lambdalocal"
	"github.com/rampmeter/rampmeter/internal/sqsfake"
)

func TestMappingConfig(t *testing.T) {
	var server sqsfake.Server
	good := lambdalocal.MappingConfig{Client: server.Client(), QueueURL: server.URL("orders"), Function: answering(ok)}
	for field, change := range map[string]func(*lambdalocal.MappingConfig){
		"Client":               func(c *lambdalocal.MappingConfig) { c.Client = nil },
		"QueueURL is \"orders": func(c *lambdalocal.MappingConfig) { c.QueueURL = "orders" },
		"Function":             func(c *lambdalocal.MappingConfig) { c.Function = nil },
		"BatchSize is -1":      func(c *lambdalocal.MappingConfig) { c.BatchSize = -1 },
		"BatchSize is 11":      func(c *lambdalocal.MappingConfig) { c.BatchSize = 11 },
		"BatchSize is 10001":   func(c *lambdalocal.MappingConfig) { c.BatchSize, c.Window = 10_001, time.Second },
		"Window is 1.5s":       func(c *lambdalocal.MappingConfig) { c.Window = 1500 * time.Millisecond },
		"Window is 5m1s":       func(c *lambdalocal.MappingConfig) { c.Window = 301 * time.Second },
		"Window is 1s":         func(c *lambdalocal.MappingConfig) { c.Window, c.QueueURL = time.Second, server.URL("orders.fifo") },
		"MaxConcurrency is 1":  func(c *lambdalocal.MappingConfig) { c.MaxConcurrency = 1 },
		"MaxConcurrency is 1001": func(c *lambdalocal.MappingConfig) {
			c.MaxConcurrency = 1001
		},
	} {
		cfg := good
		change(&cfg)
		_, err := lambdalocal.NewMapping(cfg)
		require.ErrorContains(t, err, "lambdalocal: NewMapping: MappingConfig."+field)
	}
	good.BatchSize, good.Window, good.MaxConcurrency = 10_000, 5*time.Minute, 1000
	_, err := lambdalocal.NewMapping(good)
	require.NoError(t, err)
}

func TestVisibilityShorterThanTheTimeoutIsRefused(t *testing.T) {
	stageOf(t, setup{visibility: 9}, func(s *stage) {
		m, err := lambdalocal.NewMapping(lambdalocal.MappingConfig{Client: s.client, QueueURL: s.url, Function: answering(ok)})
		require.NoError(s, err)
		require.ErrorContains(s, m.Run(s.Context()), "visibility timeout is 9s")
	})
}

func TestTheEvent(t *testing.T) {
	stageOf(t, setup{fifo: true}, func(s *stage) {
		_, err := s.client.SendMessage(s.Context(), &sqs.SendMessageInput{
			QueueUrl: &s.url, MessageBody: aws.String(`{"n":1,"emoji":"🛒"}`), MessageGroupId: aws.String("g"), MessageDeduplicationId: aws.String("d"),
			MessageAttributes: map[string]types.MessageAttributeValue{
				"text":  {DataType: aws.String("String"), StringValue: aws.String("a & b")},
				"count": {DataType: aws.String("Number.int"), StringValue: aws.String("7")},
				"bytes": {DataType: aws.String("Binary"), BinaryValue: []byte{0, 0xff, 'x'}},
			},
			MessageSystemAttributes: map[string]types.MessageSystemAttributeValue{
				"AWSTraceHeader": {DataType: aws.String("String"), StringValue: aws.String("Root=1-2-3")},
			},
		})
		require.NoError(s, err)
		id := s.Messages(s.name)[0].ID
		var payload string
		f := answering(ok)
		s.run(spy{f, func(p []byte) { payload = string(p) }}, nil)
		s.after(time.Second)
		require.Len(s, f.seen(), 1)
		m := f.seen()[0].Records[0]
		require.Equal(s, id, m.MessageId)
		require.NotEmpty(s, m.ReceiptHandle)
		require.Equal(s, `{"n":1,"emoji":"🛒"}`, m.Body)
		require.Len(s, m.Md5OfBody, 32)
		require.Len(s, m.Md5OfMessageAttributes, 32)
		require.Equal(s, s.ARN("orders.fifo"), m.EventSourceARN)
		require.Equal(s, "aws:sqs", m.EventSource)
		require.Equal(s, "us-east-1", m.AWSRegion)
		require.Equal(s, "1", m.Attributes["ApproximateReceiveCount"])
		require.Equal(s, "g", m.Attributes["MessageGroupId"])
		require.Equal(s, "d", m.Attributes["MessageDeduplicationId"])
		require.Equal(s, "Root=1-2-3", m.Attributes["AWSTraceHeader"])
		for _, name := range []string{"SentTimestamp", "ApproximateFirstReceiveTimestamp", "SenderId", "SequenceNumber"} {
			require.NotEmpty(s, m.Attributes[name], name)
		}
		require.Equal(s, "a & b", *m.MessageAttributes["text"].StringValue)
		require.Equal(s, "Number.int", m.MessageAttributes["count"].DataType)
		require.Equal(s, []byte{0, 0xff, 'x'}, m.MessageAttributes["bytes"].BinaryValue)
		require.Contains(s, payload, `"binaryValue":"AP94","stringListValues":[],"binaryListValues":[],"dataType":"Binary"`)
		require.Zero(s, s.left())
	})
}

// A spy sees the payloads of an invoker.
type spy struct {
	*raw
	see func([]byte)
}

func (s spy) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	s.see(payload)
	return s.raw.Invoke(ctx, payload)
}

func TestPartialResponses(t *testing.T) {
	for name, c := range map[string]struct {
		response  string // #0, #1 and #2 stand for the ids
		failed    int    // of three
		malformed bool
		off       bool
	}{
		"empty list":           {response: `{"batchItemFailures":[]}`},
		"null list":            {response: `{"batchItemFailures":null}`},
		"empty object":         {response: `{}`},
		"null":                 {response: `null`},
		"nothing":              {response: ``},
		"other key":            {response: `{"statusCode":200}`},
		"other case":           {response: `{"BatchItemFailures":[{"itemIdentifier":"#0"}]}`},
		"one":                  {response: `{"batchItemFailures":[{"itemIdentifier":"#0"}]}`, failed: 1},
		"one, twice":           {response: `{"batchItemFailures":[{"itemIdentifier":"#1"},{"itemIdentifier":"#1"}]}`, failed: 1},
		"two, and other keys":  {response: `{"x":1,"batchItemFailures":[{"itemIdentifier":"#0","y":[]},{"itemIdentifier":"#1"}]}`, failed: 2},
		"all":                  {response: `{"batchItemFailures":[{"itemIdentifier":"#0"},{"itemIdentifier":"#1"},{"itemIdentifier":"#2"}]}`, failed: 3},
		"not asked for":        {response: `{"batchItemFailures":[{"itemIdentifier":"#0"}]}`, off: true},
		"garbage, nobody asks": {response: `oops`, off: true},

		"no JSON":              {response: `oops`, failed: 3, malformed: true},
		"cut off":              {response: `{"batchItemFailures":[{"itemIdentifier":"#0"`, failed: 3, malformed: true},
		"more after it":        {response: `{"batchItemFailures":[]}{}`, failed: 3, malformed: true},
		"string":               {response: `"ok"`, failed: 3, malformed: true},
		"list of strings":      {response: `{"batchItemFailures":["#0"]}`, failed: 3, malformed: true},
		"list is a string":     {response: `{"batchItemFailures":"#0"}`, failed: 3, malformed: true},
		"empty id":             {response: `{"batchItemFailures":[{"itemIdentifier":""}]}`, failed: 3, malformed: true},
		"null id":              {response: `{"batchItemFailures":[{"itemIdentifier":null}]}`, failed: 3, malformed: true},
		"number":               {response: `{"batchItemFailures":[{"itemIdentifier":1}]}`, failed: 3, malformed: true},
		"bad key":              {response: `{"batchItemFailures":[{"ItemIdentifier":"#0"}]}`, failed: 3, malformed: true},
		"empty item":           {response: `{"batchItemFailures":[{}]}`, failed: 3, malformed: true},
		"null item":            {response: `{"batchItemFailures":[null]}`, failed: 3, malformed: true},
		"unknown id":           {response: `{"batchItemFailures":[{"itemIdentifier":"#0"},{"itemIdentifier":"someone-else"}]}`, failed: 3, malformed: true},
		"known id, bad second": {response: `{"batchItemFailures":[{"itemIdentifier":"#0"},{}]}`, failed: 3, malformed: true},
	} {
		t.Run(name, func(t *testing.T) {
			stageOf(t, setup{}, func(s *stage) {
				s.send(3)
				f := answering(func(e events.SQSEvent) ([]byte, error) {
					response := c.response
					for i, r := range e.Records {
						response = strings.ReplaceAll(response, fmt.Sprint("#", i), r.MessageId)
					}
					return []byte(response), nil
				})
				s.run(f, func(cfg *lambdalocal.MappingConfig) { cfg.PartialResponses, cfg.SlowDown = !c.off, true })
				st := s.after(time.Second)
				require.Equal(s, 1, st.Invocations)
				require.Equal(s, c.failed, s.left())
				require.Equal(s, c.failed, s.Queue(s.name).InFlight, "failures keep their visibility")
				require.Equal(s, 3-c.failed, st.Deleted)
				require.Equal(s, c.failed, st.Returned)
				require.Zero(s, st.FunctionErrors)
				require.Equal(s, c.malformed, st.Malformed == 1)
				require.Equal(s, c.failed > 0 && !c.malformed, st.PartialResponses == 1)
				if c.failed > 0 {
					require.Equal(s, 2, s.after(60*time.Second).Batches, "they come again after the visibility timeout")
				}
				require.Zero(s, s.Server.Stats(sqsfake.ChangeMessageVisibilityBatch).Calls+s.Server.Stats(sqsfake.ChangeMessageVisibility).Calls)
			})
		})
	}
}

func TestAFunctionErrorFailsTheBatch(t *testing.T) {
	stageOf(t, setup{maxReceive: 3}, func(s *stage) {
		s.send(4)
		s.run(answering(func(events.SQSEvent) ([]byte, error) { return nil, errors.New("no") }), func(cfg *lambdalocal.MappingConfig) {
			cfg.PartialResponses = true
		})
		st := s.after(10 * time.Second)
		require.Equal(s, 1, st.FunctionErrors)
		require.Equal(s, 4, s.left())
		st = s.after(10 * time.Minute)
		require.Equal(s, 3, st.FunctionErrors, "once for each receive")
		require.Equal(s, 12, st.Returned)
		require.Equal(s, 4, s.Queue("dead").Visible, "then the queue's redrive takes them")
		require.Zero(s, s.left())
	})
}

func TestBatchesAreNoLargerThanAsked(t *testing.T) {
	stageOf(t, setup{}, func(s *stage) {
		s.send(23)
		f := answering(ok)
		s.run(f, func(cfg *lambdalocal.MappingConfig) { cfg.BatchSize = 5 })
		s.after(time.Second)
		total := 0
		for _, e := range f.seen() {
			require.LessOrEqual(s, len(e.Records), 5)
			total += len(e.Records)
		}
		require.Equal(s, 23, total)
		require.Zero(s, s.left())
	})
}

func TestTheWindowGathers(t *testing.T) {
	stageOf(t, setup{visibility: 120}, func(s *stage) {
		f := answering(ok)
		s.run(f, func(cfg *lambdalocal.MappingConfig) {
			cfg.BatchSize, cfg.Window, cfg.MaxConcurrency = 25, 5*time.Second, 2
		})
		// Two pollers share what comes. The window of each ends 5 s after its own
		// first message, and not before, unless the batch is full.
		s.after(time.Second)
		start := time.Now()
		for i := range 6 {
			s.sendTo("", fmt.Sprint(i))
			s.after(700 * time.Millisecond)
		}
		require.Empty(s, f.seen(), "%v after the first", time.Since(start))
		s.after(2 * time.Second)
		require.Len(s, f.seen(), 2)
		require.Len(s, append(bodies(f.seen()[0]), bodies(f.seen()[1])...), 6)

		s.send(50)
		s.after(100 * time.Millisecond)
		require.Len(s, f.seen()[2].Records, 25, "full batches don't wait")
		s.after(5 * time.Second)
		require.Zero(s, s.left())
	})
}

func TestEventsStayUnderThePayloadLimit(t *testing.T) {
	stageOf(t, setup{}, func(s *stage) {
		large := strings.Repeat("x", 1<<20-8)
		for range 10 {
			s.sendTo("", large)
		}
		sizes := []int{}
		f := answering(ok)
		s.run(spy{f, func(p []byte) { require.LessOrEqual(s, len(p), 6<<20) }}, nil)
		s.after(time.Second)
		for _, e := range f.seen() {
			sizes = append(sizes, len(e.Records))
		}
		require.Equal(s, []int{5, 5}, sizes)
		require.Zero(s, s.left())
	})
}

func TestConcurrency(t *testing.T) {
	slow := func(events.SQSEvent) ([]byte, error) {
		time.Sleep(10 * time.Second)
		return nil, nil
	}
	for _, most := range []int{0, 2, 8, 50} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			stageOf(t, setup{}, func(s *stage) {
				s.send(2000)
				s.run(answering(slow), func(cfg *lambdalocal.MappingConfig) { cfg.BatchSize, cfg.MaxConcurrency = 1, most })
				limit := most
				if most == 0 {
					limit = 1250
				}
				require.Equal(s, min(5, limit), s.after(100*time.Millisecond).Concurrency)
				require.Equal(s, min(10, limit), s.after(time.Second).Concurrency, "five more a second")
				st := s.after(59 * time.Second)
				require.Equal(s, min(305, limit), st.Concurrency, "300 more a minute")
				require.Equal(s, st.Concurrency, st.PeakConcurrency)
				s.stop()
				require.LessOrEqual(s, s.Mapping.Stats().PeakPollers, limit)
			})
		})
	}
}

func TestPollersGoWhenTheQueueIsEmpty(t *testing.T) {
	stageOf(t, setup{}, func(s *stage) {
		s.send(500)
		s.run(answering(func(events.SQSEvent) ([]byte, error) { time.Sleep(time.Second); return nil, nil }), func(cfg *lambdalocal.MappingConfig) {
			cfg.BatchSize, cfg.MaxConcurrency = 1, 40
		})
		require.Equal(s, 40, s.after(10*time.Second).Pollers)
		st := s.after(2 * time.Minute)
		require.Zero(s, s.left())
		require.Equal(s, 5, st.Pollers)
		s.send(300)
		require.Equal(s, 30, s.after(5100*time.Millisecond).Concurrency, "and come again")
	})
}

func TestSlowDown(t *testing.T) {
	for name, c := range map[string]struct {
		off  bool
		fail func() ([]byte, error)
		slow bool
	}{
		"function errors":         {fail: func() ([]byte, error) { return nil, errors.New("no") }, slow: true},
		"throttles":               {fail: func() ([]byte, error) { return nil, lambdalocal.ErrThrottled }, slow: true},
		"off":                     {fail: func() ([]byte, error) { return nil, errors.New("no") }, off: true},
		"malformed responses":     {fail: func() ([]byte, error) { return []byte("oops"), nil }},
		"partial batch responses": {fail: nil},
	} {
		t.Run(name, func(t *testing.T) {
			stageOf(t, setup{}, func(s *stage) {
				s.send(800)
				until := time.Now().Add(15 * time.Second)
				f := answering(func(e events.SQSEvent) ([]byte, error) {
					time.Sleep(time.Second)
					switch {
					case time.Now().After(until):
						return nil, nil
					case c.fail == nil:
						return fmt.Appendf(nil, `{"batchItemFailures":[{"itemIdentifier":%q}]}`, e.Records[0].MessageId), nil
					}
					return c.fail()
				})
				s.run(f, func(cfg *lambdalocal.MappingConfig) {
					cfg.BatchSize, cfg.MaxConcurrency, cfg.PartialResponses, cfg.SlowDown = 1, 16, true, !c.off
				})
				st := s.after(12 * time.Second)
				if !c.slow {
					require.Equal(s, 16, st.Concurrency)
					return
				}
				require.LessOrEqual(s, st.Pollers, 10, "none is added")
				require.LessOrEqual(s, st.Received, 40, "halved again and again")
				// It lasts until the first success, and then recovers five a second.
				require.Equal(s, 16, s.after(30*time.Second).Concurrency)
				before := s.Mapping.Stats().Invocations
				require.Equal(s, 160, s.after(10*time.Second).Invocations-before)
			})
		})
	}
}

func TestInvocationsThatFailSideBySideSlowDownOnce(t *testing.T) {
	stageOf(t, setup{}, func(s *stage) {
		s.send(400)
		start := time.Now()
		f := answering(func(events.SQSEvent) ([]byte, error) {
			began := time.Since(start)
			time.Sleep(time.Second)
			if began > 10*time.Second+50*time.Millisecond && began < 11*time.Second+50*time.Millisecond {
				return nil, errors.New("no")
			}
			return nil, nil
		})
		s.run(f, func(cfg *lambdalocal.MappingConfig) { cfg.BatchSize, cfg.MaxConcurrency, cfg.SlowDown = 1, 16, true })
		require.Equal(s, 16, s.after(11*time.Second+10*time.Millisecond).Pollers)
		st := s.after(1100 * time.Millisecond) // all 16 have failed, at five instants
		require.Equal(s, 16, st.FunctionErrors)
		require.Equal(s, 8, st.Pollers)
		require.Equal(s, 16, s.after(10*time.Second).Pollers)
	})
}

func TestThrottledBatchesAreTriedUntilTheyAreVisible(t *testing.T) {
	stageOf(t, setup{visibility: 30, maxReceive: 2}, func(s *stage) {
		s.send(1)
		s.run(answering(func(events.SQSEvent) ([]byte, error) { return nil, lambdalocal.ErrThrottled }), nil)
		st := s.after(29 * time.Second)
		require.Equal(s, 1, st.Received)
		require.Greater(s, st.Throttles, 3)
		require.Zero(s, st.Invocations)
		st = s.after(32 * time.Second)
		require.Equal(s, 2, st.Received)
		require.Equal(s, 2, st.Dropped)
		s.after(30 * time.Second)
		require.Equal(s, 1, s.Queue("dead").Visible, "never tried, and dead: the trap of reserved concurrency")
	})
}

func TestAThrottledBatchRunsWhenThereIsRoom(t *testing.T) {
	stageOf(t, setup{}, func(s *stage) {
		s.send(3)
		f, err := lambdalocal.NewFunction(lambdalocal.FunctionConfig{
			Concurrency: 1, Timeout: 10 * time.Second,
			Start: func() lambdalocal.Handler { return sleeping(2 * time.Second) },
		})
		require.NoError(s, err)
		s.run(f, func(cfg *lambdalocal.MappingConfig) { cfg.BatchSize = 1 })
		st := s.after(30 * time.Second)
		require.Equal(s, 3, st.Deleted)
		require.Equal(s, 3, st.Received)
		require.Positive(s, st.Throttles)
		require.Equal(s, 1, f.ColdStarts())
	})
}

func TestFIFOGroupsRunOneBatchAtATime(t *testing.T) {
	stageOf(t, setup{fifo: true, visibility: 60}, func(s *stage) {
		const groups, each = 7, 30
		for i := range each {
			for g := range groups {
				s.sendTo(fmt.Sprint("g", g), fmt.Sprintf("%d/%d", g, i))
			}
		}
		type running struct{ now, next int }
		at := make(map[string]*running)
		var mu sync.Mutex
		f := answering(nil)
		f.f = func(e events.SQSEvent) ([]byte, error) {
			require.LessOrEqual(s, len(e.Records), 10)
			mu.Lock()
			for _, r := range e.Records {
				g := r.Attributes["MessageGroupId"]
				if at[g] == nil {
					at[g] = new(running)
				}
				var group, i int
				_, err := fmt.Sscanf(r.Body, "%d/%d", &group, &i)
				require.NoError(s, err)
				require.Equal(s, at[g].next, i, "order in %s", g)
				at[g].next++
			}
			for _, g := range groupsOf(e) {
				at[g].now++
				require.Equal(s, 1, at[g].now, "batches of %s", g)
			}
			mu.Unlock()
			time.Sleep(100 * time.Millisecond)
			mu.Lock()
			for _, g := range groupsOf(e) {
				at[g].now--
			}
			mu.Unlock()
			return nil, nil
		}
		s.run(f, nil)
		s.after(time.Minute)
		require.Zero(s, s.left())
	})
}

func TestFIFOAFailureHoldsItsGroup(t *testing.T) {
	stageOf(t, setup{fifo: true, visibility: 20}, func(s *stage) {
		for i := range 3 {
			s.sendTo("a", fmt.Sprint("a", i))
		}
		failing := true
		f := answering(func(e events.SQSEvent) ([]byte, error) {
			if e.Records[0].Body == "a0" && failing {
				failing = false
				return fmt.Appendf(nil, `{"batchItemFailures":[{"itemIdentifier":%q},{"itemIdentifier":%q},{"itemIdentifier":%q}]}`,
					e.Records[0].MessageId, e.Records[1].MessageId, e.Records[2].MessageId), nil
			}
			return ok(e)
		})
		s.run(f, func(cfg *lambdalocal.MappingConfig) { cfg.PartialResponses = true })
		s.after(time.Second)
		s.sendTo("a", "a3")
		s.sendTo("b", "b0")
		s.after(10 * time.Second)
		require.Equal(s, []string{"b0"}, bodies(f.seen()[1]))
		require.Len(s, f.seen(), 2, "nothing of the group comes meanwhile")
		s.after(30 * time.Second)
		require.Equal(s, []string{"a0", "a1", "a2", "a3"}, bodies(f.seen()[2]))
		require.Zero(s, s.left())
	})
}

// A FIFO batch that was throttled for so long that its messages are visible
// again runs alone all the same.
func TestFIFOALateBatchKeepsItsGroup(t *testing.T) {
	stageOf(t, setup{fifo: true, visibility: 30}, func(s *stage) {
		s.sendTo("a", "a0")
		start := time.Now()
		var now, most int
		var mu sync.Mutex
		f := answering(func(events.SQSEvent) ([]byte, error) {
			if time.Since(start) < 20*time.Second {
				return nil, lambdalocal.ErrThrottled
			}
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(25 * time.Second)
			mu.Lock()
			now--
			mu.Unlock()
			return nil, nil
		})
		f.timeout = 30 * time.Second
		s.run(f, nil)
		require.Equal(s, 2, s.after(35*time.Second).Received)
		s.after(2 * time.Minute)
		require.Equal(s, 1, most)
	})
}

func TestFailedCallsAreTriedAgain(t *testing.T) {
	plan := sqsfake.First(
		sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.Throttled()}, 1, 2, 3, 4, 5, 6),
		sqsfake.On(sqsfake.DeleteMessageBatch, sqsfake.Fault{Mode: sqsfake.FailEntries}, 1),
		sqsfake.On(sqsfake.DeleteMessageBatch, sqsfake.Fault{Mode: sqsfake.Refuse}, 2),
		sqsfake.On(sqsfake.DeleteMessageBatch, sqsfake.Fault{Mode: sqsfake.OmitEntries}, 3),
	)
	stageOf(t, setup{server: &sqsfake.Server{Plan: plan}}, func(s *stage) {
		s.send(10)
		s.run(answering(ok), nil)
		st := s.after(20 * time.Second)
		require.Equal(s, 6, st.ReceiveErrors)
		require.Equal(s, 10, st.Deleted)
		require.Zero(s, s.left())
	})
	all := sqsfake.On(sqsfake.DeleteMessageBatch, sqsfake.Fault{Mode: sqsfake.Refuse})
	stageOf(t, setup{server: &sqsfake.Server{Plan: all}}, func(s *stage) {
		s.send(10)
		s.run(answering(ok), nil)
		st := s.after(20 * time.Second)
		require.Equal(s, 10, st.Undeleted)
		require.Equal(s, 10, s.left())
	})
}

func TestStop(t *testing.T) {
	stageOf(t, setup{}, func(s *stage) {
		s.send(7)
		s.run(answering(func(events.SQSEvent) ([]byte, error) { time.Sleep(5 * time.Second); return nil, nil }), func(cfg *lambdalocal.MappingConfig) {
			cfg.BatchSize, cfg.MaxConcurrency = 1, 3
		})
		s.after(time.Second)
		start := time.Now()
		s.stop()
		require.Equal(s, 4*time.Second, time.Since(start), "what runs is let end")
		require.Equal(s, 3, s.Mapping.Stats().Deleted)
		require.Equal(s, 4, s.left())

		// A batch that is being gathered is invoked as it is.
		f := answering(ok)
		s.run(f, func(cfg *lambdalocal.MappingConfig) { cfg.BatchSize, cfg.Window = 100, time.Minute })
		s.after(time.Second)
		require.Empty(s, f.seen())
		start = time.Now()
		s.stop()
		require.Zero(s, time.Since(start))
		require.Zero(s, s.left())
	})
}

func TestAMappingRunsAgain(t *testing.T) {
	stageOf(t, setup{}, func(s *stage) {
		s.run(answering(ok), nil)
		s.after(time.Second)
		s.stop()
		s.send(3)
		again, first := s.Mapping, s.Mapping.Stats()
		require.Zero(s, first.Received)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- again.Run(ctx) }()
		require.Equal(s, 3, s.after(time.Second).Deleted)
		cancel()
		require.NoError(s, <-done)
	})
}

func groupsOf(e events.SQSEvent) (names []string) {
	for _, r := range e.Records {
		if g := r.Attributes["MessageGroupId"]; !slices.Contains(names, g) {
			names = append(names, g)
		}
	}
	return names
}
