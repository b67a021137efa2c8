package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/examples/orders/order"
	"github.com/rampmeter/rampmeter/inventory"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
)

const goodOrder = `{"id":"o-1","sku":"SOCK-42","quantity":2,"customer":"Zoë"}`

// post sends a request to a front door and returns the answer and its problem.
func post(t *testing.T, d FrontDoor, method, path, media, body string) (*http.Response, problem) {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", media)
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	res := w.Result()
	var p problem
	if res.StatusCode == http.StatusOK {
		rest, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Empty(t, rest)
		return res, p
	}
	require.Equal(t, "application/problem+json", res.Header.Get("Content-Type"))
	require.NoError(t, json.NewDecoder(res.Body).Decode(&p))
	require.Equal(t, res.StatusCode, p.Status)
	require.NotEmpty(t, p.Detail)
	return res, p
}

func TestFrontDoorRefuses(t *testing.T) {
	d := FrontDoor{Submit: func(context.Context, order.Order) error { panic("an order was let through") }}

	for name, bad := range map[string]struct{ body, field string }{
		"empty":         {``, "body"},
		"cut off":       {goodOrder[:20], "body"},
		"no fields":     {`{}`, "id"},
		"unknown field": {`{"id":"o-1","colour":"red"}`, `"colour"`},
		"quantity 0":    {strings.Replace(goodOrder, `2,`, `0,`, 1), "quantity"},
	} {
		t.Run(name, func(t *testing.T) {
			res, p := post(t, d, "POST", "/orders", "application/json", bad.body)
			require.Equal(t, 400, res.StatusCode)
			require.Equal(t, bad.field, p.Field)
			require.Contains(t, p.Detail, bad.field)
		})
	}
	for name, c := range map[string]struct {
		method, path, media, body string
		status                    int
	}{
		"oversized":          {"POST", "/orders", "application/json", strings.Repeat(" ", maxOrder) + goodOrder, 413},
		"GET":                {"GET", "/orders", "application/json", "", 405},
		"PUT":                {"PUT", "/orders", "application/json", goodOrder, 405},
		"form":               {"POST", "/orders", "application/x-www-form-urlencoded", goodOrder, 415},
		"no content type":    {"POST", "/orders", "", goodOrder, 415},
		"other path":         {"POST", "/orders/1", "application/json", goodOrder, 404},
		"not quite the path": {"POST", "/ordersx", "application/json", goodOrder, 404},
	} {
		t.Run(name, func(t *testing.T) {
			res, _ := post(t, d, c.method, c.path, c.media, c.body)
			require.Equal(t, c.status, res.StatusCode)
			require.Equal(t, c.status == 405, res.Header.Get("Allow") == "POST")
		})
	}
}

func TestFrontDoorQueues(t *testing.T) {
	q, err := memqueue.New(memqueue.Config{})
	require.NoError(t, err)
	d := FrontDoor{Submit: Enqueue(q)}
	res, _ := post(t, d, "POST", "/orders", "application/json; charset=utf-8", goodOrder)
	require.Equal(t, 200, res.StatusCode)

	msgs, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 10, Lease: time.Minute})
	require.NoError(t, err)
	require.Len(t, msgs, 1)
	require.Equal(t, goodOrder, string(msgs[0].Body))
	require.Equal(t, map[string]string{order.IDAttribute: "o-1"}, msgs[0].Attributes)

	q.Close() // a queue that accepts nothing: the customer must not get 200
	res, _ = post(t, d, "POST", "/orders", "application/json", goodOrder)
	require.Equal(t, 502, res.StatusCode)
}

func TestFrontDoorWhenTheDownstreamFails(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status int
	}{
		"throttled":    {&inventory.Error{Status: 429, Code: inventory.CodeThrottled}, 503},
		"unavailable":  {&inventory.Error{Status: 500}, 503},
		"unknown SKU":  {&inventory.Error{Status: 404, Code: inventory.CodeNotFound}, 422},
		"unauthorized": {&inventory.Error{Status: 401}, 503},
		"other":        {errors.New("secret of the house"), 502},
	} {
		t.Run(name, func(t *testing.T) {
			d := FrontDoor{Submit: func(context.Context, order.Order) error { return c.err }}
			res, p := post(t, d, "POST", "/orders", "application/json", goodOrder)
			require.Equal(t, c.status, res.StatusCode)
			require.NotContains(t, p.Detail, "secret")
		})
	}
}
