// Package redislimiter has limits for a whole fleet: one rate, or one number of
// operations in flight, for all processes together, kept in Redis or a server
// that speaks its protocol, without a call to it per operation.
//
//	client := redis.NewClient(&redis.Options{Addr: "localhost:6379", ContextTimeoutEnabled: true})
//	starts, err := redislimiter.NewTokenBucket(client, "inventory", 200, 20, redislimiter.Config{})
//	...
//	places, err := redislimiter.NewSemaphore(client, "inventory", 20, redislimiter.Config{})
//	...
//	limit, err := limiter.All(places, starts)
//	...
//	defer places.Close(ctx)
//	defer starts.Close(ctx)
//
// Processes that use the same name share the limit. [TokenBucket] and
// [Semaphore] are limiters as those of package limiter are: they go into a
// consumer, into a client, and into an All.
//
// # How it works
//
// Each process leases ahead what it is going to need. A [TokenBucket] leases
// slots, which are times at which one operation may start; a [Semaphore] leases
// places. One script decides about a lease in one call, on the server's clock. A
// process in use makes such a call every 150 to 400 ms, one at a time however
// many goroutines wait; at rest it makes none, holds nothing and has no
// goroutine.
//
// How much is leased follows from what was used of late. While there is enough
// for all, each process holds more than it uses, so that Acquire does not wait.
// While there is not, each gets its max-min fair share: what some do not need
// goes to those that do, in equal parts. A process that nobody has used for 250 ms
// gives back what it holds; what one that dies has leased is lost for a second
// at most.
//
// # Exactness
//
// On the server's clock, at most burst + rate*t operations start in any span of
// time t, over all processes. This is why: time is a grid of cells of 1/rate. A
// slot is a cell; a cell is leased once, and can be used from its beginning for
// the time of burst-1 cells, after which it is void, used or not. The starts in a
// span [x, x+t] are of cells that begin in [x - (burst-1)/rate, x+t], and of these
// there are burst + rate*t at most. Chunks of spendable tokens would not do: eight
// processes with ten each can start eighty at once.
//
// Timers are late and clocks are known within a round trip only, so a slot is
// good for 20 ms at least, and never for less than 10 ms beyond the uncertainty
// that a process has about the server's clock. Where (burst-1)/rate is less than
// that, that takes its place: with burst 1 a span may see rate * 20 ms more.
// Rates of 20,000 and more are leased in bundles of 100 µs, which are part of
// the burst.
//
// Of a [Semaphore] there are never more places leased than the limit has, and
// what a process says that it uses is counted whatever its lease. What no lease
// can do is to stop an operation that runs. A process that can't reach Redis for
// longer than its lease of a second, or that was frozen for longer, starts
// nothing more (or only its share, see below), but what it had in flight goes on,
// while its places go to others; and a process that is frozen between Acquire
// and the start of its operation starts late. Only the downstream could tell such
// operations apart, and it does not know of leases: there is no fencing.
//
// # Without Redis
//
// A process whose calls have failed for a second is Away; [TokenBucket.Stats]
// says so and why. [Config].OnOutage is what it does then. With Share, the
// default, it goes on with limit/N, N being the live processes as last told: a
// rate, or that many places, rounded down. While Redis is away from all, that is
// the limit; while it is away from one only, the others have all of it beside
// that one's share, limit*(1+1/N) in total. A process that joins meanwhile, or
// that had not been in touch in the 5 s before, has no share. With Closed nothing
// starts. Either way it tries again every 100 to 200 ms, and all is as before
// within 2 s.
//
// The store's memory has generations. A new one begins when something may have
// been forgotten: when the server was flushed or restarted empty, when it knows
// less than it has told a caller (a replica took over that had not heard all),
// when its clock was set back, or when nobody could reach it for a while. In a
// new generation nothing is leased before a second has passed, and whatever was
// leased before has run out or been announced again; then a bucket begins empty.
// So none of that lets more start than the limit, and a name's first use ever
// waits a second too, since that can't be told from a flush; two limits in an All
// wait one after the other. What is not noticed:
// a failover, until somebody calls who has heard of later leases (at most what
// was leased in the time that was lost is leased again, once), and a clock that
// is set forward (as much as it leaps, but not more than a second's worth, once).
//
// An emptied script cache is filled again. READONLY, LOADING, OOM and other
// errors count as an outage, as does no answer within 300 ms. A call that was given
// up, or sent again, may still arrive: after a later one of its process it changes
// nothing, unless that process has come to rest since.
//
// # Changing the limit
//
// [TokenBucket.SetRate] and [Semaphore.SetLimit] change it for the fleet, and
// [TokenBucket.Pause] stops the fleet, as does an operation that is released with
// an error that is limiter.ErrOverload and says when to come again: one process
// that is told Retry-After stops all. Others learn of either with their next
// call, 400 ms later at most. Changes outlive a flush: the processes remember.
//
// The constructors' values are in force until somebody changes them, and from
// when a process comes that was made with others: a new deployment wins over what
// was set before, a restarted process of the same deployment does not.
//
// # Redis
//
// Redis 5 or later, or a server that has Lua scripts with TIME. Each limit has up
// to four keys, rampmeter:{NAME}:..., which are in one slot of a cluster and
// expire 30 days after their last use. They must not be evicted; if they are,
// that is a flush. A script runs for about a tenth of a millisecond.
//
// The client may be shared with other work. Set its ContextTimeoutEnabled: calls
// then end after 300 ms. Of a *redis.Client without it a copy with that timeout is
// used, which does not call the client's hooks; the calls of others (a cluster's, a
// ring's) may hang for longer, and up to eight of them beside each other.
//
// # Scale
//
// A simulation in virtual time runs the scripts' logic over memory, half a
// millisecond away, under fleets that have more work than the limit allows. Calls
// are those of all processes to the store; used and fair (Jain's index) are over
// five seconds. Then stand the seconds until each process has its share, from
// the first call on; until one has 90 % of the limit when the others come to
// rest; and until all have their shares when these are busy again. In the end
// half of the processes die with all they hold: used are the five seconds from
// then on.
//
//	limit                 processes  calls/s  per start  used   fair  shares   one  again  half die
//	10,000/s, burst 1,000        10       71      0.007   97%  0.999    1.00  0.30   1.40       89%
//	10,000/s, burst 1,000       100      700      0.071   99%  1.000    1.00  0.20   1.20       90%
//	10,000/s, burst 1,000      1000     2694      0.269  100%  0.992    3.40  0.60   1.50       90%
//	2,000 places, 200 ms         10       26      0.003  100%  1.000    0.85  0.90   0.35       91%
//	2,000 places, 200 ms        100      260      0.026  100%  1.000    0.85  0.80   0.25       91%
//	2,000 places, 200 ms       1000     2603      0.260  100%  0.998    0.80  0.70   0.25       91%
//
// The limit was kept in all of them, at every instant and over every span.
//
// # Concurrency
//
// Everything may be used by many goroutines at once. Waiters of a process are
// served first come first served; a waiter whose context ends leaves the limiter
// as if it had never come. Close gives back what is held; a process that ends
// without it costs the others a second of what it held.
package redislimiter
