package main

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/http"
	"time"

	"github.com/rampmeter/rampmeter/examples/orders/order"
	"github.com/rampmeter/rampmeter/inventory"
	"github.com/rampmeter/rampmeter/inventory/inventorytest"
	"github.com/rampmeter/rampmeter/limiter"
)

// An API is the third party's inventory API, as a server on loopback, with a
// client.
type API struct {
	server *inventorytest.Server
	Client *inventory.Client
}

const apiToken = "orders-example"

// NewAPI starts the API. Its outage begins in the middle of the spike, counted
// from now. Each of the client's requests acquires limit, nil for none. The
// client does not retry.
func NewAPI(s Settings, sp Spike, limit limiter.Limiter) (*API, error) {
	stock := make(map[string]int, len(skus))
	for _, sku := range skus {
		stock[sku] = len(sp.Arrivals) * order.MaxQuantity // nothing is ever out of stock
	}
	from, to := sp.Outage(s)
	server, err := inventorytest.New(inventorytest.Config{
		Token: apiToken, Stock: stock,
		Rate: s.Rate, Burst: s.APIBurst(), Concurrency: s.Concurrency,
		LatencyFunc: latency,
		Outages:     []inventorytest.Outage{{From: from, To: to, Fault: inventorytest.Unavailable}},
	})
	if err != nil {
		return nil, err
	}
	url, err := server.Start()
	if err != nil {
		return nil, err
	}
	client, err := inventory.New(inventory.Config{BaseURL: url, Token: apiToken, Limiter: limit})
	if err != nil {
		return nil, errors.Join(err, server.Close())
	}
	return &API{server: server, Client: client}, nil
}

// latency is 20 to 40 ms, always the same for the same order.
func latency(r *http.Request) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(r.Header.Get("Idempotency-Key"))) // never fails
	return 20*time.Millisecond + time.Duration(h.Sum32()%20_000)*time.Microsecond
}

// Close stops the server and returns what it recorded.
func (a *API) Close() (inventorytest.Stats, []inventorytest.Arrival) {
	a.Client.CloseIdleConnections()
	_ = a.server.Close() // no request is left to interrupt
	return a.server.Stats(), a.server.Arrivals()
}

// Outage returns when the API is down, counted from the spike's first moment.
func (sp Spike) Outage(s Settings) (from, to time.Duration) {
	return sp.Length / 2, sp.Length/2 + s.Outage
}

// serve serves h on loopback until the returned function is called.
func serve(h http.Handler) (url string, stop func(), err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("start the front door: %w", err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(ln) // until it is closed, as its error says
	}()
	return "http://" + ln.Addr().String(), func() {
		_ = server.Close() // all answers have been read
		<-done
	}, nil
}
