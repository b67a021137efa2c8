package sqsqueue_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// attrs are attributes of a queue.
type attrs map[string]string

func TestCheck(t *testing.T) {
	const (
		day  = "86400"
		days = "1209600"
	)
	redrive := func(max int) string {
		return fmt.Sprintf(`{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:dead","maxReceiveCount":%d}`, max)
	}
	good := func(more attrs) attrs {
		a := attrs{
			"VisibilityTimeout": "60", "ReceiveMessageWaitTimeSeconds": "20", "MessageRetentionPeriod": day,
			"MaximumMessageSize": "1048576", "RedrivePolicy": redrive(24),
		}
		for k, v := range more {
			a[k] = v
		}
		return a
	}
	for name, c := range map[string]struct {
		queue, dead attrs // dead nil: there is none
		cfg         sqsqueue.CheckConfig
		want        []string // attributes found wrong
		says        string   // in one of them
	}{
		"good": {queue: good(nil), dead: attrs{"MessageRetentionPeriod": days}, cfg: sqsqueue.CheckConfig{HandlerTimeout: time.Minute}},
		"visibility": {
			queue: good(attrs{"VisibilityTimeout": "30"}), dead: attrs{"MessageRetentionPeriod": days},
			cfg: sqsqueue.CheckConfig{HandlerTimeout: 45 * time.Second}, want: []string{"VisibilityTimeout"}, says: "set it to 45",
		},
		"lambda": {
			queue: good(nil), dead: attrs{"MessageRetentionPeriod": days},
			cfg: sqsqueue.CheckConfig{Lambda: true}, want: []string{"RedrivePolicy"}, says: "survive an outage of 5h0m30s",
		},
		"lambda, enough": {
			queue: good(nil), dead: attrs{"MessageRetentionPeriod": days},
			cfg: sqsqueue.CheckConfig{Lambda: true, Outage: 4 * time.Hour},
		},
		"lambda, more than receives can do": {
			queue: good(nil), dead: attrs{"MessageRetentionPeriod": days},
			cfg:  sqsqueue.CheckConfig{Lambda: true, Outage: 24 * 13 * time.Hour},
			want: []string{"MessageRetentionPeriod", "RedrivePolicy"}, says: "set maxReceiveCount to 1000, the most that there is, which survives",
		},
		"lambda, visibility": {
			queue: good(nil), dead: attrs{"MessageRetentionPeriod": days},
			cfg:  sqsqueue.CheckConfig{Lambda: true, Outage: time.Hour, HandlerTimeout: 30 * time.Second},
			want: []string{"VisibilityTimeout"}, says: "less than six times what the function takes, 30s: batches that Lambda holds back, as it is throttled, come again meanwhile: set it to 180",
		},
		"lambda, visibility enough": {
			queue: good(nil), dead: attrs{"MessageRetentionPeriod": days},
			cfg: sqsqueue.CheckConfig{Lambda: true, Outage: time.Hour, HandlerTimeout: 10 * time.Second},
		},
		"too long": {
			queue: good(nil), dead: attrs{"MessageRetentionPeriod": days},
			cfg: sqsqueue.CheckConfig{HandlerTimeout: 13 * time.Hour}, want: []string{"VisibilityTimeout"}, says: "split the work",
		},
		"lease": {
			queue: good(nil), dead: attrs{"MessageRetentionPeriod": days},
			cfg:  sqsqueue.CheckConfig{Consumer: queue.Config{Lease: 6 * time.Second}},
			want: []string{"Config.Wait"}, says: "4s, and an idle consumer makes 15 requests a minute: set Lease to at least 30s, or Config.Wait to 4s",
		},
		"short polls": {
			queue: good(attrs{"ReceiveMessageWaitTimeSeconds": "0"}), dead: attrs{"MessageRetentionPeriod": days},
			want: []string{"ReceiveMessageWaitTimeSeconds"}, says: "set it to 20",
		},
		"drain": {
			queue: good(nil), dead: attrs{"MessageRetentionPeriod": days},
			cfg:  sqsqueue.CheckConfig{Consumer: queue.Config{DrainTimeout: 15 * time.Second}},
			want: []string{"Config.Wait"}, says: "set DrainTimeout to at least 22s, or Config.Wait to 13s",
		},
		"short drain": {
			queue: good(nil), dead: attrs{"MessageRetentionPeriod": days},
			cfg:  sqsqueue.CheckConfig{Consumer: queue.Config{DrainTimeout: time.Second}},
			want: []string{"Config.Wait", "Config.DrainTimeout"}, says: "receives wait for 1s only, so that none is open when a drain ends, and an idle consumer makes 60 requests a minute",
		},
		"no dead-letter queue": {
			queue: attrs{"ReceiveMessageWaitTimeSeconds": "20"}, want: []string{"RedrivePolicy"}, says: "dead-letter queue",
		},
		"dead-letter queue is gone": {queue: good(nil), want: []string{"QueueArn"}, says: "create it"},
		"too few receives": {
			queue: good(attrs{"RedrivePolicy": redrive(12)}), dead: attrs{"MessageRetentionPeriod": days},
			want: []string{"RedrivePolicy"}, says: "at least 24",
		},
		"hardly enough receives": {
			queue: good(attrs{"RedrivePolicy": redrive(21)}), dead: attrs{"MessageRetentionPeriod": days},
			want: []string{"RedrivePolicy"}, says: "leave room for 9 only, and then the service moves messages to the dead-letter queue, and without a reason: set maxReceiveCount to at least 24, or Retry.MaxAttempts to at most 11",
		},
		"just enough receives": {queue: good(attrs{"RedrivePolicy": redrive(22)}), dead: attrs{"MessageRetentionPeriod": days}},
		"attempts without end": {
			queue: good(nil), dead: attrs{"MessageRetentionPeriod": days},
			cfg:  sqsqueue.CheckConfig{Consumer: queue.Config{Retry: retry.Policy{MaxAttempts: -1}}},
			want: []string{"RedrivePolicy"}, says: "without end: the service moves messages to the dead-letter queue first, and without a reason: set Retry.MaxAttempts, and maxReceiveCount, which can be 1000 at most, to more than that",
		},
		"more attempts than receives can be": {
			queue: good(nil), dead: attrs{"MessageRetentionPeriod": days},
			cfg:  sqsqueue.CheckConfig{Consumer: queue.Config{Retry: retry.Policy{MaxAttempts: 2000}}},
			want: []string{"RedrivePolicy"}, says: "maxReceiveCount, which can be 1000 at most",
		},
		"many attempts": {
			queue: good(nil), dead: attrs{"MessageRetentionPeriod": days},
			cfg:  sqsqueue.CheckConfig{Consumer: queue.Config{Retry: retry.Policy{MaxAttempts: 600}}},
			want: []string{"RedrivePolicy"}, says: "at least 1000, or Retry.MaxAttempts to at most 14",
		},
		"one receive": {
			queue: good(attrs{"RedrivePolicy": redrive(1)}), dead: attrs{"MessageRetentionPeriod": days},
			want: []string{"RedrivePolicy"}, says: "set maxReceiveCount to at least 24",
		},
		"receives by default": {
			queue: good(attrs{"RedrivePolicy": `{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:dead"}`}), dead: attrs{"MessageRetentionPeriod": days},
			want: []string{"RedrivePolicy"}, says: "maxReceiveCount of 10",
		},
		"retention of dead letters": {
			queue: good(nil), dead: attrs{"MessageRetentionPeriod": day}, want: []string{"MessageRetentionPeriod"}, says: "1209600",
		},
		"retention": {
			queue: good(nil), dead: attrs{"MessageRetentionPeriod": days},
			cfg: sqsqueue.CheckConfig{Outage: 48 * time.Hour}, want: []string{"MessageRetentionPeriod"}, says: "172800",
		},
		"sizes": {
			queue: good(attrs{"MaximumMessageSize": "262144"}), dead: attrs{"MessageRetentionPeriod": days, "MaximumMessageSize": "262144"},
			want: []string{"MaximumMessageSize", "MaximumMessageSize"}, says: "1048576",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &sqsfake.Server{}
				if name == "dead-letter queue is gone" {
					c.dead = attrs{}
				}
				if c.dead != nil {
					_, err := server.CreateQueue("dead", c.dead)
					require.NoError(t, err)
				}
				q := newQueue(t, server, false, c.queue)
				if name == "dead-letter queue is gone" {
					server.Plan = sqsfake.On(sqsfake.GetQueueURL, sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.QueueDoesNotExist()})
				}
				found, err := q.Check(t.Context(), c.cfg)
				require.NoError(t, err)
				var got []string
				for _, f := range found {
					got = append(got, f.Attribute)
				}
				require.Equal(t, c.want, got, "%v", found)
				require.Contains(t, fmt.Sprint(found), c.says)
			})
		})
	}
}

