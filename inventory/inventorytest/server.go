package inventorytest

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Config sets the server's stock and limits. The zero Config is an API without
// stock, token or limits.
type Config struct {
	// Token is the bearer token that requests must send. Default: any or
	// none.
	Token string

	// Stock is the stock of each SKU. Other SKUs are not found.
	Stock map[string]int

	// Rate is how many requests a second are admitted, in the long run. It must
	// not be negative. Default 0: no limit.
	Rate float64

	// Burst is how many are admitted at once after a pause. It needs a Rate, and
	// must not be negative. Default 1.
	Burst int

	// Concurrency is how many requests are handled at once. It must not be
	// negative. Default 0: no limit.
	Concurrency int

	// Latency is how long the work on an admitted request takes. It must not be
	// negative. Default 0.
	Latency time.Duration

	// LatencyFunc returns the latency of a request, instead of Latency.
	// Called concurrently. Its negative results are 0.
	LatencyFunc func(*http.Request) time.Duration

	// Quota is how many requests are admitted in each Window, counted from New.
	// It needs a Window, and must not be negative. Default 0: no quota.
	Quota int

	// Window is the length of a Quota's window: whole seconds, the unit of the
	// headers. Default 0: there is no Quota.
	Window time.Duration

	// QuotaHeaders is how responses report the Quota. Default: not at all.
	QuotaHeaders QuotaHeaders

	// Transactions makes the server accept several adjustments in one request, all or
	// none of them. Default: there is no such path.
	Transactions bool

	// Outages are the outages, by the time since New. Where two overlap, the first
	// in the list applies.
	Outages []Outage

	// NoIdempotency makes the server ignore idempotency keys, to test clients
	// without them.
	NoIdempotency bool

	// KeepArrivals is how many arrivals [Server.Arrivals] can return. Negative:
	// none. Default 1,048,576, which take 16 MiB.
	KeepArrivals int
}

const defaultKeepArrivals = 1 << 20

// An Outage is a time in which the API does not work.
type Outage struct {
	// From and To bound it, From included, as times since New.
	From, To time.Duration
	// Fault is how requests fail.
	Fault Fault
	// RetryAfter, if positive, is sent with 429 and 503, in seconds rounded up.
	// A 429 without one reports the rest of the outage.
	RetryAfter time.Duration
}

// A Fault is how requests fail during an [Outage].
type Fault int

// The faults.
const (
	Refuse      Fault = iota + 1 // the connection is dropped without an answer
	Unavailable                  // 503
	Revoked                      // 401: the token is no longer valid
	Throttle                     // 429 with a Retry-After
	LoseReply                    // admitted and handled, but the connection is dropped before the answer
)

var faultNames = [...]string{Refuse: "refuse", Unavailable: "unavailable", Revoked: "revoked", Throttle: "throttle", LoseReply: "lose reply"}

// String returns the fault's name.
func (f Fault) String() string {
	if f < Refuse || int(f) >= len(faultNames) {
		return fmt.Sprintf("Fault(%d)", int(f))
	}
	return faultNames[f]
}

// QuotaHeaders are ways to report a quota in the header of a response.
type QuotaHeaders int

// The ways. Resets are in seconds from now, rounded up.
const (
	NoHeaders    QuotaHeaders = iota
	DraftHeaders              // RateLimit and RateLimit-Policy of draft-ietf-httpapi-ratelimit-headers-10
	XHeaders                  // X-RateLimit-Limit, -Remaining and -Reset, as they were before any draft
)

func (cfg *Config) validate() error {
	switch {
	case cfg.Quota < 0:
		return fmt.Errorf("inventorytest: Config: Quota is %d: must not be negative", cfg.Quota)
	case cfg.Window < 0 || cfg.Window%time.Second != 0:
		return fmt.Errorf("inventorytest: Config: Window is %v: must be whole seconds and not negative", cfg.Window)
	case (cfg.Quota > 0) != (cfg.Window > 0):
		return fmt.Errorf("inventorytest: Config: Quota is %d and Window %v: one needs the other", cfg.Quota, cfg.Window)
	case cfg.QuotaHeaders < NoHeaders || cfg.QuotaHeaders > XHeaders:
		return fmt.Errorf("inventorytest: Config: QuotaHeaders is %d: there are none such", cfg.QuotaHeaders)
	case cfg.QuotaHeaders != NoHeaders && cfg.Quota == 0:
		return errors.New("inventorytest: Config: QuotaHeaders without a Quota")
	case math.IsNaN(cfg.Rate) || math.IsInf(cfg.Rate, 0) || cfg.Rate < 0:
		return fmt.Errorf("inventorytest: Config: Rate is %v: must be a number and not negative", cfg.Rate)
	case cfg.Burst < 0:
		return fmt.Errorf("inventorytest: Config: Burst is %d: must not be negative", cfg.Burst)
	case cfg.Burst > 0 && cfg.Rate == 0:
		return fmt.Errorf("inventorytest: Config: Burst is %d without a Rate", cfg.Burst)
	case cfg.Concurrency < 0:
		return fmt.Errorf("inventorytest: Config: Concurrency is %d: must not be negative", cfg.Concurrency)
	case cfg.Latency < 0:
		return fmt.Errorf("inventorytest: Config: Latency is %v: must not be negative", cfg.Latency)
	}
	for sku, n := range cfg.Stock {
		if sku == "" || n < 0 {
			return fmt.Errorf("inventorytest: Config: Stock has %d of %q: a SKU must have a name and not be negative", n, sku)
		}
	}
	for i, o := range cfg.Outages {
		switch {
		case o.Fault < Refuse || o.Fault > LoseReply:
			return fmt.Errorf("inventorytest: Config: Outages[%d]: Fault is %v: there is none such", i, o.Fault)
		case o.From < 0 || o.To < o.From:
			return fmt.Errorf("inventorytest: Config: Outages[%d]: it is from %v to %v: must not be negative or end before it begins", i, o.From, o.To)
		case o.RetryAfter < 0:
			return fmt.Errorf("inventorytest: Config: Outages[%d]: RetryAfter is %v: must not be negative", i, o.RetryAfter)
		}
	}
	return nil
}

