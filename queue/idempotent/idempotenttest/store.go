package idempotenttest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/queue/idempotent"
)

// Claims end after a moment, and records are kept for a few seconds: a store may keep
// them slightly longer, but not shorter.
const (
	moment = 500 * time.Millisecond
	awhile = time.Hour
	late   = 2 * time.Second // how much longer than requested a store may keep a record
)

// T is the part of *testing.T that the tests use.
type T interface {
	Helper()
	Context() context.Context
	Errorf(format string, args ...any)
	Logf(format string, args ...any)
}

// TestStore reports to t where s violates the contract of [idempotent.Store]. The store
// needs room for about a hundred keys, and may contain others. The test takes about
// five seconds, in a bubble of testing/synctest of the bubble's time.
func TestStore(t T, s idempotent.Store) {
	t.Helper()
	if nils.Is(s) {
		t.Errorf("idempotenttest: TestStore: s is %s", nils.Describe(s))
		return
	}
	var wg sync.WaitGroup
	for name, c := range map[string]func(*suite){
		"a claim":          aClaim,
		"a success":        aSuccess,
		"failures":         failures,
		"a release":        aRelease,
		"a claim's end":    aClaimsEnd,
		"a doubt":          aDoubt,
		"expiry":           expiry,
		"keys":             keys,
		"many at once":     manyAtOnce,
		"what nobody knew": unknown,
	} {
		// The cases wait, so they run concurrently; t.Run is not allowed in bubbles.
		wg.Go(func() { c(&suite{t: t, s: s, name: name, key: name + " " + rand.Text()}) })
	}
	wg.Wait()
}

// A suite is one case.
type suite struct {
	t         T
	s         idempotent.Store
	name, key string
}

func (c *suite) errorf(format string, args ...any) {
	c.t.Helper()
	c.t.Errorf("%s: %s", c.name, fmt.Sprintf(format, args...))
}

// by returns a claim of an owner, for a while.
func (c *suite) by(owner string) idempotent.Claim {
	return idempotent.Claim{Key: c.key, Owner: owner, Until: time.Now().Add(awhile), Keep: time.Now().Add(2 * awhile)}
}

// briefly returns a claim of owner a that ends in a moment.
func (c *suite) briefly() idempotent.Claim {
	claim := c.by("a")
	claim.Until = time.Now().Add(moment)
	return claim
}

func (c *suite) claim(claim idempotent.Claim, want idempotent.Record, when string) {
	c.t.Helper()
	got, err := c.s.Claim(c.t.Context(), claim)
	if err != nil {
		c.errorf("%s: Claim by %s: %v", when, claim.Owner, err)
		return
	}
	if got.State != want.State {
		c.errorf("%s: Claim by %s says %v: must say %v", when, claim.Owner, got.State, want.State)
		return
	}
	switch got.State {
	case idempotent.Claimed:
		if got.InDoubt != want.InDoubt {
			c.errorf("%s: Claim by %s says InDoubt %v: must say %v", when, claim.Owner, got.InDoubt, want.InDoubt)
		}
		if got.Failures != want.Failures {
			c.errorf("%s: Claim by %s says %d failures: must say %d", when, claim.Owner, got.Failures, want.Failures)
		}
	case idempotent.Busy:
		if off := got.Until.Sub(want.Until); off < 0 || off > late {
			c.errorf("%s: Claim by %s says that the other claim ends %v after its end", when, claim.Owner, off)
		}
	case idempotent.Done:
		if !bytes.Equal(got.Result, want.Result) {
			c.errorf("%s: Claim by %s says the result %q: must say %q", when, claim.Owner, got.Result, want.Result)
		}
	}
}

func (c *suite) done(claim idempotent.Claim, result []byte, want error, when string) {
	c.t.Helper()
	c.is("Done", claim, c.s.Done(c.t.Context(), claim, result), want, when)
}

func (c *suite) failed(claim idempotent.Claim, want int, wantErr error, when string) {
	c.t.Helper()
	got, err := c.s.Failed(c.t.Context(), claim)
	c.is("Failed", claim, err, wantErr, when)
	if err == nil && got != want {
		c.errorf("%s: Failed by %s says %d failures: must say %d", when, claim.Owner, got, want)
	}
}

func (c *suite) release(claim idempotent.Claim, forget bool, when string) {
	c.t.Helper()
	c.is("Release", claim, c.s.Release(c.t.Context(), claim, forget), nil, when)
}

func (c *suite) is(op string, claim idempotent.Claim, got, want error, when string) {
	c.t.Helper()
	if got != want && (want == nil || !errors.Is(got, want)) {
		c.errorf("%s: %s by %s: error is %v: must be %v", when, op, claim.Owner, got, want)
	}
}

