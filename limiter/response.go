package limiter

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rampmeter/rampmeter/internal/permanent"
	"github.com/rampmeter/rampmeter/internal/quota"
)

// ResponseError returns the error that a message handler should return for an HTTP
// response, depending on its status:
//
//	2xx, 1xx, 304                                        nil
//	429; 503, 529 and 403 with a Retry-After or          ErrOverload
//	  a quota that is used up
//	other 5xx; 408, 425                                  ErrUnavailable
//	401, 407, other 403                                  ErrMisconfigured
//	412, 423, 424, and any 4xx with a Retry-After        no class: try this request again
//	other 4xx                                            retry.ErrPermanent: this request never succeeds
//	3xx that was not followed                            no class
//
// The error has a method RetryAfter, of at most 24 hours, if the response says when
// to try again. Its text has the request's method and URL without query, the status,
// and the beginning of the body. The caller can still read the whole body, and has to
// close it. Use ResponseError with a [Transport] too, which returns responses as they
// are. The response must not be nil.
func ResponseError(res *http.Response) error {
	e := judge(res)
	if e == nil {
		return nil
	}
	if req := res.Request; req != nil && req.URL != nil {
		e.request = clean(fmt.Sprintf("%s %s://%s%s: ", method(req), req.URL.Scheme, req.URL.Host, req.URL.EscapedPath()), 2*excerpt)
	}
	e.body = excerptOf(res)
	return e
}

// verdict returns what the response says about the downstream as a whole.
func verdict(res *http.Response) error {
	if e := judge(res); e != nil && e.class != nil {
		return e
	}
	return nil
}

// judge returns what the status and the header of a response mean, or nil if the
// response is not a failure.
func judge(res *http.Response) *statusError {
	status := res.StatusCode
	if status < 300 || status == http.StatusNotModified {
		return nil
	}
	now := time.Now()
	after, asked := quota.RetryAfter(res.Header, now)
	qs := quota.Of(res.Header, now)
	e := &statusError{status: status, after: -1}
	switch {
	case status == http.StatusTooManyRequests,
		(status == http.StatusServiceUnavailable || status == statusOverloaded || status == http.StatusForbidden) && (asked || qs.Spent):
		e.class = ErrOverload
		if !asked {
			after, asked = qs.Wait()
		}
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusTooEarly:
		e.class = ErrUnavailable
		return e
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusProxyAuthRequired:
		e.class = ErrMisconfigured
		return e
	case status < 400, status == http.StatusPreconditionFailed, status == http.StatusLocked, status == http.StatusFailedDependency:
	default:
		e.permanent = !asked
	}
	if asked {
		e.after = after
	}
	return e
}

// statusOverloaded is not in any standard, but some APIs use it: "site is
// overloaded".
const statusOverloaded = 529

// A statusError is the error for a response.
type statusError struct {
	status    int
	class     error // nil: it is about this request only
	permanent bool
	after     time.Duration // negative: the response does not say
	request   string        // the request, with a colon, if it is known
	body      string        // the beginning of the body, with a colon
}

func (e *statusError) Error() string {
	text := http.StatusText(e.status)
	if text != "" {
		text = " " + text
	}
	return fmt.Sprintf("limiter: %sresponse status %d%s%s", e.request, e.status, text, e.body)
}

// Is reports whether target is the class, or retry.ErrPermanent for a permanent
// error.
func (e *statusError) Is(target error) bool {
	return target == e.class || e.permanent && target == permanent.Err
}

// Timeout reports whether the downstream had no capacity or took too long. An
// [Adaptive] treats that as if we had stopped waiting for it.
func (e *statusError) Timeout() bool {
	return e.status == http.StatusServiceUnavailable || e.status == http.StatusGatewayTimeout
}

func (e *statusError) RetryAfter() time.Duration { return e.after }

const (
	excerpt  = 256     // bytes of a body in an error
	examined = 4 << 10 // bytes of a body that are searched for secrets
	patience = time.Second
	redacted = "[redacted]"
)

