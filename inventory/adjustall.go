package inventory

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Adjustments are several changes for one purpose, such as the lines of an
// order.
type Adjustments struct {
	// Lines are 1 to 100, of different SKUs.
	Lines []Line

	// Reference names the purpose in the API's records. Required.
	Reference string

	// IdempotencyKey makes repeated calls safe, like that of an [Adjustment]. It is
	// 1 to 240 characters of printable ASCII without spaces. It identifies these
	// lines: repeat it with the same lines, in any order. The requests' keys are
	// this key with "/0", "/1" and so on, and those with "/undo". Required.
	IdempotencyKey string
}

// A Line is one of several changes. Delta is the change: a negative one takes stock.
// Not 0.
type Line struct {
	SKU   string `json:"sku"`
	Delta int    `json:"delta"`
}

const (
	opAll       = "adjust all"
	maxLines    = 100
	maxBatchKey = 240
)

// AdjustAll makes all of several adjustments or none of them, and returns the
// levels in the order of the lines.
//
// With Config.Transactions that is one request, which the API applies as a
// whole or not at all. Without it, each line is a separate adjustment: lines that
// take stock first, then those that add it, each in the order of the SKUs, so that
// orders for the same goods conflict at the first of them. When the API refuses a
// line, for example with [ErrOutOfStock], AdjustAll undoes the lines before it, the
// last one first, and returns the refusal: nothing of the order remains.
//
// Any other failure (throttling, an outage, the end of ctx) undoes nothing, because
// it is transient, and an undone line can't be applied again under the same key. The
// order is then partly applied, and the error is a [*PartialError]. Call AdjustAll
// again with the same Adjustments until it returns nil or an error that is not worth
// a retry; a redelivered message does just that. The new call begins with the first
// line, and sends each line again.
//
// # After a crash
//
// The next call with the same Adjustments completes the order from any state: the
// API repeats its answers for lines that were adjusted and does not adjust them
// again; it repeats a refusal, and lines that had not been undone are undone now.
// That holds for any crash, for lost answers, and for two concurrent calls. It
// depends on the API to repeat its answers, including refusals, for longer than any
// caller repeats an order. If no caller repeats it, the order stays partly applied;
// only Transactions prevent that. Other clients can see the lines one by one either
// way, and goods of lines that are later undone are out of stock for them in the
// meantime.
//
// The error is [ErrConflict] if the key identifies something else, as far as the API
// knows. Nothing is undone then: it may belong to another order. Malformed lines are
// [ErrInvalid] without a request.
func (c *Client) AdjustAll(ctx context.Context, a Adjustments) ([]Level, error) {
	if problem := a.check(); problem != "" {
		return nil, (&call{op: opAll}).invalid(problem)
	}
	places := a.places()
	sorted := Adjustments{Reference: a.Reference, IdempotencyKey: a.IdempotencyKey}
	for _, i := range places {
		sorted.Lines = append(sorted.Lines, a.Lines[i])
	}
	all := c.adjustLines
	if c.transactions {
		all = c.transact
	}
	changed, err := all(ctx, sorted)
	if err != nil {
		return nil, err
	}
	levels := make([]Level, len(places))
	for n, i := range places {
		levels[i] = changed[n]
	}
	return levels, nil
}

// places returns the order in which the lines are adjusted, independent of their own
// order. Lines that take stock come first: to undo one adds stock, which the API
// does not refuse.
func (a Adjustments) places() []int {
	places := make([]int, len(a.Lines))
	for i := range places {
		places[i] = i
	}
	slices.SortFunc(places, func(i, j int) int {
		x, y := a.Lines[i], a.Lines[j]
		if takes := x.Delta < 0; takes != (y.Delta < 0) {
			if takes {
				return -1
			}
			return 1
		}
		return cmp.Compare(x.SKU, y.SKU)
	})
	return places
}

// transact makes the adjustments in one request. Its key is that of the first
// line, so that the API refuses an order that was begun line by line.
func (c *Client) transact(ctx context.Context, a Adjustments) ([]Level, error) {
	r := &call{op: opAll, method: http.MethodPost, path: "/v1/transactions", key: lineKey(a.IdempotencyKey, 0)}
	r.body, _ = json.Marshal(struct { // strings and numbers: it can't fail
		Reference string `json:"reference"`
		Lines     []Line `json:"lines"`
	}{a.Reference, a.Lines})
	var levels []Level
	r.decode = func(_ *http.Response, body []byte) error {
		var v struct {
			Levels []Level `json:"levels"`
		}
		if err := json.Unmarshal(body, &v); err != nil {
			return err
		}
		same := func(level Level, line Line) bool { return level.SKU == line.SKU }
		if !slices.EqualFunc(v.Levels, a.Lines, same) {
			return errors.New("its levels are not those of the lines")
		}
		levels = v.Levels
		return nil
	}
	if err := c.do(ctx, r); err != nil {
		return nil, err
	}
	return levels, nil
}

