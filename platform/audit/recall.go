package audit

// A recall knows the latest commands, up to a limit.
type recall struct {
	limit int
	known map[uint64]struct{}
	order []uint64 // a ring once it is full
	at    int      // the oldest of a full ring
}

// add takes in a command; it returns false if that is known.
func (c *recall) add(digest uint64) bool {
	if _, ok := c.known[digest]; ok {
		return false
	}
	if len(c.order) < c.limit {
		c.order = append(c.order, digest)
	} else {
		delete(c.known, c.order[c.at])
		c.order[c.at] = digest
		c.at = (c.at + 1) % len(c.order)
	}
	c.known[digest] = struct{}{}
	return true
}

// list returns what is known, the oldest first.
func (c *recall) list() (older, newer []uint64) { return c.order[c.at:], c.order[:c.at] }

// bound sets the limit; what is known beyond it is forgotten, the oldest first.
func (c *recall) bound(limit int) {
	if c.limit == limit {
		return
	}
	older, newer := c.list()
	order := append(append(make([]uint64, 0, min(limit, len(c.order))), older...), newer...)
	for len(order) > limit {
		delete(c.known, order[0])
		order = order[1:]
	}
	c.limit, c.order, c.at = limit, order, 0
}
