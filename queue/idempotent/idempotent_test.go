package idempotent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/idempotent"
	"github.com/rampmeter/rampmeter/queue/internal/results"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/retry"
)

func memory(t *testing.T, max int) *idempotent.Memory {
	t.Helper()
	s, err := idempotent.NewMemory(max)
	require.NoError(t, err)
	return s
}

func middleware(t *testing.T, s idempotent.Store, cfg idempotent.Config) *idempotent.Middleware {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	w, err := idempotent.New(s, cfg)
	require.NoError(t, err)
	return w
}

func message(body string, attempt int) *queue.Message {
	return &queue.Message{ID: body, Body: []byte(body), Attempt: attempt}
}

// Two handlers on one Memory would take each other's keys: the confirmation of an
// order would be done because its stock was reserved.
func TestMemoryOfAnotherMiddleware(t *testing.T) {
	store := memory(t, 10)
	_, err := idempotent.New(store, idempotent.Config{Timeout: -1})
	require.Error(t, err, "which takes nothing")
	reserve := middleware(t, store, idempotent.Config{})
	_, err = idempotent.New(store, idempotent.Config{})
	require.ErrorContains(t, err, "idempotent: New: store is a Memory that another Middleware has")

	confirm := middleware(t, memory(t, 10), idempotent.Config{})
	var ran []string
	run := func(w *idempotent.Middleware, name string) {
		h := w.Wrap(queue.HandlerFunc(func(context.Context, *queue.Message) error {
			ran = append(ran, name)
			return nil
		}))
		require.NoError(t, h.Handle(t.Context(), message("order 42", 1)))
	}
	run(reserve, "reserve")
	run(confirm, "confirm")
	run(reserve, "reserve, in another consumer")
	require.Equal(t, []string{"reserve", "confirm"}, ran)
}

func TestBadConfigurationIsRefused(t *testing.T) {
	for want, cfg := range map[string]idempotent.Config{
		"Config.Timeout is 1ns":   {Timeout: 1},
		"Config.Timeout is 13h":   {Timeout: 13 * time.Hour},
		"Config.Keep is 1s":       {Keep: time.Second},
		"Config.Keep is 87600h0m": {Keep: 87600*time.Hour + 1},
	} {
		_, err := idempotent.New(memory(t, 1), cfg)
		require.ErrorContains(t, err, want)
	}
	_, err := idempotent.New(nil, idempotent.Config{})
	require.ErrorContains(t, err, "store is nil")
	_, err = idempotent.New((*idempotent.Memory)(nil), idempotent.Config{})
	require.ErrorContains(t, err, "store is nil")
	_, err = idempotent.New((*away)(nil), idempotent.Config{})
	require.ErrorContains(t, err, "store is nil")
	w, err := idempotent.New(memory(t, 1), idempotent.Config{})
	require.NoError(t, err)
	require.Nil(t, w.Wrap(nil), "so that NewConsumer refuses it")
	require.Nil(t, w.Wrap(queue.HandlerFunc(nil)))
	_, err = idempotent.NewMemory(0)
	require.ErrorContains(t, err, "max is 0")
}

func TestKeys(t *testing.T) {
	byBody, err := idempotent.DefaultKey(&queue.Message{ID: "1", Body: []byte("order")})
	require.NoError(t, err)
	again, err := idempotent.DefaultKey(&queue.Message{ID: "2", Dedup: "x", Body: []byte("order")})
	require.NoError(t, err)
	require.Equal(t, byBody, again, "a message that was sent twice is one operation")
	other, err := idempotent.DefaultKey(&queue.Message{Body: []byte("other")})
	require.NoError(t, err)
	require.NotEqual(t, byBody, other)
	named, err := idempotent.DefaultKey(&queue.Message{Body: []byte("order"), Attributes: map[string]string{idempotent.KeyAttribute: "o-1"}})
	require.NoError(t, err)
	require.Equal(t, "o-1", named)

	never := queue.HandlerFunc(func(context.Context, *queue.Message) error { panic("must not run") })
	for name, c := range map[string]struct {
		key  string
		err  error
		want error
	}{
		"none":     {"", nil, retry.ErrPermanent},
		"too long": {strings.Repeat("k", 1025), nil, retry.ErrPermanent},
		"bad":      {"", errors.New("no order id"), retry.ErrPermanent},
		"later":    {"", limiter.ErrUnavailable, limiter.ErrUnavailable},
	} {
		w := middleware(t, memory(t, 1), idempotent.Config{Key: func(*queue.Message) (string, error) { return c.key, c.err }})
		err := w.Wrap(never).Handle(t.Context(), message("m", 1))
		require.ErrorIs(t, err, c.want, name)
		require.Equal(t, c.want == retry.ErrPermanent, errors.Is(err, retry.ErrPermanent), name)
	}
}

