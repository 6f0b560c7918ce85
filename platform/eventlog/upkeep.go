package eventlog

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// renewAtSequence is the sequence number from which the next renewal is due at once: a new epoch starts at 0 again, so that the
// wrap of the sequence, of which brokers have different ideas, is never met.
const renewAtSequence = math.MaxInt32 / 2

// upkeepInterval is how often an owner looks after itself: eight times in each of the quarters that it must keep.
func (c *Client) upkeepInterval() time.Duration {
	return min(max(min(c.cfg.ProducerIDExpiration, c.cfg.TransactionalIDExpiration)/32, time.Millisecond), time.Minute)
}

// keepUp does what an owner owes to the broker's memory: a barrier when it was idle for a quarter of the producer expiration, a
// renewal of the producer id after a quarter of the transactional id's, and its own end after half of the producer expiration.
func (o *Owner) keepUp() {
	interval := o.client.upkeepInterval()
	now := time.Now()
	o.mu.Lock()
	if o.err != nil {
		o.mu.Unlock()
		return
	}
	act := o.overdue(now)
	if act == nil {
		// One interval early: the next look would be too late.
		idle := now.Sub(o.alive) >= o.client.cfg.ProducerIDExpiration/4-interval
		if now.Sub(o.renewed) >= o.client.cfg.TransactionalIDExpiration/4-interval || o.sequence >= renewAtSequence {
			o.renewal = true
			act = o.advance()
		} else if idle && o.inflight == nil {
			act = o.barrier()
		}
		o.upkeep.Reset(interval)
	}
	o.mu.Unlock()
	if act != nil {
		act()
	}
}

// barrier sends a barrier record. Called with mu held and nothing under way.
func (o *Owner) barrier() func() {
	a, err := o.markAttempt(MarkBarrier)
	if err != nil {
		o.client.cfg.Logger.Error("a barrier cannot be written", "partition", o.tp.String(), "error", err)
		return o.advance()
	}
	a.done = func(int64, error) {}
	return o.dispatch(a)
}

// renew takes a new epoch for the same producer id, so that the coordinator does not forget the transactional id, and begins the epoch
// with a barrier. Nothing is under way meanwhile: a broker may fence the old epoch at once.
func (o *Owner) renew() {
	o.mu.Lock()
	pid, epoch := o.pid, o.epoch
	o.mu.Unlock()
	ctx, cancel := context.WithTimeout(o.client.ctx, o.client.cfg.RequestTimeout)
	newPID, newEpoch, err := o.client.initProducerID(ctx, o.txn, pid, epoch)
	cancel()

	o.mu.Lock()
	o.inflight, o.renewal = nil, false
	var act func()
	switch {
	case o.err != nil:
		act = o.dropWaiting()
	case errors.Is(err, kerr.ProducerFenced), errors.Is(err, kerr.InvalidProducerEpoch), errors.Is(err, kerr.InvalidProducerIDMapping):
		act = o.end(ErrDeposed.Because("%s was claimed by another owner", o.tp).Wrap(err))
	case err != nil:
		// The old epoch stays good until a barrier of the new one is written; there are three more quarters to try again in.
		o.client.cfg.Logger.Warn("a producer id was not renewed; it will be tried again", "partition", o.tp.String(), "error", err)
		o.renewed = o.renewed.Add(o.client.cfg.TransactionalIDExpiration / 32)
		act = o.advance()
	case newPID != pid || newEpoch != epoch+1:
		act = o.end(ErrDeposed.Because("the coordinator gave %s another producer id or epoch", o.tp))
	default:
		o.epoch, o.sequence, o.renewed = newEpoch, 0, time.Now()
		act = o.barrier()
	}
	o.mu.Unlock()
	if act != nil {
		act()
	}
}
