package main

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/platform/eventlog"
)

// A deployment is the README's shop on a real Kafka: its lines, run as they are but for ports and for where data is kept.
type deployment struct {
	t        *testing.T
	kafka    string
	lines    map[string][]string // arguments by role; "contracts" is the registration
	dirs     map[string]string   // data directory by role
	registry string              // URL

	addresses []string // all that the README gives out, in order
}

// readDeployment reads the commands from the README, so that it stays true.
func readDeployment(t *testing.T, kafka string) *deployment {
	t.Helper()
	d := &deployment{t: t, kafka: kafka, lines: map[string][]string{}, dirs: map[string]string{}}
	lines := block(t, "kafka")
	if len(lines) < 3 || lines[0] != "make kafka" || lines[1] != "export MILLRACE_KAFKA_BROKERS=127.0.0.1:9092" {
		t.Fatalf("the README's block does not begin with make kafka and where it is: %q", lines)
	}
	var order, ports []string
	address := regexp.MustCompile(`127\.0\.0\.1:\d+`)
	for _, line := range lines[2:] {
		args := strings.Fields(line)
		if len(args) < 3 || args[0] != "bin/shop" || (args[1] != "serve" && line != "bin/shop contracts register") {
			t.Fatalf("this test does not know what to do with %q", line)
		}
		name := args[1]
		if name == "serve" {
			name = args[2]
		}
		order, ports = append(order, name), append(ports, address.FindAllString(line, -1)...)
		for i := range args {
			args[i] = address.ReplaceAllLiteralString(args[i], "127.0.0.1:0")
		}
		d.lines[name], d.dirs[name] = args[1:], filepath.Join(t.TempDir(), "data")
	}
	if want := []string{"registry", "contracts", "orders", "order-views"}; !slices.Equal(order, want) {
		t.Fatalf("the README starts %q, want %q", order, want)
	}
	// On one machine every role has ports of its own, beside Kafka's and the registry's.
	ports = append(ports, "127.0.0.1:9092", "127.0.0.1:8081")
	slices.Sort(ports)
	if once := slices.Compact(slices.Clone(ports)); len(once) != len(ports) || len(once) != 8 {
		t.Fatalf("the README's addresses collide: %q", ports)
	}
	d.addresses = ports
	return d
}

func (d *deployment) command(name string, more ...string) *exec.Cmd {
	c := shop(append(d.lines[name], more...)...)
	c.Env = append(c.Env, "MILLRACE_KAFKA_BROKERS="+d.kafka, "MILLRACE_DATA_DIR="+d.dirs[name])
	if name == "registry" {
		c.Env = append(c.Env, "MILLRACE_REGISTRY_ADDR=127.0.0.1:0")
	} else {
		c.Env = append(c.Env, "MILLRACE_REGISTRY_URL="+d.registry)
	}
	return c
}

// serve starts a role and waits until it is ready.
func (d *deployment) serve(role string) *process {
	d.t.Helper()
	ready := filepath.Join(d.t.TempDir(), "ready.json")
	p := await(d.t, d.command(role, "--ready-file", ready), ready)
	if role == "registry" {
		d.registry = p.at.Registry
	}
	return p
}

// register registers the contracts and returns what the command printed: subjects and ids.
func (d *deployment) register() string {
	d.t.Helper()
	out, err := d.command("contracts").CombinedOutput()
	if err != nil {
		d.t.Fatalf("contracts register: %v\n%s", err, out)
	}
	return string(out)
}

// importing runs an import beside the test; its outcome comes through the channel.
func (d *deployment) importing(url string) <-chan imported {
	c := shop("import", sample, "--url", url, "--retry-for", "1ms")
	ch := make(chan imported, 1)
	go func() {
		out, _ := c.CombinedOutput()
		ch <- imported{string(out), c.ProcessState.ExitCode()}
	}()
	return ch
}

type imported struct {
	output string
	status int
}

