package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/deadletter"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

// The program is killed a hundred times while it redrives. Every message is in
// one of the queues, or in both, with its reason; a last run that is not killed
// finishes the work.
func TestLiveKilled(t *testing.T) {
	endpoint := os.Getenv("RAMPMETER_SQS_ENDPOINT")
	if endpoint == "" {
		t.Skip("needs an SQS server: set RAMPMETER_SQS_ENDPOINT=http://127.0.0.1:4566 for a local one (fauxqs, for example); queues are made and deleted")
	}
	const (
		kills, n = 100, 3000
		lease    = 10 * time.Second
	)
	for name, value := range environment(endpoint) {
		t.Setenv(name, value)
	}
	seed := testrun.Seed(t)
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	program := filepath.Join(t.TempDir(), "redrive")
	built, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput()
	require.NoError(t, err, string(built))
	dead, orders := liveQueue(t, endpoint), liveQueue(t, endpoint)
	fill(t, dead, n)
	begin := time.Now()

	var problems bytes.Buffer
	command := func(out *bytes.Buffer, args ...string) *exec.Cmd {
		c := exec.CommandContext(t.Context(), program, append([]string{
			"redrive", "-dead-letter-url", dead.URL(), "-queue-url", orders.URL(), "-lease", lease.String(), "-json",
		}, args...)...)
		c.Stdout, c.Stderr = out, &problems
		return c
	}
	busy := 0 // processes that had redriven something when they were killed
	before := holds(t, orders)
	for range kills {
		var out bytes.Buffer
		c := command(&out, "-rate", "300")
		require.NoError(t, c.Start())
		time.Sleep(time.Duration(random.Int64N(int64(160 * time.Millisecond))))
		require.NoError(t, c.Process.Kill())
		require.ErrorContains(t, c.Wait(), "killed", "%s", &problems)
		after := holds(t, orders)
		if after > before {
			busy++
		}
		before = after
	}
	moved := before
	took := time.Since(begin)
	require.Greater(t, busy, kills/4, "the processes live too short for the test to say anything")
	require.Less(t, moved, n, "they had nothing left to do")

	time.Sleep(lease + 2*time.Second)
	left, there := make(map[string]int), make(map[string]int)
	count := func(q queue.Source, copies map[string]int, reason func(deadletter.Letter) any) {
		for l, err := range deadletter.List(t.Context(), q, deadletter.Config{Wait: time.Second}) {
			require.NoError(t, err)
			body := string(l.Message.Body)
			copies[body]++
			var i int
			_, err := fmt.Sscanf(body, "m%d", &i)
			require.NoError(t, err)
			require.Equal(t, record(i), reason(l), "seed %d", seed)
			require.Equal(t, fmt.Sprint(i), l.Message.Attributes["color"])
		}
	}
	count(dead, left, func(l deadletter.Letter) any { return l.Record })
	count(orders, there, func(l deadletter.Letter) any { return l.History.Last })
	both, total := 0, 0
	for i := range n {
		body := fmt.Sprint("m", i)
		require.Positive(t, left[body]+there[body], "%s is lost (seed %d)", body, seed)
		require.LessOrEqual(t, left[body], 1, "seed %d", seed)
		both += min(left[body], there[body])
		total += there[body]
	}
	require.LessOrEqual(t, both, 10*kills)

	var out bytes.Buffer
	require.NoError(t, command(&out).Run(), "%s", &problems)
	var summary struct{ Examined, Redriven, Failed, Kept int }
	require.NoError(t, json.Unmarshal(out.Bytes(), &summary))
	require.Equal(t, len(left), summary.Redriven, "%s (seed %d)", &out, seed)
	require.Zero(t, summary.Failed+summary.Kept)
	require.Zero(t, holds(t, dead))
	require.Equal(t, total+len(left), holds(t, orders))
	t.Logf("%d kills in %v, %d of a process that had begun to redrive: of %d messages %d were in the one queue, %d in the other and %d in both, none in neither; %d copies in the end",
		kills, took.Round(time.Second), busy, n, len(left)-both, len(there)-both, both, total+len(left))
}

// liveQueue creates a queue for the test.
func liveQueue(t *testing.T, endpoint string) *sqsqueue.Queue {
	t.Helper()
	client, name := sqsfake.NewClient(endpoint), "rampmeter-"+rand.Text()
	made, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if _, err := client.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: made.QueueUrl}); err != nil {
			t.Log(err)
		}
	})
	q, err := sqsqueue.New(client, *made.QueueUrl, sqsqueue.Config{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	return q
}

// holds returns how many visible messages the queue holds.
func holds(t *testing.T, q *sqsqueue.Queue) int {
	t.Helper()
	return size(t.Context(), sqsfake.NewClient(os.Getenv("RAMPMETER_SQS_ENDPOINT")), q.URL())
}
