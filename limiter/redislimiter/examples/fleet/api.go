package main

import (
	"fmt"
	"hash/fnv"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/inventory/inventorytest"
)

// An Order is what a message carries: one of a SKU.
type Order struct {
	ID  string `json:"id"`
	SKU string `json:"sku"`
}

const sku = "SOCK-42"

// An API is the third party's inventory API on loopback. It has the fleet's
// limits, and keeps a record of who asked when.
type API struct {
	server  *inventorytest.Server
	http    *http.Server
	url     string
	serving sync.WaitGroup

	mu       sync.Mutex // guards what follows
	arrivals []arrival
	done     map[string]bool // orders that were answered with success
	open     int             // requests that are being answered
	busy     time.Duration   // integral of open over time, until changed
	changed  time.Time
}

// An arrival is a request.
type arrival struct {
	at     time.Time
	worker string
}

// NewAPI starts the API.
func NewAPI(s Settings) (*API, error) {
	server, err := inventorytest.New(inventorytest.Config{
		Stock: map[string]int{sku: 1 << 30},
		Rate:  s.Rate, Burst: s.APIBurst(), Concurrency: s.Concurrency,
		LatencyFunc: func(r *http.Request) time.Duration { return latency(r.Header.Get("Idempotency-Key"), s.Latency) },
	})
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the API: %w", err)
	}
	a := &API{server: server, url: "http://" + ln.Addr().String(), done: make(map[string]bool)}
	a.http = &http.Server{Handler: a, ReadHeaderTimeout: 10 * time.Second}
	a.serving.Go(func() { _ = a.http.Serve(ln) }) // until Close, as its error says
	return a, nil
}

// latency is from half of the mean to one and a half of it, always the same
// for the same order.
func latency(order string, mean time.Duration) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(order)) // never fails
	return mean/2 + time.Duration(float64(mean)*float64(h.Sum32()%1024)/1024)
}

// URL is where the API is.
func (a *API) URL() string { return a.url }

// ServeHTTP implements [http.Handler].
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.arrivals = append(a.arrivals, arrival{time.Now(), r.Header.Get(workerHeader)})
	a.change(1)
	a.mu.Unlock()
	seen := &statusWriter{ResponseWriter: w, status: http.StatusOK}
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.change(-1)
		if seen.status == http.StatusOK {
			a.done[r.Header.Get("Idempotency-Key")] = true
		}
	}()
	a.server.ServeHTTP(seen, r)
}

// change changes how many requests are open. a.mu is held.
func (a *API) change(by int) {
	now := time.Now()
	a.busy += time.Duration(a.open) * now.Sub(a.changed)
	a.open, a.changed = a.open+by, now
}

// A statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Done returns whether an order was answered with success.
func (a *API) Done(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.done[id]
}

// Served returns how many orders were, and how many requests are open.
func (a *API) Served() (done, open int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.done), a.open
}

// Busy returns the time that all requests have taken so far, added up.
func (a *API) Busy() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.change(0)
	return a.busy
}

// Stats returns what the API's own limits say of the traffic.
func (a *API) Stats() inventorytest.Stats { return a.server.Stats() }

// Close stops the API.
func (a *API) Close() {
	_ = a.server.Close()
	_ = a.http.Close() // no request is left that could be harmed
	a.serving.Wait()
}

// Record returns the requests so far, from the first on.
func (a *API) Record() Record {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append(Record(nil), a.arrivals...)
}
