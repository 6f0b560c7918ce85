// Package sim runs command engines, the clients of their commands and a Kafka cluster in one process and in fake time, and breaks
// what can be broken between them: connections, answers, brokers, leaders, coordinators, processes, stores. A seed is a schedule: the
// same cluster, commands and faults at the same fake times. What comes out, the log as it is, all that the clients were told and the
// stores as they were left, is for package check to judge.
//
// The cluster is kfake with the fence that Kafka really has: an epoch of the coordinator fences nothing until the partition's leader
// has seen it. What kfake does not have, sim cannot break: replicas, so no loss of a leader's unreplicated end, and no expiry of
// producers. Package chaos of the shop does that with real brokers.
package sim
