// Package order is the work on one order that the examples' order service does
// under any host: [Parse] at the front door, [NewMessage] into the
// queue, and a [Fulfiller] behind it.
package order

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/rampmeter/rampmeter/retry"
)

// An Order is what a customer sends to the front door, what travels through
// the queue, and what is stored.
type Order struct {
	// ID is chosen by the sender, so that sending an order again does not create
	// another: 1 to 64 printable ASCII characters without spaces. It is
	// the idempotency key for the inventory API, too.
	ID string `json:"id"`
	// SKU is what is ordered: 1 to 64 printable ASCII characters without spaces.
	SKU string `json:"sku"`
	// Quantity is how many of it, 1 to 1,000.
	Quantity int `json:"quantity"`
	// Customer is who ordered, 1 to 200 characters.
	Customer string `json:"customer"`
}

// MaxQuantity is the most that one order may be for.
const MaxQuantity = 1000

const (
	maxWord     = 64
	maxCustomer = 200
)

// A FieldError says which field of an order is wrong, and how. It is
// permanent: a retry does not help.
type FieldError struct {
	Field   string // the JSON name, or "body" when it is not an order
	Problem string
}

// Error names the field.
func (e *FieldError) Error() string { return "order: " + e.Field + " " + e.Problem }

// Is reports whether target is [retry.ErrPermanent].
func (e *FieldError) Is(target error) bool { return target == retry.ErrPermanent }

// Reason is the reason in a dead-letter record.
func (e *FieldError) Reason() string { return "invalid" }

// Parse decodes and validates an order. The error is a [*FieldError].
func Parse(body []byte) (Order, error) {
	var o Order
	if err := json.Unmarshal(body, &o); err != nil {
		var field *FieldError
		if !errors.As(err, &field) {
			field = &FieldError{"body", "is not JSON: " + err.Error()}
		}
		return Order{}, field
	}
	return o, o.Validate()
}

// UnmarshalJSON implements [json.Unmarshaler]. It is strict where
// encoding/json is lenient, because two readers of a lenient format read two
// different orders: it refuses fields that are unknown, repeated or spelled in
// another case. The error is a [*FieldError].
func (o *Order) UnmarshalJSON(data []byte) error {
	if !utf8.Valid(data) {
		return &FieldError{"body", "is not UTF-8"}
	}
	var v Order
	fields := map[string]struct {
		into any
		want string
	}{
		"id":       {&v.ID, "a string"},
		"sku":      {&v.SKU, "a string"},
		"quantity": {&v.Quantity, "a whole number"},
		"customer": {&v.Customer, "a string"},
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return &FieldError{"body", "is not a JSON object"}
	}
	var seen []string
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return &FieldError{"body", "is not a JSON object"}
		}
		field, known := fields[name]
		switch {
		case !known:
			return &FieldError{short(name), "is not a field of an order"}
		case slices.Contains(seen, name):
			return &FieldError{name, "is there twice"}
		}
		seen = append(seen, name)
		if err := d.Decode(field.into); err != nil {
			return &FieldError{name, "must be " + field.want}
		}
	}
	if _, err := d.Token(); err != nil {
		return &FieldError{"body", "is not a JSON object"}
	}
	if _, err := d.Token(); err != io.EOF {
		return &FieldError{"body", "goes on after the order"}
	}
	*o = v
	return nil
}

// Validate returns a [*FieldError] for the first field that is wrong, or nil.
func (o Order) Validate() error {
	switch {
	case !isWord(o.ID):
		return wordError("id", o.ID)
	case !isWord(o.SKU):
		return wordError("sku", o.SKU)
	case o.Quantity < 1 || o.Quantity > MaxQuantity:
		return &FieldError{"quantity", fmt.Sprintf("is %d: must be from 1 to %d", o.Quantity, MaxQuantity)}
	case o.Customer == "":
		return &FieldError{"customer", "is required"}
	case utf8.RuneCountInString(o.Customer) > maxCustomer:
		return &FieldError{"customer", fmt.Sprintf("is longer than %d characters", maxCustomer)}
	}
	return nil
}

// isWord reports whether s can be an id wherever an order is sent: in headers,
// attributes, keys and logs.
func isWord(s string) bool {
	return s != "" && len(s) <= maxWord && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

func wordError(field, value string) error {
	if value == "" {
		return &FieldError{field, "is required"}
	}
	return &FieldError{field, fmt.Sprintf("must be 1 to %d printable ASCII characters without spaces", maxWord)}
}

// short shortens an untrusted name so that it fits in an error.
func short(name string) string {
	if len(name) > maxWord {
		return fmt.Sprintf("%.*q…", maxWord, name)
	}
	return fmt.Sprintf("%q", name)
}
