package inventorytest_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/rampmeter/rampmeter/inventory"
	"github.com/rampmeter/rampmeter/inventory/inventorytest"
)

func ExampleNew() {
	api, err := inventorytest.New(inventorytest.Config{
		Token: "token",
		Stock: map[string]int{"SOCK-42": 100},
		Rate:  1, Burst: 2,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	url, err := api.Start()
	if err != nil {
		fmt.Println(err)
		return
	}
	client, err := inventory.New(inventory.Config{BaseURL: url, Token: "token"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 3 {
		_, err := client.Level(context.Background(), "SOCK-42")
		fmt.Println(errors.Is(err, inventory.ErrThrottled))
	}
	client.CloseIdleConnections()
	if err := api.Close(); err != nil {
		fmt.Println(err)
	}
	stats := api.Stats()
	fmt.Println(stats.Requests, "requests,", stats.Admitted, "admitted,", stats.MaxOverRate, "over the rate")
	// Output:
	// false
	// false
	// true
	// 3 requests, 2 admitted, 1 over the rate
}
