package main

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
)

// The environment variables. None holds a secret: everyone who may view the
// function's configuration can read its environment.
const (
	envQueue       = "QUEUE_URL"
	envDeadLetter  = "DEAD_LETTER_URL"
	envTable       = "ORDERS_TABLE"
	envInventory   = "INVENTORY_URL"
	envSecret      = "TOKEN_SECRET_ARN"
	envRate        = "RATE"
	envBurst       = "BURST"
	envConcurrency = "MAX_CONCURRENCY"
	envAttempts    = "MAX_ATTEMPTS"
)

// Config holds the values of the environment variables.
type Config struct {
	QueueURL     string  // the queue that the orders come from
	DeadLetter   string  // URL of its dead-letter queue
	Table        string  // name or ARN of the table that they are stored in
	InventoryURL string  // where the inventory API is
	SecretID     string  // name or ARN of the secret that holds the API's token
	Rate         float64 // requests a second that the API allows, for all function instances together
	Burst        int     // the API's burst, at least Concurrency
	Concurrency  int     // MaximumConcurrency of the event source mapping
	MaxAttempts  int     // receives of an order before it is dead-lettered
}

// ParseEnv reads the environment. The error names every variable that is
// missing or invalid.
func ParseEnv(getenv func(name string) string) (Config, error) {
	var errs []error
	refuse := func(name, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s "+format, append([]any{name}, args...)...))
	}
	required := func(name, what string) string {
		v := getenv(name)
		if v == "" {
			refuse(name, "is not set: must be %s", what)
		}
		return v
	}
	address := func(name, what string) string {
		v := required(name, what)
		if u, err := url.Parse(v); v != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
			refuse(name, "is %q: must be %s, which begins with http:// or https://", v, what)
		}
		return v
	}
	whole := func(name, v string, least, most int) int {
		n, err := strconv.Atoi(v)
		if v != "" && (err != nil || n < least || n > most) {
			refuse(name, "is %q: must be a whole number from %d to %d", v, least, most)
		}
		return n
	}

	cfg := Config{
		QueueURL:   address(envQueue, "the URL of the queue that orders come from"),
		DeadLetter: address(envDeadLetter, "the URL of that queue's dead-letter queue"),
		Table:      required(envTable, "the name of the table for orders"),
		SecretID:   required(envSecret, "the ARN or name of the secret that holds the inventory API's token"),
	}
	// The value is not quoted, in case it contains a password.
	cfg.InventoryURL = required(envInventory, "the URL of the inventory API")
	if v := cfg.InventoryURL; v != "" && !strings.HasPrefix(v, "http://") && !strings.HasPrefix(v, "https://") {
		refuse(envInventory, "must begin with http:// or https://")
	}
	if v := required(envRate, "how many requests a second the inventory API allows"); v != "" {
		rate, err := strconv.ParseFloat(v, 64)
		if err != nil || !(rate > 0) || math.IsInf(rate, 0) {
			refuse(envRate, "is %q: must be a number above 0", v)
		}
		cfg.Rate = rate
	}
	cfg.Burst = whole(envBurst, required(envBurst, "how many requests the inventory API takes at once"), 1, 1_000_000)
	cfg.Concurrency = whole(envConcurrency, required(envConcurrency, "the event source mapping's MaximumConcurrency"), 1, 1000)
	cfg.MaxAttempts = 20
	if v := getenv(envAttempts); v != "" {
		cfg.MaxAttempts = whole(envAttempts, v, 1, 999)
	}
	if len(errs) > 0 {
		return Config{}, fmt.Errorf("environment: %w", errors.Join(errs...))
	}
	return cfg, nil
}