var (
	free  = idempotent.Record{State: idempotent.Claimed}
	doubt = idempotent.Record{State: idempotent.Claimed, InDoubt: true}
	did   = idempotent.Record{State: idempotent.Done}
)

func failedBefore(n int) idempotent.Record {
	return idempotent.Record{State: idempotent.Claimed, Failures: n}
}

func busy(c idempotent.Claim) idempotent.Record {
	return idempotent.Record{State: idempotent.Busy, Until: c.Until}
}

func aClaim(c *suite) {
	a, b := c.by("a"), c.by("b")
	c.claim(a, free, "a new key")
	c.claim(a, free, "again, by the owner")
	c.claim(b, busy(a), "a key that is held")
	c.done(b, nil, idempotent.ErrNotOwner, "without the claim")
	c.failed(b, 0, idempotent.ErrNotOwner, "without the claim")
	c.release(b, true, "without the claim")
	c.claim(b, busy(a), "after all that")
	c.done(a, nil, nil, "with the claim")
}

func aSuccess(c *suite) {
	a, b := c.by("a"), c.by("b")
	result := []byte("reserved\x00\xff")
	c.claim(a, free, "a new key")
	c.done(a, result, nil, "with the claim")
	c.done(a, result, nil, "again, by the same owner")
	want := idempotent.Record{State: idempotent.Done, Result: result}
	for _, again := range []idempotent.Claim{a, b, {Key: c.key, Owner: "c", Until: a.Until, Keep: a.Keep, Fresh: true}} {
		c.claim(again, want, "a key that is done")
		c.release(again, true, "a key that is done")
		c.failed(again, 0, idempotent.ErrNotOwner, "a key that is done")
	}
	c.done(b, nil, idempotent.ErrNotOwner, "a key that is done")
	c.claim(b, want, "after all that")
}

func failures(c *suite) {
	for n, owner := range []string{"a", "b", "c"} {
		claim := c.by(owner)
		c.claim(claim, failedBefore(n), "after failures")
		c.failed(claim, n+1, nil, "with the claim")
		c.failed(claim, n+1, nil, "again, by the same owner")
	}
	d := c.by("d")
	c.claim(d, failedBefore(3), "after failures")
	c.release(d, false, "with the claim")
	e := c.by("e")
	c.claim(e, failedBefore(3), "after a release that remembers")
	c.release(e, true, "with the claim")
	f := c.by("f")
	c.claim(f, free, "after a release that forgets")
	c.failed(f, 1, nil, "with the claim")
	g := c.by("g")
	g.Fresh = true
	c.claim(g, free, "by a message that was never delivered before")
	c.failed(g, 1, nil, "with the claim")
	h := c.by("h")
	c.claim(h, failedBefore(1), "after a failure")
	c.done(h, nil, nil, "with the claim")
	c.claim(c.by("i"), did, "after a success")
}

func aRelease(c *suite) {
	for _, forget := range []bool{false, true} {
		a := c.by("a")
		c.claim(a, free, "a key that is free")
		c.release(a, forget, "with the claim")
		c.release(a, forget, "again")
		c.done(a, nil, idempotent.ErrNotOwner, "after the release")
		b := c.by("b")
		c.claim(b, free, "after the release")
		c.release(a, forget, "of another's claim")
		c.claim(a, busy(b), "after all that")
		c.release(b, forget, "with the claim")
	}
}

func aClaimsEnd(c *suite) {
	a := c.briefly()
	c.claim(a, free, "a new key")
	time.Sleep(moment + late)
	c.claim(a, free, "by the owner, after its own end")
	a = c.briefly()
	c.claim(a, free, "by the owner, before its end")
	time.Sleep(moment + late)
	b := c.by("b")
	c.claim(b, doubt, "after the end of another's claim")
	c.claim(b, doubt, "again, by the owner")
	c.done(a, nil, idempotent.ErrNotOwner, "after its claim's end")
	c.failed(a, 0, idempotent.ErrNotOwner, "after its claim's end")
	c.release(a, true, "after its claim's end")
	c.claim(c.by("c"), busy(b), "after all that")
	c.done(b, nil, nil, "with the claim")
	c.claim(c.by("c"), did, "after the success")

	// A late run can still record its end, if no other run has claimed the key meanwhile.
	alone := *c
	alone.key += " alone"
	a = alone.briefly()
	alone.claim(a, free, "a new key")
	time.Sleep(moment + late)
	alone.done(a, nil, nil, "after its end, which nobody saw")
	alone.claim(alone.by("b"), did, "after the success")
}

