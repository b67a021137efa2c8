package inventory_test

import (
	"context"
	"errors"
	"fmt"

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
	fmt.Println(client.Level(context.Background(), "SOCK-42"))
	_, err = inventory.New(inventory.Config{BaseURL: "https://user:pass@inventory.example.com", Token: "secret-token"})
	fmt.Println(err)
	// Output:
	// {SOCK-42 1} <nil>
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
	fmt.Println(client.Adjust(ctx, take))
	fmt.Println(client.Adjust(ctx, take)) // delivered again: not taken again

	take.Reference, take.IdempotencyKey = "order-8", "order-8"
	_, err = client.Adjust(ctx, take)
	fmt.Println(errors.Is(err, inventory.ErrOutOfStock), errors.Is(err, retry.ErrPermanent), retry.Reason(err))
	// Output:
	// {SOCK-42 0} <nil>
	// {SOCK-42 0} <nil>
	// true true out_of_stock
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
