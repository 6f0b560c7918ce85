package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// messageDB measures appends with an expected version, each of which begins a stream, by an event store on PostgreSQL, in turns with the command
// engine on the embedded Kafka, on one broker, and on three. The streams are of one category, as those of an aggregate are: message-db locks the
// category until the commit.
func (p *plan) messageDB(ctx context.Context) ([]row, error) {
	// A way of appending: with message-db's settings, or by the engine on some Kafka.
	type way struct {
		name     string
		settings map[string]string // of the session
		apart    bool              // each caller has a category of its own
		embedded bool
		kafka    string
	}
	ways := func(kafka string) []way {
		all := []way{{name: "fsync"}, {name: "async", settings: map[string]string{"synchronous_commit": "off"}}, {name: "apart", apart: true}, {name: "embedded", embedded: true}, {name: "one", kafka: kafka}}
		if strings.Contains(kafka, ",") {
			all = []way{{name: "fsync beside three"}, {name: "three", kafka: kafka}}
		}
		return all
	}
	p50, rate := map[string][]float64{}, map[string][]float64{}
	length := time.Duration(p.times(1500, 500)) * time.Millisecond
	version := ""
	err := p.onMessageDB(ctx, func(db *pgx.ConnConfig) (err error) {
		if version, err = checkMessageDB(ctx, db); err != nil {
			return err
		}
		prefix := 0
		turns := func(kafka string) error {
			// A broker that has just started is slow.
			warm := benchmarks{binary: p.engine, kafka: kafka, which: exactly("BenchmarkEngine/millrace/callers=64"), n: p.times(20_000, 2_000)}
			if err := p.benchmark(ctx, warm, map[string][]float64{}); err != nil {
				return err
			}
			for range p.few() {
				for _, w := range ways(kafka) {
					for _, callers := range []int{1, 64} {
						var half, persec float64
						if w.embedded || w.kafka != "" {
							name := fmt.Sprintf("BenchmarkEngine/millrace/callers=%d", callers)
							results := map[string][]float64{}
							n := p.times(map[int]int{1: 3_000, 64: 80_000}[callers], 300*callers/8+100)
							if w.name == "three" {
								n = p.times(map[int]int{1: 1_000, 64: 30_000}[callers], 100*callers/8+100)
							}
							if err := p.benchmark(ctx, benchmarks{binary: p.engine, kafka: w.kafka, which: exactly(name), n: n}, results); err != nil {
								return err
							}
							if len(results[name+" p50-ms"]) != 1 || len(results[name+" commands/s"]) != 1 {
								return errUnreported
							}
							half, persec = results[name+" p50-ms"][0], results[name+" commands/s"][0]
						} else {
							prefix++
							l, err := appendMessages(ctx, db, w.settings, callers, length, w.apart, strconv.Itoa(prefix))
							if err != nil {
								return err
							}
							half, persec = percentile(l.sorted, 0.5), l.rate()
						}
						key := w.name + " " + strconv.Itoa(callers)
						p50[key], rate[key] = append(p50[key], half), append(rate[key], persec)
					}
				}
			}
			return nil
		}
		if err := p.onKafka(ctx, turns); err != nil {
			return err
		}
		return p.onBrokers(ctx, 3, turns)
	})
	if err != nil {
		return nil, err
	}
	ahead := func(what string, ours, theirs string) row {
		return row{what: what, reach: "> 1 ×", reached: func(v float64) bool { return v > 1 }, show: ratio, values: quotients(p50[theirs+" 1"], p50[ours+" 1"])}
	}
	faster := func(what string, ours, theirs string) row {
		return row{what: what, reach: "≥ 20 ×", reached: atLeast(20), show: ratio, values: quotients(rate[ours+" 64"], rate[theirs+" 64"])}
	}
	half := func(what, way string) row { return row{what: what, show: milliseconds, values: p50[way+" 1"]} }
	per := func(what, unit, way string) row {
		return row{what: what, show: perSecond(unit), values: rate[way+" 64"]}
	}
	context := func(r row) row {
		r.reach, r.reached = "", nil
		return r
	}
	return []row{
		half("message-db "+version+", append with expected version, 1 caller, fsync, p50", "fsync"),
		half("– the same, `synchronous_commit=off`, p50", "async"),
		half("– command engine, embedded Kafka, p50", "embedded"),
		half("– command engine, real Kafka, one broker, p50", "one"),
		half("– command engine, three brokers, RF 3, p50", "three"),
		ahead("– message-db with fsync / engine, embedded Kafka", "embedded", "fsync"),
		ahead("– message-db with fsync / engine, one broker", "one", "fsync"),
		context(ahead("– message-db with `synchronous_commit=off` / engine, one broker", "one", "async")),
		context(ahead("– message-db with fsync / engine, three brokers beside it", "three", "fsync beside three")),
		per("message-db, append with expected version, 64 callers, fsync", "appends", "fsync"),
		per("– the same, `synchronous_commit=off`", "appends", "async"),
		per("– the same, fsync, each caller in a category of its own", "appends", "apart"),
		per("– command engine, embedded Kafka", "commands", "embedded"),
		per("– command engine, real Kafka, one broker", "commands", "one"),
		per("– command engine, three brokers, RF 3", "commands", "three"),
		faster("– engine on embedded Kafka / message-db with fsync", "embedded", "fsync"),
		faster("– engine on one broker / message-db with fsync", "one", "fsync"),
		context(faster("– engine on one broker / message-db with `synchronous_commit=off`", "one", "async")),
		context(faster("– engine on one broker / message-db with fsync, each caller in a category of its own", "one", "apart")),
		context(faster("– engine on three brokers / message-db with fsync beside them", "three", "fsync beside three")),
	}, nil
}

