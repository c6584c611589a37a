module bench/peers/goproxy

go 1.21

require github.com/elazarl/goproxy v1.7.2

require (
	golang.org/x/net v0.35.0 // indirect
	golang.org/x/text v0.22.0 // indirect
)
