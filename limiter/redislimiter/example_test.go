package redislimiter_test

import (
	"context"
	"fmt"
	"sync"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/limiter/redislimiter"
)

// Two processes share a rate.
func ExampleNewTokenBucket() {
	server, err := miniredis.Run() // stands for your Redis
	if err != nil {
		panic(err)
	}
	defer server.Close()
	ctx := context.Background()

	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { // each as in a process of its own
			client := redis.NewClient(&redis.Options{Addr: server.Addr()})
			defer func() { _ = client.Close() }()
			starts, err := redislimiter.NewTokenBucket(client, "inventory", 200, 20, redislimiter.Config{})
			if err != nil {
				panic(err)
			}
			for range 10 {
				err := limiter.Do(ctx, starts, func(context.Context) error { return nil })
				if err != nil {
					panic(err)
				}
			}
			if err := starts.Close(ctx); err != nil {
				panic(err)
			}
		})
	}
	wg.Wait()
	fmt.Println("20 calls made")
	// Output: 20 calls made
}

// Slots of the whole fleet.
func ExampleNewSemaphore() {
	server, err := miniredis.Run() // stands for your Redis
	if err != nil {
		panic(err)
	}
	defer server.Close()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { _ = client.Close() }()
	ctx := context.Background()

	places, err := redislimiter.NewSemaphore(client, "inventory", 2, redislimiter.Config{})
	if err != nil {
		panic(err)
	}
	a, err := places.Acquire(ctx)
	if err != nil {
		panic(err)
	}
	b, err := places.Acquire(ctx)
	if err != nil {
		panic(err)
	}
	_, third := places.TryAcquire()
	fmt.Println(third, places.Blocked())
	a.Release(nil)
	b.Release(nil)
	fmt.Println(places.Close(ctx))
	// Output:
	// false concurrency inventory
	// <nil>
}

// What continues without Redis is a choice.
func ExampleConfig() {
	client := redis.NewClient(&redis.Options{Addr: "localhost:6379"})
	defer func() { _ = client.Close() }()

	starts, err := redislimiter.NewTokenBucket(client, "inventory", 200, 20, redislimiter.Config{
		OnOutage: redislimiter.Closed, // nothing may start that is not counted
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(starts.Stats().State)
	// Output: joining
}
