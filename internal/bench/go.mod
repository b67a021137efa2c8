module github.com/rampmeter/rampmeter/internal/bench

go 1.25.0

require (
	github.com/rampmeter/rampmeter v0.0.0
	golang.org/x/sync v0.20.0
)

require golang.org/x/time v0.15.0 // indirect

replace github.com/rampmeter/rampmeter => ../..
