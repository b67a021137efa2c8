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
	"unicode/utf8"
)

// A Level is how many of a SKU there are.
type Level struct {
	SKU       string `json:"sku"`
	Available int    `json:"available"`
}

// UnmarshalJSON implements [json.Unmarshaler]. Both fields must be there:
// none of something is not the same as no answer.
func (l *Level) UnmarshalJSON(b []byte) error {
	var v struct {
		SKU       *string `json:"sku"`
		Available *int    `json:"available"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	if v.SKU == nil || *v.SKU == "" || v.Available == nil {
		return errors.New("a level needs sku and available")
	}
	*l = Level{SKU: *v.SKU, Available: *v.Available}
	return nil
}

// Level returns how many of a SKU there are; [ErrNotFound] if the API does not
// know it. A SKU that can't be one is [ErrInvalid] without a request.
func (c *Client) Level(ctx context.Context, sku string) (Level, error) {
	r := &call{op: "level", sku: sku, method: http.MethodGet, path: "/v1/levels/" + url.PathEscape(sku)}
	if problem := checkSKU(sku); problem != "" {
		return Level{}, r.invalid(problem)
	}
	return c.level(ctx, r)
}

// level makes a call that is answered with the level of its SKU.
func (c *Client) level(ctx context.Context, r *call) (Level, error) {
	var level Level
	r.decode = func(body []byte) error {
		if err := json.Unmarshal(body, &level); err != nil {
			return err
		}
		if level.SKU != r.sku {
			return fmt.Errorf("it is about another SKU: %q", cut(level.SKU, maxWord))
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

// LevelsOptions say how to list levels.
type LevelsOptions struct {
	// PageSize is how many levels come with one request, 1 to 1,000. Default
	// 100.
	PageSize int
}

const (
	defaultPageSize = 100
	maxPageSize     = 1000
	maxCursor       = 2048 // bytes
)

// Levels returns all SKUs' levels, in the order of the SKUs. It makes a request
// for each page when the loop gets there. An error is the last thing it
// yields. Each loop over it starts anew.
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
		for cursor := ""; ; {
			p, err := c.page(ctx, size, cursor)
			if err != nil {
				yield(Level{}, err)
				return
			}
			for _, level := range p.Levels {
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

func (c *Client) page(ctx context.Context, size int, cursor string) (page, error) {
	query := url.Values{"limit": {strconv.Itoa(size)}}
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	var p page
	err := c.do(ctx, &call{
		op: "levels", method: http.MethodGet, path: "/v1/levels?" + query.Encode(),
		decode: func(body []byte) error {
			p = page{}
			if err := json.Unmarshal(body, &p); err != nil {
				return err
			}
			switch {
			case p.Levels == nil:
				return errors.New("it has no levels")
			case p.Next != "" && (len(p.Levels) == 0 || p.Next == cursor):
				return errors.New("its next_cursor leads nowhere") // and the loop would never end
			case len(p.Next) > maxCursor:
				return fmt.Errorf("its next_cursor has more than %d bytes", maxCursor)
			}
			return nil
		},
	})
	return p, err
}
