package inventory_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/inventory"
	"github.com/rampmeter/rampmeter/inventory/inventorytest"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/retry"
)

func order(key string, lines ...inventory.Line) inventory.Adjustments {
	return inventory.Adjustments{Lines: lines, Reference: key, IdempotencyKey: key}
}

func line(sku string, delta int) inventory.Line { return inventory.Line{SKU: sku, Delta: delta} }

func TestAdjustAll(t *testing.T) {
	for _, transactions := range []bool{false, true} {
		var keys []string
		stock := map[string]int{"A": 5, "B": 5, "C": 5, "D": 5}
		api, _ := newServer(t, inventorytest.Config{Stock: stock, Transactions: true}, inventory.Config{})
		_, client := newServerTo(t, api, inventory.Config{Transactions: transactions}, func(r *http.Request) {
			keys = append(keys, r.URL.Path+" "+r.Header.Get("Idempotency-Key"))
		})
		a := order("o", line("C", 1), line("B", -2), line("D", -5), line("A", 3))
		want := []inventory.Level{{SKU: "C", Available: 6, ETag: `"1"`}, {SKU: "B", Available: 3, ETag: `"1"`}, {SKU: "D", ETag: `"1"`}, {SKU: "A", Available: 8, ETag: `"1"`}}
		levels, err := client.AdjustAll(t.Context(), a)
		require.NoError(t, err)
		require.Equal(t, want, levels, "in the order of the lines")
		require.Equal(t, map[string]int{"A": 8, "B": 3, "C": 6, "D": 0}, api.Stock())
		if transactions {
			require.Equal(t, []string{"/v1/transactions o/0"}, keys)
		} else {
			require.Equal(t, []string{"/v1/adjustments o/0", "/v1/adjustments o/1", "/v1/adjustments o/2", "/v1/adjustments o/3"}, keys)
		}
		slices.Reverse(a.Lines) // it is the same order
		slices.Reverse(want)
		levels, err = client.AdjustAll(t.Context(), a)
		require.NoError(t, err)
		require.Equal(t, want, levels)
		require.Equal(t, 4, api.Stats().AppliedOnce)
		require.Zero(t, api.Stats().AppliedTwice)

		// Refused: nothing of it remains, now and when it is repeated.
		before := api.Stock()
		for range 2 {
			_, err = client.AdjustAll(t.Context(), order("p", line("A", -1), line("B", -4), line("C", -1), line("D", 7)))
			require.ErrorIs(t, err, inventory.ErrOutOfStock)
			require.ErrorIs(t, err, retry.ErrPermanent)
			require.Equal(t, "out_of_stock", retry.Reason(err))
			require.ErrorContains(t, err, `only 3 of "B" are left`)
			require.Equal(t, before, api.Stock())
		}
		require.Zero(t, api.Stats().AppliedTwice)

		// Other lines under the same key.
		for _, lines := range [][]inventory.Line{
			{line("B", -1), line("D", -5)},
			{line("B", -2), line("D", -1)}, // after one that was made, for the order that has the key
		} {
			_, err = client.AdjustAll(t.Context(), order("o", lines...))
			require.ErrorIs(t, err, inventory.ErrConflict)
			require.ErrorIs(t, err, retry.ErrPermanent)
			require.Equal(t, before, api.Stock())
		}
	}
}

// newServerTo returns another client of a server, whose requests are seen.
func newServerTo(t *testing.T, api *inventorytest.Server, with inventory.Config, see func(*http.Request)) (*inventorytest.Server, *inventory.Client) {
	t.Helper()
	with.BaseURL, with.Token, with.Transport = "http://inventory.test", token, api.Transport()
	client, err := inventory.New(with.WithTransport(func(base http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			see(r)
			return base.RoundTrip(r)
		})
	}))
	require.NoError(t, err)
	return api, client
}