// excerptOf returns the beginning of the response's body, for an error's
// text.
func excerptOf(res *http.Response) string {
	if res.Body == nil || res.Body == http.NoBody {
		return ""
	}
	body := res.Body
	late := time.AfterFunc(patience, func() { _ = body.Close() })
	read, _ := io.ReadAll(io.LimitReader(body, examined)) // the caller gets the error when it reads on
	late.Stop()
	if len(read) > 0 {
		res.Body = &unread{Reader: io.MultiReader(bytes.NewReader(read), body), Closer: body}
	}
	if res.Header.Get("Content-Encoding") != "" {
		return ""
	}
	text := string(read)
	for _, secret := range secrets(res.Request) {
		text = hide(text, secret)
	}
	for _, pattern := range secretPatterns {
		text = pattern.ReplaceAllString(text, "${1}"+redacted)
	}
	if text = clean(strings.Join(strings.Fields(text), " "), excerpt); text == "" {
		return ""
	}
	return ": " + text
}

// unread is a body whose beginning was read and put back.
type unread struct {
	io.Reader
	io.Closer
}

// hide removes a secret from s, and what may be the beginning of one at its end.
func hide(s, secret string) string {
	s = strings.ReplaceAll(s, secret, redacted)
	for n := min(len(secret)-1, len(s)); n >= minSecret; n-- {
		if strings.HasSuffix(s, secret[:n]) {
			return s[:len(s)-n] + redacted
		}
	}
	return s
}

// minSecret is the shortest secret, in bytes: a shorter value may be in any text
// by chance.
const minSecret = 6

// secrets returns the parts of a request that its response may repeat and an
// error must not.
func secrets(req *http.Request) (list []string) {
	if req == nil {
		return nil
	}
	add := func(value string) {
		if value = strings.TrimSpace(value); len(value) >= minSecret {
			list = append(list, value)
		}
	}
	for name, values := range req.Header {
		if !secretName.MatchString(name) {
			continue
		}
		for _, value := range values {
			add(value)
			for _, part := range strings.FieldsFunc(value, func(r rune) bool { return unicode.IsSpace(r) || r == ';' || r == ',' || r == '=' }) {
				add(part) // the token of Bearer, the values of cookies
			}
		}
	}
	if _, password, ok := req.BasicAuth(); ok {
		add(password)
	}
	if req.URL == nil {
		return list
	}
	if password, ok := req.URL.User.Password(); ok {
		add(password)
	}
	for name, values := range req.URL.Query() {
		if secretName.MatchString(name) {
			for _, value := range values {
				add(value)
				add(url.QueryEscape(value))
			}
		}
	}
	return list
}

var (
	secretName = regexp.MustCompile(`(?i)auth|cookie|key|token|secret|passw|pwd|signature|credential|session|^sig$|^code$`)

	// Patterns that are secrets anywhere. The first group is kept.
	secretPatterns = [...]*regexp.Regexp{
		regexp.MustCompile(`(?i)(["']?[\w.-]*(?:token|secret|passw(?:or)?d|pwd|api[_-]?key|access[_-]?key|private[_-]?key|signature|credential|authorization|cookie|session[_-]?id)[\w.-]*["']?\s*[:=]\s*)(?:"(?:[^"\\]|\\.)*"?|'[^']*'?|(?:bearer|basic)\s+\S+|[^\s,;&<>}\]]+)`),
		regexp.MustCompile(`(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9+/_.~=-]{6,}`),
		regexp.MustCompile(`()\beyJ[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)*`),                            // JWT
		regexp.MustCompile(`()\b(?:AKIA|ASIA)[A-Z0-9]{12,}`),                                           // AWS
		regexp.MustCompile(`()\b(?:sk|pk|rk|gh[opusr]|xox[abposr]|glpat|shpat)[-_][A-Za-z0-9_-]{10,}`), // Stripe, OpenAI, GitHub, Slack, GitLab, Shopify
		regexp.MustCompile(`(-----BEGIN [A-Z ]*PRIVATE KEY-----)[^-]*`),                                // PEM
		regexp.MustCompile(`([a-z][a-z0-9+.-]*://)[^\s/@:]+:[^\s/@]+@`),                                // a URL's user
	}
)

func method(req *http.Request) string {
	if req.Method == "" {
		return http.MethodGet
	}
	return req.Method
}

// clean makes untrusted text fit for an error's text of at most limit bytes.
func clean(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return utf8.RuneError
		}
		return r
	}, s)
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit] + "..."
}