// A second delivery during a run is returned until that run's claim ends: it is not run
// and has not failed, however often this happens.
func TestBusyIsPostponedAndNeverExhausted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := memqueue.New(memqueue.Config{})
		require.NoError(t, err)
		dead, err := memqueue.New(memqueue.Config{})
		require.NoError(t, err)
		for range 5 {
			require.NoError(t, q.Send(t.Context(), message("one order", 0)))
		}
		store := memory(t, 10)
		w := middleware(t, store, idempotent.Config{Timeout: time.Minute})
		var mu sync.Mutex
		runs, at := 0, time.Duration(0)
		began := time.Now()
		c, err := queue.NewConsumer(q, w.Wrap(queue.HandlerFunc(func(context.Context, *queue.Message) error {
			mu.Lock()
			defer mu.Unlock()
			runs++
			at = time.Since(began)
			return nil
		})), queue.Config{DeadLetter: dead, Retry: retry.Policy{MaxAttempts: 1}, Logger: quiet})
		require.NoError(t, err)

		// A run in another process that has crashed.
		key, err := idempotent.DefaultKey(message("one order", 0))
		require.NoError(t, err)
		_, err = store.Claim(t.Context(), idempotent.Claim{Key: key, Owner: "another process", Until: began.Add(10 * time.Minute), Keep: began.Add(time.Hour)})
		require.NoError(t, err)

		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		time.Sleep(time.Hour)
		stop()
		require.NoError(t, <-ended)
		require.Equal(t, 1, runs)
		require.GreaterOrEqual(t, at, 10*time.Minute, "the claim was respected")
		require.LessOrEqual(t, at, 10*time.Minute+2*time.Second, "and ended by itself")
		s := c.Stats()
		require.EqualValues(t, 5, s.Done)
		// Each was postponed for the rest of that claim; and those that came back
		// while one of them ran, for the rest of its.
		require.GreaterOrEqual(t, s.Released, int64(5))
		require.LessOrEqual(t, s.Released, int64(9))
		require.Zero(t, s.Retried)
		require.Zero(t, dead.Stats().Visible)
		require.Equal(t, idempotent.Stats{Runs: 1, Done: 4, Busy: s.Released, InDoubt: 1}, w.Stats())
	})
}

// Attempts are failures of runs: postponements and crashes are none, and a
// message that is redriven starts again.
func TestAttemptsAreFailures(t *testing.T) {
	store := memory(t, 10)
	w := middleware(t, store, idempotent.Config{})
	failing := w.Wrap(queue.HandlerFunc(func(context.Context, *queue.Message) error { return errors.New("passing") }))
	attempts := func(receive int) int {
		// What the engine makes of it is seen in the dead-letter record.
		q, dead := &one{m: message("o", receive)}, &taken{}
		c, err := queue.NewConsumer(q, failing, queue.Config{DeadLetter: dead, Retry: retry.Policy{Retryable: func(error) bool { return false }}, Logger: quiet})
		require.NoError(t, err)
		require.NoError(t, c.Run(t.Context()))
		record, err := retry.ParseDeadLetter(dead.m.Attributes[retry.DeadLetterAttribute])
		require.NoError(t, err)
		return record.Attempts
	}
	require.Equal(t, 1, attempts(7), "six receives came to nothing without a run that failed")
	require.Equal(t, 2, attempts(9))
	require.Equal(t, 3, attempts(40))
	require.Equal(t, 1, attempts(1), "another message, of the same operation")
	require.Equal(t, 2, attempts(2))
	require.Equal(t, 2, attempts(2), "a second run in the same delivery counts no attempt")
}

