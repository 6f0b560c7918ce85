package service

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"

	"github.com/millrace/millrace/platform/fault"
)

// ErrConfig is returned for a setting that is unknown or has a value that cannot be used.
var ErrConfig = fault.New(fault.Invalid, "invalid_config", "the configuration cannot be used")

// Config is everything an operator can set. Each field is a flag, an environment variable MILLRACE_… and a key of the file, in this
// order of precedence; the zero value of a field is not its default: LoadConfig sets those.
type Config struct {
	KafkaBrokers      []string      `key:"kafka.brokers" default:"127.0.0.1:9092" usage:"Kafka bootstrap servers, comma separated"`
	KafkaReplication  int           `key:"kafka.replication" default:"0" usage:"replication factor of topics that are created; 0 = as many as there are brokers, at most 3"`
	RegistryURL       []string      `key:"registry.url" default:"http://127.0.0.1:8081" usage:"URLs of the schema registry, comma separated"`
	RegistryUser      string        `key:"registry.username" usage:"user name for the schema registry"`
	RegistryPassword  string        `key:"registry.password" usage:"password for the schema registry (environment or file only)" flag:"-"`
	RegistryToken     string        `key:"registry.token" usage:"API key for the schema registry, instead of user name and password (environment or file only)" flag:"-"`
	RegistryCA        string        `key:"registry.ca" usage:"file with the certificates, PEM, of who vouches for the schema registry; default: the system's"`
	Register          bool          `key:"registry.register" default:"false" usage:"register the event contracts at start; in production that is the job of a delivery pipeline: millrace contract register"`
	HTTPAddr          string        `key:"http.addr" default:"127.0.0.1:8088" usage:"address for commands and queries"`
	KafkaAddr         string        `key:"kafka.addr" default:"127.0.0.1:9092" usage:"address of the embedded Kafka (dev)"`
	RegistryAddr      string        `key:"registry.addr" default:"127.0.0.1:8081" usage:"address of the schema registry (dev, role registry)"`
	RegistryAuthFile  string        `key:"registry.auth.file" usage:"file of the users and API keys that may write to the schema registry (dev, role registry); default: everybody may"`
	RegistryAuthReads bool          `key:"registry.auth.reads" default:"false" usage:"let only them read from it, too"`
	RegistryTLSCert   string        `key:"registry.tls.cert" usage:"file with the certificate chain, PEM, with which the schema registry serves HTTPS (dev, role registry); default: it serves HTTP"`
	RegistryTLSKey    string        `key:"registry.tls.key" usage:"file with its private key, PEM"`
	AdminAddr         string        `key:"admin.addr" default:"127.0.0.1:9090" usage:"address for metrics and profiles"`
	Advertise         string        `key:"http.advertise" usage:"host:port under which other instances reach http.addr; default: http.addr itself"`
	PeerToken         string        `key:"peer.token" usage:"secret that the instances of a service share; without one they forward to each other only on one machine, and each takes only its own cursors of lists (environment or file only)" flag:"-"`
	HandOverTimeout   time.Duration `key:"handover.timeout" default:"10s" usage:"how long an instance that stops waits for others to take over what it owns"`
	ShutdownDelay     time.Duration `key:"shutdown.delay" default:"0s" usage:"how long an instance that stops still answers after /readyz has said so: as long as a load balancer needs to notice"`
	DataDir           string        `key:"data.dir" default:".millrace" usage:"directory of everything that is kept"`
	Ephemeral         bool          `key:"ephemeral" default:"false" usage:"keep nothing: use a temporary data directory and remove it at the end"`
	Environment       string        `key:"environment" default:"dev" usage:"name of the environment; part of Kafka's transactional ids"`
	Production        bool          `key:"production" default:"false" usage:"refuse topics that could lose data: replication below 3, min.insync.replicas below 2, unclean election"`
	CommandTimeout    time.Duration `key:"command.timeout" default:"5s" usage:"how long a command may take"`
	QueryWaitMax      time.Duration `key:"query.wait.max" default:"2s" usage:"how long a query waits for Millrace-At-Least"`
	ViewSwitch        string        `key:"view.switch" default:"auto" usage:"auto: a new version of a view answers queries as soon as it has caught up; manual: when millrace view switch says so"`
	ViewAuditInterval time.Duration `key:"view.audit.interval" default:"1h" usage:"pause between two audits, which fold a hundredth of the rows of each view anew from the log and compare them; 0 = none"`
	ViewAuditRate     int           `key:"view.audit.rate" default:"5000" usage:"events per second that an audit reads"`
	ViewScrubRate     int           `key:"view.scrub.rate" default:"4194304" usage:"bytes per second at which views are read again while they are served, each once an hour, to find damage; 0 = never"`
	ViewSnapshotFrom  []string      `key:"view.snapshot.from" usage:"admin addresses of other instances, comma separated: a view of which nothing is stored begins with the snapshot of one of them"`
	ViewRanges        int           `key:"view.ranges" default:"0" usage:"divide views whose rows are of one stream each into so many ranges of partitions, of which each instance has some; 0 or 1 = each has all"`
	ViewCopies        int           `key:"view.copies" default:"2" usage:"how many instances have each range"`
	LogLevel          string        `key:"log.level" default:"warn" usage:"debug, info, warn or error"`
	LogFormat         string        `key:"log.format" default:"text" usage:"text or json"`
	ReadyFile         string        `key:"ready.file" usage:"file to write the addresses to, as JSON, once ready"`
}

