package inventory_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/inventory"
	"github.com/rampmeter/rampmeter/inventory/inventorytest"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/retry"
)

func TestRefresh(t *testing.T) {
	api, client := newServer(t, inventorytest.Config{}, inventory.Config{})
	first, err := client.Refresh(t.Context(), inventory.Level{SKU: "A"})
	require.NoError(t, err)
	require.Equal(t, inventory.Level{SKU: "A", Available: 10, ETag: `"0"`}, first)
	again, err := client.Refresh(t.Context(), first)
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.Equal(t, map[int]int{200: 1, 304: 1}, api.Stats().Status)
	adjusted, err := client.Adjust(t.Context(), take(3))
	require.NoError(t, err)
	again, err = client.Refresh(t.Context(), first)
	require.NoError(t, err)
	require.Equal(t, inventory.Level{SKU: "A", Available: 7, ETag: `"1"`}, again)
	require.Equal(t, adjusted, again)
	for level, err := range client.Levels(t.Context(), inventory.LevelsOptions{}) {
		require.NoError(t, err)
		require.Equal(t, again, level)
	}

	// A level that was stored as JSON works as well.
	text, err := json.Marshal(again)
	require.NoError(t, err)
	require.JSONEq(t, `{"sku":"A","available":7,"etag":"\"1\""}`, string(text))
	var kept inventory.Level
	require.NoError(t, json.Unmarshal(text, &kept))
	require.Equal(t, again, kept)

	before := api.Stats().Requests
	for _, bad := range []string{"1", `"`, `"a"b"`, "\"\r\nX: y\"", `w/"1"`, `"` + strings.Repeat("x", 255) + `"`} {
		_, err = client.Refresh(t.Context(), inventory.Level{SKU: "A", ETag: bad})
		require.ErrorIs(t, err, inventory.ErrInvalid, bad)
		a := take(1)
		a.IfMatch = bad
		_, err = client.Adjust(t.Context(), a)
		require.ErrorIs(t, err, inventory.ErrInvalid, bad)
	}
	weak := take(1)
	weak.IfMatch = `W/"1"`
	_, err = client.Adjust(t.Context(), weak)
	require.ErrorIs(t, err, inventory.ErrInvalid)
	require.ErrorContains(t, err, "weak")
	require.Equal(t, before, api.Stats().Requests)
}

// A "not modified" without a conditional request is an error.
func TestNotModifiedWithoutBeingAsked(t *testing.T) {
	_, client := hostile(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }, inventory.Config{})
	_, err := client.Level(t.Context(), "A")
	require.ErrorIs(t, err, limiter.ErrMisconfigured)
	_, err = client.Adjust(t.Context(), take(1))
	require.ErrorIs(t, err, limiter.ErrMisconfigured)
}

func TestETagsOfResponses(t *testing.T) {
	for header, want := range map[string]string{
		`"x"`: `"x"`, `W/"x"`: `W/"x"`, `""`: `""`, `x`: "", `"x`: "", `"x y"`: "", `"x", "y"`: "", `"` + strings.Repeat("x", 300) + `"`: "",
	} {
		_, client := hostile(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", header)
			_, _ = w.Write([]byte(`{"sku":"A","available":1}`))
		}, inventory.Config{})
		level, err := client.Level(t.Context(), "A")
		require.NoError(t, err)
		require.Equal(t, want, level.ETag, header)
	}
	for _, etag := range []string{`7`, `"x"`, `"\"\n\""`, `{}`} {
		_, client := hostile(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprintf(w, `{"sku":"A","available":1,"etag":%s}`, etag)
		}, inventory.Config{})
		_, err := client.Level(t.Context(), "A")
		require.ErrorIs(t, err, inventory.ErrUnavailable, etag)
	}
}

// Many callers decide on a level that they have read: each decision applies to the
// level it was made for, although answers are lost.
func TestIfMatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards n
		n := 0
		api, _ := newServer(t, inventorytest.Config{Stock: map[string]int{"A": 0}, Latency: time.Second}, inventory.Config{})
		_, client := newServer(t, inventorytest.Config{}, inventory.Config{
			Retry: &retry.Policy{MaxAttempts: 50},
			Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				res, err := api.Transport().RoundTrip(r)
				mu.Lock()
				defer mu.Unlock()
				if n++; n%3 == 0 {
					return nil, errors.New("lost")
				}
				return res, err
			}),
		})
		// All add ten as long as there are not a hundred.
		var wg sync.WaitGroup
		changed := 0
		for i := range 8 {
			wg.Go(func() {
				for {
					seen, err := client.Level(t.Context(), "A")
					if err != nil {
						t.Error(err)
						return
					}
					if seen.Available >= 100 {
						return
					}
					key := fmt.Sprint("fill-", i, seen.ETag)
					_, err = client.Adjust(t.Context(), inventory.Adjustment{
						SKU: "A", Delta: 10, Reference: key, IdempotencyKey: key, IfMatch: seen.ETag,
					})
					if errors.Is(err, inventory.ErrChanged) {
						mu.Lock()
						changed++
						mu.Unlock()
					} else if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		require.Equal(t, 100, api.Stock()["A"])
		require.Equal(t, 10, api.Stats().AppliedOnce)
		require.Positive(t, changed)

		late := inventory.Adjustment{SKU: "A", Delta: 10, Reference: "late", IdempotencyKey: "late", IfMatch: `"3"`}
		_, err := client.Adjust(t.Context(), late)
		require.ErrorIs(t, err, inventory.ErrChanged)
		require.NotErrorIs(t, err, retry.ErrPermanent, "it succeeds when it is decided again")
		require.NotErrorIs(t, err, retry.ErrExhausted, "but not when it is just sent again")
		require.Equal(t, 100, api.Stock()["A"])
		late.IfMatch = ""
		_, err = client.Adjust(t.Context(), late)
		require.ErrorIs(t, err, inventory.ErrConflict, "another adjustment")
	})
}