func TestAdjustAllRefusesWithoutARequest(t *testing.T) {
	many := make([]inventory.Line, 101)
	for i := range many {
		many[i] = line(fmt.Sprint("s", i), 1)
	}
	api, client := newServer(t, inventorytest.Config{}, inventory.Config{})
	good := order("o", line("A", 1))
	for want, change := range map[string]func(*inventory.Adjustments){
		"there are 0 lines":              func(a *inventory.Adjustments) { a.Lines = nil },
		"there are 101 lines":            func(a *inventory.Adjustments) { a.Lines = many },
		"Lines[0]: sku is empty":         func(a *inventory.Adjustments) { a.Lines = []inventory.Line{{Delta: 1}} },
		"Lines[1]: delta is 0":           func(a *inventory.Adjustments) { a.Lines = append(a.Lines, line("B", 0)) },
		"Lines[1]: delta is too large":   func(a *inventory.Adjustments) { a.Lines = append(a.Lines, line("B", math.MinInt)) },
		"Lines[1]: its sku is in anothe": func(a *inventory.Adjustments) { a.Lines = append(a.Lines, line("A", 2)) },
		"reference is empty":             func(a *inventory.Adjustments) { a.Reference = "" },
		"key is empty":                   func(a *inventory.Adjustments) { a.IdempotencyKey = "" },
		"key is longer than 240":         func(a *inventory.Adjustments) { a.IdempotencyKey = strings.Repeat("k", 241) },
	} {
		a := good
		a.Lines = slices.Clone(a.Lines)
		change(&a)
		_, err := client.AdjustAll(t.Context(), a)
		require.ErrorIs(t, err, inventory.ErrInvalid, want)
		require.ErrorContains(t, err, want)
	}
	require.Zero(t, api.Stats().Requests)
	longest := good
	longest.IdempotencyKey = strings.Repeat("k", 240)
	longest.Lines = append(slices.Clone(many[:99]), line("A", -99))
	_, err := client.AdjustAll(t.Context(), longest)
	require.ErrorIs(t, err, inventory.ErrOutOfStock, "and all keys fit")
}

// A saboteur passes requests on, except for some, which fail in one way each.
type saboteur struct {
	base http.RoundTripper
	seen int
	fail map[int]string // by number of the request
	stop context.CancelFunc
}

var sabotages = []string{"refused", "lost", "crash before", "crash after", "429", "503", "401", "teapot"}

func (s *saboteur) RoundTrip(r *http.Request) (*http.Response, error) {
	how := s.fail[s.seen]
	s.seen++
	answer := func(status int) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: http.Header{}}, nil
	}
	switch how {
	case "refused":
		return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	case "429":
		return answer(429)
	case "503":
		return answer(503)
	case "401":
		return answer(401)
	case "teapot": // a refusal that is not the API's
		return answer(418)
	case "crash before":
		s.stop()
		return nil, context.Cause(r.Context())
	}
	res, err := s.base.RoundTrip(r)
	switch how {
	case "lost":
		return nil, &net.OpError{Op: "read", Err: errors.New("connection reset")}
	case "crash after":
		s.stop()
		return nil, context.Cause(r.Context())
	}
	return res, err
}

// If any two requests fail in any way, a repeated order has the same result as
// without failures: all or nothing, each change made once. Between the calls the
// state is as the error says.
func TestAdjustAllAfterACrashAnywhere(t *testing.T) {
	const requests = 8 // 4 lines and, at the most, 3 undone and one refused
	second := requests
	if testing.Short() {
		second = 1
	}
	stock := map[string]int{"A": 5, "B": 5, "C": 5, "D": 5}
	runs := 0
	for refused := -1; refused < 4; refused++ {
		a := order("o", line("A", -1), line("B", -2), line("C", 3), line("D", 4))
		if refused >= 0 {
			a.Lines[refused].SKU = string("ABCD"[refused]) + "-unknown" // the same position in the order
		}
		for first := range requests {
			for _, how := range sabotages {
				for again := range second {
					for _, how2 := range sabotages {
						if again == 0 && how2 != sabotages[0] {
							continue // no second failure
						}
						fail := map[int]string{first: how}
						if again > 0 {
							fail[first+again] = how2
						}
						runs++
						err := crash(stock, a, refused, fail)
						require.NoError(t, err, "line %d refused, request %d: %s, request %d: %s", refused, first, how, first+again, how2)
					}
				}
			}
		}
	}
	t.Log(runs, "runs")
}

func crash(stock map[string]int, a inventory.Adjustments, refused int, fail map[int]string) error {
	api, err := inventorytest.New(inventorytest.Config{Stock: stock, KeepArrivals: -1})
	if err != nil {
		return err
	}
	s := &saboteur{base: api.Transport(), fail: fail}
	client, err := inventory.New(inventory.Config{BaseURL: "http://inventory.test", Token: token, Transport: s})
	if err != nil {
		return err
	}
	for call := range 4 {
		ctx, stop := context.WithCancel(context.Background())
		s.stop = stop
		_, err = client.AdjustAll(ctx, a)
		stop()
		if err := truthful(api.Stock(), stock, a, call == 0, err); err != nil {
			return err
		}
		if err == nil || errors.Is(err, inventory.ErrNotFound) {
			break
		}
	}
	switch {
	case refused < 0 && err != nil:
		return fmt.Errorf("not done: %w", err)
	case refused >= 0 && !errors.Is(err, inventory.ErrNotFound):
		return fmt.Errorf("not refused: %w", err)
	case api.Stats().AppliedTwice > 0:
		return errors.New("made twice")
	}
	return api.Close()
}

