// Shop is the example application of Millrace: orders go in as commands and come out of read models.
package main

import (
	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/service"
	"github.com/millrace/millrace/services/orders"
	"github.com/millrace/millrace/services/orderviews"
)

func main() {
	service.Main(service.App{
		Name:     "shop",
		Short:    "A shop on Millrace: orders as commands, their read models as queries",
		Roles:    []service.Role{orders.Service(), orderviews.Service()},
		Commands: []*cobra.Command{importCommand()},
	})
}
