package main

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/rampmeter/rampmeter/examples/internal/interrupt"
	"github.com/rampmeter/rampmeter/examples/orders/order"
)

// DirectReport is the result of the spike with the API in the request path.
type DirectReport struct {
	Accepted    int     `json:"accepted"`       // orders that the front door found valid
	Stored      int     `json:"stored"`         // as the store counts
	Failed      int     `json:"failed"`         // accepted and not answered with 200
	Refused     int     `json:"refused"`        // answered 400
	Requests    int     `json:"requests"`       // this and the following as the API counts
	Rejected429 int     `json:"rejected_429"`   // over a limit
	Outage      int     `json:"failed_503"`     // during the outage
	InFlight    int     `json:"peak_in_flight"` // handled concurrently
	Open        int     `json:"peak_open"`      // including refused ones
	OverRate    int     `json:"max_over_rate"`  // above burst + rate*t, over all windows
	Seconds     float64 `json:"seconds"`
}

// Direct plays the spike against a front door that calls the inventory API
// while the customer waits.
func Direct(ctx context.Context, s Settings, sp Spike, p *Progress) (DirectReport, Timeline, error) {
	api, err := NewAPI(s, sp, nil)
	if err != nil {
		return DirectReport{}, Timeline{}, err
	}
	store := order.NewMemoryStore()
	url, stop, err := serve(FrontDoor{Submit: order.Fulfiller{Inventory: api.Client, Store: store}.Fulfil})
	if err != nil {
		api.Close()
		return DirectReport{}, Timeline{}, err
	}
	shop := NewShop(url)

	var placed, refused, failed atomic.Int64
	start := time.Now()
	done := p.Watch("direct", len(sp.Arrivals), func() (int, string) {
		stored, _ := store.Stored()
		return int(placed.Load()), quantities("stored", stored, "failed", int(failed.Load()))
	})
	said := interrupt.Say(ctx, p.Lines(), func() string {
		return fmt.Sprintf("interrupted: waiting up to %v for the requests under way", patience)
	})
	sp.Play(ctx, func(a Arrival) {
		switch status, err := shop.Place(a.Body); {
		case err == nil && status == http.StatusBadRequest:
			refused.Add(1)
		case err != nil || status != http.StatusOK:
			failed.Add(1)
		}
		placed.Add(1)
	})
	took := time.Since(start)
	said()
	done()
	shop.Close()
	stop()
	stats, arrivals := api.Close()

	stored, _ := store.Stored()
	r := DirectReport{
		Accepted: int(placed.Load() - refused.Load()), Stored: stored,
		Failed: int(failed.Load()), Refused: int(refused.Load()),
		Requests: stats.Requests, Rejected429: stats.RejectedByRate + stats.RejectedByConcurrency, Outage: stats.FailedByOutage,
		InFlight: stats.PeakInFlight, Open: stats.PeakOpen, OverRate: stats.MaxOverRate,
		Seconds: seconds(took),
	}
	title := fmt.Sprintf("Called directly: %d of %d orders fail", r.Failed, r.Accepted)
	return r, Timeline{title, arrivals}, nil
}
