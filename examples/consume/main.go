// Consume greets the guests that an Amazon SQS queue announces, until SIGTERM.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

type guest struct{ Name string } // a message is {"name":"Ada"}; any other becomes a dead letter

func greet(_ context.Context, _ *queue.Message, g guest) error {
	log.Printf("hello, %q", g.Name) // quoted: it is untrusted input
	return nil                      // done; on an error it is retried later; a retry.Permanent error makes it a dead letter
}

func main() {
	queueURL := flag.String("queue-url", os.Getenv("QUEUE_URL"), "`URL` of the queue, or $QUEUE_URL")
	deadURL := flag.String("dead-letter-url", os.Getenv("DEAD_LETTER_URL"), "`URL` of its dead-letter queue, or $DEAD_LETTER_URL")
	rate := flag.Float64("rate", 50, "at most so many `messages` a second")
	concurrency := flag.Int("concurrency", 10, "at most so many `messages` at once")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)

	aws, errAWS := config.LoadDefaultConfig(ctx) // AWS_REGION, AWS_PROFILE, ~/.aws/config, ...
	guests, errGuests := sqsqueue.New(sqs.NewFromConfig(aws), *queueURL, sqsqueue.Config{})
	dead, errDead := sqsqueue.New(sqs.NewFromConfig(aws), *deadURL, sqsqueue.Config{})
	bucket, errRate := limiter.NewTokenBucket(*rate, 1)
	exitOn(2, errAWS, of("-queue-url", errGuests), of("-dead-letter-url", errDead), of("-rate", errRate))
	cfg := queue.Config{Name: "guests", Concurrency: *concurrency, Limiter: bucket, DeadLetter: dead, DrainTimeout: 30 * time.Second}
	consumer, err := queue.NewConsumer(guests, queue.Decode(json.Unmarshal, greet), cfg)
	exitOn(2, of("-concurrency", err))
	findings, err := guests.Check(ctx, sqsqueue.CheckConfig{Consumer: cfg})
	for _, f := range findings {
		log.Println("check:", printable(f.String())) // queue settings that will cause failures later
	}
	exitOn(1, err)
	context.AfterFunc(ctx, func() {
		stop() // a second Ctrl-C ends the program at once
		s := consumer.Stats()
		log.Printf("draining: waiting up to %v for what is under way (handlers: %d, receives: %d); press Ctrl-C again to stop now", cfg.DrainTimeout, s.Running, s.Receiving)
	})
	exitOn(1, consumer.Run(ctx))
}

// of says which flag an error is about.
func of(name string, err error) error {
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return err
}

func exitOn(code int, errs ...error) {
	failed := slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	for _, err := range failed {
		log.Print(printable(err.Error()))
	}
	if len(failed) > 0 {
		os.Exit(code)
	}
}

// printable returns s without terminal control characters, since s may come from a server.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
