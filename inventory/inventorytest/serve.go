package inventorytest

import (
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ServeHTTP implements [http.Handler]. To drop the connection it panics with [http.ErrAbortHandler], which net/http and [Server.Transport]
// understand.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := s.arrive(r)
	if !a.known {
		panic(http.ErrAbortHandler) // closed
	}
	status := 0 // the connection was dropped
	defer func() { s.leave(a, status); s.serving.Done() }()

	w.Header().Set("X-Request-Id", "r-"+strconv.Itoa(a.number))
	s.tellQuota(w.Header())
	if a.refused != nil {
		if a.refused.status == 0 {
			panic(http.ErrAbortHandler)
		}
		status = a.refused.status
		write(w, *a.refused)
		return
	}
	s.work(r)
	if a.losesReply {
		s.routes.ServeHTTP(&nowhere{header: make(http.Header)}, r)
		panic(http.ErrAbortHandler)
	}
	seen := &statusWriter{ResponseWriter: w, status: http.StatusOK}
	s.routes.ServeHTTP(seen, r)
	status = seen.status
}

// tellQuota reports the quota at the time of the answer, including this
// request.
func (s *Server) tellQuota(h http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quota.tell(h, s.cfg.QuotaHeaders, time.Since(s.started))
}

// An admission is the decision about a request on its arrival.
type admission struct {
	known      bool
	number     int     // from 1
	refused    *answer // nil: admitted. Status 0: drop the connection
	losesReply bool
}

// arrive records a request and decides whether to admit it.
func (s *Server) arrive(r *http.Request) admission {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed {
		return admission{}
	}
	s.serving.Add(1)
	now := time.Since(s.started)
	a := admission{known: true, number: s.record.arrive(now)}

	out := s.outage(now)
	if out != nil {
		if a.refused = out.refuses(now); a.refused != nil {
			s.record.stats.FailedByOutage++
			return a
		}
		a.losesReply = out.Fault == LoseReply
	}
	if !s.authorized(r) {
		a.refused = answerOf(refusal(http.StatusUnauthorized, "unauthorized", "the token is missing or wrong"))
		return a
	}
	// A request that finds no slot takes no token.
	if s.cfg.Concurrency > 0 && s.record.inFlight >= s.cfg.Concurrency {
		s.record.stats.RejectedByConcurrency++
		a.refused = answerOf(throttled(time.Second, "too many requests at once"))
		return a
	}
	if ok, wait := s.bucket.take(now); !ok {
		s.record.stats.RejectedByRate++
		a.refused = answerOf(throttled(wait, "too many requests per second"))
		return a
	}
	if ok, wait := s.quota.take(now); !ok {
		s.record.stats.RejectedByQuota++
		a.refused = answerOf(throttled(wait, "the quota is used up"))
		return a
	}
	s.record.admit(now)
	return a
}

// leave records how a request ended.
func (s *Server) leave(a admission, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record.leave(a.number, status, a.refused == nil)
}

// outage returns the one at now, if there is one. s.mu is held.
func (s *Server) outage(now time.Duration) *Outage {
	if s.broken != nil {
		return s.broken
	}
	for i, o := range s.cfg.Outages {
		if now >= o.From && now < o.To {
			return &s.cfg.Outages[i]
		}
	}
	return nil
}

// refuses returns the answer that an outage gives to all requests, or nil if
// it admits them.
func (o *Outage) refuses(now time.Duration) *answer {
	switch o.Fault {
	case Refuse:
		return &answer{}
	case Unavailable:
		a := refusal(http.StatusServiceUnavailable, "unavailable", "out of order")
		a.after = o.RetryAfter
		return &a
	case Revoked:
		return answerOf(refusal(http.StatusUnauthorized, "unauthorized", "the token was revoked"))
	case Throttle:
		after := o.RetryAfter
		if after == 0 {
			after = o.To - now
		}
		return answerOf(throttled(after, "everybody is being slowed down"))
	}
	return nil
}

func (s *Server) authorized(r *http.Request) bool {
	return s.cfg.Token == "" ||
		subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+s.cfg.Token)) == 1
}

// work takes as long as the work on a request, even if the client has gone: a server
// does not stop when a client stops waiting.
func (s *Server) work(r *http.Request) {
	d := s.cfg.Latency
	if s.cfg.LatencyFunc != nil {
		d = s.cfg.LatencyFunc(r)
	}
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.closed:
	}
}

