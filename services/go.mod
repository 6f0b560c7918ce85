module github.com/millrace/millrace/services

go 1.26.0

require (
	github.com/millrace/millrace/platform v0.0.0
	github.com/millrace/millrace/schemas v0.0.0
	github.com/spf13/cobra v1.10.2
)

replace github.com/millrace/millrace/platform => ../platform

replace github.com/millrace/millrace/schemas => ../schemas
