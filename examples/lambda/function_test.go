package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/examples/orders/order"
	"github.com/rampmeter/rampmeter/internal/lambdalocal"
	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/inventory/inventorytest"
	"github.com/rampmeter/rampmeter/retry"
)

// A table replaces DynamoDB.
type table struct {
	mu    sync.Mutex // guards all below
	items map[string]bool
	err   error
}

func (t *table) PutItem(_ context.Context, in *dynamodb.PutItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := in.Item["id"].(*types.AttributeValueMemberS).Value
	switch {
	case t.err != nil:
		return nil, t.err
	case t.items[id]:
		return nil, &types.ConditionalCheckFailedException{Item: in.Item}
	}
	t.items[id] = true
	return &dynamodb.PutItemOutput{}, nil
}

func (t *table) GetItem(context.Context, *dynamodb.GetItemInput, ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error) {
	return nil, errors.New("nobody should ask")
}

func (t *table) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = err
}

func (t *table) stored() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.items)
}

// A vault replaces Secrets Manager.
type vault struct {
	mu    sync.Mutex // guards all below
	value string
	err   error
}

func (v *vault) GetSecretValue(context.Context, *secretsmanager.GetSecretValueInput, ...func(*secretsmanager.Options)) (*secretsmanager.GetSecretValueOutput, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	value := v.value
	return &secretsmanager.GetSecretValueOutput{SecretString: &value}, v.err
}

func (v *vault) set(value string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.value, v.err = value, err
}

const functions = 4

// A world is the function and all that it depends on, in virtual time.
type world struct {
	sqs      *sqsfake.Server
	queue    string // URL
	dead     string // URL
	client   *sqs.Client
	table    *table
	vault    *vault
	api      *inventorytest.Server
	function *lambdalocal.Function
	mapping  *lambdalocal.Mapping
	log      bytes.Buffer // read it when nothing more runs
	stop     func()
}

// newWorld starts a function whose API has the token "first".
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{sqs: &sqsfake.Server{}, table: &table{items: make(map[string]bool)}, vault: &vault{value: "first"}}
	w.client = w.sqs.Client()
	var err error
	w.dead, err = w.sqs.CreateQueue("orders-dead", nil)
	require.NoError(t, err)
	w.queue, err = w.sqs.CreateQueue("orders", map[string]string{
		"VisibilityTimeout": "540",
		"RedrivePolicy":     fmt.Sprintf(`{"deadLetterTargetArn":%q,"maxReceiveCount":50}`, w.sqs.ARN("orders-dead")),
	})
	require.NoError(t, err)
	w.api, err = inventorytest.New(inventorytest.Config{
		Token: "first", Stock: map[string]int{"SOCK-42": 1000},
		Rate: 20, Burst: functions, Concurrency: functions, Latency: 20 * time.Millisecond,
	})
	require.NoError(t, err)
	logger := slog.New(slog.NewTextHandler(&w.log, nil))
	w.function, err = lambdalocal.NewFunction(lambdalocal.FunctionConfig{
		Timeout: 90 * time.Second, Concurrency: functions,
		Start: func() lambdalocal.Handler {
			f, err := New(t.Context(), Config{
				QueueURL: w.queue, DeadLetter: w.dead, Table: "orders", InventoryURL: "http://inventory.test", SecretID: "token",
				Rate: 20, Burst: functions, Concurrency: functions, MaxAttempts: 20,
			}, Clients{SQS: w.client, DynamoDB: w.table, Secrets: w.vault, Inventory: w.api.Transport()}, logger)
			require.NoError(t, err)
			return lambdalocal.Handler(f)
		},
	})
	require.NoError(t, err)
	w.mapping, err = lambdalocal.NewMapping(lambdalocal.MappingConfig{
		Client: w.client, QueueURL: w.queue, Function: w.function,
		BatchSize: 5, MaxConcurrency: functions, PartialResponses: true, SlowDown: true,
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- w.mapping.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ran)
		w.function.Wait()
		require.NoError(t, w.api.Close())
	})
	t.Cleanup(w.stop) // for a test that fails
	return w
}

// send puts n orders on the queue, and a poison one.
func (w *world) send(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		m, err := order.NewMessage(order.Order{ID: fmt.Sprint("order-", i), SKU: "SOCK-42", Quantity: 1, Customer: "Ada"})
		require.NoError(t, err)
		body := string(m.Body)
		_, err = w.client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &w.queue, MessageBody: &body})
		require.NoError(t, err)
	}
	poison := "{"
	_, err := w.client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &w.queue, MessageBody: &poison})
	require.NoError(t, err)
}