func (s *Server) level(w http.ResponseWriter, r *http.Request) {
	sku := r.PathValue("sku")
	s.mu.Lock()
	_, ok := s.stock[sku]
	now := s.now(sku)
	s.mu.Unlock()
	switch {
	case !ok:
		write(w, notFound(sku))
	case names(r.Header.Get("If-None-Match"), now.ETag):
		w.Header().Set("ETag", now.ETag)
		w.WriteHeader(http.StatusNotModified)
	default:
		write(w, answer{status: http.StatusOK, body: now, etag: now.ETag})
	}
}

// now returns the level of a SKU. s.mu is held.
func (s *Server) now(sku string) level {
	return level{sku, s.stock[sku], fmt.Sprintf(`"%d"`, s.states[sku])}
}

// names reports whether a list of entity tags, or "*", has one.
func names(list, etag string) bool {
	for tag := range strings.SplitSeq(list, ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || tag == etag {
			return true
		}
	}
	return false
}

func (s *Server) levels(w http.ResponseWriter, r *http.Request) {
	limit, err := 100, error(nil)
	if v := r.FormValue("limit"); v != "" {
		limit, err = strconv.Atoi(v)
	}
	if err != nil || limit < 1 || limit > 1000 {
		write(w, refusal(http.StatusBadRequest, "invalid", "limit must be a number from 1 to 1000"))
		return
	}
	after, err := base64.RawURLEncoding.DecodeString(r.FormValue("cursor"))
	if err != nil {
		write(w, refusal(http.StatusBadRequest, "invalid", "there is no such cursor"))
		return
	}
	var p struct {
		Levels []level `json:"levels"`
		Next   string  `json:"next_cursor,omitempty"`
	}
	p.Levels = []level{} // not null
	s.mu.Lock()
	first, found := slices.BinarySearch(s.skus, string(after))
	if found {
		first++
	}
	last := min(first+limit, len(s.skus))
	for _, sku := range s.skus[first:last] {
		p.Levels = append(p.Levels, s.now(sku))
	}
	if last < len(s.skus) {
		p.Next = base64.RawURLEncoding.EncodeToString([]byte(s.skus[last-1]))
	}
	s.mu.Unlock()
	write(w, answer{status: http.StatusOK, body: p})
}

type adjustment struct {
	SKU       string `json:"sku"`
	Delta     int    `json:"delta"`
	Reference string `json:"reference"`
}

// A purpose is the key by which adjustments are counted, to find duplicates.
type purpose struct {
	reference, sku string
	takes          bool
}

func (s *Server) adjust(w http.ResponseWriter, r *http.Request) {
	var a adjustment
	if refused := decode(w, r, &a); refused != nil {
		write(w, *refused)
		return
	}
	write(w, s.once(r, func() answer {
		refused := s.check(a)
		switch match := r.Header.Get("If-Match"); {
		case refused != nil:
			return *refused
		case match != "" && !names(match, s.now(a.SKU).ETag):
			return refusal(http.StatusPreconditionFailed, "changed", fmt.Sprintf("the level of %q is another one", a.SKU))
		}
		now := s.apply(a)
		return answer{status: http.StatusOK, body: now, etag: now.ETag, location: "/v1/levels/" + url.PathEscape(a.SKU)}
	}, fmt.Sprintf("%+v %s", a, r.Header.Get("If-Match"))))
}

func (s *Server) transact(w http.ResponseWriter, r *http.Request) {
	var t struct {
		Reference string `json:"reference"`
		Lines     []struct {
			SKU   string `json:"sku"`
			Delta int    `json:"delta"`
		} `json:"lines"`
	}
	if refused := decode(w, r, &t); refused != nil {
		write(w, *refused)
		return
	}
	write(w, s.once(r, func() answer {
		if n := len(t.Lines); n < 1 || n > 100 {
			return refusal(http.StatusBadRequest, "invalid", "1 to 100 lines are required")
		}
		seen := make(map[string]bool)
		for _, l := range t.Lines {
			if refused := s.check(adjustment{l.SKU, l.Delta, t.Reference}); refused != nil {
				return *refused
			}
			if seen[l.SKU] {
				return refusal(http.StatusBadRequest, "invalid", fmt.Sprintf("%q is in two lines", l.SKU))
			}
			seen[l.SKU] = true
		}
		var done struct {
			Levels []level `json:"levels"`
		}
		for _, l := range t.Lines {
			done.Levels = append(done.Levels, s.apply(adjustment{l.SKU, l.Delta, t.Reference}))
		}
		return answer{status: http.StatusOK, body: done}
	}, fmt.Sprintf("%+v", t)))
}