// check returns what is wrong with the adjustments, or "".
func (a Adjustments) check() string {
	if len(a.Lines) < 1 || len(a.Lines) > maxLines {
		return fmt.Sprintf("there are %d lines: must be from 1 to %d", len(a.Lines), maxLines)
	}
	seen := make(map[string]bool, len(a.Lines))
	for i, line := range a.Lines {
		problem := checkSKU(line.SKU)
		switch {
		case problem != "":
		case line.Delta == 0:
			problem = "delta is 0"
		case line.Delta == math.MinInt:
			problem = "delta is too large to be undone"
		case seen[line.SKU]:
			problem = "its sku is in another line, too: add them up"
		}
		if problem != "" {
			return fmt.Sprintf("Lines[%d]: %s", i, problem)
		}
		seen[line.SKU] = true
	}
	return checkBook(a.Reference, a.IdempotencyKey, maxBatchKey)
}

func lineKey(key string, i int) string { return key + "/" + strconv.Itoa(i) }

// adjustLines makes the adjustments one by one.
func (c *Client) adjustLines(ctx context.Context, a Adjustments) ([]Level, error) {
	levels := make([]Level, 0, len(a.Lines))
	for n, line := range a.Lines {
		r := a.line(n)
		level, err := c.level(ctx, r, Level{})
		var e *Error
		switch {
		case err == nil:
			levels = append(levels, level)
		case errors.As(err, &e) && e.final() && !errors.Is(err, ErrConflict):
			return nil, c.undo(ctx, a, n, err)
		default:
			return nil, partial(a, a.Lines[:n], r, line, nil, err)
		}
	}
	return levels, nil
}

// line returns the request that makes the adjustment of a line.
func (a Adjustments) line(n int) *call {
	line := a.Lines[n]
	return Adjustment{
		SKU: line.SKU, Delta: line.Delta, Reference: a.Reference, IdempotencyKey: lineKey(a.IdempotencyKey, n),
	}.call()
}

// unline returns the request that undoes it.
func (a Adjustments) unline(n int) *call {
	line := a.Lines[n]
	return Adjustment{
		SKU: line.SKU, Delta: -line.Delta, Reference: a.Reference, IdempotencyKey: lineKey(a.IdempotencyKey, n) + "/undo",
	}.call()
}

// undo undoes the lines before n, which the API refused, and returns the
// refusal if it could.
func (c *Client) undo(ctx context.Context, a Adjustments, n int, refusal error) error {
	var (
		left    []Line // that can't be undone
		problem error  // why
	)
	for n, line := range slices.Backward(a.Lines[:n]) {
		r := a.unline(n)
		_, err := c.level(ctx, r, Level{})
		var e *Error
		switch {
		case err == nil:
		case errors.As(err, &e) && e.final():
			left = append(left, line)
			problem = err
		default:
			return partial(a, append(left, a.Lines[:n+1]...), r, line, refusal, err)
		}
	}
	if problem != nil {
		return &PartialError{Key: a.IdempotencyKey, Applied: left, Refusal: refusal, Err: problem}
	}
	return refusal
}

// partial returns err, of call r for a line, as a [PartialError] if any part of the
// order is or may be applied.
func partial(a Adjustments, applied []Line, r *call, line Line, refusal, err error) error {
	e := &PartialError{Key: a.IdempotencyKey, Applied: applied, Refusal: refusal, Err: err}
	if r.inDoubt {
		e.InDoubt = []Line{line}
		e.Applied = slices.DeleteFunc(slices.Clone(applied), func(l Line) bool { return l == line })
	}
	if len(e.Applied) == 0 && len(e.InDoubt) == 0 {
		return err
	}
	return e
}

// A PartialError is an order that AdjustAll left partly applied. The same call again
// continues it. It reports the answers to this call: an earlier call may have
// progressed further, both in adjusting and in undoing.
//
// It has the meaning of Err: errors.Is and errors.As see Err, and not Refusal, since
// a refused order is not finished before it is undone.
//
// If Err is not worth a retry, the order stays as it is until someone acts. Possible
// causes are an API that refuses to undo, stock that was added and can no longer be
// taken back, another order under the same key, or a refusal that does not come from
// the API itself but from a proxy, for example.
type PartialError struct {
	// Key is the order's idempotency key.
	Key string
	// Applied are the lines that are applied, and not undone.
	Applied []Line
	// InDoubt is the line whose request, to apply or to undo it, got no answer;
	// empty if there is none.
	InDoubt []Line
	// Refusal is why AdjustAll was undoing the order; nil if it was not.
	Refusal error
	// Err is why it could not continue.
	Err error
}

// Error lists the lines by their state.
func (e *PartialError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "inventory: "+opAll+" %q: ", cut(e.Key, maxWord))
	if e.Refusal != nil {
		b.WriteString("undone in part")
	} else {
		b.WriteString("done in part")
	}
	tell(&b, "applied", e.Applied)
	tell(&b, "in doubt", e.InDoubt)
	if e.Refusal != nil {
		fmt.Fprintf(&b, "; to be undone because: %v", e.Refusal)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	return b.String()
}

// tell appends the first few of the lines.
func tell(b *strings.Builder, what string, lines []Line) {
	const few = 5
	if len(lines) == 0 {
		return
	}
	b.WriteString("; " + what + ":")
	for _, line := range lines[:min(few, len(lines))] {
		fmt.Fprintf(b, " %q %+d", cut(line.SKU, maxWord), line.Delta)
	}
	if len(lines) > few {
		fmt.Fprintf(b, " and %d more", len(lines)-few)
	}
}

// Reason is "partial": a dead-letter record needs the state more than the cause.
func (e *PartialError) Reason() string { return "partial" }

// Unwrap returns Err.
func (e *PartialError) Unwrap() error { return e.Err }