// one is a source of one message.
type one struct {
	mu sync.Mutex // guards m
	m  *queue.Message
}

func (s *one) Receive(context.Context, queue.ReceiveOptions) ([]*queue.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		return nil, io.EOF
	}
	m := s.m
	s.m = nil
	return []*queue.Message{m}, nil
}
func (*one) Ack(context.Context, ...*queue.Message) error                   { return nil }
func (*one) Nack(context.Context, time.Duration, ...*queue.Message) error   { return nil }
func (*one) Extend(context.Context, time.Duration, ...*queue.Message) error { return nil }

// taken is a sink that remembers what it took last.
type taken struct{ m *queue.Message }

func (s *taken) Send(_ context.Context, msgs ...*queue.Message) error {
	s.m = msgs[len(msgs)-1].Clone()
	return nil
}

func TestWhatARunsEndMeansForItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory(t, 10)
		w := middleware(t, store, idempotent.Config{})
		run := func(err error) error {
			return w.Wrap(queue.HandlerFunc(func(context.Context, *queue.Message) error { return err })).Handle(t.Context(), message("o", 3))
		}
		for _, err := range []error{limiter.ErrOverload, limiter.ErrMisconfigured, retry.Permanent(errors.New("no such SKU"))} {
			require.ErrorIs(t, run(err), err)
			require.Zero(t, store.Len(), "%v leaves nothing behind", err)
		}
		passing := errors.New("passing")
		require.ErrorIs(t, run(passing), passing)
		require.Equal(t, 1, store.Len(), "the failure is remembered")
		require.PanicsWithValue(t, "oh", func() {
			_ = w.Wrap(queue.HandlerFunc(func(context.Context, *queue.Message) error { panic("oh") })).Handle(t.Context(), message("o", 3))
		})
		require.NoError(t, run(nil), "a panic gives up its claim")
		require.NoError(t, run(passing), "done: not run again")
		time.Sleep(30*24*time.Hour + 5*time.Minute)
		require.NoError(t, run(passing))
		time.Sleep(2 * time.Second)
		require.ErrorIs(t, run(passing), passing, "forgotten after Keep")
	})
}

// A handler that postpones its message has not failed: its attempts are its failed
// runs alone, and the key is free for who comes next.
func TestPostponedByTheHandler(t *testing.T) {
	store := memory(t, 10)
	w := middleware(t, store, idempotent.Config{})
	why := errors.New("the shop is closed")
	var counted []int
	run := func(attempt int, err error) error {
		h := w.Wrap(queue.HandlerFunc(func(ctx context.Context, _ *queue.Message) error {
			c, ok := idempotent.Current(ctx)
			require.True(t, ok)
			require.False(t, c.InDoubt)
			return err
		}))
		return h.Handle(t.Context(), message("o", attempt))
	}
	for i := range 5 {
		for _, err := range []error{queue.Postpone(time.Minute, why), fmt.Errorf("shop: %w", queue.Postpone(time.Minute, why)), queue.Postpone(0, retry.Permanent(why))} {
			require.Equal(t, err, run(i+1, err))
			require.Zero(t, store.Len(), "nothing to remember")
		}
	}
	failed := errors.New("no answer from the shop")
	for i := range 3 {
		err := run(6+2*i, failed)
		require.ErrorIs(t, err, failed)
		var a *results.Attempted
		require.ErrorAs(t, err, &a)
		counted = append(counted, a.Attempts)
		require.ErrorIs(t, run(7+2*i, queue.Postpone(time.Minute, why)), why)
	}
	require.Equal(t, []int{1, 2, 3}, counted, "what was counted stays")
	require.Zero(t, w.Stats().InDoubt+w.Stats().Busy)
}

func TestResultIsReplayed(t *testing.T) {
	var replayed []string
	w := middleware(t, memory(t, 10), idempotent.Config{OnDone: func(_ context.Context, m *queue.Message, result []byte) error {
		replayed = append(replayed, m.ID+": "+string(result))
		return nil
	}})
	h := w.Wrap(queue.HandlerFunc(func(ctx context.Context, _ *queue.Message) error {
		idempotent.SetResult(ctx, []byte("reservation 7"))
		return nil
	}))
	require.NoError(t, h.Handle(t.Context(), message("o", 1)))
	require.Empty(t, replayed)
	require.NoError(t, h.Handle(t.Context(), message("o", 2)))
	require.Equal(t, []string{"o: reservation 7"}, replayed)

	_, ok := idempotent.Current(t.Context())
	require.False(t, ok)
	idempotent.SetResult(t.Context(), nil) // no claim: nothing to do
}

