package registry

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
)

// The broker compacts the topic, the claims of earlier owners included; nothing that was registered under them gets lost.
func TestCompactedTopic(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BrokerConfigs(map[string]string{"default.replication.factor": "1"}))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	addr := cluster.ListenAddrs()[0]
	var want []string
	for run := range 4 {
		one := start(t, addr, fmt.Sprintf("run %d", run))
		if diff := cmp.Diff(want, one.dump()); run > 0 && diff != "" {
			t.Fatalf("run %d: %s", run, diff)
		}
		for i := range 3 {
			register(t, one.url, fmt.Sprintf("s%d", i), recordSchema("R", "a", fmt.Sprintf("b%d=0", run)))
		}
		do(t, "DELETE", one.url+"/subjects/s2", "")
		do(t, "DELETE", one.url+"/subjects/s2?permanent=true", "")
		want = one.dump()
		one.stop()
		cluster.Compact()
	}
}
