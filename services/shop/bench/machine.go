package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// machine says on what was measured.
func machine(kafkaDir string) (string, error) {
	cpu, err := field("/proc/cpuinfo", "model name")
	if err != nil {
		return "", err
	}
	memory, err := kilobytes("/proc/meminfo", "MemTotal")
	if err != nil {
		return "", err
	}
	kafka := "none"
	if jars, _ := filepath.Glob(filepath.Join(kafkaDir, "libs", "kafka-clients-*.jar")); len(jars) > 0 {
		kafka = strings.TrimSuffix(strings.TrimPrefix(filepath.Base(jars[0]), "kafka-clients-"), ".jar")
	}
	return fmt.Sprintf("Measured on %s: %d cores (%s), %.0f GB of memory, %s, %s/%s, Apache Kafka %s.",
		time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), cpu, memory/(1<<20), runtime.Version(), runtime.GOOS, runtime.GOARCH, kafka), nil
}

// field returns the value of the first line "name : value" of a file of /proc.
func field(path, name string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("%s has no line %q", path, name)
}

// kilobytes returns the value of a line "name: 123 kB".
func kilobytes(path, name string) (float64, error) {
	value, err := field(path, name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSuffix(value, " kB"), 64)
}
