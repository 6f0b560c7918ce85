package eventlog

import (
	"errors"
	"net"

	"github.com/twmb/franz-go/pkg/kerr"
)

// An action is what follows from the answer to an append.
type action uint8

const (
	proceed action = iota // committed
	resend                // send the identical bytes again
	depose                // a newer epoch is in the log: stop for good
	reject                // the broker refuses this content; the sequence number is unused
	halt                  // the log is not as this owner left it, or not writable: stop for good
)

// judge maps the broker's answer to what follows, and says whether this attempt may have been written. Answers that are not
// listed are taken for open: the worst that they can mean.
func judge(code int16) (act action, open bool) {
	switch kerr.TypedErrorForCode(code) {
	case nil:
		return proceed, false
	case kerr.InvalidProducerEpoch, kerr.ProducerFenced:
		return depose, false
	case kerr.NotEnoughReplicas, kerr.CorruptMessage, kerr.UnknownTopicID, kerr.UnknownTopicOrPartition, kerr.ThrottlingQuotaExceeded:
		return resend, false
	case kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidTimestamp, kerr.InvalidRecord:
		return reject, false
	case kerr.OutOfOrderSequenceNumber, kerr.DuplicateSequenceNumber, kerr.UnknownProducerID, kerr.InvalidTxnState,
		kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed,
		kerr.PolicyViolation, kerr.UnsupportedForMessageFormat, kerr.InvalidRequiredAcks, kerr.InvalidTopicException, kerr.UnsupportedCompressionType:
		return halt, false
	case kerr.RequestTimedOut, kerr.NotLeaderForPartition, kerr.NotEnoughReplicasAfterAppend:
		return resend, true
	default:
		if code == kerr.UnknownServerError.Code || kerr.IsRetriable(kerr.ErrorForCode(code)) {
			return resend, true
		}
		return halt, true
	}
}

// unsent reports whether err proves that the request never left: then the attempt is certainly not in the log.
func unsent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// haltReason says why an owner stops that met code.
func haltReason(o *Owner, code int16) error {
	cause := kerr.ErrorForCode(code)
	switch kerr.TypedErrorForCode(code) {
	case kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed:
		return ErrTopic.Because("writing %s is not allowed", o.tp).
			WithFix("give the principal of Millrace WRITE on the topic and on the transactional id %s", o.txn).Wrap(cause)
	case kerr.OutOfOrderSequenceNumber, kerr.DuplicateSequenceNumber, kerr.UnknownProducerID, kerr.InvalidTxnState:
		return ErrForeign.Because("the broker does not know %s as this owner left it", o.tp).
			WithFix("let nobody but Millrace write the topic; check that producer.id.expiration.ms is a day or more").Wrap(cause)
	default:
		return ErrTopic.Because("%s does not take the owner's batches", o.tp).Wrap(cause)
	}
}
