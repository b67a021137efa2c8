package store

import (
	"context"
	_ "embed" // the scripts
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

//go:embed common.lua
var commonLua string

//go:embed rate.lua
var rateLua string

//go:embed places.lua
var placesLua string

// script is one limit's script with its keys.
type script struct {
	client redis.Scripter
	script *redis.Script
	keys   []string
}

// newScript returns the script for a limit of that kind and name. The braces
// put all keys of a limit into one slot of a cluster.
func newScript(client redis.Scripter, src, kind, name string) script {
	key := "rampmeter:{" + name + "}:" + kind
	return script{
		client: client,
		script: redis.NewScript(commonLua + src),
		keys:   []string{key, key + ":processes", key + ":seen", key + ":waiting"},
	}
}

// run runs the script, and returns its answer, of which all parts are strings.
func (s script) run(ctx context.Context, c Call, args ...any) (reply, error) {
	flag := func(b bool) string {
		if b {
			return "1"
		}
		return "0"
	}
	leave := "0"
	switch {
	case c.Leave:
		leave = "1"
	case c.Rest:
		leave = "2"
	}
	number := func(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
	all := append([]any{
		c.Now, c.ID, c.Number, c.Gen, c.Seq, flag(c.Away), flag(c.Join),
		number(c.Declared.Value), c.Declared.Burst,
		c.Version, number(c.Limit.Value), c.Limit.Burst,
		number(c.Set), c.Pause, leave,
	}, args...)
	got, err := s.script.Run(ctx, s.client, s.keys, all...).StringSlice()
	if err != nil {
		return reply{}, err
	}
	return reply{parts: got}, nil
}

// A reply is read from the front. The first mistake in it is kept.
type reply struct {
	parts []string
	err   error
}

func (r *reply) text() string {
	if len(r.parts) == 0 {
		if r.err == nil {
			r.err = fmt.Errorf("the script's answer is too short")
		}
		return ""
	}
	s := r.parts[0]
	r.parts = r.parts[1:]
	return s
}

func (r *reply) int() int64 {
	n, err := strconv.ParseInt(r.text(), 10, 64)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("the script's answer: %w", err)
	}
	return n
}

func (r *reply) state() State {
	s := State{Now: r.int(), Gen: r.int(), Seq: r.int(), Version: r.int()}
	v, err := strconv.ParseFloat(r.text(), 64)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("the script's answer: %w", err)
	}
	s.Limit = Limit{Value: v, Burst: r.int()}
	s.Origin, s.Pause, s.Live, s.Again = r.int(), r.int(), r.int(), r.int()
	return s
}

// RedisRate is the store of starts in Redis.
type RedisRate struct{ script }

// NewRedisRate returns the store of the rate with that name.
func NewRedisRate(client redis.Scripter, name string) *RedisRate {
	return &RedisRate{newScript(client, rateLua, "rate", name)}
}

// Lease implements [Rate].
func (s *RedisRate) Lease(ctx context.Context, c RateCall) (RateState, error) {
	var returned strings.Builder
	for _, j := range c.Return {
		fmt.Fprintf(&returned, "%d ", j)
	}
	r, err := s.run(ctx, c.Call, c.Demand, c.Soon, c.Before, c.Fresh, c.Spread, c.After, c.Held, c.Lead, returned.String())
	if err != nil {
		return RateState{}, err
	}
	st := RateState{State: r.state(), Share: r.int(), Horizon: r.int(), Tight: r.int() == 1}
	base := r.int()
	for _, offset := range strings.Fields(r.text()) {
		j, err := strconv.ParseInt(offset, 10, 64)
		if err != nil {
			return RateState{}, fmt.Errorf("the script's answer: %w", err)
		}
		st.Cells = append(st.Cells, base+j)
	}
	return st, r.err
}

// RedisPlaces is the store of places in Redis.
type RedisPlaces struct{ script }

// NewRedisPlaces returns the store of the places with that name.
func NewRedisPlaces(client redis.Scripter, name string) *RedisPlaces {
	return &RedisPlaces{newScript(client, placesLua, "places", name)}
}

// Lease implements [Places].
func (s *RedisPlaces) Lease(ctx context.Context, c PlacesCall) (PlacesState, error) {
	r, err := s.run(ctx, c.Call, c.Held, c.Want)
	if err != nil {
		return PlacesState{}, err
	}
	st := PlacesState{State: r.state(), Held: r.int(), Yield: r.int(), Share: r.int()}
	return st, r.err
}
