package registry

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/riferrei/srclient"

	"github.com/millrace/millrace/platform/contract"
)

// A Registered is one version of a subject; its text has what it refers to written into it.
type Registered struct {
	Version int
	ID      int32
	Text    string
}

// Versions returns the versions of a subject in their order, or contract.ErrUnregistered if there is no such subject.
func (c *Client) Versions(ctx context.Context, subject string) ([]Registered, error) {
	var all []Registered
	err := c.with(ctx, func(sr *srclient.SchemaRegistryClient) error {
		versions, err := sr.GetSchemaVersions(subject)
		if err != nil {
			return err
		}
		slices.Sort(versions)
		for _, v := range versions {
			s, err := sr.GetSchemaByVersion(subject, v)
			if err != nil {
				return err
			}
			id, err := positive(s.ID())
			if err != nil {
				return err
			}
			text, err := c.whole(sr, fmt.Sprintf("version %d of subject %s", v, subject), s)
			if err != nil {
				return err
			}
			all = append(all, Registered{Version: v, ID: id, Text: text})
		}
		return nil
	})
	switch {
	case err != nil && notThere(err):
		return nil, contract.ErrUnregistered.Because("%s", subject).Wrap(err)
	case err != nil:
		return nil, err
	}
	return all, nil
}

// Subjects returns the subjects that begin with a prefix, in their order. To a client of one context, with URLs that end with
// /contexts/{context}, they have the names that they have there.
func (c *Client) Subjects(ctx context.Context, prefix string) ([]string, error) {
	var all []string
	err := c.with(ctx, func(sr *srclient.SchemaRegistryClient) (err error) {
		all, err = sr.GetSubjects()
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, name := range all {
		if context, short := split(name); context != defaultContext && strings.HasSuffix(c.urls[0].Path, "/contexts/"+context) {
			all[i] = short
		}
	}
	all = slices.DeleteFunc(all, func(s string) bool { return !strings.HasPrefix(s, prefix) })
	slices.Sort(all)
	return all, nil
}