// settings yields each field of the configuration with its key, flag and variable name.
func (c *Config) settings(yield func(s setting) bool) {
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		f := v.Type().Field(i)
		key := f.Tag.Get("key")
		s := setting{
			key: key, flag: strings.ReplaceAll(key, ".", "-"), env: "MILLRACE_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_")),
			usage: f.Tag.Get("usage"), preset: f.Tag.Get("default"), value: v.Field(i),
		}
		if f.Tag.Get("flag") == "-" {
			s.flag = ""
		}
		if !yield(s) {
			return
		}
	}
}

type setting struct {
	key, flag, env, usage, preset string
	value                         reflect.Value
}

func (s setting) set(text string) error {
	switch p := s.value.Addr().Interface().(type) {
	case *string:
		*p = text
	case *[]string:
		*p = nil
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				*p = append(*p, part)
			}
		}
		if len(*p) == 0 {
			return errors.New("it is empty")
		}
	case *bool:
		v, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is not true or false", text)
		}
		*p = v
	case *int:
		v, err := strconv.Atoi(text)
		if err != nil || v < 0 {
			return fmt.Errorf("%q is not a number from 0 on", text)
		}
		*p = v
	case *time.Duration:
		v, err := time.ParseDuration(text)
		if err != nil || v < 0 {
			return fmt.Errorf("%q is not a duration like 5s or 100ms", text)
		}
		*p = v
	default:
		panic("service: no way to set a " + s.value.Type().String())
	}
	return nil
}

// addFlags adds a flag for each setting.
func addFlags(f *pflag.FlagSet) {
	for s := range new(Config).settings {
		if s.flag == "" {
			continue
		}
		usage := s.usage + " (" + s.env + ")"
		f.String(s.flag, s.preset, usage)
		if s.value.Kind() == reflect.Bool {
			f.Lookup(s.flag).NoOptDefVal = "true"
		}
	}
	f.String("config", "", "YAML file with settings; default: ./millrace.yaml if there is one (MILLRACE_CONFIG)")
}

// operators are the variables of those who operate services, of millrace view and millrace dlq: they may stand beside the settings.
var operators = []string{"MILLRACE_ADMIN_URL", "MILLRACE_URL", "MILLRACE_TOKEN", "MILLRACE_TOKEN_FILE"}

// LoadConfig returns the configuration from defaults, the YAML file, the environment ("NAME=value" pairs) and the flags that were
// given, later ones first in precedence. Anything unknown or unusable is ErrConfig, which names where it was found.
func LoadConfig(flags *pflag.FlagSet, environ []string) (Config, error) {
	var c Config
	known := map[string]setting{}
	byEnv := map[string]setting{}
	for s := range c.settings {
		known[s.key], byEnv[s.env] = s, s
		if s.preset != "" {
			if err := s.set(s.preset); err != nil {
				panic("service: default of " + s.key + ": " + err.Error())
			}
		}
	}
	env := map[string]string{}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, "MILLRACE_") && !strings.HasPrefix(name, "MILLRACE_TEST_") && !slices.Contains(operators, name) {
			env[name] = value
		}
	}
	if err := loadFile(flags, env["MILLRACE_CONFIG"], known); err != nil {
		return c, err
	}
	delete(env, "MILLRACE_CONFIG")
	for _, name := range sortedKeys(env) {
		value := env[name]
		s, ok := byEnv[name]
		if base, isFile := strings.CutSuffix(name, "_FILE"); !ok && isFile {
			if s, ok = byEnv[base]; ok {
				if _, both := env[base]; both {
					return c, ErrConfig.Because("environment has %s and %s", base, name).WithFix("set one of them")
				}
				text, err := os.ReadFile(value)
				if err != nil {
					return c, ErrConfig.Because("environment %s", name).Wrap(err)
				}
				value = strings.TrimRight(string(text), "\r\n")
			}
		}
		if !ok {
			return c, ErrConfig.Because("environment variable %s is not a setting", name).WithFix("did you mean %s? Otherwise unset it", nearest(name, sortedKeys(byEnv)))
		}
		if err := s.set(value); err != nil {
			return c, ErrConfig.Because("environment %s: %v", name, err)
		}
	}
	var err error
	if flags != nil {
		for s := range c.settings {
			if f := flags.Lookup(s.flag); f != nil && f.Changed && err == nil {
				if e := s.set(f.Value.String()); e != nil {
					err = ErrConfig.Because("flag --%s: %v", s.flag, e)
				}
			}
		}
	}
	if err != nil {
		return c, err
	}
	return c, c.check()
}

