package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// demo plays a story with queues in memory: an outage fills the dead-letter queue,
// and when it is over its letters are redriven.
func (p program) demo(ctx context.Context) (err error) {
	say := func(text string) { _, _ = fmt.Fprintf(p.out, "\n== %s\n", text) }
	orders, err := memqueue.New(memqueue.Config{})
	if err != nil {
		return err
	}
	dead, err := memqueue.New(memqueue.Config{Wait: 200 * time.Millisecond})
	if err != nil {
		return err
	}
	for i := range 24 {
		body := fmt.Sprintf(`{"order":"o-%d","sku":"widget","quantity":%d}`, i, i%5+1)
		switch {
		case i%8 == 3:
			body = fmt.Sprintf(`{"order":"o-%d","sku":"wigdet","quantity":1}`, i)
		case i == 13:
			body = "quantity=1"
		}
		if err := orders.Send(ctx, &queue.Message{Body: []byte(body)}); err != nil {
			return err
		}
	}

	var down atomic.Bool
	var stored atomic.Int64
	type order struct{ Order, SKU string }
	handler := queue.Decode(json.Unmarshal, func(_ context.Context, _ *queue.Message, o order) error {
		switch {
		case o.SKU == "wigdet":
			return retry.Permanent(fmt.Errorf("inventory: order %s: no such SKU: %s", o.Order, o.SKU))
		case down.Load():
			return errors.New("inventory: 500 Internal Server Error")
		}
		stored.Add(1)
		return nil
	})
	c, err := queue.NewConsumer(orders, handler, queue.Config{
		Name: "orders", Concurrency: 4, DeadLetter: dead, NoDeadLetterGuard: true,
		Retry:  retry.Policy{MaxAttempts: 3, BaseDelay: 10 * time.Millisecond},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(running) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()
	settled := func() error {
		for s := orders.Stats(); s.Visible+s.InFlight > 0; s = orders.Stats() {
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	}

	down.Store(true)
	if err := settled(); err != nil {
		return err
	}
	q := queues{dead: dead, to: orders, size: func(context.Context) int { return dead.Stats().Visible }}
	say("the inventory API was broken for a while; redrive list")
	if err := p.listOf(ctx, q, Settings{}); err != nil {
		return err
	}
	say("redrive list -reason permanent -max 1 -json")
	if err := p.listOf(ctx, q, Settings{Reasons: []string{retry.ReasonPermanent}, Max: 1, JSON: true}); err != nil {
		return err
	}
	say("redrive redrive -reason exhausted -dry-run")
	if err := p.redriveOf(ctx, q, Settings{Reasons: []string{retry.ReasonExhausted}, DryRun: true}); err != nil {
		return err
	}
	down.Store(false)
	say("the API works again; redrive redrive -reason exhausted -rate 10")
	if err := p.redriveOf(ctx, q, Settings{Reasons: []string{retry.ReasonExhausted}, Rate: 10}); err != nil {
		return err
	}
	if err := settled(); err != nil {
		return err
	}
	say(fmt.Sprintf("%d orders are stored; redrive list", stored.Load()))
	return p.listOf(ctx, q, Settings{})
}
