package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing/fstest"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/contract/gate"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/registry"
	"github.com/millrace/millrace/platform/service"
)

// errAgainst is returned for something to compare with that is not there.
var errAgainst = fault.New(fault.Invalid, "against", "what to compare with cannot be read")

// compare returns what the folders below dir break of what is elsewhere.
func compare(c *cobra.Command, folders []gate.Folder, dir, against, level string, seed uint64) ([]gate.Finding, error) {
	var all []gate.Finding
	for _, d := range folders {
		old, err := oldOf(c, d, dir, against)
		if err != nil {
			return nil, err
		}
		found, err := gate.Breaking(d, old, level, seed)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// oldOf reads what a folder below dir was.
func oldOf(c *cobra.Command, d gate.Folder, dir, against string) (gate.Old, error) {
	if at, ok := strings.CutPrefix(against, "registry+"); ok {
		return oldInRegistry(c, d, at)
	}
	var folders []gate.Folder
	var err error
	if kind, ok := strings.CutPrefix(against, "git#"); ok {
		folders, err = foldersInGit(c.Context(), dir, kind)
	} else {
		folders, err = gate.Read(os.DirFS(against), shown(against))
	}
	if err != nil {
		return gate.Old{}, err
	}
	for _, was := range folders {
		if was.Path == d.Path {
			where := shown(against)
			if _, name, ok := strings.Cut(against, "="); ok {
				where = name
			}
			return gate.OldOf(was, where)
		}
	}
	return gate.Old{Where: against}, nil // the folder is new
}

// foldersInGit reads the folder as it is at a revision of its repository.
func foldersInGit(ctx context.Context, dir, kind string) ([]gate.Folder, error) {
	key, name, ok := strings.Cut(kind, "=")
	ref, known := map[string]string{"branch": name, "tag": "refs/tags/" + name, "ref": name}[key]
	if !ok || !known || name == "" || strings.HasPrefix(name, "-") {
		return nil, service.ErrUsage.Because("--against git#%s is not git#branch=NAME, git#tag=NAME or git#ref=REVISION", kind)
	}
	// The tree of this very folder: paths in it are those below dir.
	prefix, err := git(ctx, dir, "rev-parse", "--show-prefix")
	if err != nil {
		return nil, err
	}
	tree := ref + ":" + strings.TrimSpace(string(prefix))
	if _, err := git(ctx, dir, "rev-parse", "--verify", "--quiet", ref+"^{commit}"); err != nil {
		return nil, errAgainst.Because("git has no %s %s", key, name).WithFix("fetch it: git fetch origin %s", name)
	}
	if _, err := git(ctx, dir, "rev-parse", "--verify", "--quiet", tree); err != nil {
		return nil, nil // the folder is new
	}
	top, err := git(ctx, dir, "rev-parse", "--show-toplevel") // below it, archive would look for this folder inside the tree
	if err != nil {
		return nil, err
	}
	archive, err := git(ctx, strings.TrimRight(string(top), "\n"), "archive", "--format=tar", tree)
	if err != nil {
		return nil, err
	}
	files := fstest.MapFS{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, errAgainst.Wrap(err)
		}
		if h.Typeflag != tar.TypeReg || path.Ext(h.Name) == ".go" {
			continue
		}
		text, err := io.ReadAll(r)
		if err != nil {
			return nil, errAgainst.Wrap(err)
		}
		files[path.Clean(h.Name)] = &fstest.MapFile{Data: text}
	}
	folders, err := gate.Read(files, name+":"+shown(dir))
	if errors.Is(err, gate.ErrInput) {
		return nil, nil // there were no schemas
	}
	return folders, err
}

func git(ctx context.Context, dir string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, "git", append([]string{"-C", filepath.Clean(dir)}, args...)...)
	var out, problem bytes.Buffer
	c.Stdout, c.Stderr = &out, &problem
	if err := c.Run(); err != nil {
		return nil, errAgainst.Because("git %s: %s", args[0], strings.TrimSpace(problem.String())).Wrap(err)
	}
	return out.Bytes(), nil
}

