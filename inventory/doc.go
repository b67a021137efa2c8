// Package inventory is the client of a third-party inventory API that limits
// how fast it may be called.
//
//	client, err := inventory.New(inventory.Config{
//		BaseURL: "https://inventory.example.com",
//		Token:   os.Getenv("INVENTORY_TOKEN"),
//		Limiter: limiter.All(concurrency, rate),
//	})
//	...
//	level, err := client.Adjust(ctx, inventory.Adjustment{
//		SKU: "SOCK-42", Delta: -1, Reference: order.ID, IdempotencyKey: order.ID,
//	})
//	if errors.Is(err, inventory.ErrOutOfStock) {
//		...
//	}
//
// The API is described in openapi.yaml beside this package. Package
// inventorytest serves it, limits included, for tests.
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
//	400, 422, other 4xx                 ErrInvalid                       ErrPermanent
//	401, 403, 407                       ErrUnauthorized                                ErrMisconfigured
//	429                                 ErrThrottled                                   ErrOverload
//	503 with Retry-After                ErrUnavailable                                 ErrOverload
//	other 5xx, 408, 425                 ErrUnavailable                                 ErrUnavailable
//	no connection, timeout, cut off     ErrUnavailable                                 ErrUnavailable
//	an answer that can't be understood  ErrUnavailable                                 ErrUnavailable
//	TLS, unknown host, 3xx, a 404       ErrUnavailable                                 ErrMisconfigured
//	that is not the API's
//
// A 404 means that there is no such SKU only if the API's own error code says
// so. Without it the 404 is a proxy's or that of a wrong BaseURL, and nothing
// that a message could be blamed for.
//
// The end of the caller's context is no [*Error] but the context's error and
// its cause: it says nothing about the API. The end of Config.Timeout is one.
//
// Neither the token nor the request's query is ever in the text of an error.
//
// # Limits
//
// Each HTTP request takes one permit of Config.Limiter and releases it with
// the call's error after the response was read. A request is sent once for its
// permit: redirects are not followed, and the transport is kept from repeating
// a request by itself on a connection that broke.
//
// One limiter, one place: under a consumer, a limiter given to the client must
// not be acquired round the handler as well.
//
// # Retries
//
// Retries are off by default, because a queue's consumer repeats what fails
// and two loops multiply. Whoever calls the client without a queue sets
// Config.Retry.
//
// # Concurrency
//
// A [Client] may be used from any number of goroutines at once.
package inventory