// truthful compares the error of a first call with the API's state. Later calls only
// know their own progress.
func truthful(now, before map[string]int, a inventory.Adjustments, first bool, err error) error {
	part := &inventory.PartialError{}
	partial := errors.As(err, &part)
	if err == nil {
		part.Applied = a.Lines
	}
	final := err == nil || errors.Is(err, inventory.ErrNotFound)
	if partial && (final || len(part.Applied)+len(part.InDoubt) == 0) || len(part.InDoubt) > 1 {
		return fmt.Errorf("what can't be: %w", err)
	}
	for _, l := range a.Lines {
		if _, ok := before[l.SKU]; !ok {
			continue
		}
		want, is := 0, now[l.SKU]-before[l.SKU]
		if slices.Contains(part.Applied, l) {
			want = l.Delta
		}
		switch {
		case is != 0 && is != l.Delta, is != want && (first || final) && !slices.Contains(part.InDoubt, l):
			return fmt.Errorf("%v is by %+d: %w", l, is, err)
		}
	}
	return nil
}

func TestPartialError(t *testing.T) {
	stock := map[string]int{"A": 5, "B": 5, "C": 5}
	api, _ := newServer(t, inventorytest.Config{Stock: stock}, inventory.Config{})
	s := &saboteur{base: api.Transport()}
	client, err := inventory.New(inventory.Config{BaseURL: "http://inventory.test", Token: token, Transport: s})
	require.NoError(t, err)
	a := order("o", line("A", -1), line("B", -2), line("C", -9))

	s.fail = map[int]string{1: "429"}
	_, err = client.AdjustAll(t.Context(), a)
	require.EqualError(t, err, `inventory: adjust all "o": done in part; applied: "A" -1: inventory: adjust "B": 429 Too Many Requests`)
	require.ErrorIs(t, err, inventory.ErrThrottled)
	require.ErrorIs(t, err, limiter.ErrOverload)

	s.seen, s.fail = 0, map[int]string{1: "lost"}
	_, err = client.AdjustAll(t.Context(), a)
	require.EqualError(t, err, `inventory: adjust all "o": done in part; applied: "A" -1; in doubt: "B" -2: inventory: adjust "B": read: connection reset`)
	require.ErrorIs(t, err, limiter.ErrUnavailable)

	s.seen, s.fail = 0, map[int]string{4: "503"}
	_, err = client.AdjustAll(t.Context(), a)
	var part *inventory.PartialError
	require.ErrorAs(t, err, &part)
	require.Equal(t, []inventory.Line{line("A", -1)}, part.InDoubt)
	require.Empty(t, part.Applied)
	require.ErrorIs(t, part.Refusal, inventory.ErrOutOfStock)
	require.NotErrorIs(t, err, retry.ErrPermanent, "it is not done with")
	require.EqualError(t, err, `inventory: adjust all "o": undone in part; in doubt: "A" -1; to be undone because: `+
		`inventory: adjust "C": 422 out_of_stock: only 5 of "C" are left (request r-6): inventory: adjust "A": 503 Service Unavailable`)

	s.fail = nil
	_, err = client.AdjustAll(t.Context(), a)
	require.ErrorIs(t, err, inventory.ErrOutOfStock)
	require.False(t, errors.As(err, &part))
	require.Equal(t, stock, api.Stock())

	// The added stock is gone when it must be taken back.
	a = order("p", line("A", -1), line("B", 1), line("C", 2), line("D", 1))
	s.seen, s.fail = 0, map[int]string{3: "429"}
	_, err = client.AdjustAll(t.Context(), a)
	require.ErrorIs(t, err, inventory.ErrThrottled)
	_, err = client.Adjust(t.Context(), inventory.Adjustment{SKU: "C", Delta: -6, Reference: "q", IdempotencyKey: "q"})
	require.NoError(t, err)
	for range 2 {
		_, err = client.AdjustAll(t.Context(), a)
		require.ErrorAs(t, err, &part)
		require.Equal(t, []inventory.Line{line("C", 2)}, part.Applied)
		require.Empty(t, part.InDoubt)
		require.ErrorIs(t, part.Refusal, inventory.ErrNotFound)
		require.ErrorIs(t, err, retry.ErrPermanent)
		require.Equal(t, "partial", retry.Reason(err))
	}
	require.Equal(t, map[string]int{"A": 5, "B": 5, "C": 1}, api.Stock())

	// The error abbreviates many lines.
	many := inventory.PartialError{Key: "k", Err: errors.New("late")}
	for i := range 100 {
		many.Applied = append(many.Applied, line(strings.Repeat("s", 1000), i))
	}
	require.Less(t, len(many.Error()), 600)
	require.ErrorContains(t, &many, "and 95 more: late")
}

