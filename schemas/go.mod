module github.com/millrace/millrace/schemas

go 1.26.0

require github.com/millrace/millrace/platform v0.0.0

replace github.com/millrace/millrace/platform => ../platform
