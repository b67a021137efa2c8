//go:build unix

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"
)

// An apiSpec describes how an API behaves.
type apiSpec struct {
	Rate       float64       // requests a second; 0: any number
	Burst      int           // of them at once
	RetryAfter time.Duration // of a refusal, in whole seconds; 0: none
	Noise      float64       // share of the requests that are refused at any rate
	Down, Up   time.Duration // down from then, and until then, after the first request
}

// An api is an HTTP server that takes 15 to 25 ms for a request, refuses excess
// requests with 429, and counts. Each client names itself in a header.
type api struct {
	spec   apiSpec
	server http.Server
	url    string

	mu      sync.Mutex
	random  *rand.Rand
	began   time.Time // of the first request
	tokens  float64
	filled  time.Time
	paused  map[string]time.Time // by client, until when it was asked to wait
	seconds []second
	inPause int
	met     []time.Duration // requests to an API that was down, after the first one
}

// A second has the counts of one second.
type second struct {
	Accepted int `json:"accepted"`
	Refused  int `json:"refused"`
	Failed   int `json:"failed"`
}

const (
	clientHeader = "Bench-Client"
	apiLeast     = 15 * time.Millisecond // that a request takes
	apiMost      = 25 * time.Millisecond
	// A request that was sent before a pause began may still arrive.
	underWay = 100 * time.Millisecond
)

// startAPI starts an API; close stops it.
func startAPI(ctx context.Context, spec apiSpec, seed uint64) (*api, error) {
	a := &api{spec: spec, random: rand.New(rand.NewPCG(seed, 0)), tokens: float64(spec.Burst), paused: make(map[string]time.Time)}
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	a.url = "http://" + l.Addr().String()
	a.server = http.Server{Handler: a, ReadHeaderTimeout: time.Minute}
	go func() { _ = a.server.Serve(l) }() // until close
	return a, nil
}

func (a *api) close() { _ = a.server.Close() }

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	takes, status := a.take(r.Header.Get(clientHeader), time.Now())
	switch {
	case status == http.StatusTooManyRequests && a.spec.RetryAfter > 0:
		w.Header().Set("Retry-After", fmt.Sprint(int(a.spec.RetryAfter/time.Second)))
	case status == http.StatusOK:
		time.Sleep(takes)
	}
	w.WriteHeader(status)
}

// take decides whether to accept a request, and counts it.
func (a *api) take(client string, now time.Time) (takes time.Duration, status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.began.IsZero() {
		a.began, a.filled = now, now
	}
	at := now.Sub(a.began)
	for int(at/time.Second) >= len(a.seconds) {
		a.seconds = append(a.seconds, second{})
	}
	s := &a.seconds[at/time.Second]
	if now.Before(a.paused[client]) && now.Sub(a.paused[client].Add(-a.spec.RetryAfter)) > underWay {
		a.inPause++
	}
	if at >= a.spec.Down && at < a.spec.Up {
		s.Failed++
		a.met = append(a.met, at)
		return 0, http.StatusServiceUnavailable
	}
	if a.spec.Rate > 0 {
		a.tokens = min(float64(a.spec.Burst), a.tokens+a.spec.Rate*now.Sub(a.filled).Seconds())
		a.filled = now
	}
	if a.random.Float64() < a.spec.Noise || a.spec.Rate > 0 && a.tokens < 1 {
		s.Refused++
		if a.spec.RetryAfter > 0 {
			a.paused[client] = now.Add(a.spec.RetryAfter)
		}
		return 0, http.StatusTooManyRequests
	}
	a.tokens--
	s.Accepted++
	return apiLeast + time.Duration(a.random.Float64()*float64(apiMost-apiLeast)), http.StatusOK
}

// counted returns the whole seconds, and how many requests arrived in a pause.
func (a *api) counted() (seconds []second, inPause int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.seconds); n > 0 {
		seconds = append(seconds, a.seconds[:n-1]...)
	}
	return seconds, a.inPause
}
