package deadletter_test

import (
	"fmt"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/deadletter"
	"github.com/rampmeter/rampmeter/retry"
)

func TestRead(t *testing.T) {
	r := record(7)
	h := deadletter.History{Redrives: 2, Run: "ABC", Attempts: 20, First: time.Date(2025, 3, 4, 5, 6, 7, 8, time.UTC), Last: record(3)}
	l := deadletter.Read(&queue.Message{ID: "x", Attributes: map[string]string{
		retry.DeadLetterAttribute: r.Encode(), deadletter.HistoryAttribute: h.Encode(),
	}})
	require.True(t, l.Recorded)
	require.Equal(t, r, l.Record)
	require.Equal(t, h, l.History)
	require.Equal(t, 28, l.Attempts())
	require.Equal(t, h.First, l.First())
	require.Equal(t, r.Last, l.Died())

	sent := time.Date(2026, 5, 5, 0, 0, 0, 0, time.UTC)
	l = deadletter.Read(&queue.Message{ID: "x", SentAt: sent, Attributes: map[string]string{
		retry.DeadLetterAttribute: "oops", deadletter.HistoryAttribute: "[]",
	}})
	require.False(t, l.Recorded)
	require.Zero(t, l.Record)
	require.Zero(t, l.History)
	require.Equal(t, sent, l.Died())
	require.Zero(t, l.First())
}

func TestHistoryIsShortAndPlain(t *testing.T) {
	long := strings.Repeat("ä\x00\"\n", 5000)
	h := deadletter.History{
		Redrives: math.MaxInt, Run: long + strings.Repeat("x", 1000), Attempts: math.MaxInt, First: time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC),
		Last: retry.DeadLetter{Reason: long, Error: long, Attempts: math.MaxInt, Source: long, MessageID: long, First: time.Now(), Last: time.Now()},
	}
	text := h.Encode()
	require.LessOrEqual(t, len(text), 5<<10)
	for _, c := range text {
		require.True(t, c >= ' ' && c <= '~', "%q", c)
	}
	back, err := deadletter.ParseHistory(text)
	require.NoError(t, err)
	require.Equal(t, h.Attempts, back.Attempts)
	require.Zero(t, back.First)
	require.NotEmpty(t, back.Last.Error)

	for _, c := range []string{"<", "&", `\`, "\u2028", "a"} {
		page := strings.Repeat(c, 5000)
		h.Run, h.Last.Reason, h.Last.Error, h.Last.Source, h.Last.MessageID = page, page, page, page, page
		require.LessOrEqual(t, len(h.Encode()), 5<<10, "%q", c)
	}
}

func FuzzParseHistory(f *testing.F) {
	f.Add(deadletter.History{Redrives: 1, Run: "R", Last: record(1)}.Encode())
	f.Add(`{"last":[]}`)
	f.Add(`{"first":"0000-01-01T00:00:00Z","run":"\u0000"}`)
	f.Fuzz(func(t *testing.T, s string) {
		h, err := deadletter.ParseHistory(s)
		if err != nil {
			return
		}
		text := h.Encode()
		again, err := deadletter.ParseHistory(text)
		require.NoError(t, err)
		require.Equal(t, text, again.Encode())
	})
}

func TestFilter(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 1, 2, 0, 0, s, 0, time.UTC) }
	for name, c := range map[string]struct {
		filter deadletter.Filter
		takes  []int // of the letters 0 to 5, and 6 without a record
	}{
		"zero":          {deadletter.Filter{}, []int{0, 1, 2, 3, 4, 5, 6}},
		"id":            {deadletter.Filter{IDs: []string{"id-2"}}, []int{2}},
		"original id":   {deadletter.Filter{IDs: []string{"orig-4", "id-0"}}, []int{0, 4}},
		"empty id":      {deadletter.Filter{IDs: []string{""}}, nil},
		"reason":        {deadletter.Filter{Reasons: []string{retry.ReasonExhausted}}, []int{1, 4}},
		"no record":     {deadletter.Filter{Reasons: []string{""}}, []int{6}},
		"source":        {deadletter.Filter{Sources: []string{"returns"}}, []int{1, 3, 5}},
		"error":         {deadletter.Filter{Error: regexp.MustCompile(`for [23]$`)}, []int{2, 3}},
		"from":          {deadletter.Filter{From: at(4)}, []int{4, 5}},
		"until":         {deadletter.Filter{Until: at(2)}, []int{0, 1}},
		"span":          {deadletter.Filter{From: at(2), Until: at(4)}, []int{2, 3}},
		"function":      {deadletter.Filter{Func: func(l deadletter.Letter) bool { return l.Record.Attempts == 6 }}, []int{5}},
		"all must hold": {deadletter.Filter{Reasons: []string{retry.ReasonExhausted}, Sources: []string{"orders"}}, []int{4}},
	} {
		t.Run(name, func(t *testing.T) {
			var took []int
			for i := range 7 {
				m := &queue.Message{ID: fmt.Sprint("id-", i)}
				if i < 6 {
					m.Attributes = map[string]string{retry.DeadLetterAttribute: record(i).Encode()}
				}
				if c.filter.Match(deadletter.Read(m)) {
					took = append(took, i)
				}
			}
			require.Equal(t, c.takes, took)
		})
	}
}
