package eventlog

import (
	"context"
	"slices"
)

// Topics returns the names of all topics but Kafka's own, in order; ErrRead if they cannot be listed.
func (c *Client) Topics(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	topics, err := c.admin.ListTopics(ctx)
	if err != nil {
		return nil, ErrRead.Because("the topics cannot be listed").Wrap(err)
	}
	names := topics.Names()
	slices.Sort(names)
	return names, nil
}
