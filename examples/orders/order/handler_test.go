package order_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/examples/orders/order"
	"github.com/rampmeter/rampmeter/inventory"
	"github.com/rampmeter/rampmeter/inventory/inventorytest"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/retry"
)

func TestMemoryStore(t *testing.T) {
	s := order.NewMemoryStore()
	o := order.Order{ID: "o-1", SKU: "CAP-1", Quantity: 1, Customer: "c"}
	_, ok, err := s.Get(t.Context(), o.ID)
	require.NoError(t, err)
	require.False(t, ok)

	require.NoError(t, s.Put(t.Context(), o))
	require.NoError(t, s.Put(t.Context(), o), "storing an order twice is harmless")
	other := o
	other.Quantity = 2
	err = s.Put(t.Context(), other)
	require.ErrorIs(t, err, retry.ErrPermanent)
	require.Equal(t, "conflict", retry.Reason(err))

	got, ok, err := s.Get(t.Context(), o.ID)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, o, got)
	orders, repeats := s.Stored()
	require.Equal(t, 1, orders)
	require.Equal(t, 1, repeats)

	over, cancel := context.WithCancelCause(t.Context())
	why := errors.New("over")
	cancel(why)
	require.ErrorIs(t, s.Put(over, o), why)
	_, _, err = s.Get(over, o.ID)
	require.ErrorIs(t, err, why)
}

// A forgetfulStore fails once after it has stored an order, like a store whose reply
// is lost.
type forgetfulStore struct {
	*order.MemoryStore
	failed bool
}

func (s *forgetfulStore) Put(ctx context.Context, o order.Order) error {
	err := s.MemoryStore.Put(ctx, o)
	if !s.failed {
		s.failed = true
		return errors.New("the reply was lost")
	}
	return err
}

func TestFulfilTwiceReservesOnce(t *testing.T) {
	api, err := inventorytest.New(inventorytest.Config{Stock: map[string]int{"CAP-1": 10}})
	require.NoError(t, err)
	client, err := inventory.New(inventory.Config{BaseURL: "http://inventory", Token: "test", Transport: api.Transport()})
	require.NoError(t, err)
	store := &forgetfulStore{MemoryStore: order.NewMemoryStore()}
	h := order.Fulfiller{Inventory: client, Store: store}.Handler()

	m, err := order.NewMessage(order.Order{ID: "o-1", SKU: "CAP-1", Quantity: 3, Customer: "c"})
	require.NoError(t, err)
	require.Error(t, h.Handle(t.Context(), m))
	require.NoError(t, h.Handle(t.Context(), m))
	require.Equal(t, map[string]int{"CAP-1": 7}, api.Stock())
	orders, _ := store.Stored()
	require.Equal(t, 1, orders)

	other, err := order.NewMessage(order.Order{ID: "o-1", SKU: "CAP-1", Quantity: 4, Customer: "c"})
	require.NoError(t, err)
	require.ErrorIs(t, h.Handle(t.Context(), other), retry.ErrPermanent, "another order under the same id")
	require.Equal(t, map[string]int{"CAP-1": 7}, api.Stock())
}

func TestHandlerKnowsPoison(t *testing.T) {
	api, err := inventorytest.New(inventorytest.Config{})
	require.NoError(t, err)
	client, err := inventory.New(inventory.Config{BaseURL: "http://inventory", Token: "test", Transport: api.Transport()})
	require.NoError(t, err)
	store := order.NewMemoryStore()
	h := order.Fulfiller{Inventory: client, Store: store}.Handler()
	for body, reason := range map[string]string{
		`{"id":"o-1","sk`:       retry.ReasonUndecodable,
		`{"id":"o-1","size":1}`: retry.ReasonUndecodable,
		`{"id":"o-1"}`:          "invalid",
		`{"id":"o-1","sku":"NO-SUCH-SKU","quantity":1,"customer":"c"}`: inventory.CodeNotFound,
	} {
		err := h.Handle(t.Context(), &queue.Message{Body: []byte(body)})
		require.ErrorIs(t, err, retry.ErrPermanent, body)
		require.Equal(t, reason, retry.Reason(err), body)
	}
	orders, _ := store.Stored()
	require.Zero(t, orders)
}
