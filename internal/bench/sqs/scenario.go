//go:build unix

package main

import "time"

// A scenario is one workload of the comparison.
type scenario struct {
	Name        string
	Title       string
	Latency     time.Duration // of every request, added by the server
	Handler     time.Duration // how long a handler takes
	Concurrency int
	Messages    int
	Visibility  time.Duration
	Libraries   []string

	// OverPull scenarios measure messages received too early, not speed: the
	// consumers run once, all at the same time.
	OverPull bool

	// rampmeter's targets; 0: none.
	LeastRate    float64 // of the hand-written loop's
	Noise        bool    // LeastRate is reduced by the difference between the loop's own runs
	MostCPU      float64 // of the hand-written loop's
	LeastBusy    float64 // of the handlers: the rate as a share of concurrency / actual handler time
	MostReceives float64 // in flight at the peak, of the hand-written loop's
	MostOpened   float64 // connections per 1,000 messages, after the first second
}

const messageSize = 512 // bytes of a body

// ideal is the rate at which all handlers are always busy; 0 if there is none.
func (s scenario) ideal() float64 {
	if s.Handler == 0 {
		return 0
	}
	return float64(s.Concurrency) / s.Handler.Seconds()
}

// limit is how long a run may take before an unhandled message counts as lost. It
// leaves time for a redelivery.
func (s scenario) limit() time.Duration {
	busy := time.Duration(float64(s.Messages) * float64(s.Handler) / float64(s.Concurrency))
	return 2*time.Minute + 4*busy
}

// scenarios returns scenarios that are large enough for a steady state of some
// seconds, or with quick just large enough for a figure.
func scenarios(quick bool) []scenario {
	const visibility = 30 * time.Second // SQS's default
	all := []scenario{
		{
			Name: "no-op-10", Title: "Handlers that do nothing, no latency, concurrency 10",
			Concurrency: 10, Messages: 100_000,
			LeastRate: 0.95, Noise: true, MostCPU: 1.15, MostReceives: 2,
		},
		{
			Name: "no-op-100", Title: "Handlers that do nothing, no latency, concurrency 100",
			Concurrency: 100, Messages: 100_000,
			LeastRate: 0.95, Noise: true, MostCPU: 1.15, MostReceives: 2,
		},
		{
			Name: "latency-10", Title: "Handlers of 10 ms, latency 20 ms, concurrency 10",
			Latency: 20 * time.Millisecond, Handler: 10 * time.Millisecond,
			Concurrency: 10, Messages: 4_000,
			LeastRate: 1, MostCPU: 1.25, LeastBusy: 0.95,
		},
		{
			Name: "latency-50", Title: "Handlers of 10 ms, latency 20 ms, concurrency 50",
			Latency: 20 * time.Millisecond, Handler: 10 * time.Millisecond,
			Concurrency: 50, Messages: 20_000,
			LeastRate: 1, MostCPU: 1.15, LeastBusy: 0.95,
		},
		{
			Name: "latency-200", Title: "Handlers of 10 ms, latency 20 ms, concurrency 200",
			Latency: 20 * time.Millisecond, Handler: 10 * time.Millisecond,
			Concurrency: 200, Messages: 60_000,
			LeastRate: 1, MostCPU: 1.15,
		},
	}
	for i := range all {
		s := &all[i]
		s.Visibility, s.MostOpened = visibility, 5
		s.Libraries = []string{rampmeter, handWritten, loopAgain, goCloud, watermillAWS}
		if s.Name == "latency-10" {
			s.Libraries = append(s.Libraries, slotsFirst)
		}
	}
	all = append(all, scenario{
		Name: "over-pull", Title: "Handlers of 2 s, visibility timeout 6 s, concurrency 5",
		Handler:     2 * time.Second,
		Concurrency: 5, Messages: 200, Visibility: 6 * time.Second,
		Libraries: []string{rampmeter, handWritten, slotsFirst, goCloud, watermillAWS, watermillOnes},
		OverPull:  true,
	})
	if quick {
		for i := range all {
			s := &all[i]
			s.Messages /= 10
			if s.OverPull {
				s.Title = "Handlers of 1 s, visibility timeout 3 s, concurrency 5"
				s.Handler, s.Visibility = s.Handler/2, s.Visibility/2
			}
		}
	}
	return all
}
