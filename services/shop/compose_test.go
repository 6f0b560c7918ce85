package main

import (
	"bytes"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/millrace/millrace/platform/service"
)

// A composition is as much of compose.yaml as the project uses; any other key is an error.
type composition struct {
	Name       string
	Services   map[string]container
	Volumes    map[string]any
	Extensions map[string]yaml.Node `yaml:",inline"`
}

type container struct {
	Image string
	Build struct{ Context, Dockerfile string }

	Command     []string
	Environment map[string]string
	Ports       []string
	Volumes     []string
	DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
	Restart     string
	Healthcheck struct {
		Test        []string
		Interval    string
		Timeout     string
		StartPeriod string `yaml:"start_period"`
		Retries     int
		Disable     bool
	}

	ReadOnly        bool     `yaml:"read_only"`
	CapDrop         []string `yaml:"cap_drop"`
	SecurityOpt     []string `yaml:"security_opt"`
	StopGracePeriod string   `yaml:"stop_grace_period"`
}

func readComposition(t *testing.T) composition {
	t.Helper()
	var c composition
	d := yaml.NewDecoder(bytes.NewReader(readFile(t, "compose.yaml")))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil {
		t.Fatal(err)
	}
	for key := range c.Extensions {
		if !strings.HasPrefix(key, "x-") {
			t.Errorf("compose.yaml: %q is no key of a compose file", key)
		}
	}
	return c
}

// readFile reads a file of the project.
func readFile(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// An instruction is a line of a Dockerfile, continuations joined.
type instruction struct{ name, rest string }

func readDockerfile(t *testing.T) (all []instruction) {
	t.Helper()
	text := regexp.MustCompile(`(?m)^#.*\n`).ReplaceAll(readFile(t, "deploy/docker/Dockerfile"), nil)
	text = regexp.MustCompile(`\\\n\s*`).ReplaceAll(text, nil)
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" {
			name, rest, _ := strings.Cut(line, " ")
			all = append(all, instruction{name, rest})
		}
	}
	return all
}

// env returns the image's environment.
func imageEnv(all []instruction) (env []string) {
	for _, i := range all {
		if i.name == "ENV" {
			env = append(env, strings.Fields(i.rest)...)
		}
	}
	return env
}

// roles returns the names of the application's roles, as it tells them itself.
func roles(t *testing.T) []string {
	t.Helper()
	said, _ := run(t, t.TempDir(), nil, "serve")
	m := regexp.MustCompile(`name one or more of ([a-z, -]+[a-z])`).FindStringSubmatch(said)
	if m == nil {
		t.Fatalf("serve without a role says %q", said)
	}
	return strings.Split(m[1], ", ")
}

var pinned = regexp.MustCompile(`:v?\d+\.\d+(\.\d+)+(-[a-z0-9.]+)?$`)

// TestCompose checks of compose.yaml what can be checked without Docker: that it starts every role, with settings, flags and commands that
// exist, from pinned images, on loopback, healthy before what depends on it.
func TestCompose(t *testing.T) {
	c, dockerfile := readComposition(t), readDockerfile(t)
	names := append(roles(t), "kafka", "contracts")
	if got := slices.Sorted(maps.Keys(c.Services)); !slices.Equal(got, slices.Sorted(slices.Values(names))) {
		t.Fatalf("services %q, want %q", got, names)
	}
	var published []string
	for name, s := range c.Services {
		if !pinned.MatchString(s.Image) {
			t.Errorf("%s: the image %q is not pinned", name, s.Image)
		}
		for _, p := range s.Ports {
			if !regexp.MustCompile(`^127\.0\.0\.1:\d+:\d+$`).MatchString(p) {
				t.Errorf("%s: port %q is not published on loopback only", name, p)
			}
			published = append(published, p[:strings.LastIndexByte(p, ':')])
		}
		for _, v := range s.Volumes {
			volume, _, _ := strings.Cut(v, ":")
			if _, ok := c.Volumes[volume]; !ok || volume != name {
				t.Errorf("%s: volume %q is not declared or another's", name, v)
			}
		}
		c.checkDependencies(t, name)
		if name == "contracts" {
			if s.Restart != "no" || !s.Healthcheck.Disable {
				t.Errorf("contracts runs once, but restarts %q and has the image's health check", s.Restart)
			}
			continue
		}
		h := s.Healthcheck
		if len(h.Test) < 2 || h.Test[0] != "CMD" || h.Interval == "" || h.Timeout == "" || h.StartPeriod == "" || h.Retries == 0 {
			t.Errorf("%s: health check %+v", name, h)
		}
		if s.Restart != "unless-stopped" || len(s.Ports) == 0 || len(s.Volumes) != 1 {
			t.Errorf("%s: restarts %q, publishes %q, keeps %q", name, s.Restart, s.Ports, s.Volumes)
		}
	}
	// The README promises that it does the same as the processes without Docker: at the same addresses.
	slices.Sort(published)
	if want := readDeployment(t, "").addresses; !slices.Equal(published, want) {
		t.Errorf("published are %q, the README has %q", published, want)
	}
	for _, name := range append(roles(t), "contracts") {
		t.Run(name, func(t *testing.T) { c.checkShop(t, name, dockerfile) })
	}
	t.Run("kafka", c.checkKafka)
}

