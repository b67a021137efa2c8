package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/examples/orders/order"
	"github.com/rampmeter/rampmeter/limiter"
)

// overload is the mean arrival rate of a spike's orders, as a multiple of the
// rate that the API allows; the peak is twice as high.
const overload = 3

// A Spike is a wave of orders: when each arrives, from first to last. The same
// settings make the same spike.
type Spike struct {
	Arrivals []Arrival
	Length   time.Duration
	Valid    int // arrivals that are not poison
}

// An Arrival is one order of a spike.
type Arrival struct {
	At     time.Duration
	ID     string
	Body   []byte
	Poison bool
}

// skus are what the API has in stock.
var skus = [...]string{"SOCK-42", "SHIRT-M", "SHIRT-L", "CAP-1", "SCARF-7", "GLOVE-9", "BELT-3", "COAT-48"}

// NewSpike makes the spike of the given settings: Orders valid orders, and
// between them five that can never succeed, three with a body that is cut off
// and two for a SKU that the API does not know.
func NewSpike(s Settings) Spike {
	rnd := rand.New(rand.NewPCG(s.Seed, 0))
	sp := Spike{Valid: s.Orders, Length: time.Duration(float64(s.Orders) / (overload * s.Rate) * float64(time.Second))}

	// The sum of two random numbers peaks in the middle.
	times := make([]time.Duration, s.Orders)
	for i := range times {
		times[i] = time.Duration((rnd.Float64() + rnd.Float64()) / 2 * float64(sp.Length))
	}
	slices.Sort(times)
	for i, at := range times {
		sp.add(at, false, order.Order{
			ID:       fmt.Sprintf("%sorder-%06d", s.Run, i+1),
			SKU:      skus[rnd.IntN(len(skus))],
			Quantity: 1 + rnd.IntN(3),
			Customer: fmt.Sprintf("customer-%d", 1+rnd.IntN(s.Orders)),
		})
	}
	const poison = 5
	for i := range poison {
		o := order.Order{ID: fmt.Sprintf("%spoison-%d", s.Run, i+1), SKU: skus[0], Quantity: 1, Customer: "nobody"}
		if i%2 == 1 {
			o.SKU = "NO-SUCH-SKU"
		}
		sp.add(times[(i+1)*s.Orders/(poison+1)], true, o)
		if i%2 == 0 {
			last := &sp.Arrivals[len(sp.Arrivals)-1]
			last.Body = last.Body[:len(last.Body)/2]
		}
	}
	slices.SortStableFunc(sp.Arrivals, func(a, b Arrival) int { return cmp.Compare(a.At, b.At) })
	return sp
}

func (sp *Spike) add(at time.Duration, poison bool, o order.Order) {
	body, err := json.Marshal(o)
	if err != nil {
		panic(err) // an Order has only strings and a number
	}
	sp.Arrivals = append(sp.Arrivals, Arrival{At: at, ID: o.ID, Body: body, Poison: poison})
}

// maxCustomers is how many orders may wait for their answer at once; each
// uses a connection.
const maxCustomers = 512

// Play calls place for each order when it is due, concurrently: customers do
// not wait for each other. It returns when all calls have; when ctx ends, no
// further ones are made.
func (sp Spike) Play(ctx context.Context, place func(Arrival)) {
	customers, err := limiter.NewSemaphore(maxCustomers)
	if err != nil {
		panic(err) // a constant is out of range
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for _, a := range sp.Arrivals {
		timer.Reset(a.At - time.Since(start))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return // also when both were ready
		}
		permit, err := customers.Acquire(ctx)
		if err != nil {
			return
		}
		wg.Go(func() {
			defer permit.Release(nil)
			place(a)
		})
	}
}

// patience is how long a customer waits for an answer.
const patience = 15 * time.Second

// A Shop places orders at a front door, over HTTP.
type Shop struct {
	url    string
	client *http.Client
}

// NewShop returns a shop whose orders go to the front door at url.
func NewShop(url string) *Shop {
	return &Shop{url: url, client: &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: maxCustomers},
		Timeout:   patience,
	}}
}

// Place posts an order and returns the status of the answer.
func (s *Shop) Place(body []byte) (status int, err error) {
	res, err := s.client.Post(s.url+"/orders", "application/json", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }() // read as far as it goes
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0, err
	}
	return res.StatusCode, nil
}

// Close closes the connections.
func (s *Shop) Close() { s.client.CloseIdleConnections() }
