package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/rampmeter/rampmeter/examples/orders/order"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/retry"
)

// maxOrder is the maximum size of an order's body in bytes.
const maxOrder = 16 << 10

// A FrontDoor accepts orders: POST /orders with an [order.Order] as JSON. It passes
// a valid order to Submit and answers 200 with no body. It answers everything
// else with a problem (RFC 9457): 400 and the name of the field for an
// invalid order, 413 for a body of more than 16 KiB, 415 for one that is not
// JSON, 405 for another method.
//
// When Submit fails, the answer is 422 for an order that will never succeed, 503 when
// the downstream is overloaded, unavailable or denies access, and 502 for its other
// failures. The customer does not learn the cause.
type FrontDoor struct {
	Submit func(ctx context.Context, o order.Order) error
}

// Enqueue returns a Submit that only puts orders into a queue, so it takes no
// longer when the downstream is slow and does not fail when it is down. An order
// that the queue has not confirmed within 5 s is not accepted. It may still be in
// the queue; the customer sends it again under the same id.
func Enqueue(to queue.Sink) func(ctx context.Context, o order.Order) error {
	return func(ctx context.Context, o order.Order) error {
		m, err := order.NewMessage(o)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return to.Send(ctx, m)
	}
}

// ServeHTTP implements [http.Handler].
func (d FrontDoor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/orders" {
		refuse(w, http.StatusNotFound, "", "there is nothing at this path")
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		refuse(w, http.StatusMethodNotAllowed, "", "orders are placed with POST")
		return
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		refuse(w, http.StatusUnsupportedMediaType, "", "an order is application/json")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxOrder))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			refuse(w, http.StatusRequestEntityTooLarge, "", fmt.Sprintf("an order has at most %d bytes", maxOrder))
			return
		}
		refuse(w, http.StatusBadRequest, "body", "the body ended too early")
		return
	}
	o, err := order.Parse(body)
	if err != nil {
		var field *order.FieldError
		if !errors.As(err, &field) {
			field = &order.FieldError{Field: "body", Problem: "is no order"}
		}
		refuse(w, http.StatusBadRequest, field.Field, field.Field+" "+field.Problem)
		return
	}
	switch err := d.Submit(r.Context(), o); {
	case err == nil:
		w.WriteHeader(http.StatusOK)
	case errors.Is(err, retry.ErrPermanent):
		refuse(w, http.StatusUnprocessableEntity, "", "this order can't be fulfilled")
	case limiter.Classify(err) != nil:
		refuse(w, http.StatusServiceUnavailable, "", "the order could not be taken now")
	default:
		refuse(w, http.StatusBadGateway, "", "the order could not be taken")
	}
}

// A problem is the body of an answer that is not 200.
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Field  string `json:"field,omitempty"`
}

func refuse(w http.ResponseWriter, status int, field, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	// An error here means that the customer has gone.
	_ = json.NewEncoder(w).Encode(problem{http.StatusText(status), status, detail, field})
}
