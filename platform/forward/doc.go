// Package forward carries HTTP requests from one instance of a service to another over one connection per pair of processes. It exists
// because half of all commands of a service with two instances arrive at the wrong one, and an HTTP request costs several times as
// much as what such a command itself costs. It knows nothing of commands, owners or routes: who gets a request is the caller's affair,
// and it never sends a request twice.
//
// # The protocol, millrace-forward/1
//
// The sender connects to the public HTTP address of the peer and asks for GET /v1/peer with these fields:
//
//	Connection: Upgrade
//	Upgrade: millrace-forward/1
//	Millrace-Instance: <name of the sending process>
//	Millrace-Session: <random name of the sender's pool>-<number of the connection, ascending>
//	Millrace-Max-Body: <longest body of an answer that the sender takes, bytes>
//
// and whatever credentials both sides agreed on. The peer answers 101 with its own Millrace-Max-Body, or a problem document: 503 if it
// cannot now, anything else if it never will. After 101 both sides send frames and nothing else. All numbers are big-endian.
//
//	0  uint32  length of the payload
//	4  uint8   kind
//	5  3 zero bytes
//	8  uint64  id of the request, 0 for ping, pong and goaway
//	16         payload
//
// The kinds and their payloads; "field" is a name with uint8 length and a value with uint16 length:
//
//	1 request   uint32 milliseconds until the sender's deadline (0 = none), method (uint8 length), target (uint16 length),
//	            uint8 number of fields, fields, and the body up to the end of the frame
//	2 response  uint16 status, uint8 number of fields, fields, and the body up to the end of the frame
//	3 cancel    nothing: the sender no longer waits for this request
//	4 refusal   uint8 reason, text: there is no response to this request, see below
//	5 ping      nothing: answer with a pong
//	6 pong      nothing
//	7 goaway    nothing: the peer shuts down; send no further request, and close when the last answer is in
//
// Reasons of a refusal: 1 too many requests are running, 2 the peer shuts down, 3 it is not a valid HTTP request (in these three it was
// not run and never will be), 4 the handler ended without an answer, 5 its answer was too long (in these two its effect is unknown).
//
// The sender numbers requests 1, 2, 3 …; answers come in any order. A side that reads a frame that it does not understand, or that is
// longer than a body and 64 KiB, closes the connection. Each side pings when it has read nothing for a while, and gives the connection up when nothing
// comes after that either.
//
// # Sessions
//
// A server runs requests of one connection per sending instance at a time. When another connection of the same instance arrives, the server
// first cancels what runs for the old one, closes it, and waits for the handlers to return; only then does it accept the new one. So a
// request whose outcome the sender never learnt has either been settled before the sender's next request on a new connection is
// begun, or is never run. This holds as far as a handler that returned is done with its request. Two processes must not have the same
// instance name, and a process should reach another at one address only: otherwise their connections replace each other.
package forward
