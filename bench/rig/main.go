// The other half of the bench: an origin, an upstream proxy and a backend in one process ("serve"),
// and a client that loads a gateway and measures ("load").  Standard library only.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "serve":
			serve(os.Args[2:])
			return
		case "load":
			load(os.Args[2:])
			return
		}
	}
	fmt.Fprintln(os.Stderr, "usage: rig serve|load [flags]; -h lists them")
	os.Exit(2)
}
