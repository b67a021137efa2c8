package inventory_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/rampmeter/rampmeter/inventory"
	"github.com/rampmeter/rampmeter/inventory/inventorytest"
	"github.com/rampmeter/rampmeter/retry"
)

func ExampleNew() {
	api, err := inventorytest.New(inventorytest.Config{Token: "secret-token", Stock: map[string]int{"SOCK-42": 1}})
	if err != nil {
		fmt.Println(err)
		return
	}
	client, err := inventory.New(inventory.Config{
		BaseURL:   "https://inventory.example.com",
		Token:     "secret-token",
		Transport: api.Transport(), // no network for this example
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	level, err := client.Level(context.Background(), "SOCK-42")
	fmt.Println(level.Available, err)
	_, err = inventory.New(inventory.Config{BaseURL: "https://user:pass@inventory.example.com", Token: "secret-token"})
	fmt.Println(err)
	// Output:
	// 1 <nil>
	// inventory: Config: BaseURL must not have a user or password: use Token
}

func ExampleClient_Adjust() {
	client, err := newExampleClient(map[string]int{"SOCK-42": 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	take := inventory.Adjustment{SKU: "SOCK-42", Delta: -1, Reference: "order-7", IdempotencyKey: "order-7"}
	for range 2 { // the second is the same order, delivered again: not taken again
		level, err := client.Adjust(ctx, take)
		fmt.Println(level.Available, err)
	}

	take.Reference, take.IdempotencyKey = "order-8", "order-8"
	_, err = client.Adjust(ctx, take)
	fmt.Println(errors.Is(err, inventory.ErrOutOfStock), errors.Is(err, retry.ErrPermanent), retry.Reason(err))
	// Output:
	// 0 <nil>
	// 0 <nil>
	// true true out_of_stock
}

func ExampleClient_AdjustAll() {
	client, err := newExampleClient(map[string]int{"HAT": 3, "SCARF": 0})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	_, err = client.AdjustAll(ctx, inventory.Adjustments{
		Lines:     []inventory.Line{{SKU: "HAT", Delta: -1}, {SKU: "SCARF", Delta: -1}},
		Reference: "order-7", IdempotencyKey: "order-7",
	})
	fmt.Println(err)
	hats, err := client.Level(ctx, "HAT")
	fmt.Println(hats.Available, err) // the hat was returned to stock

	levels, err := client.AdjustAll(ctx, inventory.Adjustments{
		Lines:     []inventory.Line{{SKU: "SCARF", Delta: 10}, {SKU: "HAT", Delta: -1}},
		Reference: "order-8", IdempotencyKey: "order-8",
	})
	for _, level := range levels {
		fmt.Println(level.SKU, level.Available)
	}
	fmt.Println(err)
	// Output:
	// inventory: adjust "SCARF": 422 out_of_stock: only 0 of "SCARF" are left (request r-2)
	// 3 <nil>
	// SCARF 10
	// HAT 2
	// <nil>
}

// What is decided upon a level is made only if that level still holds.
func ExampleAdjustment_ifMatch() {
	client, err := newExampleClient(map[string]int{"HAT": 3})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	seen, err := client.Level(ctx, "HAT")
	if err != nil {
		fmt.Println(err)
		return
	}
	const counted = 5 // by hand
	correct := inventory.Adjustment{
		SKU: "HAT", Delta: counted - seen.Available, Reference: "count-1",
		IdempotencyKey: "count-1-" + seen.ETag, IfMatch: seen.ETag,
	}
	level, err := client.Adjust(ctx, correct)
	fmt.Println(level.Available, err)

	correct.IdempotencyKey = "count-2-" + seen.ETag // somebody else's, from the same level
	_, err = client.Adjust(ctx, correct)
	fmt.Println(errors.Is(err, inventory.ErrChanged))
	// Output:
	// 5 <nil>
	// true
}

func ExampleClient_Refresh() {
	client, err := newExampleClient(map[string]int{"HAT": 3})
	if err != nil {
		fmt.Println(err)
		return
	}
	level := inventory.Level{SKU: "HAT"}
	for range 2 { // the second answer is "as you know it", and has no body
		if level, err = client.Refresh(context.Background(), level); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(level.Available)
	}
	// Output:
	// 3
	// 3
}

func ExampleConfig_WithTransport() {
	api, err := inventorytest.New(inventorytest.Config{Stock: map[string]int{"HAT": 3}})
	if err != nil {
		fmt.Println(err)
		return
	}
	cfg := inventory.Config{BaseURL: "https://inventory.example.com", Token: "token", Transport: api.Transport()}
	client, err := inventory.New(cfg.WithTransport(func(base http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			res, err := base.RoundTrip(req)
			if err == nil {
				fmt.Println(req.Method, req.URL.Path, res.StatusCode)
			}
			return res, err
		})
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = client.Level(context.Background(), "HAT")
	fmt.Println(err)
	// Output:
	// GET /v1/levels/HAT 200
	// <nil>
}

func ExampleClient_Levels() {
	client, err := newExampleClient(map[string]int{"HAT": 3, "SCARF": 0, "SOCK-42": 17})
	if err != nil {
		fmt.Println(err)
		return
	}
	for level, err := range client.Levels(context.Background(), inventory.LevelsOptions{PageSize: 2}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(level.SKU, level.Available)
	}
	// Output:
	// HAT 3
	// SCARF 0
	// SOCK-42 17
}

func newExampleClient(stock map[string]int) (*inventory.Client, error) {
	api, err := inventorytest.New(inventorytest.Config{Stock: stock})
	if err != nil {
		return nil, err
	}
	return inventory.New(inventory.Config{BaseURL: "https://inventory.example.com", Token: "token", Transport: api.Transport()})
}
