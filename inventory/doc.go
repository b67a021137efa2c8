// Package inventory is the client of a third-party inventory API that limits
// how fast it may be called.
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
// is described in openapi.yaml beside this package. Package inventorytest
// serves it, limits included, for tests. Nothing here is generated from either.
//
// # Errors
//
// What the API answered, or that it did not, is an [*Error]. It says for
// whoever handles it, without knowing this package, what to do about it, so
// that a message handler just returns it:
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
// An [*Error] has RetryAfter, and Timeout for 503, 504 and no answer in time,
// which is what adaptive limiters go by. ErrChanged is not permanent: whoever
// handles the message again reads the level again. What AdjustAll leaves half
// done is a [*PartialError] round what stopped it.
//
// A 404 means that there is no such SKU only if the API's own error code says
// so. Without it the 404 is a proxy's or that of a wrong BaseURL, and nothing
// that a message could be blamed for.
//
// The end of the caller's context is no [*Error] but the context's error and
// its cause: it says nothing about the API, and the limiter learns nothing from it.
// The end of Config.Timeout is one.
//
// Neither the token nor the request's query is ever in the text of an error.
//
// # Limits
//
// Each HTTP request takes one permit of Config.Limiter and releases it with
// the call's error after the response was read. Before that the limiter is told
// the response's header ([limiter.Permit.Observe]), for what it says of quotas.
// A request is sent once for its permit: redirects are not followed, and a request
// that may have been processed is not sent again by the transport when its
// connection breaks. One that the API says it has not processed (HTTP/2 GOAWAY,
// REFUSED_STREAM), or that the transport had not begun to write, is.
//
// A 429 with a Retry-After therefore stops all who share a limiter that obeys
// it (an Adaptive, an AdaptiveRate): what was in flight still arrives, and then
// nothing for that long.
//
// One limiter, one place: under a consumer, a limiter given to the client must
// not be acquired round the handler as well. It goes into the consumer's Gate.
//
// # Retries
//
// Retries are off by default, because a queue's consumer repeats what fails
// and two loops multiply. Whoever calls the client without a queue sets
// Config.Retry.
//
// # Idempotency
//
// Adjustments have a key, which the caller chooses, so that the same order can
// be sent again whenever in doubt: after a lost answer, a crash, a second
// delivery. The API answers what it answered the first time, refusals included.
//
// # What the server may do
//
// The answer is not trusted. A request ends after Config.Timeout, however
// slowly bytes come. Of its body no more is read than Config.MaxBody after
// decompression, of its header no more than 64 KiB; beside these, memory is
// bounded by some copies of them. A Retry-After is believed up to a day. Levels
// must be of the SKU that was asked for, or in order. What is not as it should
// be is an error, never a zero level.
//
// The token goes to the host of BaseURL and nowhere else: a redirect, to
// wherever, is an error that names where to. A Config.Transport, what
// [Config.WithTransport] adds, and a proxy from the environment for a BaseURL
// with http see it.
//
// # Connections
//
// A response's body is read to its end, so that its connection serves the next
// request; one beyond MaxBody costs it. The default transport keeps as many
// idle connections, for 90 seconds, as there were requests at once.
//
// # Concurrency
//
// A [Client] may be used from any number of goroutines at once.
package inventory
