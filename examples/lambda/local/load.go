//go:build unix

package main

import (
	"fmt"
	"math/rand/v2"

	"github.com/rampmeter/rampmeter/examples/orders/order"
	"github.com/rampmeter/rampmeter/queue"
)

// A Load is the orders sent to the queue.
type Load struct {
	Messages []*queue.Message
	Valid    map[string]order.Order
	Poison   map[string]string // order id to the reason for which it must be dead-lettered
	Stock    map[string]int    // of the API, before
}

// soldOut is a SKU that the API knows and has none of.
const soldOut = "LAST-ONE"

// NewLoad makes the orders: every twentieth is sent twice, as if the customer's
// connection broke, and five can never succeed.
func NewLoad(s Settings) (Load, error) {
	rnd := rand.New(rand.NewPCG(s.Seed, 0))
	l := Load{Valid: make(map[string]order.Order), Stock: map[string]int{soldOut: 0}}
	skus := []string{"SOCK-42", "SHIRT-M", "SHIRT-L", "CAP-1", "SCARF-7", "GLOVE-9", "BELT-3", "COAT-48"}
	for _, sku := range skus {
		l.Stock[sku] = s.Orders * order.MaxQuantity // nothing is ever out of stock
	}
	add := func(id, sku string, quantity int) (*queue.Message, error) {
		m, err := order.NewMessage(order.Order{ID: id, SKU: sku, Quantity: quantity, Customer: fmt.Sprintf("customer-%d", 1+rnd.IntN(s.Orders))})
		l.Messages = append(l.Messages, m)
		return m, err
	}
	for i := range s.Orders {
		o := order.Order{ID: fmt.Sprintf("order-%06d", i+1), SKU: skus[rnd.IntN(len(skus))], Quantity: 1 + rnd.IntN(3), Customer: fmt.Sprintf("customer-%d", i)}
		m, err := order.NewMessage(o)
		if err != nil {
			return Load{}, err
		}
		l.Valid[o.ID] = o
		l.Messages = append(l.Messages, m)
		if i%20 == 0 {
			l.Messages = append(l.Messages, m)
		}
	}

	l.Poison = map[string]string{
		"poison-cut": "undecodable", "poison-empty": "invalid", "poison-nameless": "invalid",
		"poison-unknown": "not_found", "poison-sold-out": "out_of_stock",
	}
	cut, err := add("poison-cut", skus[0], 1)
	if err != nil {
		return Load{}, err
	}
	cut.Body = cut.Body[:len(cut.Body)/2]
	nameless, err := add("", skus[0], 1)
	if err != nil {
		return Load{}, err
	}
	nameless.Attributes[order.IDAttribute] = "poison-nameless"
	for _, p := range []struct {
		id, sku  string
		quantity int
	}{{"poison-empty", skus[0], 0}, {"poison-unknown", "NO-SUCH-SKU", 1}, {"poison-sold-out", soldOut, 1}} {
		if _, err := add(p.id, p.sku, p.quantity); err != nil {
			return Load{}, err
		}
	}
	rnd.Shuffle(len(l.Messages), func(i, j int) { l.Messages[i], l.Messages[j] = l.Messages[j], l.Messages[i] })
	return l, nil
}

// Left is the stock of each SKU that the API must have in the end.
func (l Load) Left() map[string]int {
	left := make(map[string]int, len(l.Stock))
	for sku, n := range l.Stock {
		left[sku] = n
	}
	for _, o := range l.Valid {
		left[o.SKU] -= o.Quantity
	}
	return left
}
