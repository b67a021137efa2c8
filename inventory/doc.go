// Package inventory is the client of a third-party, rate-limited inventory
// API.
//
//	limit, err := limiter.All(concurrency, rate)
//	...
//	client, err := inventory.New(inventory.Config{
//		BaseURL: "https://inventory.example.com",
//		Token:   os.Getenv("INVENTORY_TOKEN"),
//		Limiter: limit,
//	})
//	...
//	level, err := client.Adjust(ctx, inventory.Adjustment{
//		SKU: "SOCK-42", Delta: -1, Reference: order.ID, IdempotencyKey: order.ID,
//	})
//	if errors.Is(err, inventory.ErrOutOfStock) {
//		...
//	}
//
// [Client.Level] and [Client.Levels] read, [Client.Adjust] changes one level,
// [Client.AdjustAll] those of an order with several lines, all or none. The API
// is described in openapi.yaml in this directory. Package inventorytest serves it,
// including its limits, for tests. Neither is used to generate code.
//
// # Errors
//
// A failed call, with or without an answer, returns an [*Error]. Package retry and
// the limiters classify it without knowing this package, so a message handler can
// just return it:
//
//	                                    inventory                        retry         limiter
//	404, code not_found                 ErrNotFound                      ErrPermanent
//	409                                 ErrConflict                      ErrPermanent
//	4xx, code out_of_stock              ErrOutOfStock                    ErrPermanent
//	412                                 ErrChanged
//	400, 422, other 4xx                 ErrInvalid                       ErrPermanent
//	401, other 403, 407                 ErrUnauthorized                                ErrMisconfigured
//	429; 403 with Retry-After or        ErrThrottled                                   ErrOverload
//	a quota that is used up
//	503 with Retry-After                ErrUnavailable                                 ErrOverload
//	other 5xx, 408, 425                 ErrUnavailable                                 ErrUnavailable
//	no connection, timeout, cut off     ErrUnavailable                                 ErrUnavailable
//	an answer that can't be understood  ErrUnavailable                                 ErrUnavailable
//	TLS, unknown host, 3xx, a 404       ErrUnavailable                                 ErrMisconfigured
//	that is not the API's
//
// An [*Error] has RetryAfter, and Timeout for 503, 504 and no answer in time, which
// adaptive limiters use. ErrChanged is not permanent: the next run of the handler
// reads the level again. When AdjustAll leaves an order half done, it returns a
// [*PartialError] that wraps the failure.
//
// A 404 means that there is no such SKU only if the API's own error code says
// so. Otherwise the 404 comes from a proxy or a wrong BaseURL, and is not the
// message's fault.
//
// When the caller's context ends, the error is the context's error with its cause
// and not an [*Error]: it says nothing about the API, and the limiter learns nothing
// from it. The end of Config.Timeout is an [*Error].
//
// Neither the token nor the request's query is ever in the text of an error.
//
// # Limits
//
// Each HTTP request takes one permit of Config.Limiter and releases it with
// the call's error after the response was read. Before that the limiter gets the
// response's header ([limiter.Permit.Observe]), which may report quotas. Each permit
// covers one request: the client does not follow redirects, and the transport does
// not resend a request that may have been processed when its connection breaks. It
// does resend a request that the API reports as not processed (HTTP/2 GOAWAY,
// REFUSED_STREAM), or that it had not begun to write.
//
// A 429 with a Retry-After therefore stops all clients that share a limiter that
// obeys it (an Adaptive, an AdaptiveRate): requests in flight still arrive, and then
// nothing for that long.
//
// Acquire each limiter once: under a consumer, a limiter that the client acquires
// must not be acquired for the handler as well. Set it as the consumer's Gate.
//
// # Retries
//
// Retries are off by default, because a queue's consumer retries failed messages
// and two nested loops multiply. To use the client without a queue, set
// Config.Retry.
//
// # Idempotency
//
// Adjustments have a key, which the caller chooses, so that the same order can
// be sent again when its result is unknown: after a lost answer, a crash, a second
// delivery. The API repeats its first answer, even if that was a refusal.
//
// # What the server may do
//
// The client does not trust responses. A request ends after Config.Timeout, however
// slowly bytes arrive. The client reads at most Config.MaxBody of a body, after
// decompression, and 64 KiB of a header; all other memory is bounded by a few copies
// of these. A Retry-After is obeyed up to a day. Levels must be of the requested
// SKU, or in order. An invalid response is an error, never a zero level.
//
// The token goes only to the host of BaseURL: any redirect is an error that names
// the target. A Config.Transport, the wrappers of [Config.WithTransport], and, for a
// BaseURL with http, a proxy from the environment see the token.
//
// # Connections
//
// A response's body is read to its end, so that its connection serves the next
// request; a body beyond MaxBody closes the connection. The default transport keeps
// as many idle connections, for 90 seconds, as there were concurrent requests.
//
// # Concurrency
//
// A [Client] may be used from any number of goroutines at once.
package inventory
