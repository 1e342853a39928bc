package postfix

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
)

// patternTables match by pattern or ask a server that does: Postfix gives them the
// whole address and nothing shorter.
var patternTables = []string{"regexp", "pcre", "cidr", "tcp", "socketmap", "randmap"}

func isPattern(table string) bool {
	table = bare(table)
	kind, rest, _ := strings.Cut(table, ":")
	if slices.Contains(patternTables, kind) {
		return true
	}
	if kind == "pipemap" || kind == "unionmap" {
		for _, m := range splitList(strings.Trim(rest, "{}")) {
			if isPattern(m) {
				return true
			}
		}
	}
	return false
}

// bare takes proxy: off a table: the table is read here, without the proxymap
// service, which may not be running or not for us.
func bare(table string) string {
	for _, proxy := range []string{"proxy:", "proxywrite:"} {
		if t, ok := strings.CutPrefix(table, proxy); ok {
			return bare(t)
		}
	}
	return table
}

// Lookup asks one table (type:name) for one key, as postmap -q. An error means that
// the table could not be read; found is false only where it could, and has no such key.
func (p *Instance) Lookup(ctx context.Context, table, key string) (value string, found bool, err error) {
	m, err := p.lookup(ctx, table, []string{key})
	if err != nil {
		return "", false, err
	}
	value, found = m[key]
	return value, found, nil
}

// lookup asks one table for several keys in one call of postmap. Keys go by
// standard input: none is taken for an option, and none shows in a process list.
func (p *Instance) lookup(ctx context.Context, table string, keys []string) (map[string]string, error) {
	table = bare(table)
	for _, k := range keys {
		if k == "" || len(k) > 2048 || strings.ContainsFunc(k, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, fmt.Errorf("look up in %s: the key is empty, too long or has a control character", table)
		}
	}
	in := strings.Join(keys, "\n") + "\n"
	return remember(p, "postmap\x00"+table+"\x00"+in, func() (map[string]string, error) {
		out, errs, code, err := p.run(ctx, in, "postmap", p.Postmap, "-q", "-", table)
		if err != nil {
			return nil, fmt.Errorf("look up in %s: %w", table, err)
		}
		// Both "not found" and every failure end with 1; a failure says so.
		if code > 1 || code == 1 && (strings.Contains(errs, "fatal:") || strings.Contains(errs, "panic:")) {
			return nil, fmt.Errorf("look up in %s: %s", table, complaint(errs))
		}
		m := make(map[string]string)
		for line := range strings.Lines(out) {
			k, v, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			if ok && slices.Contains(keys, k) {
				m[k] = v
			}
		}
		if code == 0 && len(m) == 0 {
			return nil, fmt.Errorf("look up in %s: postmap found something and printed nothing", table)
		}
		return m, nil
	})
}

// listTable returns the entries of a table that can be listed: by postmap -s, or a
// texthash, inline or static one.
func (p *Instance) listTable(ctx context.Context, table string) ([][2]string, error) {
	table = bare(table)
	kind, name, _ := strings.Cut(table, ":")
	var entriesOf [][2]string
	switch kind {
	case "texthash":
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		_, es := entries(string(b))
		for _, e := range es {
			k, v, _ := strings.Cut(strings.ReplaceAll(e.text, "\t", " "), " ")
			entriesOf = append(entriesOf, [2]string{k, strings.TrimSpace(v)})
		}
		return entriesOf, nil
	case "static":
		return [][2]string{{"*", strings.Trim(name, "{}")}}, nil
	case "inline":
		for _, w := range splitList(strings.Trim(name, "{}")) {
			w = strings.TrimSuffix(strings.TrimPrefix(w, "{"), "}")
			k, v, _ := strings.Cut(w, "=")
			entriesOf = append(entriesOf, [2]string{strings.TrimSpace(k), strings.TrimSpace(v)})
		}
		return entriesOf, nil
	case "hash", "btree", "lmdb", "cdb", "sdbm", "dbm":
		out, errs, code, err := p.run(ctx, "", "postmap", p.Postmap, "-s", table)
		if err == nil && code != 0 {
			err = fmt.Errorf("postmap: %s", complaint(errs))
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(out) {
			k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			entriesOf = append(entriesOf, [2]string{k, v})
		}
		return entriesOf, nil
	}
	return nil, fmt.Errorf("a table of type %s has no list", kind)
}
