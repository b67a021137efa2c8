package terminal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/terminal"
)

func TestLineAndText(t *testing.T) {
	for s, want := range map[string]string{
		"":                                    "",
		"order 42: \"größe\" \\n 注文 🧦":        "order 42: \"größe\" \\n 注文 🧦",
		"\x1b[31mred\x1b]0;title\x07":         `\x1b[31mred\x1b]0;title\a`,
		"\u009b2J":                            `\u009b2J`,
		"\x7f\x00\b\r":                        `\x7f\x00\b\r`,
		"\x9b2J \xff":                         `\x9b2J \xff`,
		"user\u202etxt.exe\u2066\u200f\u061c": `user\u202etxt.exe\u2066\u200f\u061c`,
		"zero\u200bwidth\ufeff":               `zero\u200bwidth\ufeff`,
		"a\u2028b\u2029c\u0085d":              `a\u2028b\u2029c\u0085d`,
		"tag\U000e0041":                       `tag\U000e0041`,
		"replaced\ufffd":                      "replaced\ufffd",
	} {
		require.Equal(t, want, terminal.Line(s))
		require.Equal(t, want, terminal.Text(s))
	}
	require.Equal(t, `a\nid  forged\tb`, terminal.Line("a\nid  forged\tb"))
	require.Equal(t, "a\n\tb", terminal.Text("a\n\tb"))
}

func TestError(t *testing.T) {
	a, b := errors.New("a\nforged"), errors.New("b\x1b")
	require.Equal(t, "a\\nforged\nb\\x1b\na\\nforged", terminal.Error(errors.Join(errors.Join(a, b), a)))
	require.Equal(t, "why: a\\nforged\\nb\\x1b", terminal.Error(fmt.Errorf("why: %w", errors.Join(a, b))))
	require.Equal(t, "a\\nforged and b\\x1b", terminal.Error(fmt.Errorf("%w and %w", a, b)))
}

func TestJSON(t *testing.T) {
	want := map[string]string{"a\u202e\n": "\x1b\x7f\u009b[2J\u2028 \U000e0041 🧦 größe <b>"}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "\t")
	require.NoError(t, e.Encode(want))
	text := terminal.JSON(b.Bytes())
	requireTame(t, string(text), "\n\t")
	require.Contains(t, string(text), "🧦 größe <b>")
	var got map[string]string
	require.NoError(t, json.Unmarshal(text, &got))
	require.Equal(t, want, got)
}

func TestWriter(t *testing.T) {
	var b strings.Builder
	n, err := terminal.Writer(&b).Write([]byte("hello\x1b\n"))
	require.NoError(t, err)
	require.Equal(t, 7, n)
	require.Equal(t, "hello\\x1b\n", b.String())

	_, err = terminal.Writer(broken{}).Write([]byte("hello"))
	require.ErrorIs(t, err, errBroken)
}

type broken struct{}

var errBroken = errors.New("broken")

func (broken) Write([]byte) (int, error) { return 0, errBroken }

func requireTame(t *testing.T, s, kept string) {
	t.Helper()
	require.True(t, utf8.ValidString(s), "%q", s)
	for _, r := range s {
		require.False(t, (unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.In(r, unicode.Zl, unicode.Zp)) && !strings.ContainsRune(kept, r), "%q in %q", r, s)
	}
}

func FuzzEscape(f *testing.F) {
	f.Add("\x1b[2J\u202e\x9b\n")
	f.Fuzz(func(t *testing.T, s string) {
		requireTame(t, terminal.Line(s), "")
		requireTame(t, terminal.Text(s), "\n\t")
		require.Equal(t, terminal.Line(s), terminal.Line(terminal.Line(s)))
		text, err := json.Marshal(s)
		require.NoError(t, err)
		var want, got string
		require.NoError(t, json.Unmarshal(text, &want))
		tame := terminal.JSON(text)
		requireTame(t, string(tame), "")
		require.NoError(t, json.Unmarshal(tame, &got))
		require.Equal(t, want, got)
	})
}
