package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/rest"
	"github.com/millrace/millrace/platform/service"
)

var (
	// errAnswer is returned when a process cannot be reached, or answers what is not to be understood.
	errAnswer = fault.New(fault.Unavailable, "no_answer", "the process does not answer")
	// errInstances is returned when something was done at some instances and not at others.
	errInstances = fault.New(fault.Unavailable, "instances_failed", "it was not done everywhere")
)

// An unmet is returned when everything worked and what was asked for does not hold; the exit status is 3.
type unmet struct{ cause *fault.Error }

func (u unmet) Error() string { return u.cause.Error() }
func (u unmet) Unwrap() error { return u.cause }

// ExitStatus is that of the command.
func (u unmet) ExitStatus() int { return 3 }

// An instance is a process that is asked over HTTP.
type instance struct {
	base   *url.URL
	header http.Header
	client *http.Client
	flag   string // that names it
}

// name tells it from others.
func (i *instance) name() string { return i.base.Host }

// instances returns the processes that a flag, or else a variable, names.
func instances(c *cobra.Command, flag, variable string) ([]*instance, error) {
	f := c.Flags().Lookup(flag)
	text := f.Value.String()
	if env := os.Getenv(variable); env != "" && !f.Changed {
		text = env
	}
	var all []*instance
	for at := range strings.SplitSeq(text, ",") {
		u, err := url.Parse(strings.TrimSpace(at))
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, service.ErrUsage.Because("--%s %q is not a URL like %s", flag, at, f.DefValue)
		}
		all = append(all, &instance{base: u, header: http.Header{}, client: http.DefaultClient, flag: "--" + flag + " or " + variable})
	}
	return all, nil
}

// adminFlag adds how projectors are reached on their admin addresses.
func adminFlag(c *cobra.Command) {
	c.PersistentFlags().String("admin-url", "http://127.0.0.1:9090", "admin addresses of projector processes, comma separated (MILLRACE_ADMIN_URL)")
}

func admins(c *cobra.Command) ([]*instance, error) {
	return instances(c, "admin-url", "MILLRACE_ADMIN_URL")
}

// public returns the process that answers queries, with who asks it.
func public(c *cobra.Command) (*instance, error) {
	all, err := instances(c, "url", "MILLRACE_URL")
	if err != nil {
		return nil, err
	}
	if len(all) > 1 {
		return nil, service.ErrUsage.Because("--url: a query goes to one address")
	}
	token := os.Getenv("MILLRACE_TOKEN")
	if file := os.Getenv("MILLRACE_TOKEN_FILE"); file != "" && token == "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, service.ErrConfig.Because("environment MILLRACE_TOKEN_FILE").Wrap(err)
		}
		token = strings.TrimSpace(string(text))
	}
	if token != "" {
		all[0].header.Set("Authorization", "Bearer "+token)
	}
	return all[0], nil
}

// send sends a request and returns the answer, whose body the caller closes, or the error that it is.
func (i *instance) send(ctx context.Context, method, path string, query url.Values, body any, header http.Header) (*http.Response, error) {
	var in io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		in = bytes.NewReader(text)
	}
	at := strings.TrimSuffix(i.base.String(), "/") + path // as it is: a key may be ".."
	if len(query) > 0 {
		at += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, at, in)
	if err != nil {
		return nil, err
	}
	for _, h := range []http.Header{i.header, header} {
		for name, values := range h {
			req.Header[name] = values
		}
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := i.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, errAnswer.Because("%s", i.base).Wrap(errors.Unwrap(err)).WithFix("see that it runs, and name its address with %s", i.flag)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		defer resp.Body.Close()
		return nil, i.problem(resp)
	}
	return resp, nil
}

// mostAnswer bounds what is read of an answer that is held in memory.
const mostAnswer = 64 << 20

// problem returns the error that an answer is.
func (i *instance) problem(resp *http.Response) error {
	var p rest.Problem
	text, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
	if err != nil || json.Unmarshal(text, &p) != nil || p.Code == "" {
		return errAnswer.Because("%s answers %s", resp.Request.URL, resp.Status).WithFix("see that a projector listens there, and name its address with %s", i.flag)
	}
	if p.Code == rest.ErrRouteNotFound.Code && strings.HasPrefix(i.flag, "--admin-url") {
		// What is asked there is at every projector's admin address.
		p.Detail = fmt.Sprintf("%s answers that for %s", i.base, resp.Request.URL.Path)
		p.Fix = fmt.Sprintf("see that this is the admin address of a projector, not where queries are answered, and name it with %s", i.flag)
	}
	return faultOf(&p)
}

// faultOf returns the error that a problem document stands for.
func faultOf(p *rest.Problem) error {
	kind := fault.Rejected
	switch {
	case p.Retryable:
		kind = fault.Unavailable
	case p.Status == http.StatusNotFound:
		kind = fault.NotFound
	}
	e := fault.New(kind, p.Code, p.Title)
	e.Detail, e.Fix, e.Fields = p.Detail, p.Fix, p.Errors
	return e
}

// call sends a request and decodes its answer into out, unless that is nil.
func (i *instance) call(ctx context.Context, method, path string, query url.Values, body, out any) error {
	resp, err := i.send(ctx, method, path, query, body, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
	if err == nil {
		// What takes long begins with 200 and may end with a problem.
		var p rest.Problem
		if json.Unmarshal(text, &p) == nil && p.Code != "" && p.Status >= http.StatusBadRequest {
			return faultOf(&p)
		}
		err = json.Unmarshal(text, out)
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return errAnswer.Because("%s: %s", i.base, path).Wrap(err)
	}
	return nil
}

// everywhere calls do for each of several places or instances, goes on after one that failed, and says which did.
func everywhere[P interface{ name() string }](c *cobra.Command, all []P, do func(P) error) error {
	if len(all) == 1 {
		return do(all[0])
	}
	f := failures{c: c}
	for _, p := range all {
		if err := do(p); err != nil {
			if c.Context().Err() != nil {
				return err
			}
			f.add(p.name(), err)
		}
	}
	return f.err()
}

// failures are what went wrong where, while it did not elsewhere.
type failures struct {
	c     *cobra.Command
	where []string
	other bool // something else than that a condition does not hold
}

// add says what went wrong.
func (f *failures) add(where string, err error) {
	fmt.Fprintf(f.c.ErrOrStderr(), "%s: %s\n", where, fault.Line(err))
	f.where = append(f.where, where)
	var condition unmet
	f.other = f.other || !errors.As(err, &condition)
}

// err returns errInstances if anything went wrong.
func (f *failures) err() error {
	switch {
	case f.where == nil:
		return nil
	case !f.other:
		return unmet{errInstances.Because("%s", strings.Join(f.where, ", "))}
	}
	return errInstances.Because("%s", strings.Join(f.where, ", "))
}