// checkDependencies fails unless everything a container waits for can come to pass.
func (c composition) checkDependencies(t *testing.T, name string) {
	t.Helper()
	for on, d := range c.Services[name].DependsOn {
		target, ok := c.Services[on]
		switch {
		case !ok:
			t.Errorf("%s depends on %s, which is not there", name, on)
		case d.Condition == "service_healthy":
			if len(target.Healthcheck.Test) == 0 {
				t.Errorf("%s waits for %s to be healthy, which it never tells", name, on)
			}
		case d.Condition == "service_completed_successfully":
			if target.Restart != "no" {
				t.Errorf("%s waits for the end of %s, which is started again", name, on)
			}
		default:
			t.Errorf("%s depends on %s under the condition %q", name, on, d.Condition)
		}
	}
}

func (c composition) checkShop(t *testing.T, name string, dockerfile []instruction) {
	s := c.Services[name]
	if s.Build.Dockerfile != "deploy/docker/Dockerfile" || s.Build.Context != "." || !strings.HasSuffix(s.Image, ":"+service.Version) {
		t.Errorf("built from %+v as %s, the version is %s", s.Build, s.Image, service.Version)
	}
	if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
		t.Errorf("it may more than it needs: %+v", s)
	}
	env := imageEnv(dockerfile)
	for key, value := range s.Environment {
		env = append(env, key+"="+value)
	}
	cfg, err := service.LoadConfig(nil, env)
	if err != nil {
		t.Fatal(err)
	}
	c.checkReaches(t, "MILLRACE_KAFKA_BROKERS", cfg.KafkaBrokers[0])
	registry, err := url.Parse(cfg.RegistryURL[0])
	if err != nil {
		t.Fatal(err)
	}
	c.checkReaches(t, "MILLRACE_REGISTRY_URL", registry.Host)

	// The help of a command line is shown once its flags are understood.
	words := s.Command
	want := []string{"serve", name}
	if name == "contracts" {
		want = []string{"contracts", "register"}
	} else {
		words = words[:1]
	}
	out, err := shop(append(slices.Clone(s.Command), "--help")...).CombinedOutput()
	if err != nil || len(s.Command) < 2 || !slices.Equal(s.Command[:2], want) || !strings.Contains(string(out), "\n  shop "+strings.Join(words, " ")+" ") {
		t.Errorf("the command %q, want %q: %v\n%s", s.Command, want, err, out)
	}
	if name == "contracts" {
		return
	}
	if cfg.Advertise != name+":8088" {
		t.Errorf("other instances would look for it at %q", cfg.Advertise)
	}
	for _, dependency := range []string{"kafka", "registry", "contracts"} {
		if _, ok := s.DependsOn[dependency]; !ok && !(name == "registry" && dependency != "kafka") {
			t.Errorf("it does not wait for %s", dependency)
		}
	}
	if _, at, _ := strings.Cut(s.Volumes[0], ":"); at != cfg.DataDir {
		t.Errorf("the volume is at %s, the data in %s", at, cfg.DataDir)
	}
	listens := map[string]bool{}
	for _, addr := range []string{cfg.HTTPAddr, cfg.RegistryAddr, cfg.AdminAddr} {
		host, port, err := net.SplitHostPort(addr)
		if err != nil || host != "0.0.0.0" {
			t.Errorf("%q cannot be reached from outside the container", addr)
		}
		listens[port] = true
	}
	for _, p := range s.Ports {
		if port := p[strings.LastIndexByte(p, ':')+1:]; !listens[port] {
			t.Errorf("nothing listens on port %s in the container", port)
		}
	}
	checkHealth(t, s.Healthcheck.Test[1:], listens)
}

