package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/aws/aws-lambda-go/events"

	"github.com/rampmeter/rampmeter/examples/lambda/secret"
	"github.com/rampmeter/rampmeter/examples/orders/order"
	"github.com/rampmeter/rampmeter/examples/orders/store"
	"github.com/rampmeter/rampmeter/inventory"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/sqslambda"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// A Function is what Lambda calls with a batch of messages.
type Function func(context.Context, events.SQSEvent) (events.SQSEventResponse, error)

// Clients are the function's connections to other services.
type Clients struct {
	SQS       sqsqueue.API
	DynamoDB  store.API
	Secrets   secret.API
	Inventory http.RoundTripper // nil: the inventory client's own
}

// New makes the function, whose limits all invocations of this process share,
// and fetches the API's token, so that no order has to wait for it. Without a
// token it logs why and continues: a function that does not start costs each
// message of each batch a receive, one that does start returns them with growing
// delays.
func New(ctx context.Context, cfg Config, c Clients, logger *slog.Logger) (Function, error) {
	// The client acquires the rate for each of its requests, so the request after a
	// 401 waits for its turn, too. The breaker limits the handler, which needs both
	// the API and the table.
	rate, err := sqslambda.FleetLimit{Rate: cfg.Rate, Burst: cfg.Burst, MaxConcurrency: cfg.Concurrency}.Limiter()
	if err != nil {
		return nil, fmt.Errorf("%s, %s, %s: %w", envRate, envBurst, envConcurrency, err)
	}
	breaker, err := limiter.NewBreaker(limiter.BreakerConfig{Name: "orders", OnChange: func(from limiter.State, now limiter.BreakerStats) {
		logger.Warn("breaker", "from", from.String(), "to", now.State.String(), "cause", now.Cause)
	}})
	if err != nil {
		return nil, err
	}
	token, err := secret.New(c.Secrets, cfg.SecretID, secret.Config{Logger: logger})
	if err != nil {
		return nil, err
	}
	api, err := inventory.New(inventory.Config{
		BaseURL:     cfg.InventoryURL,
		TokenSource: token.Get,
		Transport:   c.Inventory,
		Limiter:     rate,
		Retry:       secret.Retry(inventory.ErrUnauthorized),
	}.WithTransport(token.Transport))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", envInventory, err)
	}
	table, err := store.New(c.DynamoDB, cfg.Table)
	if err != nil {
		return nil, err
	}
	orders, err := sqsqueue.New(c.SQS, cfg.QueueURL, sqsqueue.Config{Logger: logger})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", envQueue, err)
	}
	dead, err := sqsqueue.New(c.SQS, cfg.DeadLetter, sqsqueue.Config{Logger: logger})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", envDeadLetter, err)
	}
	f, err := sqslambda.Handler(order.Fulfiller{Inventory: api, Store: table}.Handler(), sqslambda.Config{
		Limiter:    breaker,
		Gate:       rate,
		Retry:      retry.Policy{MaxAttempts: cfg.MaxAttempts},
		DeadLetter: dead,
		Queue:      orders,
		Logger:     logger,
	})
	if err != nil {
		return nil, err
	}

	if _, err := token.Get(ctx); err != nil {
		logger.Error("the inventory API's token is not to be had yet", "error", err)
	}
	return f, nil
}
