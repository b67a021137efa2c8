package order

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/rampmeter/rampmeter/inventory"
	"github.com/rampmeter/rampmeter/queue"
)

// A Fulfiller does the work for one order: it reserves the stock and then
// stores the order.
type Fulfiller struct {
	Inventory *inventory.Client
	Store     Store
}

// Fulfil may be called again for the same order, after any failure and from any
// process: the order's id is the idempotency key, so the API reserves once,
// and the store keeps one. Its errors already classify themselves for retry,
// for limiters and for the consumer, so it passes them on unchanged.
func (f Fulfiller) Fulfil(ctx context.Context, o Order) error {
	if err := o.Validate(); err != nil {
		return err
	}
	_, err := f.Inventory.Adjust(ctx, inventory.Adjustment{
		SKU: o.SKU, Delta: -o.Quantity, Reference: o.ID, IdempotencyKey: o.ID,
	})
	if err != nil {
		return fmt.Errorf("reserve stock for order %s: %w", o.ID, err)
	}
	return f.Store.Put(ctx, o)
}

// Handler returns the handler of the queue's messages. It does not depend on its
// host: it is the same under a consumer and in a Lambda function.
func (f Fulfiller) Handler() queue.Handler {
	return queue.Decode(json.Unmarshal, func(ctx context.Context, _ *queue.Message, o Order) error {
		return f.Fulfil(ctx, o)
	})
}

// IDAttribute carries the order's id in addition to the body, for people and tools
// that can't read the body of a message.
const IDAttribute = "order-id"

// NewMessage converts an order into a message with the attribute [IDAttribute].
func NewMessage(o Order) (*queue.Message, error) {
	body, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode order %s: %w", o.ID, err)
	}
	return &queue.Message{Body: body, Attributes: map[string]string{IDAttribute: o.ID}}, nil
}