// TestKafka: on a real Kafka, every role a process of its own, started as the README says. The orders process is killed in the middle of
// an import and the views' in the middle of the next one; later every process loses its data directory. The results are always the same.
func TestKafka(t *testing.T) {
	kafka := os.Getenv("MILLRACE_TEST_KAFKA")
	if kafka == "" {
		t.Skip("MILLRACE_TEST_KAFKA is not set: this test needs a real Kafka, see deploy/ci/test-kafka.sh")
	}
	requireEmpty(t, kafka)
	d := readDeployment(t, kafka)
	ids := sampleIDs(t)
	registry := d.serve("registry")
	registered := d.register()
	if n := strings.Count(registered, "\n"); n != 8 || !strings.Contains(registered, "orders.events-shop.orders.v1.OrderPlaced\t") {
		t.Fatalf("%d subjects, want 8:\n%s", n, registered)
	}
	orders, views := d.serve("orders"), d.serve("order-views")

	const probe = `{"customer_id":"c-00004","currency":"USD","ordered_at":"1997-01-01T12:00:00Z","lines":[{"sku":"cd","quantity":3,"amount":7}]}`
	first := request(t, "POST", orders.at.HTTP+"/v1/orders/k-1/place", probe, `Idempotency-Key: "k-1"`)
	cancelled := request(t, "POST", orders.at.HTTP+"/v1/orders/k-1/cancel", "", `Idempotency-Key: "k-2"`)
	if first.status != http.StatusOK || cancelled.status != http.StatusOK {
		t.Fatalf("%d %s, %d %s", first.status, first.body, cancelled.status, cancelled.body)
	}

	run := d.importing(orders.at.HTTP)
	orders.until("as far as a third", found(orders.at.HTTP+"/v1/orders/"+ids[len(ids)/3]))
	orders.kill()
	if got := <-run; got.status != 1 {
		t.Fatalf("an import whose service is killed ended with status %d:\n%s", got.status, got.output)
	}
	orders = d.serve("orders")
	run = d.importing(orders.at.HTTP)
	views.until("as far as two thirds", found(views.at.HTTP+"/v1/views/orders/"+ids[len(ids)*2/3]))
	views.kill()
	views = d.serve("order-views")
	if got := <-run; got.status != 0 || !strings.Contains(got.output, " 0 rows not imported") || strings.HasPrefix(got.output, "6919 ") {
		t.Fatalf("the second import: status %d\n%s", got.status, got.output)
	}
	checkSample(t, orders.at.HTTP, views.at.HTTP)
	d.again(orders)

	for _, p := range []*process{views, orders, registry} {
		p.stop()
	}
	for _, dir := range d.dirs {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	d.serve("registry")
	if got := d.register(); got != registered {
		t.Errorf("the registry had\n%s\nand has, from its log alone,\n%s", registered, got)
	}
	orders, views = d.serve("orders"), d.serve("order-views")
	if orders, units, cents := sums(t, views.at.HTTP); orders != sampleOrders || units != sampleUnits || cents != sampleCents {
		t.Errorf("ready with the views built anew: %d orders, %d units, %d cents; want %d, %d, %d", orders, units, cents, sampleOrders, sampleUnits, sampleCents)
	}
	for key, was := range map[string]answer{"k-1": first, "k-2": cancelled} {
		command, body := "place", probe
		if key == "k-2" {
			command, body = "cancel", ""
		}
		a := request(t, "POST", orders.at.HTTP+"/v1/orders/k-1/"+command, body, `Idempotency-Key: "`+key+`"`)
		if a.status != http.StatusOK || a.body != was.body || a.header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("%s again after the stores are gone: %d %v %s; it was %s", command, a.status, a.header, a.body, was.body)
		}
	}
	d.again(orders)
	checkSample(t, orders.at.HTTP, views.at.HTTP)
}

// again imports the sample once more, which must place nothing.
func (d *deployment) again(orders *process) {
	d.t.Helper()
	if out, status := importSample(d.t, orders.at.HTTP); status != 0 || !strings.HasPrefix(out, "0 orders placed, 6919 were there already, 0 rows not imported") {
		d.t.Errorf("importing once more: status %d\n%s", status, out)
	}
}

// found tells whether a URL answers 200.
func found(url string) func() bool {
	return func() bool {
		a, err := try("GET", url, "")
		return err == nil && a.status == http.StatusOK
	}
}

// requireEmpty refuses a Kafka that holds orders: their sums would not be the sample's.
func requireEmpty(t *testing.T, kafka string) {
	t.Helper()
	log, err := eventlog.Open(t.Context(), eventlog.Config{Brokers: strings.Split(kafka, ",")})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	topic, err := log.EnsureTopic(t.Context(), eventlog.TopicSpec{Name: "orders.events"})
	if err != nil {
		t.Fatal(err)
	}
	ends, err := log.Ends(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Max(ends) > 0 {
		t.Fatalf("orders.events on %s ends at %v: this test needs a Kafka without orders, as deploy/ci/test-kafka.sh starts it", kafka, ends)
	}
}
