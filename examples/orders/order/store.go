package order

import (
	"context"
	"fmt"
	"sync"

	"github.com/rampmeter/rampmeter/retry"
)

// A Store keeps the orders whose stock is reserved. Its methods may be
// called concurrently.
type Store interface {
	// Put stores an order under its id. A queue delivers at least once, so
	// storing the same order again is success and changes nothing; another
	// order under the same id is a [*ConflictError]. Transient failures
	// (throttling, a lost connection) are any other error.
	Put(ctx context.Context, o Order) error
	// Get returns the order with that id, and whether there is one.
	Get(ctx context.Context, id string) (o Order, ok bool, err error)
}

// A ConflictError says that the store has another order under the same id. It
// is permanent.
type ConflictError struct{ ID string }

// Error names the id.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("store order %q: another order has this id", e.ID)
}

// Is reports whether target is [retry.ErrPermanent].
func (e *ConflictError) Is(target error) bool { return target == retry.ErrPermanent }

// Reason is the reason in a dead-letter record.
func (e *ConflictError) Reason() string { return "conflict" }

// A MemoryStore is a Store that lives as long as the program.
type MemoryStore struct {
	mu      sync.Mutex // guards what follows
	orders  map[string]Order
	repeats int // puts of an order that was already stored
}

var _ Store = (*MemoryStore)(nil)

// NewMemoryStore returns an empty store.
func NewMemoryStore() *MemoryStore { return &MemoryStore{orders: make(map[string]Order)} }

// Put implements [Store].
func (s *MemoryStore) Put(ctx context.Context, o Order) error {
	if ctx.Err() != nil {
		return fmt.Errorf("store order %q: %w", o.ID, context.Cause(ctx))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before, ok := s.orders[o.ID]
	switch {
	case ok && before != o:
		return &ConflictError{o.ID}
	case ok:
		s.repeats++
	default:
		s.orders[o.ID] = o
	}
	return nil
}

// Get implements [Store].
func (s *MemoryStore) Get(ctx context.Context, id string) (Order, bool, error) {
	if ctx.Err() != nil {
		return Order{}, false, fmt.Errorf("get order %q: %w", id, context.Cause(ctx))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.orders[id]
	return o, ok, nil
}

// Stored returns the number of orders, and the number of repeated puts.
func (s *MemoryStore) Stored() (orders, repeats int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.orders), s.repeats
}
