package queue

import (
	"bytes"
	"maps"
	"time"
)

// A Message is one delivery of a message from a [Source], or a message on its
// way to a [Sink].
//
// A handler gets its own copy, which it may change; what is settled, run again or
// dead-lettered is the message as it was received.
type Message struct {
	// ID identifies the message in the queue. Every delivery of the same message
	// has the same ID. A Sink that assigns ids itself ignores it.
	ID string
	// Body is the payload, opaque to everything but the handler.
	Body []byte
	// Attributes travel with the body. Nil and empty mean the same.
	Attributes map[string]string

	// Group names what must stay in order (FIFO queues), or the tenant (fair
	// queues). Only messages that also have a Sequence are kept in order.
	Group string
	// Dedup suppresses a second send of the same message within the queue's
	// deduplication window (five minutes on SQS). FIFO queues only.
	Dedup string
	// Sequence is the message's position in its group, set by a FIFO queue. Empty
	// on queues without order.
	Sequence string

	// Attempt counts the receives of the message, this one included, as far as
	// the queue knows: crashes, drains and lost replies count. 0 means unknown,
	// and is treated as 1.
	Attempt int
	// SentAt is when the message was sent, FirstReceivedAt when anyone first
	// received it, ReceivedAt when this delivery arrived. Zero: unknown.
	SentAt, FirstReceivedAt, ReceivedAt time.Time
	// LeaseUntil is when the queue will deliver the message to another receiver,
	// unless the lease is extended. Zero: the source has no leases.
	LeaseUntil time.Time

	// Delay is how long a sent message is hidden before its first delivery.
	Delay time.Duration

	// Receipt identifies this delivery to the source.
	Receipt string
	// Native is what the source's own client returned. A sink of the same kind
	// copies from it what Message has no field for. Read it, don't change it.
	Native any
}

// Clone returns a copy that shares nothing with m but Native.
func (m *Message) Clone() *Message {
	c := *m
	c.Body = bytes.Clone(m.Body)
	c.Attributes = maps.Clone(m.Attributes)
	return &c
}

// ordered reports whether the message must stay in order within its group. A
// group without a sequence is a tenant of a fair queue and orders nothing.
func (m *Message) ordered() bool { return m.Group != "" && m.Sequence != "" }
