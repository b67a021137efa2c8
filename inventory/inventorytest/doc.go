// Package inventorytest serves the API of package inventory in this process,
// with real limits, real outages and a record of all requests.
//
//	api, err := inventorytest.New(inventorytest.Config{
//		Token: "token",
//		Stock: map[string]int{"SOCK-42": 100},
//		Rate:  50, Burst: 5, Concurrency: 8,
//	})
//	...
//	url, err := api.Start() // loopback; or api.Transport() for no network at all
//	defer api.Close()
//
// A [Server] is a [net/http.Handler]. On a real connection it behaves as an API
// behind a load balancer does: beyond its limits it answers 429 with a
// Retry-After, in an outage as the [Outage] says, and it finishes requests of
// clients that have gone. Through [Server.Transport] the same handler serves
// without sockets, so that a test under testing/synctest has its latencies and
// outages in virtual time.
//
// Config.Rate is a token bucket. Config.Quota is a fixed number of requests in each
// window of time; responses can report how many are left. Beyond either, the server
// answers 429 with a Retry-After.
//
// Levels have ETags, which If-None-Match and If-Match are compared with.
// Config.Transactions adds the path that adjusts several levels at once.
//
// # Judging
//
// [Server.Stats] says how well the clients kept to the limits. Its MaxOverRate
// counts the requests that arrived, not those that were admitted: the server's
// own bucket limits the latter, and the clients must limit the former.
//
// # Memory
//
// The server remembers 16 bytes for each request, up to Config.KeepArrivals of
// them, the arrivals of the last second, and each adjustment's or transaction's
// idempotency key, content, answer and reference for as long as it exists.
//
// # Concurrency
//
// Everything may be used from several goroutines at once. This package does
// not import testing.
package inventorytest
