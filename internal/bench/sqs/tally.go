//go:build unix

package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// A tally is the handler of all consumers. It counts how often each message was
// handled, and records the time and the CPU time when a tenth and when nine tenths
// of the messages have been handled: the steady state lies in between, without the
// start of the process and the end of the queue.
type tally struct {
	takes          time.Duration
	runs           []atomic.Uint32 // by message
	done           atomic.Int64    // messages that were handled at least once
	strange        atomic.Int64    // messages that are not ours
	busy           atomic.Int64    // nanoseconds in handlers
	first, last    int64           // the steady state begins and ends with these of done
	begin, end     instant         // written by the first and the last handler, read after all is closed
	onBegin, onEnd func()
	all            chan struct{} // closed when every message has been handled
}

// An instant is a time, and what the process has used until then: CPU time, time in
// handlers, objects on the heap, and peak resident bytes.
type instant struct {
	at        time.Time
	cpu, busy time.Duration
	allocs    uint64
	memory    int64
}

func newTally(n int, takes time.Duration) *tally {
	return &tally{
		takes: takes, runs: make([]atomic.Uint32, n),
		first: max(1, int64(n)/10), last: max(2, int64(n)*9/10),
		onBegin: func() {}, onEnd: func() {},
		all: make(chan struct{}),
	}
}

func (t *tally) handle(_ context.Context, body []byte) error {
	i, ok := indexOf(body)
	if !ok || i >= len(t.runs) {
		t.strange.Add(1)
		return nil
	}
	if t.takes > 0 {
		began := time.Now()
		time.Sleep(t.takes)
		t.busy.Add(int64(time.Since(began)))
	}
	if t.runs[i].Add(1) > 1 {
		return nil
	}
	switch t.done.Add(1) {
	case t.first:
		t.begin = t.now()
		t.onBegin()
	case t.last:
		t.end = t.now()
		t.onEnd()
	case int64(len(t.runs)):
		close(t.all)
	}
	return nil
}

// window is called after all has been closed.
func (t *tally) window() handledAll {
	n := float64(t.last - t.first)
	took := t.end.at.Sub(t.begin.at).Seconds()
	return handledAll{
		Rate:   n / took,
		CPU:    time.Duration(float64(t.end.cpu-t.begin.cpu) / n),
		Busy:   (t.end.busy - t.begin.busy).Seconds() / took,
		Allocs: float64(t.end.allocs-t.begin.allocs) / n,
		Memory: t.end.memory,
	}
}

func (t *tally) consumed() (c consumed) {
	for i := range t.runs {
		n := int(t.runs[i].Load())
		c.Runs += n
		if n > 1 {
			c.Twice++
		}
	}
	return c
}

func (t *tally) err() error {
	if n := t.strange.Load(); n > 0 {
		return fmt.Errorf("%d messages had a body that was never sent", n)
	}
	return nil
}

func (t *tally) now() instant {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // it cannot fail
	}
	allocs := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}}
	metrics.Read(allocs)
	memory := int64(u.Maxrss) //nolint:unconvert // an int32 on 32-bit systems
	if runtime.GOOS != "darwin" {
		memory *= 1024
	}
	return instant{
		at:     time.Now(),
		cpu:    time.Duration(u.Utime.Nano() + u.Stime.Nano()),
		busy:   time.Duration(t.busy.Load()),
		allocs: allocs[0].Value.Uint64(),
		memory: memory,
	}
}

const digits = 8

// bodyOf returns the body of message i: its number, padded to the size.
func bodyOf(i, size int) string {
	number := fmt.Sprintf("%0*d", digits, i)
	return number + strings.Repeat("x", max(0, size-len(number)))
}

func indexOf(body []byte) (int, bool) {
	if len(body) < digits {
		return 0, false
	}
	i, err := strconv.Atoi(string(body[:digits]))
	return i, err == nil && i >= 0
}