// The consumer's dead-letter queue is checked, whether or not the service's redrive
// policy uses it too.
func TestCheckConsumersDeadLetterQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{}
		url, err := server.CreateQueue("dead.fifo", map[string]string{"FifoQueue": "true", "MessageRetentionPeriod": "1209600", "MaximumMessageSize": "1048576"})
		require.NoError(t, err)
		dead, err := sqsqueue.New(server.Client(), url, sqsqueue.Config{})
		require.NoError(t, err)
		q := newQueue(t, server, false, map[string]string{"ReceiveMessageWaitTimeSeconds": "20"})
		found, err := q.Check(t.Context(), sqsqueue.CheckConfig{Consumer: queue.Config{DeadLetter: dead}})
		require.NoError(t, err)
		require.Len(t, found, 2, "%v", found)
		require.Equal(t, "RedrivePolicy", found[0].Attribute)
		require.Equal(t, "FifoQueue", found[1].Attribute)
		require.Equal(t, url, found[1].Queue)
	})
}

// A consumer that sends its dead letters to the queue that they came from has them
// back at once.
func TestCheckDeadLettersInACircle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, &sqsfake.Server{}, false, map[string]string{"ReceiveMessageWaitTimeSeconds": "20", "MaximumMessageSize": "1048576"})
		found, err := q.Check(t.Context(), sqsqueue.CheckConfig{Consumer: queue.Config{DeadLetter: q}})
		require.NoError(t, err)
		require.Len(t, found, 2, "%v", found)
		require.Equal(t, "Config.DeadLetter", found[0].Attribute)
		require.Equal(t, "RedrivePolicy", found[1].Attribute)
	})
}

