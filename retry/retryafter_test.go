package retry_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/retry"
)

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		value, date string
		want        time.Duration
		ok          bool
	}{
		{value: "120", want: 2 * time.Minute, ok: true},
		{value: " 7\t", want: 7 * time.Second, ok: true},
		{value: "+3", want: 3 * time.Second, ok: true},
		{value: "0", ok: true},
		{value: "-5", ok: true},
		{value: "1.5", want: 1500 * time.Millisecond, ok: true},
		{value: ".25", want: 250 * time.Millisecond, ok: true},
		{value: "86399", want: 24*time.Hour - time.Second, ok: true},
		{value: "86401", want: 86401 * time.Millisecond, ok: true},
		{value: "9223372036854775808"},
		{value: strings.Repeat("9", 1000)},
		{value: "-" + strings.Repeat("9", 1000), ok: true},
		{value: "0." + strings.Repeat("0", 1000) + "1", ok: true},

		{value: "Sun, 01 Mar 2026 12:00:30 GMT", want: 30 * time.Second, ok: true},
		{value: "Sunday, 01-Mar-26 12:00:30 GMT", want: 30 * time.Second, ok: true},
		{value: "Sun Mar  1 12:00:30 2026", want: 30 * time.Second, ok: true},
		{value: "Sun, 01 Mar 2026 11:59:30 GMT", ok: true},
		{value: "Fri, 31 Dec 9999 23:59:59 GMT", want: retry.MaxRetryAfter, ok: true},
		{value: "Sun, 01 Mar 0001 12:00:30 GMT", ok: true},

		// Its clock is an hour behind ours, then an hour ahead.
		{value: "Sun, 01 Mar 2026 11:00:30 GMT", date: "Sun, 01 Mar 2026 11:00:00 GMT", want: 30 * time.Second, ok: true},
		{value: "Sun, 01 Mar 2026 13:00:30 GMT", date: "Sun, 01 Mar 2026 13:00:00 GMT", want: 30 * time.Second, ok: true},
		{value: "Sun, 01 Mar 2026 12:00:30 GMT", date: "yesterday", want: 30 * time.Second, ok: true},
		{value: "30", date: "Sun, 01 Mar 2026 13:00:00 GMT", want: 30 * time.Second, ok: true},

		// Not in the standard, but in use.
		{value: "1772366407", want: 7 * time.Second, ok: true},
		{value: "1772366407000", want: 7 * time.Second, ok: true},
		{value: "1772366400", date: "Sun, 01 Mar 2026 11:59:00 GMT", want: time.Minute, ok: true},
		{value: "120000", want: 2 * time.Minute, ok: true},
		{value: "5s", want: 5 * time.Second, ok: true},
		{value: "6m0s", want: 6 * time.Minute, ok: true},
		{value: "1, 2", want: 2 * time.Second, ok: true},
		{value: "2026-03-01T12:00:30Z", want: 30 * time.Second, ok: true},

		{value: ""},
		{value: "soon"},
		{value: "1e3"},
		{value: "0x10"},
		{value: "NaN"},
		{value: "Inf"},
		{value: "1_000"},
		{value: "1.2.3"},
		{value: "-"},
		{value: "."},
	} {
		h := http.Header{}
		h.Set("Retry-After", c.value)
		if c.date != "" {
			h.Set("Date", c.date)
		}
		d, ok := retry.ParseRetryAfter(h, now)
		require.Equal(t, c.ok, ok, "%q", c.value)
		require.Equal(t, c.want, d, "%q", c.value)
	}
	_, ok := retry.ParseRetryAfter(nil, now)
	require.False(t, ok)
}

func FuzzParseRetryAfter(f *testing.F) {
	for _, v := range []string{"120", "-1", "1.5", "99999999999999999999", "Sun, 01 Mar 2026 12:00:30 GMT", "x"} {
		f.Add(v, "Sun, 01 Mar 2026 12:00:00 GMT", int64(1772366400))
	}
	f.Fuzz(func(t *testing.T, value, date string, now int64) {
		h := http.Header{"Retry-After": {value}, "Date": {date}}
		d, ok := retry.ParseRetryAfter(h, time.Unix(now, 0))
		if d < 0 || d > retry.MaxRetryAfter || !ok && d != 0 {
			t.Fatalf("%q, Date %q: %v, %t", value, date, d, ok)
		}
	})
}