// A doubt stays until a success, however the runs in between fail.
func aDoubt(c *suite) {
	a := c.briefly()
	c.claim(a, free, "a new key")
	time.Sleep(moment + late)
	b := c.by("b")
	c.claim(b, doubt, "after the end of another's claim")
	c.failed(b, 1, nil, "with the claim")
	d := c.by("d")
	c.claim(d, idempotent.Record{State: idempotent.Claimed, InDoubt: true, Failures: 1}, "in doubt, after a failure")
	c.release(d, false, "with the claim")
	e := c.by("e")
	c.claim(e, idempotent.Record{State: idempotent.Claimed, InDoubt: true, Failures: 1}, "in doubt, after a release")
	c.release(e, true, "with the claim")
	f := c.by("f")
	c.claim(f, doubt, "in doubt, after a release that forgets")
	c.failed(f, 1, nil, "with the claim")
	g := c.by("g")
	g.Fresh = true
	c.claim(g, doubt, "in doubt, by a message that was never delivered before")
	c.done(g, nil, nil, "with the claim")
}

// An expired record does not count, whether or not somebody has deleted it.
func expiry(c *suite) {
	keep := time.Now().Add(time.Second)
	end := map[string]func(*suite, idempotent.Claim){
		"a success":       func(c *suite, a idempotent.Claim) { c.done(a, []byte("r"), nil, "with the claim") },
		"a failure":       func(c *suite, a idempotent.Claim) { c.failed(a, 1, nil, "with the claim") },
		"a crash":         func(*suite, idempotent.Claim) {},
		"a success, kept": func(c *suite, a idempotent.Claim) { a.Keep = a.Keep.Add(awhile); c.done(a, nil, nil, "with the claim") },
	}
	key := c.key
	for name, end := range end {
		c.key = key + name
		a := idempotent.Claim{Key: c.key, Owner: "a", Until: keep, Keep: keep}
		c.claim(a, free, name)
		end(c, a)
	}
	time.Sleep(time.Second + late)
	for name := range end {
		c.key = key + name
		if name == "a success, kept" {
			c.claim(c.by("b"), did, name)
			continue
		}
		b := c.by("b")
		c.claim(b, free, name+" that is remembered no longer")
		c.failed(b, 1, nil, name+" that is remembered no longer")
	}
}

func keys(c *suite) {
	long := strings.Repeat("k", 1023-len(c.key))
	for _, end := range []string{"", "a", "A", "b", "ä", "a#b", "a b/c:d\n\"'", "🧦", long + "x", long + "y"} {
		k := *c
		k.key += end
		a := k.by("a")
		k.claim(a, free, fmt.Sprintf("a new key that ends with %.20q", end))
		k.done(a, []byte(end), nil, "with the claim")
		k.claim(k.by("b"), idempotent.Record{State: idempotent.Done, Result: []byte(end)}, "after the success")
	}
}

// Of many simultaneous claims exactly one succeeds.
func manyAtOnce(c *suite) {
	const many = 20
	race := func(when string, doubts bool, owner string, until time.Time) {
		var (
			wg   sync.WaitGroup
			mu   sync.Mutex // guards seen
			seen = make(map[idempotent.State]int)
		)
		for i := range many {
			wg.Go(func() {
				claim := c.by(fmt.Sprint(owner, i))
				claim.Until = until
				r, err := c.s.Claim(context.WithoutCancel(c.t.Context()), claim)
				if err != nil {
					c.errorf("%s: Claim: %v", when, err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				seen[r.State]++
				if r.State == idempotent.Claimed && r.InDoubt != doubts {
					c.errorf("%s: Claim says InDoubt %v: must say %v", when, r.InDoubt, doubts)
				}
			})
		}
		wg.Wait()
		if seen[idempotent.Claimed] != 1 || seen[idempotent.Busy] != many-1 {
			c.errorf("%s: %d of %d claims succeeded, and %d found another: one claim must succeed, and the others find it", when, seen[idempotent.Claimed], many, seen[idempotent.Busy])
		}
	}
	until := time.Now().Add(2 * time.Second)
	race("many for a new key", false, "a", until)
	time.Sleep(time.Until(until) + late)
	race("many for a key whose claim has ended", true, "b", time.Now().Add(awhile))

	c.key += " failed"
	a := c.by("a")
	c.claim(a, free, "a new key")
	c.failed(a, 1, nil, "with the claim")
	race("many for a key that has failed", false, "b", time.Now().Add(awhile))
}

func unknown(c *suite) {
	a := c.by("a")
	c.done(a, nil, idempotent.ErrNotOwner, "a key that nobody has claimed")
	c.failed(a, 0, idempotent.ErrNotOwner, "a key that nobody has claimed")
	c.release(a, false, "a key that nobody has claimed")
	c.claim(a, free, "after all that")
	c.release(a, false, "with the claim")
	backwards := c.by("b")
	backwards.Keep = backwards.Until.Add(-time.Minute)
	if _, err := c.s.Claim(c.t.Context(), backwards); err == nil {
		c.errorf("Claim takes a claim that is to be forgotten before it ends")
	}
}
