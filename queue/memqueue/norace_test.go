//go:build !race

package memqueue_test

const raceDetector = false
