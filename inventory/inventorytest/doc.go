// Package inventorytest serves the API of package inventory in this process,
// with real limits, real outages and a record of what it saw.
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
// Retry-After, in an outage what the [Outage] says, and it works on for a
// client that has gone. Through [Server.Transport] the same handler serves
// without sockets, so that a test under testing/synctest has its latencies and
// outages in virtual time.
//
// Config.Rate is a bucket of tokens. Config.Quota is what others have: so many
// requests in each window of time, of which responses tell how many are left.
// Both answer 429 with a Retry-After beyond.
//
// Levels have ETags, which If-None-Match and If-Match are compared with.
// Config.Transactions adds the path that adjusts several levels at once.
//
// # Judging
//
// [Server.Stats] says how well the clients kept to the limits. Its MaxOverRate
// is about the requests that arrived, not those that were let in: the server's
// own bucket makes sure of the latter, the clients have to take care of the
// former.
//
// # Memory
//
// The server remembers 16 bytes for each request, up to Config.KeepArrivals of
// them, the arrivals of the last second, and each adjustment's or transaction's
// idempotency key, content, answer and reference for ever.
//
// # Concurrency
//
// Everything may be used from several goroutines at once. This package does
// not import testing.
package inventorytest
