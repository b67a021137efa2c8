package inventory

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
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

	// IfMatch, if not empty, is the ETag of the level that this was decided
	// upon: the adjustment is made only if the level is still that one, and
	// [ErrChanged] otherwise. Then read it again, and decide again: that is
	// another adjustment and needs another key, so make the ETag a part of it.
	// A request that is repeated after its answer was lost gets that answer, as
	// the key has it, though the level has changed by then.
	IfMatch string
}

const maxKey = 255

// Adjust changes how many of a SKU there are, and returns how many there are
// then, or were when the key was first used. Every retry of it, in this call or another, sends the same key, so the
// adjustment is applied at most once. [ErrOutOfStock] if there are fewer than
// it takes, [ErrNotFound] if the API does not know the SKU, [ErrConflict] if
// the key was used for something else, [ErrChanged] if IfMatch does not match.
// An adjustment that can't be one is [ErrInvalid] without a request.
func (c *Client) Adjust(ctx context.Context, a Adjustment) (Level, error) {
	r := a.call()
	if problem := a.check(); problem != "" {
		return Level{}, r.invalid(problem)
	}
	return c.level(ctx, r, Level{})
}

// call returns the request that makes the adjustment.
func (a Adjustment) call() *call {
	body, _ := json.Marshal(struct { // strings and numbers: it can't fail
		SKU       string `json:"sku"`
		Delta     int    `json:"delta"`
		Reference string `json:"reference"`
	}{a.SKU, a.Delta, a.Reference})
	return &call{
		op: "adjust", sku: a.SKU, method: http.MethodPost, path: "/v1/adjustments",
		key: a.IdempotencyKey, ifMatch: a.IfMatch, body: body,
	}
}

// check returns what is wrong with an adjustment, or "".
func (a Adjustment) check() string {
	if problem := checkSKU(a.SKU); problem != "" {
		return problem
	}
	switch {
	case a.Delta == 0:
		return "delta is 0"
	case a.IfMatch != "" && !isETag(a.IfMatch):
		return "if match is no ETag: it must be as the API told it"
	case strings.HasPrefix(a.IfMatch, weak):
		return "if match is a weak ETag, which matches nothing: ask the API's operators for a strong one"
	}
	return checkBook(a.Reference, a.IdempotencyKey, maxKey)
}

// checkBook returns what is wrong with a reference or a key, or "".
func checkBook(reference, key string, limit int) string {
	switch {
	case reference == "":
		return "reference is empty"
	case !utf8.ValidString(reference):
		return "reference is not UTF-8"
	case key == "":
		return "idempotency key is empty"
	case len(key) > limit || !isHeaderWord(key):
		return fmt.Sprintf("idempotency key is longer than %d characters, or not all printable ASCII without spaces", limit)
	}
	return ""
}
