package main

import (
	"sort"
	"time"
)

// A Record is requests as they arrived at the API.
type Record []arrival

// Between returns the requests from one instant on and before another.
func (r Record) Between(from, to time.Time) Record {
	i := sort.Search(len(r), func(i int) bool { return !r[i].at.Before(from) })
	j := sort.Search(len(r), func(i int) bool { return !r[i].at.Before(to) })
	return r[i:max(i, j)]
}

// Of returns how many of the requests a worker has made.
func (r Record) Of(worker string) (n int) {
	for _, a := range r {
		if a.worker == worker {
			n++
		}
	}
	return n
}

// Reaches returns how long after an instant there begins, for the first time, a
// window of that length with so many requests a second. Without one it is -1 s.
func (r Record) Reaches(from, to time.Time, window time.Duration, rate float64) time.Duration {
	const step = 50 * time.Millisecond
	for t := from; !t.Add(window).After(to); t = t.Add(step) {
		if float64(len(r.Between(t, t.Add(window)))) >= rate*window.Seconds() {
			return t.Sub(from)
		}
	}
	return -time.Second
}

// settleIn is how long a process may take until it has its share.
const settleIn = 2 * time.Second

// Rates returns how many requests a second each process has made between two
// instants, while it worked and its first moments not counted. Those that
// worked for less than as long again are left out.
func (r Record) Rates(rows []Row, from, to time.Time) []float64 {
	var rates []float64
	for _, row := range rows {
		begin, end := row.Started.Add(settleIn), to
		if begin.Before(from) {
			begin = from
		}
		if !row.Ended.IsZero() && row.Ended.Before(end) {
			end = row.Ended
		}
		if took := end.Sub(begin); took >= settleIn {
			rates = append(rates, float64(r.Between(begin, end).Of(row.Name))/took.Seconds())
		}
	}
	return rates
}

// Jain is the index of fairness: 1 when all are the same, 1/n when one has all.
func Jain(rates []float64) float64 {
	var sum, squares float64
	for _, x := range rates {
		sum += x
		squares += x * x
	}
	if squares == 0 {
		return 1
	}
	return sum * sum / (float64(len(rates)) * squares)
}
