package eventlog

import "math"

// closedEpoch is the epoch of a closing batch: no producer is ever given it, so nobody can follow it.
const closedEpoch = math.MaxInt16

// admit applies the reader rule to a record: it counts if it is of the latest claim in the log, and a claim or a renewal by the
// same owner makes itself the latest. The broker's fence makes anything else impossible as long as only owners write; admit is the
// second line of defence against everybody else. It moves the cursor's producer id and epoch, never its offset.
func (c *Cursor) admit(mark MarkKind, pid int64, epoch int16) bool {
	switch mark {
	case MarkClaim:
		if pid < 0 || epoch < 0 || pid == c.ProducerID && epoch <= c.Epoch {
			return false
		}
		c.ProducerID, c.Epoch = pid, epoch
		return true
	case MarkBarrier:
		if pid < 0 || pid != c.ProducerID || epoch < c.Epoch {
			return false
		}
		c.Epoch = epoch
		return true
	case MarkClose:
		return pid >= 0 && epoch == closedEpoch
	default:
		return pid >= 0 && pid == c.ProducerID && epoch == c.Epoch
	}
}

// admitCompacted is admit for a compacted topic, where claims may have been compacted away together with what they superseded: a
// record of an unknown owner stands for its lost claim. Only what is of an older epoch of the same producer id is nobody's any more.
func (c *Cursor) admitCompacted(mark MarkKind, pid int64, epoch int16) bool {
	switch {
	case mark == MarkClose:
		return pid >= 0 && epoch == closedEpoch
	case pid >= 0 && pid == c.ProducerID && epoch < c.Epoch:
		return false
	case pid >= 0 && epoch >= 0:
		c.ProducerID, c.Epoch = pid, epoch
	}
	return true
}
