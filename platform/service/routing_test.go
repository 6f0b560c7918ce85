package service

import (
	"net"
	"net/http"
	"testing"
)

// TestMadeUpOperation: nobody gets an instance to talk to an address of his choice, and to show it the secret of the instances.
func TestMadeUpOperation(t *testing.T) {
	r := launch(t, App{Short: "A bank", Roles: []Role{accounts("accounts")}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan struct{})
	go func() {
		if conn, err := l.Accept(); err == nil {
			close(asked)
			conn.Close()
		}
	}()
	r.send(http.MethodGet, "/v1/operations/"+operationID("accounts", "a", "k", l.Addr().String()), "").want(t, http.StatusNotFound, nil)
	select {
	case <-asked:
		t.Error("a stranger was asked")
	default:
	}
}
