package inventory_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/inventory"
	"github.com/rampmeter/rampmeter/inventory/inventorytest"
)

// The server gives every response that openapi.yaml describes, with a code of the
// description, and the client understands it; and there are no others.
func TestDescriptionServerAndClientAgree(t *testing.T) {
	text, err := os.ReadFile("openapi.yaml")
	require.NoError(t, err)
	described := make(map[string]bool) // "get /v1/levels 200"
	var path, method string
	for line := range strings.SplitSeq(string(text), "\n") {
		if m := regexp.MustCompile(`^  (/\S+):$`).FindStringSubmatch(line); m != nil {
			path = m[1]
		} else if m := regexp.MustCompile(`^    (get|post|put|patch|delete):$`).FindStringSubmatch(line); m != nil {
			method = m[1]
		} else if m := regexp.MustCompile(`^        "(\d{3})":`).FindStringSubmatch(line); m != nil {
			described[method+" "+path+" "+m[1]] = true
		}
	}
	enum := regexp.MustCompile(`enum: \[(.*)\]`).FindSubmatch(text)
	require.NotNil(t, enum)
	codes := strings.Split(string(enum[1]), ", ")
	require.ElementsMatch(t, []string{
		inventory.CodeNotFound, inventory.CodeConflict, inventory.CodeOutOfStock, inventory.CodeChanged, inventory.CodeInvalid,
		inventory.CodeUnauthorized, inventory.CodeThrottled, inventory.CodeUnavailable,
	}, codes)

	api, client := newServer(t, inventorytest.Config{Transactions: true}, inventory.Config{})
	_, err = client.Adjust(t.Context(), take(1))
	require.NoError(t, err)

	const levels, levelA, adjustments, transactions = "http://x/v1/levels", "http://x/v1/levels/A", "http://x/v1/adjustments", "http://x/v1/transactions"
	const good = `{"sku":"A","delta":-1,"reference":"r"}`
	lines := func(lines string) string { return `{"reference":"r","lines":[` + lines + `]}` }
	type request struct{ method, url, path, key, body, ifMatch, ifNone string }
	requests := []request{
		{method: "get", url: levels, path: "/v1/levels"},
		{method: "get", url: levels + "?limit=0", path: "/v1/levels"},
		{method: "get", url: levels + "?cursor=!", path: "/v1/levels"},
		{method: "get", url: levelA, path: "/v1/levels/{sku}"},
		{method: "get", url: levels + "/nope", path: "/v1/levels/{sku}"},
		{method: "post", url: adjustments, path: "/v1/adjustments", key: "k", body: good},
		{method: "post", url: adjustments, path: "/v1/adjustments", key: "k", body: "{"},
		{method: "post", url: adjustments, path: "/v1/adjustments", key: "", body: good},
		{method: "post", url: adjustments, path: "/v1/adjustments", key: "key-1", body: good},
		{method: "post", url: adjustments, path: "/v1/adjustments", key: "l", body: `{"sku":"A","delta":-99,"reference":"r"}`},
		{method: "post", url: adjustments, path: "/v1/adjustments", key: "m", body: `{"sku":"B","delta":1,"reference":"r"}`},
		{method: "get", url: levelA, path: "/v1/levels/{sku}", ifNone: `"7", W/"x", "2"`}, // as the adjustments above leave it
		{method: "post", url: adjustments, path: "/v1/adjustments", key: "n", body: good, ifMatch: `"7"`},
		{method: "post", url: transactions, path: "/v1/transactions", key: "o", body: lines(`{"sku":"A","delta":-1}`)},
		{method: "post", url: transactions, path: "/v1/transactions", key: "p", body: "{"},
		{method: "post", url: transactions, path: "/v1/transactions", key: "q", body: lines(``)},
		{method: "post", url: transactions, path: "/v1/transactions", key: "k", body: lines(`{"sku":"A","delta":-1}`)},
		{method: "post", url: transactions, path: "/v1/transactions", key: "r", body: lines(`{"sku":"B","delta":-1}`)},
		{method: "post", url: transactions, path: "/v1/transactions", key: "s", body: lines(`{"sku":"A","delta":-99}`)},
		{method: "post", url: transactions, path: "/v1/transactions", key: "t", body: lines(`{"sku":"A","delta":-1},{"sku":"A","delta":-1}`)},
	}
	given := make(map[string]bool)
	for _, fault := range []inventorytest.Fault{0, inventorytest.Unavailable, inventorytest.Revoked, inventorytest.Throttle} {
		if fault != 0 {
			api.Break(inventorytest.Outage{Fault: fault})
		}
		for _, r := range requests {
			req, err := http.NewRequestWithContext(t.Context(), strings.ToUpper(r.method), r.url, strings.NewReader(r.body))
			require.NoError(t, err)
			req.Header.Set("Authorization", "Bearer "+token)
			req.Header.Set("Idempotency-Key", r.key)
			req.Header.Set("If-Match", r.ifMatch)
			req.Header.Set("If-None-Match", r.ifNone)
			res, err := api.Transport().RoundTrip(req)
			require.NoError(t, err)
			body, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			given[r.method+" "+r.path+" "+strconv.Itoa(res.StatusCode)] = true
			if res.StatusCode < 400 {
				continue
			}
			require.Equal(t, "application/problem+json", res.Header.Get("Content-Type"))
			var problem struct {
				Status int
				Code   string
			}
			require.NoError(t, json.Unmarshal(body, &problem))
			require.Equal(t, res.StatusCode, problem.Status)
			require.True(t, slices.Contains(codes, problem.Code), problem.Code)
			e := inventory.Error{Status: problem.Status, Code: problem.Code}
			require.Equal(t, problem.Code, e.Reason(), "the client takes it for another")
		}
	}
	require.Equal(t, described, given)
}