// againstData reads about n stored records of each folder's topic with the new schemas, and returns how many it read.
func againstData(c *cobra.Command, folders []gate.Folder, n int) ([]gate.Finding, int, error) {
	ctx := c.Context()
	client, err := dial(c, "")
	if err != nil {
		return nil, 0, err
	}
	settings, err := service.LoadConfig(c.Flags(), os.Environ())
	if err != nil {
		return nil, 0, err
	}
	log, err := eventlog.Open(ctx, eventlog.Config{Brokers: settings.KafkaBrokers, ClientID: "millrace-contract"})
	if err != nil {
		return nil, 0, err
	}
	defer log.Close()
	var all []gate.Finding
	read := 0
	for _, d := range folders {
		s := &sampler{folder: d, writers: map[int32]*contract.Schema{}, client: client, impact: gate.NewImpact(d)}
		if err := s.run(ctx, log, n); err != nil {
			return nil, read, err
		}
		all = append(all, s.impact.Findings()...)
		read += s.read
	}
	return all, read, nil
}

// A sampler reads records of one topic.
type sampler struct {
	folder  gate.Folder
	client  *registry.Client
	writers map[int32]*contract.Schema
	impact  *gate.Impact
	read    int
}

func (s *sampler) run(ctx context.Context, log *eventlog.Client, n int) error {
	topic, err := log.FindTopic(ctx, s.folder.Settings.Topic)
	if err != nil {
		return err
	}
	ends, err := log.Ends(ctx, topic)
	if err != nil {
		return err
	}
	total := int64(0)
	var from []eventlog.Cursor
	left := map[int32]int64{}
	for p, end := range ends {
		if total += end; end > 0 {
			from = append(from, topic.Start(int32(p))) //nolint:gosec // few
			left[int32(p)] = end                       //nolint:gosec // few
		}
	}
	if total == 0 {
		return nil
	}
	every := max(total/int64(n), 1)
	source, err := log.NewSource(ctx, from...)
	if err != nil {
		return err
	}
	defer source.Close()
	for seen := int64(0); len(left) > 0; {
		fetched, err := source.Poll(ctx)
		if err != nil {
			return err
		}
		for _, f := range fetched {
			for i := range f.Records {
				if seen++; f.Records[i].Mark != 0 || seen%every != 0 {
					continue
				}
				if err := s.try(ctx, &f.Records[i]); err != nil {
					return err
				}
			}
			if p := f.Cursor.TopicPartition.Partition; f.Cursor.Next >= left[p] {
				delete(left, p)
			}
		}
	}
	return nil
}

func (s *sampler) try(ctx context.Context, r *eventlog.Record) error {
	if len(r.Value) < 5 || r.Value[0] != 0 {
		return errAgainst.Because("%s has no framed value", r.Position)
	}
	id := int32(binary.BigEndian.Uint32(r.Value[1:5]))
	writer := s.writers[id]
	if writer == nil {
		text, err := s.client.SchemaByID(ctx, id)
		if err != nil {
			return fmt.Errorf("%s: %w", r.Position, err)
		}
		if writer, err = contract.Parse(text); err != nil {
			return fmt.Errorf("%s: schema id %d: %w", r.Position, id, err)
		}
		s.writers[id] = writer
	}
	s.read++
	s.impact.Data(r.Position.String(), id, writer, r.Value[5:])
	return nil
}

// againstReaders asks running processes which schemas they read with, and tries whether those can read what the new ones write.
func againstReaders(ctx context.Context, folders []gate.Folder, addresses []string) ([]gate.Finding, int, error) {
	var all []gate.Finding
	tried := 0
	for _, address := range addresses {
		u, err := url.Parse(strings.TrimSpace(address))
		if err != nil || u.Scheme == "" || u.Host == "" {
			return nil, tried, service.ErrUsage.Because("--against-readers %q is not a URL like http://127.0.0.1:9090", address)
		}
		answer, err := askReader(ctx, u.JoinPath("v1/contracts").String())
		if err != nil {
			return nil, tried, err
		}
		for _, d := range folders {
			impact := gate.NewImpact(d)
			for _, role := range answer.Roles {
				for _, k := range role.Contracts {
					if !strings.HasPrefix(k.Subject, d.Settings.Topic+"-") {
						continue
					}
					reader, err := contract.Parse(k.Schema)
					if err != nil {
						return nil, tried, errAgainst.Because("%s: %s", address, k.Subject).Wrap(err)
					}
					if impact.Reader(role.Role+" at "+u.Host, reader) {
						tried++
					}
				}
			}
			all = append(all, impact.Findings()...)
		}
	}
	return all, tried, nil
}

func askReader(ctx context.Context, at string) (answer service.ContractsAnswer, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return answer, errAgainst.Wrap(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer, errAgainst.Because("%s does not answer", at).Wrap(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return answer, errAgainst.Because("%s answers %s", at, resp.Status).WithFix("name the address for metrics of a running process")
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<20)).Decode(&answer); err != nil {
		return answer, errAgainst.Because("%s", at).Wrap(err)
	}
	return answer, nil
}