// requireDone waits until the queue is empty, ends the world, and checks what must
// always hold.
func (w *world) requireDone(t *testing.T, n int, within time.Duration) {
	t.Helper()
	for start := time.Now(); len(w.sqs.Messages("orders")) > 0; time.Sleep(time.Second) {
		require.Less(t, time.Since(start), within)
	}
	w.stop()
	require.Equal(t, n, w.table.stored())
	stats := w.api.Stats()
	require.Equal(t, n, stats.AppliedOnce)
	require.Zero(t, stats.AppliedTwice)
	require.Zero(t, stats.MaxOverRate)
	require.LessOrEqual(t, stats.PeakOpen, functions)
	require.Equal(t, 1000-n, w.api.Stock()["SOCK-42"])

	letters := w.sqs.Messages("orders-dead")
	require.Len(t, letters, 1)
	record, err := retry.ParseDeadLetter(letters[0].Attributes[retry.DeadLetterAttribute])
	require.NoError(t, err)
	require.Equal(t, retry.ReasonUndecodable, record.Reason)
}

func TestFunction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.send(t, 300)
		w.requireDone(t, 300, time.Minute)
		stats := w.mapping.Stats()
		require.Equal(t, 301, stats.Received, "each of them once")
		require.Zero(t, stats.Returned)
		require.NotContains(t, w.log.String(), "first")
	})
}

// Each of these lasts ten minutes, in the middle of the orders.
func TestFunction_Trouble(t *testing.T) {
	for name, trouble := range map[string]struct{ begin, end func(*world) }{
		"table throttles": {
			func(w *world) { w.table.fail(&types.ProvisionedThroughputExceededException{}) },
			func(w *world) { w.table.fail(nil) },
		},
		"table is missing": {
			func(w *world) { w.table.fail(&types.ResourceNotFoundException{}) },
			func(w *world) { w.table.fail(nil) },
		},
		"API is down": {
			func(w *world) { w.api.Break(inventorytest.Outage{Fault: inventorytest.Unavailable}) },
			func(w *world) { w.api.Mend() },
		},
		"token is revoked": {
			func(w *world) { w.api.Break(inventorytest.Outage{Fault: inventorytest.Revoked}) },
			func(w *world) { w.api.Mend() },
		},
		"secret is gone": { // the API takes another token only afterwards
			func(w *world) {
				w.vault.set("", errors.New("out of order"))
				w.api.Break(inventorytest.Outage{Fault: inventorytest.Revoked})
				w.function.RecycleAll() // and new processes never had one
			},
			func(w *world) {
				w.vault.set("first", nil)
				w.api.Mend()
			},
		},
		"no secret, but a token": {
			func(w *world) { w.vault.set("", errors.New("out of order")) },
			func(w *world) { w.vault.set("first", nil) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 300
				if testing.Short() {
					n = 120
				}
				w := newWorld(t)
				w.send(t, n)
				time.Sleep(time.Duration(n) * 15 * time.Millisecond) // a third of them is done
				trouble.begin(w)
				time.Sleep(10 * time.Minute)
				trouble.end(w)
				// Returned messages are hidden for up to 15 min.
				w.requireDone(t, n, time.Hour)
			})
		})
	}
}

// While the token is rotated each process has at most one request refused, and
// no order is returned.
func TestFunction_Rotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.vault.set("old", nil) // the processes start with it
		w.send(t, 300)
		synctest.Wait()
		w.vault.set("first", nil)
		w.requireDone(t, 300, time.Minute)
		refused := w.api.Stats().Status[401]
		require.Positive(t, refused)
		require.LessOrEqual(t, refused, w.function.ColdStarts())
		require.Zero(t, w.mapping.Stats().Returned)
	})
}

func TestNew_NamesWhatIsWrong(t *testing.T) {
	good := Config{
		QueueURL: "https://sqs.test/1/orders", DeadLetter: "https://sqs.test/1/dead", Table: "orders", InventoryURL: "http://inventory.test",
		SecretID: "token", Rate: 20, Burst: 10, Concurrency: 10, MaxAttempts: 20,
	}
	clients := Clients{SQS: (&sqsfake.Server{}).Client(), DynamoDB: &table{}, Secrets: &vault{value: "first"}}
	_, err := New(t.Context(), good, clients, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	for name, change := range map[string]func(*Config){
		"BURST":           func(c *Config) { c.Burst = 9 },
		"INVENTORY_URL":   func(c *Config) { c.InventoryURL = "http://user:hunter2@inventory.test" },
		"QUEUE_URL":       func(c *Config) { c.QueueURL = "https://sqs.test" },
		"DEAD_LETTER_URL": func(c *Config) { c.DeadLetter = "https://sqs.test" },
	} {
		cfg := good
		change(&cfg)
		_, err := New(t.Context(), cfg, clients, slog.New(slog.DiscardHandler))
		require.ErrorContains(t, err, name)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestLoggerWritesDurationsAsText(t *testing.T) {
	var b bytes.Buffer
	newLogger(&b).With("took", 90*time.Second).WithGroup("g").Info("drained", "held", 1500*time.Millisecond, "n", 3)
	var line map[string]any
	require.NoError(t, json.Unmarshal(b.Bytes(), &line))
	require.Equal(t, "1m30s", line["took"])
	require.Equal(t, map[string]any{"held": "1.5s", "n": 3.0}, line["g"])
}