// A handler whose context has no deadline gets one, so that it can't outlast its
// claim; one that does outlast it can't overwrite what came after it.
func TestLateRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := middleware(t, memory(t, 10), idempotent.Config{Timeout: time.Minute})
		began := time.Now()
		first := make(chan error, 1)
		go func() {
			first <- w.Wrap(queue.HandlerFunc(func(ctx context.Context, _ *queue.Message) error {
				deadline, ok := ctx.Deadline()
				require.True(t, ok)
				require.Equal(t, began.Add(time.Minute), deadline)
				require.NoError(t, ctx.Err())
				child, cancel := context.WithCancel(ctx)
				defer cancel()
				<-child.Done()
				require.Equal(t, time.Minute, time.Since(began))
				require.ErrorIs(t, ctx.Err(), context.DeadlineExceeded)
				require.ErrorIs(t, context.Cause(child), context.DeadlineExceeded)
				time.Sleep(time.Minute) // ignoring it
				return nil
			})).Handle(t.Context(), message("o", 1))
		}()
		time.Sleep(61*time.Second + 1)
		second := errors.New("the second run fails after the first has ended")
		err := w.Wrap(queue.HandlerFunc(func(ctx context.Context, _ *queue.Message) error {
			claim, ok := idempotent.Current(ctx)
			require.True(t, ok)
			require.True(t, claim.InDoubt)
			require.NoError(t, <-first)
			return second
		})).Handle(t.Context(), message("o", 2))
		require.ErrorIs(t, err, second, "the late success has not taken the second's place")
		require.Equal(t, idempotent.Stats{Runs: 2, InDoubt: 1, Late: 1}, w.Stats())
	})
}

// heedful is a store that does nothing for a context that has ended, as those do
// which make requests.
type heedful struct{ *idempotent.Memory }

func (s heedful) Done(ctx context.Context, c idempotent.Claim, result []byte) error {
	child, cancel := context.WithCancel(ctx)
	defer cancel()
	return errors.Join(ctx.Err(), child.Err(), s.Memory.Done(ctx, c, result))
}

func (s heedful) Release(ctx context.Context, c idempotent.Claim, forget bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	deadline, ok := ctx.Deadline()
	if left := time.Until(deadline); !ok || left <= 0 || left > 5*time.Second {
		return fmt.Errorf("%v left", left)
	}
	return s.Memory.Release(ctx, c, forget)
}

// A consumer that ends a run for its own reasons costs the message no attempt,
// and the end is reported to the store although the run's context has ended.
func TestEndedRunIsNoFailure(t *testing.T) {
	for _, cause := range []error{queue.ErrLeaseLost, queue.ErrDrainTimeout} {
		store := memory(t, 10)
		w := middleware(t, heedful{store}, idempotent.Config{})
		ctx, cancel := context.WithCancelCause(t.Context())
		err := w.Wrap(queue.HandlerFunc(func(ctx context.Context, _ *queue.Message) error {
			cancel(cause)
			require.ErrorIs(t, ctx.Err(), context.Canceled)
			return ctx.Err()
		})).Handle(ctx, message("o", 2))
		require.ErrorIs(t, err, context.Canceled)
		require.Zero(t, store.Len(), "no failure is remembered")

		require.NoError(t, w.Wrap(queue.HandlerFunc(func(context.Context, *queue.Message) error { return nil })).Handle(ctx, message(cause.Error(), 2)))
		require.Equal(t, 1, store.Len(), "a success is")
		require.Zero(t, w.Stats().Unrecorded)
	}
}

// So it is after the run's deadline.
func TestEndIsToldAfterTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory(t, 10)
		w := middleware(t, heedful{store}, idempotent.Config{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := w.Wrap(queue.HandlerFunc(func(ctx context.Context, _ *queue.Message) error {
			<-ctx.Done()
			return limiter.ErrOverload
		})).Handle(ctx, message("o", 2))
		require.ErrorIs(t, err, limiter.ErrOverload)
		require.Zero(t, store.Len(), "the claim was given up")
	})
}

