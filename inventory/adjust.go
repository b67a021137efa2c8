package inventory

import (
	"context"
	"encoding/json"
	"net/http"
	"unicode/utf8"
)

// An Adjustment changes how many of a SKU there are.
type Adjustment struct {
	// SKU is what to change. Required.
	SKU string

	// Delta is by how much: negative takes. Not 0.
	Delta int

	// Reference says what for, for example an order's id, for those who read
	// the API's books. Required.
	Reference string

	// IdempotencyKey makes it safe to ask again: the API applies an adjustment
	// once for each key and answers the same each time. The same key with
	// another adjustment is [ErrConflict]. It is 1 to 255 characters of
	// printable ASCII without spaces.
	//
	// It is required. One made up by the client would be another one each time
	// a queue delivers the same order again, which is when it is needed: take
	// what identifies the order.
	IdempotencyKey string
}

const maxKey = 255

// Adjust changes how many of a SKU there are, and returns how many there are
// then. Every retry of it, in this call or another, sends the same key, so the
// adjustment is applied at most once. [ErrOutOfStock] if there are fewer than
// it takes, [ErrNotFound] if the API does not know the SKU, [ErrConflict] if
// the key was used for something else. An adjustment that can't be one is
// [ErrInvalid] without a request.
func (c *Client) Adjust(ctx context.Context, a Adjustment) (Level, error) {
	r := &call{op: "adjust", sku: a.SKU, method: http.MethodPost, path: "/v1/adjustments", key: a.IdempotencyKey}
	if problem := a.check(); problem != "" {
		return Level{}, r.invalid(problem)
	}
	body, err := json.Marshal(struct {
		SKU       string `json:"sku"`
		Delta     int    `json:"delta"`
		Reference string `json:"reference"`
	}{a.SKU, a.Delta, a.Reference})
	if err != nil {
		return Level{}, r.invalid(err.Error())
	}
	r.body = body
	return c.level(ctx, r)
}

// check returns what is wrong with an adjustment, or "".
func (a Adjustment) check() string {
	if problem := checkSKU(a.SKU); problem != "" {
		return problem
	}
	switch {
	case a.Delta == 0:
		return "delta is 0"
	case a.Reference == "":
		return "reference is empty"
	case !utf8.ValidString(a.Reference):
		return "reference is not UTF-8"
	case a.IdempotencyKey == "":
		return "idempotency key is empty"
	case len(a.IdempotencyKey) > maxKey || !isHeaderWord(a.IdempotencyKey):
		return "idempotency key is longer than 255 characters, or not all printable ASCII without spaces"
	}
	return ""
}
