package retry_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/retry"
)

func TestDeadLetterEncoding(t *testing.T) {
	d := retry.DeadLetter{
		Reason:    "out_of_stock",
		Error:     "reserve \"naïve\" 🧦: <none>\n",
		Attempts:  3,
		Source:    "orders",
		MessageID: "m-1",
		First:     time.Date(2026, 3, 1, 13, 0, 0, 1, time.FixedZone("", 3600)),
		Last:      time.Date(2026, 3, 1, 12, 5, 0, 0, time.UTC),
	}
	s := d.Encode()
	require.Equal(t, `{"reason":"out_of_stock","error":"reserve \"na\u00efve\" \ud83e\udde6: <none>\u000a","attempts":3,`+
		`"source":"orders","message_id":"m-1","first":"2026-03-01T12:00:00.000000001Z","last":"2026-03-01T12:05:00Z"}`, s)
	got, err := retry.ParseDeadLetter(s)
	require.NoError(t, err)
	d.First = d.First.UTC()
	require.Equal(t, d, got)

	require.Equal(t, "{}", retry.DeadLetter{}.Encode())
	got, err = retry.ParseDeadLetter("{}")
	require.NoError(t, err)
	require.Zero(t, got)
}

func TestDeadLetterErrorIsCut(t *testing.T) {
	whole := strings.Repeat("x", 1024)
	for in, want := range map[string]string{
		whole:                       whole,
		whole + "y":                 whole[:1021] + "…",
		whole[:1020] + "é" + "yy":   whole[:1020] + "é" + "yy",
		whole[:1020] + "é" + "yyy":  whole[:1020] + "…", // not through the é
		strings.Repeat("z", 10<<20): strings.Repeat("z", 1021) + "…",
		strings.Repeat("世", 500):    strings.Repeat("世", 340) + "…", // by its encoding
	} {
		got, err := retry.ParseDeadLetter(retry.DeadLetter{Error: in}.Encode())
		require.NoError(t, err)
		require.Equal(t, want, got.Error)
	}
}

func TestDeadLetterReplacesWhatIsNoText(t *testing.T) {
	got, err := retry.ParseDeadLetter(retry.DeadLetter{Error: "a\xff\xfeb\xed\xa0\x80c\x00\x7f"}.Encode())
	require.NoError(t, err)
	require.Equal(t, "a��b���c\x00\x7f", got.Error)
}

func TestDeadLetterLeavesOutWhatHasNoFourDigitYear(t *testing.T) {
	for _, year := range []int{-1, 10000, 1 << 30} {
		d := retry.DeadLetter{First: time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC)}
		require.Equal(t, "{}", d.Encode(), "year %d", year)
	}
}

func TestParseDeadLetter(t *testing.T) {
	got, err := retry.ParseDeadLetter(` {"reason":"permanent","colour":"red","nested":{"a":[1]}}`)
	require.NoError(t, err)
	require.Equal(t, retry.DeadLetter{Reason: "permanent"}, got)
	for _, bad := range []string{"", "null", "[]", "7", `"x"`, "{", `{"attempts":"three"}`, `{"first":"yesterday"}`, `{} x`} {
		_, err := retry.ParseDeadLetter(bad)
		require.ErrorContains(t, err, "retry: parse dead letter: ", "%q", bad)
	}
}

// checkDeadLetter checks what must hold for any record.
func checkDeadLetter(d retry.DeadLetter) error {
	s := d.Encode()
	if len(s) > 4096 {
		return fmt.Errorf("%d bytes", len(s))
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return fmt.Errorf("byte %#x in %q", s[i], s)
		}
	}
	if !json.Valid([]byte(s)) {
		return fmt.Errorf("no JSON: %s", s)
	}
	got, err := retry.ParseDeadLetter(s)
	if err != nil {
		return err
	}
	for _, text := range []struct {
		in, out string
		limit   int
	}{{d.Reason, got.Reason, 128}, {d.Error, got.Error, 1024}, {d.Source, got.Source, 512}, {d.MessageID, got.MessageID, 256}} {
		if len(text.out) > text.limit || !utf8.ValidString(text.out) {
			return fmt.Errorf("%d bytes or not valid: %q", len(text.out), text.out)
		}
		want := string([]rune(text.in)) // replaces invalid bytes one by one
		cut, marked := strings.CutSuffix(text.out, "…")
		if text.out != want && (!marked || !strings.HasPrefix(want, cut)) {
			return fmt.Errorf("%q became %q", text.in, text.out)
		}
		if text.out != want && len(cut) < text.limit/5 {
			return fmt.Errorf("cut too short: %q", text.out)
		}
	}
	if again := got.Encode(); again != s {
		return fmt.Errorf("encoded again\n%s\nbecomes\n%s", s, again)
	}
	return nil
}

func TestDeadLetterRoundTrip(t *testing.T) {
	seed := testrun.Seed(t)
	r := rand.New(rand.NewPCG(seed, 0))
	text := func() string {
		b := make([]byte, 0, 64)
		kind := r.IntN(5)
		for range r.IntN(1 << r.IntN(13)) {
			switch kind {
			case 0:
				b = append(b, byte(r.Uint32()))
			case 1:
				b = append(b, byte(r.IntN(128)))
			case 2:
				b = append(b, byte(r.IntN(32)))
			case 3:
				b = utf8.AppendRune(b, rune(r.IntN(utf8.MaxRune+1)))
			default:
				b = append(b, `"\/<>&`[r.IntN(6)])
			}
		}
		return string(b)
	}
	for range 1000 {
		d := retry.DeadLetter{
			Reason: text(), Error: text(), Attempts: int(r.Uint64()), Source: text(), MessageID: text(),
			First: time.Unix(r.Int64()>>r.IntN(40), r.Int64()), Last: time.Unix(0, r.Int64()),
		}
		require.NoError(t, checkDeadLetter(d), "seed %d", seed)
	}
	// Everything at its longest.
	for _, s := range []string{"\x00", "a", "é", "世", "🧦", "\"", "\xff"} {
		s = strings.Repeat(s, 5000)
		year := time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)
		require.NoError(t, checkDeadLetter(retry.DeadLetter{Reason: s, Error: s, Attempts: math.MinInt, Source: s, MessageID: s, First: year, Last: year}))
	}
}

func FuzzDeadLetter(f *testing.F) {
	f.Add("permanent", "no\xffne", 3, "orders", "m-1", int64(1772366400))
	f.Fuzz(func(t *testing.T, reason, text string, attempts int, source, id string, at int64) {
		d := retry.DeadLetter{Reason: reason, Error: text, Attempts: attempts, Source: source, MessageID: id, First: time.Unix(at, at)}
		if err := checkDeadLetter(d); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzParseDeadLetter(f *testing.F) {
	f.Add(`{"reason":"permanent","first":"2026-03-01T12:00:00Z"}`)
	f.Add(`{"error":"\ud800","attempts":1e2}`)
	f.Fuzz(func(t *testing.T, s string) {
		d, err := retry.ParseDeadLetter(s)
		if err != nil {
			return
		}
		if err := checkDeadLetter(d); err != nil {
			t.Fatal(err)
		}
	})
}