// checkReaches fails unless an address, as seen from inside, is one of a container that is there.
func (c composition) checkReaches(t *testing.T, what, addr string) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
	switch host {
	case "kafka":
		if !strings.Contains(c.Services["kafka"].Environment["KAFKA_ADVERTISED_LISTENERS"], "//kafka:"+port) {
			t.Errorf("%s is %s, which Kafka does not advertise", what, addr)
		}
	case "registry":
		if port != "8081" {
			t.Errorf("%s is %s, where the registry does not listen", what, addr)
		}
	default:
		t.Errorf("%s is %s, which is no container", what, addr)
	}
}

// checkHealth runs a health check's command with a port where nobody listens: it must be understood, and fail.
func checkHealth(t *testing.T, command []string, listens map[string]bool) {
	t.Helper()
	if len(command) != 3 || command[0] != "/shop" || command[1] != "health" {
		t.Fatalf("the health check is %q", command)
	}
	u, err := url.Parse(command[2])
	if err != nil || u.Hostname() != "127.0.0.1" || !listens[u.Port()] {
		t.Errorf("the health check asks %q, where nobody listens", command[2])
	}
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	if said, status := run(t, t.TempDir(), nil, command[1], "http://"+nobody.Addr().String()); status != 1 || !strings.Contains(said, "does not answer") {
		t.Errorf("with nobody there the health check ends with status %d and says %q", status, said)
	}
}

// checkKafka fails unless the broker's listeners fit together and one broker is enough for everything.
func (c composition) checkKafka(t *testing.T) {
	s := c.Services["kafka"]
	version := regexp.MustCompile(`<kafka\.version>(.*)</kafka\.version>`).FindSubmatch(readFile(t, "deploy/kafka/pom.xml"))
	if version == nil || s.Image != "apache/kafka:"+string(version[1]) {
		t.Errorf("the image is %s, the tests run against %s", s.Image, version)
	}
	env := s.Environment
	protocols := env["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"]
	for listener := range strings.SplitSeq(env["KAFKA_LISTENERS"], ",") {
		name, port, _ := strings.Cut(listener, "://:")
		if !strings.Contains(protocols, name+":PLAINTEXT") {
			t.Errorf("listener %s has no protocol in %s", name, protocols)
		}
		if advertised := strings.Contains(env["KAFKA_ADVERTISED_LISTENERS"], name+"://"); advertised == (name == env["KAFKA_CONTROLLER_LISTENER_NAMES"]) {
			t.Errorf("advertised are %s, a controller is not", env["KAFKA_ADVERTISED_LISTENERS"])
		} else if !regexp.MustCompile(`(` + name + `|@kafka|1)(://[a-z0-9.]+)?:` + port).MatchString(env["KAFKA_ADVERTISED_LISTENERS"] + env["KAFKA_CONTROLLER_QUORUM_VOTERS"]) {
			t.Errorf("nobody is told of listener %s", listener)
		}
	}
	if !strings.Contains(env["KAFKA_LISTENERS"], env["KAFKA_INTER_BROKER_LISTENER_NAME"]+"://") || env["KAFKA_INTER_BROKER_LISTENER_NAME"] == "" {
		t.Errorf("the brokers' own listener is %q", env["KAFKA_INTER_BROKER_LISTENER_NAME"])
	}
	for _, setting := range []string{
		"DEFAULT_REPLICATION_FACTOR", "MIN_INSYNC_REPLICAS", "OFFSETS_TOPIC_REPLICATION_FACTOR", "TRANSACTION_STATE_LOG_REPLICATION_FACTOR",
		"TRANSACTION_STATE_LOG_MIN_ISR", "SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR", "SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR",
	} {
		if env["KAFKA_"+setting] != "1" {
			t.Errorf("KAFKA_%s is %q with one broker", setting, env["KAFKA_"+setting])
		}
	}
	if _, at, _ := strings.Cut(s.Volumes[0], ":"); at != env["KAFKA_LOG_DIRS"] {
		t.Errorf("the volume is at %s, the logs in %s", at, env["KAFKA_LOG_DIRS"])
	}
	if !regexp.MustCompile(`^[A-Za-z0-9_-]{22}$`).MatchString(env["CLUSTER_ID"]) {
		t.Errorf("the cluster id %q is not a UUID as Kafka writes it", env["CLUSTER_ID"])
	}
}

