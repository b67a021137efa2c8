package main

import (
	"maps"
	"testing"

	"github.com/stretchr/testify/require"
)

// good is an environment in which all is well.
var good = map[string]string{
	"QUEUE_URL":        "https://sqs.eu-central-1.amazonaws.com/123456789012/orders",
	"DEAD_LETTER_URL":  "https://sqs.eu-central-1.amazonaws.com/123456789012/orders-dead",
	"ORDERS_TABLE":     "orders",
	"INVENTORY_URL":    "https://inventory.example.com",
	"TOKEN_SECRET_ARN": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:inventory-AbCdEf",
	"BURST":            "10",
	"RATE":             "50.5",
	"MAX_CONCURRENCY":  "10",
}

func env(changes map[string]string) func(string) string {
	vars := maps.Clone(good)
	maps.Copy(vars, changes)
	return func(name string) string { return vars[name] }
}

func TestParseEnv(t *testing.T) {
	cfg, err := ParseEnv(env(nil))
	require.NoError(t, err)
	require.Equal(t, Config{
		QueueURL: good["QUEUE_URL"], DeadLetter: good["DEAD_LETTER_URL"], Table: "orders",
		InventoryURL: good["INVENTORY_URL"], SecretID: good["TOKEN_SECRET_ARN"],
		Rate: 50.5, Burst: 10, Concurrency: 10, MaxAttempts: 20,
	}, cfg)

	cfg, err = ParseEnv(env(map[string]string{"MAX_ATTEMPTS": "4"}))
	require.NoError(t, err)
	require.Equal(t, 4, cfg.MaxAttempts)
}

func TestParseEnv_NamesWhatIsWrong(t *testing.T) {
	for name, values := range map[string][]string{
		"QUEUE_URL":        {"", "orders", "ftp://host/orders", "https://", "https://%"},
		"DEAD_LETTER_URL":  {"", "orders-dead"},
		"ORDERS_TABLE":     {""},
		"INVENTORY_URL":    {"", "inventory.example.com"},
		"TOKEN_SECRET_ARN": {""},
		"RATE":             {"", "0", "-1", "NaN", "Inf", "1e999", "fast"},
		"MAX_CONCURRENCY":  {"", "0", "1001", "2.5", "ten"},
		"MAX_ATTEMPTS":     {"0", "-1", "1000", "many"},
	} {
		for _, value := range values {
			_, err := ParseEnv(env(map[string]string{name: value}))
			require.ErrorContains(t, err, "environment: "+name+" ", "%q", value)
			for other := range good {
				if other != name {
					require.NotContains(t, err.Error(), other)
				}
			}
		}
	}

	_, err := ParseEnv(func(string) string { return "" })
	for name := range good {
		require.ErrorContains(t, err, name+" is not set", "all of them at once")
	}
	_, err = ParseEnv(env(map[string]string{"INVENTORY_URL": "user:hunter2@host"}))
	require.NotContains(t, err.Error(), "hunter2")
}
