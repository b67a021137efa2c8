// Package redislimiter has limits for a whole fleet: one rate, or one number of
// operations in flight, for all processes together. They are kept in Redis, or a
// server that speaks its protocol, without a call to it per operation.
//
//	client := redis.NewClient(&redis.Options{Addr: "localhost:6379", ContextTimeoutEnabled: true})
//	starts, err := redislimiter.NewTokenBucket(client, "inventory", 200, 20, redislimiter.Config{})
//	...
//	slots, err := redislimiter.NewSemaphore(client, "inventory", 20, redislimiter.Config{})
//	...
//	limit, err := limiter.All(slots, starts)
//	...
//	defer slots.Close(ctx)
//	defer starts.Close(ctx)
//
// Processes that use the same name share the limit. [TokenBucket] and [Semaphore]
// are limiters like those of package limiter: use them in a consumer, in a client,
// and in an All.
//
// # How it works
//
// Each process leases in advance what it is going to need. A [TokenBucket] leases
// start slots, which are times at which one operation may start; a [Semaphore]
// leases slots for operations in flight. One script decides on a lease in one call,
// by the server's clock. A process in use makes such a call every 150 to 400 ms,
// one at a time however many goroutines wait. An idle process makes none, holds
// nothing and has no goroutine.
//
// The amount leased depends on recent use. While there is enough for all, each
// process holds more than it uses, so that Acquire does not wait. While there is
// not, each gets its max-min fair share: what some do not need goes to those that
// do, in equal parts. A process that has not been used for 250 ms returns what it
// holds. What a process leased when it dies is lost for at most a second.
//
// # Exactness
//
// By the server's clock, at most burst + rate*t operations start in any span of
// time t, over all processes. Time is a grid of cells of 1/rate. A start slot is a
// cell. A cell is leased once, and can be used from its beginning for the duration
// of burst-1 cells; after that it is void, used or not. The starts in a span [x,
// x+t] belong to cells that begin in [x - (burst-1)/rate, x+t], and there are at
// most burst + rate*t of these. Leasing batches of tokens instead would not hold
// the limit: eight processes with ten tokens each can start eighty operations at
// once.
//
// Timers fire late, and a process knows the server's clock only within a round
// trip. So a start slot is valid for at least 20 ms, and for at least 10 ms beyond
// the uncertainty about the server's clock. If (burst-1)/rate is less than that,
// this minimum applies instead: with burst 1 a span may see rate * 20 ms more.
// Rates of 20,000 and more are leased in bundles of 100 µs, which are part of the
// burst.
//
// There are never more slots of a [Semaphore] leased than its limit, and the slots
// that a process reports as used count whatever its lease. But no lease can stop an
// operation that runs. A process that can't reach Redis for longer than its lease
// of a second, or that was frozen for longer, starts nothing more (or only its
// share, see below), but its operations in flight continue while others get its
// slots. A process that is frozen between Acquire and the start of its operation
// starts late. Only the downstream could recognize such operations, and it does not
// know of leases: there is no fencing.
//
// # Without Redis
//
// A process whose calls have failed for a second is Away; [TokenBucket.Stats]
// reports that and the error. [Config].OnOutage selects what it does then. With
// Share, the default, it continues with limit/N, N being the number of live
// processes as last reported: a rate, or that many slots, rounded down. While Redis
// is away from all processes, that adds up to the limit. While it is away from one
// only, the others have the whole limit in addition to that one's share:
// limit*(1+1/N) in total. A process that joins meanwhile, or that was not in touch
// within the 5 s before, has no share. With Closed nothing starts. Either way the
// process retries every 100 to 200 ms, and is back to normal within 2 s.
//
// The store's memory has generations. A new one begins when something may have been
// forgotten: when the server was flushed or restarted empty, when it knows less
// than it has reported to a caller (after a failover to a replica that lags), when
// its clock was set back, or when nobody could reach it for a while. In a new
// generation nothing is leased until a second has passed and everything leased
// before has expired or been announced again; then a bucket begins empty. So none
// of these events lets more operations start than the limit. A name's very first
// use waits a second too, since the store can't distinguish that from a flush; two
// limits in an All wait one after the other. Two events are not noticed:
//
//   - A failover, until a process calls that has seen later leases. At most what
//     was leased in the time that was lost is leased again, once.
//   - A clock that is set forward. The excess is as large as the leap, but at most
//     a second's worth, once.
//
// An emptied script cache is filled again. READONLY, LOADING, OOM and other errors
// count as an outage, as does no answer within 300 ms. A call that was given up or
// retried may still arrive. If it arrives after a later one of its process it
// changes nothing, unless that process has become idle since.
//
// # Changing the limit
//
// [TokenBucket.SetRate] and [Semaphore.SetLimit] change the limit for the fleet.
// [TokenBucket.Pause] and [Semaphore.Pause] pause the fleet, and so does an
// operation that is released with an error that is limiter.ErrOverload and has a
// RetryAfter: a Retry-After that one process receives stops all. The other
// processes learn of either with their next call, at most 400 ms later. Changes
// outlive a flush, because the processes remember them.
//
// The constructors' values apply until somebody changes them, and again when a
// process starts that was created with different values. A new deployment overrides
// what was set before; a restarted process of the same deployment does not.
//
// # Redis
//
// Redis 5 or later, or a server that has Lua scripts with TIME. Each limit has up
// to four keys, rampmeter:{NAME}:..., which are in one slot of a cluster and expire
// 30 days after their last use. They must not be evicted: an eviction counts as a
// flush. A script runs for about a tenth of a millisecond.
//
// The client may be shared with other work. Set its ContextTimeoutEnabled, so that
// calls end after 300 ms. For a *redis.Client without it, the limiter uses a copy
// with that timeout, which does not call the client's hooks. The calls of other
// clients (a cluster's, a ring's) may hang for longer, up to eight of them at the
// same time.
//
// # Scale
//
// A simulation in virtual time runs the scripts' logic in memory, half a
// millisecond away, under fleets that have more work than the limit allows. Its
// columns are:
//
//   - calls/s, per start: calls of all processes to the store
//   - used, fair: the share of the limit used, and Jain's index of fairness, over
//     five seconds
//   - shares: seconds from the first call until each process has its share
//   - one: seconds until one process has 90 % of the limit when the others become
//     idle
//   - again: seconds until all have their shares when the others are busy again
//   - half die: the share of the limit used in the five seconds after half of the
//     processes die with all they hold
//
// The limit was kept in every run, at every instant and over every span.
//
//	limit                 processes  calls/s  per start  used   fair  shares   one  again  half die
//	10,000/s, burst 1,000        10       71      0.007   97%  0.999    1.00  0.30   1.40       89%
//	10,000/s, burst 1,000       100      700      0.071   99%  1.000    1.00  0.20   1.20       90%
//	10,000/s, burst 1,000      1000     2694      0.269  100%  0.992    3.40  0.60   1.50       90%
//	2,000 slots, 200 ms          10       26      0.003  100%  1.000    0.85  0.90   0.35       91%
//	2,000 slots, 200 ms         100      260      0.026  100%  1.000    0.85  0.80   0.25       91%
//	2,000 slots, 200 ms        1000     2603      0.260  100%  0.998    0.80  0.70   0.25       91%
//
// # Concurrency
//
// Everything may be used by many goroutines at once. Waiters of a process are
// served first come, first served; a waiter whose context ends leaves the limiter
// as if it had never waited. Close returns what is held. What a process holds that
// ends without Close is lost to the others for a second.
package redislimiter
