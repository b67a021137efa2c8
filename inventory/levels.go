package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Level is the stock of a SKU.
type Level struct {
	SKU       string `json:"sku"`
	Available int    `json:"available"`

	// ETag identifies this state of the level, including the quotes of the HTTP
	// header; another state has another ETag. [Client.Refresh] and
	// Adjustment.IfMatch use it. It has 256 bytes at most, and is empty if the API
	// sent none.
	ETag string `json:"etag,omitempty"`
}

const maxETag = 256

// UnmarshalJSON implements [json.Unmarshaler]. SKU and Available must be there:
// none of something is not the same as no answer.
func (l *Level) UnmarshalJSON(b []byte) error {
	var v struct {
		SKU       *string `json:"sku"`
		Available *int    `json:"available"`
		ETag      string  `json:"etag"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	switch {
	case v.SKU == nil || *v.SKU == "" || v.Available == nil:
		return errors.New("a level needs sku and available")
	case v.ETag != "" && !isETag(v.ETag):
		return errors.New("a level's etag is none")
	}
	*l = Level{SKU: *v.SKU, Available: *v.Available, ETag: v.ETag}
	return nil
}

// isETag reports whether s is an entity tag as RFC 9110 has it, and not too
// long.
func isETag(s string) bool {
	inner, quoted := strings.CutPrefix(strings.TrimPrefix(s, weak), `"`)
	inner, closed := strings.CutSuffix(inner, `"`)
	return quoted && closed && len(s) <= maxETag &&
		strings.IndexFunc(inner, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' }) < 0
}

const weak = "W/" // begins the tags of levels that are the same but for details

// Level returns the stock of a SKU; [ErrNotFound] if the API does not know it. A
// malformed SKU is [ErrInvalid] without a request.
func (c *Client) Level(ctx context.Context, sku string) (Level, error) {
	return c.Refresh(ctx, Level{SKU: sku})
}

// Refresh is [Client.Level] for callers that already have a level of the SKU: it
// returns known if that is still current. The ETag lets the API answer without a
// lookup, and many APIs don't count such a request. Without an ETag, Refresh is the
// same as Level.
func (c *Client) Refresh(ctx context.Context, known Level) (Level, error) {
	r := &call{
		op: "level", sku: known.SKU, method: http.MethodGet, path: "/v1/levels/" + url.PathEscape(known.SKU),
		ifNone: known.ETag,
	}
	if problem := checkSKU(known.SKU); problem != "" {
		return Level{}, r.invalid(problem)
	}
	if known.ETag != "" && !isETag(known.ETag) {
		return Level{}, r.invalid("etag is none: must be the etag that the API returned")
	}
	return c.level(ctx, r, known)
}

// level makes a call whose answer is the level of its SKU, or that known is
// current.
func (c *Client) level(ctx context.Context, r *call, known Level) (Level, error) {
	var level Level
	r.decode = func(res *http.Response, body []byte) error {
		if res.StatusCode == http.StatusNotModified {
			level = known
			return nil
		}
		level = Level{}
		if err := json.Unmarshal(body, &level); err != nil {
			return err
		}
		if level.SKU != r.sku {
			return fmt.Errorf("it is about another SKU: %q", cut(level.SKU, maxWord))
		}
		if tag := res.Header.Get("ETag"); level.ETag == "" && isETag(tag) {
			level.ETag = tag
		}
		return nil
	}
	if err := c.do(ctx, r); err != nil {
		return Level{}, err
	}
	return level, nil
}

// checkSKU returns what is wrong with a SKU, or "".
func checkSKU(sku string) string {
	switch {
	case sku == "":
		return "sku is empty"
	case sku == "." || sku == "..":
		return "sku is a directory" // servers and proxies take such paths apart
	case !utf8.ValidString(sku):
		return "sku is not UTF-8" // JSON would make another one of it
	}
	return ""
}

// LevelsOptions are options for listing levels.
type LevelsOptions struct {
	// PageSize is how many levels one request returns, 1 to 1,000. Default
	// 100.
	PageSize int
}

const (
	defaultPageSize = 100
	maxPageSize     = 1000
	maxCursor       = 2048 // bytes
)

// Levels returns the levels of all SKUs, in byte order of the SKUs. It requests each
// page when the loop reaches it, and holds one page. An error is the last value it
// yields. Each loop over it starts from the beginning. A level that changes during
// the loop is listed as it was or as it is.
func (c *Client) Levels(ctx context.Context, opts LevelsOptions) iter.Seq2[Level, error] {
	size := opts.PageSize
	if size == 0 {
		size = defaultPageSize
	}
	return func(yield func(Level, error) bool) {
		if size < 1 || size > maxPageSize {
			err := (&call{op: "levels"}).invalid(fmt.Sprintf("PageSize is %d: must be from 1 to %d", size, maxPageSize))
			yield(Level{}, err)
			return
		}
		for cursor, last := "", ""; ; {
			p, err := c.page(ctx, size, cursor, last)
			if err != nil {
				yield(Level{}, err)
				return
			}
			for _, level := range p.Levels {
				last = level.SKU
				if !yield(level, nil) {
					return
				}
			}
			if cursor = p.Next; cursor == "" {
				return
			}
		}
	}
}

// A page is the answer to a request for levels.
type page struct {
	Levels []Level `json:"levels"`
	Next   string  `json:"next_cursor"`
}

// page returns the page at a cursor; its SKUs must come after last.
func (c *Client) page(ctx context.Context, size int, cursor, last string) (page, error) {
	query := url.Values{"limit": {strconv.Itoa(size)}}
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	var p page
	err := c.do(ctx, &call{
		op: "levels", method: http.MethodGet, path: "/v1/levels?" + query.Encode(),
		decode: func(_ *http.Response, body []byte) error {
			p = page{}
			if err := json.Unmarshal(body, &p); err != nil {
				return err
			}
			switch {
			case p.Levels == nil:
				return errors.New("it has no levels")
			case p.Next != "" && len(p.Levels) == 0:
				return errors.New("its next_cursor leads nowhere")
			case len(p.Next) > maxCursor:
				return fmt.Errorf("its next_cursor has more than %d bytes", maxCursor)
			}
			after := last
			for _, level := range p.Levels { // or cursors may lead in a circle
				if level.SKU <= after {
					return errors.New("its levels are not in the order of their SKUs")
				}
				after = level.SKU
			}
			return nil
		},
	})
	return p, err
}
