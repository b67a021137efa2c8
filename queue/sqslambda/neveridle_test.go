package sqslambda_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/lambdalocal"
	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqslambda"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

// A busyAPI is the downstream of a function that always has more messages.
type busyAPI struct {
	rate       float64       // requests a second; 0: any number
	burst      float64       // of them at once
	retryAfter time.Duration // of a refusal; 0: it says nothing
	bad        int           // one of this many messages always fails; 0: none
	badWith    error         // with this
	down, up   time.Duration // down from then, and until then
	takes      time.Duration // for a request, and up to half as much again; 0: 15 ms
}

// A busyRun is what a busyAPI counted.
type busyRun struct {
	accepted, refused, failed []int // by second
	dead                      int
}

const (
	busySpan = 4 * time.Minute
	busyRate = 50.0 // of the downstreams with a limit
)

// run runs this many instances of a function with the defaults for busySpan.
func (a busyAPI) run(t *testing.T, instances int, seed uint64) busyRun {
	t.Helper()
	var server sqsfake.Server
	deadURL, err := server.CreateQueue("dead", nil)
	require.NoError(t, err)
	url, err := server.CreateQueue("orders", map[string]string{
		"VisibilityTimeout": strconv.Itoa(int(visibility / time.Second)),
		"RedrivePolicy":     fmt.Sprintf(`{"deadLetterTargetArn":%q,"maxReceiveCount":50}`, server.ARN("dead")),
	})
	require.NoError(t, err)
	client := server.Client()
	const feed = 10 // batches that are sent whenever fewer messages are visible than they hold
	sent := 0
	top := func() {
		for server.Queue("orders").Visible < 10*feed {
			in := &sqs.SendMessageBatchInput{QueueUrl: &url}
			for i := range 10 {
				id, body := strconv.Itoa(i), strconv.Itoa(sent)
				sent++
				in.Entries = append(in.Entries, types.SendMessageBatchRequestEntry{Id: &id, MessageBody: &body})
			}
			_, err := client.SendMessageBatch(t.Context(), in)
			require.NoError(t, err)
		}
	}
	top()
	q, err := sqsqueue.New(client, url, sqsqueue.Config{})
	require.NoError(t, err)
	dead, err := sqsqueue.New(client, deadURL, sqsqueue.Config{})
	require.NoError(t, err)

	r := busyRun{accepted: make([]int, busySpan/time.Second), refused: make([]int, busySpan/time.Second), failed: make([]int, busySpan/time.Second)}
	random := rand.New(rand.NewPCG(seed, 0))
	began := time.Now()
	tokens, filled := a.burst, began
	var mu sync.Mutex // guards all of these
	handle := func(_ context.Context, m *queue.Message) error {
		mu.Lock()
		takes := cmp.Or(a.takes, 15*time.Millisecond)
		takes += time.Duration(random.Int64N(int64(takes / 2)))
		mu.Unlock()
		time.Sleep(takes / 4)
		mu.Lock()
		now := time.Now()
		at := now.Sub(began)
		second := min(int(at/time.Second), len(r.accepted)-1)
		n, err := strconv.Atoi(string(m.Body))
		var result error
		tokens = min(a.burst, tokens+a.rate*now.Sub(filled).Seconds())
		filled = now
		switch {
		case err != nil:
			result = err
		case at >= a.down && at < a.up:
			r.failed[second]++
			result = errDown
		case a.bad > 0 && n%a.bad == 0:
			r.failed[second]++
			result = a.badWith
		case a.rate > 0 && tokens < 1:
			r.refused[second]++
			result = limiter.ErrOverload
			if a.retryAfter > 0 {
				result = limited{a.retryAfter}
			}
		default:
			tokens--
			r.accepted[second]++
		}
		mu.Unlock()
		time.Sleep(takes - takes/4)
		return result
	}
	f, err := lambdalocal.NewFunction(lambdalocal.FunctionConfig{
		Start: func() lambdalocal.Handler {
			h, err := sqslambda.Handler(queue.HandlerFunc(handle), sqslambda.Config{Queue: q, DeadLetter: dead, Concurrency: 10, Logger: quiet})
			require.NoError(t, err)
			return h
		},
		Timeout: functionTimeout, Concurrency: instances,
	})
	require.NoError(t, err)
	mapping, err := lambdalocal.NewMapping(lambdalocal.MappingConfig{
		Client: client, QueueURL: url, Function: f, MaxConcurrency: max(2, instances), PartialResponses: true,
	})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { require.NoError(t, mapping.Run(ctx)) })
	for time.Since(began) < busySpan {
		time.Sleep(100 * time.Millisecond)
		top()
	}
	stop()
	wg.Wait()
	f.Wait()
	mu.Lock()
	defer mu.Unlock()
	r.dead = len(server.Messages("dead"))
	return r
}

