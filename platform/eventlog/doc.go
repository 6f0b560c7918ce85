// Package eventlog is the journal of Millrace on Kafka: the fenced append, with which exactly one owner at a time writes a
// partition, and the source, with which anybody reads partitions from positions kept elsewhere. It is the only package that
// knows Kafka. It refuses rather than guesses: an append whose fate is open is reported as open, a reader that meets a gap, a
// truncated or another log stops, and an owner that may have been deposed never writes again.
//
// Taking a partition: InitProducerId with the partition's transactional id bumps the producer epoch at the coordinator, and a
// claim record written with that epoch makes the partition's leader refuse every older epoch from then on. No transaction is
// ever begun, so an append costs one replicated write, and readers need no isolation level.
package eventlog
