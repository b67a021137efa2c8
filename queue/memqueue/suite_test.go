package memqueue_test

import (
	"testing"
	"time"

	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
)

func TestSource(t *testing.T) {
	for name, cfg := range map[string]memqueue.Config{
		"standard": {},
		"fifo":     {FIFO: true},
		"polled":   {Wait: time.Second, MaxLease: 10 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			maxLease := cfg.MaxLease
			if maxLease == 0 {
				maxLease = 12 * time.Hour
			}
			queuetest.TestSource(t, func(t *testing.T) queuetest.Queue {
				return newQueue(t, cfg)
			}, queuetest.Config{Synctest: true, FIFO: cfg.FIFO, Stops: true, MaxLease: maxLease, Slack: time.Nanosecond})
		})
	}
}