func sum(counts []int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

// A function with the defaults uses the downstream's capacity without any
// configuration, whatever it is, in one process and in ten.
func TestHandlerIsNeverIdle(t *testing.T) {
	minute := int(time.Minute / time.Second)
	all := []int{1, 2, 10}
	if !testrun.Long() {
		all = all[1:2]
	}
	for name, c := range map[string]struct {
		api     busyAPI
		share   float64 // of what it gives, after the first minute, at least
		refused float64 // of the requests then, at most
	}{
		"Retry-After": {busyAPI{rate: busyRate, burst: 10, retryAfter: time.Second}, 0.9, 0.03},
		"bare 429":    {busyAPI{rate: busyRate, burst: 10}, 0.9, 0.05},
	} {
		for _, instances := range all {
			bubble(t, fmt.Sprintf("%s, %d instances", name, instances), func(t *testing.T) {
				r := c.api.run(t, instances, 1)
				accepted, refused := sum(r.accepted[minute:]), sum(r.refused[minute:])
				share := float64(accepted) / (busyRate * (busySpan - time.Minute).Seconds())
				refusals := float64(refused) / float64(accepted+refused)
				t.Logf("%.1f %% of what it gives (first minute %.0f %%), %.2f %% refused", 100*share,
					100*float64(sum(r.accepted[:minute]))/(busyRate*60), 100*refusals)
				require.GreaterOrEqual(t, share, c.share)
				if instances > 2 {
					c.refused = 0.05 // as of twenty processes: a share is small
				}
				require.LessOrEqual(t, refusals, c.refused)
				require.Zero(t, r.dead)
			})
		}
	}
	const slow = 300 * time.Millisecond
	for _, instances := range all {
		bubble(t, fmt.Sprintf("down for 30 s, %d instances", instances), func(t *testing.T) {
			const down = 90
			r := busyAPI{down: down * time.Second, up: (down + 30) * time.Second, takes: slow}.run(t, instances, 1)
			before := float64(sum(r.accepted[minute:down])) / float64(down-minute)
			back := 0
			for back < 60 && float64(r.accepted[down+30+back]) < 0.9*before {
				back++
			}
			t.Logf("%.0f/s before; %d calls met the outage; 90 %% in the second %d after it", before, sum(r.failed), back)
			require.LessOrEqual(t, back, 5, "a tenth of the outage, and 2 s: %v", r.accepted[down+25:down+60])
			require.LessOrEqual(t, sum(r.failed), instances*(10+10+30))
			require.Zero(t, r.dead)
		})
		for name, with := range map[string]error{
			"503": fmt.Errorf("no: %w", limiter.ErrUnavailable), "403": fmt.Errorf("no: %w", limiter.ErrMisconfigured),
			"429": fmt.Errorf("no: %w", limiter.ErrOverload),
		} {
			bubble(t, fmt.Sprintf("one of 20 messages always fails, %s, %d instances", name, instances), func(t *testing.T) {
				r := busyAPI{bad: 20, badWith: with, takes: slow}.run(t, instances, 1)
				ideal := busyAPI{takes: slow}.run(t, instances, 1)
				// A bad message takes its turn each time that it comes back.
				share := float64(sum(r.accepted[minute:])+sum(r.failed[minute:])) / float64(sum(ideal.accepted[minute:]))
				t.Logf("%.1f %% of the throughput without them (first minute %.0f %%); %d good ones done, bad ones tried %d times", 100*share,
					100*float64(sum(r.accepted[:minute])+sum(r.failed[:minute]))/float64(sum(ideal.accepted[:minute])), sum(r.accepted), sum(r.failed))
				least := 0.9
				switch {
				case name == "429" && instances > 2:
					least = 0.5 // each sees few of the messages again that it has refused
				case name == "429":
					least = 0.85 // goroutines take turns as they like: 92 to 97 % have been seen
				}
				require.GreaterOrEqual(t, share, least)
			})
		}
	}
}