func loadFile(flags *pflag.FlagSet, path string, known map[string]setting) error {
	if flags != nil {
		if f := flags.Lookup("config"); f != nil && f.Changed {
			path = f.Value.String()
		}
	}
	optional := path == ""
	if optional {
		path = "millrace.yaml"
	}
	text, err := os.ReadFile(path)
	if optional && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return ErrConfig.Because("file %s", path).Wrap(err)
	}
	var tree map[string]any
	documents := yaml.NewDecoder(bytes.NewReader(text))
	if err := documents.Decode(&tree); err != nil && !errors.Is(err, io.EOF) {
		return ErrConfig.Because("file %s", path).Wrap(err)
	}
	if err := documents.Decode(new(any)); !errors.Is(err, io.EOF) {
		return ErrConfig.Because("file %s has a second document", path).WithFix("put all settings into one")
	}
	flat := map[string]string{}
	if err := flatten(tree, "", flat); err != nil {
		return ErrConfig.Because("file %s: %v", path, err)
	}
	for _, key := range sortedKeys(flat) {
		s, ok := known[key]
		if !ok {
			return ErrConfig.Because("file %s: %s is not a setting", path, key).WithFix("did you mean %s? Otherwise remove it", nearest(key, sortedKeys(known)))
		}
		if err := s.set(flat[key]); err != nil {
			return ErrConfig.Because("file %s: %s: %v", path, key, err)
		}
	}
	return nil
}

func flatten(tree map[string]any, prefix string, into map[string]string) error {
	for key, v := range tree {
		key = prefix + key
		if _, twice := into[key]; twice {
			return fmt.Errorf("%s is there twice", key)
		}
		switch v := v.(type) {
		case map[string]any:
			if err := flatten(v, key+".", into); err != nil {
				return err
			}
		case []any:
			parts := make([]string, len(v))
			for i, p := range v {
				parts[i] = fmt.Sprint(p)
			}
			into[key] = strings.Join(parts, ",")
		case nil:
			return fmt.Errorf("%s has no value", key)
		default:
			into[key] = fmt.Sprint(v)
		}
	}
	return nil
}

func (c *Config) check() error {
	for _, a := range []struct{ key, addr string }{
		{"http.addr", c.HTTPAddr}, {"kafka.addr", c.KafkaAddr}, {"registry.addr", c.RegistryAddr}, {"admin.addr", c.AdminAddr},
	} {
		if _, port, err := net.SplitHostPort(a.addr); err != nil || port == "" {
			return ErrConfig.Because("%s: %q is not host:port", a.key, a.addr).WithFix("e.g. 127.0.0.1:8088, or port 0 for any free one")
		}
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.LogLevel) {
		return ErrConfig.Because("log.level: %q is not debug, info, warn or error", c.LogLevel)
	}
	if c.ViewSwitch != "auto" && c.ViewSwitch != "manual" {
		return ErrConfig.Because("view.switch: %q is not auto or manual", c.ViewSwitch)
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		return ErrConfig.Because("log.format: %q is not text or json", c.LogFormat)
	}
	if c.KafkaReplication > 1000 {
		return ErrConfig.Because("kafka.replication: %d is more than any cluster has brokers", c.KafkaReplication)
	}
	for _, d := range []struct {
		key  string
		time time.Duration
	}{{"command.timeout", c.CommandTimeout}, {"query.wait.max", c.QueryWaitMax}, {"handover.timeout", c.HandOverTimeout}} {
		if d.time == 0 {
			return ErrConfig.Because("%s: 0 is no time to wait", d.key)
		}
	}
	if c.CommandTimeout > 50*time.Second || c.QueryWaitMax > 50*time.Second {
		return ErrConfig.Because("command.timeout and query.wait.max must not exceed 50s, for an answer must be given within a minute")
	}
	if c.ViewRanges > 1000 || c.ViewCopies < 1 {
		return ErrConfig.Because("view.ranges is %d and view.copies %d; there are up to 1000 ranges, with 1 copy at least", c.ViewRanges, c.ViewCopies)
	}
	for _, at := range c.ViewSnapshotFrom {
		if u, err := url.Parse(at); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return ErrConfig.Because("view.snapshot.from: %q is not a URL like http://10.0.0.1:9090", at)
		}
	}
	if c.DataDir == "" {
		return ErrConfig.Because("data.dir is empty")
	}
	dir, err := filepath.Abs(c.DataDir)
	if err != nil {
		return ErrConfig.Because("data.dir").Wrap(err)
	}
	c.DataDir = dir
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// nearest returns the candidate with the smallest edit distance to s.
func nearest(s string, candidates []string) string {
	best, least := "", 1<<30
	for _, c := range candidates {
		if d := distance(s, c); d < least {
			best, least = c, d
		}
	}
	return best
}

func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
