package queuetest

import (
	"bytes"
	"maps"
	"time"

	"github.com/rampmeter/rampmeter/queue"
)

// messageCases are about what a message carries.
func messageCases() []testCase {
	body := func(make func(*run) []byte) func(*run) {
		return func(r *run) {
			m := r.message("")
			m.Body = make(r)
			r.send(m)
			if got := r.collect(1, r.long())[0].Body; !bytes.Equal(got, m.Body) {
				r.Fatalf("a body of %d bytes came back as one of %d, or other ones", len(m.Body), len(got))
			}
		}
	}
	return []testCase{
		{"Message_Body", 0, body(func(*run) []byte { return []byte(`{"order":"7","note":"<&> \"ü\" 日本語"}`) })},
		{"Message_EmptyBody", emptyBody, body(func(*run) []byte { return nil })},
		{"Message_BinaryBody", binary, body(func(*run) []byte { return []byte{0, 1, 0xff, 0xfe, '\n', '\r', 0x80, 0} })},
		{"Message_LongBody", 0, body(func(r *run) []byte { return bytes.Repeat([]byte("0123456789abcdef"), r.cfg.MaxBody/16) })},
		{"Message_Attributes", 0, func(r *run) {
			m := r.message("body")
			m.Attributes = map[string]string{"plain": "text", "unicode": "größe 日本語 🚦", "dotted.na_me-1": `{"a": [1, "b"]}`}
			r.send(m, r.message("none"))
			for _, got := range r.collect(2, r.long()) {
				if string(got.Body) == "none" {
					if len(got.Attributes) > 0 {
						r.Errorf("a message without attributes came with %v", got.Attributes)
					}
				} else if !maps.Equal(got.Attributes, m.Attributes) {
					r.Errorf("attributes came as %v, sent were %v", got.Attributes, m.Attributes)
				}
			}
		}},
		{"Message_Times", 0, func(r *run) {
			begin := time.Now().Add(-r.cfg.Slack)
			r.send(r.message("body"))
			check := func(name string, at time.Time) {
				if !at.IsZero() && (at.Before(begin) || at.After(time.Now().Add(r.cfg.Slack))) {
					r.Errorf("%s is %v: want a time between the send and now, or zero if it is unknown", name, at)
				}
			}
			m := r.collect(1, r.long())[0]
			first := m.FirstReceivedAt
			check("SentAt", m.SentAt)
			check("FirstReceivedAt", first)
			check("ReceivedAt", m.ReceivedAt)
			time.Sleep(r.cfg.Slack)
			r.nack(0, m)
			begin = time.Now().Add(-r.cfg.Slack)
			m = r.collect(1, r.long())[0]
			check("ReceivedAt of the second delivery", m.ReceivedAt)
			if !m.FirstReceivedAt.Equal(first) {
				r.Errorf("FirstReceivedAt was %v at the first delivery and %v at the second", first, m.FirstReceivedAt)
			}
		}},
		{"Message_Attempt", 0, func(r *run) {
			r.send(r.message("body"))
			for attempt := 1; attempt <= 4; attempt++ {
				m := r.collect(1, r.long())[0]
				if m.Attempt != 0 && m.Attempt != attempt {
					r.Fatalf("Attempt is %d at receive %d: it counts receives, the present one included; 0 if unknown", m.Attempt, attempt)
				}
				r.nack(0, m)
			}
		}},
		{"Send_Many", 0, func(r *run) {
			const n = 25
			want := make(map[string]bool)
			for _, body := range bodies(r.messages(n)) {
				want[body] = true
			}
			for _, m := range r.sent(n, r.long()) {
				if !want[string(m.Body)] {
					r.Fatalf("received %q twice, or never sent", m.Body)
				}
				delete(want, string(m.Body))
			}
		}},
		{"Send_KeepsNothing", 0, func(r *run) {
			m := r.message("original")
			m.Attributes = map[string]string{"name": "original"}
			msgs := []*queue.Message{m}
			r.send(msgs...)
			msgs[0] = nil
			copy(m.Body, "OVERWRIT")
			m.Attributes["name"] = "overwritten"
			m.Attributes["more"] = "added"
			m.Group = "overwritten"
			got := r.collect(1, r.long())[0]
			if string(got.Body) != "original" || len(got.Attributes) != 1 || got.Attributes["name"] != "original" {
				r.Errorf("received %q with %v: what the caller did to the message after Send returned must not matter", got.Body, got.Attributes)
			}
		}},
		{"Send_Delay", delays, func(r *run) {
			delay := r.roundUp(r.cfg.Lease / 2)
			late, prompt := r.message("late"), r.message("prompt")
			late.Delay = delay
			begin := time.Now()
			r.send(late, prompt)
			end := time.Now()
			m := r.collect(1, r.long())[0]
			if string(m.Body) != "prompt" {
				r.Fatalf("received %q first: the other one was sent without delay", m.Body)
			}
			r.ack(m)
			r.next(end.Add(delay), "a message that was sent with a delay had not come")
			if early := time.Until(begin.Add(delay)); early > 0 {
				r.Fatalf("a message sent with a delay of %v came %v too early", delay, early)
			}
		}},
	}
}