// decode reads a request's body.
func decode(w http.ResponseWriter, r *http.Request, v any) *answer {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return answerOf(refusal(http.StatusBadRequest, "invalid", "the body is not what it should be: "+err.Error()))
	}
	return nil
}

// once carries out a request, or finds that it was carried out before. It calls do
// with s.mu held. Repeated requests are identical byte for byte.
func (s *Server) once(r *http.Request, do func() answer, same string) answer {
	key := r.Header.Get("Idempotency-Key")
	if key == "" || len(key) > 255 {
		return refusal(http.StatusBadRequest, "invalid", "an Idempotency-Key of 1 to 255 characters is required")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if before, ok := s.answers[key]; ok && !s.cfg.NoIdempotency {
		if before.to != same {
			return refusal(http.StatusConflict, "conflict", "the idempotency key was used for something else")
		}
		s.record.stats.Replayed++
		return before
	}
	now := do()
	now.to = same
	s.answers[key] = now
	return now
}

// check returns the refusal of an adjustment that can't be made. s.mu is held.
func (s *Server) check(a adjustment) *answer {
	n, ok := s.stock[a.SKU]
	switch {
	case a.SKU == "" || a.Delta == 0 || a.Reference == "":
		return answerOf(refusal(http.StatusBadRequest, "invalid", "sku, delta and reference are required"))
	case !ok:
		return answerOf(notFound(a.SKU))
	case a.Delta > 0 && n > math.MaxInt-a.Delta:
		return answerOf(refusal(http.StatusBadRequest, "invalid", "nobody can have so many"))
	case n+a.Delta < 0:
		return answerOf(refusal(http.StatusUnprocessableEntity, "out_of_stock", fmt.Sprintf("only %d of %q are left", n, a.SKU)))
	}
	return nil
}

// apply makes an adjustment that can be made. s.mu is held.
func (s *Server) apply(a adjustment) level {
	s.stock[a.SKU] += a.Delta
	s.states[a.SKU]++
	s.applied[purpose{a.Reference, a.SKU, a.Delta < 0}]++
	return s.now(a.SKU)
}

// An answer is a response before it is written.
type answer struct {
	status   int
	body     any
	after    time.Duration // Retry-After
	etag     string
	location string // Content-Location: the resource of the ETag
	to       string // the request, if the answer is kept for an idempotency key
}

type level struct {
	SKU       string `json:"sku"`
	Available int    `json:"available"`
	ETag      string `json:"etag"`
}

type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
}

func refusal(status int, code, detail string) answer {
	return answer{status: status, body: problem{http.StatusText(status), status, detail, code}}
}

func notFound(sku string) answer {
	return refusal(http.StatusNotFound, "not_found", fmt.Sprintf("there is no SKU %q", sku))
}

func throttled(wait time.Duration, detail string) answer {
	a := refusal(http.StatusTooManyRequests, "throttled", detail)
	a.after = max(wait, 1)
	return a
}

func answerOf(a answer) *answer { return &a }

func write(w http.ResponseWriter, a answer) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	if a.status >= 400 {
		h.Set("Content-Type", "application/problem+json")
	}
	if a.after > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64(math.Ceil(a.after.Seconds())), 10))
	}
	if a.etag != "" {
		h.Set("ETag", a.etag)
	}
	if a.location != "" {
		h.Set("Content-Location", a.location)
	}
	w.WriteHeader(a.status)
	_ = json.NewEncoder(w).Encode(a.body) // it fails only when the client has gone
}

// A statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// nowhere discards a reply that is to be lost.
type nowhere struct{ header http.Header }

func (w *nowhere) Header() http.Header         { return w.header }
func (w *nowhere) WriteHeader(int)             {}
func (w *nowhere) Write(b []byte) (int, error) { return len(b), nil }