// An order that was begun in one way and repeated in the other is refused, not
// applied twice.
func TestAdjustAllTheOtherWay(t *testing.T) {
	for _, transactions := range []bool{false, true} {
		api, first := newServer(t, inventorytest.Config{Transactions: true}, inventory.Config{Transactions: transactions})
		_, second := newServerTo(t, api, inventory.Config{Transactions: !transactions}, func(*http.Request) {})
		a := order("o", line("A", -1))
		_, err := first.AdjustAll(t.Context(), a)
		require.NoError(t, err)
		_, err = second.AdjustAll(t.Context(), a)
		require.ErrorIs(t, err, inventory.ErrConflict)
		require.Equal(t, 9, api.Stock()["A"])
	}
	// An API without transactions is not the order's fault.
	_, client := newServer(t, inventorytest.Config{}, inventory.Config{Transactions: true})
	_, err := client.AdjustAll(t.Context(), order("o", line("A", -1)))
	require.ErrorIs(t, err, limiter.ErrMisconfigured)
	require.NotErrorIs(t, err, retry.ErrPermanent)
}

// Orders for the same goods, each delivered several times concurrently, over a
// network that loses requests and answers: each is applied once as a whole, or not
// at all.
func TestAdjustAllUnderCompetition(t *testing.T) {
	seed := testrun.Seed(t)
	for _, transactions := range []bool{false, true} {
		r := rand.New(rand.NewPCG(seed, 0))
		stock := map[string]int{"A": 20, "B": 20, "C": 20, "D": 20}
		api, err := inventorytest.New(inventorytest.Config{Stock: stock, Transactions: true})
		require.NoError(t, err)
		var mu sync.Mutex // guards r
		lossy := roundTripper(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			fate := r.IntN(10)
			mu.Unlock()
			if fate == 0 {
				return nil, errors.New("not sent")
			}
			res, err := api.Transport().RoundTrip(req)
			if fate == 1 {
				return nil, errors.New("lost")
			}
			return res, err
		})
		client, err := inventory.New(inventory.Config{BaseURL: "http://inventory.test", Token: token, Transport: lossy, Transactions: transactions})
		require.NoError(t, err)
		const orders = 40
		var done [orders]map[bool]bool // by whether it was made
		var wg sync.WaitGroup
		var want [orders]inventory.Adjustments
		for i := range orders {
			done[i] = make(map[bool]bool)
			for _, sku := range r.Perm(4)[:2+r.IntN(3)] {
				want[i].Lines = append(want[i].Lines, line("ABCD"[sku:sku+1], -1-r.IntN(3)))
			}
			want[i].Reference, want[i].IdempotencyKey = fmt.Sprint(i), fmt.Sprint(i)
		}
		for i := range orders {
			for range 3 {
				wg.Go(func() {
					for {
						_, err := client.AdjustAll(t.Context(), want[i])
						if err == nil || errors.Is(err, retry.ErrPermanent) {
							mu.Lock()
							done[i][err == nil] = true
							mu.Unlock()
							return
						}
					}
				})
			}
		}
		wg.Wait()
		made := 0
		for i := range orders {
			require.Len(t, done[i], 1, "seed %d: order %d has two ends", seed, i)
			if done[i][true] {
				made++
				for _, l := range want[i].Lines {
					stock[l.SKU] += l.Delta
				}
			}
		}
		require.Equal(t, stock, api.Stock(), "seed %d", seed)
		require.Zero(t, api.Stats().AppliedTwice, "seed %d", seed)
		require.Positive(t, made, "seed %d", seed)
		require.Less(t, made, orders, "seed %d", seed)
		require.NoError(t, api.Close())
	}
}