const (
	writeMessage = "SELECT message_store.write_message($1, $2, $3, $4, $5, $6)"
	newStream    = int64(-1) // the expected version of a stream that is not there
	// As much as the engine's event and its headers hold.
	messageData = `{"amount":2933,"note":"c-00004 USD 1997-01-01T12:00:00Z cd 2 2933 and whatever else an order of a customer holds, 120 bytes or so"}`
	messageMeta = `{"correlationStreamName":"place-1","commandId":"place-1","commandHash":"0123456789abcdef0123456789abcdef","commandIndex":0,"commandCount":1}`
)

// appendMessages begins streams from so many callers, each on a connection of its own, for so long.
func appendMessages(ctx context.Context, db *pgx.ConnConfig, settings map[string]string, callers int, length time.Duration, apart bool, prefix string) (load, error) {
	conns := make([]*pgx.Conn, callers)
	for i := range conns {
		config := db.Copy()
		for k, v := range settings {
			config.RuntimeParams[k] = v
		}
		c, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			return load{}, err
		}
		defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is lost with it
		if _, err := c.Prepare(ctx, writeMessage, writeMessage); err != nil {
			return load{}, err
		}
		conns[i] = c
	}
	return closed(ctx, callers, 0, length, func(caller int, n int64) error {
		stream := "order-" + prefix + "x" + strconv.FormatInt(n, 10)
		if apart {
			stream = "order" + strconv.Itoa(caller) + "-" + prefix + "x" + strconv.FormatInt(n, 10)
		}
		var at int64
		err := conns[caller].QueryRow(ctx, writeMessage, messageID(), stream, "Credited", messageData, messageMeta, newStream).Scan(&at)
		if err == nil && at != 0 {
			err = fmt.Errorf("the first message of %s is at %d", stream, at)
		}
		return err
	})
}

// messageID returns a random UUID.
func messageID() string {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:8], rand.Uint64()) //nolint:gosec // an id, no secret
	binary.LittleEndian.PutUint64(b[8:], rand.Uint64()) //nolint:gosec // as above
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// checkMessageDB returns the versions of what is measured, after a look whether it does what it is measured for.
func checkMessageDB(ctx context.Context, db *pgx.ConnConfig) (string, error) {
	c, err := pgx.ConnectConfig(ctx, db)
	if err != nil {
		return "", err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is lost with it
	var at int64
	for i, expect := range []bool{true, false} {
		err = c.QueryRow(ctx, writeMessage, messageID(), "order-check", "Credited", messageData, messageMeta, newStream).Scan(&at)
		if (err == nil) != expect {
			return "", fmt.Errorf("append %d with expected version -1: %w", i+1, errors.Join(err, errors.New("the first must be taken, the second refused")))
		}
	}
	var store, server, fsync, commit string
	row := c.QueryRow(ctx, "SELECT message_store.message_store_version(), current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')")
	if err := row.Scan(&store, &server, &fsync, &commit); err != nil {
		return "", err
	}
	if fsync != "on" || commit != "on" {
		return "", fmt.Errorf("fsync is %s and synchronous_commit %s, both must be on", fsync, commit)
	}
	server, _, _ = strings.Cut(server, " ")
	return store + " on PostgreSQL " + server, nil
}