// silent is a store that can't record successes.
type silent struct{ *idempotent.Memory }

func (silent) Done(context.Context, idempotent.Claim, []byte) error {
	return limiter.ErrUnavailable
}

func TestUnrecordedSuccessIsAcked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := middleware(t, silent{memory(t, 10)}, idempotent.Config{})
		h := w.Wrap(queue.HandlerFunc(func(context.Context, *queue.Message) error { return nil }))
		require.NoError(t, h.Handle(t.Context(), message("o", 1)))
		require.Equal(t, idempotent.Stats{Runs: 1, Unrecorded: 1}, w.Stats())
	})
}

// away is a store that can't record a success for a while.
type away struct {
	idempotent.Store
	until time.Time
}

func (s away) Done(ctx context.Context, c idempotent.Claim, result []byte) error {
	if time.Now().Before(s.until) {
		return limiter.ErrUnavailable
	}
	return s.Store.Done(ctx, c, result)
}

// An outage of the store of four seconds causes no second run.
func TestSuccessWaitsForItsStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := middleware(t, away{memory(t, 10), time.Now().Add(4 * time.Second)}, idempotent.Config{})
		h := w.Wrap(queue.HandlerFunc(func(context.Context, *queue.Message) error { return nil }))
		require.NoError(t, h.Handle(t.Context(), message("o", 1)))
		time.Sleep(time.Hour)
		require.NoError(t, h.Handle(t.Context(), message("o", 2)))
		require.Equal(t, idempotent.Stats{Runs: 1, Done: 1}, w.Stats())

		// It is not waited for when the run's own time is over, or its consumer
		// would take the run for one that does not end.
		w = middleware(t, silent{memory(t, 10)}, idempotent.Config{})
		h = w.Wrap(queue.HandlerFunc(func(context.Context, *queue.Message) error { return nil }))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.NoError(t, h.Handle(ctx, message("o", 1)))
		require.NoError(t, ctx.Err())
		require.Equal(t, idempotent.Stats{Runs: 1, Unrecorded: 1}, w.Stats())
	})
}

func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory(t, 100)
		claim := func(key, owner string) (idempotent.Record, error) {
			return s.Claim(t.Context(), idempotent.Claim{Key: key, Owner: owner, Until: time.Now().Add(time.Minute), Keep: time.Now().Add(time.Hour)})
		}
		done := func(key string) {
			_, err := claim(key, "a")
			require.NoError(t, err)
			require.NoError(t, s.Done(t.Context(), idempotent.Claim{Key: key, Owner: "a", Keep: time.Now().Add(time.Hour)}, nil))
		}
		for i := range 1000 {
			done(strings.Repeat("k", i+1))
		}
		require.Equal(t, 100, s.Len())
		r, err := claim(strings.Repeat("k", 901), "b")
		require.NoError(t, err)
		require.Equal(t, idempotent.Done, r.State, "the newest are remembered")
		r, err = claim("k", "b")
		require.NoError(t, err)
		require.Equal(t, idempotent.Claimed, r.State, "the oldest are not")

		time.Sleep(2 * time.Hour) // all have expired
		for i := range 100 {
			_, err := claim(strings.Repeat("x", i+1), "a")
			require.NoError(t, err)
		}
		_, err = claim("one more", "a")
		require.ErrorIs(t, err, idempotent.ErrFull)
		require.ErrorIs(t, err, limiter.ErrOverload)
		time.Sleep(time.Minute) // they have crashed
		r, err = claim("one more", "a")
		require.NoError(t, err)
		require.Equal(t, idempotent.Claimed, r.State)
		require.Equal(t, 100, s.Len())
		_, err = claim("", "a")
		require.ErrorContains(t, err, "Key or Owner is empty")
	})
}

// large is a store for which every result is too large.
type large struct {
	*idempotent.Memory
	calls int
}

func (s *large) Done(ctx context.Context, c idempotent.Claim, _ []byte) error {
	s.calls++
	return errors.Join(s.Memory.Done(ctx, c, nil), idempotent.ErrResultTooLarge)
}