// On FIFO queues the retention of a dead letter starts again.
func TestCheckFIFO(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{}
		_, err := server.CreateQueue("dead.fifo", map[string]string{"FifoQueue": "true", "MessageRetentionPeriod": "86400", "MaximumMessageSize": "1048576"})
		require.NoError(t, err)
		q := newQueue(t, server, true, map[string]string{
			"ReceiveMessageWaitTimeSeconds": "20", "MessageRetentionPeriod": "86400", "MaximumMessageSize": "1048576",
			"RedrivePolicy": `{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:dead.fifo","maxReceiveCount":24}`,
		})
		found, err := q.Check(t.Context(), sqsqueue.CheckConfig{})
		require.NoError(t, err)
		require.Empty(t, found)
	})
}

// A telling client returns attributes that the fake would not have.
type telling struct {
	*sqs.Client
	attrs
}

func (c telling) GetQueueAttributes(context.Context, *sqs.GetQueueAttributesInput, ...func(*sqs.Options)) (*sqs.GetQueueAttributesOutput, error) {
	return &sqs.GetQueueAttributesOutput{Attributes: c.attrs}, nil
}

func TestCheckOfStrangeAnswers(t *testing.T) {
	for _, c := range []struct {
		reported         attrs
		attribute, wants string
	}{
		{attrs{"FifoQueue": "true"}, "FifoQueue", "a name that ends in .fifo"},
		{attrs{"RedrivePolicy": "{"}, "RedrivePolicy", "can't be read"},
		{attrs{"RedrivePolicy": `{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:0:dead","maxReceiveCount":"many"}`}, "RedrivePolicy", "no number"},
		{attrs{"RedrivePolicy": `{"deadLetterTargetArn":"dead","maxReceiveCount":"20"}`}, "QueueArn", `"dead" is not the ARN of a queue`},
	} {
		synctest.Test(t, func(t *testing.T) {
			q, err := sqsqueue.New(telling{(&sqsfake.Server{}).Client(), c.reported}, "https://sqs.test/0/orders", sqsqueue.Config{})
			require.NoError(t, err)
			found, err := q.Check(t.Context(), sqsqueue.CheckConfig{})
			require.NoError(t, err)
			require.True(t, slices.ContainsFunc(found, func(f sqsqueue.Finding) bool {
				return f.Attribute == c.attribute && strings.Contains(f.String(), c.wants)
			}), "%v", found)
		})
	}
}

func TestCheckFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{}
		q := newQueue(t, server, false, nil)
		_, err := q.Check(t.Context(), sqsqueue.CheckConfig{HandlerTimeout: -1})
		require.ErrorContains(t, err, "HandlerTimeout")
		_, err = q.Check(t.Context(), sqsqueue.CheckConfig{Outage: -1})
		require.ErrorContains(t, err, "Outage")
		server.Plan = sqsfake.On(sqsfake.GetQueueAttributes, sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.AccessDenied()})
		_, err = q.Check(t.Context(), sqsqueue.CheckConfig{})
		require.ErrorIs(t, err, limiter.ErrMisconfigured)
	})
}
