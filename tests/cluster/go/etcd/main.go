// The etcd that stands under the test control plane: its own main package is no dependency a module can name.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