// TestDockerfile checks that the image is built from what is there, statically, and runs as nobody in particular.
func TestDockerfile(t *testing.T) {
	all := readDockerfile(t)
	last := map[string]string{}
	stage := 0
	for _, i := range all {
		last[i.name] = i.rest
		words := strings.Fields(i.rest)
		switch i.name {
		case "FROM":
			if stage++; words[0] != "scratch" && !pinned.MatchString(words[0]) {
				t.Errorf("%s is not pinned", words[0])
			}
			work := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(readFile(t, "go.work"))
			if stage == 1 && (work == nil || !strings.HasPrefix(words[0], "golang:"+string(work[1])+".")) {
				t.Errorf("built with %s, go.work wants %s", words[0], work)
			}
		case "COPY":
			if strings.HasPrefix(words[0], "--") {
				continue // from the stage before
			}
			for _, from := range words[:len(words)-1] {
				if _, err := os.Stat(filepath.Join("../..", from)); err != nil {
					t.Error(err)
				}
				checkNotIgnored(t, from)
			}
		}
	}
	if last["FROM"] != "scratch" || stage != 2 {
		t.Errorf("%d stages, the last from %s; want 2, the last from scratch", stage, last["FROM"])
	}
	if !regexp.MustCompile(`^[1-9]\d+:[1-9]\d+$`).MatchString(last["USER"]) {
		t.Errorf("it runs as %q; a number that is not root's is needed, for Kubernetes to believe it", last["USER"])
	}
	if last["ENTRYPOINT"] != `["/shop"]` {
		t.Errorf("the entry point is %s", last["ENTRYPOINT"])
	}
	cfg, err := service.LoadConfig(nil, imageEnv(all))
	if err != nil {
		t.Fatal(err)
	}
	if last["VOLUME"] != cfg.DataDir {
		t.Errorf("the volume is %s, the data in %s", last["VOLUME"], cfg.DataDir)
	}
	listens := map[string]bool{}
	for _, addr := range []string{cfg.HTTPAddr, cfg.RegistryAddr, cfg.AdminAddr} {
		_, port, _ := strings.Cut(addr, ":")
		if listens[port] = true; !slices.Contains(strings.Fields(last["EXPOSE"]), port) {
			t.Errorf("port %s is not exposed", port)
		}
	}
	_, check, _ := strings.Cut(last["HEALTHCHECK"], "CMD ")
	var command []string
	if err := yaml.Unmarshal([]byte(check), &command); err != nil {
		t.Fatal(err)
	}
	checkHealth(t, command, listens)

	var build string
	for _, i := range all {
		if i.name == "RUN" && strings.Contains(i.rest, " build ") {
			build = i.rest
		}
	}
	if !strings.HasPrefix(build, "CGO_ENABLED=0 go build ") || !strings.HasSuffix(build, " -o /out/shop ./services/shop") {
		t.Errorf("the binary is built by %q", build)
	}
	// A dependency that is nothing without cgo would build here, and fail there or at run time.
	list := exec.Command("go", "list", "-deps", "-f", "{{if and .CgoFiles (not .Standard)}}{{.ImportPath}}{{end}}", "./services/shop")
	list.Dir, list.Env = "../..", append(os.Environ(), "CGO_ENABLED=1")
	if out, err := list.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("packages that use cgo: %v\n%s", err, out)
	}
}

// checkNotIgnored fails if the image's ignore file keeps something out that the build needs: what is copied, and what is embedded.
func checkNotIgnored(t *testing.T, from string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(string(readFile(t, "deploy/docker/Dockerfile.dockerignore"))), "\n")
	top, _, _ := strings.Cut(from, "/")
	if !slices.Contains(lines, "!"+top) {
		t.Errorf("Dockerfile.dockerignore keeps %s out", top)
	}
	root := os.DirFS("../..")
	embeds := regexp.MustCompile(`(?m)^\s*//go:embed (.+)$`)
	err := fs.WalkDir(root, top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "/testdata/") {
			return err
		}
		text, err := fs.ReadFile(root, path)
		for _, m := range embeds.FindAllSubmatch(text, -1) {
			if strings.Contains(string(m[1]), "testdata") || strings.Contains(string(m[1]), "_test.") {
				t.Errorf("%s embeds %s, which Dockerfile.dockerignore keeps out", path, m[1])
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