func TestSuccessWithoutItsResult(t *testing.T) {
	s := &large{Memory: memory(t, 10)}
	replayed := false
	w := middleware(t, s, idempotent.Config{OnDone: func(_ context.Context, _ *queue.Message, result []byte) error {
		replayed = true
		require.Nil(t, result)
		return nil
	}})
	h := w.Wrap(queue.HandlerFunc(func(context.Context, *queue.Message) error { return nil }))
	require.NoError(t, h.Handle(t.Context(), message("o", 1)))
	require.Equal(t, 1, s.calls, "the store would say the same again")
	require.NoError(t, h.Handle(t.Context(), message("o", 2)))
	require.True(t, replayed)
	require.Equal(t, idempotent.Stats{Runs: 1, Done: 1}, w.Stats())
}

// lossy is a store whose answer to a claim is lost.
type lossy struct {
	*idempotent.Memory
	err error
}

func (s *lossy) Claim(ctx context.Context, c idempotent.Claim) (idempotent.Record, error) {
	r, err := s.Memory.Claim(ctx, c)
	if s.err != nil {
		return idempotent.Record{}, s.err
	}
	return r, err
}

// A claim that may have been made, after a lost reply, holds up nobody.
func TestClaimThatNobodyKnowsOf(t *testing.T) {
	s := &lossy{memory(t, 10), fmt.Errorf("connection reset: %w", limiter.ErrUnavailable)}
	w := middleware(t, s, idempotent.Config{})
	h := w.Wrap(queue.HandlerFunc(func(context.Context, *queue.Message) error { return nil }))
	require.ErrorIs(t, h.Handle(t.Context(), message("o", 1)), limiter.ErrUnavailable)
	s.err = nil
	require.NoError(t, h.Handle(t.Context(), message("o", 2)))
	require.Equal(t, idempotent.Stats{Runs: 1}, w.Stats())
}

// slow is a store whose replies take a second.
type slow struct{ idempotent.Store }

func (s slow) Claim(ctx context.Context, c idempotent.Claim) (idempotent.Record, error) {
	r, err := s.Store.Claim(ctx, c)
	select {
	case <-time.After(time.Second):
		return r, err
	case <-ctx.Done():
		return idempotent.Record{}, context.Cause(ctx)
	}
}

// Nor does one whose reply was not waited for.
func TestClaimThatIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, cause := range []error{queue.ErrDrainTimeout, queue.ErrLeaseLost, context.Canceled} {
			store := memory(t, 10)
			w, other := middleware(t, slow{store}, idempotent.Config{}), middleware(t, store, idempotent.Config{})
			h := queue.HandlerFunc(func(context.Context, *queue.Message) error { return nil })
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Second/2, func() { cancel(cause) })
			require.ErrorIs(t, w.Wrap(h).Handle(ctx, message("o", 1)), cause)
			require.NoError(t, other.Wrap(h).Handle(t.Context(), message("o", 2)))
			require.Equal(t, idempotent.Stats{Runs: 1}, other.Stats(), "neither busy nor in doubt")
		}
	})
}

// A handler's claim is in doubt until a run succeeds, whatever happened in between.
func TestDoubtStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory(t, 10)
		w := middleware(t, store, idempotent.Config{})
		key, err := idempotent.DefaultKey(message("o", 0))
		require.NoError(t, err)
		_, err = store.Claim(t.Context(), idempotent.Claim{Key: key, Owner: "crashed", Until: time.Now().Add(time.Minute), Keep: time.Now().Add(time.Hour)})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		ends := []error{limiter.ErrOverload, errors.New("passing"), retry.Permanent(errors.New("no")), limiter.ErrUnavailable, nil}
		for _, end := range ends {
			err := w.Wrap(queue.HandlerFunc(func(ctx context.Context, _ *queue.Message) error {
				claim, _ := idempotent.Current(ctx)
				require.True(t, claim.InDoubt, "before %v", end)
				return end
			})).Handle(t.Context(), message("o", 2))
			require.ErrorIs(t, err, end)
		}
		require.EqualValues(t, len(ends), w.Stats().InDoubt)
	})
}