// A Server is the inventory API. Make one with [New], within the synctest
// bubble if it is to be used in one.
type Server struct {
	cfg     Config
	routes  *http.ServeMux
	started time.Time
	closed  chan struct{}  // ends latencies
	serving sync.WaitGroup // requests, and the listener's goroutine

	mu       sync.Mutex // guards what follows
	isClosed bool
	http     *http.Server // nil before Start
	skus     []string     // of stock, sorted
	stock    map[string]int
	states   map[string]int    // how often each SKU was adjusted
	answers  map[string]answer // by idempotency key
	applied  map[purpose]int
	bucket   bucket
	quota    quota
	broken   *Outage // by hand
	record   record
}

// New returns a server that is not listening yet; see [Server.Start] and
// [Server.Transport]. The error names the invalid field.
func New(cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg.Burst = cmp.Or(cfg.Burst, 1)
	cfg.KeepArrivals = cmp.Or(cfg.KeepArrivals, defaultKeepArrivals)
	cfg.Outages = slices.Clone(cfg.Outages)
	s := &Server{
		cfg:     cfg,
		routes:  http.NewServeMux(),
		started: time.Now(),
		closed:  make(chan struct{}),
		stock:   maps.Clone(cfg.Stock),
		skus:    slices.Sorted(maps.Keys(cfg.Stock)),
		states:  make(map[string]int),
		answers: make(map[string]answer),
		applied: make(map[purpose]int),
		bucket:  bucket{rate: cfg.Rate, burst: float64(cfg.Burst), tokens: float64(cfg.Burst)},
		quota:   quota{size: cfg.Quota, window: cfg.Window},
		record:  newRecord(cfg),
	}
	s.routes.HandleFunc("GET /v1/levels", s.levels)
	s.routes.HandleFunc("GET /v1/levels/{sku}", s.level)
	s.routes.HandleFunc("POST /v1/adjustments", s.adjust)
	if cfg.Transactions {
		s.routes.HandleFunc("POST /v1/transactions", s.transact)
	}
	s.routes.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		write(w, refusal(http.StatusNotFound, "no_such_page", "there is nothing at this path"))
	})
	return s, nil
}

// Start listens on a free port of the loopback interface and returns the
// server's URL. Call it once, and Close at the end.
func (s *Server) Start() (url string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("inventorytest: start: %w", err)
	}
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http != nil || s.isClosed {
		_ = ln.Close() // nothing was done with it
		return "", errors.New("inventorytest: start: the server was started or closed before")
	}
	s.http = srv
	s.serving.Go(func() { _ = srv.Serve(ln) }) // until Close, as its error says
	return "http://" + ln.Addr().String(), nil
}

// Close stops listening, cuts latencies short, and returns when no request is
// being served. Requests that arrive later are not answered. Closing again does
// nothing.
func (s *Server) Close() error {
	s.mu.Lock()
	srv, again := s.http, s.isClosed
	s.isClosed = true
	s.mu.Unlock()
	if again {
		return nil
	}
	close(s.closed)
	var err error
	if srv != nil {
		err = srv.Close()
	}
	s.serving.Wait()
	return err
}

// Break begins an outage now, which replaces Config.Outages until
// [Server.Mend]. The outage's From and To are ignored. It panics if the
// fault is unknown.
func (s *Server) Break(o Outage) {
	if o.Fault < Refuse || o.Fault > LoseReply {
		panic(fmt.Sprintf("inventorytest: Break: there is no %v", o.Fault))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = &o
}

// Mend ends the outage that [Server.Break] began.
func (s *Server) Mend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = nil
}

// Stock returns the present stock of each SKU.
func (s *Server) Stock() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.stock)
}

// Stats returns the counts since New.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.record.stats
	stats.Status = maps.Clone(stats.Status)
	for _, n := range s.applied {
		if n == 1 {
			stats.AppliedOnce++
		} else {
			stats.AppliedTwice++
		}
	}
	return stats
}

// Arrivals returns when requests arrived and how they were answered, in the
// order of their arrival, up to Config.KeepArrivals of them.
func (s *Server) Arrivals() []Arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.record.arrivals)
}
